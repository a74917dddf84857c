// How long a GGUF file takes from the page cache to a model that can serve, beside the floor: reading the
// file and copying it to the card through page-locked memory, the fastest of several ways.
//
//   gpu_load_bench FOLDER [SHAPE, default qwen3-8b]
//
// Writes a random Q4_K_M file of that shape to FOLDER (5 GB for 8B) unless it is there. Prints the parts of
// the time, and what each step takes alone.
#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "base/read_ahead.h"
#include "device/cuda_upload.h"
#include "infer/chat_model.h"
#include "kernels/cuda/place_file_weights.h"
#include "kernels/table.h"
#include "model/model.h"
#include "tests/gpu/event_timer.h"
#include "tests/gpu/random_gguf.h"

namespace onggi {
namespace {

double seconds_of(const std::function<void()>& work) {
  const auto begin = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

double gigabytes_of(const MappedFile& file) { return static_cast<double>(file.bytes().size()) / 1e9; }

// Fills page-locked memory by all threads, piece by piece, while the piece before is copied to the card.
// fill: (to, offset, bytes).
double floor_seconds(size_t file_bytes, ThreadPool& threads, CudaStream& stream,
                     const std::function<void(std::byte*, size_t, size_t)>& fill) {
  constexpr size_t kPiece = size_t{16} << 20;
  std::array<Buffer, 4> pieces;
  std::array<CudaEvent, 4> free;
  for (Buffer& piece : pieces) piece = stream.allocate_host(kPiece);
  const Buffer on_card = stream.allocate(file_bytes);
  return seconds_of([&] {
    size_t next = 0;
    for (size_t at = 0; at < file_bytes; at += kPiece, next = (next + 1) % pieces.size()) {
      const size_t bytes = std::min(kPiece, file_bytes - at);
      free[next].wait();
      threads.parallel_for(static_cast<int64_t>(bytes), 4096, [&](int64_t begin, int64_t end, int) {
        fill(pieces[next].as<std::byte>() + begin, at + static_cast<size_t>(begin),
             static_cast<size_t>(end - begin));
      });
      stream.copy(on_card.as<std::byte>() + at, pieces[next].data(), bytes);
      free[next].record(stream.handle());
    }
    stream.synchronize();
  });
}

std::vector<ReadAhead::Piece> pieces_of(const MappedFile& file) {
  std::vector<ReadAhead::Piece> pieces;
  const size_t size = file.bytes().size();
  for (size_t at = 0; at < size; at += CudaUpload::kPieceBytes)
    pieces.push_back({&file, at, std::min(CudaUpload::kPieceBytes, size - at)});
  return pieces;
}

// The loader's own way without its repacking.
double upload_seconds(const MappedFile& file, CudaStream& stream) {
  const Buffer on_card = stream.allocate(file.bytes().size());
  const std::vector<ReadAhead::Piece> pieces = pieces_of(file);
  return seconds_of([&] {
    CudaUpload upload(stream, pieces, 0);
    for (const ReadAhead::Piece& piece : pieces) upload.copy_next(on_card.as<std::byte>() + piece.offset);
    upload.finish();
  });
}

double read_seconds(const MappedFile& file, int readers, CudaStream& stream) {
  constexpr int kBuffers = 16;
  std::vector<Buffer> buffers;
  for (int i = 0; i < kBuffers; ++i) buffers.push_back(stream.allocate_host(CudaUpload::kPieceBytes));
  const std::vector<ReadAhead::Piece> pieces = pieces_of(file);
  return seconds_of([&] {
    ReadAhead reader(pieces, readers);
    for (const Buffer& buffer : buffers) reader.add_buffer(buffer.as<std::byte>());
    for (size_t i = 0; i < pieces.size(); ++i) {
      reader.next();
      reader.give_back();
    }
  });
}

void print_steps(const MappedFile& file, CudaStream& stream) {
  const size_t bytes = file.bytes().size();
  const double gigabytes = gigabytes_of(file);
  for (const int readers : {1, 2, 4, 8, 12, 16}) {
    const double seconds = read_seconds(file, readers, stream);
    std::printf("  read by %2d threads: %.3f s (%.1f GB/s)\n", readers, seconds, gigabytes / seconds);
  }
  std::printf("  the header alone: %.1f ms\n",
              1e3 * seconds_of([&] { const GgufReader reader(file.path()); }));
  Buffer on_card;
  std::printf("  one allocation of the file's size: %.1f ms",
              1e3 * seconds_of([&] { on_card = stream.allocate(bytes); }));
  Buffer pinned;
  std::printf(", page-locking 16 MiB: %.2f ms",
              1e3 * seconds_of([&] { pinned = stream.allocate_host(16 << 20); }));
  std::printf(", giving it back: %.2f ms\n", 1e3 * seconds_of([&] { pinned.reset(); }));
  pinned = stream.allocate_host(CudaUpload::kPieceBytes);
  const double copy = seconds_of([&] {
    for (size_t at = 0; at + pinned.bytes() <= bytes; at += pinned.bytes())
      stream.copy(on_card.as<std::byte>() + at, pinned.data(), pinned.bytes());
    stream.synchronize();
  });
  std::printf("  copies alone: %.3f s (%.1f GB/s)\n", copy, gigabytes / copy);
  for (const DType dtype : {DType::kQ4_K, DType::kQ6_K}) {
    constexpr int64_t kColumns = 4096;
    const int64_t row_bytes = dtype_bytes(dtype, kColumns);
    const int64_t rows = static_cast<int64_t>(CudaUpload::kPieceBytes) / row_bytes / 16 * 16;
    auto* raw = on_card.as<uint8_t>();
    const double seconds = 1e-6 * EventTimer(stream).median(3, 21, [&] {
      cuda::repack_blocks(stream, dtype, raw, rows, kColumns, raw + bytes / 2);
    });
    std::printf("  repacking %s: %.1f us for a piece (%.0f GB/s read)\n",
                std::string(dtype_name(dtype)).c_str(), 1e6 * seconds,
                static_cast<double>(rows * row_bytes) / seconds / 1e9);
  }
}

void print_load(const char* what, double seconds, const LoadTimes& times, double floor) {
  std::printf("%s in %.3f s: %.2f x\n    milliseconds of load_model(): %.1f =", what, seconds,
              seconds / floor, 1e3 * times.total);
  const std::pair<const char*, double> parts[] = {
      {"header and norms", times.open},  {"page-locking", times.page_lock}, {"allocating", times.allocate},
      {"waiting for reads", times.read}, {"for copies", times.copy},        {"queueing", times.queue},
      {"giving back", times.give_back}};
  for (const auto& [name, part] : parts) std::printf(" %s %.1f;", name, 1e3 * part);
  std::printf("\n");
}

void measure(const fs::path& path, ThreadPool& threads, CudaStream& stream) {
  const MappedFile file(path);
  const size_t bytes = file.bytes().size();
  const double gigabytes = gigabytes_of(file);
  const double mapped = floor_seconds(bytes, threads, stream, [&](std::byte* to, size_t at, size_t count) {
    std::memcpy(to, file.bytes().data() + at, count);
  });
  const double read = floor_seconds(
      bytes, threads, stream, [&](std::byte* to, size_t at, size_t count) { file.read(at, to, count); });
  const double uploaded = upload_seconds(file, stream);
  const double floor = std::min({mapped, read, uploaded});
  std::printf(
      "read and copied: through the map %.3f s, by reads %.3f s, by the loader's way %.3f s: %.1f GB/s\n",
      mapped, read, uploaded, gigabytes / floor);
  std::shared_ptr<Model> model;
  const double load = seconds_of([&] {
    model = load_model(path, {}, threads, {cuda_ops(), stream});
    stream.synchronize();
  });
  print_load("  model", load, model->load_times, floor);
  model.reset();
  std::optional<LoadedModel> chat;
  const double chat_load = seconds_of([&] {
    chat = load_chat_model(path, {}, threads, {cuda_ops(), stream});
    stream.synchronize();
  });
  print_load("  model and tokenizer", chat_load, chat->model->load_times, floor);
}

int run(int argc, char** argv) {
  if (argc < 2) throw UsageError("gpu_load_bench FOLDER [SHAPE]");
  const std::string shape = argc > 2 ? argv[2] : "qwen3-8b";
  const fs::path path = fs::path(argv[1]) / (shape + "-q4_k_m-random.gguf");
  if (!fs::exists(path)) write_random_gguf(published_config(shape), path);
  CudaStream stream(0);
  ThreadPool threads(0);
  std::printf("%s, %d threads, %.2f GB\n", stream.device().name.c_str(), threads.size(),
              static_cast<double>(fs::file_size(path)) / 1e9);
  constexpr int kRounds = 4;  // the first warms the page cache
  for (int i = 0; i < kRounds; ++i) measure(path, threads, stream);
  print_steps(MappedFile(path), stream);
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
