// Reads tokenizer.json in one pass. The vocabulary and the merges, nearly all of the file, go straight into
// vectors: as a tree of JSON values they would take several times the time and memory of the rest of loading
// a model's tokenizer.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/string_list.h"

namespace onggi {

struct TokenizerJson {
  nlohmann::json rest;  // the file without model.vocab and model.merges
  bool has_vocabulary = false, has_merges = false;
  std::vector<std::pair<std::string, uint64_t>> vocabulary;  // token, id
  StringList merges;                                         // "left right"
};

// Throws InputError for what is not JSON, and for entries of the vocabulary and merges of another form.
TokenizerJson read_tokenizer_json(std::string_view bytes);

// Throws the InputError of a damaged tokenizer.json.
[[noreturn]] void throw_damaged_tokenizer(const std::string& what);

}  // namespace onggi
