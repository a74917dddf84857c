// Stage 1 by the program itself, from a hub on the loopback interface: killed in the middle of the download,
// it goes on at the byte, and the files are the hub's. CTest gives the program's path in ONGGI_PROGRAM.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <openssl/evp.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>

#include "base/clock.h"
#include "tests/hub/fake_hub.h"
#include "tests/scratch.h"

namespace onggi {
namespace {

using testing_hub::FakeHub;
using testing_hub::kCommit;

constexpr const char* kMini = "models/onggi-mini";

// `git hash-object`: how the hub names files that are not large.
std::string git_blob_id(const std::string& contents) {
  const std::string object = "blob " + std::to_string(contents.size()) + '\0' + contents;
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned size = 0;
  EVP_Digest(object.data(), object.size(), digest, &size, EVP_sha1(), nullptr);
  std::string hex;
  for (unsigned i = 0; i < size; ++i) {
    constexpr const char* kDigits = "0123456789abcdef";
    hex += {kDigits[digest[i] >> 4], kDigits[digest[i] & 15]};
  }
  return hex;
}

class SetupStage : public testing::Test {
 protected:
  void SetUp() override {
    if (std::getenv("ONGGI_PROGRAM") == nullptr) GTEST_SKIP() << "ONGGI_PROGRAM is not set";
    for (const auto& entry : fs::directory_iterator(kMini)) {
      const std::string name = entry.path().filename().string(), contents = read_file(entry.path());
      if (name.ends_with(".safetensors"))
        hub_.add_lfs(name, contents);
      else
        hub_.add_git(name, contents, git_blob_id(contents));
    }
  }

  pid_t start(const std::string& command) const {
    const std::string log = (folder_ / "log").string();
    const std::string line =
        "exec " + std::string(std::getenv("ONGGI_PROGRAM")) + " --lang en " + command +
        " model_name=onggi/onggi-mini model_base_name=onggi-mini hub.parallel_downloads=1" +
        " hub.endpoint=" + hub_.endpoint() + " hub.cache_dir=" + cache().string() +
        " output_dir=" + (folder_ / "out").string() + " >" + log + " 2>&1";
    const char* arguments[] = {"sh", "-c", line.c_str(), nullptr};
    pid_t child = 0;
    EXPECT_EQ(posix_spawn(&child, "/bin/sh", nullptr, nullptr, const_cast<char**>(arguments), environ), 0);
    return child;
  }
  static int wait_for_end(pid_t child) {
    int status = 0;
    waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }
  fs::path cache() const { return folder_ / "cache"; }
  // Bytes that an unfinished download of this file has.
  uint64_t unfinished(const std::string& name) const {
    const fs::path blobs = cache() / "models--onggi--onggi-mini" / "blobs";
    std::error_code missing;
    const auto size =
        fs::file_size(blobs / (sha256_hex_of_file(fs::path(kMini) / name) + ".incomplete"), missing);
    return missing ? 0 : size;
  }

  TemporaryFolder folder_;
  FakeHub hub_;
};

TEST_F(SetupStage, AfterKill9TheDownloadGoesOnAtTheByte) {
  const std::string shard = "model-00002-of-00003.safetensors";
  hub_.order(shard, {.pause = std::chrono::milliseconds(3)});
  const pid_t child = start("setup --config configs/mini.toml");
  constexpr uint64_t kEnough = 2 << 20;
  const Stopwatch watch;
  while (unfinished(shard) < kEnough && watch.seconds() < 60)
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  ASSERT_GE(unfinished(shard), kEnough) << read_file(folder_ / "log");
  kill(child, SIGKILL);
  ASSERT_EQ(wait_for_end(child), 128 + SIGKILL) << "it ended before it was killed";

  ASSERT_EQ(wait_for_end(start("run --to setup --config configs/mini.toml")), 0)
      << read_file(folder_ / "log");
  const std::string range = hub_.seen("GET", shard).back().range;
  ASSERT_TRUE(range.starts_with("bytes=")) << "the whole file was asked for again";
  EXPECT_GE(std::stoull(range.substr(6)), kEnough);
  const fs::path snapshot = cache() / "models--onggi--onggi-mini" / "snapshots" / kCommit;
  for (const auto& entry : fs::directory_iterator(kMini))
    EXPECT_EQ(sha256_hex_of_file(snapshot / entry.path().filename()), sha256_hex_of_file(entry.path()))
        << entry.path().filename();
  EXPECT_EQ(unfinished(shard), 0u);
  // Nothing is left to do.
  const size_t asked = hub_.seen("GET", shard).size();
  ASSERT_EQ(wait_for_end(start("run --to setup --config configs/mini.toml")), 0);
  EXPECT_THAT(read_file(folder_ / "log"), testing::HasSubstr("done before"));
  EXPECT_EQ(hub_.seen("GET", shard).size(), asked);
}

}  // namespace
}  // namespace onggi
