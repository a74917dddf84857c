// Files of rows -> JSON objects with the line where each begins; rows that cannot be read are kept apart with
// a reason.
#pragma once

#include <cstddef>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "data/dataset.h"

namespace onggi {

struct RawRow {
  size_t line = 0;
  nlohmann::ordered_json object;  // an object where reason is empty
  std::string reason;             // why the row cannot be read
};

// Throws InputError where the file as a whole cannot be read: a JSON file that is no array, a CSV file
// without header.
std::vector<RawRow> read_rows(std::string_view bytes, DataFormat format, std::string_view name);

// A JSON text of a cell or field; throws InputError with a short reason where it is broken or nested too
// deep.
nlohmann::ordered_json parse_row_json(std::string_view text);

}  // namespace onggi
