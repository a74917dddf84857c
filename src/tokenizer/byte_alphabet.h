// GPT-2's printable alphabet: one Unicode character for each byte, so that any bytes can be written as JSON
// strings. Printable Latin-1 bytes stand for themselves, the other 68 for U+0100, U+0101, ... in order.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace onggi {

// Bytes -> the alphabet ("\n" -> "Ċ", " the" -> "Ġthe").
std::string to_byte_alphabet(std::string_view bytes);
// The alphabet -> bytes; nothing where a character is not of the alphabet. The text must be valid UTF-8.
std::optional<std::string> from_byte_alphabet(std::string_view text);

}  // namespace onggi
