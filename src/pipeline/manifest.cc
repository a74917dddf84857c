#include "pipeline/manifest.h"

#include "base/clock.h"
#include "base/error.h"
#include "base/text.h"

namespace onggi {
namespace {

constexpr int kFormatVersion = 1;

}  // namespace

Manifest::Manifest(fs::path path) : path_(std::move(path)) {
  json_ = {{"format_version", kFormatVersion}, {"stages", nlohmann::ordered_json::object()}};
  if (!fs::exists(path_)) return;
  auto json = nlohmann::ordered_json::parse(read_file(path_), nullptr, false);
  if (!json.is_object() || json.value("format_version", 0) != kFormatVersion || !json.contains("stages") ||
      !json["stages"].is_object())
    throw InputError(
        text("{} is no manifest of this version of Onggi: move it away and run again", path_.string()));
  json_ = std::move(json);
}

bool Manifest::is_done(const std::string& stage, const std::string& fingerprint) const {
  const auto& stages = json_["stages"];
  const auto found = stages.find(stage);
  if (found == stages.end() || found->value("status", "") != "done") return false;
  if (found->value("fingerprint", "") != fingerprint) return false;
  for (const auto& output : found->value("outputs", nlohmann::ordered_json::array())) {
    std::error_code error;
    const auto size = fs::file_size(output.value("path", ""), error);
    if (error || size != output.value("bytes", uint64_t{0})) return false;
  }
  return true;
}

std::vector<fs::path> Manifest::changed_outputs(const std::string& stage) const {
  std::vector<fs::path> changed;
  const auto found = json_["stages"].find(stage);
  if (found == json_["stages"].end()) return changed;
  for (const auto& output : found->value("outputs", nlohmann::ordered_json::array())) {
    const fs::path path = output.value("path", "");
    if (!fs::is_regular_file(path) || sha256_hex_of_file(path) != output.value("sha256", ""))
      changed.push_back(path);
  }
  return changed;
}

nlohmann::ordered_json Manifest::results(const std::string& stage) const {
  const auto& stages = json_["stages"];
  const auto found = stages.find(stage);
  if (found == stages.end() || found->value("status", "") != "done") return nullptr;
  return found->value("results", nlohmann::ordered_json::object());
}

void Manifest::finish(const Finished& finished) {
  auto outputs = nlohmann::ordered_json::array();
  for (const fs::path& output : finished.outputs)
    outputs.push_back({{"path", output.string()},
                       {"bytes", fs::file_size(output)},
                       {"sha256", sha256_hex_of_file(output)}});
  json_["stages"][finished.stage] = {{"status", "done"},
                                     {"finished_at", utc_now_rfc3339()},
                                     {"fingerprint", finished.fingerprint},
                                     {"seconds", finished.seconds},
                                     {"peak_memory_bytes", finished.peak_memory_bytes},
                                     {"outputs", outputs},
                                     {"results", finished.results}};
  save();
}

void Manifest::fail(const std::string& stage, const std::string& message) {
  json_["stages"][stage] = {{"status", "failed"}, {"finished_at", utc_now_rfc3339()}, {"message", message}};
  save();
}

void Manifest::set(const std::string& key, nlohmann::ordered_json value) {
  json_[key] = std::move(value);
  save();
}

void Manifest::save() const { write_file(path_, json_.dump(2) + "\n"); }

}  // namespace onggi
