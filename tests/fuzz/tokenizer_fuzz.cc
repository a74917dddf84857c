// tokenizer.json from anywhere: an InputError, or a tokenizer that encodes.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/error.h"
#include "tokenizer/tokenizer.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  try {
    const onggi::Tokenizer tokenizer = onggi::Tokenizer::from_json(bytes);
    tokenizer.decode(tokenizer.encode("Hello, 세계! <s> 123\n\n  e\u0301"));
    if (size < 4096) tokenizer.decode(tokenizer.encode(bytes));
  } catch (const onggi::InputError&) {
  }
  return 0;
}
