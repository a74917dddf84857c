// A model with all that talking to it needs.
#pragma once

#include <filesystem>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "base/threads.h"
#include "model/model.h"
#include "tokenizer/chat_template.h"
#include "tokenizer/tokenizer.h"

namespace onggi {

struct LoadedModel {
  std::shared_ptr<Model> model;
  Tokenizer tokenizer;
  std::optional<ChatTemplate> chat_template;  // absent: the model has none
  ThinkMode think = ThinkMode::kMixed;        // how it was trained; kMixed where nothing is recorded
  std::string name;                           // general.name of a GGUF, else the name of folder or file
};

// path: an HF folder or a GGUF file. The think mode comes from the adapter folder's or the merged folder's
// record (onggi_info.json, merge_info.json: "think_mode") or the GGUF's key "onggi.think". Throws InputError.
LoadedModel load_chat_model(const std::filesystem::path& path, const LoadOptions& options,
                            ThreadPool& threads, const Placement& placement = {});

// The tokenizer of an HF folder or a GGUF file, without the weights.
Tokenizer load_tokenizer(const std::filesystem::path& path);

// Throws InputError where a tokenizer has more tokens than the model of `path`.
void expect_vocabulary(const std::filesystem::path& path, const Tokenizer& tokenizer,
                       const ModelConfig& config);

// The ids of a conversation, with the generation prompt. `render.enable_thinking` absent: as the model was
// trained. Throws InputError where the model has no chat template.
std::vector<int32_t> render_prompt(const LoadedModel& model, const nlohmann::ordered_json& messages,
                                   RenderOptions render = {});

}  // namespace onggi
