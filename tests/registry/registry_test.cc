#include "registry/registry.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "tests/scratch.h"

namespace onggi {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class RegistryTest : public ::testing::Test {
 protected:
  RegistryTest() {
    write_file(folder_ / "a.gguf", "first");
    write_file(folder_ / "b.gguf", "second");
    write_file(folder_ / "hf/config.json", "{}");
    write_file(folder_ / "hf/sub/weights", "w");
  }

  TemporaryFolder temporary_;
  const fs::path folder_ = temporary_.path();
};

TEST_F(RegistryTest, NumbersVersionsAndKnowsTheSameBytes) {
  Registry registry(folder_ / "registry");
  const ModelVersion first = registry.add({"m", folder_ / "a.gguf", "note", R"({"base": "Qwen3"})"});
  EXPECT_EQ(first.number, 1);
  EXPECT_EQ(first.bytes, 5u);
  EXPECT_EQ(first.sha256, sha256_hex("first"));
  EXPECT_EQ(first.lineage, R"({"base":"Qwen3"})");
  EXPECT_EQ(registry.add({"m", folder_ / "b.gguf", "", "{}"}).number, 2);
  EXPECT_EQ(registry.add({"m", folder_ / "a.gguf", "", "{}"}).number, 1);
  EXPECT_EQ(registry.add({"other", folder_ / "hf", "", "{}"}).number, 1);
  EXPECT_EQ(registry.list("m").size(), 2u);
  EXPECT_EQ(registry.list().size(), 3u);
  Registry again(folder_ / "registry");  // from disk
  EXPECT_EQ(again.list("m").front().number, 2);
}

TEST_F(RegistryTest, PromotesAndRollsBack) {
  Registry registry(folder_ / "registry");
  registry.add({"m", folder_ / "a.gguf", "", "{}"});
  registry.add({"m", folder_ / "b.gguf", "", "{}"});
  EXPECT_THROW(registry.find("m", "promoted"), InputError);
  EXPECT_EQ(registry.promote("m", "1").number, 1);
  EXPECT_THROW(registry.roll_back("m"), InputError);
  EXPECT_EQ(registry.promote("m", "2").number, 2);
  EXPECT_EQ(registry.promote("m", "2").number, 2);  // once only
  EXPECT_EQ(registry.find("m", "promoted").number, 2);
  EXPECT_EQ(registry.roll_back("m").number, 1);
  EXPECT_EQ(registry.find("m", "promoted").number, 1);
  EXPECT_THROW(registry.roll_back("m"), InputError);
}

TEST_F(RegistryTest, NeverPutsChangedBytesIntoService) {
  Registry registry(folder_ / "registry");
  registry.add({"m", folder_ / "a.gguf", "", "{}"});
  registry.add({"m", folder_ / "b.gguf", "", "{}"});
  registry.promote("m", "1");
  registry.promote("m", "2");
  write_file(folder_ / "a.gguf", "changed");
  EXPECT_THROW(registry.promote("m", "1"), WorkError);
  EXPECT_THROW(registry.roll_back("m"), WorkError);
  EXPECT_EQ(registry.find("m", "promoted").number, 2) << "a failed way back changes nothing";
}

TEST_F(RegistryTest, TagsMove) {
  Registry registry(folder_ / "registry");
  registry.add({"m", folder_ / "a.gguf", "", "{}"});
  registry.add({"m", folder_ / "b.gguf", "", "{}"});
  registry.tag("m", "1", "best");
  EXPECT_THAT(registry.find("m", "best").tags, ElementsAre("best"));
  registry.tag("m", "2", "best");
  EXPECT_EQ(registry.find("m", "best").number, 2);
  for (const char* bad : {"7", "promoted", "", "a b", "../x"})
    EXPECT_THROW(registry.tag("m", "1", bad), UsageError) << bad;
  EXPECT_THROW(registry.tag("m", "9", "x"), InputError);
}

TEST_F(RegistryTest, BackupsComeBackByteForByte) {
  Registry registry(folder_ / "registry");
  registry.add({"m", folder_ / "hf", "a folder", R"({"loss": 0.1})"});
  const fs::path backup = registry.back_up("m", "1", folder_ / "backups");
  EXPECT_EQ(backup, folder_ / "backups/m-1");
  EXPECT_THROW(registry.back_up("m", "1", folder_ / "backups"), InputError);
  fs::remove_all(folder_ / "hf");
  EXPECT_THROW(registry.promote("m", "1"), InputError);
  const ModelVersion restored = registry.restore(backup, folder_ / "hf");
  EXPECT_EQ(restored.number, 1) << "the same bytes at the same place are the same version";
  EXPECT_EQ(read_file(folder_ / "hf/sub/weights"), "w");
  const ModelVersion elsewhere = registry.restore(backup, folder_ / "hf2");
  EXPECT_EQ(elsewhere.number, 2);
  EXPECT_EQ(elsewhere.note, "a folder");
  EXPECT_EQ(elsewhere.lineage, R"({"loss":0.1})");
  EXPECT_THROW(registry.restore(backup, folder_ / "hf2"), InputError);
  write_file(backup / "model/hf/sub/weights", "x");
  EXPECT_THROW(registry.restore(backup, folder_ / "hf3"), InputError);
  EXPECT_FALSE(fs::exists(folder_ / "hf3"));
}

TEST_F(RegistryTest, BadInputIsNamed) {
  Registry registry(folder_ / "registry");
  EXPECT_THROW(registry.add({"m", folder_ / "absent", "", "{}"}), InputError);
  EXPECT_THROW(registry.add({"m/../x", folder_ / "a.gguf", "", "{}"}), UsageError);
  EXPECT_THROW(registry.add({"m", folder_ / "a.gguf", "", "[]"}), UsageError);
  EXPECT_THROW(registry.find("m'; DROP TABLE versions; --", "1"), InputError);
  write_file(folder_ / "broken/registry.db", std::string(5000, 'x'));
  try {
    Registry broken(folder_ / "broken");
    FAIL() << "no database";
  } catch (const InputError& error) {
    EXPECT_THAT(error.what(), HasSubstr("registry.db"));
  }
}

}  // namespace
}  // namespace onggi
