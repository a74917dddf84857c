// Reading files ahead of the one who uses their bytes.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#include "base/file.h"

namespace onggi {

// Pieces of files that several threads read into buffers of the caller, at most as many ahead as there are
// buffers, for one consumer that takes them in order. The page cache reaches memory much faster through
// several threads than through one: they share the parts of a piece.
//
//   ReadAhead pieces(list, 8);
//   pieces.add_buffer(memory);            // reading begins; further buffers may come later
//   for (...) { use(memory of pieces.next().buffer); pieces.give_back(); }
class ReadAhead {
 public:
  struct Piece {
    const MappedFile* file = nullptr;
    uint64_t offset = 0;
    size_t bytes = 0;
  };

  ReadAhead(std::vector<Piece> pieces, int threads, size_t part_bytes = size_t{1} << 20);
  ReadAhead(const ReadAhead&) = delete;
  ReadAhead& operator=(const ReadAhead&) = delete;
  // Waits for reads that have begun; the others are not made.
  ~ReadAhead();

  // Memory for the largest piece; outlives this object. Buffers are numbered from 0 on. Another thread than
  // the consumer may add them.
  void add_buffer(std::byte* memory);
  size_t buffers() const;
  struct Read {
    size_t buffer = 0;  // where the piece lies
    size_t bytes = 0;
  };
  // Waits for the next piece, which stays until it is given back. Throws InputError where it could not be
  // read. At least one buffer must not be out (InternalError).
  Read next();
  // The piece that was taken first, of those that are out, is not needed any more.
  void give_back();

 private:
  void read_pieces();

  static constexpr size_t kNotRead = ~size_t{0};

  const std::vector<Piece> pieces_;
  const size_t part_bytes_;
  mutable std::mutex mutex_;
  std::condition_variable may_read_, was_read_;
  std::vector<std::byte*> buffers_;
  std::vector<size_t> free_;   // buffers
  std::vector<size_t> where_;  // by piece: the buffer in which it lies, or kNotRead
  std::vector<size_t> left_;   // by piece: bytes that were not read yet
  size_t begun_ = 0;           // pieces of which threads have begun with all parts
  size_t part_begin_ = 0;      // of piece begun_: the bytes that threads have begun with
  size_t part_buffer_ = 0;     // where they go, unless there are none
  bool stopping_ = false;
  std::exception_ptr error_;  // the first
  // The consumer's alone.
  size_t taken_ = 0;
  std::deque<size_t> out_;  // buffers
  std::vector<std::thread> threads_;
};

}  // namespace onggi
