// Registration of a GGUF with a running Ollama, by its REST API or its command.
// Source: https://github.com/ollama/ollama/blob/main/docs/api.md ("Create a Model", "Push a Blob").
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/file.h"
#include "quantize/modelfile.h"

namespace onggi {

struct OllamaOptions {
  std::string host;   // as OLLAMA_HOST has it, or empty: that variable, else http://127.0.0.1:11434
  std::string model;  // "qwen3-finetune-8b"
  fs::path gguf;
  fs::path modelfile;  // for the command, where the API does not answer
  ServedParameters parameters;
  // Status of the upload and of Ollama's own work: text, bytes done, bytes in all (0: unknown). May throw to
  // stop.
  std::function<void(const std::string&, uint64_t, uint64_t)> progress;
};

enum class OllamaWay { kNone, kApi, kCommand };

struct OllamaResult {
  bool registered = false;
  OllamaWay how = OllamaWay::kNone;
  std::string host;                       // the URL that was tried
  std::string version;                    // of the server that answered
  std::string digest;                     // "sha256:..." of the blob
  std::vector<std::string> capabilities;  // what /api/show says: "completion", "tools", "thinking"
  std::string reason;                     // a sentence for people: why it is not registered
};

// "http://127.0.0.1:11434" from "", "0.0.0.0", ":8080", "host:1234", "https://host/path". Throws UsageError
// for another scheme or a port out of range.
std::string ollama_url(const std::string& host);

// Never throws for what the server does or for its absence: see OllamaResult::reason. Throws InputError when
// the GGUF cannot be read.
OllamaResult register_with_ollama(const OllamaOptions& options);

}  // namespace onggi
