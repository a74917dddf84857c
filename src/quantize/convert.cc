#include "quantize/convert.h"

#include <algorithm>
#include <cmath>

#include "base/clock.h"
#include "base/error.h"
#include "base/text.h"
#include "blocks/block_format.h"
#include "formats/gguf.h"
#include "quantize/source.h"

namespace onggi {
namespace {

// general.quantization_version: the layout of the blocks (ggml.h, GGML_QNT_VERSION).
constexpr uint32_t kQuantizationVersion = 2;
// fp32 values that are in work at a time; small beside the machine, large beside the cost of a parallel loop.
constexpr int64_t kValuesInWork = int64_t{1} << 21;
// Disk that is left free beside the file.
constexpr uint64_t kSpareDiskBytes = uint64_t{16} << 20;

void set_entry(std::vector<GgufEntry>& entries, const std::string& key, GgufValue value) {
  for (GgufEntry& entry : entries) {
    if (entry.first == key) {
      entry.second = std::move(value);
      return;
    }
  }
  entries.emplace_back(key, std::move(value));
}

const std::string* find_string(const std::vector<GgufEntry>& entries, std::string_view key) {
  for (const GgufEntry& entry : entries) {
    if (entry.first == key) return std::get_if<std::string>(&entry.second);
  }
  return nullptr;
}

std::vector<GgufEntry> file_metadata(const ConversionSource& source, const ConvertOptions& options) {
  std::vector<GgufEntry> entries = source.metadata();
  const RecipeInfo& recipe = recipe_info(options.recipe);
  if (!options.name.empty()) {
    set_entry(entries, "general.name", options.name);
  } else if (find_string(entries, "general.name") == nullptr) {
    fs::path folder = fs::absolute(options.source).lexically_normal();
    if (!folder.has_filename()) folder = folder.parent_path();
    const auto place = entries.begin() + std::min<std::ptrdiff_t>(2, std::ssize(entries));
    entries.insert(place, {"general.name", folder.filename().string()});
  }
  set_entry(entries, "general.file_type", recipe.gguf_file_type);
  set_entry(entries, "general.quantization_version", kQuantizationVersion);
  for (const auto& [key, value] : options.provenance) set_entry(entries, "onggi." + key, value);
  set_entry(entries, "onggi.recipe", std::string(recipe.name));
  if (const std::string* chat_template = find_string(entries, "tokenizer.chat_template")) {
    set_entry(entries, "onggi.chat_template_sha256", sha256_hex(*chat_template));
  }
  return entries;
}

struct TensorPlan {
  ModelTensor tensor;
  DType dtype;
};

std::vector<TensorPlan> plan_tensors(const ConversionSource& source, QuantRecipe recipe,
                                     std::vector<std::string>& warnings) {
  std::vector<TensorPlan> plan;
  for (const ModelTensor& tensor : source.tensors()) {
    const TensorChoice choice = choose_dtype(recipe, source.config(), tensor);
    if (choice.dtype != choice.wanted) {
      warnings.push_back(
          text("{} is stored as {} and not as {}, because its rows of {} are no multiple of {}",
               tensor.gguf_name, dtype_name(choice.dtype), dtype_name(choice.wanted), tensor.shape.back(),
               dtype_info(choice.wanted).block_elements));
    }
    plan.push_back({tensor, choice.dtype});
  }
  return plan;
}

void check_disk(const fs::path& output, uint64_t bytes) {
  const uint64_t free = free_disk_bytes(output);
  if (free < bytes + kSpareDiskBytes) {
    throw MachineError(
        text("{} needs {} MB of disk, but {} MB are free there; make room or choose another folder",
             output.string(), (bytes + kSpareDiskBytes) >> 20, free >> 20));
  }
}

struct ErrorSums {
  double difference = 0, power = 0;
};

// Encodes row by row on all threads and writes block after block.
class TensorStream {
 public:
  TensorStream(const ConvertOptions& options, ThreadPool& threads, GgufWriter& writer,
               ConvertProgress& progress)
      : options_(options), threads_(threads), writer_(writer), progress_(progress) {}

  // Adds to the sums where the target loses bits.
  void run(const TensorPlan& plan, const ConversionSource::Rows& rows, ErrorSums& sums) {
    const int64_t columns = rows.columns();
    const int64_t in_work = std::clamp<int64_t>(kValuesInWork / columns, 1, rows.rows());
    const auto row_bytes = static_cast<size_t>(dtype_bytes(plan.dtype, columns));
    encoded_.resize(static_cast<size_t>(in_work) * row_bytes);
    row_sums_.resize(static_cast<size_t>(in_work));
    progress_.tensor = plan.tensor.gguf_name;
    for (int64_t begin = 0; begin < rows.rows(); begin += in_work) {
      const int64_t count = std::min(in_work, rows.rows() - begin);
      encode(plan, rows, begin, count);
      // Summed in the order of the rows, so that the figure does not depend on the threads.
      for (int64_t row = 0; row < count; ++row) {
        sums.difference += row_sums_[row].difference;
        sums.power += row_sums_[row].power;
      }
      writer_.write(plan.tensor.gguf_name, encoded_.data(), static_cast<size_t>(count) * row_bytes);
      rows.release(begin, count);
      progress_.weights_done += static_cast<uint64_t>(count * columns);
      if (options_.progress) options_.progress(progress_);
    }
  }

