#include "base/read_ahead.h"

#include <algorithm>
#include <system_error>
#include <utility>

#include "base/error.h"

namespace onggi {

ReadAhead::ReadAhead(std::vector<Piece> pieces, int threads, size_t part_bytes)
    : pieces_(std::move(pieces)), part_bytes_(part_bytes), where_(pieces_.size(), kNotRead) {
  ONGGI_CHECK(threads > 0 && part_bytes > 0);
  for (const Piece& piece : pieces_) left_.push_back(piece.bytes);
  for (int i = 0; i < threads; ++i) {
    try {
      threads_.emplace_back([this] { read_pieces(); });
    } catch (const std::system_error&) {  // the system gives no more: fewer do as well
      if (threads_.empty()) throw;
      break;
    }
  }
}

ReadAhead::~ReadAhead() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  may_read_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void ReadAhead::add_buffer(std::byte* memory) {
  {
    const std::lock_guard lock(mutex_);
    free_.push_back(buffers_.size());
    buffers_.push_back(memory);
  }
  may_read_.notify_one();
}

size_t ReadAhead::buffers() const {
  const std::lock_guard lock(mutex_);
  return buffers_.size();
}

ReadAhead::Read ReadAhead::next() {
  ONGGI_CHECK(taken_ < pieces_.size());
  std::unique_lock lock(mutex_);
  ONGGI_CHECK(out_.size() < buffers_.size());
  was_read_.wait(lock, [&] { return where_[taken_] != kNotRead || error_ != nullptr; });
  if (error_ != nullptr) std::rethrow_exception(error_);
  out_.push_back(where_[taken_]);
  return {out_.back(), pieces_[taken_++].bytes};
}

void ReadAhead::give_back() {
  ONGGI_CHECK(!out_.empty());
  {
    const std::lock_guard lock(mutex_);
    free_.push_back(out_.front());
  }
  out_.pop_front();
  may_read_.notify_one();
}

// Parts are begun in order, the first of a piece with a buffer: the piece that the consumer waits for never
// lacks one.
void ReadAhead::read_pieces() {
  std::unique_lock lock(mutex_);
  while (true) {
    may_read_.wait(
        lock, [&] { return stopping_ || begun_ == pieces_.size() || part_begin_ > 0 || !free_.empty(); });
    if (stopping_ || begun_ == pieces_.size()) break;
    const size_t index = begun_, begin = part_begin_;
    const Piece& piece = pieces_[index];
    if (begin == 0) {
      part_buffer_ = free_.back();
      free_.pop_back();
    }
    const size_t buffer = part_buffer_, bytes = std::min(part_bytes_, piece.bytes - begin);
    part_begin_ += bytes;
    if (part_begin_ == piece.bytes) {
      ++begun_;
      part_begin_ = 0;
    }
    std::byte* const memory = buffers_[buffer] + begin;
    lock.unlock();
    may_read_.notify_one();  // another part, or buffer, may be there
    std::exception_ptr error;
    try {
      piece.file->read(piece.offset + begin, memory, bytes);
    } catch (...) {
      error = std::current_exception();
    }
    lock.lock();
    left_[index] -= bytes;
    if (error != nullptr) {
      if (error_ == nullptr) error_ = error;
      stopping_ = true;
    }
    if (left_[index] > 0 && error_ == nullptr) continue;
    where_[index] = buffer;
    was_read_.notify_one();
  }
  // The others need not wait for buffers.
  may_read_.notify_all();
}

}  // namespace onggi
