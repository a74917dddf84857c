#include "base/random.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

namespace onggi {
namespace {

using Words = std::array<uint32_t, 4>;

// The known answers of philox4x32-10 in Random123's kat_vectors (Salmon et al. 2011): zeros, ones, digits of
// pi.
TEST(Philox, KnownAnswers) {
  EXPECT_EQ(philox(0, 0, 0), (Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  const uint64_t ones = ~uint64_t{0};
  EXPECT_EQ(philox(ones, ones, ones), (Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox(0x299f31d0a4093822, 0x0370734413198a2e, 0x85a308d3243f6a88),
            (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Random, GoesOnFromItsPosition) {
  Random whole(7, 3);
  std::vector<uint32_t> expected;
  for (int i = 0; i < 20; ++i) expected.push_back(whole.next_u32());
  for (uint64_t position = 0; position < 20; ++position) {
    Random resumed(7, 3, position);
    for (uint64_t i = position; i < 20; ++i) ASSERT_EQ(resumed.next_u32(), expected[i]);
    EXPECT_EQ(resumed.position(), 20u);
  }
}

TEST(Random, StreamsAndSeedsDiffer) {
  EXPECT_NE(Random(1, 0).next_u32(), Random(1, 1).next_u32());
  EXPECT_NE(Random(1, 0).next_u32(), Random(2, 0).next_u32());
}

// Moments within five standard errors of their estimates.
TEST(Random, DistributionsHaveTheirMoments) {
  constexpr int kDraws = 200000;
  Random random(42);
  double uniform = 0, normal = 0, square = 0;
  std::vector<int> counts(7);
  for (int i = 0; i < kDraws; ++i) {
    const float u = random.uniform();
    ASSERT_GE(u, 0.0f);
    ASSERT_LT(u, 1.0f);
    uniform += u;
    const double g = random.normal();
    normal += g;
    square += g * g;
    ++counts[random.below(7)];
  }
  EXPECT_NEAR(uniform / kDraws, 0.5, 5 * std::sqrt(1.0 / 12 / kDraws));
  EXPECT_NEAR(normal / kDraws, 0.0, 5 * std::sqrt(1.0 / kDraws));
  EXPECT_NEAR(square / kDraws, 1.0, 5 * std::sqrt(2.0 / kDraws));
  for (const int count : counts) EXPECT_NEAR(count, kDraws / 7.0, 5 * std::sqrt(kDraws * 6.0 / 49));
}

}  // namespace
}  // namespace onggi
