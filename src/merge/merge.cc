#include "merge/merge.h"

#include <algorithm>
#include <cmath>
#include <regex>
#include <unordered_map>
#include <unordered_set>

#include "base/clock.h"
#include "base/error.h"
#include "base/text.h"
#include "formats/adapter.h"
#include "formats/lora_product.h"
#include "formats/safetensors.h"
#include "merge/folder_files.h"
#include "merge/row_math.h"
#include "model/config.h"
#include "model/tensor_names.h"

namespace onggi {
namespace {

constexpr const char* kInfoFile = "merge_info.json";
constexpr const char* kIndexFile = "model.safetensors.index.json";
// Room for everything that is not weights: the tokenizer's files of the largest vocabularies.
constexpr uint64_t kSmallFilesBytes = 64'000'000;

DType output_dtype(DType base) { return base == DType::kF16 ? DType::kF16 : DType::kBF16; }

std::string_view hf_dtype_name(DType dtype) { return dtype == DType::kF16 ? "float16" : "bfloat16"; }

bool same_folder(const fs::path& left, const fs::path& right) {
  std::error_code error;
  return fs::equivalent(left, right, error) && !error;
}

void check_folders(const MergeOptions& options) {
  for (const fs::path& input : {options.base_folder, options.adapter_folder})
    if (same_folder(input, options.output_folder))
      throw UsageError(
          text("the merged model cannot be written into {}, which is read: choose another folder",
               input.string()));
}

// An adapter's tensors must be weights of this model, in its shapes.
void check_adapter(const ModelConfig& config, const AdapterReader& adapter) {
  std::unordered_map<std::string, Shape> targets;
  for (const ModelTensor& tensor : model_tensors(config))
    if (!tensor.peft_module.empty()) targets.emplace(tensor.peft_module, tensor.shape);
  for (const std::string& module : adapter.modules()) {
    const auto found = targets.find(module);
    if (found == targets.end())
      throw InputError(text(
          "the adapter changes {}, which the base model does not have: it belongs to another model", module));
    const int64_t columns = adapter.a(module).shape[1], rows = adapter.b(module).shape[0];
    if (found->second != Shape{rows, columns})
      throw InputError(
          text("the adapter changes {} of the shape {}, but the base model's is {}: it belongs to another "
               "model",
               module, shape_text({rows, columns}), shape_text(found->second)));
  }
}

// The base's grouping into files where it respects the limit, else a new one. Only the model's own tensors:
// no copy of tied embeddings, no tables.
std::vector<ShardPlan> plan_output(const ModelConfig& config, const ShardedSafetensors& base,
                                   uint64_t max_bytes) {
  std::unordered_set<std::string> wanted;
  for (const ModelTensor& tensor : model_tensors(config)) wanted.insert(tensor.hf_name);
  std::vector<TensorSpec> all;
  std::vector<ShardPlan> as_base(base.files().size());
  for (const TensorInfo& info : base.tensors()) {
    if (!wanted.contains(info.name)) continue;
    all.push_back({info.name, output_dtype(info.dtype), info.shape});
    ShardPlan& shard = as_base[static_cast<size_t>(info.file)];
    shard.tensors.push_back(all.back());
    shard.bytes += all.back().bytes();
  }
  std::erase_if(as_base, [](const ShardPlan& shard) { return shard.tensors.empty(); });
  const bool fits = std::all_of(as_base.begin(), as_base.end(),
                                [&](const ShardPlan& shard) { return shard.bytes <= max_bytes; });
  if (!fits) return plan_shards(all, max_bytes);
  for (size_t i = 0; i < as_base.size(); ++i)
    as_base[i].file_name = fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, as_base.size());
  return as_base;
}

// AtomicFile's temporary names, NAME.pid.counter.tmp: a killed process could not remove them.
bool is_unfinished(const std::string& name) {
  static const std::regex pattern(R"(.+\.[0-9]+\.[0-9]+\.tmp)");
  return std::regex_match(name, pattern);
}

// Removes what an earlier merge into the folder left, the marks of completeness first.
void clear_output(const fs::path& folder) {
  std::error_code ignored;
  fs::remove(folder / kInfoFile, ignored);
  fs::remove(folder / kIndexFile, ignored);
  if (!fs::is_directory(folder, ignored)) return;
  std::vector<fs::path> stale;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    const bool weights =
        name == "model.safetensors" || (name.starts_with("model-") && name.ends_with(".safetensors"));
    if (weights || is_unfinished(name)) stale.push_back(entry.path());
  }
  for (const fs::path& path : stale) fs::remove(path, ignored);
}

void check_space(const fs::path& folder, uint64_t bytes) {
  const uint64_t needed = bytes + kSmallFilesBytes, free = free_disk_bytes(folder);
  if (free < needed)
    throw MachineError(
        text("the merged model needs {} MB at {}, but {} MB are free: free some space and run the same "
             "command again",
             needed / 1'000'000, folder.string(), free / 1'000'000));
}

