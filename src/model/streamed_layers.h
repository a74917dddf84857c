// How a training pass gets at its layers' weights, wherever they lie. The projections of offloaded layers lie
// in page-locked host memory; two buffers on the device, or one for a single layer, take them in turns, and
// the next is on its way while the stream computes.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "model/model.h"

namespace onggi {

// Whether a model of `layers` layers of which `offloaded` are has this one among them. They are spread
// evenly: the copy of one takes place beside the work of the others.
bool is_offloaded(int64_t layer, int64_t layers, int64_t offloaded);

// Buffers for so many offloaded layers.
int64_t layer_buffers(int64_t offloaded);

// A pass goes through all layers in one direction after the other:
//   begin(direction); for each layer: enter(layer), queue work with [layer], leave(layer)
// Nothing here waits for the device.
class StreamedLayers {
 public:
  // The model outlives this. Throws MachineError where the device has no memory for the buffers.
  StreamedLayers(const Model& model, Stream& stream);

  const Model& model() const { return model_; }
  // Whether layers are offloaded at all.
  bool any() const { return !slots_.empty(); }

  enum class Direction { kForward, kBackward };
  void begin(Direction direction);
  // What is queued from now on finds the layer's weights.
  void enter(int64_t layer);
  // All work with the layer's weights is queued.
  void leave(int64_t layer);
  const LayerWeights& operator[](int64_t layer) const;

 private:
  struct Slot {
    std::unique_ptr<PrefetchBuffer> buffer;
    std::optional<int64_t> layer;  // that it holds, or that is on its way
    LayerWeights weights{};        // of it, there
  };

  const Slot* find(int64_t layer) const;
  bool is_streamed(int64_t layer) const {
    return !model_.layers[static_cast<size_t>(layer)].host_memory.empty();
  }
  void fetch_ahead(int64_t from);
  void fetch(Slot& slot, int64_t layer);

  const Model& model_;
  std::vector<Slot> slots_;
  Direction direction_ = Direction::kForward;
};

}  // namespace onggi
