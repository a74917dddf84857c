// The speed of the products of decoding on a card, at the shapes of Qwen3-8B: 36 layers of q k v, o, gate up
// and down, each with its own weights so that no cache helps, and lm_head, in one CUDA graph. The other
// kernels of a step (attention, rotary embedding) are not in it.
//
//   gpu_few_token_bench [q4_k_m | q8_0 | nf4 | bf16 | all, default all] [tokens..., default 1 2 5 8 16 32 64]
//                       [shapes]
//
// One line for each number of tokens and variant: milliseconds of a step, GB/s of weights, the share of the
// rate of a copy within the device's memory, and microseconds of each kind of layer. Variants: blocks for
// each multiprocessor, whether launches overlap (+) or not (-), and tiles in a ring (0: by the room); w: by
// products of warpgroups, with `shapes` of all numbers of warpgroups in a block x slices of K.
#include <algorithm>
#include <climits>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/random.h"
#include "device/cuda_stream.h"
#include "kernels/cuda/block_weight.h"
#include "kernels/cuda/few_token.h"
#include "kernels/cuda/placed_layout.h"
#include "tests/gpu/event_timer.h"

namespace onggi {
namespace {

constexpr int64_t kHidden = 4096, kQuery = 4096, kKey = 1024, kFfn = 12288, kVocabulary = 151936;
constexpr int kLayers = 36;
constexpr int64_t kMostTokens = 192, kMostTokensPlain = 64;  // of quantised and of plain weights

struct Recipe {
  std::string name;
  DType usual, better;  // better: half of v and down
  DType head;
  int64_t rank;
};
const std::vector<Recipe> kRecipes = {{"q4_k_m", DType::kQ4_K, DType::kQ6_K, DType::kQ6_K, 0},
                                      {"q8_0", DType::kQ8_0, DType::kQ8_0, DType::kQ8_0, 0},
                                      {"nf4", DType::kNF4, DType::kNF4, DType::kBF16, 16},
                                      {"bf16", DType::kBF16, DType::kBF16, DType::kBF16, 0}};

enum Kind { kQkv, kOut, kGateUp, kDown, kHead, kKinds };
const char* const kKindNames[kKinds] = {"q k v", "o", "gate up", "down", "lm_head"};

enum class Shapes { kBest, kAll };  // of few_token_wgmma.h

class Bench {
 public:
  Bench(const Recipe& recipe, Shapes shapes);
  void tokens(int64_t tokens);

 private:
  struct Layer {
    AdaptedLinearArgs args[kKinds - 1];
  };

  void* room(size_t bytes) {
    buffers_.push_back(stream_.allocate(bytes));
    return buffers_.back().data();
  }
  // Repeats the first `pattern` bytes over all.
  void repeat(void* data, size_t pattern, size_t bytes) {
    auto* at = static_cast<char*>(data);
    for (size_t done = pattern; done < bytes; done *= 2)
      stream_.copy(at + done, at, std::min(done, bytes - done));
  }
  void* noise(size_t bytes, const void* pattern, size_t pattern_bytes) {
    void* data = room(bytes);
    const size_t first = std::min(pattern_bytes, bytes);
    stream_.copy_in(data, pattern, first);
    repeat(data, first, bytes);
    return data;
  }
  Activation bf16(int64_t elements) {
    return {noise(static_cast<size_t>(elements) * 2, halves_.data(), halves_.size() * 2), DType::kBF16};
  }
  float* f32(int64_t elements) {
    return static_cast<float*>(noise(static_cast<size_t>(elements) * 4, floats_.data(), floats_.size() * 4));
  }
  WeightView weight(DType dtype, int64_t rows, int64_t columns);
  AdaptedLinearArgs::Member member(DType dtype, int64_t rows, int64_t columns, Activation out);

  void queue(int kind, int layer, int64_t tokens, const cuda::FewTokenTuning& tuning);
  double time_recorded(const std::function<void()>& work);
  double copy_rate();