// Writes the tensors of the shards, one after another.
class Merger {
 public:
  Merger(const MergeOptions& options, const ShardedSafetensors& base, const AdapterReader& adapter,
         ThreadPool& threads)
      : options_(options), base_(base), adapter_(adapter), threads_(threads) {}

  void set_total(uint64_t bytes) { progress_.bytes_total = bytes; }

  // module is the tensor's name in an adapter, empty for tensors that no adapter may change.
  void write_tensor(const TensorSpec& spec, const std::string& module, SafetensorsWriter& writer,
                    MergeResult& result) {
    const TensorInfo& info = base_.info(spec.name);
    progress_.tensor = spec.name;
    if (!module.empty() && adapter_.has(module)) {
      result.modules.push_back(merge_weight(spec, info, module, writer));
    } else if (!module.empty() && options_.base == MergeBase::kNf4Dequantized) {
      round_weight(spec, info, base_rows(info, spec.name), writer);
    } else if (info.dtype != spec.dtype) {
      round_weight(spec, info, BaseRows(base_.tensor(spec.name)), writer);
    } else {
      copy(spec, info, writer);
    }
  }

 private:
  void report(uint64_t bytes) {
    progress_.bytes_done += bytes;
    if (options_.progress) options_.progress(progress_);
  }

  BaseRows base_rows(const TensorInfo& info, const std::string& name) {
    if (options_.base == MergeBase::kOriginal16bit) return BaseRows(base_.tensor(name));
    if (info.shape.back() % kNf4BlockElements != 0)
      throw InputError(
          text("tensor {} has rows of {} elements, which NF4's blocks of {} do not divide: merge into the "
               "16-bit original",
               name, info.shape.back(), kNf4BlockElements));
    return BaseRows(base_, info, threads_);
  }

  // Calls body(row, buffer of the row's 16-bit output) for all rows, in parallel inside blocks that are then
  // written.
  template <typename Body>
  void for_rows(const TensorSpec& spec, const TensorInfo& info, SafetensorsWriter& writer, const Body& body) {
    const int64_t columns = spec.shape.back(), rows = element_count(spec.shape) / columns;
    const int64_t step = rows_per_block(rows, columns);
    const auto source_row = static_cast<uint64_t>(dtype_bytes(info.dtype, columns));
    std::vector<uint16_t> block(static_cast<size_t>(step * columns));
    for (int64_t begin = 0; begin < rows; begin += step) {
      const int64_t count = std::min(step, rows - begin);
      threads_.parallel_for(count, 1, [&](int64_t from, int64_t to, int) {
        for (int64_t n = from; n < to; ++n) body(begin + n, block.data() + n * columns);
      });
      const auto bytes = static_cast<size_t>(count * columns) * sizeof(uint16_t);
      writer.write(spec.name, block.data(), bytes);
      base_.release_part(info, static_cast<uint64_t>(begin) * source_row,
                         static_cast<uint64_t>(count) * source_row);
      report(bytes);
    }
  }

  void copy(const TensorSpec& spec, const TensorInfo& info, SafetensorsWriter& writer) {
    constexpr uint64_t kPiece = uint64_t{4} << 20;
    const auto* data = static_cast<const std::byte*>(base_.tensor(spec.name).data);
    for (uint64_t begin = 0; begin < info.bytes; begin += kPiece) {
      const uint64_t bytes = std::min(kPiece, info.bytes - begin);
      writer.write(spec.name, data + begin, bytes);
      base_.release_part(info, begin, bytes);
      report(bytes);
    }
  }

  void round_weight(const TensorSpec& spec, const TensorInfo& info, const BaseRows& rows,
                    SafetensorsWriter& writer) {
    const int64_t columns = spec.shape.back();
    for_rows(spec, info, writer, [&](int64_t row, uint16_t* out) {
      std::vector<float> weight(static_cast<size_t>(columns));
      rows.read(row, weight.data());
      round_row(weight.data(), columns, spec.dtype, out);
    });
  }

  MergedModule merge_weight(const TensorSpec& spec, const TensorInfo& info, const std::string& module,
                            SafetensorsWriter& writer) {
    const int64_t columns = spec.shape.back();
    const LoraProduct product(adapter_, module);
    const BaseRows base = base_rows(info, spec.name);
    // Kept by row and added in order, so that the figures do not depend on the number of threads.
    std::vector<RowChange> changes(static_cast<size_t>(spec.shape.front()));
    for_rows(spec, info, writer, [&](int64_t row, uint16_t* out) {
      std::vector<float> buffer(static_cast<size_t>(2 * columns));
      float *weight = buffer.data(), *delta = buffer.data() + columns;
      base.read(row, weight);
      product.row(row, delta);
      changes[static_cast<size_t>(row)] = merge_row(weight, delta, columns, spec.dtype, out);
    });
    return summary(module, changes, element_count(spec.shape));
  }

