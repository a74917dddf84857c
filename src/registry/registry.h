// The register of model versions: what was made, from what, which one is in service, and the way back.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/file.h"
#include "registry/sqlite.h"

namespace onggi {

// One model file or folder, as it was when it was added.
struct ModelVersion {
  int64_t number = 0;  // 1, 2, ... per name
  std::string name;    // "qwen3-finetune-8b"
  fs::path path;       // absolute
  uint64_t bytes = 0;
  std::string sha256;   // of the file; of a folder: of its files' names and hashes
  std::string created;  // RFC 3339
  std::string note;
  std::string
      lineage;  // a JSON object: base model, data set's hash, recipe, scores; "{}" where nothing is known
  std::vector<std::string> tags;
  enum class State { kKept, kPromoted } state = State::kKept;
};

struct NewVersion {
  std::string name;
  fs::path path;
  std::string note;
  std::string lineage = "{}";
};

// All functions throw InputError for names, versions and files that are not there.
class Registry {
 public:
  // Opens or creates FOLDER/registry.db.
  explicit Registry(const fs::path& folder);

  // Adds a version; the same bytes under the same name and path give the version that is there.
  ModelVersion add(const NewVersion& version);
  // Newest first; name "": all.
  std::vector<ModelVersion> list(const std::string& name = {});
  // version: a number, a tag, or "promoted".
  ModelVersion find(const std::string& name, const std::string& version);

  // A tag names one version of a name; it moves when it is there already. Digits alone and "promoted" are no
  // tags (UsageError).
  void tag(const std::string& name, const std::string& version, const std::string& tag);

  // Puts a version into service. Its bytes are checked first.
  ModelVersion promote(const std::string& name, const std::string& version);
  // Back to the version that was promoted before the present one.
  ModelVersion roll_back(const std::string& name);

  // Throws WorkError where the bytes are not those that were added.
  void verify(const ModelVersion& version);

  // Copies a version's files and its record into folder/NAME-NUMBER, which must not exist; verified on both
  // sides. Returns that folder.
  fs::path back_up(const std::string& name, const std::string& version, const fs::path& folder);
  // Puts a backup back to `destination` (which must not exist) and adds it as a version again.
  ModelVersion restore(const fs::path& backup, const fs::path& destination);

 private:
  int64_t id_of(const std::string& name, int64_t number);
  std::vector<int64_t> promotions(const std::string& name);

  Database database_;
};

// The digest of a model on disk, as ModelVersion::sha256, and its bytes.
struct ModelDigest {
  std::string sha256;
  uint64_t bytes = 0;
};
ModelDigest digest_of(const fs::path& path);

}  // namespace onggi
