// Products of few tokens and placed blocks against decode_weight and sums in fp64.
#include "kernels/cuda/few_token.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "blocks/nf4.h"
#include "kernels/cuda/block_weight.h"
#include "tests/kernels/harness.h"
#include "tests/kernels_cuda/device_array.h"

namespace onggi {
namespace {

using testing_cuda::DeviceArray;
using testing_cuda::stream;
using testing_ops::Floats;
using testing_ops::normal;
using testing_ops::Weight;

constexpr DType kBlockDTypes[] = {DType::kQ4_K, DType::kQ5_K, DType::kQ6_K, DType::kQ8_0,
                                  DType::kQ4_0, DType::kQ2_K, DType::kQ3_K};
// Beyond 64 tokens plain weights are left to others.
bool takes(DType dtype, int64_t tokens) { return is_quantized(dtype) || tokens <= 64; }
constexpr DType kDTypes[] = {DType::kQ4_K, DType::kQ5_K, DType::kQ6_K, DType::kQ8_0, DType::kQ4_0,
                             DType::kQ2_K, DType::kQ3_K, DType::kNF4,  DType::kBF16, DType::kF16};

const OpContext& context() {
  static testing_ops::Machine machine(1);
  static const OpContext context{machine.pool, machine.scratch, stream()};
  return context;
}

float rounded(float value) { return bf16_to_f32(f32_to_bf16(value)); }

// An activation array [count] of a dtype on the device.
class DeviceActivation {
 public:
  DeviceActivation(DType dtype, const Floats& values) : dtype_(dtype) {
    if (dtype == DType::kF32) {
      floats_ = std::make_unique<DeviceArray<float>>(values);
      return;
    }
    std::vector<uint16_t> bits;
    for (const float value : values) bits.push_back(f32_to_bf16(value));
    halves_ = std::make_unique<DeviceArray<uint16_t>>(bits);
  }
  DeviceActivation(DType dtype, size_t count) : dtype_(dtype) {
    if (dtype == DType::kF32) {
      floats_ = std::make_unique<DeviceArray<float>>(count);
    } else {
      halves_ = std::make_unique<DeviceArray<uint16_t>>(count);
    }
  }
  Activation view() const {
    if (floats_ != nullptr) return {floats_->data(), dtype_};
    return {halves_->data(), dtype_};
  }
  Floats values() const {
    if (floats_ != nullptr) return floats_->values();
    Floats values;
    for (const uint16_t bits : halves_->values()) values.push_back(bf16_to_f32(bits));
    return values;
  }

 private:
  DType dtype_;
  std::unique_ptr<DeviceArray<float>> floats_;
  std::unique_ptr<DeviceArray<uint16_t>> halves_;
};

// A weight on the device and what the kernels' products see of it.
struct Placed {
  Placed(DType dtype, int64_t rows, int64_t columns, uint64_t seed)
      : host(testing_ops::random_weight(dtype, rows, columns, seed)) {
    if (dtype == DType::kNF4) {
      view = host.view;
      view.data = copy(host.nf4.packed.data(), host.nf4.packed.size());
      view.nf4_absmax =
          static_cast<const uint8_t*>(copy(host.nf4.absmax_q8.data(), host.nf4.absmax_q8.size()));
      view.nf4_nested_absmax = static_cast<const float*>(
          copy(host.nf4.nested_absmax.data(), host.nf4.nested_absmax.size() * sizeof(float)));
    } else if (dtype_info(dtype).block_elements > 1) {
      view = cuda::place_block_weight(stream(), host.view, buffers);
    } else {
      view = host.view;
      view.data = copy(host.data.data(), host.data.size());
    }
  }
  Weight host;
  WeightView view;
  std::vector<Buffer> buffers;

