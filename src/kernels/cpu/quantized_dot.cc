#include "kernels/cpu/quantized_dot.h"

#include <cpuid.h>

#include <algorithm>
#include <array>
#include <limits>

#include "base/error.h"
#include "kernels/cpu/features.h"
#include "kernels/cpu/quantized_dot_kernels.h"

namespace onggi::cpu {
namespace {

constexpr int kLevels = 5;
constexpr int64_t kRowGrain = 32;  // panels of the AVX-512 kernels
// The activations of this many tokens, 256 columns at a time, fit a core's second-level cache.
constexpr int64_t kBlockTokens = 512;
// What takes a microsecond or so is not worth waking the other threads for.
constexpr int64_t kSerialActivations = 4096;
constexpr int64_t kSerialProducts = int64_t{1} << 16;

std::vector<DotLevel> find_levels() {
  std::vector<DotLevel> levels = {DotLevel::kPortable};
  if (!has_avx2()) return levels;
  levels.push_back(DotLevel::kAvx2);
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (__get_cpuid_count(7, 1, &a, &b, &c, &d) != 0 && (a & (1u << 4)) != 0)
    levels.push_back(DotLevel::kAvxVnni);
  if (has_avx512() && __builtin_cpu_supports("avx512vnni")) {
    levels.push_back(DotLevel::kAvx512Vnni);
    if (has_avx512_bf16()) levels.push_back(DotLevel::kAvx512Bf16);
  }
  return levels;
}

DotKernel kernel_for(DotLevel level, DType dtype) {
  DotKernel kernel;
  if (level == DotLevel::kAvx512Bf16) kernel = avx512_float_dot_kernel(dtype);
  if (kernel.rows == nullptr && level >= DotLevel::kAvx512Vnni) kernel = avx512_dot_kernel(dtype);
  // A CPU with AVX-512 has AVX2, but may lack AVX-VNNI.
  if (kernel.rows == nullptr && level >= DotLevel::kAvx2)
    kernel = avx2_dot_kernel(dtype, level == DotLevel::kAvxVnni ? level : DotLevel::kAvx2);
  if (kernel.rows == nullptr) kernel = portable_dot_kernel(dtype);
  return kernel;
}

using KernelTable = std::array<std::array<DotKernel, kDTypeCount>, kLevels>;

const KernelTable& kernel_table() {
  static const KernelTable table = [] {
    KernelTable result;
    for (const DotLevel level : available_dot_levels())
      for (int dtype = 0; dtype < kDTypeCount; ++dtype)
        result[static_cast<size_t>(level)][static_cast<size_t>(dtype)] =
            kernel_for(level, static_cast<DType>(dtype));
    return result;
  }();
  return table;
}

// Rows as they are handed out: each thread first gets one long run, which memory streams best; the last
// quarter goes in short runs to whoever is done first, so that nobody waits long for a thread that was
// interrupted.
class Chunks {
 public:
  Chunks(int64_t rows, int threads)
      : rows_(rows), threads_(threads), units_((rows + kRowGrain - 1) / kRowGrain) {
    long_units_ = units_ * kLongEighths / 8 / threads_;
    const int64_t rest = units_ - long_units_ * threads_;
    short_units_ = std::max<int64_t>(1, rest / (kShortRuns * threads_));
    count_ = (long_units_ > 0 ? threads_ : 0) + (rest + short_units_ - 1) / short_units_;
  }
  int64_t count() const { return count_; }
  int64_t begin(int64_t i) const {
    const int64_t long_runs = long_units_ > 0 ? threads_ : 0;
    const int64_t units =
        i <= long_runs ? i * long_units_ : long_runs * long_units_ + (i - long_runs) * short_units_;
    return std::min(rows_, units * kRowGrain);
  }

 private:
  static constexpr int64_t kLongEighths = 6;
  static constexpr int64_t kShortRuns = 2;
  int64_t rows_, threads_, units_;
  int64_t long_units_ = 0, short_units_ = 1, count_ = 0;
};

void prepare_activations(const DotKernel& kernel, const OpContext& context, const LinearArgs& args,
                         std::byte* activations) {
  if (args.tokens * args.weight.columns < kSerialActivations) {
    for (int64_t t = 0; t < args.tokens; ++t) kernel.prepare(args, t, activations);
  } else {
    context.threads.parallel_items(args.tokens,
                                   [&](int64_t t, int) { kernel.prepare(args, t, activations); });
  }
}

// All rows for up to kBlockTokens tokens.
void multiply_block(const DotKernel& kernel, const OpContext& context, const LinearArgs& args) {
  const auto activation_bytes = static_cast<size_t>(args.tokens * kernel.token_bytes(args.weight.columns));
  std::byte* activations = context.scratch.get(context.threads.size(), activation_bytes);
  if (kernel.prepare != nullptr) prepare_activations(kernel, context, args, activations);

  const DotTask task{args, activations};
  const auto scratch_bytes = static_cast<size_t>(kernel.scratch_bytes(args));
  if (args.tokens * args.weight.columns * args.weight.rows < kSerialProducts)
    return kernel.rows(task, 0, args.weight.rows, context.scratch.get(0, scratch_bytes));
  const Chunks chunks(args.weight.rows, context.threads.size());
  context.threads.parallel_items(chunks.count(), [&](int64_t i, int thread) {
    kernel.rows(task, chunks.begin(i), chunks.begin(i + 1), context.scratch.get(thread, scratch_bytes));
  });
}

}  // namespace

const std::vector<DotLevel>& available_dot_levels() {
  static const std::vector<DotLevel> levels = find_levels();
  return levels;
}

bool has_few_token_kernel(DType dtype) { return portable_dot_kernel(dtype).rows != nullptr; }

int64_t few_token_limit(DType dtype) {
  if (!has_few_token_kernel(dtype)) return 0;
  const bool has_panels = available_dot_levels().back() >= DotLevel::kAvx512Vnni;
  switch (dtype) {
    case DType::kF32:
      return 4;
    case DType::kF16:
      return 16;
    case DType::kBF16:
      return 12;
    case DType::kNF4:
      return 10;
    default:
      // int8 products have twice the rate of bf16's, and panels share the unpacking among all tokens.
      return has_panels ? std::numeric_limits<int64_t>::max() : 16;
  }
}

void linear_few_tokens(const OpContext& context, const LinearArgs& args) {
  linear_few_tokens_at(available_dot_levels().back(), context, args);
}

void linear_few_tokens_at(DotLevel level, const OpContext& context, const LinearArgs& args) {
  const WeightView& weight = args.weight;
  const DotKernel& kernel = kernel_table()[static_cast<size_t>(level)][static_cast<size_t>(weight.dtype)];
  ONGGI_CHECK(kernel.rows != nullptr, "no few-token kernel for this dtype or CPU");
  ONGGI_CHECK(weight.columns % dtype_info(weight.dtype).block_elements == 0);
  for (int64_t first = 0; first < args.tokens; first += kBlockTokens) {
    LinearArgs block = args;
    block.tokens = std::min(kBlockTokens, args.tokens - first);
    block.x = args.x + first * weight.columns;
    block.out = args.out + first * weight.rows;
    multiply_block(kernel, context, block);
  }
}

}  // namespace onggi::cpu
