#include "hub/hub.h"

#include <atomic>
#include <condition_variable>
#include <deque>
#include <exception>
#include <mutex>
#include <nlohmann/json.hpp>
#include <thread>

#include "base/clock.h"
#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "base/process.h"
#include "base/text.h"
#include "hub/cache.h"
#include "hub/download.h"
#include "hub/repository.h"

namespace onggi {

namespace {

using hub::HttpClient;
using hub::HubUnreachable;
using hub::RemoteAddress;
using hub::RemoteFile;
using hub::RemoteModel;
using hub::RepositoryCache;

// Spare bytes left on the disk beyond what is downloaded.
constexpr uint64_t kDiskReserve = 64 << 20;
constexpr auto kTick = std::chrono::milliseconds(200);

// Runs work(item, client, failed) for items 0 .. n-1 on a few threads, each with its own connections, and
// tick() on the caller's thread now and then. The first exception ends the others (`failed` turns true) and
// is thrown here.
class ParallelRequests {
 public:
  ParallelRequests(int threads, const hub::HttpTimeouts& timeouts) : threads_(threads), timeouts_(timeouts) {}

  bool failed() const { return failed_; }

  void run(size_t n, const std::function<void(size_t, HttpClient&)>& work,
           const std::function<void()>& tick) {
    next_ = 0, n_ = n;
    std::vector<std::thread> workers;
    running_ = static_cast<int>(std::min<size_t>(n, static_cast<size_t>(threads_)));
    for (int i = running_; i > 0; --i) workers.emplace_back([&] { worker(work); });
    {
      std::unique_lock lock(mutex_);
      while (!done_.wait_for(lock, kTick, [&] { return running_ == 0; })) {
        lock.unlock();
        tick();
        lock.lock();
      }
    }
    for (auto& thread : workers) thread.join();
    if (failure_) std::rethrow_exception(failure_);
    tick();
  }

 private:
  void worker(const std::function<void(size_t, HttpClient&)>& work) {
    try {
      HttpClient client(timeouts_);
      for (size_t item; !failed_ && (item = next_++) < n_;) work(item, client);
    } catch (...) {
      const std::lock_guard lock(mutex_);
      if (!failure_) failure_ = std::current_exception();
      failed_ = true;
    }
    const std::lock_guard lock(mutex_);
    if (--running_ == 0) done_.notify_all();
  }

  int threads_;
  hub::HttpTimeouts timeouts_;
  std::atomic<size_t> next_{0};
  size_t n_ = 0;
  std::atomic<bool> failed_{false};
  std::mutex mutex_;
  std::condition_variable done_;
  int running_ = 0;
  std::exception_ptr failure_;
};

// Bytes per second over the last ten seconds.
class RateMeter {
 public:
  double add(uint64_t bytes) {
    constexpr double kWindow = 10;
    const double now = clock_.seconds();
    samples_.push_back({now, bytes});
    while (samples_.size() > 2 && now - samples_.front().seconds > kWindow) samples_.pop_front();
    const double span = now - samples_.front().seconds;
    return span > 0 ? static_cast<double>(bytes - samples_.front().bytes) / span : 0;
  }

 private:
  struct Sample {
    double seconds;
    uint64_t bytes;
  };
  Stopwatch clock_;
  std::deque<Sample> samples_{{0, 0}};
};

// One call of resolve_model for a model of the hub.
class Download {
 public:
  Download(const std::string& id, const std::string& revision, const HubOptions& options)
      : options_(options),
        cache_(options.cache_dir, id),
        requests_(std::max(1, options.parallel_downloads),
                  {options.connect_timeout_seconds, options.stall_timeout_seconds}),
        address_{options, id, revision, [this] { return requests_.failed() || stop_requested(); }} {}

  ModelLocation run() {
    HttpClient client({options_.connect_timeout_seconds, options_.stall_timeout_seconds});
    RemoteModel model = hub::query_model(client, address_);
    std::erase_if(model.files, [](const RemoteFile& file) { return !hub::is_needed_file(file.name); });
    check_is_usable(model);
    ModelLocation location{cache_.snapshot(model.commit), ModelLocation::Source::kCache, model.commit, 0};
    std::vector<RemoteFile> missing = missing_files(model);
    if (!missing.empty()) {
      location.source = ModelLocation::Source::kHub;
      fetch(model.commit, missing);
      location.downloaded_bytes = network_bytes_;
    }
    cache_.write_ref(address_.revision, model.commit);
    return location;
  }

 private:
  void check_is_usable(const RemoteModel& model) const {
    bool config = false, weights = false;
    for (const RemoteFile& file : model.files) {
      config = config || file.name == "config.json";
      weights = weights || file.name.ends_with(".safetensors");
    }
    if (!config || !weights) {
      throw InputError(
          text("{} has no {}: Onggi reads models in the safetensors layout, such as Qwen/Qwen3-8B",
               address_.id, config ? "*.safetensors" : "config.json"));
    }
  }

  std::vector<RemoteFile> missing_files(const RemoteModel& model) const {
    std::vector<RemoteFile> missing;
    std::error_code absent;
    for (const RemoteFile& file : model.files) {
      if (!fs::is_regular_file(cache_.snapshot(model.commit) / file.name, absent)) missing.push_back(file);
    }
    return missing;
  }

  void fetch(const std::string& commit, std::vector<RemoteFile>& files) {
    requests_.run(
        files.size(),
        [&](size_t i, HttpClient& client) { files[i] = hub::query_file(client, address_, commit, files[i]); },
        [] {});
    for (const RemoteFile& file : files) total_bytes_ += file.size.value_or(0);
    files_ = static_cast<int>(files.size());
    check_disk(files);
    const hub::DownloadTarget target{address_, cache_, commit, done_bytes_, network_bytes_};
    requests_.run(
        files.size(),
        [&](size_t i, HttpClient& client) {
          hub::download_file(client, target, files[i]);
          ++files_done_;
        },
        [&] { report(); });
  }

