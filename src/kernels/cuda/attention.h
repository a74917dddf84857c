// Between the files of attention for training: who computes what.
#pragma once

#include <cstdint>

#include "device/cuda_stream.h"
#include "kernels/ops/attention.h"
#include "kernels/ops/context.h"

namespace onggi::cuda {

// Any head_dim, f32 or bf16, every sum in f32: the reference on the card.
void attention_simple(const OpContext& context, const AttentionArgs& args);
void attention_backward_simple(const OpContext& context, const AttentionBackwardArgs& args);

// Whether the stream's card runs the *_sm90 kernels, which no other does: neither older nor younger ones.
inline bool is_hopper(const CudaStream& stream) { return stream.compute_capability() == 90; }

// For is_hopper(), head_dim 128 and bf16. order: tiles of 128 queries (kRowsBefore) in the order
// in which they are begun, or null.
void attention_forward_sm90(CudaStream& stream, const AttentionArgs& args, int64_t out_stride,
                            const int32_t* order);

// Which rows a tile of rows has to do with, and so how long it takes.
enum class TileWork {
  kRowsBefore,  // from the first row of its first row's segment: queries and their keys
  kRowsAfter,   // to the end of its last row's segment: keys and their queries
};

// How the tiles of rows are given to the blocks, longest work first, so that no long one is left for the end
// when the other multiprocessors have run out of work.
struct TileOrder {
  int64_t tiles;
  int rows;  // per tile
  TileWork work;
  int64_t blocks_per_tile;
};
// Bytes that order_tiles() writes: i32 [tiles], in multiples of 256.
size_t tile_order_bytes(const TileOrder& order);
// Queues what fills `ranks` with the tiles in descending order of work and returns it; null where the natural
// order will do.
const int32_t* order_tiles(CudaStream& stream, const TileOrder& order, const Segments& segments,
                           int64_t tokens, int32_t* ranks);

}  // namespace onggi::cuda
