#include "base/file.h"

#include <fcntl.h>
#include <openssl/evp.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <utility>

#include "base/error.h"
#include "base/text.h"

namespace onggi {
namespace {

constexpr size_t kCopyBytes = size_t{1} << 20;
// Written pages are pushed to the disk at this distance, so that a streaming writer does not pile up dirty
// pages.
constexpr uint64_t kSyncDistance = uint64_t{64} << 20;

std::string reason() { return std::strerror(errno); }

}  // namespace

std::string read_file(const fs::path& path, uint64_t max_bytes) {
  std::ifstream in(path, std::ios::binary);
  std::error_code ignored;
  if (!in || fs::is_directory(path, ignored))
    throw InputError(text("cannot read {}: {}", path.string(), reason()));
  in.seekg(0, std::ios::end);
  const auto size = static_cast<uint64_t>(in.tellg());
  if (size > max_bytes)
    throw InputError(
        text("{} has {} bytes, more than the {} that such a file may have", path.string(), size, max_bytes));
  std::string bytes(size, '\0');
  in.seekg(0);
  in.read(bytes.data(), static_cast<std::streamsize>(size));
  if (!in) throw InputError(text("cannot read {}: {}", path.string(), reason()));
  return bytes;
}

MappedFile::MappedFile(const fs::path& path) : path_(path) {
  fd_ = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd_ < 0) throw InputError(text("cannot open {}: {}", path.string(), reason()));
  struct stat status {};
  if (fstat(fd_, &status) != 0 || !S_ISREG(status.st_mode)) {
    close(fd_);
    throw InputError(text("{} is not a regular file", path.string()));
  }
  size_ = static_cast<size_t>(status.st_size);
  if (size_ == 0) return;
  void* map = mmap(nullptr, size_, PROT_READ, MAP_SHARED, fd_, 0);
  if (map == MAP_FAILED) {
    const std::string why = reason();
    close(fd_);
    throw InputError(text("cannot map {}: {}", path.string(), why));
  }
  data_ = static_cast<const std::byte*>(map);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)),
      fd_(std::exchange(other.fd_, -1)),
      data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(fd_, other.fd_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) munmap(const_cast<std::byte*>(data_), size_);
  if (fd_ >= 0) close(fd_);
}

void MappedFile::read(uint64_t offset, void* to, size_t bytes) const {
  auto* at = static_cast<char*>(to);
  while (bytes > 0) {
    const ssize_t n = pread(fd_, at, bytes, static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) throw InputError(text("cannot read {}: {}", path_.string(), reason()));
    if (n == 0)
      throw InputError(
          text("{} has become shorter since it was opened: {} bytes at {} are missing; put the whole file "
               "back and start again",
               path_.string(), bytes, offset));
    at += n;
    offset += static_cast<uint64_t>(n);
    bytes -= static_cast<size_t>(n);
  }
}

void MappedFile::release(size_t offset, size_t size) const {
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  const size_t begin = offset / page * page;
  const size_t end = std::min(size_, (offset + size + page - 1) / page * page);
  if (begin < end) madvise(const_cast<std::byte*>(data_) + begin, end - begin, MADV_DONTNEED);
}

AtomicFile::AtomicFile(const fs::path& path) : path_(path) {
  static std::atomic<unsigned> counter{0};
  std::error_code error;
  if (path.has_parent_path()) fs::create_directories(path.parent_path(), error);
  temporary_ = path;
  temporary_ += "." + std::to_string(getpid()) + "." + std::to_string(counter++) + ".tmp";
  fd_ = open(temporary_.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd_ < 0) throw MachineError(text("cannot create {}: {}", temporary_.string(), reason()));
}

AtomicFile::~AtomicFile() {
  if (fd_ < 0) return;
  close(fd_);
  unlink(temporary_.c_str());
}

void AtomicFile::fail(const char* action) const {
  if (errno == ENOSPC || errno == EDQUOT)
    throw MachineError(
        text("the disk is full at {} ({} bytes written): free some space and run the same command again",
             path_.string(), size_));
  throw MachineError(text("cannot {} {}: {}", action, path_.string(), reason()));
}

