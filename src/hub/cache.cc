#include "hub/cache.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <thread>

#include "base/error.h"
#include "base/file.h"
#include "base/process.h"
#include "base/text.h"

namespace onggi::hub {

namespace {

bool all_of(std::string_view text, std::string_view extra) {
  return std::all_of(text.begin(), text.end(), [&](char c) {
    const auto byte = static_cast<unsigned char>(c);
    return (byte < 0x80 && std::isalnum(byte) != 0) || extra.find(c) != std::string_view::npos;
  });
}

// Calls accept(segment) for each part between slashes; false as soon as one is refused.
template <typename Accept>
bool all_segments(std::string_view path, const Accept& accept) {
  while (true) {
    const size_t slash = path.find('/');
    if (!accept(path.substr(0, slash))) return false;
    if (slash == std::string_view::npos) return true;
    path.remove_prefix(slash + 1);
  }
}

bool is_plain_segment(std::string_view segment) {
  return !segment.empty() && segment != "." && segment != ".." &&
         std::none_of(segment.begin(), segment.end(),
                      [](unsigned char c) { return c < 0x20 || c == 0x7f || c == '\\' || c == ':'; });
}

}  // namespace

bool is_repository_id(std::string_view id) {
  constexpr size_t kLongest = 96;  // the hub's own bound
  if (id.empty() || id.size() > kLongest || std::count(id.begin(), id.end(), '/') > 1) return false;
  // "--" separates org and name in the cache, so no name has it.
  if (id.find("--") != std::string_view::npos || id.find("..") != std::string_view::npos) return false;
  return all_segments(id, [](std::string_view part) {
    return !part.empty() && all_of(part, "-_.") && part.front() != '-' && part.front() != '.' &&
           part.back() != '-' && part.back() != '.';
  });
}

bool is_commit(std::string_view text) {
  return text.size() == 40 && std::all_of(text.begin(), text.end(), [](unsigned char c) {
           return std::isdigit(c) != 0 || (c >= 'a' && c <= 'f');
         });
}

bool is_revision(std::string_view text) { return text.size() <= 200 && all_segments(text, is_plain_segment); }

bool is_etag(std::string_view text) {
  return !text.empty() && text.size() <= 128 && all_of(text, "-_.") && text.front() != '.';
}

bool is_file_name(std::string_view path) {
  return path.size() <= 1024 && all_segments(path, is_plain_segment);
}

RepositoryCache::RepositoryCache(fs::path cache_dir, const std::string& id) {
  ONGGI_CHECK(is_repository_id(id), id);
  std::string folder = "models--" + id;
  if (const size_t slash = folder.find('/'); slash != std::string::npos) folder.replace(slash, 1, "--");
  root_ = cache_dir / folder;
  locks_ = cache_dir / ".locks" / folder;
}

std::optional<std::string> RepositoryCache::commit_of(const std::string& revision) const {
  if (is_commit(revision)) return revision;
  const fs::path ref = root_ / "refs" / revision;
  std::error_code ignored;
  if (!is_revision(revision) || !fs::is_regular_file(ref, ignored)) return std::nullopt;
  std::string commit = read_file(ref, 4096);
  while (!commit.empty() && std::isspace(static_cast<unsigned char>(commit.back())) != 0) commit.pop_back();
  if (!is_commit(commit)) return std::nullopt;
  return commit;
}

void RepositoryCache::write_ref(const std::string& revision, const std::string& commit) const {
  if (is_commit(revision)) return;  // a commit means itself
  write_file(root_ / "refs" / revision, commit);
}

void RepositoryCache::link(const std::string& commit, const std::string& file,
                           const std::string& etag) const {
  const fs::path pointer = snapshot(commit) / file;
  fs::path target = fs::path("..") / ".." / "blobs" / etag;
  for (auto depth = std::count(file.begin(), file.end(), '/'); depth > 0; --depth)
    target = fs::path("..") / target;
  std::error_code error;
  if (fs::read_symlink(pointer, error) == target) return;
  fs::create_directories(pointer.parent_path());
  fs::remove(pointer, error);
  fs::create_symlink(target, pointer, error);
  if (error) fs::rename(blob(etag), pointer);  // no links on this file system
}

FileLock::FileLock(const fs::path& path) {
  std::error_code error;
  fs::create_directories(path.parent_path(), error);
  fd_ = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (fd_ < 0) {
    throw MachineError(text("cannot write in the model cache {}: {}", path.string(), std::strerror(errno)));
  }
  // Polled, so that Ctrl-C works while another process downloads the same file.
  while (flock(fd_, LOCK_EX | LOCK_NB) != 0) {
    // A file system without locks (some NFS): one process alone is still safe.
    if (errno != EWOULDBLOCK && errno != EINTR) return;
    if (stop_requested()) {
      close(fd_);
      throw Interrupted(text("stopped while waiting for another download of the same model"));
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
}

FileLock::~FileLock() { close(fd_); }

}  // namespace onggi::hub
