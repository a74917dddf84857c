#include "train/checkpoint.h"

#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/log.h"
#include "base/text.h"
#include "formats/json_file.h"
#include "formats/safetensors.h"

namespace onggi {
namespace {

constexpr const char* kPrefix = "checkpoint-";
constexpr const char* kStateFile = "trainer_state.json";
constexpr const char* kOptimizerFile = "optimizer.safetensors";

nlohmann::json to_json(const TrainerState& state) {
  return {{"global_step", state.step},
          {"data_epoch", state.cursor.epoch},
          {"data_position", state.cursor.position},
          {"fingerprint", state.fingerprint},
          {"first_loss", state.first_loss},
          {"last_loss", state.last_loss},
          {"best_evaluation_loss", state.best_evaluation_loss},
          {"best_step", state.best_step},
          {"evaluations_without_gain", state.evaluations_without_gain}};
}

TrainerState state_from_json(const nlohmann::json& json, const fs::path& path) {
  try {
    TrainerState state;
    state.step = json.at("global_step");
    state.cursor.epoch = json.at("data_epoch");
    state.cursor.position = json.at("data_position");
    state.fingerprint = json.at("fingerprint");
    state.first_loss = json.at("first_loss");
    state.last_loss = json.at("last_loss");
    state.best_evaluation_loss = json.at("best_evaluation_loss");
    state.best_step = json.at("best_step");
    state.evaluations_without_gain = json.at("evaluations_without_gain");
    return state;
  } catch (const nlohmann::json::exception& error) {
    throw InputError(text("{} is not a trainer state ({}): delete its folder", path.string(), error.what()));
  }
}

void read_moments(const SafetensorsReader& reader, const std::string& name, size_t elements,
                  std::vector<float>& out) {
  const TensorView view = reader.tensor(name);
  if (view.dtype != DType::kF32 || view.elements() != static_cast<int64_t>(elements))
    throw InputError(text("{} in {} does not belong to this adapter: delete the checkpoint", name,
                          reader.path().string()));
  out.resize(elements);
  read_as_f32(view, 0, view.elements(), out.data());
}

}  // namespace

void save_checkpoint(const fs::path& folder, const LoraParameters& parameters, const ModelConfig& config,
                     const AdapterInfo& info, const TrainerState& state) {
  fs::path building = folder;
  building += ".tmp";
  fs::remove_all(building);
  fs::create_directories(building);
  save_adapter(parameters, config, info, building.string());
  const auto elements = static_cast<int64_t>(state.first_moment.size());
  SafetensorsWriter optimizer(building / kOptimizerFile, {{"first_moment", DType::kF32, {elements}},
                                                          {"second_moment", DType::kF32, {elements}}});
  optimizer.write("first_moment", state.first_moment.data(), state.first_moment.size() * sizeof(float));
  optimizer.write("second_moment", state.second_moment.data(), state.second_moment.size() * sizeof(float));
  optimizer.commit();
  write_file(building / kStateFile, to_json(state).dump(2) + "\n");
  fs::remove_all(folder);
  fs::rename(building, folder);
}

TrainerState load_checkpoint(const fs::path& folder, const ModelConfig& config, LoraParameters& parameters) {
  TrainerState state = state_from_json(read_json_file(folder / kStateFile), folder / kStateFile);
  LoraParameters loaded = load_adapter(folder.string(), config);
  if (loaded.values.size() != parameters.values.size())
    throw InputError(
        text("the adapter in {} has another rank or other modules than this run: delete the checkpoint",
             folder.string()));
  parameters.values = std::move(loaded.values);
  const SafetensorsReader optimizer(folder / kOptimizerFile);
  read_moments(optimizer, "first_moment", parameters.values.size(), state.first_moment);
  read_moments(optimizer, "second_moment", parameters.values.size(), state.second_moment);
  return state;
}

std::vector<std::pair<int64_t, fs::path>> list_checkpoints(const fs::path& folder) {
  std::vector<std::pair<int64_t, fs::path>> found;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(folder, ignored)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with(kPrefix)) continue;
    int64_t step = 0;
    const char* end = name.data() + name.size();
    const auto parsed = std::from_chars(name.data() + std::char_traits<char>::length(kPrefix), end, step);
    if (parsed.ec == std::errc() && parsed.ptr == end) found.emplace_back(step, entry.path());
  }
  std::sort(found.begin(), found.end());
  return found;
}

std::optional<fs::path> find_checkpoint(const fs::path& folder, const std::string& fingerprint) {
  const auto checkpoints = list_checkpoints(folder);
  for (auto it = checkpoints.rbegin(); it != checkpoints.rend(); ++it) {
    try {
      const TrainerState state =
          state_from_json(read_json_file(it->second / kStateFile), it->second / kStateFile);
      if (state.fingerprint == fingerprint) return it->second;
    } catch (const Error& error) {
      spdlog::warn("{}", error.what());
    }
  }
  return std::nullopt;
}

}  // namespace onggi