  CudaStream stream_{0};
  ThreadPool threads_{1};
  Scratch scratch_{1};
  OpContext context_{threads_, scratch_, stream_};
  Recipe recipe_;
  Shapes shapes_;
  std::vector<float> floats_;
  std::vector<uint16_t> halves_;
  std::vector<Buffer> buffers_;
  std::vector<Layer> layers_;
  AdaptedLinearArgs head_;
  Activation gated_;
  double bytes_[kKinds] = {};  // of the weights of all layers
  double copy_rate_ = 0;       // bytes a second, read and written
};

WeightView Bench::weight(DType dtype, int64_t rows, int64_t columns) {
  WeightView view{.dtype = dtype, .rows = rows, .columns = columns};
  const auto elements = static_cast<size_t>(rows * columns);
  if (cuda::is_placed_in_tiles(dtype)) {
    // A few blocks of noise with scales of 2^-7, placed, and repeated.
    const int64_t few = 16 * 16;
    WeightView host{.dtype = dtype, .rows = few, .columns = 256};
    std::vector<uint8_t> raw(static_cast<size_t>(dtype_bytes(dtype, few * 256)));
    Random random(3);
    for (uint8_t& byte : raw) byte = static_cast<uint8_t>(random.next_u32());
    const auto block_bytes = static_cast<size_t>(dtype_info(dtype).block_bytes);
    const size_t d = dtype == DType::kQ6_K ? 208 : 0;
    for (size_t at = 0; at < raw.size(); at += block_bytes)
      for (size_t i = 0; i < (dtype == DType::kQ4_K ? 4 : 2); i += 2)
        raw[at + d + i] = 0, raw[at + d + i + 1] = 0x20;
    host.data = raw.data();
    std::vector<Buffer> placed;
    const WeightView small = cuda::place_block_weight(stream_, host, placed);
    const auto bytes = static_cast<size_t>(cuda::placed_bytes(dtype, rows, columns));
    void* data = room(bytes);
    stream_.copy(data, small.data, placed[0].bytes());
    repeat(data, placed[0].bytes(), bytes);
    stream_.synchronize();
    view.data = data;
    return view;
  }
  if (dtype != DType::kNF4) {
    view.data = bf16(rows * columns).data;
    return view;
  }
  const size_t blocks = elements / 64;
  view.data = noise(elements / 2, floats_.data(), floats_.size() * 4);
  view.nf4_absmax = static_cast<const uint8_t*>(noise(blocks, floats_.data(), floats_.size() * 4));
  view.nf4_nested_absmax = f32(static_cast<int64_t>(blocks / 256 + 1));
  view.nf4_offset = 0.05f;
  return view;
}

AdaptedLinearArgs::Member Bench::member(DType dtype, int64_t rows, int64_t columns, Activation out) {
  AdaptedLinearArgs::Member member;
  member.weight = weight(dtype, rows, columns);
  member.out = out;
  if (recipe_.rank > 0)
    member.lora = {f32(recipe_.rank * columns), f32(rows * recipe_.rank), recipe_.rank, 2.0f};
  return member;
}

double weight_bytes(const AdaptedLinearArgs& args) {
  double bytes = 0;
  for (int i = 0; i < args.count; ++i) {
    const WeightView& weight = args.members[static_cast<size_t>(i)].weight;
    const LoraView& lora = args.members[static_cast<size_t>(i)].lora;
    bytes += static_cast<double>(dtype_bytes(weight.dtype, weight.rows * weight.columns));
    if (weight.dtype == DType::kNF4) bytes += static_cast<double>(weight.rows * weight.columns) / 64;
    bytes += 4.0 * static_cast<double>(lora.rank * (weight.rows + weight.columns));
  }
  return bytes;
}

Bench::Bench(const Recipe& recipe, Shapes shapes) : recipe_(recipe), shapes_(shapes) {
  Random random(1);
  for (size_t i = 0; i < size_t{1} << 20; ++i) floats_.push_back(0.02f * random.normal());
  for (const float value : floats_) halves_.push_back(f32_to_bf16(value));
  // The residual stream is f32.
  const Activation hidden = f32(kMostTokens * kHidden), q = bf16(kMostTokens * kQuery),
                   k = bf16(kMostTokens * kKey), v = bf16(kMostTokens * kKey),
                   gate = bf16(kMostTokens * kFfn), up = bf16(kMostTokens * kFfn),
                   normed = bf16(kMostTokens * kHidden);
  gated_ = bf16(kMostTokens * kFfn);
  float* norm = f32(kHidden);
  for (int i = 0; i < kLayers; ++i) {
    const DType usual = recipe.usual, better = i % 2 == 0 ? recipe.better : recipe.usual;
    Layer layer;
    layer.args[kQkv].x = layer.args[kGateUp].x = hidden;
    layer.args[kQkv].norm = layer.args[kGateUp].norm = norm;
    layer.args[kQkv].normed = layer.args[kGateUp].normed = normed;
    layer.args[kQkv].count = 3;
    layer.args[kQkv].members = {member(usual, kQuery, kHidden, q), member(usual, kKey, kHidden, k),
                                member(better, kKey, kHidden, v)};
    layer.args[kOut].x = q;
    layer.args[kOut].residual = hidden;
    layer.args[kOut].members[0] = member(usual, kHidden, kQuery, hidden);
    layer.args[kGateUp].count = 2;
    layer.args[kGateUp].members[0] = member(usual, kFfn, kHidden, gate);
    layer.args[kGateUp].members[1] = member(usual, kFfn, kHidden, up);
    layer.args[kDown].x = gated_;
    layer.args[kDown].residual = hidden;
    layer.args[kDown].members[0] = member(better, kHidden, kFfn, hidden);
    for (int kind = 0; kind < kHead; ++kind) bytes_[kind] += weight_bytes(layer.args[kind]);
    layers_.push_back(layer);
  }
  head_.x = normed;
  head_.members[0].weight = weight(recipe.head, kVocabulary, kHidden);
  head_.members[0].out = f32(kMostTokens * kVocabulary);
  bytes_[kHead] = weight_bytes(head_);
  copy_rate_ = copy_rate();
  double all = 0;
  for (const double bytes : bytes_) all += bytes;
  std::printf("\n%s, %s: %.2f GB a step; copies move %.0f GB/s\n", stream_.device().name.c_str(),
              recipe.name.c_str(), all / 1e9, copy_rate_ / 1e9);
  std::printf("%6s %7s %9s %9s %7s", "tokens", "variant", "ms", "GB/s", "share");
  for (const char* name : kKindNames) std::printf(" %9s", name);
  std::printf("\n");
}

void Bench::queue(int kind, int layer, int64_t tokens, const cuda::FewTokenTuning& tuning) {
  AdaptedLinearArgs args = kind == kHead ? head_ : layers_[static_cast<size_t>(layer)].args[kind];
  args.tokens = is_quantized(args.members[0].weight.dtype) ? tokens : std::min(tokens, kMostTokensPlain);
  const bool taken = kind == kGateUp
                         ? cuda::few_token_gated_linear(context_, {.linears = args, .out = gated_}, tuning)
                         : cuda::few_token_linear(context_, args, tuning);
  ONGGI_CHECK(taken, kKindNames[kind]);
}

// Microseconds of one replay: the median of several.
double Bench::time_recorded(const std::function<void()>& work) {
  work();
  stream_.synchronize();
  ONGGI_CHECK(stream_.begin_recording());
  work();
  const auto recording = stream_.end_recording();
  return EventTimer(stream_).median(3, 15, [&] { stream_.replay(*recording); });
}

double Bench::copy_rate() {
  constexpr size_t kBytes = size_t{1} << 30;
  Buffer from = stream_.allocate(kBytes), to = stream_.allocate(kBytes);
  return 2.0 * kBytes / (1e-6 * time_recorded([&] { stream_.copy(to.data(), from.data(), kBytes); }));
}

void Bench::tokens(int64_t tokens) {
  std::vector<cuda::FewTokenTuning> variants = {{},
                                                {.overlap_launches = false},
                                                {.blocks_per_multiprocessor = 2},
                                                {.ring_tiles = 1},
                                                {.ring_tiles = 2},
                                                {.ring_tiles = 3},
                                                {.ring_tiles = 4},
                                                {.ring_tiles = 6},
                                                {.fewest_wgmma_tokens = tokens > 8 ? INT_MAX : 1}};
  if (shapes_ == Shapes::kAll)
    for (const int groups : {1, 2, 3, 4})
      for (const int slices : {1, 2, 3, 4, 6, 8}) variants.push_back({.groups = groups, .slices = slices});
  for (const cuda::FewTokenTuning& tuning : variants) {
    if (tokens > 8 && tuning.blocks_per_multiprocessor > 1) continue;  // of the kernel for few tokens
    double all_bytes = 0;
    for (const double bytes : bytes_) all_bytes += bytes;
    const double step = time_recorded([&] {
      for (int layer = 0; layer < kLayers; ++layer)
        for (int kind = 0; kind < kHead; ++kind) queue(kind, layer, tokens, tuning);
      queue(kHead, 0, tokens, tuning);
    });
    const double rate = all_bytes / (step * 1e-6);
    std::printf("%6lld %c %3d%c%d %9.3f %9.0f %6.1f%%", static_cast<long long>(tokens),
                tokens >= tuning.fewest_wgmma_tokens && stream_.compute_capability() == 90 ? 'w' : ' ',
                tuning.blocks_per_multiprocessor, tuning.overlap_launches ? '+' : '-', tuning.ring_tiles,
                step / 1000, rate / 1e9, 100 * rate / copy_rate_);
    for (int kind = 0; kind < kKinds; ++kind) {
      const int layers = kind == kHead ? 1 : kLayers;
      const double taken = time_recorded([&] {
        for (int layer = 0; layer < layers; ++layer) queue(kind, layer, tokens, tuning);
      });
      std::printf(" %9.2f", taken / layers);
    }
    if (tuning.groups > 0) std::printf("  %d x %d", tuning.groups, tuning.slices);
    std::printf("\n");
    std::fflush(stdout);
  }
}

int run(int argc, char** argv) {
  const std::string wanted = argc > 1 ? argv[1] : "all";
  std::vector<int64_t> numbers;
  Shapes shapes = Shapes::kBest;
  for (int i = 2; i < argc; ++i) {
    if (std::string(argv[i]) == "shapes") {
      shapes = Shapes::kAll;
    } else {
      numbers.push_back(std::atoll(argv[i]));
    }
  }
  if (numbers.empty()) numbers = {1, 2, 5, 8, 16, 32, 64};
  for (const Recipe& recipe : kRecipes) {
    if (wanted != "all" && wanted != recipe.name) continue;
    Bench bench(recipe, shapes);
    for (const int64_t number : numbers) bench.tokens(std::min(number, kMostTokens));
  }
  return 0;
}

}  // namespace
}  // namespace onggi

int main(int argc, char** argv) {
  try {
    return onggi::run(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 4;
  }
}
