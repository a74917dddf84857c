// How much context and how many users a machine can serve.
#pragma once

#include <cstdint>

#include "config/config.h"
#include "infer/chat_model.h"
#include "infer/engine.h"

namespace onggi {

// Answers that are written at once, for "auto": a GPU takes as long for many as for one, the CPU does not.
inline constexpr int64_t kAutoBatchOnCpu = 8, kAutoBatchOnGpu = 64;

// The engine's options for a model under [server]: what the configuration says, and for "auto" the largest
// context (at most the model's and 32768) whose KV cache fits, and a batch and a share of prompts a step that
// suit the device. The cache holds eight whole contexts (max_batch, where that is given), or as much as fits:
// answers share its pages.
// format: of the device, under the model's adapter. memory_bytes: what this process may use of the device's
// memory for weights, cache and work. Throws MachineError naming the figures, and the settings that would
// fit, where not even one whole context fits, or where an explicit context does not; UsageError where it is
// longer than the model's.
EngineOptions plan_engine(const ServerConfig& server, const Model& model, const ActivationFormat& format,
                          uint64_t memory_bytes);
// The same, for a model that lies on the device.
EngineOptions plan_engine(const ServerConfig& server, const Model& model, const ComputeDevice& device,
                          uint64_t memory_bytes);

}  // namespace onggi
