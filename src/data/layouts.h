// One row of a file -> one conversation.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "data/dataset.h"

namespace onggi {

// A conversation as chat templates take it.
struct Conversation {
  nlohmann::ordered_json messages;  // an array of {"role", "content", ...}
  nlohmann::ordered_json tools;     // an array, or null
};

// The layout of a row by its fields.
std::optional<DataLayout> layout_of(const nlohmann::ordered_json& row);

// Throws InputError with a short reason where a field is missing, empty or of the wrong type.
Conversation read_conversation(const nlohmann::ordered_json& row, DataLayout layout);

// An optional text field of a row; empty where it is absent. Throws InputError where it is no text.
std::string optional_text(const nlohmann::ordered_json& row, const char* field);

}  // namespace onggi
