// Stands in for src/kernels/cuda/hopper.cuh, which says what each function does. Copies and products are done
// at once, so a missing wait for a product does not show here; a missing wait for a barrier does: threads run
// one after another.
#pragma once

#include <cstring>

#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/tensor_map.h"

namespace onggi {

namespace hopper_detail {

// A barrier's 8 bytes.
struct Barrier {
  uint16_t count, missing;
  uint32_t
      parity_and_bytes;  // bit 31: the parity of the phase; below: bytes announced less bytes come, biased

  static constexpr uint32_t kNoBytes = 1U << 30, kParity = 1U << 31;
  void end_phase_if_complete() {
    if (missing != 0 || (parity_and_bytes & ~kParity) != kNoBytes) return;
    missing = count;
    parity_and_bytes ^= kParity;
    emulator::wake_waiting(this);
  }
};
static_assert(sizeof(Barrier) == sizeof(uint64_t));
inline Barrier* barrier_at(uint64_t* barrier) { return reinterpret_cast<Barrier*>(barrier); }

inline void add_bytes(uint64_t* barrier, int bytes) {
  Barrier* b = barrier_at(barrier);
  b->parity_and_bytes += static_cast<uint32_t>(bytes);
}

// The operand's element [i of m or n][k] as the descriptor places it: start, and the steps of 64 columns (n
// by columns) and of 8 rows, all in bytes; then the swap of 16-byte pieces within 1024 bytes.
inline float element(uint64_t descriptor, bool by_columns, int i, int k) {
  const auto field = [&](int shift) { return static_cast<int>(descriptor >> shift & 0x3FFF) << 4; };
  if (descriptor >> 62 != 1) emulator::fail("wgmma: the descriptor does not name the swap of 128 bytes");
  const int row = by_columns ? k : i, column = by_columns ? i : k;
  int address = field(0) + row / 8 * field(32) + row % 8 * 128 + column % 64 * 2;
  if (column >= 64) address += field(16);
  address ^= (address >> 7 & 7) << 4;
  uint16_t bits;
  std::memcpy(&bits, emulator::dynamic_shared_memory() + address, sizeof bits);
  return __ushort_as_bfloat16(bits);
}

// One warp's 16 rows of a product.
struct Product {
  float (*d)[4];
  const uint32_t* a_registers;  // or null: a
  uint64_t a, b;
  int blocks;
  bool b_by_columns, add;
};
inline void multiply(emulator::LaneData* const* lanes, unsigned mask) {
  ptx_detail::expect_all_lanes("wgmma", mask);
  const auto product = [&](int lane) { return static_cast<const Product*>(lanes[lane]->address); };
  const Product& first = *product(0);
  const int warp = static_cast<int>(threadIdx.x) / 32 % 4;  // of the group
  float a[16][16];
  for (int row = 0; row < 16; ++row)
    for (int k = 0; k < 16; ++k) {
      const int lane = row % 8 * 4 + k % 8 / 2, word = row / 8 + k / 8 * 2;
      a[row][k] = first.a_registers == nullptr
                      ? element(first.a, false, warp * 16 + row, k)
                      : ptx_detail::element(static_cast<const __nv_bfloat16*>(nullptr),
                                            product(lane)->a_registers[word], k % 2);
    }
  for (int column = 0; column < first.blocks * 8; ++column) {
    float b[16];
    for (int k = 0; k < 16; ++k) b[k] = element(first.b, first.b_by_columns, column, k);
    for (int row = 0; row < 16; ++row) {
      double sum = 0;
      for (int k = 0; k < 16; ++k) sum += double{a[row][k]} * b[k];
      const Product& own = *product(row % 8 * 4 + column % 8 / 2);
      float& d = own.d[column / 8][row / 8 * 2 + column % 2];
      d = static_cast<float>(sum + (own.add ? d : 0.0F));
    }
  }
}
inline void run(const Product& product) {
  emulator::lane_data().address = &product;
  emulator::warp_operation("wgmma", 0xFFFFFFFFU, multiply);
}

}  // namespace hopper_detail

inline void mbarrier_init(uint64_t* barrier, int count) {
  *hopper_detail::barrier_at(barrier) = {static_cast<uint16_t>(count), static_cast<uint16_t>(count),
                                         hopper_detail::Barrier::kNoBytes};
}
inline void mbarrier_init_fence() {}
inline void mbarrier_arrive(uint64_t* barrier) {
  hopper_detail::Barrier* b = hopper_detail::barrier_at(barrier);
  if (b->missing == 0) emulator::fail("mbarrier: more arrivals than its count of %d", b->count);
  --b->missing;
  b->end_phase_if_complete();
}
inline void mbarrier_arrive_expecting(uint64_t* barrier, int bytes) {
  hopper_detail::add_bytes(barrier, bytes);
  mbarrier_arrive(barrier);
}
inline void mbarrier_wait(uint64_t* barrier, int parity) {
  const hopper_detail::Barrier* b = hopper_detail::barrier_at(barrier);
  while (static_cast<int>(b->parity_and_bytes >> 31) == parity) emulator::wait_at("mbarrier_wait", b);
}

inline void copy_box(void* shared, const TensorMap* map, int column, int head, int row, uint64_t* barrier) {
  emulator::expect_aligned(shared, 1024, "copy_box");
  const TensorShape& shape = map->shape;
  const auto* from = static_cast<const uint16_t*>(map->data);
  auto* to = static_cast<uint16_t*>(shared);
  for (int r = 0; r < shape.box_rows; ++r)
    for (int c = 0; c < 64; ++c)
      to[r * 64 + ((c / 8) ^ (r % 8)) * 8 + c % 8] =
          row + r < shape.rows && head < shape.heads && column + c < shape.width
              ? from[((row + r) * shape.heads + head) * shape.width + column + c]
              : uint16_t{0};
  hopper_detail::add_bytes(barrier, -shape.box_rows * 128);
  hopper_detail::barrier_at(barrier)->end_phase_if_complete();
}
inline void copy_bytes(void* shared, const void* global, int bytes, uint64_t* barrier) {
  emulator::expect_aligned(shared, 16, "copy_bytes");
  emulator::expect_aligned(global, 16, "copy_bytes");
  std::memcpy(shared, global, static_cast<size_t>(bytes));
  hopper_detail::add_bytes(barrier, -bytes);
  hopper_detail::barrier_at(barrier)->end_phase_if_complete();
}

namespace hopper_detail {
inline uint64_t descriptor(const void* shared, int box_bytes) {
  const auto start =
      static_cast<uint64_t>(static_cast<const std::byte*>(shared) - emulator::dynamic_shared_memory());
  return uint64_t{1} << 62 | uint64_t{1024 >> 4} << 32 | static_cast<uint64_t>(box_bytes >> 4) << 16 |
         start >> 4;
}
}  // namespace hopper_detail
inline uint64_t wgmma_by_rows(const void* shared) { return hopper_detail::descriptor(shared, 16); }
inline uint64_t wgmma_by_columns(const void* shared, int box_bytes) {
  return hopper_detail::descriptor(shared, box_bytes);
}
inline void wgmma_fence() {}
inline void wgmma_commit() {}
template <int kPending>
void wgmma_wait() {}
template <typename T>
void wgmma_pin(T&) {}

enum class Sums { kNew, kAdd };
template <int kBlocks>
void wgmma(float (&d)[kBlocks][4], uint64_t a, uint64_t b, Sums sums) {
  hopper_detail::run({d, nullptr, a, b, kBlocks, false, sums == Sums::kAdd});
}
inline void wgmma_add_by_columns(float (&d)[16][4], const uint32_t (&a)[4], uint64_t b) {
  hopper_detail::run({d, a, 0, b, 16, true, true});
}

template <int kRegisters>
void give_registers() {}
template <int kRegisters>
void take_registers() {}

}  // namespace onggi
