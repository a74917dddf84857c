// The hub's cache layout on disk (hub.h shows it).
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

namespace onggi::hub {

namespace fs = std::filesystem;

// Whether a text may be what it says it is; everything that becomes a path passes one of these, since it
// comes from a server or a user.
bool is_repository_id(std::string_view id);  // "name" or "org/name"
bool is_commit(std::string_view text);       // 40 hexadecimal digits
bool is_revision(std::string_view text);     // branch, tag or commit, slashes allowed
bool is_etag(std::string_view text);
bool is_file_name(std::string_view path);  // relative, no ".." or empty segment

class RepositoryCache {
 public:
  // `id` must be a repository id.
  RepositoryCache(fs::path cache_dir, const std::string& id);

  fs::path snapshot(const std::string& commit) const { return root_ / "snapshots" / commit; }
  fs::path blob(const std::string& etag) const { return root_ / "blobs" / etag; }
  fs::path incomplete(const std::string& etag) const { return root_ / "blobs" / (etag + ".incomplete"); }
  fs::path lock(const std::string& etag) const { return locks_ / (etag + ".lock"); }

  // The commit that a branch, tag or commit means, as far as the cache knows.
  std::optional<std::string> commit_of(const std::string& revision) const;
  void write_ref(const std::string& revision, const std::string& commit) const;

  // Makes the snapshot's entry for `file`: a relative link to the blob, or the blob itself moved there on a
  // file system without links.
  void link(const std::string& commit, const std::string& file, const std::string& etag) const;

 private:
  fs::path root_;
  fs::path locks_;
};

// An exclusive flock on a file, as Python's filelock takes it; waits while another process holds it.
class FileLock {
 public:
  explicit FileLock(const fs::path& path);
  FileLock(const FileLock&) = delete;
  FileLock& operator=(const FileLock&) = delete;
  ~FileLock();

 private:
  int fd_;
};

}  // namespace onggi::hub
