// The CUDA kernels of norms, rotary embedding, SwiGLU, dropout, and rows picked, put back and looked up.
#include <tuple>

#include "kernels/cuda/cuda.h"
#include "kernels/ref/ref.h"
#include "tests/kernels_cuda/activation_array.h"

namespace onggi::testing_cuda {
namespace {

constexpr DType kTypes[] = {DType::kF32, DType::kBF16};

// How an op is run: types of what it reads and of what it writes, and whether addresses are divisible by 16.
struct Storage {
  DType in, out;
  size_t misalignment;
};
std::vector<Storage> storages() {
  std::vector<Storage> result;
  for (const DType in : kTypes)
    for (const DType out : kTypes)
      for (const size_t misalignment : {0, 1}) result.push_back({in, out, misalignment});
  return result;
}
std::ostream& operator<<(std::ostream& out, const Storage& storage) {
  return out << dtype_name(storage.in) << " to " << dtype_name(storage.out) << ", misaligned by "
             << storage.misalignment;
}

struct NormCase {
  int64_t tokens, width, padding;
};
// Every count of registers for a row, widths that are no multiple of a vector, and those beyond registers.
constexpr NormCase kNormCases[] = {{1, 1, 0},    {3, 33, 0},   {5, 64, 8},   {2, 512, 0},  {2, 1000, 3},
                                   {2, 4096, 0}, {1, 4104, 8}, {1, 8192, 0}, {1, 8200, 0}, {1, 9001, 1}};

TEST(CudaRmsNorm, AgreesWithTheOracle) {
  for (const NormCase& c : kNormCases) {
    for (const Storage& storage : storages()) {
      SCOPED_TRACE(testing::Message() << "T=" << c.tokens << " C=" << c.width << " " << storage);
      const auto size = static_cast<size_t>(c.tokens * c.width), rows = static_cast<size_t>(c.tokens);
      const auto stride = static_cast<size_t>(c.width + c.padding);
      const Floats x = rounded(normal(size, 1, 3.0f), storage.in);
      const Floats weight = normal(static_cast<size_t>(c.width), 2);
      Floats expected(size), expected_rms(rows);
      RmsNormArgs args{.x = x.data(),
                       .weight = weight.data(),
                       .tokens = c.tokens,
                       .width = c.width,
                       .epsilon = 1e-6f,
                       .out = expected.data(),
                       .inverse_rms = expected_rms.data()};
      ref::rms_norm(testing_ops::context(), args);

      const ActivationArray device_x(x, storage.in, storage.misalignment);
      const DeviceArray<float> device_weight(weight), inverse_rms(rows);
      const ActivationArray out(rows * stride, storage.out, storage.misalignment);
      args.x = device_x;
      args.weight = device_weight.data();
      args.out = out;
      args.out_stride = c.padding == 0 ? 0 : static_cast<int64_t>(stride);
      args.inverse_rms = inverse_rms.data();
      cuda::rms_norm(device_context(), args);
      EXPECT_TRUE(within(take_rows(out.values(), static_cast<size_t>(c.width), stride), expected,
                         allowed_error(expected, 0, storage.out)));
      EXPECT_TRUE(within(inverse_rms.values(), expected_rms, allowed_error(expected_rms, 0, DType::kF32)));
    }
  }
}

TEST(CudaRmsNorm, MayWriteOverItsInputAndKeepNothing) {
  for (const int64_t width : {200, 203}) {
    const Floats x = normal(static_cast<size_t>(2 * width), 1), weight = normal(x.size() / 2, 2);
    const DeviceArray<float> device_weight(weight);
    const ActivationArray device_x(x, DType::kF32), apart(x.size(), DType::kF32);
    RmsNormArgs args{.x = device_x,
                     .weight = device_weight.data(),
                     .tokens = 2,
                     .width = width,
                     .epsilon = 1e-6f,
                     .out = apart,
                     .inverse_rms = nullptr};
    cuda::rms_norm(device_context(), args);
    args.out = device_x;
    cuda::rms_norm(device_context(), args);
    EXPECT_EQ(device_x.values(), apart.values());
    EXPECT_NE(device_x.values(), x);
  }
}

TEST(CudaRmsNorm, BackwardAgreesWithTheOracle) {
  for (const NormCase& c : kNormCases) {
    for (const Storage& storage : storages()) {
      SCOPED_TRACE(testing::Message() << "T=" << c.tokens << " C=" << c.width << " " << storage);
      const auto size = static_cast<size_t>(c.tokens * c.width);
      const Floats x = rounded(normal(size, 1, 3.0f), storage.out);
      const Floats dout = rounded(normal(size, 2), storage.in), start = rounded(normal(size, 4), storage.out);
      const Floats weight = normal(static_cast<size_t>(c.width), 3);
      const Floats inverse_rms = absolute(normal(static_cast<size_t>(c.tokens), 5, 0.3f));
      const DeviceArray<float> device_weight(weight), device_rms(inverse_rms);
      const ActivationArray device_dout(dout, storage.in, storage.misalignment);
      const ActivationArray device_x(x, storage.out, storage.misalignment);
      for (const Output output : {Output::kOverwrite, Output::kAccumulate}) {
        Floats expected = start;
        RmsNormBackwardArgs args{.dout = dout.data(),
                                 .x = x.data(),
                                 .weight = weight.data(),
                                 .inverse_rms = inverse_rms.data(),
                                 .tokens = c.tokens,
                                 .width = c.width,
                                 .dx = expected.data(),
                                 .output = output};
        ref::rms_norm_backward(testing_ops::context(), args);
        const ActivationArray dx(start, storage.out, storage.misalignment);
        args.dout = device_dout;
        args.x = device_x;
        args.weight = device_weight.data();
        args.inverse_rms = device_rms.data();
        args.dx = dx;
        cuda::rms_norm_backward(device_context(), args);
        EXPECT_TRUE(within(dx.values(), expected, allowed_error(expected, 2, storage.out)));

        // Rows apart from each other.
        const auto width = static_cast<size_t>(c.width), stride = width + 8;
        Floats spread(static_cast<size_t>(c.tokens) * stride, NAN);
        for (size_t i = 0; i < size; ++i) spread[i / width * stride + i % width] = start[i];
        const ActivationArray apart(spread, storage.out, storage.misalignment);
        args.dx = apart;
        args.dx_stride = static_cast<int64_t>(stride);
        cuda::rms_norm_backward(device_context(), args);
        EXPECT_EQ(take_rows(apart.values(), width, stride), dx.values());
      }
    }
  }
}

TEST(CudaRmsNorm, BackwardTakesInputAndGradientOfTwoTypes) {
  const Floats x = normal(2 * 64, 1), dout = normal(2 * 64, 2), weight = normal(64, 3);
  const Floats inverse_rms = {0.5f, 1.25f};
  Floats expected(x.size());
  RmsNormBackwardArgs args{.dout = dout.data(),
                           .x = x.data(),
                           .weight = weight.data(),
                           .inverse_rms = inverse_rms.data(),
                           .tokens = 2,
                           .width = 64,
                           .dx = expected.data()};
  ref::rms_norm_backward(testing_ops::context(), args);
  const ActivationArray device_x(x, DType::kF32), device_dout(dout, DType::kF32), dx(x.size(), DType::kBF16);
  const DeviceArray<float> device_weight(weight), device_rms(inverse_rms);
  args.dout = device_dout;
  args.x = device_x;
  args.weight = device_weight.data();
  args.inverse_rms = device_rms.data();
  args.dx = dx;
  cuda::rms_norm_backward(device_context(), args);
  EXPECT_TRUE(within(dx.values(), expected, allowed_error(expected, 2, DType::kBF16)));
}

struct HeadCase {
  int64_t tokens, heads, head_dim;
};
// The vector kernels' head_dims with fewer, as many and more heads than a block holds, and other head_dims.
constexpr HeadCase kHeadCases[] = {{1, 1, 2},   {3, 5, 6},    {19, 1, 64}, {2, 9, 64}, {1, 32, 128},
                                   {5, 8, 128}, {2, 40, 128}, {7, 3, 256}, {2, 3, 80}};

// Positions of a long context among those of short ones.
std::vector<int32_t> positions_for(int64_t tokens) {
  constexpr int32_t kPositions[] = {40960, 0, 1, 262143, 17, 4095, 131071};
  std::vector<int32_t> positions;
  for (int64_t t = 0; t < tokens; ++t) positions.push_back(kPositions[t % 7] + static_cast<int32_t>(t / 7));
  return positions;
}

TEST(CudaHeadNormRope, AgreesWithTheOracle) {
  for (const HeadCase& c : kHeadCases) {
    for (const Storage& storage : storages()) {
      for (const bool normed : {true, false}) {
        SCOPED_TRACE(testing::Message() << "T=" << c.tokens << " H=" << c.heads << " D=" << c.head_dim << " "
                                        << storage << (normed ? ", normed" : ""));
        const auto size = static_cast<size_t>(c.tokens * c.heads * c.head_dim);
        const auto rows = static_cast<size_t>(c.tokens * c.heads);
        const Floats x = rounded(normal(size, 1), storage.in);
        const Floats weight = normal(static_cast<size_t>(c.head_dim), 2);
        const std::vector<int32_t> positions = positions_for(c.tokens);
        Floats expected(size), expected_rms(rows);
        HeadNormRopeArgs args{.x = x.data(),
                              .weight = normed ? weight.data() : nullptr,
                              .positions = positions.data(),
                              .tokens = c.tokens,
                              .heads = c.heads,
                              .head_dim = c.head_dim,
                              .epsilon = 1e-6f,
                              .theta = 1e6,
                              .out = expected.data(),
                              .inverse_rms = expected_rms.data()};
        ref::head_norm_rope(testing_ops::context(), args);

        const ActivationArray device_x(x, storage.in, storage.misalignment);
        const DeviceArray<float> device_weight(weight), inverse_rms(rows);
        const DeviceArray<int32_t> device_positions(positions);
        const ActivationArray out(size, storage.out, storage.misalignment);
        args.x = device_x;
        if (normed) args.weight = device_weight.data();
        args.positions = device_positions.data();
        args.out = out;
        args.inverse_rms = inverse_rms.data();
        cuda::head_norm_rope(device_context(), args);
        EXPECT_TRUE(within(out.values(), expected, allowed_error(expected, 2, storage.out)));
        EXPECT_TRUE(within(inverse_rms.values(), expected_rms, allowed_error(expected_rms, 0, DType::kF32)));
        if (storage.in != storage.out) continue;
        args.out = device_x;  // in place
        args.inverse_rms = nullptr;
        cuda::head_norm_rope(device_context(), args);
        EXPECT_EQ(device_x.values(), out.values());
      }
    }
  }
}

// Angles to 1e-6 radians: a rotation of (1, 0) gives their sines and cosines.
TEST(CudaHeadNormRope, AnglesAreAccurateAtLargePositions) {
  constexpr int64_t kDim = 128;
  const std::vector<int32_t> positions = {40960, 40959, 262143, 1000003, 2147483647};
  Floats x(positions.size() * kDim, 0.0f);
  for (size_t i = 0; i < x.size(); ++i) x[i] = i % kDim < kDim / 2 ? 1.0f : 0.0f;
  const ActivationArray device_x(x, DType::kF32);
  const DeviceArray<int32_t> device_positions(positions);
  cuda::head_norm_rope(device_context(), {.x = device_x,
                                          .weight = nullptr,
                                          .positions = device_positions.data(),
                                          .tokens = static_cast<int64_t>(positions.size()),
                                          .heads = 1,
                                          .head_dim = kDim,
                                          .epsilon = 0,
                                          .theta = 1e6,
                                          .out = device_x,
                                          .inverse_rms = nullptr});
  Floats expected(x.size());
  for (size_t t = 0; t < positions.size(); ++t) {
    for (size_t i = 0; i < kDim / 2; ++i) {
      const long double angle = positions[t] * std::pow(1e6L, -2.0L * static_cast<long double>(i) / kDim);
      expected[t * kDim + i] = static_cast<float>(std::cos(angle));
      expected[t * kDim + kDim / 2 + i] = static_cast<float>(std::sin(angle));
    }
  }
  EXPECT_TRUE(within(device_x.values(), expected, [](size_t) { return 5e-7; }));
}

TEST(CudaHeadNormRope, BackwardAgreesWithTheOracle) {
  for (const HeadCase& c : kHeadCases) {
    for (const Storage& storage : storages()) {
      for (const bool normed : {true, false}) {
        SCOPED_TRACE(testing::Message() << "T=" << c.tokens << " H=" << c.heads << " D=" << c.head_dim << " "
                                        << storage << (normed ? ", normed" : ""));
        const auto size = static_cast<size_t>(c.tokens * c.heads * c.head_dim);
        const Floats x = rounded(normal(size, 1), storage.in), dout = rounded(normal(size, 3), storage.in);
        const Floats weight = normal(static_cast<size_t>(c.head_dim), 2);
        const Floats inverse_rms = absolute(normal(static_cast<size_t>(c.tokens * c.heads), 5));
        const std::vector<int32_t> positions = positions_for(c.tokens);
        Floats expected(size);
        HeadNormRopeBackwardArgs args{.dout = dout.data(),
                                      .x = x.data(),
                                      .weight = normed ? weight.data() : nullptr,
                                      .positions = positions.data(),
                                      .inverse_rms = inverse_rms.data(),
                                      .tokens = c.tokens,
                                      .heads = c.heads,
                                      .head_dim = c.head_dim,
                                      .theta = 1e6,
                                      .dx = expected.data()};
        ref::head_norm_rope_backward(testing_ops::context(), args);

        const ActivationArray device_x(x, storage.in, storage.misalignment);
        const ActivationArray device_dout(dout, storage.in, storage.misalignment);
        const DeviceArray<float> device_weight(weight), device_rms(inverse_rms);
        const DeviceArray<int32_t> device_positions(positions);
        const ActivationArray dx(size, storage.out, storage.misalignment);
        args.dout = device_dout;
        args.x = device_x;
        if (normed) args.weight = device_weight.data();
        args.positions = device_positions.data();
        args.inverse_rms = device_rms.data();
        args.dx = dx;
        cuda::head_norm_rope_backward(device_context(), args);
        // Terms of the gradient: dout w r and x r^3 mean, with r up to 4 and some 30 for a mean of few.
        EXPECT_TRUE(within(dx.values(), expected, allowed_error(expected, 30, storage.out)));
        // Rows apart from each other.
        const auto width = static_cast<size_t>(c.heads * c.head_dim), stride = width + 8;
        const ActivationArray apart(static_cast<size_t>(c.tokens) * stride, storage.out,
                                    storage.misalignment);
        args.dx = apart;
        args.dx_stride = static_cast<int64_t>(stride);
        cuda::head_norm_rope_backward(device_context(), args);
        EXPECT_EQ(take_rows(apart.values(), width, stride), dx.values());
        if (storage.in != storage.out) continue;
        args.dx = device_dout;  // in place
        args.dx_stride = 0;
        cuda::head_norm_rope_backward(device_context(), args);
        EXPECT_EQ(device_dout.values(), dx.values());
      }
    }
  }
}

struct SwiGluCase {
  int64_t tokens, width, padding;
};
constexpr SwiGluCase kSwiGluCases[] = {{1, 1, 0},    {3, 37, 0},   {2, 264, 0},
                                       {3, 264, 16}, {2, 4104, 8}, {2, 39, 2}};

// Gates from deep in one tail of the sigmoid to deep in the other.
Floats gates(size_t count) {
  Floats values = normal(count, 1, 4.0f);
  constexpr float kSpecial[] = {0.0f, -0.0f, 30.0f, -30.0f, 88.0f, -88.0f, -100.0f, 1000.0f, -1000.0f};
  for (size_t i = 0; i < count; i += 5) values[i] = kSpecial[i / 5 % 9];
  return values;
}

TEST(CudaSwiGlu, AgreesWithTheOracle) {
  for (const SwiGluCase& c : kSwiGluCases) {
    for (const Storage& storage : storages()) {
      SCOPED_TRACE(testing::Message() << "T=" << c.tokens << " F=" << c.width << " " << storage);
      const auto size = static_cast<size_t>(c.tokens * c.width);
      const auto stride = static_cast<size_t>(c.width + c.padding);
      const Floats gate = rounded(gates(size), storage.in), up = rounded(normal(size, 2), storage.in);
      Floats expected(size);
      SwiGluArgs args{
          .gate = gate.data(), .up = up.data(), .tokens = c.tokens, .width = c.width, .out = expected.data()};
      ref::swiglu(testing_ops::context(), args);
      const ActivationArray device_gate(gate, storage.in, storage.misalignment);
      const ActivationArray device_up(up, storage.in, storage.misalignment);
      const ActivationArray out(static_cast<size_t>(c.tokens) * stride, storage.out, storage.misalignment);
      args.gate = device_gate;
      args.up = device_up;
      args.out = out;
      args.out_stride = c.padding == 0 ? 0 : static_cast<int64_t>(stride);
      cuda::swiglu(device_context(), args);
      EXPECT_TRUE(within(take_rows(out.values(), static_cast<size_t>(c.width), stride), expected,
                         allowed_error(expected, 1e-29, storage.out)));
    }
  }
}

TEST(CudaSwiGlu, BackwardAgreesWithTheOracle) {
  for (const SwiGluCase& c : kSwiGluCases) {
    for (const Storage& storage : storages()) {
      SCOPED_TRACE(testing::Message() << "T=" << c.tokens << " F=" << c.width << " " << storage);
      const auto size = static_cast<size_t>(c.tokens * c.width);
      const Floats gate = rounded(gates(size), storage.in), up = rounded(normal(size, 2), storage.in);
      const Floats dout = rounded(normal(size, 3), storage.in);
      Floats expected_gate(size), expected_up(size);
      SwiGluBackwardArgs args{.dout = dout.data(),
                              .gate = gate.data(),
                              .up = up.data(),
                              .tokens = c.tokens,
                              .width = c.width,
                              .dgate = expected_gate.data(),
                              .dup = expected_up.data()};
      ref::swiglu_backward(testing_ops::context(), args);
      const ActivationArray device_dout(dout, storage.in, storage.misalignment);
      const ActivationArray device_gate(gate, storage.in, storage.misalignment);
      const ActivationArray device_up(up, storage.in, storage.misalignment);
      const ActivationArray dgate(size, storage.out, storage.misalignment);
      const auto stride = static_cast<size_t>(c.width + c.padding);
      const ActivationArray dup(static_cast<size_t>(c.tokens) * stride, storage.out, storage.misalignment);
      args.dout = device_dout;
      args.gate = device_gate;
      args.up = device_up;
      args.dgate = dgate;
      args.dup = dup;
      args.dup_stride = c.padding == 0 ? 0 : static_cast<int64_t>(stride);
      cuda::swiglu_backward(device_context(), args);
      const Floats up_gradient = take_rows(dup.values(), static_cast<size_t>(c.width), stride);
      // s + g s (1 - s) crosses zero near g = -1.28: its summands are below 1/2 where it is small.
      EXPECT_TRUE(within(dgate.values(), expected_gate, allowed_error(expected_gate, 2, storage.out)));
      EXPECT_TRUE(within(up_gradient, expected_up, allowed_error(expected_up, 1e-29, storage.out)));
      if (storage.in != storage.out) continue;
      args.dgate = device_gate;  // in place
      args.dup = device_up;
      args.dup_stride = 0;
      cuda::swiglu_backward(device_context(), args);
      EXPECT_EQ(device_gate.values(), dgate.values());
      EXPECT_EQ(device_up.values(), up_gradient);
    }
  }
}

TEST(CudaDropout, HasTheMasksOfTheOracle) {
  for (const size_t elements : {size_t{1}, size_t{7}, size_t{64}, size_t{2056}, size_t{5003}}) {
    for (const Storage& storage : storages()) {
      for (const Output output : {Output::kOverwrite, Output::kAccumulate}) {
        SCOPED_TRACE(testing::Message() << elements << " elements, " << storage);
        const Floats x = rounded(normal(elements, 1), storage.in);
        const Floats start = rounded(normal(elements, 2), storage.out);
        Floats expected = start;
        DropoutArgs args{.x = x.data(),
                         .elements = static_cast<int64_t>(elements),
                         .probability = 0.3f,
                         .seed = 0x123456789ABCDEF0,
                         .stream = 77,
                         .out = expected.data(),
                         .output = output};
        ref::dropout(testing_ops::context(), args);
        const ActivationArray device_x(x, storage.in, storage.misalignment);
        const ActivationArray out(start, storage.out, storage.misalignment);
        args.x = device_x;
        args.out = out;
        // Of stream 77 by way of memory.
        const DeviceArray<uint64_t> first_stream(std::vector<uint64_t>{70});
        args.stream = 7;
        args.first_stream = first_stream.data();
        cuda::dropout(device_context(), args);
        EXPECT_EQ(out.values(), rounded(expected, storage.out));
        if (elements > 1000) {
          const auto dropped = std::count(expected.begin(), expected.end(), 0.0f);
          EXPECT_GT(dropped, output == Output::kOverwrite ? static_cast<int64_t>(elements / 4) : -1);
        }
      }
    }
  }
}

TEST(CudaRows, ArePickedAndPutBack) {
  const std::vector<int32_t> rows = {4, 0, 3};
  const DeviceArray<int32_t> device_rows(rows);
  for (const int64_t width : {1, 7, 24, 4096}) {
    for (const Storage& storage : storages()) {
      if (storage.in != storage.out) continue;
      SCOPED_TRACE(testing::Message() << "C=" << width << " " << storage);
      const auto columns = static_cast<size_t>(width);
      const Floats x = rounded(normal(5 * columns, 1), storage.in);
      const ActivationArray device_x(x, storage.in, storage.misalignment);
      const ActivationArray picked(3 * columns, storage.in, storage.misalignment);
      cuda::gather_rows(
          device_context(),
          {.x = device_x, .rows = device_rows.data(), .count = 3, .width = width, .out = picked});
      Floats expected;
      for (const int32_t row : rows)
        expected.insert(expected.end(), x.begin() + row * width, x.begin() + (row + 1) * width);
      EXPECT_EQ(picked.values(), expected);

      const Floats background = rounded(normal(5 * columns, 2), storage.in);
      const ActivationArray all(background, storage.in, storage.misalignment);
      cuda::scatter_rows(device_context(),
                         {.x = picked, .rows = device_rows.data(), .count = 3, .width = width, .out = all});
      Floats whole = background;
      for (const int32_t row : rows) std::copy_n(x.begin() + row * width, width, whole.begin() + row * width);
      EXPECT_EQ(all.values(), whole);

      // Rows apart from each other.
      const size_t stride = columns + 8;
      const ActivationArray apart(5 * stride, storage.in, storage.misalignment);
      cuda::scatter_rows(device_context(), {.x = picked,
                                            .rows = device_rows.data(),
                                            .count = 3,
                                            .width = width,
                                            .out = apart,
                                            .out_stride = static_cast<int64_t>(stride)});
      const Floats spread = apart.values();
      for (size_t i = 0; i < spread.size(); ++i) {
        const size_t row = i / stride, column = i % stride;
        if (column < columns && std::ranges::count(rows, static_cast<int32_t>(row)) > 0) {
          ASSERT_EQ(spread[i], x[row * columns + column]) << i;
        } else {
          ASSERT_TRUE(std::isnan(spread[i])) << i;
        }
      }
    }
  }
}

TEST(CudaEmbedding, ReadsTablesOnBothSides) {
  constexpr int64_t kRows = 11;
  const std::vector<int32_t> ids = {10, 0, 3, 3};
  const DeviceArray<int32_t> device_ids(ids);
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    for (const int64_t width : {5, 40, 4096}) {
      const testing_ops::Weight table = testing_ops::random_weight(dtype, kRows, width, 3);
      const DeviceArray<uint8_t> on_device(table.data);
      const Buffer on_host = stream().allocate_host(table.data.size());
      std::memcpy(on_host.data(), table.data.data(), table.data.size());
      for (const void* data :
           {static_cast<const void*>(on_device.data()), static_cast<const void*>(on_host.data())}) {
        for (const DType out_dtype : kTypes) {
          SCOPED_TRACE(testing::Message()
                       << dtype_name(dtype) << " C=" << width << " to " << dtype_name(out_dtype));
          const ActivationArray out(ids.size() * static_cast<size_t>(width), out_dtype);
          WeightView view = table.view;
          view.data = data;
          cuda::embedding(device_context(),
                          {.ids = device_ids.data(), .table = view, .tokens = 4, .out = out});
          Floats expected;
          for (const int32_t id : ids)
            expected.insert(expected.end(), table.decoded.begin() + id * width,
                            table.decoded.begin() + (id + 1) * width);
          EXPECT_EQ(out.values(), rounded(expected, out_dtype));
        }
      }
    }
  }
}

// No tokens, no work: grids of zero blocks are not launched.
TEST(CudaBlockOps, TakeNoTokens) {
  const ActivationArray x(Floats{1, 2}, DType::kF32);
  const DeviceArray<float> weight(Floats{1, 1});
  const DeviceArray<int32_t> positions(std::vector<int32_t>{0});
  cuda::rms_norm(device_context(), {.x = x,
                                    .weight = weight.data(),
                                    .tokens = 0,
                                    .width = 2,
                                    .epsilon = 0,
                                    .out = x,
                                    .inverse_rms = nullptr});
  cuda::head_norm_rope(device_context(), {.x = x,
                                          .weight = weight.data(),
                                          .positions = positions.data(),
                                          .tokens = 0,
                                          .heads = 1,
                                          .head_dim = 2,
                                          .epsilon = 0,
                                          .theta = 1e4,
                                          .out = x,
                                          .inverse_rms = nullptr});
  cuda::swiglu(device_context(), {.gate = x, .up = x, .tokens = 0, .width = 2, .out = x});
  cuda::dropout(device_context(),
                {.x = x, .elements = 0, .probability = 0.5f, .seed = 1, .stream = 1, .out = x});
  EXPECT_EQ(x.values(), (Floats{1, 2}));
}

}  // namespace
}  // namespace onggi::testing_cuda
