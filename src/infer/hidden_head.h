// The final hidden states of a model, by way of what every pass gives: logits. A copy of the model (it shares
// the weights) has the identity as its output matrix, so that its logits are the normalised hidden states
// that the real output matrix would read.
#pragma once

#include <memory>
#include <vector>

#include "device/stream.h"
#include "model/model.h"

namespace onggi {

class HiddenHead {
 public:
  // Places the identity, bf16 [C, C], on the stream's device: C = 4096 takes 32 MB.
  HiddenHead(const Model& model, const Compute& compute);

  // For infer(), with InferenceBuffers of its own: rows are C numbers wide instead of V.
  const Model& model() const { return model_; }

 private:
  std::vector<uint16_t> identity_;
  std::vector<Buffer> buffers_;
  Model model_;
};

}  // namespace onggi
