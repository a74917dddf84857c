#include "tokenizer/tokenizer_json.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/text.h"
#include "tokenizer/pre_tokenizers.h"
#include "tokenizer/tokenizer_json_reader.h"

namespace onggi {
namespace {

using Json = nlohmann::json;

[[noreturn]] void unsupported(const std::string& construct) {
  throw InputError(
      text("tokenizer.json uses {}, which is not supported; only byte-level BPE as in Qwen3 is", construct));
}

[[noreturn]] void broken(const std::string& what) { throw_damaged_tokenizer(what); }

Json parse(std::string_view bytes, const char* file) {
  try {
    return Json::parse(bytes);
  } catch (const Json::exception& error) {
    throw InputError(text("{} is not valid JSON: {}; fetch the file again", file, error.what()));
  }
}

// A member that may be absent or null.
const Json* find(const Json& object, const char* key) {
  const auto found = object.find(key);
  return found == object.end() || found->is_null() ? nullptr : &*found;
}

const Json& object_at(const Json& object, const char* key) {
  const Json* member = find(object, key);
  if (member == nullptr || !member->is_object()) broken(text("\"{}\" is missing or not an object", key));
  return *member;
}

std::string type_of(const Json& object, const char* where) {
  const Json* type = object.is_object() ? find(object, "type") : nullptr;
  if (type == nullptr || !type->is_string()) broken(text("{} has no \"type\"", where));
  return type->get<std::string>();
}

bool flag(const Json& object, const char* key, bool absent) {
  const Json* member = find(object, key);
  if (member == nullptr) return absent;
  if (!member->is_boolean()) broken(text("\"{}\" is not true or false", key));
  return member->get<bool>();
}

std::string string_of(const Json& value, const char* what) {
  if (!value.is_string()) broken(text("{} is not a string", what));
  return value.get<std::string>();
}

const Json& array_in(const Json& object, const char* key, const char* where) {
  const Json* member = find(object, key);
  if (member == nullptr || !member->is_array()) broken(text("{} has no list \"{}\"", where, key));
  return *member;
}

bool reads_nfc(const Json* normalizer) {
  if (normalizer == nullptr) return false;
  const std::string type = type_of(*normalizer, "the normalizer");
  if (type == "NFC") return true;
  if (type != "Sequence") unsupported(text("the normalizer {}", type));
  bool nfc = false;
  for (const Json& part : array_in(*normalizer, "normalizers", "the normalizer")) {
    const std::string part_type = type_of(part, "a normalizer");
    if (part_type != "NFC") unsupported(text("the normalizer {}", part_type));
    nfc = true;
  }
  return nfc;
}

void read_split(const Json& split, std::vector<std::string>& patterns) {
  const Json& pattern = object_at(split, "pattern");
  const Json* regex = find(pattern, "Regex");
  if (regex == nullptr) unsupported("a Split pre-tokenizer without \"Regex\"");
  const Json* behavior = find(split, "behavior");
  if (behavior == nullptr || *behavior != "Isolated") {
    unsupported("a Split pre-tokenizer with another behavior than Isolated");
  }
  if (flag(split, "invert", false)) unsupported("a Split pre-tokenizer with invert");
  patterns.push_back(string_of(*regex, "the splitting expression"));
}

void read_byte_level(const Json& byte_level, std::vector<std::string>& patterns) {
  if (flag(byte_level, "add_prefix_space", true))
    unsupported("a ByteLevel pre-tokenizer with add_prefix_space");
  if (flag(byte_level, "use_regex", true)) patterns.emplace_back(byte_level_pattern());
}

// The splitting expressions of a pre-tokenizer: any number of Split, then ByteLevel.
std::vector<std::string> read_pre_tokenizer(const Json& pre_tokenizer) {
  std::vector<std::string> patterns;
  const std::string type = type_of(pre_tokenizer, "the pre-tokenizer");
  if (type == "ByteLevel") {
    read_byte_level(pre_tokenizer, patterns);
    return patterns;
  }
  if (type != "Sequence") unsupported(text("the pre-tokenizer {}", type));
  const Json& parts = array_in(pre_tokenizer, "pretokenizers", "the pre-tokenizer");
  bool byte_level = false;
  for (const Json& part : parts) {
    const std::string part_type = type_of(part, "a pre-tokenizer");
    if (byte_level) unsupported(text("the pre-tokenizer {} after ByteLevel", part_type));
    if (part_type == "Split") {
      read_split(part, patterns);
    } else if (part_type == "ByteLevel") {
      read_byte_level(part, patterns);
      byte_level = true;
    } else {
      unsupported(text("the pre-tokenizer {}", part_type));
    }
  }
  if (!byte_level) unsupported("a pre-tokenizer without ByteLevel");
  return patterns;
}

// ByteLevel changes offsets alone; a template without special tokens adds nothing to one text.
void check_post_processor(const Json* post_processor) {
  if (post_processor == nullptr) return;
  const std::string type = type_of(*post_processor, "the post-processor");
  if (type == "ByteLevel") return;
  if (type == "Sequence") {
    for (const Json& part : array_in(*post_processor, "processors", "the post-processor")) {
      if (type_of(part, "a post-processor") == "Sequence")
        unsupported("a Sequence inside a post-processor Sequence");
      check_post_processor(&part);
    }
    return;
  }
  if (type != "TemplateProcessing") unsupported(text("the post-processor {}", type));
  for (const Json& part : array_in(*post_processor, "single", "the post-processor")) {
    if (!part.is_object() || part.contains("SpecialToken") || !part.contains("Sequence")) {
      unsupported("a TemplateProcessing post-processor that adds tokens");
    }
  }
}

void check_decoder(const Json* decoder) {
  if (decoder == nullptr) unsupported("no decoder");
  const std::string type = type_of(*decoder, "the decoder");
  if (type != "ByteLevel") unsupported(text("the decoder {}", type));
}

void check_model(const Json& model) {
  const Json* type = find(model, "type");  // files of old have none
  if (type != nullptr && *type != "BPE")
    unsupported(text("the model {}", string_of(*type, "the model's type")));
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    const Json* affix = find(model, key);
    if (affix != nullptr && *affix != "") unsupported(text("\"{}\"", key));
  }
  const Json* dropout = find(model, "dropout");
  if (dropout != nullptr && *dropout != 0.0) unsupported("\"dropout\"");
  if (flag(model, "byte_fallback", false)) unsupported("\"byte_fallback\"");
}

// Ids are dense but for a few holes; a file that claims otherwise would make us allocate without bound.
size_t id_bound(size_t tokens) { return tokens * 2 + 65536; }

int32_t checked_id(uint64_t id, size_t bound, const std::string& token) {
  if (id >= bound) broken(text("the id of the token \"{}\" is not below {}", token.substr(0, 100), bound));
  return static_cast<int32_t>(id);
}

void put_token(std::vector<std::string>& tokens, int32_t id, const std::string& token) {
  if (static_cast<size_t>(id) >= tokens.size()) tokens.resize(id + 1);
  if (!tokens[id].empty() && tokens[id] != token) {
    broken(text("the id {} belongs to two tokens, \"{}\" and \"{}\"", id, tokens[id].substr(0, 100),
                token.substr(0, 100)));
  }
  tokens[id] = token;
}

// [V] by id.
std::vector<std::string> read_vocabulary(const TokenizerJson& file, size_t bound) {
  std::vector<std::string> tokens;
  tokens.reserve(file.vocabulary.size());
  for (const auto& [token, id] : file.vocabulary) {
    if (token.empty()) broken("a token of the vocabulary is empty");
    put_token(tokens, checked_id(id, bound, token), token);
  }
  return tokens;
}

// Puts them among `tokens`, too.
std::vector<AddedToken> read_added_tokens(const Json& root, size_t bound, std::vector<std::string>& tokens) {
  std::vector<AddedToken> added;
  const Json* added_tokens = find(root, "added_tokens");
  if (added_tokens == nullptr) return added;
  if (!added_tokens->is_array()) broken("\"added_tokens\" is not a list");
  for (const Json& entry : *added_tokens) {
    if (!entry.is_object() || !entry.contains("content") || !entry.contains("id")) {
      broken("an added token has no \"content\" or no \"id\"");
    }
    AddedToken token;
    token.content = string_of(entry["content"], "the content of an added token");
    if (!entry["id"].is_number_unsigned())
      broken(text("the id of the token \"{}\" is not a number", token.content));
    token.id = checked_id(entry["id"].get<uint64_t>(), bound, token.content);
    token.special = flag(entry, "special", false);
    token.lstrip = flag(entry, "lstrip", false);
    token.rstrip = flag(entry, "rstrip", false);
    token.single_word = flag(entry, "single_word", false);
    token.normalized = flag(entry, "normalized", !token.special);
    put_token(tokens, token.id, token.content);
    added.push_back(std::move(token));
  }
  return added;
}

// "eos_token": "<|im_end|>", or an object with "content".
std::optional<int32_t> special_id(const Json& config, const char* key,
                                  const std::vector<std::string>& tokens) {
  const Json* value = find(config, key);
  if (value == nullptr) return std::nullopt;
  if (value->is_object()) value = find(*value, "content");
  if (value == nullptr || !value->is_string()) {
    throw InputError(text("\"{}\" in tokenizer_config.json is not a token; correct the file", key));
  }
  const auto& content = value->get_ref<const std::string&>();
  const auto found = std::find(tokens.rbegin(), tokens.rend(), content);
  if (content.empty() || found == tokens.rend()) {
    throw InputError(
        text("\"{}\" in tokenizer_config.json is \"{}\", which tokenizer.json does not have; correct one of "
             "the files",
             key, content));
  }
  return static_cast<int32_t>(tokens.rend() - found - 1);
}

// A string, or a list of {"name", "template"} of which "default" counts.
std::string config_template(const Json& config) {
  const Json* value = find(config, "chat_template");
  if (value == nullptr) return {};
  if (value->is_string()) return value->get<std::string>();
  if (value->is_array()) {
    for (const Json& entry : *value) {
      if (!entry.is_object()) break;
      const Json* name = find(entry, "name");
      const Json* content = find(entry, "template");
      if (name != nullptr && *name == "default" && content != nullptr && content->is_string()) {
        return content->get<std::string>();
      }
    }
  }
  throw InputError(
      text("\"chat_template\" in tokenizer_config.json is neither a text nor a list with a template named "
           "\"default\"; "
           "correct the file"));
}

}  // namespace

