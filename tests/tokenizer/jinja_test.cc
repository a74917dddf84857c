// The Jinja interpreter against the real Jinja2 (tests/golden/jinja.json, made by
// tools/make_jinja_golden.py), and what hostile templates get.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ctime>

#include "base/error.h"
#include "tests/tokenizer/golden.h"
#include "tokenizer/chat_template.h"

namespace onggi {
namespace {

using Json = nlohmann::ordered_json;

std::string render(const std::string& text, const Json& variables = Json::object()) {
  RenderOptions options;
  options.extra = &variables;
  options.add_generation_prompt = false;
  return ChatTemplate(text).render(Json::array(), options);
}

std::string error_of(const std::string& text, const Json& variables = Json::object()) {
  try {
    return "no error but: " + render(text, variables);
  } catch (const InputError& error) {
    return error.what();
  }
}

TEST(Jinja, MatchesJinja2) {
  const Json golden = test::read_json("tests/golden/jinja.json");
  ASSERT_GE(golden["cases"].size(), 170u);
  size_t failing = 0;
  for (const auto& entry : golden["cases"]) {
    const auto text = entry["template"].get<std::string>();
    if (entry["result"].is_null()) {
      ++failing;
      EXPECT_THROW(render(text, golden["variables"]), InputError) << text;
      continue;
    }
    try {
      EXPECT_EQ(render(text, golden["variables"]), entry["result"].get<std::string>()) << text;
    } catch (const InputError& error) {
      ADD_FAILURE() << text << "\n  fails: " << error.what();
    }
  }
  EXPECT_GE(failing, 50u);
}

TEST(Jinja, ErrorsNameTheConstructAndTheLine) {
  EXPECT_THAT(error_of("a\nb\n{{ x | wordwrap(3) }}"),
              testing::AllOf(testing::HasSubstr("line 3"), testing::HasSubstr("wordwrap")));
  EXPECT_THAT(error_of("\n{% include 'x' %}"),
              testing::AllOf(testing::HasSubstr("line 2"), testing::HasSubstr("include")));
  EXPECT_THAT(error_of("{% if true %}\n\n{{ 'a'.zfill(3) }}{% endif %}"),
              testing::AllOf(testing::HasSubstr("line 3"), testing::HasSubstr("zfill")));
  EXPECT_THAT(error_of("{{ raise_exception('roles must\n alternate') }}"),
              testing::HasSubstr("roles must\n alternate"));
  EXPECT_THAT(error_of("{{ \n\n missing.name }}"),
              testing::AllOf(testing::HasSubstr("line 3"), testing::HasSubstr("missing")));
  EXPECT_THAT(error_of("{% call f() %}{% endcall %}"), testing::HasSubstr("call"));
  EXPECT_THAT(error_of("{% macro f() %}{{ caller() }}{% endmacro %}{{ f() }}"), testing::HasSubstr("caller"));
  EXPECT_THAT(error_of("{% for i in x recursive %}{% endfor %}"), testing::HasSubstr("recursive"));
  EXPECT_THAT(error_of("{{ x.items.type }}", {{"x", {{"items", {{"type", 1}}}}}}),
              testing::HasSubstr("items"));
  EXPECT_THAT(error_of("{{ 'a'|safe ~ 'b' }}"), testing::HasSubstr("safe"));
  EXPECT_THAT(error_of("{{ 'ß'.upper() }}"), testing::HasSubstr("upper"));
  EXPECT_THAT(error_of("{{ ''.__class__ }}"), testing::HasSubstr("__class__"));
  EXPECT_THAT(error_of("{{ 99999999999999999999 }}"), testing::HasSubstr("64 bits"));
  EXPECT_THAT(error_of("{{ 2 ** 64 }}"), testing::HasSubstr("64 bits"));
  EXPECT_THAT(error_of("{{ '%s' % 1 }}"), testing::HasSubstr("%"));
  EXPECT_THAT(error_of("{{ '\xFF' }}"), testing::HasSubstr("UTF-8"));
}

TEST(Jinja, KnowsTheTime) {
  const std::string year = render("{{ strftime_now('%Y') }}");
  EXPECT_THAT(year, testing::MatchesRegex("20[0-9][0-9]"));
  EXPECT_EQ(render("{{ strftime_now('') }}"), "");
}

// Each of these would overflow the stack, the memory or our patience without bounds.
TEST(Jinja, BoundsHostileTemplates) {
  const auto repeated = [](const std::string& part, int count) {
    std::string all;
    for (int i = 0; i < count; ++i) all += part;
    return all;
  };
  const std::vector<std::string> hostile = {
      repeated("{{ ", 1) + repeated("(", 100000),
      "{{ " + repeated("[", 100000),
      "{{ " + repeated("not ", 100000) + "x }}",
      "{{ " + repeated("-", 100000) + "1 }}",
      "{{ " + repeated("1+", 100000) + "1 }}",
      "{{ x" + repeated(".a", 100000) + " }}",
      "{{ x" + repeated("|d", 100000) + " }}",
      "{{ " + repeated("1 if ", 100000) + "1 }}",
      "{{ " + repeated("1 if 1 else ", 100000) + "1 }}",
      repeated("{% if 1 %}", 100000),
      repeated("{% for i in x %}", 100000),
      "{% set " + repeated("(", 100000),
      "{% for " + repeated("(", 100000),
      "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
      "{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}",
      "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
      "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
      "{{ range(10**12)|list }}",
      "{% set ns = namespace(s='aaaaaaaaaaaaaaaa') %}{% for i in range(100) %}{% set ns.s = ns.s ~ ns.s %}{% "
      "endfor %}",
      "{{ 'a' * 10**12 }}",
      "{{ [1] * 10**12 }}",
      "{{ ('a' * 1000000).replace('', 'b' * 1000000) }}",
      "{% set ns = namespace(x=[]) %}{% for i in range(1000) %}{% set ns.x = [ns.x] %}{% endfor %}",
      "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ "
      "ns.x|tojson }}",
      "{% set ns = namespace() %}{% set ns.x = ns %}",
      "{% set ns = namespace() %}{% for i in [1] %}{% set ns.x = loop %}{% endfor %}",
      "{% macro f() %}{% endmacro %}{{ [f] }}",
      "{% for i in [1] %}{{ loop.changed(loop) }}{% endfor %}",
      "{% for i in range(100000) %}{{ 'a' * 1000000 }}{% endfor %}",
      "{{ ('a' * 15000000)|indent(1000, true) }}{{ ('\n' * 1000000)|indent(1000, true, true) }}",
      "{{ [1, [2]]|tojson(indent='a' * 15000000) }}",
      "{{ (-9223372036854775807 - 1) // -1 }}",
      "{{ 2 ** 9223372036854775807 }}",
      "{{ 10.0 ** 400 }}",
      "{{ range(9223372036854775806, 9223372036854775807, 9223372036854775807)|list }}{{ x.y.z }}",
      "{{ 'abc'[9223372036854775807:-9223372036854775807:-9223372036854775807] }}{{ x.y.z }}",
      "{{ 1e999 }}",
      "{% raw %}" + repeated("{%", 100000),
  };
  const Json variables = {{"x", {{"a", 1}}}};
  for (const auto& text : hostile) {
    const std::clock_t start = std::clock();
    EXPECT_THAT(error_of(text, variables), testing::Not(testing::HasSubstr("no error")))
        << text.substr(0, 100);
    const double seconds = static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
    EXPECT_LT(seconds, 20.0) << text.substr(0, 100);
  }
  Json deep = 1;
  for (int i = 0; i < 300; ++i) {
    Json outer = Json::array();
    outer.push_back(std::move(deep));
    deep = std::move(outer);
  }
  EXPECT_THROW(render("x", {{"deep", deep}}), InputError);
}

}  // namespace
}  // namespace onggi