  static MergedModule summary(const std::string& module, const std::vector<RowChange>& changes,
                              int64_t elements) {
    RowChange sum;
    for (const RowChange& change : changes) {
      sum.delta_squares += change.delta_squares;
      sum.weight_squares += change.weight_squares;
      sum.error_squares += change.error_squares;
      sum.changed += change.changed;
    }
    MergedModule merged;
    merged.module = module;
    merged.delta_norm = std::sqrt(sum.delta_squares);
    merged.weight_norm = std::sqrt(sum.weight_squares);
    merged.relative_change = sum.weight_squares > 0 ? merged.delta_norm / merged.weight_norm : 0;
    merged.changed_share = static_cast<double>(sum.changed) / static_cast<double>(elements);
    merged.rounding_error = sum.delta_squares > 0 ? std::sqrt(sum.error_squares / sum.delta_squares) : 0;
    return merged;
  }

  const MergeOptions& options_;
  const ShardedSafetensors& base_;
  const AdapterReader& adapter_;
  ThreadPool& threads_;
  MergeProgress progress_;
};

// Share of a delta that rounding may take. The base's weights are 16-bit numbers already, so rounding to the
// nearest never moves a sum by more than the delta itself: 1 means that nothing of it is left.
constexpr double kLost = 0.9;

// A delta smaller than the spacing of 16-bit numbers is lost when it is added; whoever merges should know.
void add_rounding_warnings(MergeResult& result, std::string_view dtype) {
  size_t lost = 0;
  const MergedModule* first = nullptr;
  for (const MergedModule& module : result.modules) {
    const bool vanished =
        module.delta_norm > 0 && (module.changed_share == 0 || module.rounding_error > kLost);
    if (!vanished) continue;
    if (lost++ == 0) first = &module;
  }
  if (first == nullptr) return;
  result.warnings.push_back(text(
      "the change of {} of {} weights is smaller than what rounding to {} loses (first: {}, relative size "
      "{:.2e}, "
      "{:.1f} % of its values changed): train longer or with a higher learning rate, or serve the adapter "
      "unmerged",
      lost, result.modules.size(), dtype, first->module, first->relative_change, 100 * first->changed_share));
}

}  // namespace

std::string_view merge_base_name(MergeBase base) {
  return base == MergeBase::kNf4Dequantized ? "nf4_dequantized" : "original_16bit";
}

MergeResult merge_adapter(const MergeOptions& options, ThreadPool& threads) {
  const Stopwatch watch;
  check_folders(options);
  check_provenance(options.provenance_json);
  const ModelConfig config = read_hf_config(options.base_folder);
  const ShardedSafetensors base(options.base_folder);
  check_tensors(config, NameStyle::kHuggingFace, base);
  const AdapterReader adapter(options.adapter_folder);
  check_adapter(config, adapter);

  const std::vector<ShardPlan> shards = plan_output(config, base, options.max_shard_bytes);
  MergeResult result;
  for (const ShardPlan& shard : shards) {
    result.bytes += shard.bytes;
    for (const TensorSpec& spec : shard.tensors)
      result.parameters += static_cast<uint64_t>(element_count(spec.shape));
  }
  clear_output(options.output_folder);
  check_space(options.output_folder, result.bytes);

  std::unordered_map<std::string, std::string> module_of;
  for (const ModelTensor& tensor : model_tensors(config))
    module_of.emplace(tensor.hf_name, tensor.peft_module);
  Merger merger(options, base, adapter, threads);
  merger.set_total(result.bytes);
  for (const ShardPlan& shard : shards) {
    SafetensorsWriter writer(options.output_folder / shard.file_name, shard.tensors);
    for (const TensorSpec& spec : shard.tensors)
      merger.write_tensor(spec, module_of.at(spec.name), writer, result);
    writer.commit();
    result.files.push_back(shard.file_name);
  }

  const std::string_view dtype = hf_dtype_name(shards.front().tensors.front().dtype);
  add_rounding_warnings(result, dtype);
  for (std::string& name :
       write_folder_files(options.base_folder, options.output_folder, dtype, result.warnings))
    result.files.push_back(std::move(name));
  MergeFacts facts{.options = options,
                   .result = result,
                   .adapter_sha256 = sha256_hex_of_file(adapter.tensors().path()),
                   .base_model = adapter.config().base_model,
                   .r = adapter.config().r,
                   .alpha = adapter.config().alpha,
                   .scale = adapter.config().scale(),
                   .target_modules = adapter.config().target_modules,
                   .dtype = std::string(dtype),
                   .architecture = std::string(hf_architecture_name(config.architecture)),
                   .shards = {}};
  for (const ShardPlan& shard : shards) facts.shards.push_back(shard.file_name);
  write_model_card(facts);
  write_shard_index(options.output_folder, shards);
  write_merge_info(facts);
  for (const char* name : {"README.md", kIndexFile, kInfoFile}) result.files.emplace_back(name);
  result.seconds = watch.seconds();
  return result;
}

}  // namespace onggi
