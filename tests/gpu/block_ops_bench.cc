// The speed of the ops besides products and attention on a card, at the shapes of Qwen3-8B: each is bound by
// memory, so its bytes per second are set against those of a copy within the device, measured in the same
// run.
//
//   gpu_block_ops_bench [tokens of a pass..., default 4096 1]
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/random.h"
#include "device/cuda_stream.h"
#include "kernels/cuda/nf4_quantize.h"
#include "kernels/table.h"
#include "tensor/dtype.h"
#include "tests/gpu/event_timer.h"

namespace onggi {
namespace {

constexpr int64_t kHidden = 4096, kQueryHeads = 32, kKeyHeads = 8, kHeadDim = 128, kFfn = 12288;
constexpr int64_t kVocabulary = 151936, kAdapterElements = 43'646'976;
constexpr double kTheta = 1e6;
// Calls take turns with this many copies of their arrays, so that L2 holds nothing of the call before.
constexpr int kSets = 4;

class Bench {
 public:
  Bench() {
    Random random(1);
    std::vector<float> values(size_t{1} << 20);
    for (float& value : values) value = random.normal();
    std::vector<uint16_t> halves;
    for (const float value : values) halves.push_back(f32_to_bf16(value));
    noise_f32_ = stream_.allocate(values.size() * 4);
    noise_bf16_ = stream_.allocate(halves.size() * 2);
    stream_.copy_in(noise_f32_.data(), values.data(), noise_f32_.bytes());
    stream_.copy_in(noise_bf16_.data(), halves.data(), noise_bf16_.bytes());
  }

  void copies();
  void block_ops(int64_t tokens, DType dtype);
  void rows(int64_t tokens);
  void training();
  void logits();
  void encoding();

 private:
  // kSets arrays of noise.
  struct Array {
    Buffer memory;
    DType dtype;
    int64_t elements;
    Activation at(int set) const { return Activation(memory.data(), dtype).at(set * elements); }
    template <typename T>
    T* pointer(int set) const {
      return static_cast<T*>(at(set).data);
    }
  };
  Array array(int64_t elements, DType dtype = DType::kF32) {
    elements = (elements + 63) / 64 * 64;
    const Buffer& noise = dtype == DType::kF32 ? noise_f32_ : noise_bf16_;
    Array result{stream_.allocate(static_cast<size_t>(dtype_bytes(dtype, elements * kSets))), dtype,
                 elements};
    for (size_t at = 0; at < result.memory.bytes(); at += noise.bytes())
      stream_.copy(result.memory.as<char>() + at, noise.data(),
                   std::min(noise.bytes(), result.memory.bytes() - at));
    return result;
  }
  Buffer on_device(const std::vector<int32_t>& values) {
    Buffer buffer = stream_.allocate(values.size() * sizeof(int32_t));
    stream_.copy_in(buffer.data(), values.data(), buffer.bytes());
    return buffer;
  }
  static std::vector<int32_t> ascending(int64_t count, int32_t step) {
    std::vector<int32_t> values;
    for (int64_t i = 0; i < count; ++i) values.push_back(static_cast<int32_t>(i) * step);
    return values;
  }

  // Microseconds of a call among many that are queued: the median of several batches.
  double time(const std::function<void(int set)>& work) {
    constexpr int kCalls = 5 * kSets;
    for (int i = 0; i < kSets; ++i) work(i);
    const auto batch = [&] {
      for (int i = 0; i < kCalls; ++i) work(i % kSets);
    };
    return timer_.median(0, 7, batch) / kCalls;
  }
  // `bytes`: read and written by one call.
  double measure(const std::string& name, double bytes, const std::function<void(int set)>& work) {
    const double microseconds = time(work), rate = bytes / microseconds / 1e3;
    if (copy_rate_ == 0) copy_rate_ = rate;
    std::printf("%-44s %10.1f us %9.0f GB/s %6.0f%%\n", name.c_str(), microseconds, rate,
                100 * rate / copy_rate_);
    return rate;
  }

