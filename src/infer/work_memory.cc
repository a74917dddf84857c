#include "infer/work_memory.h"

#include "model/product_memory.h"

namespace onggi {

uint64_t work_bytes(const Model& model, const ActivationFormat& format, const EngineOptions& options) {
  // On the CPU activations, logits and threads: measured on models up to 0.6B, generous.
  constexpr uint64_t kOnCpu = uint64_t{512} << 20;
  if (format.device == DeviceKind::kCpu) return kOnCpu;
  const ModelConfig& c = model.config;
  const InferenceShape shape{.tokens = options.prefill_chunk + options.max_batch,
                             .rows = options.max_batch,
                             .rank = model.adapter ? model.adapter->rank() : 0};
  constexpr uint64_t kPartialResults = uint64_t{64} << 20;  // of attention
  const uint64_t hidden_head = sizeof(uint16_t) * static_cast<uint64_t>(c.hidden_size * c.hidden_size);
  return InferenceBuffers::bytes_for(c, format, shape) + product_bytes(c, format) + kPartialResults +
         hidden_head;
}

}  // namespace onggi
