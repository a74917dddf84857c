// Linear layers and their adapters on the GPU against the oracle: its ops, and its parts of the ops made of
// others. Activations of the fast arithmetic are bf16, so inputs are rounded to bf16 first.
#include <algorithm>

#include "base/text.h"
#include "blocks/nf4.h"
#include "kernels/cuda/dequantize.h"
#include "tests/kernels/harness.h"
#include "tests/kernels_cuda/device_array.h"

namespace onggi::testing_ops {
namespace {

using testing_cuda::DeviceArray;
using testing_cuda::stream;

const OpContext& gpu() {
  static const OpContext context{testing_ops::context().threads, testing_ops::context().scratch, stream()};
  return context;
}

// An array of activations or of f32 on the device.
class DeviceTensor {
 public:
  DeviceTensor(DType dtype, const Floats& values)
      : dtype_(dtype), bytes_(static_cast<size_t>(dtype_bytes(dtype, static_cast<int64_t>(values.size())))) {
    std::vector<uint8_t> host(bytes_.size());
    for (size_t i = 0; i < values.size(); ++i) {
      const uint16_t bits = f32_to_bf16(values[i]);
      if (dtype == DType::kF32) std::memcpy(host.data() + 4 * i, &values[i], 4);
      if (dtype == DType::kBF16) std::memcpy(host.data() + 2 * i, &bits, 2);
    }
    stream().copy_in(bytes_.data(), host.data(), host.size());
  }
  // Without values: NaN.
  DeviceTensor(DType dtype, size_t count)
      : dtype_(dtype), bytes_(static_cast<size_t>(dtype_bytes(dtype, static_cast<int64_t>(count)))) {}

  Activation view() const { return {bytes_.data(), dtype_}; }
  float* f32() const { return reinterpret_cast<float*>(bytes_.data()); }
  Floats values() const {
    const std::vector<uint8_t> host = bytes_.values();
    Floats values(host.size() / (dtype_ == DType::kF32 ? 4 : 2));
    for (size_t i = 0; i < values.size(); ++i) {
      uint16_t bits = 0;
      if (dtype_ == DType::kF32) std::memcpy(&values[i], host.data() + 4 * i, 4);
      if (dtype_ == DType::kBF16) {
        std::memcpy(&bits, host.data() + 2 * i, 2);
        values[i] = bf16_to_f32(bits);
      }
    }
    return values;
  }

