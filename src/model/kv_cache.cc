#include <utility>

#include "base/error.h"
#include "model/inference.h"

namespace onggi {
namespace {

int64_t token_elements(const ModelConfig& config) { return config.num_kv_heads * config.head_dim; }

}  // namespace

KvCache::KvCache(const ModelConfig& config, int64_t pages, DType dtype, Stream& stream)
    : stream_(stream),
      dtype_(dtype),
      pages_(pages),
      layers_(config.num_layers),
      layer_elements_(pages * kKvPageTokens * token_elements(config)) {
  ONGGI_CHECK(dtype == DType::kF32 || dtype == DType::kF16 || dtype == DType::kBF16);
  ONGGI_CHECK(pages > 0 && pages < INT32_MAX);
  bytes_ = static_cast<uint64_t>(pages) * page_bytes(config, dtype);
  // Not initialised: on the CPU, pages that were never used cost no memory.
  memory_ = stream.allocate(bytes_);
  for (int64_t page = pages - 1; page >= 0; --page) free_.push_back(static_cast<int32_t>(page));
}

uint64_t KvCache::page_bytes(const ModelConfig& config, DType dtype) {
  return static_cast<uint64_t>(2 * config.num_layers * kKvPageTokens *
                               dtype_bytes(dtype, token_elements(config)));
}

void KvCache::copy_page(int32_t from, int32_t to) {
  const auto bytes = static_cast<size_t>(dtype_bytes(dtype_, layer_elements_ / pages_));
  for (int64_t index = 0; index < layers_; ++index) {
    const KvLayer own = layer(index);
    for (void* half : {own.keys, own.values}) {
      std::byte* base = static_cast<std::byte*>(half);
      stream_.copy(base + static_cast<size_t>(to) * bytes, base + static_cast<size_t>(from) * bytes, bytes);
    }
  }
}

int32_t KvCache::take_page() {
  if (free_.empty()) return -1;
  const int32_t page = free_.back();
  free_.pop_back();
  return page;
}

void KvCache::give_back(int32_t page) { free_.push_back(page); }

KvLayer KvCache::layer(int64_t index) const {
  const auto half = static_cast<size_t>(dtype_bytes(dtype_, layer_elements_));
  std::byte* keys = memory_.as<std::byte>() + static_cast<size_t>(2 * index) * half;
  return {keys, keys + half, dtype_, kKvPageTokens};
}

KvSequence::KvSequence(KvSequence&& other) noexcept
    : cache_(other.cache_),
      pages_(std::exchange(other.pages_, {})),
      length_(std::exchange(other.length_, 0)) {}

KvSequence::~KvSequence() {
  for (int32_t page : pages_) cache_->give_back(page);
}

bool KvSequence::reserve(int64_t length) {
  const int64_t needed = (length + kKvPageTokens - 1) / kKvPageTokens - static_cast<int64_t>(pages_.size());
  if (needed > cache_->free_pages()) return false;
  for (int64_t i = 0; i < needed; ++i) pages_.push_back(cache_->take_page());
  return true;
}

void KvSequence::truncate(int64_t length) {
  ONGGI_CHECK(length >= 0 && length <= length_);
  length_ = length;
  const auto kept = static_cast<size_t>((length + kKvPageTokens - 1) / kKvPageTokens);
  while (pages_.size() > kept) {
    cache_->give_back(pages_.back());
    pages_.pop_back();
  }
}

}  // namespace onggi
