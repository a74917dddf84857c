// The speed of attention over the paged cache on a card, at the shapes of Qwen3-8B: per layer, in a recording
// of all 36 layers with a cache each, as an engine replays it, and queued call by call.
//
//   gpu_cached_attention_bench [dtype of the cache: bf16 (default) or f16]
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <functional>
#include <numeric>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/random.h"
#include "device/cuda_stream.h"
#include "kernels/table.h"
#include "tensor/dtype.h"
#include "tests/gpu/event_timer.h"

namespace onggi {
namespace {

constexpr int64_t kQueryHeads = 32, kKeyHeads = 8, kHeadDim = 128, kLayers = 36;
constexpr int32_t kPage = 32;
constexpr double kTheta = 1e6;

struct NewRows {
  int32_t past, rows;
};

class Bench {
 public:
  explicit Bench(DType cache_dtype) : cache_dtype_(cache_dtype) {
    Random random(1);
    std::vector<uint16_t> noise(size_t{1} << 20);
    for (uint16_t& value : noise) {
      const float number = random.normal();
      value = cache_dtype == DType::kF16 ? f32_to_f16(number) : f32_to_bf16(number);
    }
    noise_ = stream_.allocate(noise.size() * 2);
    stream_.copy_in(noise_.data(), noise.data(), noise_.bytes());
    std::printf("%s, a cache of %s, per layer of %ld query and %ld key heads of %ld\n%-40s %12s %12s\n",
                stream_.device().name.c_str(), std::string(dtype_name(cache_dtype)).c_str(), kQueryHeads,
                kKeyHeads, kHeadDim, "", "in a graph", "by calls");
  }

  // `longest`: the bound that the host knows; 0: the true one.
  void attention(const std::string& name, const std::vector<NewRows>& sequences, int64_t longest = 0);
  void input(int64_t tokens);
  // Attention with what leads to it, of decoding sequences.
  void pass(const std::string& name, const std::vector<NewRows>& sequences, int64_t longest = 0);

 private:
  // A pass: its table on the device, activations and a cache per layer.
  struct Pass {
    std::vector<Buffer> buffers;
    SequenceTable table{};
    int64_t tokens = 0, cached = 0, seen = 0;  // seen: keys, over all queries
    Activation q, k, v, out;
    std::vector<KvLayer> layers;
  };
  Pass make_pass(const std::vector<NewRows>& sequences);
  void* noise(Pass& pass, size_t bytes) {
    Buffer& buffer = pass.buffers.emplace_back(stream_.allocate(bytes));
    for (size_t at = 0; at < bytes; at += noise_.bytes())
      stream_.copy(buffer.as<char>() + at, noise_.data(), std::min(noise_.bytes(), bytes - at));
    return buffer.data();
  }
  const int32_t* on_device(Pass& pass, const std::vector<int32_t>& values) {
    Buffer& buffer = pass.buffers.emplace_back(stream_.allocate(values.size() * sizeof(int32_t)));
    stream_.copy_in(buffer.data(), values.data(), buffer.bytes());
    return buffer.as<int32_t>();
  }

  // Microseconds of one of kLayers calls: the median of several rounds.
  double time(const std::function<void()>& round) { return timer_.median(1, 9, round) / kLayers; }
  // Prints the time of work(layer) and the rate of `bytes` or of `operations`, whichever is not 0.
  void measure(const std::string& name, double bytes, double operations,
               const std::function<void(int64_t)>& work) {
    const auto all = [&] {
      for (int64_t layer = 0; layer < kLayers; ++layer) work(layer);
    };
    const double called = time(all);
    double replayed = 0;
    if (stream_.begin_recording()) {
      all();
      const auto recording = stream_.end_recording();
      replayed = time([&] { stream_.replay(*recording); });
      stream_.synchronize();
    }
    std::printf("%-40s %9.2f us %9.2f us", name.c_str(), replayed, called);
    if (bytes > 0) std::printf(" %7.0f GB/s", bytes / replayed / 1e3);
    if (operations > 0) std::printf(" %7.0f TFLOP/s", operations / replayed / 1e6);
    std::printf("\n");
  }