void AtomicFile::write(const void* data, size_t size) {
  write_at(size_, data, size);
  size_ += size;
  unsynced_ += size;
  if (unsynced_ >= kSyncDistance) {
    if (fdatasync(fd_) != 0) fail("write");
    unsynced_ = 0;
  }
}

void AtomicFile::write_at(uint64_t offset, const void* data, size_t size) {
  const char* from = static_cast<const char*>(data);
  while (size > 0) {
    const ssize_t n = pwrite(fd_, from, size, static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail("write");
    from += n;
    offset += static_cast<uint64_t>(n);
    size -= static_cast<size_t>(n);
  }
}

void AtomicFile::commit() {
  if (fsync(fd_) != 0) fail("sync");
  if (close(std::exchange(fd_, -1)) != 0 || rename(temporary_.c_str(), path_.c_str()) != 0) {
    const int why = errno;
    unlink(temporary_.c_str());
    errno = why;
    fail("rename");
  }
  // The rename itself must survive a power cut too.
  const fs::path folder = path_.has_parent_path() ? path_.parent_path() : fs::path(".");
  const int folder_fd = open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (folder_fd >= 0) {
    fsync(folder_fd);
    close(folder_fd);
  }
}

void write_file(const fs::path& path, std::string_view bytes) {
  AtomicFile file(path);
  file.write(bytes);
  file.commit();
}

void duplicate_file(const fs::path& from, const fs::path& to) {
  std::ifstream in(from, std::ios::binary);
  if (!in) throw InputError(text("cannot read {}: {}", from.string(), reason()));
  AtomicFile file(to);
  std::string buffer(kCopyBytes, '\0');
  while (in.read(buffer.data(), static_cast<std::streamsize>(buffer.size())) || in.gcount() > 0)
    file.write(buffer.data(), static_cast<size_t>(in.gcount()));
  if (in.bad()) throw InputError(text("cannot read {}: {}", from.string(), reason()));
  file.commit();
}

uint64_t free_disk_bytes(const fs::path& path) {
  fs::path at = fs::absolute(path);
  std::error_code error;
  while (!fs::exists(at, error) && at != at.root_path()) at = at.parent_path();
  const fs::space_info space = fs::space(at, error);
  if (error)
    throw MachineError(text("cannot ask for the free space at {}: {}", at.string(), error.message()));
  return space.available;
}

Sha256::Sha256() : context_(EVP_MD_CTX_new()) {
  ONGGI_CHECK(context_ != nullptr &&
              EVP_DigestInit_ex(static_cast<EVP_MD_CTX*>(context_), EVP_sha256(), nullptr) == 1);
}

Sha256::~Sha256() { EVP_MD_CTX_free(static_cast<EVP_MD_CTX*>(context_)); }

void Sha256::update(const void* data, size_t size) {
  ONGGI_CHECK(EVP_DigestUpdate(static_cast<EVP_MD_CTX*>(context_), data, size) == 1);
}

std::string Sha256::hex() {
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned int size = 0;
  ONGGI_CHECK(EVP_DigestFinal_ex(static_cast<EVP_MD_CTX*>(context_), digest, &size) == 1);
  std::string hex;
  for (unsigned int i = 0; i < size; ++i) hex += fmt::format("{:02x}", digest[i]);
  return hex;
}

std::string sha256_hex(std::string_view bytes) {
  Sha256 hash;
  hash.update(bytes.data(), bytes.size());
  return hash.hex();
}

std::string sha256_hex_of_file(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) throw InputError(text("cannot read {}: {}", path.string(), reason()));
  Sha256 hash;
  std::string buffer(kCopyBytes, '\0');
  while (in.read(buffer.data(), static_cast<std::streamsize>(buffer.size())) || in.gcount() > 0)
    hash.update(buffer.data(), static_cast<size_t>(in.gcount()));
  return hash.hex();
}

}  // namespace onggi
