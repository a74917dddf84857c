// Any bytes: the head is either read, and then every tensor lies inside the file and a configuration can be
// asked for, or refused with an InputError.
#include <cstdlib>

#include "base/error.h"
#include "formats/gguf.h"
#include "model/config.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    const onggi::GgufFile file = onggi::parse_gguf(std::as_bytes(std::span(data, size)), "fuzz");
    for (const onggi::TensorInfo& info : file.tensors)
      if (info.offset > size || info.bytes > size - info.offset || info.spec().bytes() != info.bytes)
        std::abort();
    onggi::parse_gguf_config(file);
  } catch (const onggi::InputError&) {
  }
  return 0;
}