 private:
  const void* copy(const void* data, size_t bytes) {
    buffers.push_back(stream().allocate(bytes));
    stream().copy_in(buffers.back().data(), data, bytes);
    return buffers.back().data();
  }
};

// What an output must be, and how far the kernel may be off.
struct Expected {
  double value = 0;
  double tolerance = 0;
};

struct Adapter {
  Floats a, b;  // [R, K], [N, R]
  int64_t rank = 0;
  float scale = 0;
};

enum class Gated { kNo, kYes };

struct Case {
  std::vector<DType> dtypes;  // of the members
  std::vector<int64_t> rows;  // of the members
  int64_t columns;
  int64_t tokens;
  DType x_dtype = DType::kBF16;
  DType out_dtype = DType::kF32;
  bool norm = false;
  bool residual = false;
  int64_t rank = 0;
  Gated gated = Gated::kNo;
  int64_t x_stride = 0;
  Precision precision = Precision::kFast;
  float x_size = 1;
  float sixth = 0;  // of each token's activations; 0: like the others
  int fewest_wgmma_tokens = cuda::FewTokenTuning().fewest_wgmma_tokens;
};

std::string name_of(const Case& c) {
  std::string name;
  for (size_t i = 0; i < c.dtypes.size(); ++i)
    name += std::string(dtype_name(c.dtypes[i])) + "[" + std::to_string(c.rows[i]) + "] ";
  name += "K " + std::to_string(c.columns) + " T " + std::to_string(c.tokens);
  if (c.norm) name += " norm";
  if (c.residual) name += " residual";
  if (c.rank > 0) name += " rank " + std::to_string(c.rank);
  if (c.gated == Gated::kYes) name += " gated";
  if (c.out_dtype == DType::kBF16) name += " out bf16";
  if (c.precision == Precision::kF32) name += " f32";
  return name;
}

// One case: its data, the run, and the comparison.
class FewTokenRun {
 public:
  explicit FewTokenRun(const Case& c) : c_(c), stride_(c.x_stride > 0 ? c.x_stride : c.columns) {
    x_ = normal(size_of(c.tokens, stride_), 1);
    for (float& value : x_) value *= c.x_size;
    for (int64_t t = 0; c.sixth != 0 && t < c.tokens; ++t) x_[static_cast<size_t>(t * stride_ + 5)] = c.sixth;
    if (c.x_dtype == DType::kBF16)
      for (float& value : x_) value = rounded(value);
    norm_ = normal(size_of(c.columns, 1), 2);
    residual_ = normal(size_of(c.tokens, c.rows[0]), 3);
    if (c.out_dtype == DType::kBF16)
      for (float& value : residual_) value = rounded(value);
    for (size_t i = 0; i < c.dtypes.size(); ++i) {
      weights_.push_back(std::make_unique<Placed>(c.dtypes[i], c.rows[i], c.columns, 10 + i));
      adapters_.push_back({normal(size_of(c.rank, c.columns), 20 + i, 0.1f),
                           normal(size_of(c.rows[i], c.rank), 30 + i, 0.1f), c.rank, 0.5f});
    }
  }

  void expect_close() {
    const std::vector<Floats> got = run();
    ASSERT_FALSE(got.empty()) << name_of(c_) << " was not taken";
    normalise();
    double worst = 0;
    std::string where;
    for (size_t i = 0; i < got.size(); ++i)
      for (int64_t t = 0; t < c_.tokens; ++t)
        for (int64_t n = 0; n < c_.rows[i]; ++n) {
          Expected expected;
          if (c_.gated == Gated::kYes) {
            expected = gate(product(0, t, n), product(1, t, n));
          } else {
            expected = product(i, t, n);
            if (c_.residual) expected.value += residual_[static_cast<size_t>(t * c_.rows[0] + n)];
          }
          if (c_.out_dtype == DType::kBF16) expected.tolerance += std::ldexp(std::abs(expected.value), -8);
          const float value = got[i][static_cast<size_t>(t * c_.rows[i] + n)];
          const double ratio = std::abs(value - expected.value) / expected.tolerance;
          if (ratio <= worst) continue;
          worst = ratio;
          where = "member " + std::to_string(i) + " [" + std::to_string(t) + ", " + std::to_string(n) +
                  "] = " + std::to_string(value) + ", expected " + std::to_string(expected.value);
        }
    EXPECT_LE(worst, 1) << name_of(c_) << ": " << where;
    EXPECT_TRUE(worst == worst) << name_of(c_);
    largest_ratio = std::max(largest_ratio, worst);
  }
  double largest_ratio = 0;