 private:
  DType dtype_;
  DeviceArray<uint8_t> bytes_;
};

// What the device stores of the values.
Floats stored(DType dtype, Floats values) {
  if (dtype == DType::kBF16)
    for (float& value : values) value = bf16_to_f32(f32_to_bf16(value));
  return values;
}
Floats random_activations(DType dtype, int64_t count, uint64_t seed, float scale = 1.0f) {
  return stored(dtype, normal(static_cast<size_t>(count), seed, scale));
}

struct PlacedWeight {
  explicit PlacedWeight(const Weight& weight)
      : view(cuda_ops().place_weight(stream(), weight.view, buffers)) {}
  std::vector<Buffer> buffers;
  WeightView view;
};

Precision precision_of(DType activations) {
  return activations == DType::kBF16 ? Precision::kFast : Precision::kF32;
}

// Relative errors in the norm. bf16: the weight, the adapter and u are rounded before they are multiplied and
// the result after (dx: after each of up to four sums), each time by kUnitBf16 at most and by about half of
// it in the mean; f32 has the sums' order alone.
double limit_of(DType activations) { return activations == DType::kBF16 ? 2.5 * kUnitBf16 : 1e-6; }

// --- Weights

TEST(DequantizeTest, Nf4AgreesWithTheCpuBitForBit) {
  const int64_t rows = 37, columns = 576, stride = columns + 64;
  const Weight weight = random_weight(DType::kNF4, rows, columns, 3);
  const PlacedWeight placed(weight);
  const Floats b = normal(static_cast<size_t>(rows * 4), 4);
  const DeviceTensor device_b(DType::kF32, b);
  auto& cuda_stream = static_cast<CudaStream&>(stream());
  const cuda::DequantizeArgs args{
      .weight = placed.view,
      .first_row = 5,
      .rows = 30,
      .stride = stride,
      .lora = {.b = device_b.f32(), .rank = 4, .scale = 0.5f, .first_column = 8, .width = 64}};
  const DeviceArray<uint16_t> out(static_cast<size_t>(args.rows * stride));
  cuda::dequantize(cuda_stream, args, reinterpret_cast<__nv_bfloat16*>(out.data()));
  const std::vector<uint16_t> got = out.values();
  std::vector<uint16_t> expected(static_cast<size_t>(columns));
  for (int64_t row = 0; row < args.rows; ++row) {
    decode_nf4_bf16(weight.nf4.view(), (row + 5) * columns, columns, expected.data());
    const uint16_t* got_row = got.data() + row * stride;
    ASSERT_TRUE(std::equal(expected.begin(), expected.end(), got_row)) << "row " << row;
    for (int64_t column = 0; column < 64; ++column) {
      const bool inside = column >= 8 && column < 12;
      const float value = inside ? 0.5f * b[static_cast<size_t>((row + 5) * 4 + column - 8)] : 0.0f;
      ASSERT_EQ(got_row[columns + column], f32_to_bf16(value)) << "row " << row << " column " << column;
    }
  }
}

TEST(DequantizeTest, AllTypesAgreeWithTheCpuInF32) {
  for (const DType dtype : {DType::kNF4, DType::kF32, DType::kF16, DType::kBF16}) {
    SCOPED_TRACE(dtype_name(dtype));
    const int64_t rows = 9, columns = dtype == DType::kF16 ? 77 : 1088;
    const Weight weight = random_weight(dtype, rows, columns, 5);
    const PlacedWeight placed(weight);
    for (const auto rounding : {cuda::Nf4Rounding::kExact, cuda::Nf4Rounding::kToBf16}) {
      const DeviceArray<float> out(static_cast<size_t>(rows * columns));
      cuda::dequantize_f32(
          static_cast<CudaStream&>(stream()),
          {.weight = placed.view, .first_row = 0, .rows = rows, .stride = columns, .lora = {}}, rounding,
          out.data());
      Floats expected(out.size());
      for (int64_t row = 0; row < rows; ++row)
        (rounding == cuda::Nf4Rounding::kExact ? decode_weight : decode_weight_for_gradient)(
            weight.view, row, 0, columns, expected.data() + row * columns);
      EXPECT_EQ(out.values(), expected);
    }
  }
}

// --- linear, linear_backward, gemm

struct LinearCase {
  DType weight;
  DType x;
  DType out;
  int64_t tokens, rows, columns;
  Output output = Output::kOverwrite;
};
std::ostream& operator<<(std::ostream& out, const LinearCase& c) {
  return out << dtype_name(c.weight) << " x " << dtype_name(c.x) << " -> " << dtype_name(c.out)
             << " T=" << c.tokens << " N=" << c.rows << " K=" << c.columns
             << (c.output == Output::kAccumulate ? " accumulate" : "");
}
std::vector<LinearCase> linear_cases() {
  std::vector<LinearCase> cases;
  for (const DType weight : {DType::kF32, DType::kF16, DType::kBF16, DType::kNF4}) {
    // More tokens than few_token_linear takes.
    const int64_t many = weight == DType::kNF4 ? 264 : 70;
    cases.push_back({weight, DType::kBF16, DType::kBF16, many, 51, 128});
    cases.push_back({weight, DType::kBF16, DType::kF32, many, 96, 192, Output::kAccumulate});
    cases.push_back({weight, DType::kF32, DType::kF32, 5, 33, 64});
  }
  cases.push_back({DType::kQ4_K, DType::kBF16, DType::kBF16, 264, 51, 256});
  cases.push_back({DType::kQ6_K, DType::kF32, DType::kF32, 20, 33, 256});
  cases.push_back({DType::kBF16, DType::kBF16, DType::kBF16, 66, 13, 77, Output::kAccumulate});
  cases.push_back({DType::kBF16, DType::kF32, DType::kF32, 3, 7, 13, Output::kAccumulate});
  return cases;
}

class CudaLinearTest : public testing::TestWithParam<LinearCase> {};

TEST_P(CudaLinearTest, ForwardAgreesWithTheOracle) {
  const LinearCase& c = GetParam();
  const Weight weight = random_weight(c.weight, c.rows, c.columns, 1);
  const PlacedWeight placed(weight);
  const Floats x = random_activations(c.x, c.tokens * c.columns, 2);
  Floats expected = random_activations(c.out, c.tokens * c.rows, 3);
  const DeviceTensor device_x(c.x, x);
  const DeviceTensor out =
      c.output == Output::kAccumulate ? DeviceTensor(c.out, expected) : DeviceTensor(c.out, expected.size());
  const auto entry = static_cast<size_t>(c.weight);
  const Precision precision = precision_of(c.x);
  ref_ops().linear[entry](context(), {x.data(), weight.view, c.tokens, expected.data(), c.output});
  cuda_ops().linear[entry](gpu(), {device_x.view(), placed.view, c.tokens, out.view(), c.output, precision});
  EXPECT_TRUE(close_in_norm(out.values(), expected, limit_of(c.x)));
}

TEST_P(CudaLinearTest, BackwardAgreesWithTheOracle) {
  const LinearCase& c = GetParam();
  const Weight weight = random_weight(c.weight, c.rows, c.columns, 1);
  const PlacedWeight placed(weight);
  const Floats dout = random_activations(c.x, c.tokens * c.rows, 2);
  Floats expected = random_activations(c.x, c.tokens * c.columns, 3);
  const DeviceTensor device_dout(c.x, dout);
  const DeviceTensor dx =
      c.output == Output::kAccumulate ? DeviceTensor(c.x, expected) : DeviceTensor(c.x, expected.size());
  const auto entry = static_cast<size_t>(c.weight);
  ref_ops().linear_backward[entry](context(),
                                   {dout.data(), weight.view, c.tokens, expected.data(), c.output});
  cuda_ops().linear_backward[entry](
      gpu(), {device_dout.view(), placed.view, c.tokens, dx.view(), c.output, precision_of(c.x)});
  EXPECT_TRUE(close_in_norm(dx.values(), expected, limit_of(c.x)));
}

INSTANTIATE_TEST_SUITE_P(Cases, CudaLinearTest, testing::ValuesIn(linear_cases()),
                         [](const auto& info) { return "Case" + std::to_string(info.index); });

TEST(CudaGemmTest, AgreesWithTheOracle) {
  for (const Transpose ta : {Transpose::kNo, Transpose::kYes})
    for (const Transpose tb : {Transpose::kNo, Transpose::kYes})
      for (const Output output : {Output::kOverwrite, Output::kAccumulate}) {
        const Floats a = normal(33 * 65, 1), b = normal(65 * 17, 2);
        Floats expected = normal(33 * 17, 3);
        const DeviceTensor da(DType::kF32, a), db(DType::kF32, b);
        const DeviceTensor out = output == Output::kAccumulate ? DeviceTensor(DType::kF32, expected)
                                                               : DeviceTensor(DType::kF32, expected.size());
        GemmArgs args{.transpose_a = ta,
                      .transpose_b = tb,
                      .m = 33,
                      .n = 17,
                      .k = 65,
                      .alpha = 0.5f,
                      .a = a.data(),
                      .b = b.data(),
                      .c = expected.data(),
                      .output = output};
        ref_ops().gemm(context(), args);
        args.a = da.f32(), args.b = db.f32(), args.c = out.f32();
        cuda_ops().gemm(gpu(), args);
        EXPECT_TRUE(close_in_norm(out.values(), expected, 1e-6));
      }
}

// --- Adapted linear layers

enum class Spare { kPadded, kDense };  // whether rows of x have room for u

struct GroupCase {
  DType activations = DType::kBF16;
  DType weight = DType::kNF4;
  int64_t tokens = 1, columns = 64;
  std::vector<int64_t> rows;
  std::vector<int64_t> ranks;  // 0: no adapter
  float dropout = 0;
  Spare spare = Spare::kPadded;
  bool has_residual = false;
  bool keeps_u = true;
  bool has_norm = false;               // in the forward
  Output output = Output::kOverwrite;  // of dx
};
std::ostream& operator<<(std::ostream& out, const GroupCase& c) {
  out << dtype_name(c.weight) << " x " << dtype_name(c.activations) << " T=" << c.tokens << " K=" << c.columns
      << " N=";
  for (const int64_t rows : c.rows) out << rows << ",";
  out << " R=";
  for (const int64_t rank : c.ranks) out << rank << ",";
  return out << " p=" << c.dropout << (c.spare == Spare::kDense ? " dense" : "")
             << (c.has_residual ? " residual" : "") << (c.has_norm ? " norm" : "");
}

std::vector<GroupCase> group_cases() {
  const DType bf16 = DType::kBF16, nf4 = DType::kNF4;
  return {
      {.tokens = 1, .columns = 64, .rows = {24}, .ranks = {4}},
      {.tokens = 90, .columns = 128, .rows = {130}, .ranks = {8}, .has_residual = true},
      {.tokens = 37, .columns = 192, .rows = {40, 24, 16}, .ranks = {16, 16, 16}, .dropout = 0.1f},
      {.tokens = 65,
       .columns = 640,
       .rows = {600},
       .ranks = {16},
       .dropout = 0.1f,
       .output = Output::kAccumulate},
      {.tokens = 33, .columns = 320, .rows = {72, 88}, .ranks = {32, 32}, .dropout = 0.5f},
      {.tokens = 37, .columns = 192, .rows = {40, 24, 16}, .ranks = {16, 12, 8}},
      {.tokens = 33, .columns = 320, .rows = {72, 88}, .ranks = {32, 24}, .output = Output::kAccumulate},
      // Several steps over the tokens in each part.
      {.tokens = 200, .columns = 64, .rows = {24, 16}, .ranks = {16, 16}, .dropout = 0.1f},
      {.tokens = 193, .columns = 128, .rows = {64, 264}, .ranks = {16, 16}, .keeps_u = false},
      // More than one launch; adapters of different ranks; layers without one.
      {.tokens = 20, .columns = 128, .rows = {40}, .ranks = {48}, .dropout = 0.1f},
      {.tokens = 35, .columns = 128, .rows = {40, 24, 32}, .ranks = {8, 0, 4}, .dropout = 0.1f},
      {.tokens = 35, .columns = 64, .rows = {40}, .ranks = {0}, .has_residual = true},
      {.tokens = 35, .columns = 64, .rows = {40, 24}, .ranks = {0, 0}, .output = Output::kAccumulate},
      // Weights that need no dequantisation: copied, and not.
      {.weight = bf16, .tokens = 150, .columns = 64, .rows = {40, 24}, .ranks = {8, 8}, .dropout = 0.1f},
      {.weight = bf16, .tokens = 33, .columns = 128, .rows = {40}, .ranks = {16}, .has_residual = true},
      {.weight = DType::kQ4_K, .tokens = 35, .columns = 256, .rows = {40, 24}, .ranks = {8, 8}},
      // No room for u; odd shapes.
      {.weight = nf4,
       .tokens = 33,
       .columns = 128,
       .rows = {40, 24},
       .ranks = {8, 8},
       .spare = Spare::kDense},
      {.weight = bf16,
       .tokens = 19,
       .columns = 77,
       .rows = {51, 13},
       .ranks = {5, 5},
       .dropout = 0.1f,
       .output = Output::kAccumulate},
      {.weight = bf16, .tokens = 40, .columns = 300, .rows = {301}, .ranks = {33}, .dropout = 0.3f},
      // Inference, with more tokens than few_token_linear takes.
      {.tokens = 264, .columns = 128, .rows = {40, 24}, .ranks = {8, 8}, .keeps_u = false, .has_norm = true},
      {.tokens = 264, .columns = 64, .rows = {40}, .ranks = {0}, .has_norm = true},
      // Columns in splits, whose sums meet: two and a part of one, and eight.
      {.tokens = 40, .columns = 1344, .rows = {24, 16}, .ranks = {16, 12}, .dropout = 0.1f},
      {.tokens = 37, .columns = 4160, .rows = {24, 16, 8}, .ranks = {16, 16, 16}},
      {.tokens = 33, .columns = 4096, .rows = {24}, .ranks = {40}, .dropout = 0.1f},
      // The reference on the card.
      {.activations = DType::kF32,
       .tokens = 21,
       .columns = 64,
       .rows = {40, 24},
       .ranks = {4, 4},
       .dropout = 0.2f,
       .output = Output::kAccumulate},
      {.activations = DType::kF32, .tokens = 19, .columns = 64, .rows = {40, 24}, .ranks = {4, 4}},
      {.activations = DType::kF32,
       .tokens = 9,
       .columns = 64,
       .rows = {40},
       .ranks = {4},
       .has_residual = true},
  };
}

// The arrays of a group in host memory, f32.
struct GroupArrays {
  explicit GroupArrays(const GroupCase& c) : count(static_cast<int>(c.rows.size())) {
    x = random_activations(c.activations, c.tokens * c.columns, 21);
    dx = random_activations(c.activations, c.tokens * c.columns, 22);
    for (size_t i = 0; i < c.rows.size(); ++i) {
      const int64_t rank = c.ranks[i], rows = c.rows[i];
      weights.push_back(random_weight(c.weight, rows, c.columns, 30 + i));
      // The adapter's part is about as large as the weight's.
      a.push_back(normal(static_cast<size_t>(rank * c.columns), 40 + i, 0.05f));
      b.push_back(normal(static_cast<size_t>(rows * rank), 50 + i));
      u.push_back(random_activations(c.activations, c.tokens * rank, 60 + i));
      dout.push_back(random_activations(c.activations, c.tokens * rows, 70 + i));
      out.push_back(random_activations(c.activations, c.tokens * rows, 80 + i));
      a_gradient.push_back(normal(a[i].size(), 90 + i));
      b_gradient.push_back(normal(b[i].size(), 100 + i));
    }
  }
  LoraView lora(size_t i, const GroupCase& c, const float* a_data, const float* b_data) const {
    if (c.ranks[i] == 0) return {};
    return {.a = a_data, .b = b_data, .rank = c.ranks[i], .scale = 0.5f};
  }
  int count;
  Floats x, dx;
  std::vector<Weight> weights;
  std::vector<Floats> a, b, u, dout, out, a_gradient, b_gradient;
};

constexpr uint64_t kFirstStream = uint64_t{5} << 32;

template <typename Args>
void set_common(Args& args, const GroupCase& c) {
  args.tokens = c.tokens;
  args.count = static_cast<int>(c.rows.size());
  args.dropout = {.probability = c.dropout, .seed = 11, .first_stream = &kFirstStream};
  args.precision = precision_of(c.activations);
}
int64_t stride_of(const GroupCase& c) {
  const int64_t rank = *std::max_element(c.ranks.begin(), c.ranks.end());
  const bool padded = c.spare == Spare::kPadded;
  return c.columns + (padded ? cuda_ops().row_padding(precision_of(c.activations), rank) : 0);
}
// Rows `stride` apart; NaN between them, which must not get into a result.
Floats spread(const Floats& dense, int64_t width, int64_t stride) {
  Floats rows(dense.size() / static_cast<size_t>(width) * static_cast<size_t>(stride), NAN);
  for (size_t i = 0; i < dense.size(); ++i)
    rows[i / static_cast<size_t>(width) * static_cast<size_t>(stride) + i % static_cast<size_t>(width)] =
        dense[i];
  return rows;
}

class CudaAdaptedLinearTest : public testing::TestWithParam<GroupCase> {
 protected:
  const GroupCase& c = GetParam();
  GroupArrays arrays{c};
  Floats dropped = Floats(arrays.x.size()), d_dropped = Floats(arrays.x.size());
  Floats working_u = Floats(static_cast<size_t>(c.tokens * 64));
  DeviceArray<uint64_t> first_stream{std::vector{kFirstStream}};
};

TEST_P(CudaAdaptedLinearTest, ForwardAgreesWithTheOraclesParts) {
  GroupArrays expected = arrays;
  AdaptedLinearArgs args;
  set_common(args, c);
  args.x = expected.x.data();
  args.dropped = dropped.data();
  for (size_t i = 0; i < c.rows.size(); ++i)
    args.members[i] = {.weight = arrays.weights[i].view,
                       .lora = arrays.lora(i, c, arrays.a[i].data(), arrays.b[i].data()),
                       .out = expected.out[i].data(),
                       .dropout_stream = 7 + i,
                       .lora_u = expected.u[i].data()};
  const Floats norm = normal(static_cast<size_t>(c.columns), 23);
  Floats normed(arrays.x.size());
  if (c.has_norm) args.norm = norm.data(), args.normed = normed.data(), args.epsilon = 1e-6f;
  const Floats residual = expected.out[0];
  if (c.has_residual) args.residual = residual.data();
  run_adapted_linear_parts(ref_ops(), context(), args);
  args.dropout.first_stream = first_stream.data();

  // What is yet to be normalised is dense, and its norm has room for u.
  const int64_t stride = c.has_norm ? c.columns : stride_of(c);
  const DeviceTensor x(c.activations, spread(arrays.x, c.columns, stride));
  const DeviceTensor device_norm(DType::kF32, norm);
  const DeviceTensor device_normed(c.activations, static_cast<size_t>(c.tokens * stride_of(c)));
  if (c.has_norm) args.norm = device_norm.f32(), args.normed = device_normed.view();
  const DeviceTensor device_dropped(c.activations, dropped.size()), u(c.activations, working_u.size());
  const DeviceTensor device_residual(c.activations, residual);
  std::vector<PlacedWeight> placed;
  std::vector<std::unique_ptr<DeviceTensor>> owners;
  const auto on_device = [&](DType dtype, const auto& values) {
    return owners.emplace_back(std::make_unique<DeviceTensor>(dtype, values)).get();
  };
  std::vector<DeviceTensor*> outs, us;
  args.x = x.view();
  args.x_stride = stride;
  args.dropped = device_dropped.view();
  args.u = u.view();
  if (c.has_residual) args.residual = device_residual.view();
  for (size_t i = 0; i < c.rows.size(); ++i) {
    placed.emplace_back(arrays.weights[i]);
    outs.push_back(on_device(c.activations, arrays.out[i].size()));
    us.push_back(on_device(c.activations, arrays.u[i].size()));
    args.members[i].weight = placed[i].view;
    args.members[i].lora = arrays.lora(i, c, on_device(DType::kF32, arrays.a[i])->f32(),
                                       on_device(DType::kF32, arrays.b[i])->f32());
    args.members[i].out = outs[i]->view();
    args.members[i].lora_u = c.keeps_u ? us[i]->view() : Activation();
  }
  cuda_ops().adapted_linear(gpu(), args);
  for (size_t i = 0; i < c.rows.size(); ++i) {
    SCOPED_TRACE(text("member {}", i));
    EXPECT_TRUE(close_in_norm(outs[i]->values(), expected.out[i], limit_of(c.activations)));
    if (!c.keeps_u || c.ranks[i] == 0) continue;
    EXPECT_TRUE(close_in_norm(us[i]->values(), expected.u[i], limit_of(c.activations)));
  }
}

TEST_P(CudaAdaptedLinearTest, BackwardAgreesWithTheOraclesParts) {
  GroupArrays expected = arrays;
  AdaptedLinearBackwardArgs args;
  set_common(args, c);
  args.output = c.output;
  args.x = expected.x.data();
  args.dx = expected.dx.data();
  args.dropped = dropped.data();
  args.d_dropped = d_dropped.data();
  args.d_u = working_u.data();
  for (size_t i = 0; i < c.rows.size(); ++i)
    args.members[i] = {.weight = arrays.weights[i].view,
                       .lora = arrays.lora(i, c, arrays.a[i].data(), arrays.b[i].data()),
                       .dout = arrays.dout[i].data(),
                       .dropout_stream = 7 + i,
                       .lora_u = arrays.u[i].data(),
                       .a_gradient = expected.a_gradient[i].data(),
                       .b_gradient = expected.b_gradient[i].data()};
  run_adapted_linear_backward_parts(ref_ops(), context(), args);
  args.dropout.first_stream = first_stream.data();

  const int64_t stride = stride_of(c);
  const DeviceTensor x(c.activations, spread(arrays.x, c.columns, stride));
  const DeviceTensor dx = c.output == Output::kAccumulate ? DeviceTensor(c.activations, arrays.dx)
                                                          : DeviceTensor(c.activations, arrays.dx.size());
  const DeviceTensor device_dropped(c.activations, dropped.size());
  const DeviceTensor device_d_dropped(c.activations, dropped.size()), du(c.activations, working_u.size());
  std::vector<PlacedWeight> placed;
  std::vector<std::unique_ptr<DeviceTensor>> owners;
  const auto on_device = [&](DType dtype, const auto& values) {
    return owners.emplace_back(std::make_unique<DeviceTensor>(dtype, values)).get();
  };
  std::vector<DeviceTensor*> a_gradients, b_gradients;
  args.x = x.view();
  args.x_stride = stride;
  args.dx = dx.view();
  args.dropped = device_dropped.view();
  args.d_dropped = device_d_dropped.view();
  args.d_u = du.view();
  for (size_t i = 0; i < c.rows.size(); ++i) {
    placed.emplace_back(arrays.weights[i]);
    a_gradients.push_back(on_device(DType::kF32, arrays.a_gradient[i]));
    b_gradients.push_back(on_device(DType::kF32, arrays.b_gradient[i]));
    AdaptedLinearBackwardArgs::Member& member = args.members[i];
    member.weight = placed[i].view;
    member.lora = arrays.lora(i, c, on_device(DType::kF32, arrays.a[i])->f32(),
                              on_device(DType::kF32, arrays.b[i])->f32());
    // The rows of one member's dout have room for du.
    member.dout_stride = c.rows[i] + (i + 1 == c.rows.size() ? stride - c.columns : 0);
    member.dout = on_device(c.activations, spread(arrays.dout[i], c.rows[i], member.dout_stride))->view();
    member.lora_u = on_device(c.activations, arrays.u[i])->view();
    member.a_gradient = a_gradients[i]->f32();
    member.b_gradient = b_gradients[i]->f32();
  }
  cuda_ops().adapted_linear_backward(gpu(), args);
  EXPECT_TRUE(close_in_norm(dx.values(), expected.dx, limit_of(c.activations)));
  for (size_t i = 0; i < c.rows.size(); ++i) {
    if (c.ranks[i] == 0) continue;
    SCOPED_TRACE(text("member {}", i));
    EXPECT_TRUE(close_in_norm(a_gradients[i]->values(), expected.a_gradient[i], limit_of(c.activations)));
    EXPECT_TRUE(close_in_norm(b_gradients[i]->values(), expected.b_gradient[i], limit_of(c.activations)));
  }

  // The weights' gradients alone, as below the first block; and the same bits again.
  const std::vector<Floats> first = {a_gradients[0]->values(), b_gradients[0]->values()};
  stream().copy_in(a_gradients[0]->f32(), arrays.a_gradient[0].data(), 4 * arrays.a_gradient[0].size());
  stream().copy_in(b_gradients[0]->f32(), arrays.b_gradient[0].data(), 4 * arrays.b_gradient[0].size());
  args.dx = nullptr;
  cuda_ops().adapted_linear_backward(gpu(), args);
  EXPECT_EQ(a_gradients[0]->values(), first[0]);
  EXPECT_EQ(b_gradients[0]->values(), first[1]);
}

INSTANTIATE_TEST_SUITE_P(Cases, CudaAdaptedLinearTest, testing::ValuesIn(group_cases()),
                         [](const auto& info) { return "Case" + std::to_string(info.index); });

}  // namespace
}  // namespace onggi::testing_ops