TokenizerParts parse_tokenizer_json(std::string_view tokenizer_json, std::string_view tokenizer_config_json,
                                    std::string_view chat_template) {
  TokenizerJson file = read_tokenizer_json(tokenizer_json);
  const Json& root = file.rest;
  if (!root.is_object()) broken("it is not an object");
  // "truncation" and "padding" are not read: transformers sets both anew for each call.
  TokenizerParts parts;
  const Json& model = object_at(root, "model");
  check_model(model);
  parts.ignore_merges = flag(model, "ignore_merges", false);
  parts.normalize_nfc = reads_nfc(find(root, "normalizer"));
  const Json* pre_tokenizer = find(root, "pre_tokenizer");
  if (pre_tokenizer == nullptr) unsupported("no pre-tokenizer");
  parts.split_patterns = read_pre_tokenizer(*pre_tokenizer);
  parts.pre_tokenizer = pre_tokenizer_name(parts.split_patterns);
  check_post_processor(find(root, "post_processor"));
  check_decoder(find(root, "decoder"));

  if (!file.has_vocabulary) broken("the model has no object \"vocab\"");
  if (!file.has_merges) broken("the model has no list \"merges\"");
  const Json* added = find(root, "added_tokens");
  const size_t bound = id_bound(file.vocabulary.size() + (added == nullptr ? 0 : added->size()));
  std::vector<std::string> tokens = read_vocabulary(file, bound);
  parts.merges = std::move(file.merges);
  parts.added_tokens = read_added_tokens(root, bound, tokens);
  for (const std::string& token : tokens) parts.tokens.push_back(token);

  if (!tokenizer_config_json.empty()) {
    const Json config = parse(tokenizer_config_json, "tokenizer_config.json");
    if (!config.is_object())
      throw InputError(text("tokenizer_config.json is not an object; fetch the file again"));
    parts.bos_id = special_id(config, "bos_token", tokens);
    parts.eos_id = special_id(config, "eos_token", tokens);
    parts.pad_id = special_id(config, "pad_token", tokens);
    if (chat_template.empty()) parts.chat_template = config_template(config);
  }
  if (!chat_template.empty()) parts.chat_template = std::string(chat_template);
  return parts;
}

}  // namespace onggi
