// What an engine can be asked for.
#pragma once

#include "infer/engine.h"

namespace onggi {

// The options with values in place of 0. Throws UsageError for counts that cannot work, MachineError where
// the KV cache does not hold one context.
EngineOptions chosen_options(const ModelConfig& config, EngineOptions options);

// Throws InputError for a value out of range or an empty prompt, ContextError for a prompt that leaves no
// room in the context. `options` are chosen ones.
void check_request(const GenerationRequest& request, const ModelConfig& config, const EngineOptions& options);

}  // namespace onggi
