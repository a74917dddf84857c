#include "hub/hub.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include "base/error.h"
#include "base/file.h"
#include "hub/cache.h"
#include "tests/hub/fake_hub.h"
#include "tests/scratch.h"

namespace onggi {
namespace {

using ::testing::HasSubstr;
using testing_hub::FakeHub;
using testing_hub::Fault;
using testing_hub::kCommit;

// Bytes without a pattern that a wrong offset would hide.
std::string noise(size_t size) {
  std::string out(size, '\0');
  uint32_t state = 12345;
  for (char& c : out) c = static_cast<char>((state = state * 1664525 + 1013904223) >> 24);
  return out;
}

// `git hash-object` of each text.
const std::string kConfig = "{\"model_type\": \"qwen3\"}\n";
const std::string kConfigBlob = "bf71790119320bcfe5efcf174c4e380ace65ad4b";
const std::string kTokenizer = "{}\n";
const std::string kTokenizerBlob = "0967ef424bce6791893e9a57bb952f80fd536e93";

class HubTest : public ::testing::Test {
 protected:
  HubTest() {
    hub_.add_git("config.json", kConfig, kConfigBlob);
    hub_.add_git("tokenizer.json", kTokenizer, kTokenizerBlob);
    hub_.add_lfs("model.safetensors", weights_);
    hub_.add_lfs("pytorch_model.bin", "not needed");
    hub_.add_lfs("onnx/model.json", "not needed");
    options_.endpoint = hub_.endpoint();
    options_.cache_dir = cache_;
    options_.retry_base_seconds = 0.01;
    options_.max_retries = 3;
  }

  ModelLocation resolve() { return resolve_model("Qwen/Tiny", "main", options_); }
  std::string input_error() {
    try {
      resolve();
    } catch (const InputError& error) {
      return error.what();
    }
    ADD_FAILURE() << "no InputError";
    return "";
  }
  fs::path root() const { return cache_ / "models--Qwen--Tiny"; }
  fs::path incomplete() const { return root() / "blobs" / (sha256_hex(weights_) + ".incomplete"); }

