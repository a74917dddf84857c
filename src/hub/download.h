// One file from the hub into the cache.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include "hub/cache.h"
#include "hub/repository.h"

namespace onggi::hub {

// Checks contents against an ETag: SHA-256 where it has 64 hexadecimal digits (LFS), git's blob id (SHA-1 of
// "blob {size}\0" and the contents) where it has 40; other tags say nothing about the contents.
class ContentHash {
 public:
  ContentHash(std::string etag, uint64_t size);
  ~ContentHash();
  void update(const void* data, size_t size);
  // Ends the hash. True also where the tag is no hash.
  bool matches();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

struct DownloadTarget {
  const RemoteAddress& address;
  const RepositoryCache& cache;
  std::string commit;
  std::atomic<uint64_t>& done_bytes;     // of the progress display; may fall where a part is discarded
  std::atomic<uint64_t>& network_bytes;  // received
};

// Puts the file into the cache and links it into the snapshot, going on where an earlier attempt stopped.
// Throws InputError (wrong contents twice, a final status), MachineError (disk), HubUnreachable,
// RequestStopped.
void download_file(HttpClient& client, const DownloadTarget& target, const RemoteFile& file);

// Bytes of the file that the cache has already, complete or not.
uint64_t cached_bytes(const RepositoryCache& cache, const RemoteFile& file);

}  // namespace onggi::hub
