// The reference data of the tokenizer tests.
#pragma once

#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

#include "base/file.h"

namespace onggi::test {

inline nlohmann::ordered_json read_json(const fs::path& path) {
  return nlohmann::ordered_json::parse(read_file(path));
}

// The real Qwen3 files, fetched by tests/tokenizer/fetch_qwen3.sh; empty where they are absent.
inline fs::path qwen3_folder() {
  const fs::path folder = "build/npm/qwen3";
  return fs::exists(folder / "tokenizer.json") ? folder : fs::path();
}

inline constexpr const char* kNoQwen3 =
    "the real Qwen3 tokenizer is not here; run tests/tokenizer/fetch_qwen3.sh to fetch it";

}  // namespace onggi::test
