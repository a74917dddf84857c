#include "infer/chat_model.h"

#include <future>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/text.h"
#include "formats/gguf.h"
#include "formats/json_file.h"

namespace onggi {
namespace {

bool is_gguf(const fs::path& path) {
  if (fs::is_regular_file(path)) return true;
  if (fs::is_directory(path)) return false;
  throw InputError(text("there is no model at {}; give a Hugging Face folder or a GGUF file", path.string()));
}

GgufFile read_head(const fs::path& path) { return parse_gguf(MappedFile(path).bytes(), path.string()); }

// Takes the vocabulary out of the file.
Tokenizer take_tokenizer(GgufFile& file) {
  const auto model = file.find_string("tokenizer.ggml.model");
  if (model != "gpt2") {
    throw InputError(text("{} has a tokenizer of the kind {}, but only byte-level BPE (gpt2) is supported",
                          file.source, model.value_or("(none)")));
  }
  GgufVocabulary vocabulary;
  vocabulary.tokens = file.take_strings("tokenizer.ggml.tokens");
  vocabulary.merges = file.take_strings("tokenizer.ggml.merges");
  vocabulary.pre = file.find_string("tokenizer.ggml.pre").value_or("");
  vocabulary.chat_template = file.find_string("tokenizer.chat_template").value_or("");
  if (const auto* types = file.find_ints("tokenizer.ggml.token_type")) vocabulary.token_types = *types;
  const auto id = [&](const char* key) -> std::optional<int32_t> {
    const auto value = file.find_int(key);
    if (!value) return std::nullopt;
    if (*value < 0 || *value >= static_cast<int64_t>(vocabulary.tokens.size())) {
      throw InputError(text("{} in {} is {}, which is no token", key, file.source, *value));
    }
    return static_cast<int32_t>(*value);
  };
  vocabulary.bos_id = id("tokenizer.ggml.bos_token_id");
  vocabulary.eos_id = id("tokenizer.ggml.eos_token_id");
  vocabulary.pad_id = id("tokenizer.ggml.padding_token_id");
  return Tokenizer::from_parts(parts_of(std::move(vocabulary)));
}

ThinkMode think_mode_from(const std::string& name, const std::string& source) {
  for (const ThinkMode mode : {ThinkMode::kEmpty, ThinkMode::kKept, ThinkMode::kMixed}) {
    if (name_of(mode) == name) return mode;
  }
  throw InputError(text("{} records the think mode {}, which is none of empty, kept, mixed", source, name));
}

// What a stage recorded in `folder`, if it did.
std::optional<ThinkMode> recorded_think_mode(const fs::path& folder, const char* file_name) {
  const fs::path path = folder / file_name;
  if (!fs::exists(path)) return std::nullopt;
  const nlohmann::json document = read_json_file(path);
  // merge_info.json keeps what was known before the merge apart.
  const nlohmann::json& record = document.contains("provenance") ? document["provenance"] : document;
  const auto name = JsonObject(record, path.string()).find_string("think_mode");
  if (!name) return std::nullopt;
  return think_mode_from(*name, path.string());
}

std::optional<ThinkMode> think_mode_of_folder(const fs::path& folder) {
  if (auto mode = recorded_think_mode(folder, "onggi_info.json")) return mode;
  return recorded_think_mode(folder, "merge_info.json");
}

std::string name_of_path(const fs::path& path) {
  const fs::path clean = fs::absolute(path).lexically_normal();
  if (fs::is_directory(clean))
    return (clean.has_filename() ? clean : clean.parent_path()).filename().string();
  return clean.stem().string();
}

// What a GGUF's header says, or a folder's files.
struct Description {
  Tokenizer tokenizer;
  std::optional<ThinkMode> think;
  std::string name;
};

Description describe(const fs::path& path) {
  if (!is_gguf(path)) return {Tokenizer::load(path), think_mode_of_folder(path), name_of_path(path)};
  GgufFile file = read_head(path);
  Description description{take_tokenizer(file), std::nullopt, file.find_string("general.name").value_or("")};
  if (description.name.empty()) description.name = name_of_path(path);
  if (const auto name = file.find_string("onggi.think")) {
    description.think = think_mode_from(*name, path.string());
  }
  return description;
}

}  // namespace

LoadedModel load_chat_model(const fs::path& path, const LoadOptions& options, ThreadPool& threads,
                            const Placement& placement) {
  // The tokenizer takes about as long as the weights of a small model: both are read at the same time.
  std::future<Description> describing = std::async(std::launch::async, describe, path);
  std::shared_ptr<Model> model;
  try {
    model = load_model(path, options, threads, placement);
  } catch (...) {
    describing.get();  // where both fail, what is wrong with the tokenizer is told
    throw;
  }
  Description description = describing.get();
  LoadedModel loaded{.model = std::move(model),
                     .tokenizer = std::move(description.tokenizer),
                     .chat_template = {},
                     .think = description.think.value_or(ThinkMode::kMixed),
                     .name = std::move(description.name)};
  if (options.adapter) {
    if (const auto mode = think_mode_of_folder(*options.adapter)) loaded.think = *mode;
  }
  if (!loaded.tokenizer.chat_template().empty()) loaded.chat_template = ChatTemplate::of(loaded.tokenizer);
  expect_vocabulary(path, loaded.tokenizer, loaded.model->config);
  return loaded;
}

void expect_vocabulary(const fs::path& path, const Tokenizer& tokenizer, const ModelConfig& config) {
  if (tokenizer.vocabulary_size() <= config.vocab_size) return;
  throw InputError(
      text("the tokenizer of {} has {} tokens, but its model only {}; they do not belong together",
           path.string(), tokenizer.vocabulary_size(), config.vocab_size));
}

Tokenizer load_tokenizer(const fs::path& path) {
  if (!is_gguf(path)) return Tokenizer::load(path);
  GgufFile file = read_head(path);
  return take_tokenizer(file);
}

std::vector<int32_t> render_prompt(const LoadedModel& model, const nlohmann::ordered_json& messages,
                                   RenderOptions render) {
  if (!model.chat_template) {
    throw InputError(text("the model {} has no chat template; give the prompt as raw text", model.name));
  }
  if (!render.enable_thinking) render.enable_thinking = enable_thinking_of(model.think);
  return model.tokenizer.encode(model.chat_template->render(messages, render));
}

}  // namespace onggi
