// Any bytes as config.json, as adapter_config.json and as any JSON: read, or refused with an InputError.
#include "base/error.h"
#include "formats/adapter.h"
#include "model/config.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    onggi::parse_hf_config(text, text, "fuzz");
  } catch (const onggi::InputError&) {
  }
  try {
    onggi::parse_adapter_config(text, "fuzz");
  } catch (const onggi::InputError&) {
  }
  return 0;
}
