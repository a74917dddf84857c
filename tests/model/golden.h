// The reference data of tests/golden, made with transformers, PEFT and bitsandbytes.
#pragma once

#include <cmath>
#include <cstdint>
#include <sstream>
#include <string>
#include <vector>

#include "formats/adapter.h"
#include "formats/safetensors.h"
#include "model/model.h"
#include "model/training.h"

namespace onggi {

inline constexpr const char* kMini = "models/onggi-mini";

inline std::vector<float> floats_of(const MappedTensors& file, const std::string& name) {
  const TensorView view = file.tensor(name);
  std::vector<float> out(static_cast<size_t>(view.elements()));
  read_as_f32(view, 0, view.elements(), out.data());
  return out;
}

inline std::vector<int32_t> ids_of(const MappedTensors& file, const std::string& name) {
  const TensorView view = file.tensor(name);
  std::vector<int32_t> out;
  for (int64_t i = 0; i < view.elements(); ++i)
    out.push_back(view.dtype == DType::kI64 ? static_cast<int32_t>(static_cast<const int64_t*>(view.data)[i])
                                            : static_cast<const int32_t*>(view.data)[i]);
  return out;
}

// The largest absolute difference, and where.
struct LargestError {
  double error = 0;
  size_t index = 0;
  double actual = 0, expected = 0;
};
inline std::ostream& operator<<(std::ostream& out, const LargestError& worst) {
  return out << "worst element " << worst.index << ": " << worst.actual << " where " << worst.expected
             << " is expected (error " << worst.error << ")";
}
inline LargestError largest_error(const float* actual, const std::vector<float>& expected) {
  LargestError worst;
  for (size_t i = 0; i < expected.size(); ++i) {
    const double error = std::abs(static_cast<double>(actual[i]) - expected[i]);
    if (error > worst.error || std::isnan(error)) worst = {error, i, actual[i], expected[i]};
    if (std::isnan(error)) break;
  }
  return worst;
}

// Reads an adapter of PEFT's names, without its configuration, into parameters.
inline void read_golden_adapter(const std::string& path, const ModelConfig& config,
                                LoraParameters& parameters, std::vector<float>& values) {
  const SafetensorsReader file(path);
  for (const LoraEntry& entry : parameters.entries()) {
    const std::string module = model_tensor(config, entry.role, entry.layer).peft_module;
    const auto a = floats_of(file, lora_a_name(module)), b = floats_of(file, lora_b_name(module));
    std::copy(a.begin(), a.end(), values.begin() + entry.a_offset);
    std::copy(b.begin(), b.end(), values.begin() + entry.b_offset);
  }
}

// One segment, no labels.
struct PlainBatch {
  std::vector<int32_t> ids;
  std::vector<int32_t> labels;
  std::vector<int32_t> starts;
  explicit PlainBatch(std::vector<int32_t> tokens)
      : ids(std::move(tokens)), labels(ids.size(), -100), starts{0, static_cast<int32_t>(ids.size())} {}
  TrainingBatch view() const { return {ids, labels, starts}; }
};

}  // namespace onggi
