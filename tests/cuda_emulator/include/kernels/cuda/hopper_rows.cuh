// Stands in for src/kernels/cuda/hopper_rows.cuh, which says what each function does.
#pragma once

#include "kernels/cuda/hopper.cuh"

namespace onggi {

namespace hopper_detail {

inline float f16_value(uint32_t word, int i) {
  return ptx_detail::element(static_cast<const __half*>(nullptr), word, i);
}
inline float bf16_value(uint32_t word, int i) {
  return ptx_detail::element(static_cast<const __nv_bfloat16*>(nullptr), word, i);
}

// A lane's part of a product. value(word, i): element i of a register.
struct RowsProduct {
  float (*d)[4];
  const uint32_t* a;
  uint64_t b;
  int blocks;
  float (*value)(uint32_t, int);
};
// One warp's 16 rows.
inline void multiply_rows(emulator::LaneData* const* lanes, unsigned mask) {
  ptx_detail::expect_all_lanes("wgmma", mask);
  const auto product = [&](int lane) { return static_cast<const RowsProduct*>(lanes[lane]->address); };
  const RowsProduct& first = *product(0);
  if (first.b >> 62 != 1) emulator::fail("wgmma: the descriptor does not name the swap of 128 bytes");
  const auto field = [&](int shift) { return static_cast<int>(first.b >> shift & 0x3FFF) << 4; };
  for (int column = 0; column < first.blocks * 8; ++column) {
    double sums[16] = {};
    for (int k = 0; k < 16; ++k) {
      int address = field(0) + column / 8 * field(32) + column % 8 * 128 + 2 * k;
      address ^= (address >> 7 & 7) << 4;
      uint16_t bits;
      std::memcpy(&bits, emulator::dynamic_shared_memory() + address, sizeof bits);
      for (int row = 0; row < 16; ++row)
        sums[row] += double{first.value(product(row % 8 * 4 + k % 8 / 2)->a[row / 8 + k / 8 * 2], k % 2)} *
                     first.value(bits, 0);
    }
    for (int row = 0; row < 16; ++row) {
      float& d = product(row % 8 * 4 + column % 8 / 2)->d[column / 8][row / 8 * 2 + column % 2];
      d = static_cast<float>(sums[row] + d);
    }
  }
}
inline void run_rows(const RowsProduct& product) {
  emulator::lane_data().address = &product;
  emulator::warp_operation("wgmma", 0xFFFFFFFFU, multiply_rows);
}

}  // namespace hopper_detail

template <int kBlocks>
void wgmma_add_by_rows_f16(float (&d)[kBlocks][4], const uint32_t (&a)[4], uint64_t b) {
  hopper_detail::run_rows({d, a, b, kBlocks, hopper_detail::f16_value});
}
template <int kBlocks>
void wgmma_add_by_rows_bf16(float (&d)[kBlocks][4], const uint32_t (&a)[4], uint64_t b) {
  hopper_detail::run_rows({d, a, b, kBlocks, hopper_detail::bf16_value});
}

inline float cluster_load(const float* own, int rank) {
  if (rank != 0) emulator::fail("a cluster of several blocks is not emulated");
  return *own;
}

}  // namespace onggi
