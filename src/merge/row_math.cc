#include "merge/row_math.h"

#include <algorithm>
#include <utility>

#include "base/error.h"

namespace onggi {
namespace {

constexpr int64_t kBlockElements = 1 << 20;

template <uint16_t (*kRound)(float), float (*kWiden)(uint16_t)>
RowChange merge_row_as(const float* weight, const float* delta, int64_t columns, uint16_t* written) {
  RowChange change;
  for (int64_t k = 0; k < columns; ++k) {
    const float target = weight[k] + delta[k];
    const uint16_t bits = kRound(target);
    written[k] = bits;
    const double error = static_cast<double>(kWiden(bits)) - (static_cast<double>(weight[k]) + delta[k]);
    change.delta_squares += static_cast<double>(delta[k]) * delta[k];
    change.weight_squares += static_cast<double>(weight[k]) * weight[k];
    change.error_squares += error * error;
    change.changed += bits != kRound(weight[k]);
  }
  return change;
}

template <uint16_t (*kRound)(float)>
void round_row_as(const float* weight, int64_t columns, uint16_t* written) {
  for (int64_t k = 0; k < columns; ++k) written[k] = kRound(weight[k]);
}

}  // namespace

RowChange merge_row(const float* weight, const float* delta, int64_t columns, DType dtype,
                    uint16_t* written) {
  ONGGI_CHECK(dtype == DType::kBF16 || dtype == DType::kF16);
  return dtype == DType::kBF16 ? merge_row_as<f32_to_bf16, bf16_to_f32>(weight, delta, columns, written)
                               : merge_row_as<f32_to_f16, f16_to_f32>(weight, delta, columns, written);
}

void round_row(const float* weight, int64_t columns, DType dtype, uint16_t* written) {
  ONGGI_CHECK(dtype == DType::kBF16 || dtype == DType::kF16);
  if (dtype == DType::kBF16)
    round_row_as<f32_to_bf16>(weight, columns, written);
  else
    round_row_as<f32_to_f16>(weight, columns, written);
}

int64_t rows_per_block(int64_t rows, int64_t columns) {
  return std::clamp<int64_t>(kBlockElements / std::max<int64_t>(1, columns), 1, std::max<int64_t>(1, rows));
}

BaseRows::BaseRows(const MappedTensors& source, const TensorInfo& info, ThreadPool& threads)
    : weight_(source.tensor(info.name)) {
  const int64_t rows = weight_.shape[0], columns = weight_.shape[1];
  const int64_t step = rows_per_block(rows, columns);
  const auto row_bytes = static_cast<uint64_t>(dtype_bytes(weight_.dtype, columns));
  Nf4Encoder encoder(rows, columns);
  for (int64_t begin = 0; begin < rows; begin += step) {
    const int64_t count = std::min(step, rows - begin);
    threads.parallel_for(count, 1, [&](int64_t from, int64_t to, int) {
      std::vector<float> row(static_cast<size_t>(columns));
      for (int64_t n = begin + from; n < begin + to; ++n) {
        read_as_f32(weight_, n * columns, columns, row.data());
        encoder.encode(n * columns, columns, row.data());
      }
    });
    source.release_part(info, static_cast<uint64_t>(begin) * row_bytes,
                        static_cast<uint64_t>(count) * row_bytes);
  }
  nf4_ = encoder.finish();
}

void BaseRows::read(int64_t row, float* out) const {
  const int64_t columns = weight_.shape.back();  // norms have one dimension
  if (!nf4_) return read_as_f32(weight_, row * columns, columns, out);
  std::vector<uint16_t> bits(static_cast<size_t>(columns));
  decode_nf4_bf16(nf4_->view(), row * columns, columns, bits.data());
  for (int64_t k = 0; k < columns; ++k) out[k] = bf16_to_f32(bits[static_cast<size_t>(k)]);
}

}  // namespace onggi
