#include "base/read_ahead.h"

#include <system_error>
#include <utility>

#include "base/error.h"

namespace onggi {

ReadAhead::ReadAhead(std::vector<Piece> pieces, int threads)
    : pieces_(std::move(pieces)), where_(pieces_.size(), kNotRead) {
  ONGGI_CHECK(threads > 0);
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

// Pieces are begun in order, each with a buffer: the one that the consumer waits for never lacks one.
void ReadAhead::read_pieces() {
  std::unique_lock lock(mutex_);
  while (true) {
    may_read_.wait(lock, [&] { return stopping_ || begun_ == pieces_.size() || !free_.empty(); });
    if (stopping_ || begun_ == pieces_.size()) break;
    const size_t index = begun_++;
    const size_t buffer = free_.back();
    free_.pop_back();
    std::byte* const memory = buffers_[buffer];
    lock.unlock();
    std::exception_ptr error;
    try {
      pieces_[index].file->read(pieces_[index].offset, memory, pieces_[index].bytes);
    } catch (...) {
      error = std::current_exception();
    }
    lock.lock();
    where_[index] = buffer;
    if (error != nullptr) {
      if (error_ == nullptr) error_ = error;
      stopping_ = true;
    }
    was_read_.notify_one();
  }
  // The others need not wait for buffers.
  may_read_.notify_all();
}

}  // namespace onggi
