// The few-token kernels for any processor.
#include <vector>

#include "blocks/nf4.h"
#include "kernels/cpu/quantized_dot_float.h"
#include "kernels/cpu/quantized_dot_unpack.h"

namespace onggi::cpu {
namespace {

struct PortableDot {
  template <typename Format>
  static void add(const unpacked::Values& w, const ActivationBlock& x, float* partial) {
    for (int sub = 0; sub < kSuperSubs; ++sub) {
      int32_t sum = 0;
      for (int i = 0; i < 16; ++i) sum += int32_t{w.q[16 * sub + i]} * x.q[16 * sub + i];
      const float minimum = Format::kOffset == 0 ? w.minimums[sub] : w.scales[sub];
      partial[sub] += w.scales[sub] * x.scale[sub] * static_cast<float>(sum) - minimum * x.sum[sub];
    }
  }

  template <typename Format>
  static void add_super(const typename Format::Super& super, const DotTask& task, int64_t s,
                        float (*partials)[unpacked::kPartials]) {
    unpacked::Values values;
    Format::unpack(super, values);
    for (int64_t t = 0; t < task.args.tokens; ++t)
      add<Format>(values, *task.unit<ActivationBlock>(s, t), partials[t]);
  }
};

template <typename Format>
void prepare(const LinearArgs& args, int64_t t, std::byte* activations) {
  unpacked::prepare<Format>(args, t, activations);
}

template <typename Format>
constexpr DotKernel kKernel = {activation_block_bytes, prepare<Format>, unpacked::scratch_bytes,
                               unpacked::rows<Format, PortableDot>};

struct PortableFloat {
  static void decode_f16(const uint16_t* in, int64_t count, float* out) {
    for (int64_t i = 0; i < count; ++i) out[i] = f16_to_f32(in[i]);
  }
  static float dot(const float* w, const float* x, int64_t count) {
    float partial[16] = {};
    int64_t i = 0;
    for (; i + 16 <= count; i += 16)
      for (int j = 0; j < 16; ++j) partial[j] += w[i + j] * x[i + j];
    for (int j = 0; i < count; ++i, ++j) partial[j] += w[i] * x[i];
    float sum = 0;
    for (const float value : partial) sum += value;
    return sum;
  }
};

}  // namespace

DotKernel portable_dot_kernel(DType dtype) {
  switch (dtype) {
    case DType::kQ4_0:
      return kKernel<unpacked::Q4_0>;
    case DType::kQ8_0:
      return kKernel<unpacked::Q8_0>;
    case DType::kQ2_K:
      return kKernel<unpacked::Q2K>;
    case DType::kQ3_K:
      return kKernel<unpacked::Q3K>;
    case DType::kQ4_K:
      return kKernel<unpacked::Q4K>;
    case DType::kQ5_K:
      return kKernel<unpacked::Q5K>;
    case DType::kQ6_K:
      return kKernel<unpacked::Q6K>;
    case DType::kF32:
    case DType::kF16:
    case DType::kBF16:
    case DType::kNF4:
      return {no_activation_bytes, nullptr, decoded::scratch_bytes, decoded::rows<PortableFloat>};
    default:
      return {};
  }
}

}  // namespace onggi::cpu
