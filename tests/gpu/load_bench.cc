// How long a GGUF file takes from the page cache to a model that can serve, beside the floor: reading the
// file and copying it to the card through page-locked memory, with as many threads.
//
//   gpu_load_bench FOLDER [SHAPE, default qwen3-8b]
//
// Writes a random Q4_K_M file of that shape to FOLDER (5 GB for 8B) unless it is there.
#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "base/random.h"
#include "blocks/block_format.h"
#include "device/cuda_stream.h"
#include "formats/gguf.h"
#include "kernels/table.h"
#include "model/config.h"
#include "model/model.h"
#include "model/tensor_names.h"

namespace onggi {
namespace {

double seconds_of(const std::function<void()>& work) {
  const auto begin = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

// As in a Q4_K_M file, about half of the value and down projections carry six bits.
DType dtype_of(const ModelTensor& tensor) {
  if (tensor.shape.size() == 1) return DType::kF32;
  const bool may_be_larger = tensor.role == TensorRole::kV || tensor.role == TensorRole::kDown;
  return tensor.role == TensorRole::kLmHead || (may_be_larger && tensor.layer % 2 == 0) ? DType::kQ6_K
                                                                                        : DType::kQ4_K;
}

// One random row again and again: what is loaded does not matter to the time.
void write_tensor(GgufWriter& writer, const ModelTensor& tensor) {
  const DType dtype = dtype_of(tensor);
  const int64_t columns = tensor.shape.back(), rows = element_count(tensor.shape) / columns;
  Random random(1);
  std::vector<float> values(static_cast<size_t>(columns));
  for (float& value : values) value = dtype == DType::kF32 ? 1.0f : 0.02f * random.normal();
  std::vector<std::byte> row(static_cast<size_t>(dtype_bytes(dtype, columns)));
  if (dtype == DType::kF32) {
    std::memcpy(row.data(), values.data(), row.size());
  } else {
    block_format(dtype).encode(values.data(), columns, nullptr, row.data());
  }
  for (int64_t i = 0; i < rows; ++i) writer.write(tensor.gguf_name, row.data(), row.size());
}

void write_model(const ModelConfig& config, const fs::path& path) {
  std::vector<TensorSpec> specs;
  for (const ModelTensor& tensor : model_tensors(config))
    specs.push_back({tensor.gguf_name, dtype_of(tensor), tensor.shape});
  GgufWriter writer(path, gguf_config_entries(config), specs);
  for (const ModelTensor& tensor : model_tensors(config)) write_tensor(writer, tensor);
  writer.commit();
}

// Reads the file and copies it to the card, piece by piece.
double floor_seconds(const fs::path& path, ThreadPool& threads, CudaStream& stream) {
  constexpr size_t kPiece = size_t{16} << 20;
  const MappedFile file(path);
  std::array<Buffer, 4> pieces;
  std::array<cudaEvent_t, 4> free{};
  for (size_t i = 0; i < pieces.size(); ++i) {
    pieces[i] = stream.allocate_host(kPiece);
    check_cuda(cudaEventCreate(&free[i]), "cudaEventCreate", "measuring");
  }
  const Buffer on_card = stream.allocate(file.bytes().size());
  const double seconds = seconds_of([&] {
    size_t next = 0;
    for (size_t at = 0; at < file.bytes().size(); at += kPiece, next = (next + 1) % pieces.size()) {
      const size_t bytes = std::min(kPiece, file.bytes().size() - at);
      check_cuda(cudaEventSynchronize(free[next]), "cudaEventSynchronize", "measuring");
      threads.parallel_for(static_cast<int64_t>(bytes), 4096, [&](int64_t begin, int64_t end, int) {
        std::memcpy(pieces[next].as<std::byte>() + begin,
                    file.bytes().data() + at + static_cast<size_t>(begin), static_cast<size_t>(end - begin));
      });
      stream.copy(on_card.as<std::byte>() + at, pieces[next].data(), bytes);
      check_cuda(cudaEventRecord(free[next], stream.handle()), "cudaEventRecord", "measuring");
    }
    stream.synchronize();
  });
  for (const cudaEvent_t event : free) cudaEventDestroy(event);
  return seconds;
}

int run(int argc, char** argv) {
  if (argc < 2) throw UsageError("gpu_load_bench FOLDER [SHAPE]");
  const std::string shape = argc > 2 ? argv[2] : "qwen3-8b";
  const fs::path path = fs::path(argv[1]) / (shape + "-q4_k_m-random.gguf");
  if (!fs::exists(path)) write_model(published_config(shape), path);
  CudaStream stream(0);
  ThreadPool threads(0);
  const double gigabytes = static_cast<double>(fs::file_size(path)) / 1e9;
  std::printf("%s, %d threads, %.2f GB\n", stream.device().name.c_str(), threads.size(), gigabytes);
  for (int i = 0; i < 3; ++i) {  // the first warms the page cache
    const double floor = floor_seconds(path, threads, stream);
    const double load = seconds_of([&] {
      const auto model = load_model(path, {}, threads, {cuda_ops(), stream});
      stream.synchronize();
    });
    std::printf("read and copied %.3f s (%.1f GB/s), loaded %.3f s: %.2f x\n", floor, gigabytes / floor, load,
                load / floor);
  }
  return 0;
}

}  // namespace
}  // namespace onggi

int main(int argc, char** argv) {
  try {
    return onggi::run(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 4;
  }
}
