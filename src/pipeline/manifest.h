// outputs/{base}/run.json: what each stage was given, did and left behind. Stages hand each other files and
// this.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/file.h"

namespace onggi {

class Manifest {
 public:
  // Reads the file where there is one. Throws InputError when it is no manifest.
  explicit Manifest(fs::path path);

  // True when the stage finished with this fingerprint and its outputs are still there with the same sizes.
  bool is_done(const std::string& stage, const std::string& fingerprint) const;
  // Outputs of a finished stage that are not, byte for byte, what it left. Reads them all.
  std::vector<fs::path> changed_outputs(const std::string& stage) const;
  // What the stage recorded; null when it has not finished.
  nlohmann::ordered_json results(const std::string& stage) const;

  // Records a finished stage and writes the file. outputs: files, by path.
  struct Finished {
    std::string stage;
    std::string fingerprint;
    double seconds = 0;
    uint64_t peak_memory_bytes = 0;
    std::vector<fs::path> outputs;
    nlohmann::ordered_json results;
  };
  void finish(const Finished& finished);
  // Records that a stage failed, with its message.
  void fail(const std::string& stage, const std::string& message);
  // Facts of the run as a whole: configuration, version, seeds.
  void set(const std::string& key, nlohmann::ordered_json value);

  const fs::path& path() const { return path_; }
  const nlohmann::ordered_json& json() const { return json_; }

 private:
  void save() const;

  fs::path path_;
  nlohmann::ordered_json json_;
};

}  // namespace onggi