  void check_disk(const std::vector<RemoteFile>& files) const {
    uint64_t needed = kDiskReserve;
    for (const RemoteFile& file : files) needed += file.size.value_or(0) - hub::cached_bytes(cache_, file);
    const uint64_t free = free_disk_bytes(options_.cache_dir);
    if (needed <= free) return;
    throw MachineError(
        text("the download of {} needs {:.1f} GB and {} has {:.1f} GB free: free disk space or set "
             "HF_HUB_CACHE to another folder",
             address_.id, static_cast<double>(needed) / 1e9, options_.cache_dir.string(),
             static_cast<double>(free) / 1e9));
  }

  void report() {
    if (!options_.progress) return;
    HubProgress progress;
    progress.done_bytes = done_bytes_;
    progress.total_bytes = total_bytes_;
    progress.bytes_per_second = rate_.add(network_bytes_);
    if (progress.bytes_per_second > 0 && progress.total_bytes > progress.done_bytes) {
      progress.seconds_left =
          static_cast<double>(progress.total_bytes - progress.done_bytes) / progress.bytes_per_second;
    }
    progress.files_done = files_done_;
    progress.files = files_;
    options_.progress(progress);
  }

  const HubOptions& options_;
  RepositoryCache cache_;
  ParallelRequests requests_;
  RemoteAddress address_;
  std::atomic<uint64_t> done_bytes_{0};
  std::atomic<uint64_t> network_bytes_{0};
  std::atomic<int> files_done_{0};
  uint64_t total_bytes_ = 0;
  int files_ = 0;
  RateMeter rate_;
};

std::optional<ModelLocation> find_cached(const std::string& id, const std::string& revision,
                                         const fs::path& cache_dir) {
  if (!hub::is_repository_id(id)) return std::nullopt;
  const RepositoryCache cache(cache_dir, id);
  const auto commit = cache.commit_of(revision);
  if (!commit || !model_folder_is_complete(cache.snapshot(*commit))) return std::nullopt;
  return ModelLocation{cache.snapshot(*commit), ModelLocation::Source::kCache, *commit, 0};
}

std::optional<ModelLocation> find_folder(const std::string& model_name) {
  std::error_code absent;
  if (!fs::is_directory(model_name, absent)) return std::nullopt;
  if (!fs::is_regular_file(fs::path(model_name) / "config.json", absent)) {
    throw InputError(
        text("the folder {} has no config.json: it is no Hugging Face model folder", model_name));
  }
  return ModelLocation{model_name, ModelLocation::Source::kFolder, "", 0};
}

void check_name(const std::string& model_name, const std::string& revision) {
  if (!hub::is_repository_id(model_name)) {
    throw InputError(
        text("there is no folder {}, and it is no name of a model on the hub: check model_name", model_name));
  }
  if (!hub::is_revision(revision)) {
    throw UsageError(text("\"{}\" is no branch, tag or commit: check hub.revision", revision));
  }
}

// The files that a safetensors index names; empty where the text is no index.
std::vector<std::string> files_of_index(const std::string& text_of_json) {
  const auto index = nlohmann::json::parse(text_of_json, nullptr, /*allow_exceptions=*/false);
  std::vector<std::string> files;
  if (!index.is_object() || !index.contains("weight_map") || !index["weight_map"].is_object()) return files;
  for (const auto& file : index["weight_map"]) {
    if (file.is_string()) files.push_back(file.get<std::string>());
  }
  return files;
}

}  // namespace

bool model_folder_is_complete(const fs::path& folder) {
  std::error_code absent;
  const auto has = [&](const std::string& name) { return fs::is_regular_file(folder / name, absent); };
  if (!has("config.json") || !(has("tokenizer.json") || has("vocab.json"))) return false;
  if (!has("model.safetensors.index.json")) return has("model.safetensors");
  const auto files = files_of_index(read_file(folder / "model.safetensors.index.json", 64 << 20));
  return !files.empty() && std::all_of(files.begin(), files.end(), [&](const auto& name) {
    return hub::is_file_name(name) && has(name);
  });
}

std::optional<ModelLocation> find_local_model(const std::string& model_name, const std::string& revision,
                                              const fs::path& cache_dir) {
  if (auto folder = find_folder(model_name)) return folder;
  return find_cached(model_name, revision, cache_dir);
}

ModelLocation resolve_model(const std::string& model_name, const std::string& revision,
                            const HubOptions& options) {
  if (auto folder = find_folder(model_name)) return *folder;
  check_name(model_name, revision);
  const auto cached = find_cached(model_name, revision, options.cache_dir);
  if (options.offline) {
    if (cached) return *cached;
    throw InputError(
        text("{} is not complete in {} and HF_HUB_OFFLINE is set: unset it once to download the model",
             model_name, options.cache_dir.string()));
  }
  try {
    return Download(model_name, revision, options).run();
  } catch (const HubUnreachable& problem) {
    if (cached) {
      spdlog::warn("{}",
                   text("the hub does not answer ({}); using {} from the cache", problem.what(), model_name));
      return *cached;
    }
    throw InputError(
        text("cannot download {}: {}; check the connection and run the same command again, it goes on "
             "where it was",
             model_name, problem.what()));
  } catch (const fs::filesystem_error& problem) {
    throw MachineError(text("cannot write in the model cache: {}", problem.what()));
  } catch (const hub::RequestStopped&) {
    throw Interrupted(text("stopped; the same command goes on with the download where it was"));
  }
}

}  // namespace onggi
