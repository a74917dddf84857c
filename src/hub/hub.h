// Stage 1's download: from a model's name to a folder with its files. Speaks the Hugging Face hub's protocol
// and fills the hub's own cache layout, so that Python tools find what Onggi downloads and Onggi finds what
// they did:
//
//   {cache}/models--{org}--{name}/refs/{revision}            text: the commit
//   {cache}/models--{org}--{name}/blobs/{etag}               contents; {etag}.incomplete while downloading
//   {cache}/models--{org}--{name}/snapshots/{commit}/{file}  relative links into blobs
//   {cache}/.locks/models--{org}--{name}/{etag}.lock         flock, shared with huggingface_hub
//
// Sources: huggingface.co/docs/huggingface_hub/guides/manage-cache and the hub's HTTP API.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

namespace onggi {

struct HubProgress {
  uint64_t done_bytes = 0;      // of total_bytes, those resumed from an earlier run included
  uint64_t total_bytes = 0;     // of all files that are not in the cache yet
  double bytes_per_second = 0;  // of this run
  double seconds_left = 0;      // 0 where the rate is not known yet
  int files_done = 0;
  int files = 0;
};

struct HubOptions {
  std::string endpoint = "https://huggingface.co";  // no slash at the end
  std::filesystem::path cache_dir;
  std::string token;     // "": anonymous
  bool offline = false;  // never open a connection
  int parallel_downloads = 4;
  int max_retries = 5;              // in a row without a new byte, per file
  double retry_base_seconds = 0.5;  // first pause; it doubles with each try, with jitter
  double connect_timeout_seconds = 10;
  double stall_timeout_seconds = 30;  // without a byte
  std::function<void(const HubProgress&)>
      progress;  // called on the caller's thread, about five times a second
};

// The options that the environment asks for: HF_ENDPOINT, HF_TOKEN (or the token file), HF_HOME,
// HF_HUB_CACHE, HF_HUB_OFFLINE, XDG_CACHE_HOME. An endpoint or cache_dir other than "auto" wins over the
// environment. Throws UsageError for an endpoint that is no http(s) address.
HubOptions hub_options_from_environment(const std::string& endpoint = "auto",
                                        const std::string& cache_dir = "auto");

struct ModelLocation {
  enum class Source { kFolder, kCache, kHub };
  std::filesystem::path folder;
  Source source = Source::kFolder;
  std::string commit;             // "" for a folder of the user's
  uint64_t downloaded_bytes = 0;  // by this call
};

// The folder that holds model_name's files: itself where it is a folder with a config.json, else the hub's
// snapshot of `revision`, downloaded as far as it is missing. Where the hub cannot be reached a complete
// cached snapshot is taken (with a warning in the log). Only what Onggi reads is downloaded: top-level
// *.safetensors, *.json, *.txt, *.jinja. Sizes are checked against the free disk first, contents against
// their hashes while they arrive. Throws InputError (no such model, gated, no safetensors, broken contents,
// no connection), MachineError (disk), Interrupted (a later call goes on at the byte).
ModelLocation resolve_model(const std::string& model_name, const std::string& revision,
                            const HubOptions& options);

// The same without any connection: a folder or a complete cached snapshot; nullopt where there is neither.
std::optional<ModelLocation> find_local_model(const std::string& model_name, const std::string& revision,
                                              const std::filesystem::path& cache_dir);

// True where the folder has config.json, a tokenizer, and every weight file that its index names.
bool model_folder_is_complete(const std::filesystem::path& folder);

}  // namespace onggi
