// What the hub says about a model: its commit and files, and each file's tag and size. Retries lie here too.
#pragma once

#include <functional>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "hub/http.h"
#include "hub/hub.h"

namespace onggi::hub {

// The hub did not answer, or kept failing, after all retries. resolve_model() falls back to the cache or
// explains.
class HubUnreachable : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

struct RemoteFile {
  std::string name;
  std::string etag;              // sha256 of LFS files, git's blob id of others; names the blob in the cache
  std::optional<uint64_t> size;  // bytes
};

struct RemoteModel {
  std::string commit;
  std::vector<RemoteFile> files;
};

// The answer of /api/models/{id}/revision/{revision}?blobs=true. Throws InputError for anything else.
RemoteModel parse_remote_model(const std::string& json);

// Whether Onggi reads such a file: weights, configuration, tokenizer, chat template.
bool is_needed_file(std::string_view name);

// One model on the hub, and how to ask about it.
struct RemoteAddress {
  const HubOptions& options;
  std::string id;
  std::string revision;
  std::function<bool()> should_stop;

  std::string resolve_url(const std::string& commit, const std::string& file) const;
};

RemoteModel query_model(HttpClient& client, const RemoteAddress& address);
// Fills in etag and size from the headers of the file's resolve address.
RemoteFile query_file(HttpClient& client, const RemoteAddress& address, const std::string& commit,
                      RemoteFile file);

// Decides about the next attempt. Pauses double from options.retry_base_seconds up to half a minute, with
// jitter so that many clients do not come back at once; a server's Retry-After wins.
class Retry {
 public:
  Retry(const HubOptions& options, int max_retries, std::function<bool()> should_stop);
  // Waits before the next attempt. Throws HubUnreachable(problem) after the last one, RequestStopped on a
  // stop.
  void wait(const std::string& problem, double retry_after_seconds = 0);
  // New bytes came: the count starts anew.
  void progressed() { attempt_ = 0; }

 private:
  const HubOptions& options_;
  int max_retries_;
  std::function<bool()> should_stop_;
  int attempt_ = 0;
};

// For statuses that pass by themselves: 408, 429, 5xx.
bool is_transient_status(long status);
// The seconds of a Retry-After header, either form; 0 where there is none; never more than five minutes.
double retry_after_seconds(const HttpResponse& response);
// One sentence and what to do, for 401, 403, 404 and the rest. `file` may be empty.
[[noreturn]] void throw_status_error(const HttpResponse& response, const RemoteAddress& address,
                                     const std::string& file);

}  // namespace onggi::hub
