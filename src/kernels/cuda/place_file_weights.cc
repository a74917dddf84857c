// Loading: weights of files stream to the device, one piece being read, others copied and others repacked.
#include "kernels/cuda/place_file_weights.h"

#include <algorithm>
#include <numeric>
#include <optional>
#include <utility>

#include "base/clock.h"
#include "base/error.h"
#include "device/cuda_upload.h"
#include "kernels/cuda/placed_layout.h"

namespace onggi::cuda {
namespace {

constexpr int64_t kAlignment = 256;  // of weights on the device

// A piece of a weight: rows of blocks that become whole tiles, or bytes that stay as they are.
struct Piece {
  const FileWeight* weight;
  int64_t rows;       // of blocks; 0: the bytes stay as they are
  int64_t bytes;      // in the file
  int64_t at;         // in the file, from the start of the weight
  int64_t device_at;  // on the device, from the start of all weights
};

int64_t file_bytes(const FileWeight& weight) {
  return dtype_bytes(weight.dtype, weight.rows * weight.columns);
}

int64_t device_bytes(const FileWeight& weight) {
  const int64_t bytes = is_placed_in_tiles(weight.dtype)
                            ? placed_bytes(weight.dtype, weight.rows, weight.columns)
                            : file_bytes(weight);
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

void add_pieces(const FileWeight& weight, int64_t device_at, std::vector<Piece>& pieces) {
  constexpr auto kPieceBytes = static_cast<int64_t>(CudaUpload::kPieceBytes);
  const int64_t bytes = file_bytes(weight);
  if (!is_placed_in_tiles(weight.dtype)) {
    for (int64_t at = 0; at < bytes; at += kPieceBytes)
      pieces.push_back({&weight, 0, std::min(kPieceBytes, bytes - at), at, device_at + at});
    return;
  }
  const int64_t row_bytes = dtype_bytes(weight.dtype, weight.columns);
  const int64_t tile_row_bytes = column_tiles(weight.columns) * placed_tile_bytes(weight.dtype);
  const int64_t piece_rows = std::max<int64_t>(kPieceBytes / row_bytes / kTileRows, 1) * kTileRows;
  for (int64_t row = 0; row < weight.rows; row += piece_rows) {
    const int64_t rows = std::min(piece_rows, weight.rows - row);
    pieces.push_back(
        {&weight, rows, rows * row_bytes, row * row_bytes, device_at + row / kTileRows * tile_row_bytes});
  }
}

// In the order of the files: what is not in the page cache yet is then read from the disk at its best speed.
std::vector<size_t> order_of_files(std::span<const FileWeight> weights) {
  std::vector<size_t> order(weights.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return std::pair(weights[a].file, weights[a].offset) < std::pair(weights[b].file, weights[b].offset);
  });
  return order;
}

std::vector<ReadAhead::Piece> reads_of(const std::vector<Piece>& pieces) {
  std::vector<ReadAhead::Piece> reads;
  reads.reserve(pieces.size());
  for (const Piece& piece : pieces)
    reads.push_back({piece.weight->file, piece.weight->offset + static_cast<uint64_t>(piece.at),
                     static_cast<size_t>(piece.bytes)});
  return reads;
}

void queue(CudaStream& stream, const std::vector<Piece>& pieces, uint8_t* device, CudaUpload& upload) {
  for (const Piece& piece : pieces) {
    if (piece.rows == 0) {
      upload.copy_next(device + piece.device_at);
      continue;
    }
    const auto* raw = reinterpret_cast<const uint8_t*>(upload.land_next());
    repack_blocks(stream, piece.weight->dtype, raw, piece.rows, piece.weight->columns,
                  device + piece.device_at);
    upload.release_landed();
  }
  upload.finish();
}

// Seconds since the watch was started; starts it anew.
double lap(Stopwatch& watch) {
  const double seconds = watch.seconds();
  watch.restart();
  return seconds;
}

}  // namespace

PlacedWeights place_file_weights(Stream& stream, std::span<const FileWeight> weights,
                                 std::vector<Buffer>& buffers) {
  PlacedWeights placed{std::vector<WeightView>(weights.size()), {}};
  if (weights.empty()) return placed;
  auto& cuda = static_cast<CudaStream&>(stream);
  std::vector<Piece> pieces;
  std::vector<int64_t> places(weights.size());
  int64_t total = 0;
  for (const size_t i : order_of_files(weights)) {
    ONGGI_CHECK(weights[i].dtype != DType::kNF4);
    add_pieces(weights[i], total, pieces);
    places[i] = total;
    total += device_bytes(weights[i]);
  }
  int64_t landed = 0;
  for (const Piece& piece : pieces)
    if (piece.rows > 0) landed = std::max(landed, piece.bytes);

  LoadTimes& times = placed.times;
  Stopwatch watch;
  std::optional<CudaUpload> upload(std::in_place, cuda, reads_of(pieces), static_cast<size_t>(landed));
  times.page_lock = lap(watch);
  // One allocation costs less than hundreds, and the first pieces are being read meanwhile.
  auto* device = buffers.emplace_back(stream.allocate(static_cast<size_t>(total))).as<uint8_t>();
  times.allocate = lap(watch);
  queue(cuda, pieces, device, *upload);
  times.read = upload->times().read;
  times.copy = upload->times().copy;
  times.queue = lap(watch) - times.read - times.copy;
  upload.reset();
  times.give_back = lap(watch);
  for (size_t i = 0; i < weights.size(); ++i)
    placed.views[i] = {weights[i].dtype, weights[i].rows, weights[i].columns, device + places[i]};
  return placed;
}

}  // namespace onggi::cuda
