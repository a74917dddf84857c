// The files of a merged folder beside its weights.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "merge/merge.h"

namespace onggi {

// Copies the base's tokenizer and configuration files byte for byte; those of the seed's list that the base
// lacks are derived from tokenizer.json, tokenizer_config.json and config.json. `dtype` is the one that
// config.json must name ("bfloat16"): a base of another dtype gets its config.json changed in that one place.
// Returns the names written; adds sentences to `warnings` for what could not be derived. Throws InputError
// when the base has no tokenizer.json.
std::vector<std::string> write_folder_files(const fs::path& base, const fs::path& output,
                                            std::string_view dtype, std::vector<std::string>& warnings);

// What merge_info.json and README.md say of the merge.
struct MergeFacts {
  const MergeOptions& options;
  const MergeResult& result;
  std::string adapter_sha256;
  std::string base_model;  // as the adapter's configuration names it
  int r = 0;
  double alpha = 0;
  double scale = 0;
  std::vector<std::string> target_modules;
  std::string dtype;
  std::string architecture;
  std::vector<std::string> shards;
};
// Nothing in either depends on the time or the machine: the same merge writes the same bytes.
void write_model_card(const MergeFacts& facts);
void write_merge_info(const MergeFacts& facts);
// Throws UsageError when the text is neither empty nor a JSON object.
void check_provenance(const std::string& provenance_json);

}  // namespace onggi
