// What is in a model file or folder, for `onggi inspect`.
#pragma once

#include <nlohmann/json_fwd.hpp>

#include "base/file.h"

namespace onggi {

// Describes a safetensors file, a GGUF file, an adapter folder or a Hugging Face folder:
//   {"kind": "safetensors" | "gguf" | "adapter" | "hf", "path", "files": [{"name", "bytes"}],
//    "metadata": {...} (GGUF: long arrays are shortened to {"length", "first"}), "config": {...}
//    (folders), "tensors": [{"name", "dtype", "shape", "bytes"}], "totals": {"tensors", "elements", "bytes",
//    "by_dtype": {"bf16": {"tensors", "bytes"}}}}
// Throws InputError when the path holds none of these or is broken.
nlohmann::json describe(const fs::path& path);

}  // namespace onggi
