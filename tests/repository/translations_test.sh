#!/usr/bin/env bash
# Every message of the sources is in po/ko.po, at least 95 % of them are translated, and each translation has the
# placeholders of its message.
set -euo pipefail
cd "$(dirname "$0")/../.."
command -v xgettext >/dev/null || exit 77
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# One line a message: kind, tab, text; strings of several lines joined.
entries() {
  msgattrib --no-wrap --no-obsolete --no-location "$1" | awk '
    function flush() { if (kind != "" && id != "") print id "\t" str; id = str = kind = "" }
    /^msgid "/ { flush(); kind = "id"; id = substr($0, 8, length($0) - 8); next }
    /^msgstr "/ { kind = "str"; str = substr($0, 9, length($0) - 9); next }
    /^"/ { piece = substr($0, 2, length($0) - 2); if (kind == "id") id = id piece; else str = str piece }
    END { flush() }'
}

placeholder_faults() {
  perl -F'\t' -lane '
    sub kinds { my $s = shift; $s =~ s/\{\{|\}\}//g; my $n = 0;
      join " ", sort map { /^\{(\d*)(.*)\}$/; ($1 eq "" ? $n++ : $1) . $2 } $s =~ /\{\d*(?::[^{}]*)?\}/g }
    next if !defined $F[1] || $F[1] eq "";
    print "placeholders differ: $F[0]\n  $F[1]" if kinds($F[0]) ne kinds($F[1]);'
}

# The check itself must see a lost and a changed placeholder, and let an indexed order pass.
[ -n "$(printf 'a {} {}\tb {}\n' | placeholder_faults)" ]
[ -n "$(printf 'a {:.2f}\tb {:.1f}\n' | placeholder_faults)" ]
[ -z "$(printf 'a {} {:.2f}\tb {1:.2f} {0}\n' | placeholder_faults)" ]

# How many of the messages of the first file the second translates, in percent, rounded down.
translated_percent() {
  awk -F'\t' 'NR == FNR { wanted[$1]; next } ($1 in wanted) && $2 != "" { ++done }
    END { n = 0; for (message in wanted) ++n; print int(100 * done / n) }' "$1" "$2"
}

# One translated of two is 50 %; translations of messages that are gone do not count.
printf 'a\nb\n' >"$scratch/two"
printf 'a\tA\nb\t\ngone\tG\n' >"$scratch/half"
[ "$(translated_percent "$scratch/two" "$scratch/half")" = 50 ]

tools/update_translations --template "$scratch/onggi.pot"
entries po/ko.po >"$scratch/ko"
entries "$scratch/onggi.pot" | cut -f1 | LC_ALL=C sort -u >"$scratch/wanted"
cut -f1 "$scratch/ko" | LC_ALL=C sort -u >"$scratch/there"
missing=$(LC_ALL=C comm -23 "$scratch/wanted" "$scratch/there")
faults=$(placeholder_faults <"$scratch/ko")
if [ -n "$missing$faults" ]; then
  echo "run tools/update_translations and translate what is new in po/ko.po:"
  printf '%s\n' "$missing" "$faults"
  exit 1
fi
percent=$(translated_percent "$scratch/wanted" "$scratch/ko")
if [ "$percent" -lt 95 ]; then
  echo "only $percent % of the messages are translated; translate these in po/ko.po:"
  awk -F'\t' '$2 == "" { print $1 }' "$scratch/ko"
  exit 1
fi
