// The speed of the products of training on a card, at the shapes of Qwen3-8B with NF4 weights and adapters of
// rank 16: the ops, the kernels that they are made of, and what a token costs in all 36 layers, beside a
// plain product of 8192 x 8192 x 8192 in the same run.
//
//   gpu_linear_bench [dropout, default 0.1] [tokens of a pass..., default 1024 4096 8192]
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/random.h"
#include "device/cuda_stream.h"
#include "kernels/cuda/dequantize.h"
#include "kernels/cuda/lora.h"
#include "kernels/cuda/matmul.h"
#include "kernels/table.h"
#include "tests/gpu/event_timer.h"

namespace onggi {
namespace {

constexpr int64_t kHidden = 4096, kQuery = 4096, kKey = 1024, kFfn = 12288, kVocabulary = 151936;
constexpr int64_t kLayers = 36, kRank = 16;

class Bench {
 public:
  explicit Bench(float dropout) : dropout_(dropout) {
    Random random(1);
    noise_.resize(size_t{1} << 20);
    for (float& value : noise_) value = random.normal();
  }

  void reference_product();
  void head(int64_t rows);
  void layers(int64_t tokens);

 private:
  struct Group {
    const char* name;
    int64_t columns;
    std::vector<int64_t> rows;
    bool has_residual;
  };
  static std::vector<Group> groups() {
    return {{"q k v", kHidden, {kQuery, kKey, kKey}, false},
            {"o", kQuery, {kHidden}, true},
            {"gate up", kHidden, {kFfn, kFfn}, false},
            {"down", kFfn, {kHidden}, true}};
  }
  // Arrays of a group; what its ops read and write.
  struct Arrays {
    AdaptedLinearArgs forward;
    AdaptedLinearBackwardArgs backward;
    std::vector<Buffer> buffers;
  };

  // Microseconds: the median of several runs, after those in which matmul finds its fastest algorithm.
  double time(const std::function<void()>& work) { return timer_.median(30, 11, work); }
  void print_product(const char* name, double microseconds, double operations) const {
    std::printf("%-34s %10.1f us %9.1f TFLOP/s\n", name, microseconds, operations / microseconds / 1e6);
  }
  void print_memory(const char* name, double microseconds, double bytes) const {
    std::printf("%-34s %10.1f us %9.1f GB/s\n", name, microseconds, bytes / microseconds / 1e3);
  }

  void* bytes(std::vector<Buffer>& buffers, size_t count) {
    buffers.push_back(stream_.allocate(count));
    return buffers.back().data();
  }
  void fill(void* to, const void* pattern, size_t pattern_bytes, size_t count) {
    for (size_t at = 0; at < count; at += pattern_bytes)
      stream_.copy_in(static_cast<char*>(to) + at, pattern, std::min(pattern_bytes, count - at));
  }
  Activation bf16(std::vector<Buffer>& buffers, int64_t elements, float scale = 1.0f) {
    std::vector<uint16_t> pattern(noise_.size());
    for (size_t i = 0; i < pattern.size(); ++i) pattern[i] = f32_to_bf16(scale * noise_[i]);
    void* data = bytes(buffers, static_cast<size_t>(elements) * 2);
    fill(data, pattern.data(), pattern.size() * 2, static_cast<size_t>(elements) * 2);
    return {data, DType::kBF16};
  }
  float* f32(std::vector<Buffer>& buffers, int64_t elements) {
    void* data = bytes(buffers, static_cast<size_t>(elements) * 4);
    fill(data, noise_.data(), noise_.size() * 4, static_cast<size_t>(elements) * 4);
    return static_cast<float*>(data);
  }
  WeightView nf4(std::vector<Buffer>& buffers, int64_t rows, int64_t columns) {
    const auto elements = static_cast<size_t>(rows * columns);
    WeightView weight{.dtype = DType::kNF4, .rows = rows, .columns = columns, .nf4_offset = 0.05f};
    const auto random_bytes = [&](size_t count) {
      void* data = bytes(buffers, count);
      fill(data, noise_.data(), noise_.size() * 4, count);
      return static_cast<uint8_t*>(data);
    };
    weight.data = random_bytes(elements / 2);
    weight.nf4_absmax = random_bytes(elements / 64);
    const std::vector<float> nested(elements / 64 / 256 + 1, 0.02f);
    weight.nf4_nested_absmax = static_cast<float*>(bytes(buffers, nested.size() * 4));
    stream_.copy_in(const_cast<float*>(weight.nf4_nested_absmax), nested.data(), nested.size() * 4);
    return weight;
  }

