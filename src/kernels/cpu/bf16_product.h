// The inner loop of every bf16 matrix product, and the packing that it wants.
//
//   c[i, j] (+)= sum over pairs p of a[i, 2p] b[2p, j] + a[i, 2p + 1] b[2p + 1, j]     (vdpbf16ps: fp32 sums)
//
// The a side is broadcast, one pair (two bf16 of neighbouring k) at a time, and may lie in memory with any
// strides. The b side lies in panels of at most 32 columns j: dword [p][lane] holds the pair (2p, 2p + 1) of
// column `lane`, so a panel is read once from front to back. Twelve rows by two vectors of accumulators is
// what fits 32 registers; it runs at the rate of the dot-product units (about 440 GFLOP/s a core on Zen 5,
// where oneDNN's packed product reaches about 400 and needs a copy of the weight first).
//
// All functions need has_avx512_bf16().
#pragma once

#include <cstdint>

namespace onggi::cpu {

inline constexpr int kPanelLanes = 32;
inline constexpr int kProductRows = 12;

// Dwords of all panels of [k, columns]: panel number i starts at dword i * 32 * ceil(k / 2).
inline int64_t panel_dwords(int64_t k, int64_t columns) {
  return (columns + kPanelLanes - 1) / kPanelLanes * kPanelLanes * ((k + 1) / 2);
}

struct ProductArgs {
  const void* a;   // pair (i, p) at dword i * a_row + p * a_pair
  int64_t a_row;   // dwords
  int64_t a_pair;  // dwords
  const void*
      panel;        // dwords [pairs, 32]; of a narrow panel (columns <= 16) the first 16 of each row are read
  int64_t pairs;    // ceil(k / 2)
  float* c;         // f32 [rows, columns], row stride c_row
  int64_t c_row;    // elements
  int64_t rows;     // any
  int64_t columns;  // 1 .. 32
  bool accumulate = false;  // c += instead of c =
};
// One panel against any number of rows.
void product_panel(const ProductArgs& args);

// Rounds x, f32 [columns, k] with row stride x_row, into panels whose columns are the rows of x. Odd k and
// missing columns are filled with zeros.
struct PackRowsArgs {
  const float* x;
  int64_t x_row;
  int64_t columns, k;
  int64_t panel_begin, panel_end;  // panel numbers
  uint32_t* panels;                // as panel_dwords
};
void pack_rows(const PackRowsArgs& args);

// Rounds f32 values to bf16 (to nearest even), `count` of them.
void round_to_bf16(const float* x, int64_t count, uint16_t* out);

// Interleaves two bf16 rows of `count` values into pairs: out dword j = (first[j], second[j]); second null:
// 0. Panel layout: columns j .. j + 31 go to out + (j / 32) * panel_stride dwords.
void interleave_rows(const uint16_t* first, const uint16_t* second, int64_t count, int64_t panel_stride,
                     uint32_t* out);
// The same from f32 rows.
void interleave_rows(const float* first, const float* second, int64_t count, int64_t panel_stride,
                     uint32_t* out);

// out[t, n] (+)= c[n, t]: c f32 [rows, columns] with row stride c_row, out with row stride out_row.
struct TransposeArgs {
  const float* c;
  int64_t c_row;
  int64_t rows, columns;
  float* out;
  int64_t out_row;
  bool accumulate = false;
};
void transpose_to(const TransposeArgs& args);

}  // namespace onggi::cpu
