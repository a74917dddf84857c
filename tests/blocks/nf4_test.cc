#include "blocks/nf4.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/error.h"
#include "base/random.h"
#include "formats/safetensors.h"

namespace onggi {
namespace {

// Layer 0's q_proj of onggi-mini as bitsandbytes 0.50 quantised it.
class Golden : public testing::Test {
 protected:
  SafetensorsReader file_{"tests/golden/nf4.safetensors"};

  template <typename T>
  const T* data(const char* name) const {
    return static_cast<const T*>(file_.tensor(name).data);
  }
};

template <typename T>
void expect_same_bytes(const T* got, const T* expected, int64_t count, const char* what) {
  int64_t different = 0, first = -1;
  for (int64_t i = 0; i < count; ++i) {
    if (std::memcmp(&got[i], &expected[i], sizeof(T)) == 0) continue;
    if (first < 0) first = i;
    ++different;
  }
  EXPECT_EQ(different, 0) << what << ": first difference at " << first << ": "
                          << +got[std::max<int64_t>(first, 0)] << " instead of "
                          << +expected[std::max<int64_t>(first, 0)];
}

TEST_F(Golden, CodesAreTheirs) {
  expect_same_bytes(kNf4Code.data(), data<float>("nf4_code"), 16, "nf4_code");
  expect_same_bytes(dynamic_code().data(), data<float>("nested_code"), 256, "nested_code");
}

TEST_F(Golden, EncodesToTheSameBytes) {
  const TensorView weight = file_.tensor("weight");
  const Nf4Storage encoded = encode_nf4(weight);
  expect_same_bytes(&encoded.offset, data<float>("offset"), 1, "offset");
  ASSERT_EQ(encoded.packed.size(), static_cast<size_t>(weight.elements() / 2));
  expect_same_bytes(encoded.packed.data(), data<uint8_t>("packed"), weight.elements() / 2, "packed");
  ASSERT_EQ(encoded.nested_absmax.size(), 24u);
  expect_same_bytes(encoded.nested_absmax.data(), data<float>("nested_absmax"), 24, "nested_absmax");
  expect_same_bytes(encoded.absmax_q8.data(), data<uint8_t>("absmax_q8"), weight.elements() / 64,
                    "absmax_q8");
}

TEST_F(Golden, PiecesInAnyOrderGiveTheSame) {
  const TensorView weight = file_.tensor("weight");
  Nf4Encoder encoder(weight.shape[0], weight.shape[1]);
  const int64_t piece = 64 * 512;
  std::vector<float> values(piece);
  for (int64_t begin = weight.elements() - piece; begin >= 0; begin -= piece) {
    read_as_f32(weight, begin, piece, values.data());
    encoder.encode(begin, piece, values.data());
  }
  const Nf4Storage pieces = encoder.finish();
  const Nf4Storage whole = encode_nf4(weight);
  EXPECT_EQ(pieces.packed, whole.packed);
  EXPECT_EQ(pieces.absmax_q8, whole.absmax_q8);
  EXPECT_EQ(pieces.nested_absmax, whole.nested_absmax);
  EXPECT_EQ(pieces.offset, whole.offset);
}

TEST_F(Golden, DecodesToTheSameBits) {
  const Nf4Tensor tensor{768,
                         512,
                         data<uint8_t>("packed"),
                         data<uint8_t>("absmax_q8"),
                         data<float>("nested_absmax"),
                         *data<float>("offset")};
  const uint16_t* expected = data<uint16_t>("dequantized");
  std::vector<uint16_t> decoded(static_cast<size_t>(tensor.elements()));
  decode_nf4_bf16(tensor, 0, tensor.elements(), decoded.data());
  expect_same_bytes(decoded.data(), expected, tensor.elements(), "dequantized");
  // A range that starts and ends inside blocks.
  decode_nf4_bf16(tensor, 1234, 4444, decoded.data());
  expect_same_bytes(decoded.data(), expected + 1234, 4444, "part of dequantized");
  // fp32 differs from bf16 by the rounding alone.
  std::vector<float> wide(static_cast<size_t>(tensor.elements()));
  decode_nf4(tensor, 0, tensor.elements(), wide.data());
  for (int64_t i = 0; i < tensor.elements(); ++i) ASSERT_EQ(f32_to_bf16(wide[i]), expected[i]) << i;
}

TEST(Nf4, ErrorOfNormalValuesIsThatOfTheCode) {
  Random random(1);
  std::vector<float> values(64 * 1024);
  for (float& value : values) value = random.normal();
  const Nf4Storage encoded = encode_nf4({values.data(), DType::kF32, {1024, 64}});
  std::vector<float> decoded(values.size());
  decode_nf4(encoded.view(), 0, static_cast<int64_t>(values.size()), decoded.data());
  double error = 0, power = 0;
  for (size_t i = 0; i < values.size(); ++i) {
    error += (values[i] - decoded[i]) * (values[i] - decoded[i]);
    power += values[i] * values[i];
  }
  // NF4's mean squared error for a standard normal in blocks of 64 is about 0.0087 (QLoRA's code, measured
  // there).
  EXPECT_NEAR(error / power, 0.0087, 0.0008);
}

TEST(Nf4, ZeroBlocksStayZero) {
  std::vector<float> values(64 * 4, 0.0f);
  for (int i = 64; i < 128; ++i) values[i] = 0.5f;
  const Nf4Storage encoded = encode_nf4({values.data(), DType::kF32, {4, 64}});
  std::vector<float> decoded(values.size());
  decode_nf4(encoded.view(), 0, 256, decoded.data());
  for (int i = 0; i < 64; ++i) EXPECT_EQ(decoded[i], 0.0f);
  for (int i = 64; i < 128; ++i) EXPECT_NEAR(decoded[i], 0.5f, 0.01f);
}

TEST(Nf4, RefusesWhatItCannotHold) {
  EXPECT_THROW(Nf4Encoder(4, 100), InternalError);
  const std::vector<float> values(64);
  Nf4Encoder encoder(1, 64);
  EXPECT_THROW(encoder.encode(64, 64, values.data()), InternalError);
}

}  // namespace
}  // namespace onggi
