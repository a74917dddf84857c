#include "model/streamed_layers.h"

#include <algorithm>

#include "base/error.h"

namespace onggi {

bool is_offloaded(int64_t layer, int64_t layers, int64_t offloaded) {
  return layer >= 0 && (layer + 1) * offloaded / layers > layer * offloaded / layers;
}

int64_t layer_buffers(int64_t offloaded) { return std::min<int64_t>(offloaded, 2); }

StreamedLayers::StreamedLayers(const Model& model, Stream& stream) : model_(model) {
  size_t largest = 0;
  int64_t offloaded = 0;
  for (const LayerWeights& layer : model.layers) {
    largest = std::max(largest, layer.host_memory.size());
    if (!layer.host_memory.empty()) ++offloaded;
  }
  for (int64_t i = 0; i < layer_buffers(offloaded); ++i)
    slots_.push_back({.buffer = stream.make_prefetch_buffer(largest), .layer = {}});
}

const StreamedLayers::Slot* StreamedLayers::find(int64_t layer) const {
  const auto slot =
      std::find_if(slots_.begin(), slots_.end(), [&](const Slot& slot) { return slot.layer == layer; });
  return slot == slots_.end() ? nullptr : &*slot;
}

void StreamedLayers::begin(Direction direction) {
  direction_ = direction;
  // Where the last pass ended is often where this one begins: those layers are still there.
  fetch_ahead(direction == Direction::kForward ? 0 : model_.config.num_layers - 1);
}

void StreamedLayers::enter(int64_t layer) {
  if (!is_streamed(layer)) return;
  const Slot* slot = find(layer);
  ONGGI_CHECK(slot != nullptr, "layers are entered in their order");
  slot->buffer->use();
}

void StreamedLayers::leave(int64_t layer) {
  if (is_streamed(layer)) fetch_ahead(layer + (direction_ == Direction::kForward ? 1 : -1));
}

const LayerWeights& StreamedLayers::operator[](int64_t layer) const {
  if (!is_streamed(layer)) return model_.layers[static_cast<size_t>(layer)];
  const Slot* slot = find(layer);
  ONGGI_CHECK(slot != nullptr, "a layer is used between enter() and leave()");
  return slot->weights;
}

// Has the next layers from `from` on in the buffers; those that are there stay.
void StreamedLayers::fetch_ahead(int64_t from) {
  const int64_t step = direction_ == Direction::kForward ? 1 : -1;
  std::vector<int64_t> wanted;
  for (int64_t layer = from; layer >= 0 && layer < model_.config.num_layers && wanted.size() < slots_.size();
       layer += step)
    if (is_streamed(layer)) wanted.push_back(layer);
  for (const int64_t layer : wanted) {
    if (find(layer) != nullptr) continue;
    const auto is_free = [&](const Slot& slot) {
      return !slot.layer || std::find(wanted.begin(), wanted.end(), *slot.layer) == wanted.end();
    };
    fetch(*std::find_if(slots_.begin(), slots_.end(), is_free), layer);
  }
}

void StreamedLayers::fetch(Slot& slot, int64_t layer) {
  const LayerWeights& weights = model_.layers[static_cast<size_t>(layer)];
  slot.layer = layer;
  slot.weights = weights;
  slot.weights.move(weights.host_memory, slot.buffer->data());
  slot.buffer->fetch(weights.host_memory.data(), weights.host_memory.size());
}

}  // namespace onggi