  DType cache_dtype_;
  CudaStream stream_{0};
  ThreadPool threads_{1};
  Scratch scratch_{1};
  OpContext context_{threads_, scratch_, stream_};
  const OpTable& ops_ = cuda_ops();
  EventTimer timer_{stream_};
  Buffer noise_;
};

Bench::Pass Bench::make_pass(const std::vector<NewRows>& sequences) {
  Pass pass;
  std::vector<int32_t> first_row, rows, past, sequence, positions;
  int64_t pages = 0, longest = 0, longest_rows = 0;
  for (const NewRows& s : sequences) {
    first_row.push_back(static_cast<int32_t>(pass.tokens));
    rows.push_back(s.rows);
    past.push_back(s.past);
    for (int32_t i = 0; i < s.rows; ++i) {
      sequence.push_back(static_cast<int32_t>(rows.size()) - 1);
      positions.push_back(s.past + i);
      pass.seen += s.past + i + 1;
    }
    pass.tokens += s.rows;
    pass.cached += s.past + s.rows;
    longest = std::max<int64_t>(longest, s.past + s.rows);
    longest_rows = std::max<int64_t>(longest_rows, s.rows);
    pages += (s.past + s.rows + kPage - 1) / kPage;
  }
  // Pages lie anywhere.
  std::vector<int32_t> order(static_cast<size_t>(pages));
  std::iota(order.begin(), order.end(), 0);
  Random random(2);
  for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[random.next_u32() % i]);
  const int64_t page_stride = (longest + kPage - 1) / kPage;
  std::vector<int32_t> page_table;
  auto next = order.begin();
  for (const NewRows& s : sequences) {
    const int32_t count = (s.past + s.rows + kPage - 1) / kPage;
    page_table.insert(page_table.end(), next, next + count);
    page_table.resize(page_table.size() + static_cast<size_t>(page_stride - count));
    next += count;
  }
  pass.table = {.pages = on_device(pass, page_table),
                .page_stride = page_stride,
                .first_row = on_device(pass, first_row),
                .rows = on_device(pass, rows),
                .past = on_device(pass, past),
                .sequence = on_device(pass, sequence),
                .positions = on_device(pass, positions),
                .count = static_cast<int64_t>(sequences.size()),
                .longest_rows = longest_rows,
                .longest = longest};
  const auto activation = [&](int64_t heads) {
    return Activation(noise(pass, static_cast<size_t>(pass.tokens * heads * kHeadDim * 2)), DType::kBF16);
  };
  pass.q = activation(kQueryHeads);
  pass.k = activation(kKeyHeads);
  pass.v = activation(kKeyHeads);
  pass.out = activation(kQueryHeads);
  const auto layer_bytes = static_cast<size_t>(pages * kPage * kKeyHeads * kHeadDim * 2);
  for (int64_t layer = 0; layer < kLayers; ++layer)
    pass.layers.push_back({noise(pass, layer_bytes), noise(pass, layer_bytes), cache_dtype_, kPage});
  return pass;
}

void Bench::attention(const std::string& name, const std::vector<NewRows>& sequences, int64_t longest) {
  Pass pass = make_pass(sequences);
  pass.table.longest = std::max(pass.table.longest, longest);
  const bool is_decode = pass.table.longest_rows == 1;
  const double bytes = 2.0 * 2 * static_cast<double>(pass.cached * kKeyHeads * kHeadDim);
  const double operations = 4.0 * static_cast<double>(pass.seen * kQueryHeads * kHeadDim);
  measure(name, is_decode ? bytes : 0, is_decode ? 0 : operations, [&](int64_t layer) {
    ops_.cached_attention(context_, {.q = pass.q,
                                     .cache = pass.layers[static_cast<size_t>(layer)],
                                     .sequences = pass.table,
                                     .tokens = pass.tokens,
                                     .query_heads = kQueryHeads,
                                     .kv_heads = kKeyHeads,
                                     .head_dim = kHeadDim,
                                     .scale = 0.08838834764f,
                                     .out = pass.out});
  });
}

void Bench::input(int64_t tokens) {
  std::vector<NewRows> sequences;
  if (tokens <= 64) sequences.assign(static_cast<size_t>(tokens), {600, 1});
  if (tokens > 64) sequences.assign(1, {0, static_cast<int32_t>(tokens)});
  Pass pass = make_pass(sequences);
  const std::vector<float> ones(kHeadDim, 1.0f);
  Buffer norm = stream_.allocate(ones.size() * sizeof(float));
  stream_.copy_in(norm.data(), ones.data(), norm.bytes());
  const double bytes = 2.0 * static_cast<double>(tokens * kHeadDim * (2 * kQueryHeads + 4 * kKeyHeads));
  measure("input, " + std::to_string(tokens) + " tokens", bytes, 0, [&](int64_t layer) {
    ops_.attention_input(context_, {.q = pass.q,
                                    .k = pass.k,
                                    .v = pass.v,
                                    .query_norm = norm.as<float>(),
                                    .key_norm = norm.as<float>(),
                                    .epsilon = 1e-6f,
                                    .theta = kTheta,
                                    .cache = pass.layers[static_cast<size_t>(layer)],
                                    .sequences = pass.table,
                                    .tokens = pass.tokens,
                                    .query_heads = kQueryHeads,
                                    .kv_heads = kKeyHeads,
                                    .head_dim = kHeadDim});
  });
}

void Bench::pass(const std::string& name, const std::vector<NewRows>& sequences, int64_t longest) {
  Pass pass = make_pass(sequences);
  pass.table.longest = std::max(pass.table.longest, longest);
  const std::vector<float> ones(kHeadDim, 1.0f);
  Buffer norm = stream_.allocate(ones.size() * sizeof(float));
  stream_.copy_in(norm.data(), ones.data(), norm.bytes());
  const double bytes = 2.0 * 2 * static_cast<double>(pass.cached * kKeyHeads * kHeadDim);
  measure(name, bytes, 0, [&](int64_t layer) {
    ops_.pass_attention(context_, {.input = {.q = pass.q,
                                             .k = pass.k,
                                             .v = pass.v,
                                             .query_norm = norm.as<float>(),
                                             .key_norm = norm.as<float>(),
                                             .epsilon = 1e-6f,
                                             .theta = kTheta,
                                             .cache = pass.layers[static_cast<size_t>(layer)],
                                             .sequences = pass.table,
                                             .tokens = pass.tokens,
                                             .query_heads = kQueryHeads,
                                             .kv_heads = kKeyHeads,
                                             .head_dim = kHeadDim},
                                   .scale = 0.08838834764f,
                                   .out = pass.out});
  });
}

void run(DType cache_dtype) {
  Bench bench(cache_dtype);
  const auto decoding = [](size_t users, int32_t length) {
    return std::vector<NewRows>(users, {length - 1, 1});
  };
  bench.attention("decode, 1 user, 512", decoding(1, 512));
  bench.attention("decode, 1 user, 512, bound 40960", decoding(1, 512), 40960);
  bench.attention("decode, 1 user, 8192", decoding(1, 8192));
  bench.attention("decode, 1 user, 40960", decoding(1, 40960));
  bench.attention("decode, 8 users, 4096", decoding(8, 4096));
  bench.attention("decode, 32 users, 1024", decoding(32, 1024));
  bench.attention("decode, 64 users, 640", decoding(64, 640));
  bench.attention("decode, 64 users, 640, bound 4096", decoding(64, 640), 4096);
  bench.attention("decode, 128 users, 640", decoding(128, 640));
  for (const size_t users : {1, 5, 8, 16, 32, 64})
    bench.pass("decode and input, " + std::to_string(users) + " users, 576", decoding(users, 576), 1024);
  bench.pass("decode and input, 1 user, 8192", decoding(1, 8192));
  bench.pass("decode and input, 1 user, 40960", decoding(1, 40960));
  bench.attention("prefill, 512", {{0, 512}});
  bench.attention("prefill, 4096", {{0, 4096}});
  bench.attention("prefill, 16384", {{0, 16384}});
  bench.attention("prefill, 512 after 4096", {{4096, 512}});
  std::vector<NewRows> mixed = decoding(16, 1024);
  mixed.push_back({0, 1024});
  bench.attention("prefill, 1024, and 16 users at 1024", mixed);
  for (const int64_t tokens : {1, 64, 4096}) bench.input(tokens);
}

}  // namespace
}  // namespace onggi

int main(int argc, char** argv) {
  try {
    onggi::run(argc > 1 && std::strcmp(argv[1], "f16") == 0 ? onggi::DType::kF16 : onggi::DType::kBF16);
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
