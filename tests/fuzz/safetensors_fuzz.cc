// Any bytes: the header is either read, and then every tensor lies inside the file, or refused with an
// InputError.
#include <cstdlib>

#include "base/error.h"
#include "formats/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    const auto file = onggi::parse_safetensors_header(std::as_bytes(std::span(data, size)), "fuzz");
    for (const onggi::TensorInfo& info : file.tensors)
      if (info.offset > size || info.bytes > size - info.offset || info.spec().bytes() != info.bytes)
        std::abort();
  } catch (const onggi::InputError&) {
  }
  return 0;
}
