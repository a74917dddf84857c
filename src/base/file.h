// Files: whole reads, memory maps, and writes that are either complete or absent.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

namespace onggi {

namespace fs = std::filesystem;

// The whole file as bytes. Throws InputError when it cannot be read or is larger than max_bytes.
std::string read_file(const fs::path& path, uint64_t max_bytes = uint64_t{1} << 31);

// A read-only map of a file. Movable; the map lives as long as the object.
class MappedFile {
 public:
  MappedFile() = default;
  // Throws InputError when the file cannot be opened or mapped.
  explicit MappedFile(const fs::path& path);
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();

  std::span<const std::byte> bytes() const { return {data_, size_}; }
  const fs::path& path() const { return path_; }
  // Copies bytes [offset, offset + bytes) from the file itself instead of the map: pages that are used once
  // need not be mapped for it. Safe from several threads. Throws InputError where the file has become shorter
  // or cannot be read.
  void read(uint64_t offset, void* to, size_t bytes) const;
  // Tells the kernel that these pages will not be needed soon, so that streaming does not grow resident
  // memory.
  void release(size_t offset, size_t size) const;

 private:
  fs::path path_;
  int fd_ = -1;
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
};

// Writes a file under a temporary name in the same folder; commit() syncs it and renames it into place.
// Without commit() the destructor removes the temporary file, so that a failed write leaves nothing behind.
class AtomicFile {
 public:
  // Creates missing folders. Throws MachineError when the folder cannot be written.
  explicit AtomicFile(const fs::path& path);
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;
  ~AtomicFile();

  // Appends at the end. Throws MachineError on a full disk, naming the file and what is missing.
  void write(const void* data, size_t size);
  void write(std::string_view bytes) { write(bytes.data(), bytes.size()); }
  // Overwrites bytes that were written before (a header whose values are known only at the end).
  void write_at(uint64_t offset, const void* data, size_t size);
  uint64_t size() const { return size_; }
  void commit();

 private:
  void fail(const char* action) const;

  fs::path path_;
  fs::path temporary_;
  int fd_ = -1;
  uint64_t size_ = 0;
  uint64_t unsynced_ = 0;
};

// A small file in one call, atomically.
void write_file(const fs::path& path, std::string_view bytes);
// A copy, byte for byte, atomically. Named apart from std::filesystem::copy_file, which is neither.
void duplicate_file(const fs::path& from, const fs::path& to);

// Free bytes for this user on the file system of path (or of its nearest existing parent).
uint64_t free_disk_bytes(const fs::path& path);

// SHA-256 in lower-case hexadecimal.
std::string sha256_hex(std::string_view bytes);
// The same of a file, streamed.
std::string sha256_hex_of_file(const fs::path& path);

// SHA-256 of bytes that arrive in pieces.
class Sha256 {
 public:
  Sha256();
  Sha256(const Sha256&) = delete;
  Sha256& operator=(const Sha256&) = delete;
  ~Sha256();
  void update(const void* data, size_t size);
  std::string hex();

 private:
  void* context_;
};

}  // namespace onggi
