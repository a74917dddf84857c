// NF4 made on the device is the CPU's, bit for bit.
#include "kernels/cuda/nf4_quantize.h"

#include "blocks/nf4.h"
#include "tests/kernels_cuda/activation_array.h"

namespace onggi::testing_cuda {
namespace {

// The stored bytes of the values, and what these bytes stand for.
struct Stored {
  std::vector<uint8_t> bytes;
  Floats values;
};
Stored store(const Floats& values, DType dtype) {
  Stored stored{{}, values};
  const size_t element_bytes = dtype == DType::kF32 ? 4 : 2;
  stored.bytes.resize(values.size() * element_bytes);
  for (size_t i = 0; i < values.size(); ++i) {
    if (dtype == DType::kF32) {
      std::memcpy(stored.bytes.data() + 4 * i, &values[i], 4);
      continue;
    }
    const uint16_t bits = dtype == DType::kF16 ? f32_to_f16(values[i]) : f32_to_bf16(values[i]);
    stored.values[i] = dtype == DType::kF16 ? f16_to_f32(bits) : bf16_to_f32(bits);
    std::memcpy(stored.bytes.data() + 2 * i, &bits, 2);
  }
  return stored;
}

// In two pieces, the second first.
Nf4Storage encode_on_device(const Stored& stored, DType dtype, int64_t rows, int64_t columns) {
  const int64_t elements = rows * columns, blocks = elements / kNf4BlockElements;
  const int64_t border = blocks / 3 * kNf4BlockElements;
  const int64_t element_bytes = static_cast<int64_t>(stored.bytes.size()) / elements;
  const DeviceArray<uint8_t> values(stored.bytes), packed(static_cast<size_t>(elements / 2));
  const DeviceArray<float> absmax(static_cast<size_t>(blocks));
  const auto encode = [&](int64_t begin, int64_t count) {
    cuda::nf4_indices(stream(), {.values = values.data() + begin * element_bytes,
                                 .dtype = dtype,
                                 .begin = begin,
                                 .count = count,
                                 .packed = packed.data(),
                                 .absmax = absmax.data()});
  };
  encode(border, elements - border);
  encode(0, border);
  const DeviceArray<uint8_t> absmax_q8(static_cast<size_t>(blocks));
  const DeviceArray<float> nested(static_cast<size_t>((blocks + kNf4NestedBlocks - 1) / kNf4NestedBlocks));
  const DeviceArray<float> offset(1);
  cuda::nf4_quantize_absmax(stream(), {.absmax = absmax.data(),
                                       .blocks = blocks,
                                       .absmax_q8 = absmax_q8.data(),
                                       .nested_absmax = nested.data(),
                                       .offset = offset.data()});
  return {.rows = rows,
          .columns = columns,
          .packed = packed.values(),
          .absmax_q8 = absmax_q8.values(),
          .nested_absmax = nested.values(),
          .offset = offset.values()[0]};
}

template <typename T>
void expect_same_bits(const std::vector<T>& actual, const std::vector<T>& expected, const char* what) {
  ASSERT_EQ(actual.size(), expected.size()) << what;
  for (size_t i = 0; i < actual.size(); ++i)
    ASSERT_EQ(std::memcmp(&actual[i], &expected[i], sizeof(T)), 0)
        << what << " " << i << " is " << +actual[i] << " instead of " << +expected[i];
}

void expect_the_cpus(const Floats& values, DType dtype, int64_t rows, int64_t columns) {
  const Stored stored = store(values, dtype);
  Nf4Encoder encoder(rows, columns);
  encoder.encode(0, rows * columns, stored.values.data());
  const Nf4Storage expected = encoder.finish();
  const Nf4Storage actual = encode_on_device(stored, dtype, rows, columns);
  expect_same_bits(actual.packed, expected.packed, "packed byte");
  expect_same_bits<float>({actual.offset}, {expected.offset}, "offset");
  expect_same_bits(actual.nested_absmax, expected.nested_absmax, "nested absmax");
  expect_same_bits(actual.absmax_q8, expected.absmax_q8, "absmax");
}

constexpr DType kDTypes[] = {DType::kBF16, DType::kF16, DType::kF32};

TEST(CudaNf4Quantize, IsTheCpusBitForBit) {
  constexpr struct { int64_t rows, columns; } kShapes[] = {{1, 64}, {3, 192}, {5, 64 * 131}, {64, 4096}};
  for (const auto& shape : kShapes) {
    for (const DType dtype : kDTypes) {
      SCOPED_TRACE(testing::Message() << shape.rows << " x " << shape.columns << " " << dtype_name(dtype));
      const auto size = static_cast<size_t>(shape.rows * shape.columns);
      expect_the_cpus(normal(size, 5, 0.02f), dtype, shape.rows, shape.columns);
    }
  }
}

// Whole blocks of zeros, single values among zeros, values on midpoints and the code's own.
TEST(CudaNf4Quantize, OfUnusualBlocks) {
  constexpr int64_t kBlocks = 600;
  Floats values = normal(kBlocks * kNf4BlockElements, 6);
  for (size_t i = 0; i < values.size(); ++i) {
    const size_t block = i / kNf4BlockElements, element = i % kNf4BlockElements;
    if (block % 7 == 0) values[i] = 0;
    if (block % 7 == 1) values[i] = element == block % kNf4BlockElements ? -3.0f : 0.0f;
    if (block % 7 == 2) values[i] = element == 0 ? 1.0f : nf4_midpoints()[element % 15];
    if (block % 7 == 3) values[i] = 2 * kNf4Code[element % 16];
    if (block % 7 == 4 && element % 2 == 0) values[i] = -0.0f;
  }
  for (const DType dtype : kDTypes) {
    SCOPED_TRACE(dtype_name(dtype));
    expect_the_cpus(values, dtype, 1, kBlocks * kNf4BlockElements);
  }
  expect_the_cpus(Floats(1024, 0.0f), DType::kBF16, 4, 256);
  expect_the_cpus(Floats(1024, 0.5f), DType::kBF16, 4, 256);
}

// Added one after another, each small absmax is lost beside the large ones, and their mean lies halfway
// between two floats; added among themselves first, the small ones lift it above. Only the CPU's order of
// additions gives the CPU's offset.
TEST(CudaNf4Quantize, AddsAbsmaxesOneByOneWhereOrderMatters) {
  constexpr size_t kBlocks = 1024;
  Floats values(kBlocks * kNf4BlockElements, 0.0f);
  for (size_t block = 0; block < kBlocks; ++block)
    values[block * kNf4BlockElements + 5] = block == 0 ? 0x1p60f : block == 1 ? -0x1p36f : 0x1p6f;
  Nf4Encoder encoder(1, static_cast<int64_t>(values.size()));
  encoder.encode(0, static_cast<int64_t>(values.size()), values.data());
  ASSERT_EQ(encoder.finish().offset, 0x1p50f);  // 0x1.000002p50 if nothing were lost
  expect_the_cpus(values, DType::kF32, 1, static_cast<int64_t>(values.size()));
}

// Absmaxes of many magnitudes, subnormals among them.
TEST(CudaNf4Quantize, OfAWideRange) {
  constexpr int64_t kBlocks = 700;
  Floats values = normal(kBlocks * kNf4BlockElements, 7);
  Random random(8);
  for (int64_t block = 0; block < kBlocks; ++block) {
    const float scale = std::ldexp(1.0f, static_cast<int>(random.below(100)) - 50);
    for (int i = 0; i < kNf4BlockElements; ++i)
      values[static_cast<size_t>(block * kNf4BlockElements + i)] *= scale;
  }
  expect_the_cpus(values, DType::kF32, 7, kBlocks / 7 * kNf4BlockElements);
  for (float& value : values) value *= 0x1p-80f;
  expect_the_cpus(values, DType::kF32, 7, kBlocks / 7 * kNf4BlockElements);
}

}  // namespace
}  // namespace onggi::testing_cuda
