// The adapter that PEFT trained (tests/golden/adapter_final.safetensors) as a folder in PEFT's layout.
#pragma once

#include "base/file.h"
#include "formats/adapter.h"

namespace onggi::test {

inline fs::path golden_adapter(const fs::path& folder) {
  duplicate_file(fs::path("tests/golden/adapter_final.safetensors"), folder / "adapter_model.safetensors");
  AdapterConfig config;
  config.r = 16;
  config.alpha = 16;
  config.target_modules = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"};
  config.base_model = "models/onggi-mini";
  write_file(folder / "adapter_config.json", adapter_config_json(config));
  return folder;
}

}  // namespace onggi::test