  Arrays arrays_of(const Group& group, int64_t tokens);
  double group(const Group& group, int64_t tokens);
  void parts(const Group& group, const Arrays& arrays);

  float dropout_;
  CudaStream stream_{0};
  ThreadPool threads_{1};
  Scratch scratch_{1};
  OpContext context_{threads_, scratch_, stream_};
  const OpTable& ops_ = cuda_ops();
  EventTimer timer_{stream_};
  std::vector<float> noise_;
};

void Bench::reference_product() {
  constexpr int64_t kSize = 8192;
  std::vector<Buffer> buffers;
  const Activation a = bf16(buffers, kSize * kSize), b = bf16(buffers, kSize * kSize);
  void* d = bytes(buffers, kSize * kSize * 2);
  const double taken = time([&] {
    matmul(stream_, {.m = kSize,
                     .n = kSize,
                     .k = kSize,
                     .transpose_b = Transpose::kYes,
                     .a = {a.data, DType::kBF16, kSize},
                     .b = {b.data, DType::kBF16, kSize},
                     .c = {},
                     .d = d,
                     .d_dtype = DType::kBF16,
                     .d_stride = kSize});
  });
  std::printf("%s, dropout %.2f\n", stream_.device().name.c_str(), dropout_);
  print_product("8192 x 8192 x 8192", taken, 2.0 * kSize * kSize * kSize);
}

void Bench::head(int64_t rows) {
  std::vector<Buffer> buffers;
  const WeightView weight{.dtype = DType::kBF16,
                          .rows = kVocabulary,
                          .columns = kHidden,
                          .data = bf16(buffers, kVocabulary * kHidden, 0.02f).data};
  const Activation x = bf16(buffers, rows * kHidden), dlogits = bf16(buffers, rows * kVocabulary);
  float* logits = static_cast<float*>(bytes(buffers, static_cast<size_t>(rows * kVocabulary) * 4));
  const auto entry = static_cast<size_t>(DType::kBF16);
  const double operations = 2.0 * static_cast<double>(rows) * kVocabulary * kHidden;
  print_product("head forward, 1024 rows", time([&] {
                  ops_.linear[entry](context_, {x, weight, rows, logits});
                }),
                operations);
  print_product("head backward, 1024 rows", time([&] {
                  ops_.linear_backward[entry](context_, {dlogits, weight, rows, x});
                }),
                operations);
}

Bench::Arrays Bench::arrays_of(const Group& group, int64_t tokens) {
  Arrays arrays;
  std::vector<Buffer>& buffers = arrays.buffers;
  const int64_t columns = group.columns, stride = columns + ops_.row_padding(Precision::kFast, kRank);
  AdaptedLinearArgs& forward = arrays.forward;
  AdaptedLinearBackwardArgs& backward = arrays.backward;
  forward.x = bf16(buffers, tokens * stride);
  forward.x_stride = backward.x_stride = stride;
  forward.tokens = backward.tokens = tokens;
  forward.count = backward.count = static_cast<int>(group.rows.size());
  forward.dropout = backward.dropout = {.probability = dropout_, .seed = 5};
  backward.x = forward.x;
  backward.dx = bf16(buffers, tokens * columns);
  for (size_t i = 0; i < group.rows.size(); ++i) {
    const int64_t rows = group.rows[i];
    const WeightView weight = nf4(buffers, rows, columns);
    const LoraView lora{
        .a = f32(buffers, kRank * columns), .b = f32(buffers, rows * kRank), .rank = kRank, .scale = 2.0f};
    const Activation out = bf16(buffers, tokens * rows), u = bf16(buffers, tokens * kRank);
    // The rows of one member's dout have room for du, as in a model's backward.
    const int64_t dout_stride = rows + (i + 1 == group.rows.size() ? stride - columns : 0);
    forward.members[i] = {.weight = weight, .lora = lora, .out = out, .dropout_stream = i, .lora_u = u};
    backward.members[i] = {.weight = weight,
                           .lora = lora,
                           .dout = bf16(buffers, tokens * dout_stride),
                           .dout_stride = dout_stride,
                           .dropout_stream = i,
                           .lora_u = u,
                           .a_gradient = f32(buffers, kRank * columns),
                           .b_gradient = f32(buffers, rows * kRank)};
  }
  if (group.has_residual) forward.residual = bf16(buffers, tokens * group.rows[0]);
  return arrays;
}

// The kernels of a group one by one.
void Bench::parts(const Group& group, const Arrays& arrays) {
  using cuda::LoraMembers;
  using Bf16 = __nv_bfloat16;
  const AdaptedLinearArgs& forward = arrays.forward;
  const AdaptedLinearBackwardArgs& backward = arrays.backward;
  const int64_t tokens = forward.tokens, columns = group.columns, width = 64;
  const auto t = static_cast<double>(tokens), k = static_cast<double>(columns);
  std::vector<Buffer> buffers;
  const auto room = [&](int64_t elements) {
    return static_cast<Bf16*>(bytes(buffers, static_cast<size_t>(elements) * sizeof(Bf16)));
  };
  LoraMembers members;
  cuda::LoraCopies copies;
  double all_rows = 0;
  Bf16* matrix = room(*std::max_element(group.rows.begin(), group.rows.end()) * (columns + width));
  for (size_t i = 0; i < group.rows.size(); ++i) {
    const int64_t rows = group.rows[i];
    const auto n = static_cast<double>(rows);
    all_rows += n;
    members[i] = {forward.members[i].lora, rows, i};
    copies.a[i] = room(kRank * columns);
    copies.a_pieces[i] = room(kRank * columns);
    copies.b_turned[i] = room(kRank * rows);
    const WeightView& weight = forward.members[i].weight;
    if (i > 0 && rows == group.rows[i - 1]) continue;
    const cuda::LoraColumns lora{
        .b = members[i].lora.b, .rank = kRank, .scale = 2.0f, .first_column = 0, .width = width};
    const std::string shape = std::to_string(rows) + " x " + std::to_string(columns);
    print_memory(("  dequantise " + shape).c_str(), time([&] {
                   cuda::dequantize(stream_, {weight, 0, rows, columns + width, lora}, matrix);
                 }),
                 n * (2.5 * k + 2 * width));
    MatmulArgs product{.m = tokens,
                       .n = rows,
                       .k = columns + width,
                       .transpose_b = Transpose::kYes,
                       .a = {forward.x.data, DType::kBF16, forward.x_stride},
                       .b = {matrix, DType::kBF16, columns + width},
                       .c = {},
                       .d = forward.members[i].out.data,
                       .d_dtype = DType::kBF16,
                       .d_stride = rows};
    print_product(("  product " + shape).c_str(), time([&] { matmul(stream_, product); }), 2 * t * n * k);
    const MatmulArgs back{.m = tokens,
                          .n = columns,
                          .k = rows,
                          .a = {backward.members[i].dout.data, DType::kBF16, backward.members[i].dout_stride},
                          .b = {matrix, DType::kBF16, columns},
                          .beta = 1.0f,
                          .c = {backward.dx.data, DType::kBF16, columns},
                          .d = backward.dx.data,
                          .d_dtype = DType::kBF16,
                          .d_stride = columns};
    print_product(("  product back " + shape).c_str(), time([&] { matmul(stream_, back); }), 2 * t * n * k);
  }
  const cuda::LoraPrepareArgs prepare{
      .count = forward.count, .members = members, .columns = columns, .slot = kRank, .copies = copies};
  print_memory("  prepare_lora", time([&] { cuda::prepare_lora(stream_, prepare); }),
               6.0 * kRank * (2 * k * forward.count + all_rows));
  cuda::LoraDownArgs down{.x = forward.x.as<Bf16>(),
                          .x_stride = forward.x_stride,
                          .tokens = tokens,
                          .columns = columns,
                          .count = forward.count,
                          .members = members,
                          .mask = cuda::mask_of(forward.dropout),
                          .slot = kRank,
                          .u = forward.x.as<Bf16>() + columns,
                          .u_stride = forward.x_stride,
                          .u_width = width};
  cuda::LoraOutputGradientArgs outer{
      .tokens = tokens, .count = forward.count, .members = members, .slot = kRank};
  cuda::LoraInputGradientArgs inner{.x = forward.x.as<Bf16>(),
                                    .x_stride = forward.x_stride,
                                    .tokens = tokens,
                                    .columns = columns,
                                    .count = forward.count,
                                    .members = members,
                                    .mask = cuda::mask_of(forward.dropout),
                                    .slot = kRank,
                                    .dx = backward.dx.as<Bf16>()};
  for (size_t i = 0; i < group.rows.size(); ++i) {
    down.a[i] = copies.a[i];
    down.kept[i] = forward.members[i].lora_u.as<Bf16>();
    outer.b_turned[i] = copies.b_turned[i];
    inner.a_pieces[i] = copies.a_pieces[i];
    outer.dout[i] = backward.members[i].dout.as<Bf16>();
    outer.dout_stride[i] = backward.members[i].dout_stride;
    outer.u[i] = backward.members[i].lora_u.as<Bf16>();
    outer.du[i] = room(tokens * kRank);
    inner.du[i] = outer.du[i];
    outer.b_gradient[i] = backward.members[i].b_gradient;
    inner.a_gradient[i] = backward.members[i].a_gradient;
  }
  outer.du_stride = inner.du_stride = kRank;
  const auto floats = [&](int64_t count) {
    return static_cast<float*>(bytes(buffers, static_cast<size_t>(count) * sizeof(float)));
  };
  outer.partials = floats(cuda::lora_output_partials(stream_, outer));
  inner.partials = floats(cuda::lora_input_partials(stream_, inner));
  print_memory("  lora_down", time([&] { cuda::lora_down(stream_, down); }), 2 * t * k);
  print_memory("  lora_output_gradient", time([&] { cuda::lora_output_gradient(stream_, outer); }),
               2 * t * all_rows);
  print_memory("  lora_input_gradient", time([&] { cuda::lora_input_gradient(stream_, inner); }), 4 * t * k);
  inner.dx = nullptr;
  print_memory("  lora_input_gradient, dA alone", time([&] { cuda::lora_input_gradient(stream_, inner); }),
               2 * t * k);
}

// Returns forward and backward together.
double Bench::group(const Group& group, int64_t tokens) {
  const Arrays arrays = arrays_of(group, tokens);
  double operations = 0;
  for (const int64_t rows : group.rows)
    operations += 2.0 * static_cast<double>(tokens) * static_cast<double>(rows * group.columns);
  const std::string name = group.name;
  const double forward = time([&] { ops_.adapted_linear(context_, arrays.forward); });
  print_product((name + " forward").c_str(), forward, operations);
  const double backward = time([&] { ops_.adapted_linear_backward(context_, arrays.backward); });
  print_product((name + " backward").c_str(), backward, operations);
  parts(group, arrays);
  return forward + backward;
}

void Bench::layers(int64_t tokens) {
  std::printf("\n%lld tokens\n", static_cast<long long>(tokens));
  double layer = 0;
  for (const Group& one : groups()) layer += group(one, tokens);
  std::printf("forward and backward of %lld layers: %.2f us a token\n", static_cast<long long>(kLayers),
              layer * kLayers / static_cast<double>(tokens));
}

int run(int argc, char** argv) {
  Bench bench(argc > 1 ? std::strtof(argv[1], nullptr) : 0.1f);
  std::vector<int64_t> passes;
  for (int i = 2; i < argc; ++i) passes.push_back(std::atoll(argv[i]));
  if (passes.empty()) passes = {1024, 4096, 8192};
  bench.reference_product();
  bench.head(1024);
  for (const int64_t tokens : passes) bench.layers(tokens);
  bench.reference_product();
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