  void expect_no_numbers() {
    const std::vector<Floats> got = run();
    ASSERT_FALSE(got.empty()) << name_of(c_) << " was not taken";
    for (const Floats& member : got)
      for (const float value : member) EXPECT_TRUE(std::isnan(value)) << name_of(c_) << ": " << value;
  }

 private:
  static size_t size_of(int64_t a, int64_t b) { return static_cast<size_t>(a * b); }

  // The outputs; none where the kernel declined.
  std::vector<Floats> run() {
    const DeviceActivation x(c_.x_dtype, x_), residual(c_.out_dtype, residual_);
    const DeviceArray<float> norm(norm_);
    // As in inference: the residual stream may be f32, what is multiplied is bf16.
    const DType normed_dtype = c_.precision == Precision::kF32 ? DType::kF32 : DType::kBF16;
    const DeviceActivation normed(normed_dtype, size_of(c_.tokens, c_.columns));
    std::vector<std::unique_ptr<DeviceActivation>> outs;
    std::vector<std::unique_ptr<DeviceArray<float>>> adapters;
    AdaptedLinearArgs args;
    args.x = x.view();
    args.x_stride = c_.x_stride;
    args.norm = c_.norm ? norm.data() : nullptr;
    args.epsilon = 1e-6f;
    args.normed = normed.view();
    args.tokens = c_.tokens;
    args.count = static_cast<int>(c_.dtypes.size());
    if (c_.residual) args.residual = residual.view();
    args.precision = c_.precision;
    for (size_t i = 0; i < c_.dtypes.size(); ++i) {
      outs.push_back(std::make_unique<DeviceActivation>(c_.out_dtype, size_of(c_.tokens, c_.rows[i])));
      args.members[i].weight = weights_[i]->view;
      args.members[i].out = outs.back()->view();
      if (c_.rank == 0) continue;
      adapters.push_back(std::make_unique<DeviceArray<float>>(adapters_[i].a));
      adapters.push_back(std::make_unique<DeviceArray<float>>(adapters_[i].b));
      args.members[i].lora = {adapters[2 * i]->data(), adapters[2 * i + 1]->data(), c_.rank,
                              adapters_[i].scale};
    }
    cuda::FewTokenTuning tuning = cuda::best_tuning(args);
    tuning.fewest_wgmma_tokens = c_.fewest_wgmma_tokens;
    std::vector<Floats> got;
    if (c_.gated == Gated::kYes) {
      if (cuda::few_token_gated_linear(context(), {.linears = args, .out = args.members[0].out}, tuning))
        got.push_back(outs[0]->values());
      return got;
    }
    const DeviceActivation u(c_.x_dtype, std::max<size_t>(size_of(c_.tokens, c_.rank), 1));
    if (!cuda::few_token_linear(context(), args, tuning)) {
      if (c_.precision == Precision::kFast) return got;
      args.u = u.view();
      run_adapted_linear(cuda_ops(), context(), args);
    }
    for (const auto& out : outs) got.push_back(out->values());
    return got;
  }

  // x as the exact product sees it: normalised, not rounded.
  void normalise() {
    seen_.assign(size_of(c_.tokens, c_.columns), 0.0);
    for (int64_t t = 0; t < c_.tokens; ++t) {
      double squares = 0;
      for (int64_t k = 0; k < c_.columns; ++k)
        squares += std::pow(x_[static_cast<size_t>(t * stride_ + k)], 2);
      const double factor = 1 / std::sqrt(squares / static_cast<double>(c_.columns) + 1e-6);
      for (int64_t k = 0; k < c_.columns; ++k) {
        double value = x_[static_cast<size_t>(t * stride_ + k)];
        if (c_.norm) value *= factor * norm_[static_cast<size_t>(k)];
        seen_[static_cast<size_t>(t * c_.columns + k)] = value;
      }
    }
    for (const auto& weight : weights_) values_.push_back(weight->host.decoded);
  }

