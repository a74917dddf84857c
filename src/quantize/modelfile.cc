#include "quantize/modelfile.h"

#include <fmt/format.h>

#include "base/error.h"
#include "base/text.h"
#include "formats/gguf.h"
#include "model/config.h"

namespace onggi {
namespace {

// A value between quotes: Modelfile's strings take three quotes where the text has quotes or lines of its
// own.
std::string quoted(const std::string& value) {
  if (value.find("\"\"\"") != std::string::npos) {
    throw InputError(
        text("a Modelfile cannot hold three quotes in a row; they are in \"{}\"", value.substr(0, 80)));
  }
  const bool plain = value.find_first_of("\"\n\r") == std::string::npos;
  return plain ? "\"" + value + "\"" : "\"\"\"" + value + "\"\"\"";
}

}  // namespace

ServedParameters served_parameters(const fs::path& gguf) {
  const GgufReader file(gguf);
  const ModelConfig config = parse_gguf_config(file.header());
  ServedParameters parameters;
  parameters.temperature = config.temperature;
  parameters.top_k = config.top_k;
  parameters.top_p = config.top_p;
  if (file.header().find("tokenizer.ggml.tokens") == nullptr) return parameters;
  const StringList& tokens = file.header().get_strings("tokenizer.ggml.tokens");
  for (const int64_t id : config.eos_token_ids) {
    if (id >= 0 && id < std::ssize(tokens)) parameters.stop.emplace_back(tokens[static_cast<size_t>(id)]);
  }
  return parameters;
}

std::string modelfile_text(const std::string& gguf_reference, const ServedParameters& parameters) {
  // The reference goes to the end of the line, spaces included; a line break would start another instruction.
  if (gguf_reference.find_first_of("\n\r") != std::string::npos) {
    throw InputError(
        text("the file name \"{}\" has a line break, which a Modelfile cannot hold", gguf_reference));
  }
  std::string out = "FROM " + gguf_reference + "\n\n";
  out += fmt::format("PARAMETER temperature {}\n", parameters.temperature);
  out += fmt::format("PARAMETER top_k {}\n", parameters.top_k);
  out += fmt::format("PARAMETER top_p {}\n", parameters.top_p);
  if (parameters.context_length) out += fmt::format("PARAMETER num_ctx {}\n", *parameters.context_length);
  for (const std::string& stop : parameters.stop) out += "PARAMETER stop " + quoted(stop) + "\n";
  if (!parameters.system.empty()) out += "\nSYSTEM " + quoted(parameters.system) + "\n";
  return out;
}

}  // namespace onggi
