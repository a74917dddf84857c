#include "base/file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <unistd.h>

#include <fstream>
#include <string>
#include <vector>

#include "base/error.h"
#include "tests/scratch.h"

namespace onggi {
namespace {

class FileTest : public testing::Test {
 protected:
  std::vector<std::string> names() const {
    std::vector<std::string> result;
    for (const auto& entry : fs::recursive_directory_iterator(folder_))
      if (!entry.is_directory()) result.push_back(entry.path().filename().string());
    return result;
  }

  TemporaryFolder temporary_;
  const fs::path folder_ = temporary_.path();
};

TEST_F(FileTest, CommitPutsTheWholeFileInPlace) {
  const fs::path path = folder_ / "new" / "folder" / "file.bin";
  AtomicFile file(path);
  file.write("header--");
  file.write("body");
  file.write_at(0, "HEADER", 6);
  EXPECT_EQ(file.size(), 12u);
  EXPECT_FALSE(fs::exists(path));
  file.commit();
  EXPECT_EQ(read_file(path), "HEADER--body");
  EXPECT_THAT(names(), testing::ElementsAre("file.bin"));
}

TEST_F(FileTest, AMappedFileIsReadWithoutItsMap) {
  const fs::path path = folder_ / "file";
  write_file(path, "0123456789");
  MappedFile file(path);
  std::string part(4, ' ');
  file.read(3, part.data(), part.size());
  EXPECT_EQ(part, "3456");
  const MappedFile moved = std::move(file);
  moved.read(6, part.data(), part.size());
  EXPECT_EQ(part, "6789");
  fs::resize_file(path, 8);
  EXPECT_THAT(message_of<InputError>([&] { moved.read(6, part.data(), part.size()); }),
              testing::HasSubstr(path.string() + " has become shorter since it was opened: 2 bytes at 8"));
}

TEST_F(FileTest, WithoutCommitTheOldFileStaysAndNothingIsLeftBehind) {
  const fs::path path = folder_ / "file";
  write_file(path, "old");
  {
    AtomicFile file(path);
    file.write("half of the new");
  }
  EXPECT_EQ(read_file(path), "old");
  EXPECT_THAT(names(), testing::ElementsAre("file"));
}

TEST_F(FileTest, TwoWritersOfOneFileDoNotMix) {
  const fs::path path = folder_ / "file";
  AtomicFile first(path), second(path);
  first.write("first");
  second.write("second");
  first.commit();
  second.commit();
  EXPECT_EQ(read_file(path), "second");
  EXPECT_THAT(names(), testing::ElementsAre("file"));
}

TEST_F(FileTest, AFullDiskIsNamedAndLeavesNothingBehind) {
  if (geteuid() != 0 || mount("tmpfs", folder_.c_str(), "tmpfs", 0, "size=256k") != 0)
    GTEST_SKIP() << "needs the right to mount a small file system";
  struct Unmount {
    fs::path folder;
    ~Unmount() { umount(folder.c_str()); }
  } unmount{folder_};
  const fs::path path = folder_ / "file";
  const std::string block(64 * 1024, 'x');
  const auto fill = [&] {
    AtomicFile file(path);
    for (int i = 0; i < 8; ++i) file.write(block);
    file.commit();
  };
  EXPECT_THAT(fill, testing::ThrowsMessage<MachineError>(testing::AllOf(testing::HasSubstr("disk is full"),
                                                                        testing::HasSubstr(path.string()))));
  EXPECT_THAT(names(), testing::IsEmpty());
  EXPECT_EQ(free_disk_bytes(folder_), 256u * 1024);
  write_file(path, block);  // what fits still works
  EXPECT_EQ(read_file(path), block);
}

TEST_F(FileTest, AFolderThatCannotBeWrittenIsAMachineError) {
  write_file(folder_ / "plain", "x");
  EXPECT_THROW(AtomicFile(folder_ / "plain" / "below"), MachineError);
}

TEST_F(FileTest, ReadingWhatIsMissingTooLargeOrAFolderIsAnInputError) {
  write_file(folder_ / "ten", "0123456789");
  EXPECT_EQ(read_file(folder_ / "ten", 10), "0123456789");
  EXPECT_THROW(read_file(folder_ / "ten", 9), InputError);
  EXPECT_THROW(read_file(folder_ / "missing"), InputError);
  EXPECT_THROW(read_file(folder_), InputError);
  EXPECT_THROW(MappedFile(folder_ / "missing"), InputError);
  EXPECT_THROW(MappedFile{folder_}, InputError);
}

TEST_F(FileTest, AMapShowsTheBytesAndSurvivesAMove) {
  write_file(folder_ / "file", "mapped");
  write_file(folder_ / "empty", "");
  MappedFile first(folder_ / "file");
  const MappedFile second = std::move(first);
  ASSERT_EQ(second.bytes().size(), 6u);
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(second.bytes().data()), 6), "mapped");
  second.release(0, 6);
  EXPECT_EQ(static_cast<char>(second.bytes()[5]), 'd');  // released pages come back from the file
  EXPECT_TRUE(MappedFile(folder_ / "empty").bytes().empty());
}

TEST_F(FileTest, CopiesByteForByte) {
  std::string bytes(3'000'001, '\0');
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<char>(i * 131 >> 3);
  write_file(folder_ / "from", bytes);
  duplicate_file(folder_ / "from", folder_ / "to");
  EXPECT_TRUE(read_file(folder_ / "to") == bytes);
  EXPECT_THROW(duplicate_file(folder_ / "missing", folder_ / "to"), InputError);
}

// FIPS 180-4's examples (one block, two blocks) and the empty message.
TEST_F(FileTest, Sha256KnownAnswers) {
  EXPECT_EQ(sha256_hex(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(sha256_hex("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  const std::string two_blocks = "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq";
  const std::string digest = "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1";
  EXPECT_EQ(sha256_hex(two_blocks), digest);
  Sha256 pieces;
  for (const char letter : two_blocks) pieces.update(&letter, 1);
  EXPECT_EQ(pieces.hex(), digest);
  write_file(folder_ / "file", two_blocks);
  EXPECT_EQ(sha256_hex_of_file(folder_ / "file"), digest);
}

}  // namespace
}  // namespace onggi