  Expected product(size_t member, int64_t t, int64_t n) const {
    const double* x = seen_.data() + t * c_.columns;
    const float* w = values_[member].data() + n * c_.columns;
    double sum = 0, magnitude = 0, largest = 0, norm_x = 0, squares = 0;
    for (int64_t k = 0; k < c_.columns; ++k) {
      sum += x[k] * w[k];
      magnitude += std::abs(x[k] * w[k]);
      squares += std::pow(x[k] * w[k], 2);
      largest = std::max(largest, std::abs(double{w[k]}));
      norm_x += std::abs(x[k]);
    }
    Expected expected{sum, 0};
    // fp32 sums in any order
    expected.tolerance = std::ldexp(2 * largest * norm_x, -23);
    if (c_.precision == Precision::kFast) {
      const double deviations = 6 * std::sqrt(operand_variance(member, x, w, largest));
      expected.tolerance += std::min(deviations, std::ldexp(8 * largest * norm_x, -9));
    }
    const Adapter& adapter = adapters_[member];
    for (int64_t r = 0; r < adapter.rank; ++r) {
      const float* a = adapter.a.data() + r * c_.columns;
      const double b = adapter.scale * adapter.b[static_cast<size_t>(n * adapter.rank + r)];
      double u = 0, squares_of_u = 0;
      for (int64_t k = 0; k < c_.columns; ++k) {
        u += x[k] * a[k];
        squares_of_u += std::pow(x[k] * a[k], 2);
      }
      expected.value += b * u;
      expected.tolerance += std::ldexp(std::abs(b * u), -18) + 1e-6;
      if (c_.precision == Precision::kF32 || makes_own_operands()) continue;
      // A, x, u and B become tf32, which err by 2^-11 of themselves at most.
      const double unit = std::hypot(x_unit(DType::kNF4), std::ldexp(1.0, -11));
      expected.tolerance +=
          6 * std::abs(b) * unit * std::sqrt(squares_of_u / 3) + std::ldexp(std::abs(b * u), -10);
    }
    return expected;
  }

  // One or two tokens, in pairs of whole tiles: adapters are computed in f32.
  bool makes_own_operands() const { return c_.tokens <= 2 && (c_.columns + 255) / 256 % 2 == 0; }

  // What the rounding of activations to operands does to them, relative.
  double x_unit(DType dtype) const {
    const bool exact = !c_.norm && c_.x_dtype == DType::kBF16;
    return exact ? 0 : std::ldexp(1.0, dtype == DType::kBF16 ? -9 : -12);
  }

  // The variance of what the rounding of operands does to a sum, errors being evenly spread up to half of a
  // unit in the last place. f16: activations that are not bf16 already, and weights three times (a factor of
  // theirs, another one, and the product), err by 2^-12 of themselves; and for each block of 32 columns the
  // minimum plus 2^bits scales, which is 4 times the largest weight at most. Plain f16 and bf16 weights are
  // exact; activations become bf16 for the latter.
  double operand_variance(size_t member, const double* x, const float* w, double largest) const {
    const DType dtype = c_.dtypes[member];
    const bool plain = dtype == DType::kBF16 || dtype == DType::kF16;
    const double x_unit = this->x_unit(dtype);
    const double w_unit = plain ? 0 : std::ldexp(1.0, -12);
    double variance = 0;
    for (int64_t begin = 0; begin < c_.columns; begin += 32) {
      double block = 0;
      for (int64_t k = begin; k < std::min(begin + 32, c_.columns); ++k) {
        variance += std::pow(x[k] * w[k], 2) * (x_unit * x_unit + 3 * w_unit * w_unit) / 3;
        block += x[k];
      }
      variance += std::pow(4 * largest * w_unit * block, 2) / 3;
    }
    return variance;
  }

  static Expected gate(const Expected& gate, const Expected& up) {
    const double sigmoid = 1 / (1 + std::exp(-gate.value));
    // |silu'| < 1.1
    return {gate.value * sigmoid * up.value, 1.1 * gate.tolerance * (std::abs(up.value) + up.tolerance) +
                                                 std::abs(gate.value * sigmoid) * up.tolerance +
                                                 std::ldexp(std::abs(gate.value * up.value), -20)};
  }

