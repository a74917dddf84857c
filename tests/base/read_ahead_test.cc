#include "base/read_ahead.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include "base/error.h"
#include "tests/scratch.h"

namespace onggi {
namespace {

class ReadAheadTest : public testing::Test {
 protected:
  // Every byte tells where it lies.
  static std::string content(size_t bytes) {
    std::string text(bytes, '\0');
    for (size_t i = 0; i < bytes; ++i) text[i] = static_cast<char>((i * 2654435761U) >> 11);
    return text;
  }
  fs::path file_of(const std::string& bytes) const {
    write_file(temporary_ / "file", bytes);
    return temporary_ / "file";
  }

  TemporaryFolder temporary_;
};

TEST_F(ReadAheadTest, PiecesComeInOrderWhateverTheThreadsAndBuffers) {
  const std::string bytes = content(100003);
  const MappedFile file(file_of(bytes));
  std::vector<ReadAhead::Piece> pieces;
  for (size_t at = 0, size = 1; at < bytes.size(); at += size, size = size * 7 % 1009 + 1)
    pieces.push_back({&file, at, std::min(size, bytes.size() - at)});
  for (const auto& [threads, part_bytes] : {std::pair{1, size_t{64}},
                                            {1, size_t{1} << 20},
                                            {3, size_t{1}},
                                            {3, size_t{1009}},
                                            {8, size_t{100}}}) {
    for (const size_t buffers : {size_t{1}, size_t{2}, size_t{5}}) {
      std::vector<std::vector<std::byte>> memory(buffers, std::vector<std::byte>(1010));
      ReadAhead reader(pieces, threads, part_bytes);
      reader.add_buffer(memory[0].data());
      size_t added = 1, out = 0;
      std::string got;
      for (size_t i = 0; i < pieces.size(); ++i) {
        const ReadAhead::Read read = reader.next();
        got.append(reinterpret_cast<const char*>(memory[read.buffer].data()), read.bytes);
        if (++out == added) {
          reader.give_back();
          --out;
        }
        if (added < buffers) reader.add_buffer(memory[added++].data());
      }
      ASSERT_TRUE(got == bytes) << threads << " threads, " << buffers << " buffers, parts of " << part_bytes;
    }
  }
}

TEST_F(ReadAheadTest, APieceThatIsOutIsNotOverwritten) {
  const std::string bytes = content(64 * 1000);
  const MappedFile file(file_of(bytes));
  std::vector<ReadAhead::Piece> pieces;
  for (size_t at = 0; at < bytes.size(); at += 1000) pieces.push_back({&file, at, 1000});
  std::vector<std::vector<std::byte>> memory(4, std::vector<std::byte>(1000));
  ReadAhead reader(pieces, 4);
  for (auto& buffer : memory) reader.add_buffer(buffer.data());
  std::vector<size_t> out;
  for (size_t i = 0; i < pieces.size(); ++i) {
    out.push_back(reader.next().buffer);
    if (out.size() < 3) continue;
    // The oldest of three, after others were read.
    const std::string held(reinterpret_cast<const char*>(memory[out[0]].data()), 1000);
    ASSERT_EQ(held, bytes.substr(1000 * (i - 2), 1000)) << "piece " << i - 2;
    reader.give_back();
    out.erase(out.begin());
  }
}

TEST_F(ReadAheadTest, AFileThatHasBecomeShorterIsToldAndNothingHangs) {
  const fs::path path = file_of(content(50000));
  const MappedFile file(path);
  fs::resize_file(path, 30000);
  std::vector<ReadAhead::Piece> pieces;
  for (size_t at = 0; at < 50000; at += 1000) pieces.push_back({&file, at, 1000});
  std::vector<std::byte> memory(2000);
  ReadAhead reader(pieces, 3, 300);
  reader.add_buffer(memory.data());
  reader.add_buffer(memory.data() + 1000);
  size_t taken = 0;
  const std::string message = message_of<InputError>([&] {
    for (; taken < pieces.size(); ++taken) {
      reader.next();
      reader.give_back();
    }
  });
  EXPECT_THAT(message, testing::HasSubstr(path.string()));
  EXPECT_THAT(message, testing::HasSubstr("has become shorter"));
  EXPECT_LE(taken, 30U);
}

TEST_F(ReadAheadTest, MayEndBeforeAllIsReadAndWithoutBuffers) {
  const MappedFile file(file_of(content(5000)));
  const std::vector<ReadAhead::Piece> pieces(100, {&file, 0, 5000});
  { const ReadAhead without_buffers(pieces, 3); }
  std::vector<std::byte> memory(5000);
  ReadAhead reader(pieces, 3);
  reader.add_buffer(memory.data());
  reader.next();
}

TEST_F(ReadAheadTest, TakingMoreThanThereIsIsAnError) {
  const MappedFile file(file_of(content(100)));
  std::vector<std::byte> memory(200);
  ReadAhead reader({{&file, 0, 100}}, 1);
  EXPECT_THROW(reader.next(), InternalError) << "without a buffer";
  EXPECT_THROW(reader.give_back(), InternalError);
  reader.add_buffer(memory.data());
  reader.next();
  EXPECT_THROW(reader.next(), InternalError);
}

}  // namespace
}  // namespace onggi
