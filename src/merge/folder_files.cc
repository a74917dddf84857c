#include "merge/folder_files.h"

#include <algorithm>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "base/error.h"
#include "base/text.h"
#include "formats/json_file.h"

namespace onggi {
namespace {

using nlohmann::json;
using nlohmann::ordered_json;

bool is_there(const fs::path& path) {
  std::error_code ignored;
  return fs::exists(path, ignored);
}

// Vocabularies hold pieces of UTF-8 only in their byte-level spelling, so they are valid JSON strings.
std::string dump_plain(const ordered_json& document) {
  return document.dump(-1, ' ', false, ordered_json::error_handler_t::replace);
}

std::string dump_pretty(const ordered_json& document) {
  return document.dump(2, ' ', false, ordered_json::error_handler_t::replace) + "\n";
}

// What files can be derived from.
struct Sources {
  json tokenizer;         // tokenizer.json
  json tokenizer_config;  // tokenizer_config.json, or an empty object
  json config;            // config.json
};

using Derivation = std::optional<std::string> (*)(const Sources&);

// vocab.json as Hugging Face writes it: one line, ascending ids.
std::optional<std::string> derive_vocab(const Sources& sources) {
  const JsonObject model = JsonObject(sources.tokenizer, "tokenizer.json").object("model");
  std::vector<std::pair<int64_t, std::string>> tokens;
  const JsonObject vocab = model.object("vocab");
  for (const auto& [token, id] : vocab.json().items()) {
    if (!id.is_number_integer())
      throw InputError(text("the vocabulary of tokenizer.json gives {} no number", token));
    tokens.emplace_back(id.get<int64_t>(), token);
  }
  std::sort(tokens.begin(), tokens.end());
  ordered_json out = ordered_json::object();
  // push_back appends; operator[] would search the whole object each time.
  auto& members = out.get_ref<ordered_json::object_t&>();
  members.reserve(tokens.size());
  for (const auto& [id, token] : tokens) members.push_back({token, id});
  return dump_plain(out);
}

// merges.txt: a version line, then one pair a line. tokenizer.json spells a pair "a b" or ["a", "b"].
std::optional<std::string> derive_merges(const Sources& sources) {
  const JsonObject model = JsonObject(sources.tokenizer, "tokenizer.json").object("model");
  const json& merges = model.at("merges");
  if (!merges.is_array()) throw InputError(text("the merges of tokenizer.json are no list"));
  std::string out = "#version: 0.2\n";
  for (const json& merge : merges) {
    if (merge.is_string()) {
      out += merge.get<std::string>() + "\n";
    } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
      out += merge[0].get<std::string>() + " " + merge[1].get<std::string>() + "\n";
    } else {
      throw InputError(text("a merge of tokenizer.json is no pair of tokens"));
    }
  }
  return out;
}

// The template, or the one named "default" where tokenizer_config.json has several.
std::optional<std::string> derive_chat_template(const Sources& sources) {
  const auto found = sources.tokenizer_config.find("chat_template");
  if (found == sources.tokenizer_config.end()) return std::nullopt;
  if (found->is_string()) return found->get<std::string>();
  if (!found->is_array()) return std::nullopt;
  for (const json& named : *found)
    if (named.is_object() && named.value("name", json()) == "default" && named.contains("template") &&
        named["template"].is_string())
      return named["template"].get<std::string>();
  return std::nullopt;
}

const json& added_tokens(const Sources& sources) {
  static const json none = json::array();
  const auto found = sources.tokenizer.find("added_tokens");
  return found != sources.tokenizer.end() && found->is_array() ? *found : none;
}

// added_tokens.json: {"<|im_end|>": 151645, ...}, sorted by text.
std::optional<std::string> derive_added_tokens(const Sources& sources) {
  json out = json::object();
  for (const json& token : added_tokens(sources)) {
    const JsonObject object(token, "tokenizer.json: added_tokens");
    out[object.get_string("content")] = object.get_int("id");
  }
  return dump_pretty(out);
}

// A special token in its long form, with the flags that tokenizer.json gives it.
json long_form(const Sources& sources, const std::string& content) {
  json out = {{"content", content}};
  for (const char* flag : {"lstrip", "normalized", "rstrip", "single_word"}) out[flag] = false;
  for (const json& token : added_tokens(sources)) {
    if (!token.is_object() || token.value("content", json()) != content) continue;
    for (const char* flag : {"lstrip", "normalized", "rstrip", "single_word"})
      if (token.contains(flag)) out[flag] = token[flag];
  }
  return out;
}

// A special token of tokenizer_config.json, which may be a string or an object.
std::optional<std::string> special_token(const Sources& sources, const char* key) {
  const auto found = sources.tokenizer_config.find(key);
  if (found == sources.tokenizer_config.end()) return std::nullopt;
  if (found->is_string()) return found->get<std::string>();
  if (found->is_object() && found->contains("content") && (*found)["content"].is_string())
    return (*found)["content"].get<std::string>();
  return std::nullopt;
}

std::optional<std::string> derive_special_tokens_map(const Sources& sources) {
  json out = json::object();
  // transformers 4 and 5 name the list differently.
  for (const char* key : {"extra_special_tokens", "additional_special_tokens"}) {
    const auto found = sources.tokenizer_config.find(key);
    if (found != sources.tokenizer_config.end() && found->is_array())
      out["additional_special_tokens"] = *found;
  }
  for (const char* key : {"bos_token", "eos_token", "pad_token", "unk_token"})
    if (const auto content = special_token(sources, key)) out[key] = long_form(sources, *content);
  return dump_pretty(out);
}

// The text of the added token whose id config.json gives under `key`.
std::optional<std::string> token_of_config(const Sources& sources, const char* key) {
  const auto id = sources.config.find(key);
  if (id == sources.config.end() || !id->is_number_integer()) return std::nullopt;
  for (const json& token : added_tokens(sources))
    if (token.is_object() && token.value("id", json()) == *id)
      return JsonObject(token, "tokenizer.json").get_string("content");
  return std::nullopt;
}

std::optional<std::string> derive_tokenizer_config(const Sources& sources) {
  json out = {{"tokenizer_class", "PreTrainedTokenizerFast"}, {"clean_up_tokenization_spaces", false}};
  if (sources.config.contains("max_position_embeddings"))
    out["model_max_length"] = sources.config["max_position_embeddings"];
  if (const auto eos = token_of_config(sources, "eos_token_id")) out["eos_token"] = *eos;
  if (const auto pad = token_of_config(sources, "pad_token_id")) out["pad_token"] = *pad;
  json decoder = json::object();
  for (const json& token : added_tokens(sources)) {
    const JsonObject object(token, "tokenizer.json: added_tokens");
    json entry = long_form(sources, object.get_string("content"));
    entry["special"] = object.find_bool("special").value_or(false);
    decoder[std::to_string(object.get_int("id"))] = std::move(entry);
  }
  out["added_tokens_decoder"] = std::move(decoder);
  return dump_pretty(out);
}

std::optional<std::string> derive_generation_config(const Sources& sources) {
  json out = {{"_from_model_config", true}};
  for (const char* key : {"bos_token_id", "eos_token_id", "pad_token_id"})
    if (sources.config.contains(key)) out[key] = sources.config[key];
  return dump_pretty(out);
}

struct FolderFile {
  const char* name;
  Derivation derive;
};

// The seed's list, without config.json, which may need a change, and without what belongs to the weights.
constexpr FolderFile kFolderFiles[] = {
    {"generation_config.json", derive_generation_config},
    {"tokenizer.json", nullptr},
    {"vocab.json", derive_vocab},
    {"merges.txt", derive_merges},
    {"chat_template.jinja", derive_chat_template},
    {"tokenizer_config.json", derive_tokenizer_config},
    {"special_tokens_map.json", derive_special_tokens_map},
    {"added_tokens.json", derive_added_tokens},
};

void write_config(const fs::path& base, const fs::path& output, std::string_view dtype) {
  const fs::path from = base / "config.json", to = output / "config.json";
  json config = read_json_file(from);
  const char* key = config.contains("dtype") ? "dtype" : "torch_dtype";
  if (config.contains(key) && config[key] == dtype) {
    duplicate_file(from, to);
    return;
  }
  config[key] = dtype;
  write_json_file(to, config);
}

}  // namespace

std::vector<std::string> write_folder_files(const fs::path& base, const fs::path& output,
                                            std::string_view dtype, std::vector<std::string>& warnings) {
  if (!is_there(base / "tokenizer.json"))
    throw InputError(text("{} has no tokenizer.json: fetch the whole model again", base.string()));
  write_config(base, output, dtype);
  std::vector<std::string> written = {"config.json"};
  std::optional<Sources> sources;  // read only when something is missing
  for (const FolderFile& file : kFolderFiles) {
    if (is_there(base / file.name)) {
      duplicate_file(base / file.name, output / file.name);
      written.emplace_back(file.name);
      continue;
    }
    if (!sources) {
      sources = Sources{read_json_file(base / "tokenizer.json"), json::object(),
                        read_json_file(base / "config.json")};
      if (is_there(base / "tokenizer_config.json"))
        sources->tokenizer_config = read_json_file(base / "tokenizer_config.json");
    }
    const std::optional<std::string> derived = file.derive(*sources);
    if (!derived) {
      warnings.push_back(
          text("{} has no {} and nothing to derive it from: it is left out", base.string(), file.name));
      continue;
    }
    write_file(output / file.name, *derived);
    written.emplace_back(file.name);
  }
  return written;
}

}  // namespace onggi
