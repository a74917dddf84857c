// A client's JSON schema and, after a zero byte, an answer: an InputError, or a grammar that follows the
// answer as far as it goes. An answer that is accepted whole is JSON.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <string_view>

#include "base/error.h"
#include "infer/byte_grammar.h"
#include "infer/json_grammar.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  const size_t zero = std::min(bytes.find('\0'), size);
  const std::string_view answer = bytes.substr(std::min(zero + 1, size));
  const auto schema =
      nlohmann::ordered_json::parse(bytes.substr(0, zero), nullptr, /*allow_exceptions=*/false);
  if (schema.is_discarded()) return 0;
  try {
    onggi::ByteGrammar grammar;
    onggi::JsonRules rules(grammar);
    const auto root = onggi::add_schema(grammar, rules, schema);
    onggi::ByteAutomaton automaton(std::move(grammar), root);
    const auto state = automaton.next(automaton.start(), answer);
    if (state != onggi::ByteAutomaton::kDead && automaton.accepting(state) &&
        !nlohmann::ordered_json::accept(answer))
      std::abort();
  } catch (const onggi::InputError&) {
    // what the schema's author is told
  } catch (const onggi::WorkError&) {
    // a grammar that has become too complex to follow
  }
  return 0;
}
