#include "quantize/source.h"

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "base/text.h"
#include "blocks/block_format.h"
#include "tokenizer/tokenizer.h"

namespace onggi {
namespace {

// Keys of a GGUF source that describe that file and not the model.
bool belongs_to_the_file(const std::string& key) {
  return key == "general.file_type" || key == "general.quantization_version" || key == "general.alignment" ||
         key == "onggi.recipe" || key == "onggi.chat_template_sha256" || key.starts_with("split.") ||
         key.starts_with("quantize.imatrix.");
}

void add_vocabulary(GgufVocabulary vocabulary, const ModelConfig& config, std::vector<GgufEntry>& entries) {
  const auto add = [&](const char* key, GgufValue value) {
    entries.emplace_back(std::string("tokenizer.ggml.") + key, std::move(value));
  };
  const auto add_id = [&](const char* key, std::optional<int32_t> id, int64_t otherwise) {
    const int64_t value = id ? *id : otherwise;
    if (value >= 0) add(key, static_cast<uint32_t>(value));
  };
  // GGUF has no list of ids that end a generation; readers add the end of a chat turn by its own key.
  const auto end_of_turn = std::find(vocabulary.tokens.begin(), vocabulary.tokens.end(), "<|im_end|>");
  const bool has_end_of_turn = end_of_turn != vocabulary.tokens.end();
  const auto end_of_turn_id = static_cast<uint32_t>(end_of_turn - vocabulary.tokens.begin());

  add("model", std::string("gpt2"));
  add("pre", std::move(vocabulary.pre));
  add("tokens", std::move(vocabulary.tokens));
  add("token_type", std::move(vocabulary.token_types));
  add("merges", std::move(vocabulary.merges));
  add_id("eos_token_id", vocabulary.eos_id, config.eos_token_ids.empty() ? -1 : config.eos_token_ids.front());
  if (has_end_of_turn) add("eot_token_id", end_of_turn_id);
  add_id("padding_token_id", vocabulary.pad_id, config.pad_token_id);
  add_id("bos_token_id", vocabulary.bos_id, config.bos_token_id);
  add("add_bos_token", false);
  if (!vocabulary.chat_template.empty()) {
    entries.emplace_back("tokenizer.chat_template", std::move(vocabulary.chat_template));
  }
}

}  // namespace

ConversionSource::ConversionSource(const fs::path& source, const fs::path& adapter) : path_(source) {
  std::error_code ignored;
  if (fs::is_directory(source, ignored)) {
    open_folder(source);
  } else {
    open_gguf(source);
  }
  tensors_ = model_tensors(config_);
  if (!adapter.empty()) open_adapter(adapter);
}

void ConversionSource::open_folder(const fs::path& folder) {
  config_ = read_hf_config(folder);
  folder_ = std::make_unique<ShardedSafetensors>(folder);
  style_ = NameStyle::kHuggingFace;
  check_tensors(config_, style_, *folder_);
}

void ConversionSource::open_gguf(const fs::path& file) {
  gguf_ = std::make_unique<GgufReader>(file);
  config_ = parse_gguf_config(gguf_->header());
  style_ = NameStyle::kGguf;
  check_tensors(config_, style_, *gguf_);
}

void ConversionSource::open_adapter(const fs::path& folder) {
  adapter_ = std::make_unique<AdapterReader>(folder);
  for (const std::string& module : adapter_->modules()) {
    const auto tensor = std::find_if(tensors_.begin(), tensors_.end(),
                                     [&](const ModelTensor& t) { return t.peft_module == module; });
    const Shape adapted = {adapter_->b(module).shape[0], adapter_->a(module).shape[1]};
    if (tensor == tensors_.end()) {
      throw InputError(
          text("the adapter {} changes {}, which {} does not have: give the base model that it was "
               "trained on",
               folder.string(), module, path_.string()));
    }
    if (tensor->shape != adapted) {
      throw InputError(
          text("the adapter {} has the shape {} for {}, but {} has {}: give the base model that it was "
               "trained on",
               folder.string(), shape_text(adapted), module, path_.string(), shape_text(tensor->shape)));
    }
  }
}

std::vector<GgufEntry> ConversionSource::metadata() const {
  if (gguf_ != nullptr) {
    std::vector<GgufEntry> entries;
    for (const GgufEntry& entry : gguf_->header().metadata) {
      if (!belongs_to_the_file(entry.first)) entries.push_back(entry);
    }
    return entries;
  }
  std::vector<GgufEntry> entries = gguf_config_entries(config_);
  entries.insert(entries.begin() + 1, {"general.type", std::string("model")});
  const Tokenizer tokenizer = Tokenizer::load(path_);
  add_vocabulary(gguf_vocabulary(tokenizer, static_cast<int32_t>(config_.vocab_size)), config_, entries);
  return entries;
}

ConversionSource::Rows ConversionSource::open(const ModelTensor& tensor) const {
  const MappedTensors& file = folder_ != nullptr ? static_cast<const MappedTensors&>(*folder_) : *gguf_;
  std::optional<LoraProduct> lora;
  if (adapter_ != nullptr && !tensor.peft_module.empty() && adapter_->has(tensor.peft_module)) {
    lora.emplace(*adapter_, tensor.peft_module);
  }
  return {file, file.info(tensor.name(style_)), std::move(lora)};
}

ConversionSource::Rows::Rows(const MappedTensors& file, const TensorInfo& info,
                             std::optional<LoraProduct> lora)
    : file_(&file), info_(&info), view_(file.tensor(info.name)), lora_(std::move(lora)) {
  columns_ = info.shape.empty() ? 1 : info.shape.back();
  rows_ = columns_ > 0 ? element_count(info.shape) / columns_ : 0;
  row_bytes_ = dtype_bytes(info.dtype, columns_);
}

void ConversionSource::Rows::read(int64_t row, float* out) const {
  const auto* bytes = static_cast<const std::byte*>(view_.data) + row * row_bytes_;
  block_format(info_->dtype).decode(bytes, columns_, out);
  if (lora_) lora_->add(row, out);
}

void ConversionSource::Rows::release(int64_t begin, int64_t count) const {
  file_->release_part(*info_, static_cast<uint64_t>(begin * row_bytes_),
                      static_cast<uint64_t>(count * row_bytes_));
}

}  // namespace onggi
