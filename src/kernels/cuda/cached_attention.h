// Between the files of attention over the paged cache: who computes what.
#pragma once

#include <cstdint>

#include "device/cuda_stream.h"
#include "kernels/ops/attention.h"

namespace onggi::cuda {

// Any head_dim, dtype, page size and alignment, all sums in f32: the reference on the card.
void cached_attention_plain(CudaStream& stream, const CachedAttentionArgs& args);

// The fast paths. can_use_tiles(): what both take: bf16 activations, a cache of 16-bit elements, heads of 64
// or 128, pages of a power of two of at least 16 tokens, rows of q and out at multiples of 16 bytes.
bool can_use_tiles(const CachedAttentionArgs& args);
// The sequences that have one row in this pass, all others left alone.
void decode_attention(CudaStream& stream, const CachedAttentionArgs& args);
// The sequences that have at least least_rows rows.
void prefill_attention(CudaStream& stream, const CachedAttentionArgs& args, int least_rows);

}  // namespace onggi::cuda
