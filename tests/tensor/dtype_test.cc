#include "tensor/dtype.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

namespace onggi {
namespace {

// The compiler's own conversion is the independent reference.
TEST(DType, EveryF16RoundTrips) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const auto half = static_cast<uint16_t>(bits);
    _Float16 native;
    std::memcpy(&native, &half, sizeof native);
    const float ours = f16_to_f32(half), theirs = static_cast<float>(native);
    if (std::isnan(theirs)) {
      EXPECT_TRUE(std::isnan(ours)) << bits;
      EXPECT_TRUE(std::isnan(f16_to_f32(f32_to_f16(ours)))) << bits;
    } else {
      EXPECT_EQ(ours, theirs) << bits;
      EXPECT_EQ(f32_to_f16(ours), half) << bits;
    }
  }
}

TEST(DType, F32ToF16RoundsToNearestEven) {
  for (uint32_t bits = 0; bits < 0x7F800000; bits += 9973) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    const _Float16 native = static_cast<_Float16>(value);
    uint16_t expected;
    std::memcpy(&expected, &native, sizeof expected);
    ASSERT_EQ(f32_to_f16(value), expected) << value;
    ASSERT_EQ(f32_to_f16(-value), expected | 0x8000) << value;
  }
}

TEST(DType, F32ToBF16RoundsToNearestEven) {
  EXPECT_EQ(f32_to_bf16(1.0f), 0x3F80);
  EXPECT_EQ(f32_to_bf16(1.00390625f), 0x3F80);  // halfway, even below
  EXPECT_EQ(f32_to_bf16(1.01171875f), 0x3F82);  // halfway, even above
  EXPECT_TRUE(std::isnan(bf16_to_f32(f32_to_bf16(std::numeric_limits<float>::quiet_NaN()))));
  EXPECT_TRUE(std::isinf(bf16_to_f32(f32_to_bf16(std::numeric_limits<float>::max()))));
}

TEST(DType, BytesCountBlocks) {
  EXPECT_EQ(dtype_bytes(DType::kQ4_K, 512), 288);
  EXPECT_EQ(dtype_bytes(DType::kNF4, 64), 32);
  EXPECT_ANY_THROW(dtype_bytes(DType::kQ4_K, 100));
}

}  // namespace
}  // namespace onggi
