// A user's data file from anywhere, in each format: an InputError, or rows that can be rendered.
#include <cstddef>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string_view>

#include "base/error.h"
#include "data/dataset.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  static const onggi::ChatTemplate chat(
      "{% for m in messages %}{{ m.role }}:{{ m.content }}|{% endfor %}{% if add_generation_prompt "
      "%}assistant:{% endif %}");
  const std::string_view bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  onggi::DatasetOptions options;
  if (data[0] & 4) options.think = onggi::ThinkMode::kEmpty;
  if (data[0] & 8) options.system_prompt = "system";
  try {
    const auto format = static_cast<onggi::DataFormat>(data[0] % 3);
    for (const auto& row : onggi::parse_dataset(bytes, format, "fuzz", options).rows) {
      chat.render_for_training(nlohmann::ordered_json::parse(row.messages_json));
    }
  } catch (const onggi::InputError&) {
  }
  return 0;
}
