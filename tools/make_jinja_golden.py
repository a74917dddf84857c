#!/usr/bin/env python3
"""Makes tests/golden/jinja.json with the real Jinja2, in the environment that transformers renders chat templates in.

    python3 tools/make_jinja_golden.py

Needs jinja2 (made with 3.1.6). Each case is a template with its variables; the result is the text it renders to, or
null where it fails. Cases of which Onggi says "not supported" although Jinja runs them are not listed here.
"""
import json
import pathlib

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment


class Generation(Extension):
    """The {% generation %} block of transformers, reduced to what it writes."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_write"), [], [], body).set_lineno(line)

    def _write(self, caller):
        return caller()


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


ENVIRONMENT = ImmutableSandboxedEnvironment(
    trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
)
ENVIRONMENT.filters["tojson"] = tojson
ENVIRONMENT.globals["raise_exception"] = raise_exception

DATA = {
    "text": "  Hello, 세계!\n",
    "word": "naïve café",
    "n": 7,
    "x": 2.5,
    "yes": True,
    "nothing": None,
    "items": [3, 1, 2],
    "names": ["b", "A", "c", "a"],
    "empty": [],
    "d": {"b": 1, "a": [1, 2], "items": "key", "한글": "값 \"q\" \\ \n \t \u0001 \u007f 😀"},
    "people": [
        {"name": "Kim", "age": 30, "tags": {"x": 1}},
        {"name": "lee", "age": 25},
        {"name": "Park", "age": 30, "tags": {"x": 2}},
    ],
    "messages": [
        {"role": "system", "content": "sys"},
        {"role": "user", "content": "hi <b>&'\""},
        {"role": "assistant", "content": "<think>\nhm\n</think>\n\nyes"},
    ],
}

TEMPLATES = r"""
# whitespace control
a{% if yes %}b{% endif %}c
a\n  {% if yes %}\n  b\n  {% endif %}\nc\n
a\n  {%- if yes -%}\n  b\n  {%- endif -%}\n c
a\n  {%+ if yes %}\n  b\n  {%+ endif +%}\n c
  {{ n }}  \n  {{- n -}}  \n z
{# comment #}\nx\n  {# c #}  y {#- d -#}  z
x {#+ c +#}\n y
{% raw %}{{ n }} {% if %}{% endraw %}\n!
a\n  {%- raw -%}  {{ x }}  {%- endraw -%}  b
a\n  {% raw %}  {{ x }}\n  {% endraw %}\n  b
one\n\n
one\r\ntwo\r\n
{{ '}}' }}{{ "{%" }}
{{ {'a': {'b': 1}}['a']['b'] }}
{{- text -}}   |
\u00a0 {%- if yes %}x{% endif %}
# literals
{{ 1 }} {{ -1 }} {{ 1_000 }} {{ 0x1F }} {{ 0b11 }} {{ 0o17 }} {{ 1.5 }} {{ 1e3 }} {{ 1.5e-7 }} {{ 1e16 }} {{ 1e15 }} {{ 0.0001 }} {{ 0.00001 }} {{ 100000.0 }}
{{ 'a\nb\t\x41\u00e9\\\'' }}{{ "it's" }}{{ 'a' 'b' "c" }}{{ '\q' }}
{{ true }} {{ True }} {{ false }} {{ none }} {{ None }}
{{ [1, 'a', none, true, 1.0] }} {{ (1,) }} {{ (1, 2) }} {{ () }} {{ {'a': 1, 'b': [1]} }} {{ {} }} {{ [] }}
{{ 'it''s' }} {{ ["it's", 'say "x"', 'both \' and "', '\n\t\x01\u200b'] }}
{{ 1, 2 }}
# arithmetic
{{ 7 // 2 }} {{ -7 // 2 }} {{ 7 % 3 }} {{ -7 % 3 }} {{ 7 % -3 }} {{ 7 / 2 }} {{ 2 ** 10 }} {{ 2 ** -1 }} {{ 1 + 2 * 3 }} {{ (1 + 2) * 3 }}
{{ 1 - 2 - 3 }} {{ 2 * 3 ~ 4 }} {{ (1 + 2) ~ (3 + 4) }} {{ 'a' ~ 1 ~ none ~ true }} {{ -2 ** 2 }} {{ 2 ** 3 ** 2 }}
{{ 7.5 // 2 }} {{ 7.5 % 2 }} {{ -7.5 % 2 }} {{ 1 / 3 }} {{ 0.1 + 0.2 }} {{ true + 1 }} {{ 3 * 1.0 }} {{ 10 / 5 }}
{{ 'ab' * 3 }} {{ [1] * 2 }} {{ [1] + [2] }} {{ (1,) + (2,) }} {{ 'a' + 'b' }} {{ 'x' * -1 }}|
{{ 1 / 0 }}
{{ 'a' + 1 }}
{{ 'a' + none }}
{{ missing + 'a' }}
{{ [] + 'a' }}
{{ 1 + 2 ~ 3 }}
{{ +n }} {{ -x }} {{ --n }}
{{ -n|abs }} {{ -3|string }}
# comparison and logic
{{ 1 < 2 < 3 }} {{ 1 < 3 < 2 }} {{ 1 == 1.0 }} {{ 1 == true }} {{ 'a' < 'b' }} {{ [1, 2] < [1, 3] }} {{ 1 != 2 }} {{ 'a' == 1 }}
{{ 1 < 'a' }}
{{ none < 1 }}
{{ 'a' in 'cat' }} {{ 1 in [1] }} {{ 'b' in d }} {{ 'z' not in d }} {{ 'b' in d.keys() }} {{ 1 in missing }} {{ '' in 'x' }}
{{ 1 in 'a' }}
{{ not yes }} {{ not not yes }} {{ yes and n }} {{ nothing or 'x' }} {{ nothing and missing.x }} {{ yes or missing.x }} {{ not missing }}
{{ 'a' if yes }}{{ 'a' if not yes }}{{ 'a' if not yes else 'b' }} {{ 1 if 0 else 2 if 0 else 3 }}
{{ not 1 == 2 }} {{ 1 == 1 and 2 == 2 or missing.a }} {{ not n in items }}
# undefined
[{{ missing }}] {{ missing is defined }} {{ d.missing is defined }} {{ d.missing }} {{ missing|default('x') }} {{ missing|length }}
{{ missing.x }}
{{ d.missing.x }}
{{ missing() }}
{{ missing == missing2 }} {{ missing|join(',') }} {{ missing|list }} {{ missing|upper }}.
{% for i in missing %}x{% else %}none{% endfor %}
{{ missing|tojson }}
{{ nothing.x is defined }} {{ n.x is defined }} {{ text.x is defined }} {{ items.x is defined }}
{{ missing is sequence }} {{ missing is iterable }} {{ [missing] }}
# attributes, items, slices
{{ d.b }} {{ d['b'] }} {{ d['items'] }} {{ d.a[0] }} {{ d.a.1 }} {{ items[-1] }} {{ items[9] is defined }} {{ word[2] }} {{ word[-1] }}
{{ items[1:] }} {{ items[::-1] }} {{ items[:-1] }} {{ items[-2:] }} {{ items[5:] }} {{ items[::2] }} {{ items[2:0:-1] }} {{ items[:99] }} {{ items[-99:2] }}
{{ word[1:4] }} {{ word[::-1] }} {{ word[-3:] }} {{ word[:0] }}| {{ (1, 2, 3)[1:] }}
{{ items[::0] }}
{{ d[1:2] }}
{{ d.items()|list }} {{ d.keys()|list }} {{ d.values()|list|length }} {{ d.get('b') }} {{ d.get('z') }} {{ d.get('z', 5) }}
{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}
{{ d|length }} {{ d.items()|length }} {{ d.keys()|first }}
{{ items.append(4) }}
{{ d.update({'a': 1}) }}
{{ d.pop('b') }}
{{ items.index(1) }} {{ items.count(3) }}
{{ items.index(99) }}
{{ messages[0].role }} {{ messages[0]['role'] }} {{ messages[-1].content.split('</think>')[-1].lstrip('\n') }}
{{ messages[2].content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') }}
# for
{% for i in items %}{{ loop.index }}{{ loop.index0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.revindex }}{{ loop.revindex0 }} {% endfor %}
{% for i in items %}{{ loop.previtem|default('-') }}{{ loop.nextitem|default('-') }}{{ loop.previtem is defined }} {% endfor %}
{% for i in items if i > 1 %}{{ loop.index }}:{{ i }} {% endfor %}
{% for i in empty %}x{% else %}empty{% endfor %}
{% for i in items if i > 9 %}x{% else %}none{% endfor %}
{% for i in items %}{% if i == 1 %}{% continue %}{% endif %}{{ i }}{% endfor %}
{% for i in items %}{% if i == 1 %}{% break %}{% endif %}{{ i }}{% else %}e{% endfor %}
{% for i in items %}{% for j in items %}{{ loop.depth }}{{ j }}{% break %}{% endfor %}{{ loop.depth0 }}{% endfor %}
{% for c in word %}{{ c }}.{% endfor %}
{% for k in d %}{{ k }},{% endfor %}
{% for a, b in [[1, 2], [3, 4]] %}{{ a }}{{ b }} {% endfor %}
{% for a, b in [[1, 2, 3]] %}{{ a }}{% endfor %}
{% for i in 5 %}{% endfor %}
{% for i in range(3) %}{{ i }}{% endfor %} {{ range(2, 8, 3)|list }} {{ range(5, 0, -2)|list }} {{ range(0)|list }} {{ range(4)|length }}
{% for i in items %}{{ loop.cycle('a', 'b') }}{% endfor %} {% for i in [1, 1, 2] %}{{ loop.changed(i) }}{% endfor %}
{% for i in items %}{% set y = i %}{% endfor %}{{ y is defined }}
{% set y = 0 %}{% for i in items %}{% set y = y + i %}{{ y }}{% endfor %} {{ y }}
{% for i in items %}{{ z is defined }}{% set z = 1 %}{{ z }}{% endfor %}
{% for i in items %}{% for j in items %}{{ loop.parent is defined }}{% break %}{% endfor %}{% break %}{% endfor %}
{{ loop is defined }}
# set, namespace, with, macro
{% set a = 1 %}{% set b, c = 2, 3 %}{{ a }}{{ b }}{{ c }}{% set t = 1, 2 %}{{ t }}
{% set ns = namespace(n=0, s='') %}{% for i in items %}{% set ns.n = ns.n + i %}{% set ns.s = ns.s ~ i %}{% endfor %}{{ ns.n }} {{ ns.s }} {{ ns.missing is defined }}
{% set ns = namespace({'a': 1}, b=2) %}{{ ns.a }}{{ ns.b }}
{% set d.b = 5 %}
{% set body %}  x {{ n }}\n{% endset %}[{{ body }}]{% set up | trim | upper %} abc {% endset %}[{{ up }}]
{% if yes %}{% set q = 1 %}{% endif %}{{ q }}
{% with a = 1, b = n %}{{ a }}{{ b }}{% endwith %}{{ a is defined }}
{% macro f(a, b=2, c=a) %}({{ a }},{{ b }},{{ c }}){% endmacro %}{{ f(1) }}{{ f(1, c=9) }}{{ f(b=1, a=0) }}
{% macro f(a) %}{{ a is defined }}{% endmacro %}{{ f() }}
{% macro f(a) %}{{ a }}{% endmacro %}{{ f(1, 2) }}
{% macro f(a) %}{{ a }}{% endmacro %}{{ f(z=2) }}
{% macro f(i) %}{% if i > 0 %}{{ i }}{{ f(i - 1) }}{% endif %}{% endmacro %}{{ f(5) }}
{% macro f() %}{{ loop is defined }}{{ outer }}{% endmacro %}{% set outer = 5 %}{% for i in [1] %}{{ f() }}{% endfor %}
{% macro f() -%}\n  x\n{%- endmacro %}[{{ f()|upper }}]{{ f() + 'y' }}
{% macro f(x) %}{% for i in x recursive_ %}{% endfor %}{% endmacro %}
{% generation %}a{{ n }}{% set g = 1 %}{% endgeneration %}{{ g is defined }}
{% if n == 7 %}a{% elif n == 8 %}b{% else %}c{% endif %}{% if n == 8 %}a{% elif n == 7 %}b{% else %}c{% endif %}{% if 0 %}a{% elif 0 %}b{% else %}c{% endif %}
{% if 0 %}{% else %}{% if 1 %}x{% endif %}{% endif %}
{{ dict(a=1, b=2) }} {{ dict([['a', 1]]) }} {{ dict({'z': 1}, y=2) }}
{{ raise_exception('no') }}
# tests
{{ n is number }} {{ n is integer }} {{ x is integer }} {{ x is float }} {{ yes is number }} {{ yes is integer }} {{ yes is boolean }} {{ text is string }}
{{ d is mapping }} {{ items is mapping }} {{ items is sequence }} {{ text is sequence }} {{ d is sequence }} {{ n is iterable }} {{ d is iterable }} {{ nothing is none }} {{ n is none }}
{{ yes is true }} {{ yes is false }} {{ 1 is true }} {{ yes is sameas true }} {{ nothing is sameas none }} {{ 1 is sameas true }}
{{ n is odd }} {{ n is even }} {{ n is divisibleby 7 }} {{ n is divisibleby(2) }} {{ n is eq 7 }} {{ n is equalto 8 }} {{ n is ne 7 }} {{ n is lt 8 }} {{ n is gt 8 }} {{ n is ge 7 }} {{ n is le 6 }}
{{ 1 is in [1, 2] }} {{ 'a' is in 'abc' }} {{ n is not none }} {{ n is not defined }} {{ missing is undefined }} {{ not n is none }}
{{ 'a' if n is defined else 'b' }} {{ n is defined and yes }} {{ n is defined or yes }} {{ n is in items or yes }} {{ range is callable }}
{{ items|map('upper') is sequence }} {{ d.items() is sequence }} {{ d.items() is iterable }}
# filters
{{ text|trim }}|{{ text|length }}|{{ 'xxaxx'|trim('x') }}|{{ text|upper }}|{{ 'HeLLo'|lower }}|{{ 'hello wORLD-foo (bar'|title }}|{{ 'hELLO'|capitalize }}
{{ items|first }} {{ items|last }} {{ empty|first is defined }} {{ items|join('-') }} {{ people|join(', ', attribute='name') }} {{ items|join }}
{{ items|sort }} {{ items|sort(reverse=true) }} {{ names|sort }} {{ names|sort(case_sensitive=true) }} {{ people|sort(attribute='age')|map(attribute='name')|list }}
{{ [1, 'a']|sort }}
{{ items|reverse|list }} {{ 'abc'|reverse }} {{ names|unique|list }} {{ names|unique(case_sensitive=true)|list }} {{ items|min }} {{ items|max }} {{ items|sum }} {{ people|sum(attribute='age') }}
{{ people|map(attribute='tags.x')|list }}
{{ people|map(attribute='tags')|map('default', 0)|list }} {{ people|map(attribute='tags', default='-')|list }} {{ names|map('upper')|join }}
{{ people|selectattr('age', 'equalto', 30)|map(attribute='name')|list }} {{ people|rejectattr('age', 'eq', 30)|map(attribute='name')|list }} {{ people|selectattr('tags')|list|length }} {{ people|selectattr('tags', 'defined')|list|length }}
{{ items|select('odd')|list }} {{ items|reject('odd')|list }} {{ [0, 1, '']|select|list }} {{ items|select('>', 1)|list }} {{ items|select('in', [1, 2])|list }}
{{ 'a-b-a'|replace('a', 'x') }} {{ 'a-b-a'|replace('a', 'x', 1) }} {{ 'abc'|replace('', '-') }} {{ 'abc'|replace('b', '') }}
{{ nothing|default('x') }} {{ nothing|default('x', true) }} {{ ''|default('x', boolean=true) }} {{ missing|d }}|
{{ '42'|int }} {{ '4x'|int }} {{ '4x'|int(9) }} {{ ' 42 '|int }} {{ '42.7'|int }} {{ 3.9|int }} {{ -3.9|int }} {{ true|int }} {{ nothing|int }} {{ '1.5'|float }} {{ 'x'|float }} {{ 3|float }} {{ '+7'|int }}
{{ 2.5|round }} {{ 3.5|round }} {{ 2.675|round(2) }} {{ 2.1|round(0, 'ceil') }} {{ 2.9|round(method='floor') }} {{ 7|round }} {{ 1.25|round(1) }}
{{ 'a\nb\n\nc'|indent }}|{{ 'a\nb'|indent(2, true) }}|{{ 'a\n\nb'|indent(2, blank=true) }}|{{ 'a\nb'|indent('> ') }}|{{ 'a\n'|indent }}|
{{ d|dictsort|map('first')|list }} {{ {'b': 1, 'A': 2}|dictsort }} {{ {'b': 1, 'A': 2}|dictsort(true) }} {{ {'b': 1, 'a': 2}|dictsort(by='value', reverse=true) }}
{{ d|items|list|length }} {{ d|list }} {{ 'abc'|list }} {{ n|string + '!' }} {{ [1, 'a']|string }} {{ n|abs }} {{ (-2.5)|abs }}
{{ messages[1].content|e }} {{ messages[1].content|escape|safe }} {{ '<b>'|safe }} {{ d|tojson|safe }}
{{ items|map('string')|join('+') }} {{ [[1, 2], [3]]|map('length')|list }} {{ [[1, 2], [3]]|map('first')|sum }} {{ [[1, 2]]|map(attribute=1)|list }}
{{ items|selectattr('x')|list }}
{{ items|length if items|selectattr('x') else 0 }}
{% set g = items|map('string') %}{{ g|list }}{{ g|list }}
{{ n|length }}
{{ items|map('upper')|length }}
{{ 5|first }}
{{ items|items|list }}
# tojson
{{ d|tojson }} {{ items|tojson }} {{ nothing|tojson }} {{ yes|tojson }} {{ x|tojson }} {{ 'é😀'|tojson }} {{ 'é😀\x7f/'|tojson(ensure_ascii=true) }} {{ (1, 2)|tojson }} {{ {}|tojson }} {{ []|tojson }} {{ 1e100|tojson }}
{{ d|tojson(indent=2) }}
{{ {'a': [], 'b': {}, 'c': [1, [2]]}|tojson(indent=4) }}
{{ people|tojson(separators=(',', ':')) }} {{ {'b': 1, 'a': 2}|tojson(sort_keys=true) }} {{ {1: 2, none: 3, true: 4, 1.5: 5}|tojson }} {{ [1]|tojson(indent=0) }}
{{ items.items|tojson }}
# string methods
{{ text.strip() }}|{{ text.lstrip() }}|{{ text.rstrip() }}|{{ 'xyaxy'.strip('xy') }}|{{ 'xa'.lstrip('x') }}|{{ 'ax'.rstrip('x') }}|{{ '한a한'.strip('한') }}
{{ 'a,b,,c'.split(',') }} {{ ' a  b '.split() }} {{ 'a,b,c'.split(',', 1) }} {{ 'a b c'.split(none, 1) }} {{ ''.split() }} {{ ''.split(',') }} {{ 'a,b,c'.rsplit(',', 1) }} {{ ' a b c '.rsplit(none, 1) }} {{ 'a--b'.split('--') }} {{ 'a b c'.split(maxsplit=1) }}
{{ 'a'.split('') }}
{{ 'a\nb\r\nc\n'.splitlines() }} {{ 'a\nb'.splitlines(true) }}
{{ 'abc'.startswith('a') }} {{ 'abc'.endswith('bc') }} {{ 'abc'.startswith(('x', 'a')) }} {{ 'abc'.endswith('abcd') }} {{ ''.startswith('') }}
{{ 'aXbX'.replace('X', '-') }} {{ 'aXbX'.replace('X', '-', 1) }} {{ 'ab'.replace('', '.') }}
{{ 'abc'.upper() }} {{ 'ABC'.lower() }} {{ "they're bill's friends".title() }} {{ 'hELLO'.capitalize() }} {{ 'ÀÉ'.lower() }} {{ 'привет'.upper() }}
{{ 'hello'.find('l') }} {{ 'hello'.rfind('l') }} {{ 'hello'.find('z') }} {{ '한글a'.find('a') }} {{ 'hello'.count('l') }} {{ 'aaa'.count('aa') }} {{ 'ab'.count('') }}
{{ ', '.join(names) }} {{ '-'.join('abc') }} {{ ','.join([]) }}|
{{ ','.join(items) }}
{{ '12'.isdigit() }} {{ ''.isdigit() }} {{ 'a1'.isalnum() }} {{ 'ab'.isalpha() }} {{ ' \n'.isspace() }} {{ 'prefix-x'.removeprefix('prefix-') }} {{ 'x.txt'.removesuffix('.txt') }}
{{ n.strip() }}
{{ missing.strip() }}
{{ nothing.strip() }}
{{ 'a'.nosuch() }}
# syntax errors
{{ n
{% if n %}
{% endif %}
{{ }}
{{ n | nosuch }}
{{ n is nosuch }}
{% nosuch %}
{{ 'abc }}
{{ (1 }}
{{ [1, }}
{{ 1 + }}
{% for in items %}{% endfor %}
{% set = 1 %}
{% for i in items %}{% endif %}
{# never ends
{% raw %} never ends
{{ a b }}
{{ 1a }}
{% break %}
{{ n.. }}
"""


def main():
    cases = []
    for line in TEMPLATES.strip().split("\n"):
        if line.startswith("# "):
            continue
        # Escapes of line ends stand outside of tags only: inside of strings they are the template's own.
        template = unescape_outside_tags(line)
        try:
            result = ENVIRONMENT.from_string(template).render(**DATA)
        except Exception:  # whatever Python says, the template fails
            result = None
        cases.append({"template": template, "result": result})
    path = pathlib.Path(__file__).resolve().parent.parent / "tests/golden/jinja.json"
    path.write_text(json.dumps({"variables": DATA, "cases": cases}, ensure_ascii=False, indent=1) + "\n")
    failing = sum(case["result"] is None for case in cases)
    print(f"{path}: {len(cases)} cases, {failing} of them fail in Jinja")


def unescape_outside_tags(line):
    out, position, inside = "", 0, False
    while position < len(line):
        pair = line[position : position + 2]
        if pair in ("{{", "{%"):
            inside = True
        elif pair in ("}}", "%}"):
            inside = False
        if not inside and pair in ("\\n", "\\r"):
            out += "\n" if pair == "\\n" else "\r"
            position += 2
        elif not inside and pair == "\\u":
            out += chr(int(line[position + 2 : position + 6], 16))
            position += 6
        else:
            out += line[position]
            position += 1
    return out


if __name__ == "__main__":
    main()
