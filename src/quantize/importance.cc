#include "base/error.h"
#include "base/text.h"
#include "formats/gguf.h"
#include "quantize/convert.h"

namespace onggi {
namespace {

constexpr std::string_view kSums = ".in_sum2";
constexpr std::string_view kCounts = ".counts";

std::vector<float> f32_values(const GgufReader& file, const std::string& name) {
  const TensorView view = file.tensor(name);
  if (view.dtype != DType::kF32) {
    throw InputError(text("tensor {} of {} has the dtype {}, but f32 is expected", name, file.path().string(),
                          dtype_name(view.dtype)));
  }
  std::vector<float> values(static_cast<size_t>(view.elements()));
  read_as_f32(view, 0, view.elements(), values.data());
  return values;
}

}  // namespace

ImportanceMatrix read_importance_matrix(const fs::path& path) {
  const GgufReader file(path);
  if (file.header().find_string("general.type").value_or("") != "imatrix") {
    throw InputError(text("{} is no importance matrix (general.type is not \"imatrix\")", path.string()));
  }
  ImportanceMatrix matrix;
  for (const TensorInfo& info : file.tensors()) {
    if (!info.name.ends_with(kSums)) continue;
    const std::string tensor = info.name.substr(0, info.name.size() - kSums.size());
    std::vector<float> values = f32_values(file, info.name);
    const std::vector<float> counts = f32_values(file, tensor + std::string(kCounts));
    // Several counts are those of a mixture's experts, one row of sums each.
    if (counts.size() != 1 || !(counts[0] > 0)) {
      throw InputError(text("{} has no single positive count for {}", path.string(), tensor));
    }
    for (float& value : values) value /= counts[0];
    matrix.emplace(tensor, std::move(values));
  }
  if (matrix.empty()) throw InputError(text("{} holds no tensor's sums", path.string()));
  return matrix;
}

}  // namespace onggi