  Case c_;
  int64_t stride_;
  Floats x_, norm_, residual_;
  std::vector<std::unique_ptr<Placed>> weights_;
  std::vector<Adapter> adapters_;
  std::vector<double> seen_;
  std::vector<Floats> values_;
};

void expect_close(const Case& c) { FewTokenRun(c).expect_close(); }

int64_t smallest_columns(DType dtype) {
  const int elements = dtype_info(dtype).block_elements;
  return elements == 1 ? 8 : dtype == DType::kNF4 ? 256 : elements;
}

TEST(FewToken, EveryDTypeForAllNumbersOfTokens) {
  for (const DType dtype : kDTypes)
    for (const int64_t tokens : {1, 2, 3, 5, 8, 13, 32, 64, 128})
      if (takes(dtype, tokens))
        expect_close({.dtypes = {dtype}, .rows = {37}, .columns = 512, .tokens = tokens});
}

TEST(FewToken, ColumnsThatAreNoWholeTiles) {
  for (const DType dtype : kDTypes)
    for (const int64_t tokens : {1, 6, 20}) {
      const int64_t step = smallest_columns(dtype);
      for (const int64_t columns : {step, 3 * step, 256 + step})
        expect_close({.dtypes = {dtype}, .rows = {17}, .columns = columns, .tokens = tokens});
    }
}

// Rows of several blocks and columns of several slices, by products of warpgroups where the card has them,
// and without.
TEST(FewToken, ByWarpgroupsAndByWarps) {
  for (const int fewest : {1, 1000})
    for (const DType dtype : kDTypes)
      for (const int64_t tokens : {17, 33, 70})
        if (takes(dtype, tokens))
          expect_close({.dtypes = {dtype},
                        .rows = {100},
                        .columns = 768,
                        .tokens = tokens,
                        .residual = true,
                        .fewest_wgmma_tokens = fewest});
  for (const int64_t tokens : {1, 4, 8})
    expect_close({.dtypes = {DType::kQ4_K, DType::kQ6_K},
                  .rows = {64, 20},
                  .columns = 512,
                  .tokens = tokens,
                  .rank = 5,
                  .fewest_wgmma_tokens = 1});
}

TEST(FewToken, MoreTokensThanALaunchTakes) {
  for (const DType dtype : {DType::kQ4_K, DType::kNF4})
    expect_close({.dtypes = {dtype}, .rows = {20}, .columns = 256, .tokens = 150, .residual = true});
}

TEST(FewToken, GroupsOfMixedDTypesWithNormAndAdapters) {
  for (const int64_t tokens : {1, 2, 7, 17, 40})
    for (const DType out : {DType::kF32, DType::kBF16}) {
      expect_close({.dtypes = {DType::kQ4_K, DType::kQ4_K, DType::kQ6_K},
                    .rows = {50, 16, 31},
                    .columns = 768,
                    .tokens = tokens,
                    .out_dtype = out,
                    .norm = true,
                    .rank = 4});
      expect_close({.dtypes = {DType::kNF4, DType::kBF16, DType::kQ8_0},
                    .rows = {5, 40, 33},
                    .columns = 512,
                    .tokens = tokens,
                    .out_dtype = out,
                    .norm = true,
                    .rank = 3});
    }
}

TEST(FewToken, ResidualAndPaddedRows) {
  for (const int64_t tokens : {1, 4, 9, 33})
    for (const DType x : {DType::kF32, DType::kBF16})
      expect_close({.dtypes = {DType::kQ5_K},
                    .rows = {43},
                    .columns = 512,
                    .tokens = tokens,
                    .x_dtype = x,
                    .out_dtype = DType::kBF16,
                    .residual = true,
                    .rank = 16,
                    .x_stride = 512 + 64});
}

TEST(FewToken, RanksThatAreReadInSeveralTurns) {
  for (const int64_t tokens : {2, 6, 20, 64})
    for (const int64_t rank : {20, 36, 64})
      expect_close({.dtypes = {DType::kQ4_K}, .rows = {43}, .columns = 512, .tokens = tokens, .rank = rank});
}

// The adapters of products with operands: by warps, by warpgroups and by pairs of warps, whose parts of the
// columns meet in memory or within a cluster; more ranks than one turn takes, of members of their own, and
// rows that are no whole tiles.
TEST(FewToken, AdaptersBesideOperands) {
  for (const int fewest : {9, 1000})
    for (const int64_t tokens : {3, 8, 9, 16, 25, 64, 90})
      for (const int64_t rank : {16, 5, 24}) {
        expect_close({.dtypes = {DType::kNF4, DType::kNF4, DType::kNF4},
                      .rows = {70, 16, 31},
                      .columns = 2048,
                      .tokens = tokens,
                      .x_dtype = DType::kF32,
                      .norm = true,
                      .rank = rank,
                      .fewest_wgmma_tokens = fewest});
        if (takes(DType::kBF16, tokens))
          expect_close({.dtypes = {DType::kBF16},
                        .rows = {150},
                        .columns = 776,
                        .tokens = tokens,
                        .out_dtype = DType::kBF16,
                        .residual = true,
                        .rank = rank,
                        .fewest_wgmma_tokens = fewest});
        expect_close({.dtypes = {DType::kQ4_K, DType::kQ4_K},
                      .rows = {45, 45},
                      .columns = 768,
                      .tokens = tokens,
                      .out_dtype = DType::kBF16,
                      .norm = true,
                      .rank = rank,
                      .gated = Gated::kYes,
                      .fewest_wgmma_tokens = fewest});
      }
}

// Activations of which nothing is left have no factor to divide by.
TEST(FewToken, AdaptersOfActivationsThatAreNothing) {
  for (const int fewest : {9, 1000})
    for (const int64_t tokens : {3, 12})
      expect_close({.dtypes = {DType::kNF4},
                    .rows = {33},
                    .columns = 512,
                    .tokens = tokens,
                    .x_dtype = DType::kF32,
                    .rank = 16,
                    .x_size = 0,
                    .fewest_wgmma_tokens = fewest});
}

// One or two tokens: blocks make u, a rank or more each where there are few of them; up to rank 32, in fours,
// they bring rows of B along, others are read where they lie. Members of one block and of several, gate and
// up, and more rows than threads, in several phases.
TEST(FewToken, AdaptersOfNf4) {
  constexpr DType kType = DType::kNF4;
  for (const int64_t tokens : {1, 2})
    for (const int64_t rank : {4, 16, 20, 32, 36, 3}) {
      expect_close({.dtypes = {kType},
                    .rows = {43},
                    .columns = 512,
                    .tokens = tokens,
                    .out_dtype = DType::kBF16,
                    .residual = true,
                    .rank = rank});
      expect_close({.dtypes = {kType, kType, kType},
                    .rows = {150, 16, 31},
                    .columns = 768,
                    .tokens = tokens,
                    .norm = true,
                    .rank = rank});
      expect_close({.dtypes = {kType, kType},
                    .rows = {145, 145},
                    .columns = 512,
                    .tokens = tokens,
                    .out_dtype = DType::kBF16,
                    .norm = true,
                    .rank = rank,
                    .gated = Gated::kYes});
    }
  const int64_t rows = static_cast<CudaStream&>(stream()).multiprocessors() > 16 ? 100000 : 5000;
  expect_close({.dtypes = {kType}, .rows = {rows}, .columns = 512, .tokens = 1, .rank = 16});
}

// More columns than a thread of the kernel for one and two tokens holds at a time.
TEST(FewToken, LongRowsOfOneAndTwoTokens) {
  for (const DType dtype : {DType::kQ4_K, DType::kQ6_K, DType::kNF4, DType::kBF16})
    for (const DType x : {DType::kF32, DType::kBF16})
      for (const int64_t tokens : {1, 2})
        expect_close({.dtypes = {dtype},
                      .rows = {20},
                      .columns = 13312,
                      .tokens = tokens,
                      .x_dtype = x,
                      .norm = true,
                      .residual = true});
}

// Several slices of K, with a norm that no block sees whole, and rows enough for several steps of a block.
TEST(FewToken, LongRowsInSlices) {
  for (const int64_t tokens : {1, 3, 10, 24, 64, 120})
    expect_close({.dtypes = {DType::kQ4_K},
                  .rows = {70},
                  .columns = 4096,
                  .tokens = tokens,
                  .x_dtype = tokens % 2 == 0 ? DType::kF32 : DType::kBF16,
                  .norm = true,
                  .residual = true});
}

TEST(FewToken, GatedLayers) {
  for (const DType dtype : {DType::kQ4_K, DType::kQ6_K, DType::kNF4, DType::kBF16})
    for (const int64_t tokens : {1, 2, 5, 11, 48})
      expect_close({.dtypes = {dtype, dtype},
                    .rows = {45, 45},
                    .columns = 512,
                    .tokens = tokens,
                    .out_dtype = DType::kBF16,
                    .norm = true,
                    .rank = tokens == 5 ? 8 : 0,
                    .gated = Gated::kYes});
}

// Left to products of f32 matrices, which the blocks become.
TEST(FewToken, ExactInF32) {
  std::vector<DType> dtypes(std::begin(kDTypes), std::end(kDTypes));
  dtypes.push_back(DType::kF32);
  for (const DType dtype : dtypes)
    for (const int64_t tokens : {1, 5, 16})
      expect_close({.dtypes = {dtype, dtype},
                    .rows = {18, 35},
                    .columns = 3 * std::max<int64_t>(smallest_columns(dtype), 32),
                    .tokens = tokens,
                    .x_dtype = DType::kF32,
                    .norm = true,
                    .rank = tokens == 5 ? 3 : 0,
                    .precision = Precision::kF32});
}

// More rows than a block of few multiprocessors has on their way together.
TEST(FewToken, SeveralPhases) {
  const int64_t rows = static_cast<CudaStream&>(stream()).multiprocessors() > 16 ? 100000 : 5000;
  for (const int64_t tokens : {1, 8, 40, 100})
    expect_close({.dtypes = {DType::kQ4_K}, .rows = {rows}, .columns = 256, .tokens = tokens});
}

// Activations beyond f16's largest number, and among the smallest of f32.
TEST(FewToken, ActivationsOfAnySize) {
  for (const double size : {1e-30, 1e-6, 1e6, 1e30})
    for (const int64_t tokens : {2, 12})
      expect_close({.dtypes = {DType::kQ4_K},
                    .rows = {33},
                    .columns = 512,
                    .tokens = tokens,
                    .x_dtype = DType::kF32,
                    .x_size = static_cast<float>(size)});
}

// One activation far larger than the rest leaves the other blocks' as they are.
TEST(FewToken, AnActivationThatStandsOut) {
  for (const DType dtype : kBlockDTypes)
    for (const int64_t tokens : {1, 2})
      expect_close({.dtypes = {dtype}, .rows = {33}, .columns = 2048, .tokens = tokens, .sixth = 500});
}

// Nearly as large as f32 can be. (The other formats in tiles multiply it by how far their weights lie above
// 0, and have no number for that.)
TEST(FewToken, AnActivationNearTheLargestNumber) {
  for (const DType dtype : {DType::kQ4_K, DType::kQ5_K, DType::kQ2_K, DType::kNF4})
    for (const int64_t tokens : {1, 2})
      expect_close({.dtypes = {dtype}, .rows = {33}, .columns = 2048, .tokens = tokens, .sixth = 1e38f});
}

// What is not a number is not lost on the way to integers.
TEST(FewToken, ActivationsThatAreNoNumbers) {
  for (const DType dtype : kDTypes)
    for (const int64_t tokens : {1, 2})
      FewTokenRun({.dtypes = {dtype},
                   .rows = {33},
                   .columns = 512,
                   .tokens = tokens,
                   .sixth = std::numeric_limits<float>::quiet_NaN()})
          .expect_no_numbers();
}

TEST(FewToken, DeclinesWhatOthersDoBetter) {
  const Placed weight(DType::kQ4_K, 16, 256, 1);
  const DeviceActivation x(DType::kBF16, normal(256 * 300, 2)), out(DType::kBF16, size_t{16 * 300});
  AdaptedLinearArgs args;
  args.x = x.view();
  args.tokens = 300;
  args.members[0].weight = weight.view;
  args.members[0].out = out.view();
  EXPECT_FALSE(cuda::few_token_linear(context(), args));
  args.tokens = 3;
  args.precision = Precision::kF32;
  EXPECT_FALSE(cuda::few_token_linear(context(), args));
  args.precision = Precision::kFast;
  // Rows of 166 bytes, and absmaxes that lie askew.
  const Placed odd(DType::kBF16, 16, 83, 1), askew(DType::kNF4, 16, 192, 1);
  for (const Placed* one : {&odd, &askew}) {
    args.members[0].weight = one->view;
    EXPECT_FALSE(cuda::few_token_linear(context(), args));
  }
  args.members[0].weight = weight.view;
  EXPECT_TRUE(cuda::few_token_linear(context(), args));
}

// --- Blocks

TEST(BlockWeight, DequantizesToTheVeryValues) {
  for (const DType dtype : kBlockDTypes)
    for (const int64_t columns : {int64_t{dtype_info(dtype).block_elements}, int64_t{768}}) {
      const int64_t rows = 39, stride = columns + 5;
      const Placed weight(dtype, rows, columns, 4);
      const DeviceArray<float> f32(static_cast<size_t>(rows * stride));
      const DeviceArray<uint16_t> bf16(static_cast<size_t>(rows * columns));
      auto& cuda_stream = static_cast<CudaStream&>(stream());
      cuda::dequantize_block_weight(cuda_stream, {.weight = weight.view, .rows = rows, .stride = stride},
                                    f32.data());
      // In two pieces.
      auto* out = reinterpret_cast<__nv_bfloat16*>(bf16.data());
      cuda::dequantize_block_weight(cuda_stream, {.weight = weight.view, .rows = 32, .stride = columns}, out);
      cuda::dequantize_block_weight(
          cuda_stream, {.weight = weight.view, .first_row = 32, .rows = rows - 32, .stride = columns},
          out + 32 * columns);
      const std::vector<float> got = f32.values();
      const std::vector<uint16_t> got_bits = bf16.values();
      for (int64_t n = 0; n < rows; ++n)
        for (int64_t k = 0; k < columns; ++k) {
          const float expected = weight.host.decoded[static_cast<size_t>(n * columns + k)];
          ASSERT_EQ(got[static_cast<size_t>(n * stride + k)], expected)
              << dtype_name(dtype) << " [" << n << ", " << k << "]";
          ASSERT_EQ(bf16_to_f32(got_bits[static_cast<size_t>(n * columns + k)]), rounded(expected))
              << dtype_name(dtype) << " [" << n << ", " << k << "]";
        }
      // Between the rows nothing was written: DeviceArray fills with NaN.
      for (int64_t n = 0; n < rows; ++n)
        for (int64_t k = columns; k < stride; ++k)
          ASSERT_TRUE(std::isnan(got[static_cast<size_t>(n * stride + k)])) << dtype_name(dtype);
    }
}

TEST(BlockWeight, EmbeddingsAreRowsOfTheTable) {
  const std::vector<int32_t> ids = {40, 0, 7, 8, 15, 16, 33, 40};
  const DeviceArray<int32_t> device_ids(ids);
  for (const DType dtype : kBlockDTypes) {
    const int64_t columns = 512, tokens = static_cast<int64_t>(ids.size());
    const Placed table(dtype, 41, columns, 5);
    const DeviceArray<float> out(static_cast<size_t>(tokens * columns));
    cuda::embedding_block(context(), {device_ids.data(), table.view, tokens, out.data()});
    const std::vector<float> got = out.values();
    for (int64_t t = 0; t < tokens; ++t)
      for (int64_t k = 0; k < columns; ++k)
        ASSERT_EQ(got[static_cast<size_t>(t * columns + k)],
                  table.host.decoded[static_cast<size_t>(ids[static_cast<size_t>(t)] * columns + k)])
            << dtype_name(dtype) << " " << t << " " << k;
  }
}

}  // namespace
}  // namespace onggi
