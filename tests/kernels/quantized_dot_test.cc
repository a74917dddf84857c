#include "kernels/cpu/quantized_dot.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "base/random.h"
#include "blocks/nf4.h"
#include "blocks/q2_k.h"
#include "blocks/q3_k.h"
#include "blocks/q4_0.h"
#include "blocks/q4_k.h"
#include "blocks/q5_k.h"
#include "blocks/q6_k.h"
#include "blocks/q8_0.h"

namespace onggi::cpu {
namespace {

constexpr DType kDTypes[] = {DType::kF32,  DType::kF16,  DType::kBF16, DType::kNF4,
                             DType::kQ4_0, DType::kQ8_0, DType::kQ2_K, DType::kQ3_K,
                             DType::kQ4_K, DType::kQ5_K, DType::kQ6_K};

// A weight of random bits (f16 and f32 fields of sensible size), and what it means, decoded by the scalar
// code of blocks/ or tensor/.
struct Weight {
  WeightView view;
  std::vector<uint8_t> data;
  std::vector<uint8_t> absmax;
  std::vector<float> nested;
  std::vector<float> decoded;            // f32 [N, K]
  std::vector<float> decoded_bf16_code;  // nf4 with the code rounded to bf16
};

template <typename Block>
void fill_blocks(Random& random, Weight& weight) {
  const size_t blocks = weight.decoded.size() / Block::kElements;
  for (auto& byte : weight.data) byte = static_cast<uint8_t>(random.next_u32());
  auto* at = reinterpret_cast<Block*>(weight.data.data());
  for (size_t b = 0; b < blocks; ++b) {
    at[b].d = f32_to_f16((random.uniform() - 0.3f) * 0.02f);
    if constexpr (requires { at[b].dmin; }) at[b].dmin = f32_to_f16(random.uniform() * 0.02f);
    decode_block(at[b], weight.decoded.data() + b * Block::kElements);
  }
}

template <typename Element, typename Encode, typename Decode>
void fill_plain(Random& random, Weight& weight, Encode encode, Decode decode) {
  auto* at = reinterpret_cast<Element*>(weight.data.data());
  for (size_t i = 0; i < weight.decoded.size(); ++i) {
    at[i] = encode(random.normal());
    weight.decoded[i] = decode(at[i]);
  }
}

void fill_nf4(Random& random, Weight& weight) {
  for (auto& byte : weight.data) byte = static_cast<uint8_t>(random.next_u32());
  weight.absmax.resize(weight.decoded.size() / kNf4BlockElements);
  for (auto& byte : weight.absmax) byte = static_cast<uint8_t>(random.next_u32());
  weight.nested.resize((weight.absmax.size() + kNf4NestedBlocks - 1) / kNf4NestedBlocks);
  for (auto& value : weight.nested) value = 0.01f + 0.01f * random.uniform();
  weight.view.nf4_absmax = weight.absmax.data();
  weight.view.nf4_nested_absmax = weight.nested.data();
  weight.view.nf4_offset = 0.03f;
  const Nf4Tensor tensor = {weight.view.rows,     weight.view.columns,  weight.data.data(),
                            weight.absmax.data(), weight.nested.data(), 0.03f};
  weight.decoded_bf16_code.resize(weight.decoded.size());
  for (size_t i = 0; i < weight.decoded.size(); ++i) {
    const uint8_t byte = weight.data[i / 2];
    const float code = kNf4Code[i % 2 == 0 ? byte >> 4 : byte & 15];
    const float absmax = tensor.absmax(static_cast<int64_t>(i / kNf4BlockElements));
    weight.decoded[i] = code * absmax;
    weight.decoded_bf16_code[i] = bf16_to_f32(f32_to_bf16(code)) * absmax;
  }
}

Weight make_weight(DType dtype, int64_t rows, int64_t columns, uint64_t seed) {
  Random random(seed);
  Weight weight;
  weight.view = {dtype, rows, columns, nullptr, nullptr, nullptr, 0};
  weight.data.resize(static_cast<size_t>(rows * dtype_bytes(dtype, columns)));
  weight.decoded.resize(static_cast<size_t>(rows * columns));
  const auto same = [](float value) { return value; };
  switch (dtype) {
    case DType::kF32:
      fill_plain<float>(random, weight, same, same);
      break;
    case DType::kF16:
      fill_plain<uint16_t>(random, weight, f32_to_f16, f16_to_f32);
      break;
    case DType::kBF16:
      fill_plain<uint16_t>(random, weight, f32_to_bf16, bf16_to_f32);
      break;
    case DType::kNF4:
      fill_nf4(random, weight);
      break;
    case DType::kQ4_0:
      fill_blocks<BlockQ4_0>(random, weight);
      break;
    case DType::kQ8_0:
      fill_blocks<BlockQ8_0>(random, weight);
      break;
    case DType::kQ2_K:
      fill_blocks<BlockQ2K>(random, weight);
      break;
    case DType::kQ3_K:
      fill_blocks<BlockQ3K>(random, weight);
      break;
    case DType::kQ4_K:
      fill_blocks<BlockQ4K>(random, weight);
      break;
    case DType::kQ5_K:
      fill_blocks<BlockQ5K>(random, weight);
      break;
    case DType::kQ6_K:
      fill_blocks<BlockQ6K>(random, weight);
      break;
    default:
      ADD_FAILURE() << "no such weight";
  }
  weight.view.data = weight.data.data();
  return weight;
}

// Activations that int8 with a scale per 32 values, and bf16, hold exactly: integers up to 127, which each
// group of 32 contains, times a power of two per group.
std::vector<float> exact_activations(int64_t tokens, int64_t columns, uint64_t seed) {
  Random random(seed);
  std::vector<float> x(static_cast<size_t>(tokens * columns));
  for (int64_t t = 0; t < tokens; ++t)
    for (int64_t begin = 0; begin < columns; begin += 32) {
      const float unit = std::ldexp(1.0f, static_cast<int>(random.below(7)) - 10);
      const int64_t end = std::min(columns, begin + 32);
      for (int64_t k = begin; k < end; ++k)
        x[static_cast<size_t>(t * columns + k)] = unit * (static_cast<float>(random.below(255)) - 127.0f);
      x[static_cast<size_t>(t * columns + begin + random.below(static_cast<uint32_t>(end - begin)))] =
          random.below(2) == 0 ? 127 * unit : -127 * unit;
    }
  return x;
}

std::vector<float> normal_activations(int64_t tokens, int64_t columns, uint64_t seed) {
  Random random(seed);
  std::vector<float> x(static_cast<size_t>(tokens * columns));
  for (auto& value : x) value = random.normal();
  return x;
}

std::vector<int64_t> column_counts(DType dtype) {
  switch (dtype_info(dtype).block_elements) {
    case 1:
      return {1, 17, 33, 100, 1024};
    case 32:
      return {32, 96, 288, 1024};
    case 64:
      return {64, 192, 1024};
    default:
      return {256, 512, 1024};
  }
}

std::string name_of(DotLevel level, DType dtype, int64_t tokens, int64_t rows, int64_t columns) {
  return std::string(dtype_name(dtype)) + " level " + std::to_string(static_cast<int>(level)) + " T " +
         std::to_string(tokens) + " N " + std::to_string(rows) + " K " + std::to_string(columns);
}

struct Machine {
  explicit Machine(int threads) : pool(threads), scratch(threads), context{pool, scratch} {}
  ThreadPool pool;
  Scratch scratch;
  OpContext context;
};

std::vector<float> run(DotLevel level, const OpContext& context, const Weight& weight,
                       const std::vector<float>& x, int64_t tokens) {
  std::vector<float> out(static_cast<size_t>(tokens * weight.view.rows), -777.0f);
  linear_few_tokens_at(level, context, {x.data(), weight.view, tokens, out.data()});
  return out;
}

// What an output should be, with the sums that error bounds are made of.
struct Expected {
  double value = 0;
  double magnitude = 0;        // sum |w x|
  double largest_times_x = 0;  // max |w| * sum |x|
  double squares = 0;          // sum w^2 step^2, step = amax / 127 of x's group of 32
};

Expected expect(const Weight& weight, const std::vector<float>& decoded, const std::vector<float>& x,
                int64_t n, int64_t t) {
  const int64_t columns = weight.view.columns;
  const float* w = decoded.data() + n * columns;
  const float* activations = x.data() + t * columns;
  Expected expected;
  double largest = 0, sum_x = 0;
  for (int64_t begin = 0; begin < columns; begin += 32) {
    const int64_t end = std::min(columns, begin + 32);
    double amax = 0;
    for (int64_t k = begin; k < end; ++k) amax = std::max(amax, std::abs(double{activations[k]}));
    for (int64_t k = begin; k < end; ++k) {
      const double product = double{w[k]} * activations[k];
      expected.value += product;
      expected.magnitude += std::abs(product);
      expected.squares += double{w[k]} * w[k] * (amax / 127) * (amax / 127);
      largest = std::max(largest, std::abs(double{w[k]}));
      sum_x += std::abs(double{activations[k]});
    }
  }
  expected.largest_times_x = largest * sum_x;
  return expected;
}

const std::vector<float>& values_of(const Weight& weight, DotLevel level) {
  return weight.view.dtype == DType::kNF4 && level == DotLevel::kAvx512Bf16 ? weight.decoded_bf16_code
                                                                            : weight.decoded;
}

// With activations that need no rounding, only fp32 sums differ from the exact result: each of the some 30
// roundings on the way of a term errs by 2^-24 of a partial sum, and partial sums (unsigned integers and
// minimums apart) are below 2 max|w| sum|x|.
void expect_exact(DotLevel level, const OpContext& context, const Weight& weight, int64_t tokens) {
  const int64_t rows = weight.view.rows;
  const std::vector<float> x = exact_activations(tokens, weight.view.columns, 2);
  const std::vector<float> out = run(level, context, weight, x, tokens);
  double worst = 0;
  std::string where;
  for (int64_t t = 0; t < tokens; ++t)
    for (int64_t n = 0; n < rows; ++n) {
      const float value = out[static_cast<size_t>(t * rows + n)];
      const Expected expected = expect(weight, values_of(weight, level), x, n, t);
      const double ratio =
          std::abs(value - expected.value) / (std::ldexp(1.0, -19) * expected.largest_times_x);
      if (ratio <= worst) continue;
      worst = ratio;
      where = "out[" + std::to_string(t) + ", " + std::to_string(n) + "] = " + std::to_string(value) +
              ", expected " + std::to_string(expected.value);
    }
  EXPECT_LE(worst, 1) << name_of(level, weight.view.dtype, tokens, rows, weight.view.columns) << ": "
                      << where;
}

TEST(QuantizedDot, IsExactWhereActivationsNeedNoRounding) {
  Machine machine(1);
  for (const DotLevel level : available_dot_levels())
    for (const DType dtype : kDTypes)
      for (const int64_t columns : column_counts(dtype)) {
        const Weight weight = make_weight(dtype, columns == 1024 ? 75 : 19, columns, 1);
        for (const int64_t tokens : {1, 2, 3, 4, 5, 6, 7, 8, 9, 17})
          expect_exact(level, machine.context, weight, tokens);
      }
}

// More tokens than are prepared at a time.
TEST(QuantizedDot, ManyTokensAreTakenInBlocks) {
  Machine machine(2);
  for (const DType dtype : {DType::kQ8_0, DType::kQ6_K, DType::kBF16})
    expect_exact(available_dot_levels().back(), machine.context, make_weight(dtype, 19, 256, 1), 515);
}

// Normal activations: rounding each to a multiple of its group's step errs by at most half a step and, if
// even, by step^2 / 12 on average, so an output by sqrt(sum w^2 step^2 / 12) on average. bf16 errs by 2^-9 of
// each factor.
TEST(QuantizedDot, ErrsByTheRoundingOfActivationsAlone) {
  Machine machine(1);
  constexpr int64_t kRows = 64, kColumns = 1024, kTokens = 5;
  const std::vector<float> x = normal_activations(kTokens, kColumns, 3);
  for (const DotLevel level : available_dot_levels())
    for (const DType dtype : kDTypes) {
      const Weight weight = make_weight(dtype, kRows, kColumns, 4);
      const std::vector<float> out = run(level, machine.context, weight, x, kTokens);
      const bool is_int8 = dtype_info(dtype).block_elements > 1 && dtype != DType::kNF4;
      double error_squares = 0, expected_squares = 0;
      for (int64_t t = 0; t < kTokens; ++t)
        for (int64_t n = 0; n < kRows; ++n) {
          const Expected expected = expect(weight, weight.decoded, x, n, t);
          const double error = out[static_cast<size_t>(t * kRows + n)] - expected.value;
          const double variance = expected.squares / 12;
          const double bound = is_int8 ? 5.5 * std::sqrt(variance) : std::ldexp(1.0, -8) * expected.magnitude;
          ASSERT_LE(std::abs(error), bound) << name_of(level, dtype, kTokens, kRows, kColumns) << " at " << t
                                            << ", " << n << ": " << expected.value;
          error_squares += error * error;
          expected_squares += variance;
        }
      if (!is_int8) continue;
      // 320 outputs: the mean square is within 30 % of its expectation.
      EXPECT_LT(error_squares, 1.3 * expected_squares) << name_of(level, dtype, kTokens, kRows, kColumns);
      EXPECT_GT(error_squares, 0.7 * expected_squares) << name_of(level, dtype, kTokens, kRows, kColumns);
    }
}

TEST(QuantizedDot, AccumulatesAndWritesNothingElse) {
  Machine machine(2);
  for (const DotLevel level : available_dot_levels())
    for (const DType dtype : kDTypes)
      for (const int64_t tokens : {1, 5}) {
        const int64_t rows = 21, columns = 512;
        const Weight weight = make_weight(dtype, rows, columns, 5);
        const std::vector<float> x = normal_activations(tokens, columns, 6);
        const std::vector<float> once = run(level, machine.context, weight, x, tokens);
        std::vector<float> guarded(once.size() + 32, 3.0f);
        linear_few_tokens_at(level, machine.context,
                             {x.data(), weight.view, tokens, guarded.data() + 16, Output::kAccumulate});
        for (size_t i = 0; i < guarded.size(); ++i) {
          const bool inside = i >= 16 && i < 16 + once.size();
          ASSERT_EQ(guarded[i], inside ? 3.0f + once[i - 16] : 3.0f)
              << name_of(level, dtype, tokens, rows, columns) << " at " << i;
        }
      }
}

TEST(QuantizedDot, TheBitsDoNotDependOnTheThreads) {
  Machine one(1), three(3);
  for (const DType dtype : kDTypes)
    for (const int64_t tokens : {1, 4, 9}) {
      const Weight weight = make_weight(dtype, 301, 512, 7);
      const std::vector<float> x = normal_activations(tokens, 512, 8);
      const DotLevel level = available_dot_levels().back();
      EXPECT_EQ(run(level, one.context, weight, x, tokens), run(level, three.context, weight, x, tokens))
          << dtype_name(dtype);
    }
}

TEST(QuantizedDot, ZerosGiveZeroAndNonFiniteValuesComeThrough) {
  Machine machine(2);
  for (const DotLevel level : available_dot_levels())
    for (const DType dtype : kDTypes)
      for (const int64_t tokens : {1, 4}) {
        const Weight weight = make_weight(dtype, 16, 512, 9);
        std::vector<float> x(static_cast<size_t>(tokens * 512), 0.0f);
        for (const float value : run(level, machine.context, weight, x, tokens)) ASSERT_EQ(value, 0.0f);
        for (const float bad :
             {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
          std::fill(x.begin(), x.end(), 0.5f);
          x[300] = bad;
          const std::vector<float> out = run(level, machine.context, weight, x, tokens);
          for (size_t n = 0; n < 16; ++n) ASSERT_FALSE(std::isfinite(out[n])) << dtype_name(dtype);
          for (size_t i = 16; i < out.size(); ++i) ASSERT_TRUE(std::isfinite(out[i])) << "of another token";
        }
      }
}

TEST(QuantizedDot, KnowsWhatItTakes) {
  for (const DType dtype : kDTypes) {
    EXPECT_TRUE(has_few_token_kernel(dtype)) << dtype_name(dtype);
    EXPECT_GE(few_token_limit(dtype), 1) << dtype_name(dtype);
  }
  for (const DType dtype : {DType::kI8, DType::kI64, DType::kF64, DType::kBool}) {
    EXPECT_FALSE(has_few_token_kernel(dtype)) << dtype_name(dtype);
    EXPECT_EQ(few_token_limit(dtype), 0) << dtype_name(dtype);
  }
}

}  // namespace
}  // namespace onggi::cpu
