#include "hub/download.h"

#include <fcntl.h>
#include <openssl/evp.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <vector>

#include "base/error.h"
#include "base/text.h"

namespace onggi::hub {

namespace {

bool is_hexadecimal(std::string_view text) {
  return text.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

// The contents that arrived are not the announced ones.
class WrongContents : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// The .incomplete file of one download: its bytes so far, their running hash, and what is still to come.
class PartialFile {
 public:
  PartialFile(const DownloadTarget& target, const RemoteFile& file)
      : target_(target), file_(file), path_(target.cache.incomplete(file.etag)) {
    std::error_code error;
    fs::create_directories(path_.parent_path(), error);
    fd_ = open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (fd_ < 0) fail("open");
    restart_hash();
    const uint64_t there = static_cast<uint64_t>(std::max<off_t>(0, lseek(fd_, 0, SEEK_END)));
    if (!file.size || there > *file.size) {
      clear();  // without a size nothing tells whether a part is a part of this file
    } else {
      hash_existing(there);
    }
  }
  PartialFile(const PartialFile&) = delete;
  PartialFile& operator=(const PartialFile&) = delete;
  ~PartialFile() {
    if (fd_ >= 0) close(fd_);
  }

  uint64_t size() const { return size_; }
  bool is_complete() const { return file_.size && size_ == *file_.size; }

  // The server begins at `start`: the resumed byte, or 0 where it does not do ranges.
  void begin_at(uint64_t start) {
    if (start == size_) return;
    if (start != 0) throw WrongContents("another range than the one asked for");
    clear();
  }

  void append(std::string_view bytes) {
    if (file_.size && size_ + bytes.size() > *file_.size) throw WrongContents("more bytes than announced");
    for (size_t at = 0; at < bytes.size();) {
      const ssize_t n = write(fd_, bytes.data() + at, bytes.size() - at);
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) fail("write");
      at += static_cast<size_t>(n);
    }
    hash_->update(bytes.data(), bytes.size());
    size_ += bytes.size();
    target_.done_bytes += bytes.size();
    target_.network_bytes += bytes.size();
  }

  // Throws WrongContents where the hash differs; else the blob is in place.
  void finish() {
    if (!hash_->matches()) throw WrongContents("another hash than announced");
    if (fsync(fd_) != 0) fail("sync");
    fs::rename(path_, target_.cache.blob(file_.etag));
  }

  void clear() {
    if (ftruncate(fd_, 0) != 0 || lseek(fd_, 0, SEEK_SET) != 0) fail("truncate");
    target_.done_bytes -= size_;
    size_ = 0;
    restart_hash();
  }

 private:
  void restart_hash() { hash_ = std::make_unique<ContentHash>(file_.etag, file_.size.value_or(0)); }

  void hash_existing(uint64_t there) {
    lseek(fd_, 0, SEEK_SET);
    std::vector<char> buffer(1 << 20);
    while (size_ < there) {
      const ssize_t n = read(fd_, buffer.data(), std::min<uint64_t>(buffer.size(), there - size_));
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) fail("read");
      hash_->update(buffer.data(), static_cast<size_t>(n));
      size_ += static_cast<uint64_t>(n);
    }
    target_.done_bytes += size_;
  }

  [[noreturn]] void fail(const char* action) const {
    throw MachineError(text("cannot {} {}: {}; free disk space or set HF_HUB_CACHE to another folder", action,
                            path_.string(), std::strerror(errno)));
  }