  FakeHub hub_;
  TemporaryFolder temporary_;
  const fs::path cache_ = temporary_.path();
  HubOptions options_;
  const std::string weights_ = noise(300000);
};

TEST_F(HubTest, FillsTheHubsCacheLayout) {
  const ModelLocation location = resolve();
  EXPECT_EQ(location.source, ModelLocation::Source::kHub);
  EXPECT_EQ(location.commit, kCommit);
  EXPECT_EQ(location.folder, root() / "snapshots" / kCommit);
  EXPECT_EQ(location.downloaded_bytes, weights_.size() + kConfig.size() + kTokenizer.size());
  EXPECT_EQ(read_file(root() / "refs/main"), kCommit);
  EXPECT_EQ(fs::read_symlink(location.folder / "model.safetensors"), "../../blobs/" + sha256_hex(weights_));
  EXPECT_EQ(fs::read_symlink(location.folder / "config.json"), "../../blobs/" + kConfigBlob);
  EXPECT_EQ(read_file(location.folder / "model.safetensors"), weights_);
  EXPECT_EQ(read_file(location.folder / "config.json"), kConfig);
  EXPECT_FALSE(fs::exists(location.folder / "pytorch_model.bin"));
  EXPECT_FALSE(fs::exists(location.folder / "onnx"));
  EXPECT_FALSE(fs::exists(incomplete()));
  EXPECT_TRUE(hub_.seen("GET", "pytorch_model.bin").empty());
}

TEST_F(HubTest, ASecondCallAsksOnlyForTheRevision) {
  resolve();
  const size_t before = hub_.request_count();
  const ModelLocation again = resolve();
  EXPECT_EQ(again.source, ModelLocation::Source::kCache);
  EXPECT_EQ(again.downloaded_bytes, 0u);
  EXPECT_EQ(hub_.request_count(), before + 1);
}

TEST_F(HubTest, ABrokenDownloadGoesOnAtTheByte) {
  hub_.order("model.safetensors", {.cut_after = 100000});
  const ModelLocation location = resolve();
  EXPECT_EQ(read_file(location.folder / "model.safetensors"), weights_);
  const auto requests = hub_.seen("GET", "model.safetensors");
  ASSERT_EQ(requests.size(), 4u);  // hub and CDN, twice
  EXPECT_EQ(requests[1].range, "");
  EXPECT_EQ(requests[3].server, "cdn");
  EXPECT_EQ(requests[3].range, "bytes=100000-");
  EXPECT_EQ(location.downloaded_bytes, weights_.size() + kConfig.size() + kTokenizer.size());
}

TEST_F(HubTest, ALaterCallGoesOnAtTheByte) {
  write_file(incomplete(), weights_.substr(0, 123456));
  const ModelLocation location = resolve();
  EXPECT_EQ(read_file(location.folder / "model.safetensors"), weights_);
  EXPECT_EQ(hub_.seen("GET", "model.safetensors").back().range, "bytes=123456-");
  EXPECT_EQ(location.downloaded_bytes, weights_.size() - 123456 + kConfig.size() + kTokenizer.size());
}

TEST_F(HubTest, AFinishedPartIsOnlyChecked) {
  write_file(incomplete(), weights_);
  resolve();
  EXPECT_TRUE(hub_.seen("GET", "model.safetensors").empty());
}

TEST_F(HubTest, ADamagedPartIsFoundAndFetchedAgain) {
  std::string damaged = weights_.substr(0, 50000);
  damaged[7] ^= 1;
  write_file(incomplete(), damaged);
  EXPECT_EQ(read_file(resolve().folder / "model.safetensors"), weights_);
}

TEST_F(HubTest, AServerWithoutRangesSendsAllAgain) {
  write_file(incomplete(), weights_.substr(0, 50000));
  hub_.order("model.safetensors", {.ignore_range = true});
  EXPECT_EQ(read_file(resolve().folder / "model.safetensors"), weights_);
}

TEST_F(HubTest, WrongContentsOnceAreFetchedAgain) {
  hub_.order("model.safetensors", {.flip_a_byte = true});
  EXPECT_EQ(read_file(resolve().folder / "model.safetensors"), weights_);
}

TEST_F(HubTest, WrongContentsTwiceAreRefused) {
  hub_.order("model.safetensors", {.flip_a_byte = true});
  hub_.order("model.safetensors", {.flip_a_byte = true});
  EXPECT_THAT(input_error(), HasSubstr("model.safetensors"));
  EXPECT_FALSE(fs::exists(root() / "blobs" / sha256_hex(weights_)));
  EXPECT_FALSE(fs::exists(root() / "refs/main"));
}

TEST_F(HubTest, SmallFilesAreCheckedByGitsHash) {
  hub_.order("config.json", {.flip_a_byte = true});
  hub_.order("config.json", {.flip_a_byte = true});
  EXPECT_THAT(input_error(), HasSubstr("config.json"));
}

TEST_F(HubTest, PassingTroublesAreWaitedOut) {
  hub_.order("model.safetensors", {.status = 503});
  hub_.order("model.safetensors", {.status = 429, .retry_after = "1"});
  hub_.order("model.safetensors", {.status = 403});  // a signed address that has expired
  const auto start = std::chrono::steady_clock::now();
  EXPECT_EQ(read_file(resolve().folder / "model.safetensors"), weights_);
  EXPECT_GE(std::chrono::steady_clock::now() - start, std::chrono::seconds(1));  // Retry-After was kept
}

TEST_F(HubTest, GivesUpAfterTheLastRetryAndSaysThatItGoesOnLater) {
  for (int i = 0; i < 4; ++i) hub_.order("model.safetensors", {.status = 500});
  EXPECT_THAT(input_error(), HasSubstr("goes on where it was"));
  EXPECT_EQ(hub_.seen("GET", "model.safetensors").size(), 8u);
}

TEST_F(HubTest, BytesThatComeResetTheCountOfRetries) {
  for (int i = 1; i <= 6; ++i) hub_.order("model.safetensors", {.cut_after = 40000});
  EXPECT_EQ(read_file(resolve().folder / "model.safetensors"), weights_);
}

TEST_F(HubTest, TheTokenStaysWithTheHub) {
  hub_.required_token = options_.token = "hf_secret";
  resolve();
  for (const auto& request : hub_.seen("GET", "model.safetensors")) {
    EXPECT_EQ(request.authorization, request.server == "hub" ? "Bearer hf_secret" : "") << request.server;
  }
  EXPECT_EQ(hub_.seen("GET", "model.safetensors").size(), 2u);
}

TEST_F(HubTest, SaysWhatToDoAboutAccess) {
  hub_.required_token = "hf_secret";
  EXPECT_THAT(input_error(), HasSubstr("HF_TOKEN"));
  hub_.required_token = "";
  hub_.api_status = 403, hub_.api_error_code = "GatedRepo";
  EXPECT_THAT(input_error(), HasSubstr("gated"));
  hub_.api_status = 404, hub_.api_error_code = "RepoNotFound";
  EXPECT_THAT(input_error(), HasSubstr("no model Qwen/Tiny"));
  hub_.api_error_code = "RevisionNotFound";
  EXPECT_THAT(input_error(), HasSubstr("no revision main"));
}

TEST_F(HubTest, SizesMayBeMissingInTheApi) {
  hub_.api_has_sizes = false;
  EXPECT_EQ(read_file(resolve().folder / "model.safetensors"), weights_);
}

TEST_F(HubTest, OfflineUsesTheCacheAlone) {
  options_.offline = true;
  EXPECT_THAT(input_error(), HasSubstr("HF_HUB_OFFLINE"));
  EXPECT_EQ(hub_.request_count(), 0u);
  options_.offline = false;
  resolve();
  const size_t before = hub_.request_count();
  options_.offline = true;
  EXPECT_EQ(resolve().source, ModelLocation::Source::kCache);
  EXPECT_EQ(hub_.request_count(), before);
  EXPECT_EQ(find_local_model("Qwen/Tiny", kCommit, cache_)->folder, root() / "snapshots" / kCommit);
  EXPECT_EQ(find_local_model("Qwen/Other", "main", cache_), std::nullopt);
}

TEST_F(HubTest, WithoutConnectionACompleteCacheWillDo) {
  resolve();
  options_.endpoint = "http://127.0.0.1:1";
  options_.max_retries = 0;
  EXPECT_EQ(resolve().source, ModelLocation::Source::kCache);
  fs::remove(root() / "snapshots" / kCommit / "model.safetensors");
  EXPECT_THAT(input_error(), HasSubstr("cannot download Qwen/Tiny"));
}

TEST_F(HubTest, ReportsProgress) {
  HubProgress last;
  options_.progress = [&](const HubProgress& progress) {
    EXPECT_GE(progress.done_bytes, last.done_bytes);
    last = progress;
  };
  resolve();
  EXPECT_EQ(last.done_bytes, last.total_bytes);
  EXPECT_EQ(last.total_bytes, weights_.size() + kConfig.size() + kTokenizer.size());
  EXPECT_EQ(last.files_done, 3);
  EXPECT_EQ(last.files, 3);
}

TEST_F(HubTest, AModelWithoutSafetensorsIsRefusedBeforeAnyDownload) {
  FakeHub other;
  other.add_git("config.json", kConfig, kConfigBlob);
  other.add_lfs("pytorch_model.bin", "weights");
  options_.endpoint = other.endpoint();
  EXPECT_THAT(input_error(), HasSubstr("safetensors"));
  EXPECT_TRUE(other.seen("GET", "config.json").empty());
}

TEST_F(HubTest, ADiskThatIsTooSmallIsKnownFirst) {
  FakeHub other;
  other.add_git("config.json", kConfig, kConfigBlob);
  other.add_lfs("model.safetensors", weights_);
  other.claimed_size = 900'000'000'000'000;  // 900 TB
  options_.endpoint = other.endpoint();
  EXPECT_THROW(resolve(), MachineError);
  EXPECT_TRUE(other.seen("GET", "model.safetensors").empty());
}

TEST_F(HubTest, FoldersComeFirst) {
  const ModelLocation location = resolve_model("models/onggi-mini", "main", options_);
  EXPECT_EQ(location.source, ModelLocation::Source::kFolder);
  EXPECT_EQ(location.folder, "models/onggi-mini");
  EXPECT_THROW(resolve_model("src", "main", options_), InputError);
  EXPECT_THROW(resolve_model("no/such/folder", "main", options_), InputError);
  EXPECT_THROW(resolve_model("Qwen/Tiny", "../x", options_), UsageError);
  EXPECT_EQ(hub_.request_count(), 0u);
  EXPECT_TRUE(model_folder_is_complete("models/onggi-mini"));
  EXPECT_FALSE(model_folder_is_complete("src"));
}

TEST(HubNames, WhatMayBecomeAPath) {
  for (const char* good : {"gpt2", "Qwen/Qwen3-8B", "a/b.c_d"})
    EXPECT_TRUE(hub::is_repository_id(good)) << good;
  for (const char* bad :
       {"", "/", "a/", "/a", "a/b/c", "..", "a/..", "a--b/c", "-a/b", "a b", "a/b\n", "가/나"}) {
    EXPECT_FALSE(hub::is_repository_id(bad)) << bad;
  }
  for (const char* good : {"config.json", "a/b.json"}) EXPECT_TRUE(hub::is_file_name(good)) << good;
  for (const char* bad : {"", "/etc/passwd", "../x", "a/../b", "a//b", "a\\b", "a\nb", "C:x"}) {
    EXPECT_FALSE(hub::is_file_name(bad)) << bad;
  }
  EXPECT_FALSE(hub::is_etag("../x"));
  EXPECT_FALSE(hub::is_etag(".."));
  EXPECT_TRUE(hub::is_revision("refs/pr/1"));
}

class Environment : public ::testing::Test {
 protected:
  void SetUp() override {
    for (const char* name : {"HF_ENDPOINT", "HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_TOKEN",
                             "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH", "HF_HUB_OFFLINE", "XDG_CACHE_HOME"}) {
      unsetenv(name);
    }
    setenv("HOME", "/nonexistent", 1);
  }
};

TEST_F(Environment, DefaultsAreHuggingFaces) {
  const HubOptions options = hub_options_from_environment();
  EXPECT_EQ(options.endpoint, "https://huggingface.co");
  EXPECT_EQ(options.cache_dir, "/nonexistent/.cache/huggingface/hub");
  EXPECT_EQ(options.token, "");
  EXPECT_FALSE(options.offline);
}

TEST_F(Environment, VariablesAreHeard) {
  setenv("HF_ENDPOINT", "http://mirror.example/", 1);
  setenv("HF_HUB_OFFLINE", "true", 1);
  setenv("HF_TOKEN", " hf_x\n", 1);
  setenv("HF_HOME", "/hf", 1);
  HubOptions options = hub_options_from_environment();
  EXPECT_EQ(options.endpoint, "http://mirror.example");
  EXPECT_TRUE(options.offline);
  EXPECT_EQ(options.token, "hf_x");
  EXPECT_EQ(options.cache_dir, "/hf/hub");
  setenv("HF_HUB_CACHE", "/elsewhere", 1);
  EXPECT_EQ(hub_options_from_environment().cache_dir, "/elsewhere");
  EXPECT_EQ(hub_options_from_environment("auto", "/mine").cache_dir, "/mine");
  setenv("HF_TOKEN", "a\r\nX-Evil: 1", 1);
  EXPECT_THROW(hub_options_from_environment(), UsageError);
  setenv("HF_TOKEN", "a", 1);
  EXPECT_THROW(hub_options_from_environment("ftp://x"), UsageError);
}

}  // namespace
}  // namespace onggi