  CudaStream stream_{0};
  ThreadPool threads_{1};
  Scratch scratch_{1};
  OpContext context_{threads_, scratch_, stream_};
  const OpTable& ops_ = cuda_ops();
  EventTimer timer_{stream_};
  Buffer noise_f32_, noise_bf16_;
  double copy_rate_ = 0;  // GB/s, read and written
};

void Bench::copies() {
  constexpr int64_t kElements = int64_t{64} << 20;
  const Array from = array(kElements), to = array(kElements);
  std::printf("%s\n%-44s %13s %14s %7s\n", stream_.device().name.c_str(), "", "time", "read + written",
              "of copy");
  measure("copy within the device, 256 MiB", 8.0 * kElements,
          [&](int set) { stream_.copy(to.at(set).data, from.at(set).data, kElements * 4); });
}

void Bench::block_ops(int64_t tokens, DType dtype) {
  const double width = dtype == DType::kF32 ? 4 : 2, t = static_cast<double>(tokens);
  const auto name = [&](const char* op) {
    return std::string(op) + " " + std::string(dtype_name(dtype)) + " T=" + std::to_string(tokens);
  };
  const Array weight = array(kHidden), inverse = array(tokens * kQueryHeads);
  {
    const Array x = array(tokens * kHidden, dtype), out = array(tokens * kHidden, dtype),
                dx = array(tokens * kHidden, dtype);
    measure(name("rms_norm"), 2 * t * kHidden * width, [&](int set) {
      ops_.rms_norm(context_, {.x = x.at(set),
                               .weight = weight.pointer<float>(0),
                               .tokens = tokens,
                               .width = kHidden,
                               .epsilon = 1e-6f,
                               .out = out.at(set),
                               .inverse_rms = inverse.pointer<float>(set)});
    });
    measure(name("rms_norm_backward, added"), 4 * t * kHidden * width, [&](int set) {
      ops_.rms_norm_backward(context_, {.dout = out.at(set),
                                        .x = x.at(set),
                                        .weight = weight.pointer<float>(0),
                                        .inverse_rms = inverse.pointer<float>(set),
                                        .tokens = tokens,
                                        .width = kHidden,
                                        .dx = dx.at(set),
                                        .output = Output::kAccumulate});
    });
    measure(name("dropout"), 2 * t * kHidden * width, [&](int set) {
      ops_.dropout(context_, {.x = x.at(set),
                              .elements = tokens * kHidden,
                              .probability = 0.1f,
                              .seed = 1,
                              .stream = 2,
                              .out = out.at(set)});
    });
  }
  const Buffer positions = on_device(ascending(tokens, 1));
  for (const int64_t heads : {kQueryHeads, kKeyHeads}) {
    const int64_t elements = tokens * heads * kHeadDim;
    const Array x = array(elements, dtype), out = array(elements, dtype), dx = array(elements, dtype);
    const std::string of = heads == kQueryHeads ? "q " : "k ";
    measure(name(("head_norm_rope " + of).c_str()), 2.0 * static_cast<double>(elements) * width,
            [&](int set) {
              ops_.head_norm_rope(context_, {.x = x.at(set),
                                             .weight = weight.pointer<float>(0),
                                             .positions = positions.as<int32_t>(),
                                             .tokens = tokens,
                                             .heads = heads,
                                             .head_dim = kHeadDim,
                                             .epsilon = 1e-6f,
                                             .theta = kTheta,
                                             .out = out.at(set),
                                             .inverse_rms = inverse.pointer<float>(set)});
            });
    if (tokens == 1) continue;
    measure(name(("head_norm_rope_backward " + of).c_str()), 3.0 * static_cast<double>(elements) * width,
            [&](int set) {
              ops_.head_norm_rope_backward(context_, {.dout = out.at(set),
                                                      .x = x.at(set),
                                                      .weight = weight.pointer<float>(0),
                                                      .positions = positions.as<int32_t>(),
                                                      .inverse_rms = inverse.pointer<float>(set),
                                                      .tokens = tokens,
                                                      .heads = heads,
                                                      .head_dim = kHeadDim,
                                                      .theta = kTheta,
                                                      .dx = dx.at(set)});
            });
  }
  const Array gate = array(tokens * kFfn, dtype), up = array(tokens * kFfn, dtype),
              out = array(tokens * kFfn, dtype);
  measure(name("swiglu"), 3 * t * kFfn * width, [&](int set) {
    ops_.swiglu(
        context_,
        {.gate = gate.at(set), .up = up.at(set), .tokens = tokens, .width = kFfn, .out = out.at(set)});
  });
  if (tokens == 1) return;
  measure(name("swiglu_backward, in place"), 5 * t * kFfn * width, [&](int set) {
    ops_.swiglu_backward(context_, {.dout = out.at(set),
                                    .gate = gate.at(set),
                                    .up = up.at(set),
                                    .tokens = tokens,
                                    .width = kFfn,
                                    .dgate = gate.at(set),
                                    .dup = up.at(set)});
  });
}

void Bench::rows(int64_t tokens) {
  const auto t = static_cast<double>(tokens);
  const std::string of = " bf16 T=" + std::to_string(tokens);
  const Array table = array(kVocabulary / kSets * kHidden, DType::kBF16);
  const Array out = array(tokens * kHidden, DType::kBF16);
  // Far apart, in no order of the table.
  std::vector<int32_t> ids = ascending(tokens, 7919);
  for (int32_t& id : ids) id %= static_cast<int32_t>(kVocabulary / kSets);
  const Buffer rows = on_device(ids);
  const auto embed = [&](const void* data, int set) {
    ops_.embedding[static_cast<size_t>(DType::kBF16)](
        context_,
        {.ids = rows.as<int32_t>(),
         .table = {.dtype = DType::kBF16, .rows = kVocabulary / kSets, .columns = kHidden, .data = data},
         .tokens = tokens,
         .out = out.at(set)});
  };
  measure("embedding" + of, 4 * t * kHidden, [&](int set) { embed(table.at(set).data, set); });
  const Buffer host = stream_.allocate_host(static_cast<size_t>(kVocabulary / kSets * kHidden) * 2);
  stream_.copy(host.data(), table.at(0).data, host.bytes());
  measure("embedding, table on the host" + of, 4 * t * kHidden, [&](int set) { embed(host.data(), set); });
  measure("gather_rows" + of, 4 * t * kHidden, [&](int set) {
    ops_.gather_rows(context_, {.x = table.at(set),
                                .rows = rows.as<int32_t>(),
                                .count = tokens,
                                .width = kHidden,
                                .out = out.at(set)});
  });
}

void Bench::training() {
  const Array weights = array(kAdapterElements), gradient = array(kAdapterElements),
              first = array(kAdapterElements), second = array(kAdapterElements);
  for (int set = 0; set < kSets; ++set)
    stream_.fill_zero(second.pointer<float>(set), static_cast<size_t>(kAdapterElements) * 4);
  const Buffer sum = stream_.allocate(sizeof(double));
  measure("sum_of_squares, 43.6 M elements", 4.0 * kAdapterElements, [&](int set) {
    ops_.sum_of_squares(
        context_, {.x = gradient.pointer<float>(set), .elements = kAdapterElements, .sum = sum.as<double>()});
  });
  measure("adamw, 43.6 M elements", 28.0 * kAdapterElements, [&](int set) {
    ops_.adamw(context_, {.weights = weights.pointer<float>(set),
                          .gradient = gradient.pointer<float>(set),
                          .first_moment = first.pointer<float>(set),
                          .second_moment = second.pointer<float>(set),
                          .elements = kAdapterElements,
                          .sum_of_squares = sum.as<double>(),
                          .max_norm = 1.0,
                          .learning_rate = 1e-4f,
                          .beta1 = 0.9f,
                          .beta2 = 0.999f,
                          .epsilon = 1e-8f,
                          .weight_decay = 0,
                          .step = 10});
  });
}

void Bench::logits() {
  constexpr int64_t kRows = 512;
  const Array logits = array(kRows * kVocabulary), dlogits = array(kRows * kVocabulary, DType::kBF16);
  const Array losses = array(kRows), values = array(kRows * kMaxTopLogits), sums = array(kRows);
  const Buffer ids = on_device(std::vector<int32_t>(kRows * kMaxTopLogits, 0));
  const Buffer labels = on_device(ascending(kRows, 131));
  const Buffer loss_sum = stream_.allocate(sizeof(double));
  const auto cross_entropy = [&](int set, Activation gradient) {
    ops_.cross_entropy(context_, {.logits = logits.pointer<float>(set),
                                  .labels = labels.as<int32_t>(),
                                  .rows = kRows,
                                  .vocabulary = kVocabulary,
                                  .gradient_scale = 1.0f,
                                  .losses = losses.pointer<float>(set),
                                  .loss_sum = loss_sum.as<double>(),
                                  .dlogits = gradient});
  };
  const double elements = static_cast<double>(kRows) * kVocabulary;
  for (const int64_t rows : {1, 8, 32, 64}) {
    for (const int64_t count : {1, 40, 128}) {
      const std::string name = "top_logits, " + std::to_string(rows) + " rows, k=" + std::to_string(count);
      measure(name, 4.0 * static_cast<double>(rows) * kVocabulary, [&](int set) {
        ops_.top_logits(context_, {.logits = logits.pointer<float>(set),
                                   .rows = rows,
                                   .vocabulary = kVocabulary,
                                   .count = count,
                                   .values = values.pointer<float>(set),
                                   .ids = ids.as<int32_t>(),
                                   .log_sum_exp = sums.pointer<float>(set)});
      });
    }
  }
  measure("cross_entropy, 512 rows, loss alone", 4 * elements, [&](int set) { cross_entropy(set, nullptr); });
  measure("cross_entropy, 512 rows, bf16 gradient", 10 * elements,
          [&](int set) { cross_entropy(set, dlogits.at(set)); });
  measure("cross_entropy, 512 rows, in place", 12 * elements,
          [&](int set) { cross_entropy(set, logits.at(set)); });
}

void Bench::encoding() {
  constexpr int64_t kElements = kFfn * kHidden, kBlocks = kElements / 64;
  const Array weight = array(kElements, DType::kBF16), absmax = array(kBlocks), nested = array(kBlocks / 256);
  const Buffer packed = stream_.allocate(kElements / 2), absmax_q8 = stream_.allocate(kBlocks),
               offset = stream_.allocate(sizeof(float));
  measure("nf4_indices, 12288 x 4096 bf16", (2.5 + 4.0 / 64) * kElements, [&](int set) {
    cuda::nf4_indices(stream_, {.values = weight.at(set).data,
                                .dtype = DType::kBF16,
                                .begin = 0,
                                .count = kElements,
                                .packed = packed.as<uint8_t>(),
                                .absmax = absmax.pointer<float>(set)});
  });
  measure("nf4_quantize_absmax of it", 9.0 * kBlocks, [&](int set) {
    cuda::nf4_quantize_absmax(stream_, {.absmax = absmax.pointer<float>(set),
                                        .blocks = kBlocks,
                                        .absmax_q8 = absmax_q8.as<uint8_t>(),
                                        .nested_absmax = nested.pointer<float>(set),
                                        .offset = offset.as<float>()});
  });
}

void run(std::span<char*> arguments) {
  std::vector<int64_t> tokens;
  for (const char* argument : arguments) tokens.push_back(std::max(1L, std::atol(argument)));
  if (tokens.empty()) tokens = {4096, 1};
  Bench bench;
  bench.copies();
  for (const int64_t count : tokens) {
    bench.block_ops(count, DType::kBF16);
    if (count > 1) bench.block_ops(count, DType::kF32);
    bench.rows(count);
  }
  bench.logits();
  bench.training();
  bench.encoding();
}

}  // namespace
}  // namespace onggi

int main(int argc, char** argv) {
  try {
    onggi::run({argv + 1, argv + argc});
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
