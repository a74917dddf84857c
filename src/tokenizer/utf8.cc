#include "tokenizer/utf8.h"

#include <cstdint>

namespace onggi {
namespace {

struct Lead {
  int length;         // of the whole sequence, 0 where no sequence begins with this byte
  unsigned char low;  // bounds of the second byte
  unsigned char high;
};

// Table 3-7 of the Unicode standard.
Lead lead_of(unsigned char byte) {
  if (byte < 0x80) return {1, 0, 0};
  if (byte < 0xC2) return {0, 0, 0};
  if (byte < 0xE0) return {2, 0x80, 0xBF};
  if (byte == 0xE0) return {3, 0xA0, 0xBF};
  if (byte == 0xED) return {3, 0x80, 0x9F};
  if (byte < 0xF0) return {3, 0x80, 0xBF};
  if (byte == 0xF0) return {4, 0x90, 0xBF};
  if (byte < 0xF4) return {4, 0x80, 0xBF};
  if (byte == 0xF4) return {4, 0x80, 0x8F};
  return {0, 0, 0};
}

struct Sequence {
  size_t bytes;   // that belong together: the whole character, or the valid beginning of a broken one (at
                  // least 1)
  bool complete;  // a whole, valid character
  bool cut;       // valid as far as it goes, but the text ends
};

Sequence sequence_at(std::string_view text, size_t position) {
  const Lead lead = lead_of(static_cast<unsigned char>(text[position]));
  if (lead.length == 1) return {1, true, false};
  if (lead.length == 0) return {1, false, false};
  size_t have = 1;
  for (; have < static_cast<size_t>(lead.length); ++have) {
    if (position + have == text.size()) return {have, false, true};
    const auto byte = static_cast<unsigned char>(text[position + have]);
    const unsigned char low = have == 1 ? lead.low : 0x80, high = have == 1 ? lead.high : 0xBF;
    if (byte < low || byte > high) return {have, false, false};
  }
  return {have, true, false};
}

}  // namespace

size_t valid_utf8_prefix(std::string_view text) {
  size_t position = 0;
  while (position < text.size()) {
    const Sequence sequence = sequence_at(text, position);
    if (!sequence.complete) return position;
    position += sequence.bytes;
  }
  return position;
}

char32_t next_code_point(std::string_view text, size_t& position) {
  const auto byte = [&](size_t offset) -> char32_t {
    return static_cast<unsigned char>(text[position + offset]);
  };
  const char32_t first = byte(0);
  if (first < 0x80) {
    ++position;
    return first;
  }
  char32_t code_point;
  if (first < 0xE0) {
    code_point = (first & 0x1F) << 6 | (byte(1) & 0x3F);
    position += 2;
  } else if (first < 0xF0) {
    code_point = (first & 0x0F) << 12 | (byte(1) & 0x3F) << 6 | (byte(2) & 0x3F);
    position += 3;
  } else {
    code_point = (first & 0x07) << 18 | (byte(1) & 0x3F) << 12 | (byte(2) & 0x3F) << 6 | (byte(3) & 0x3F);
    position += 4;
  }
  return code_point;
}

void append_utf8(std::string& text, char32_t c) {
  const auto put = [&](char32_t byte) { text.push_back(static_cast<char>(byte)); };
  if (c < 0x80) {
    put(c);
  } else if (c < 0x800) {
    put(0xC0 | c >> 6);
    put(0x80 | (c & 0x3F));
  } else if (c < 0x10000) {
    put(0xE0 | c >> 12);
    put(0x80 | (c >> 6 & 0x3F));
    put(0x80 | (c & 0x3F));
  } else {
    put(0xF0 | c >> 18);
    put(0x80 | (c >> 12 & 0x3F));
    put(0x80 | (c >> 6 & 0x3F));
    put(0x80 | (c & 0x3F));
  }
}

size_t count_code_points(std::string_view text) {
  size_t count = 0;
  for (const char c : text) count += (static_cast<unsigned char>(c) & 0xC0) != 0x80;
  return count;
}

std::string replace_invalid_utf8(std::string_view bytes) {
  std::string text;
  text.reserve(bytes.size());
  size_t position = 0;
  while (position < bytes.size()) {
    const Sequence sequence = sequence_at(bytes, position);
    if (sequence.complete) {
      text.append(bytes.substr(position, sequence.bytes));
    } else {
      append_utf8(text, 0xFFFD);
    }
    position += sequence.bytes;
  }
  return text;
}

size_t unfinished_utf8_tail(std::string_view bytes) {
  for (size_t length = 1; length <= 3 && length <= bytes.size(); ++length) {
    const size_t start = bytes.size() - length;
    if ((static_cast<unsigned char>(bytes[start]) & 0xC0) == 0x80)
      continue;  // a continuation: the lead is before it
    const Sequence sequence = sequence_at(bytes, start);
    return sequence.cut && sequence.bytes == length ? length : 0;
  }
  return 0;
}

}  // namespace onggi
