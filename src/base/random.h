// Random numbers that depend on (seed, stream, counter) alone, so that a resumed run draws what the
// undisturbed run would have drawn and the split over threads does not matter.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>

namespace onggi {

// Philox4x32-10: four 32-bit words for a 64-bit key and a 128-bit counter.
// Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
constexpr std::array<uint32_t, 4> philox(uint64_t key, uint64_t counter_high, uint64_t counter_low) {
  uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
  std::array<uint32_t, 4> c{static_cast<uint32_t>(counter_low), static_cast<uint32_t>(counter_low >> 32),
                            static_cast<uint32_t>(counter_high), static_cast<uint32_t>(counter_high >> 32)};
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53} * c[0], p1 = uint64_t{0xCD9E8D57} * c[2];
    c = {static_cast<uint32_t>(p1 >> 32) ^ c[1] ^ k0, static_cast<uint32_t>(p1),
         static_cast<uint32_t>(p0 >> 32) ^ c[3] ^ k1, static_cast<uint32_t>(p0)};
    k0 += 0x9E3779B9;
    k1 += 0xBB67AE85;
  }
  return c;
}

// A sequential generator over one Philox stream; its whole state is (seed, stream, position).
class Random {
 public:
  explicit Random(uint64_t seed, uint64_t stream = 0, uint64_t position = 0)
      : seed_(seed), stream_(stream), position_(position) {}

  uint32_t next_u32() {
    const auto block = philox(seed_, stream_, position_ / 4);
    return block[position_++ % 4];
  }
  // Uniform in [0, 1).
  float uniform() { return static_cast<float>(next_u32() >> 8) * 0x1.0p-24f; }
  // Uniform in [0, n), n > 0, by multiplication: the bias is below n / 2^32.
  uint32_t below(uint32_t n) { return static_cast<uint32_t>((uint64_t{next_u32()} * n) >> 32); }
  // Standard normal (Box-Muller, one of the pair).
  float normal() {
    const float u = 1.0f - uniform();
    const float angle = 6.283185307f * uniform();
    return std::sqrt(-2.0f * std::log(u)) * std::cos(angle);
  }

  uint64_t position() const { return position_; }

 private:
  uint64_t seed_;
  uint64_t stream_;
  uint64_t position_;
};

}  // namespace onggi