 private:
  const float* importance_of(const TensorPlan& plan, int64_t columns) const {
    if (options_.importance == nullptr) return nullptr;
    const auto found = options_.importance->find(plan.tensor.gguf_name);
    if (found == options_.importance->end()) return nullptr;
    if (std::ssize(found->second) != columns) {
      throw InputError(
          text("the importance matrix has {} values for {}, which has {} columns: it belongs to another "
               "model",
               found->second.size(), plan.tensor.gguf_name, columns));
    }
    return found->second.data();
  }

  void encode(const TensorPlan& plan, const ConversionSource::Rows& rows, int64_t begin, int64_t count) {
    const int64_t columns = rows.columns();
    const auto row_bytes = static_cast<size_t>(dtype_bytes(plan.dtype, columns));
    const BlockFormat& format = block_format(plan.dtype);
    const float* importance = importance_of(plan, columns);
    threads_.parallel_for(count, 1, [&](int64_t first, int64_t last, int) {
      std::vector<float> values(static_cast<size_t>(columns)), decoded(static_cast<size_t>(columns));
      for (int64_t row = first; row < last; ++row) {
        rows.read(begin + row, values.data());
        check_finite(plan, values, begin + row);
        uint8_t* out = encoded_.data() + static_cast<size_t>(row) * row_bytes;
        format.encode(values.data(), columns, importance, out);
        row_sums_[row] = {};
        if (!is_quantized(plan.dtype)) continue;
        format.decode(out, columns, decoded.data());
        row_sums_[row] = compare(values, decoded);
      }
    });
  }

  static ErrorSums compare(const std::vector<float>& values, const std::vector<float>& decoded) {
    ErrorSums sums;
    for (size_t i = 0; i < values.size(); ++i) {
      const double difference = double{values[i]} - decoded[i];
      sums.difference += difference * difference;
      sums.power += double{values[i]} * values[i];
    }
    return sums;
  }

  static void check_finite(const TensorPlan& plan, const std::vector<float>& values, int64_t row) {
    float nothing = 0;  // 0 * x is 0 for every number, NaN for infinities and NaN: one pass without branches
    for (const float value : values) nothing += 0.0f * value;
    if (nothing == 0) return;
    for (size_t i = 0; i < values.size(); ++i) {
      if (std::isfinite(values[i])) continue;
      throw InputError(text("{} has a value that is no number at row {}, column {}: the weights are damaged",
                            plan.tensor.gguf_name, row, i));
    }
  }

  const ConvertOptions& options_;
  ThreadPool& threads_;
  GgufWriter& writer_;
  ConvertProgress& progress_;
  std::vector<uint8_t> encoded_;
  std::vector<ErrorSums> row_sums_;
};

}  // namespace

ConvertResult convert_to_gguf(const ConvertOptions& options, ThreadPool& threads) {
  const Stopwatch watch;
  ConvertResult result;
  const ConversionSource source(options.source, options.adapter);
  const std::vector<TensorPlan> plan = plan_tensors(source, options.recipe, result.warnings);
  std::vector<TensorSpec> specs;
  uint64_t data_bytes = 0;
  for (const TensorPlan& item : plan) {
    specs.push_back({item.tensor.gguf_name, item.dtype, item.tensor.shape});
    data_bytes += specs.back().bytes();
    result.weights += static_cast<uint64_t>(element_count(item.tensor.shape));
    ++result.tensors_by_dtype[item.dtype];
  }
  check_disk(options.output, data_bytes);
  GgufWriter writer(options.output, file_metadata(source, options), std::move(specs));
  ConvertProgress progress{"", 0, result.weights};
  TensorStream stream(options, threads, writer, progress);
  ErrorSums sums;
  for (const TensorPlan& item : plan) stream.run(item, source.open(item.tensor), sums);
  writer.commit();
  result.file_bytes = writer.size();
  result.bits_per_weight = 8.0 * static_cast<double>(data_bytes) / static_cast<double>(result.weights);
  result.relative_error = sums.power > 0 ? std::sqrt(sums.difference / sums.power) : 0;
  result.seconds = watch.seconds();
  return result;
}

}  // namespace onggi
