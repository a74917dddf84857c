#include "infer/json_grammar.h"

namespace onggi {
namespace {

using G = ByteGrammar;
constexpr int kMaxIndent = 32;
// Of a number before and after its point, and two of its exponent: what readers hold as int64 and double.
// Models that lose their way write digits without end.
constexpr int kMaxDigits = 17;

}  // namespace

JsonRules::JsonRules(ByteGrammar& grammar) : grammar_(grammar) {
  for (Rule* rule :
       {&value, &object, &array, &string, &number, &integer, &boolean, &null, &character, &plain_character}) {
    *rule = grammar.add_rule();
  }
  add_space();
  add_characters();
  add_numbers();
  add_containers();
}

void JsonRules::add_space() {
  Rule indent = grammar_.add_rule();
  grammar_.add_alternative(indent, {});
  for (int i = 0; i < kMaxIndent; ++i) {
    const Rule longer = grammar_.add_rule();
    grammar_.add_alternative(longer, {});
    grammar_.add_alternative(longer, {G::any_of(" \t"), G::ref(indent)});
    indent = longer;
  }
  space = grammar_.add_rule();
  grammar_.add_alternative(space, {});
  grammar_.add_alternative(space, {G::byte(' ')});
  grammar_.add_alternative(space, {G::byte('\n'), G::ref(indent)});
}

void JsonRules::add_characters() {
  ByteSet ascii;
  for (size_t b = 0x20; b < 0x80; ++b) ascii.set(b);
  ascii.reset('"').reset('\\');
  const G::Element tail = G::range(0x80, 0xBF);
  // UTF-8 without overlong forms, surrogates and what is beyond U+10FFFF (Unicode, table 3-7).
  const std::vector<G::Sequence> plain = {
      {G::Element{-1, ascii}},
      {G::range(0xC2, 0xDF), tail},
      {G::byte(0xE0), G::range(0xA0, 0xBF), tail},
      {G::range(0xE1, 0xEC), tail, tail},
      {G::byte(0xED), G::range(0x80, 0x9F), tail},
      {G::range(0xEE, 0xEF), tail, tail},
      {G::byte(0xF0), G::range(0x90, 0xBF), tail, tail},
      {G::range(0xF1, 0xF3), tail, tail, tail},
      {G::byte(0xF4), G::range(0x80, 0x8F), tail, tail},
  };
  for (const G::Sequence& sequence : plain) grammar_.add_alternative(plain_character, sequence);
  grammar_.add_alternative(character, {G::ref(plain_character)});
  const G::Element slash = G::byte('\\'), u = G::byte('u'), hex = G::any_of("0123456789abcdefABCDEF");
  const G::Element d = G::any_of("dD");
  grammar_.add_alternative(character, {slash, G::any_of("\"\\/bfnrt")});
  grammar_.add_alternative(character, {slash, u, G::any_of("0123456789abcefABCEF"), hex, hex, hex});
  grammar_.add_alternative(character, {slash, u, d, G::any_of("01234567"), hex, hex});
  // A surrogate comes with its partner.
  grammar_.add_alternative(
      character, {slash, u, d, G::any_of("89abAB"), hex, hex, slash, u, d, G::any_of("cdefCDEF"), hex, hex});
  const Rule rest = grammar_.add_rule();
  grammar_.add_alternative(rest, {G::byte('"')});
  grammar_.add_alternative(rest, {G::ref(character), G::ref(rest)});
  grammar_.add_alternative(string, {G::byte('"'), G::ref(rest)});
}

void JsonRules::add_numbers() {
  const Rule natural = grammar_.add_rule(), fraction = grammar_.add_rule(), exponent = grammar_.add_rule(),
             exponent_digits = grammar_.add_rule();
  const G::Element digit = G::range('0', '9');
  Rule digits = grammar_.add_rule();
  grammar_.add_alternative(digits, {});
  for (int i = 0; i < kMaxDigits; ++i) {
    const Rule longer = grammar_.add_rule();
    grammar_.add_alternative(longer, {});
    grammar_.add_alternative(longer, {digit, G::ref(digits)});
    digits = longer;
  }
  grammar_.add_alternative(natural, {G::byte('0')});
  grammar_.add_alternative(natural, {G::range('1', '9'), G::ref(digits)});
  grammar_.add_alternative(fraction, {});
  grammar_.add_alternative(fraction, {G::byte('.'), digit, G::ref(digits)});
  grammar_.add_alternative(exponent_digits, {digit});
  grammar_.add_alternative(exponent_digits, {digit, digit});
  grammar_.add_alternative(exponent, {});
  grammar_.add_alternative(exponent, {G::any_of("eE"), G::ref(exponent_digits)});
  grammar_.add_alternative(exponent, {G::any_of("eE"), G::any_of("+-"), G::ref(exponent_digits)});
  grammar_.add_alternative(integer, {G::ref(natural)});
  grammar_.add_alternative(integer, {G::byte('-'), G::ref(natural)});
  grammar_.add_alternative(number, {G::ref(integer), G::ref(fraction), G::ref(exponent)});
}

JsonRules::Rule JsonRules::literal(const std::string& text) {
  grammar_.check_room(text.size());  // before as much memory is taken
  const Rule rule = grammar_.add_rule();
  G::Sequence sequence;
  G::append(sequence, text);
  grammar_.add_alternative(rule, std::move(sequence));
  return rule;
}

JsonRules::Rule JsonRules::braces(Rule members) {
  const Rule rule = grammar_.add_rule();
  grammar_.add_alternative(rule, {G::byte('{'), G::ref(space), G::ref(members), G::byte('}')});
  return rule;
}

void JsonRules::add_containers() {
  for (Rule rule : {object, array, string, number, boolean, null})
    grammar_.add_alternative(value, {G::ref(rule)});
  for (const char* word : {"true", "false"}) grammar_.add_alternative(boolean, {G::ref(literal(word))});
  grammar_.add_alternative(null, {G::ref(literal("null"))});

  // Space follows each part: a place where it could belong to two rules would double the states.
  const Rule member = grammar_.add_rule(), members = grammar_.add_rule(), more_members = grammar_.add_rule();
  grammar_.add_alternative(member,
                           {G::ref(string), G::byte(':'), G::ref(space), G::ref(value), G::ref(space)});
  grammar_.add_alternative(members, {});
  grammar_.add_alternative(members, {G::ref(member), G::ref(more_members)});
  grammar_.add_alternative(more_members, {});
  grammar_.add_alternative(more_members, {G::byte(','), G::ref(space), G::ref(member), G::ref(more_members)});
  grammar_.add_alternative(object, {G::ref(braces(members))});

  const Rule items = grammar_.add_rule(), more_items = grammar_.add_rule();
  grammar_.add_alternative(items, {});
  grammar_.add_alternative(items, {G::ref(value), G::ref(space), G::ref(more_items)});
  grammar_.add_alternative(more_items, {});
  grammar_.add_alternative(more_items,
                           {G::byte(','), G::ref(space), G::ref(value), G::ref(space), G::ref(more_items)});
  grammar_.add_alternative(array, {G::byte('['), G::ref(space), G::ref(items), G::byte(']')});
}

}  // namespace onggi
