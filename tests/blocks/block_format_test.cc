#include "blocks/block_format.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/random.h"
#include "blocks/q3_k.h"
#include "blocks/q4_k.h"
#include "blocks/weights.h"
#include "formats/gguf.h"
#include "formats/safetensors.h"
#include "tests/blocks/ggml_library.h"

namespace onggi {
namespace {

struct Case {
  DType dtype;
  const char* ggml_name;
  // Root of (squared error / squared values) that normal values must stay below, and halfway to which they
  // must come.
  double relative_error;
};
constexpr Case kCases[] = {
    {DType::kQ8_0, "q8_0", 0.0070}, {DType::kQ6_K, "q6_K", 0.020}, {DType::kQ5_K, "q5_K", 0.037},
    {DType::kQ4_K, "q4_K", 0.075},  {DType::kQ4_0, "q4_0", 0.095}, {DType::kQ3_K, "q3_K", 0.17},
    {DType::kQ2_K, "q2_K", 0.32},
};
std::string case_name(const testing::TestParamInfo<Case>& info) { return info.param.ggml_name; }

class Formats : public testing::TestWithParam<Case> {
 protected:
  const BlockFormat& format() const { return block_format(GetParam().dtype); }
  std::vector<uint8_t> encode(const std::vector<float>& values, const float* importance = nullptr) const {
    std::vector<uint8_t> blocks(static_cast<size_t>(dtype_bytes(GetParam().dtype, std::ssize(values))));
    format().encode(values.data(), std::ssize(values), importance, blocks.data());
    return blocks;
  }
  std::vector<float> decode(const std::vector<uint8_t>& blocks, size_t elements) const {
    std::vector<float> values(elements);
    format().decode(blocks.data(), static_cast<int64_t>(elements), values.data());
    return values;
  }
};

struct Matrix {
  std::string name;
  int64_t rows, columns;
  std::vector<float> values;
};

Matrix normal_values(int64_t rows, int64_t columns, int power) {
  Matrix matrix{"normal^" + std::to_string(power), rows, columns, std::vector<float>(rows * columns)};
  Random random(7);
  for (float& value : matrix.values) value = 0.02f * std::pow(random.normal(), static_cast<float>(power));
  return matrix;
}

Matrix model_tensor(const ShardedSafetensors& model, const std::string& name, int64_t rows) {
  const TensorView view = model.tensor(name);
  Matrix matrix{name, rows, view.shape[1], std::vector<float>(rows * view.shape[1])};
  read_as_f32(view, 0, rows * matrix.columns, matrix.values.data());
  return matrix;
}

const std::vector<Matrix>& test_matrices() {
  static const std::vector<Matrix> matrices = [] {
    const ShardedSafetensors model("models/onggi-mini");
    return std::vector<Matrix>{
        model_tensor(model, "model.embed_tokens.weight", 256),
        model_tensor(model, "model.layers.0.self_attn.q_proj.weight", 256),
        model_tensor(model, "model.layers.1.mlp.down_proj.weight", 128),
        model_tensor(model, "model.layers.3.self_attn.v_proj.weight", 256),
        normal_values(64, 1024, 1),
        normal_values(64, 1024, 3),
    };
  }();
  return matrices;
}

// The weights that llama.cpp's encoder of this format minimises with, without an importance matrix.
void default_weights(DType dtype, const float* x, int64_t n, float* out) {
  if (dtype == DType::kQ4_0 || dtype == DType::kQ8_0) {
    std::fill_n(out, n, 1.0f);
  } else if (dtype == DType::kQ2_K) {
    magnitude_weights(x, static_cast<int>(n), 0, out);
  } else if (dtype == DType::kQ3_K || dtype == DType::kQ6_K) {
    square_weights(x, static_cast<int>(n), 0, out);
  } else {
    for (int64_t i = 0; i < n; i += 32) magnitude_and_rms_weights(x + i, 32, out + i);
  }
}

double weighted_error(const std::vector<float>& x, const std::vector<float>& y, const std::vector<float>& w) {
  double error = 0;
  for (size_t i = 0; i < x.size(); ++i) error += double{w[i]} * (double{x[i]} - y[i]) * (double{x[i]} - y[i]);
  return error;
}

// ONGGI_TEST_VERBOSE=1 shows by how much ours are better.
void report(const char* what, const Matrix& matrix, double weighted, double plain) {
  if (std::getenv("ONGGI_TEST_VERBOSE") == nullptr) return;
  std::printf("%s, %s: weighted %.4f, plain %.4f\n", what, matrix.name.c_str(), weighted, plain);
}

class AgainstGgml : public Formats {
 protected:
  void SetUp() override {
    if (!ggml().available()) GTEST_SKIP() << test::GgmlLibrary::skip_reason();
  }
  static const test::GgmlLibrary& ggml() {
    static const test::GgmlLibrary library;
    return library;
  }
  std::vector<float> encode_and_decode_theirs(const Matrix& matrix, const float* importance) const {
    std::vector<uint8_t> blocks(
        static_cast<size_t>(dtype_bytes(GetParam().dtype, std::ssize(matrix.values))));
    const auto type = static_cast<int>(*ggml_type(GetParam().dtype));
    ggml().encode(type, matrix.values.data(), matrix.rows, matrix.columns, importance, blocks.data());
    return decode(blocks, matrix.values.size());
  }
  std::vector<float> encode_and_decode_ours(const Matrix& matrix, const float* importance) const {
    std::vector<uint8_t> blocks(
        static_cast<size_t>(dtype_bytes(GetParam().dtype, std::ssize(matrix.values))));
    const int64_t row_bytes = dtype_bytes(GetParam().dtype, matrix.columns);
    for (int64_t r = 0; r < matrix.rows; ++r) {
      format().encode(&matrix.values[r * matrix.columns], matrix.columns, importance, &blocks[r * row_bytes]);
    }
    return decode(blocks, matrix.values.size());
  }
};

TEST_P(AgainstGgml, DecodesBitForBit) {
  constexpr int64_t kElements = 256 * 400;
  std::vector<uint8_t> blocks(static_cast<size_t>(dtype_bytes(GetParam().dtype, kElements)));
  Random random(3);
  for (uint8_t& byte : blocks) byte = static_cast<uint8_t>(random.next_u32());
  // Random bytes make f16 scales of every kind; NaN compares unequal, so compare bits.
  std::vector<float> theirs(kElements);
  ggml().decode(GetParam().ggml_name, blocks.data(), kElements, theirs.data());
  const std::vector<float> ours = decode(blocks, kElements);
  int64_t different = 0;
  for (int64_t i = 0; i < kElements; ++i) {
    if (std::isnan(ours[i]) && std::isnan(theirs[i])) continue;
    if (std::memcmp(&ours[i], &theirs[i], 4) != 0 && different++ == 0) {
      ADD_FAILURE() << "element " << i << ": " << ours[i] << " instead of " << theirs[i];
    }
  }
  EXPECT_EQ(different, 0);
}

TEST_P(AgainstGgml, WeightedErrorIsNotAboveTheirs) {
  for (const Matrix& matrix : test_matrices()) {
    std::vector<float> weights(matrix.values.size());
    default_weights(GetParam().dtype, matrix.values.data(), std::ssize(weights), weights.data());
    const std::vector<float> theirs = encode_and_decode_theirs(matrix, nullptr);
    const std::vector<float> ours = encode_and_decode_ours(matrix, nullptr);
    const std::vector<float> equal(weights.size(), 1.0f);
    const double weighted =
        weighted_error(matrix.values, ours, weights) / weighted_error(matrix.values, theirs, weights);
    const double plain =
        weighted_error(matrix.values, ours, equal) / weighted_error(matrix.values, theirs, equal);
    EXPECT_LE(weighted, 1 + 1e-9) << matrix.name;
    EXPECT_LE(plain, 1 + 1e-9) << matrix.name;
    report("error / ggml's", matrix, weighted, plain);
  }
}

TEST_P(AgainstGgml, ErrorWithImportanceIsNotAboveTheirs) {
  if (GetParam().dtype == DType::kQ8_0) GTEST_SKIP() << "Q8_0 knows no importance";
  for (const Matrix& matrix : test_matrices()) {
    std::vector<float> importance(matrix.columns);
    Random random(11);
    for (float& value : importance) value = std::exp(2 * random.normal());
    std::vector<float> weights(matrix.values.size());
    for (size_t i = 0; i < weights.size(); ++i) weights[i] = importance[i % matrix.columns];
    const double theirs =
        weighted_error(matrix.values, encode_and_decode_theirs(matrix, importance.data()), weights);
    const double ours =
        weighted_error(matrix.values, encode_and_decode_ours(matrix, importance.data()), weights);
    EXPECT_LE(ours, theirs) << matrix.name;
    report("error / ggml's with importance", matrix, ours / theirs, ours / theirs);
  }
}
INSTANTIATE_TEST_SUITE_P(Blocks, AgainstGgml, testing::ValuesIn(kCases), case_name);

TEST_P(Formats, ErrorOfNormalValues) {
  const Matrix matrix = normal_values(16, 1024, 1);
  const std::vector<float> decoded = decode(encode(matrix.values), matrix.values.size());
  double error = 0, power = 0;
  for (size_t i = 0; i < decoded.size(); ++i) {
    error += std::pow(double{matrix.values[i]} - decoded[i], 2);
    power += std::pow(double{matrix.values[i]}, 2);
  }
  const double relative = std::sqrt(error / power);
  EXPECT_LT(relative, GetParam().relative_error);
  EXPECT_GT(relative, GetParam().relative_error / 2);
}

TEST_P(Formats, EncodesZerosConstantsAndExtremes) {
  std::vector<float> zeros(512, 0.0f);
  EXPECT_EQ(decode(encode(zeros), 512), zeros);
  for (const float value : {1.0f, -1.0f, 3e-3f, 1e4f, -1e4f}) {
    const std::vector<float> constant(512, value);
    for (const float got : decode(encode(constant), 512))
      ASSERT_NEAR(got, value, std::fabs(value) * 0.011) << value;
  }
  for (const float value : {1e-12f, 1e-30f, 3e30f}) {  // below and beyond f16: no infinity, no NaN
    std::vector<float> mixed(512, value);
    for (size_t i = 0; i < mixed.size(); i += 3) mixed[i] = -value;
    for (const float got : decode(encode(mixed), 512)) ASSERT_TRUE(std::isfinite(got)) << value;
  }
  std::vector<float> spike(512, 0.0f);
  spike[300] = -2.0f;
  const std::vector<float> decoded = decode(encode(spike), 512);
  for (int i = 0; i < 512; ++i) ASSERT_NEAR(decoded[i], spike[i], 0.01) << i;
}

TEST_P(Formats, ImportanceMovesTheErrorAwayFromWhatCounts) {
  if (GetParam().dtype == DType::kQ8_0) GTEST_SKIP() << "Q8_0 knows no importance";
  const Matrix matrix = normal_values(16, 1024, 1);
  std::vector<float> importance(matrix.values.size());
  for (size_t i = 0; i < importance.size(); ++i) importance[i] = i % 4 == 0 ? 100.0f : 1.0f;
  const auto error_of_important = [&](const std::vector<float>& decoded) {
    double error = 0;
    for (size_t i = 0; i < decoded.size(); i += 4)
      error += std::pow(double{matrix.values[i]} - decoded[i], 2);
    return error;
  };
  const double without = error_of_important(decode(encode(matrix.values), matrix.values.size()));
  const double with =
      error_of_important(decode(encode(matrix.values, importance.data()), matrix.values.size()));
  EXPECT_LT(with, without * 0.95);
}
INSTANTIATE_TEST_SUITE_P(Blocks, Formats, testing::ValuesIn(kCases), case_name);

TEST(BlockFormats, PlainTypesRoundToNearest) {
  const std::vector<float> values = {1.0f, -2.5f, 1.00390625f, 65504.0f, 1e-8f, 3.14159274f};
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    std::vector<uint8_t> stored(static_cast<size_t>(dtype_bytes(dtype, std::ssize(values))));
    block_format(dtype).encode(values.data(), std::ssize(values), nullptr, stored.data());
    std::vector<float> decoded(values.size());
    block_format(dtype).decode(stored.data(), std::ssize(values), decoded.data());
    for (size_t i = 0; i < values.size(); ++i) {
      const float expected = dtype == DType::kF32   ? values[i]
                             : dtype == DType::kF16 ? f16_to_f32(f32_to_f16(values[i]))
                                                    : bf16_to_f32(f32_to_bf16(values[i]));
      EXPECT_EQ(decoded[i], expected) << dtype_name(dtype);
    }
  }
}

TEST(BlockFormats, KnowsWhatItHas) {
  EXPECT_TRUE(has_block_format(DType::kQ4_K));
  EXPECT_FALSE(has_block_format(DType::kNF4));
  EXPECT_FALSE(has_block_format(DType::kI8));
  EXPECT_THROW(block_format(DType::kNF4), InternalError);
}

TEST(BlockFormats, PackedScalesOfQ4K) {
  uint8_t scale[8], minimum[8], packed[12];
  for (int s = 0; s < 8; ++s) {
    scale[s] = static_cast<uint8_t>(63 - 7 * s);
    minimum[s] = static_cast<uint8_t>(9 * s);
  }
  pack_q4k_scales(scale, minimum, packed);
  for (int s = 0; s < 8; ++s) {
    EXPECT_EQ(q4k_scale_min(packed, s).scale, scale[s]) << s;
    EXPECT_EQ(q4k_scale_min(packed, s).minimum, minimum[s]) << s;
  }
}

}  // namespace
}  // namespace onggi
