#include "cli/terminal.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <string>

#include "base/human.h"

namespace onggi {
namespace {

// A stream that is no terminal, and what was written to it.
class Captured {
 public:
  Captured() : file_(std::tmpfile()) {}
  ~Captured() { std::fclose(file_); }
  std::FILE* stream() const { return file_; }
  std::string text() const {
    std::string all(static_cast<size_t>(std::ftell(file_)), '\0');
    std::rewind(file_);
    EXPECT_EQ(std::fread(all.data(), 1, all.size(), file_), all.size());
    return all;
  }

 private:
  std::FILE* file_;
};

TEST(Terminal, HasNoColoursOffATerminal) {
  const Captured captured;
  const Terminal terminal(captured.stream());
  EXPECT_FALSE(terminal.is_terminal());
  EXPECT_EQ(terminal.paint(Colour::kRed, "x"), "x");
  EXPECT_EQ(terminal.width(), 80u);
}

TEST(Terminal, AlignsWideCharacters) {
  EXPECT_EQ(display_width("한글 ab"), 7u);
  EXPECT_EQ(fit_columns("한글ab", 3), "한");
  EXPECT_EQ(fit_columns("한글ab", 5), "한글a");
  EXPECT_EQ(fit_columns("", 5), "");
  const Captured captured;
  const Terminal terminal(captured.stream());
  Table table({"단계", "s"}, {Align::kLeft, Align::kRight});
  table.add({"train", "12.5"});
  table.add({"병합", "3"});
  EXPECT_EQ(table.to_string(terminal), "단계      s\ntrain  12.5\n병합      3\n");
}

TEST(Terminal, WritesAmountsForPeople) {
  EXPECT_EQ(bytes_text(0), "0 B");
  EXPECT_EQ(bytes_text(999), "999 B");
  EXPECT_EQ(bytes_text(1500), "1.5 kB");
  EXPECT_EQ(bytes_text(123'456'789), "123 MB");
  EXPECT_EQ(bytes_text(5e9), "5.0 GB");
  EXPECT_EQ(count_text(4711), "4711");
  EXPECT_EQ(count_text(16'258'560), "16.3 M");
  EXPECT_EQ(count_text(8.19e9), "8.2 B");
  EXPECT_EQ(duration_text(4.21), "4.2 s");
  EXPECT_EQ(duration_text(185), "3:05");
  EXPECT_EQ(duration_text(3723), "1:02:03");
}

TEST(Progress, IsAPlainLineOffATerminal) {
  const Captured captured;
  {
    const Terminal terminal(captured.stream());
    Progress progress(terminal, "merge", ProgressUnit::kBytes, 2'000'000);
    for (uint64_t done = 0; done <= 2'000'000; done += 1000) progress.update(done, "layer");
    progress.finish();
    progress.finish();
  }
  const std::string text = captured.text();
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 1) << text;
  EXPECT_EQ(text.find('\r'), std::string::npos);
  EXPECT_NE(text.find("merge 100 %  2.0 MB / 2.0 MB"), std::string::npos) << text;
  EXPECT_NE(text.find("layer"), std::string::npos) << text;
}

TEST(Progress, CountsAreReadable) {
  const Captured captured;
  {
    const Terminal terminal(captured.stream());
    Progress progress(terminal, "weights", ProgressUnit::kItems, 16'258'560);
    progress.update(16'258'560, "");
    progress.finish();
  }
  EXPECT_NE(captured.text().find("weights 100 %  16.3 M / 16.3 M"), std::string::npos) << captured.text();
}

}  // namespace
}  // namespace onggi
