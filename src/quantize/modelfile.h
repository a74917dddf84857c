// What Ollama needs to know beside the GGUF: parameters, stop strings, a system text.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/file.h"

namespace onggi {

struct ServedParameters {
  double temperature = 0.6;
  int64_t top_k = 20;
  double top_p = 0.95;
  std::optional<int64_t> context_length;  // num_ctx
  std::vector<std::string> stop;
  std::string system;  // empty: none
};

// From the metadata of a GGUF: its sampling values, and the texts of the tokens that end a generation.
ServedParameters served_parameters(const fs::path& gguf);

// The text of a Modelfile. `gguf_reference` is written after FROM ("./model-q4_k_m.gguf"). It has no
// TEMPLATE: Ollama then renders the chat template inside the GGUF, which is the one that training used; a
// hand-made TEMPLATE would win over it.
std::string modelfile_text(const std::string& gguf_reference, const ServedParameters& parameters);

}  // namespace onggi