  const DownloadTarget& target_;
  const RemoteFile& file_;
  fs::path path_;
  int fd_ = -1;
  uint64_t size_ = 0;
  std::unique_ptr<ContentHash> hash_;
};

// "bytes 100-199/200" -> 100.
uint64_t range_start_of(const HttpResponse& response) {
  if (response.status != 206) return 0;
  const std::string range = response.header("content-range");
  if (!range.starts_with("bytes ")) throw WrongContents("a part without its range");
  return std::strtoull(range.c_str() + 6, nullptr, 10);
}

// One attempt: from the first missing byte to the end of what the server sends.
HttpResponse receive(HttpClient& client, const DownloadTarget& target, const RemoteFile& file,
                     PartialFile& partial) {
  HttpRequest request;
  request.url = target.address.resolve_url(target.commit, file.name);
  request.token = target.address.options.token;
  request.range_start = partial.size();
  request.should_stop = target.address.should_stop;
  request.on_success = [&](const HttpResponse& response) { partial.begin_at(range_start_of(response)); };
  request.sink = [&](std::string_view bytes) { partial.append(bytes); };
  return client.perform(request);
}

void receive_rest(HttpClient& client, const DownloadTarget& target, const RemoteFile& file,
                  PartialFile& partial) {
  Retry retry(target.address.options, target.address.options.max_retries, target.address.should_stop);
  while (!partial.is_complete()) {
    const uint64_t before = partial.size();
    std::string problem;
    double pause = 0;
    try {
      const HttpResponse response = receive(client, target, file, partial);
      if (response.status == 200 || response.status == 206) {
        if (!file.size || partial.is_complete()) break;
        problem = text("{} ends early", file.name);
      } else if (response.status == 416) {
        partial.clear();
        problem = text("the server refuses to go on at byte {} of {}", before, file.name);
      } else if (is_transient_status(response.status) ||
                 (response.status == 403 && response.url.find('?') != std::string::npos)) {
        // A 403 behind a redirect is a signed address that has expired: the next attempt asks for a new one.
        problem = text("{} answers with status {}", origin_of(response.url), response.status);
        pause = retry_after_seconds(response);
      } else {
        throw_status_error(response, target.address, file.name);
      }
    } catch (const TransportFailure& failure) {
      if (!failure.transient()) throw HubUnreachable(failure.what());
      problem = failure.what();
    }
    if (partial.size() > before) retry.progressed();
    if (!partial.is_complete()) retry.wait(problem, pause);
  }
  partial.finish();
}

void receive_all(HttpClient& client, const DownloadTarget& target, const RemoteFile& file) {
  PartialFile partial(target, file);
  try {
    receive_rest(client, target, file, partial);
  } catch (const WrongContents&) {
    partial.clear();
    throw;
  }
}

}  // namespace

struct ContentHash::State {
  std::string etag;
  EVP_MD_CTX* context = nullptr;  // null where the tag is no hash
};

ContentHash::ContentHash(std::string etag, uint64_t size) : state_(std::make_unique<State>()) {
  state_->etag = std::move(etag);
  const bool is_sha256 = state_->etag.size() == 64, is_sha1 = state_->etag.size() == 40;
  if (!is_hexadecimal(state_->etag) || !(is_sha256 || is_sha1)) return;
  state_->context = EVP_MD_CTX_new();
  EVP_DigestInit_ex(state_->context, is_sha256 ? EVP_sha256() : EVP_sha1(), nullptr);
  if (is_sha1) {
    const std::string head = "blob " + std::to_string(size);
    update(head.c_str(), head.size() + 1);  // with its zero
  }
}

ContentHash::~ContentHash() { EVP_MD_CTX_free(state_->context); }

void ContentHash::update(const void* data, size_t size) {
  if (state_->context != nullptr) EVP_DigestUpdate(state_->context, data, size);
}

bool ContentHash::matches() {
  if (state_->context == nullptr) return true;
  std::array<unsigned char, EVP_MAX_MD_SIZE> digest;
  unsigned length = 0;
  EVP_DigestFinal_ex(state_->context, digest.data(), &length);
  std::string hex;
  for (unsigned i = 0; i < length; ++i) hex += fmt::format("{:02x}", digest[i]);
  return hex == state_->etag;
}

void download_file(HttpClient& client, const DownloadTarget& target, const RemoteFile& file) {
  const FileLock lock(target.cache.lock(file.etag));
  const fs::path blob = target.cache.blob(file.etag);
  // Another process may have brought it while we waited.
  std::error_code absent;
  if (fs::is_regular_file(blob, absent) && (!file.size || fs::file_size(blob) == *file.size)) {
    target.done_bytes += file.size.value_or(0);
    target.cache.link(target.commit, file.name, file.etag);
    return;
  }
  for (int attempt = 1;; ++attempt) {
    try {
      receive_all(client, target, file);
      break;
    } catch (const WrongContents& problem) {
      // Once is a broken proxy or a resumed part that changed; twice is the source.
      if (attempt < 2) continue;
      throw InputError(
          text("the contents of {} are not those that the hub announces ({}): try again later, or use "
               "another HF_ENDPOINT",
               file.name, problem.what()));
    }
  }
  target.cache.link(target.commit, file.name, file.etag);
}

uint64_t cached_bytes(const RepositoryCache& cache, const RemoteFile& file) {
  std::error_code absent;
  uint64_t there = fs::file_size(cache.blob(file.etag), absent);
  if (absent) there = fs::file_size(cache.incomplete(file.etag), absent);
  if (absent) return 0;
  return std::min(there, file.size.value_or(there));
}

}  // namespace onggi::hub
