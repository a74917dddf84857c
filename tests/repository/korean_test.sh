#!/usr/bin/env bash
# korean_test.sh PROGRAM: a Korean locale gives Korean messages, even where it is not installed, and the columns of
# tables stand under each other (Hangul is two columns wide).
set -euo pipefail
cd "$(dirname "$0")/../.."
program=$1
[ -f "$(dirname "$program")/locale/ko/LC_MESSAGES/onggi.mo" ] || exit 77
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# The columns at which the cells of each line begin, one line a line.
cell_columns() {
  perl -CSD -Mutf8 -lne '
    my @columns; my $column = 0; my $gap = 2;
    for my $c (split //) {
      if ($c eq " ") { ++$gap } else { push @columns, $column if $gap >= 2; $gap = 0 }
      $column += $c =~ /[\x{1100}-\x{115f}\x{2e80}-\x{a4cf}\x{ac00}-\x{d7a3}\x{ff00}-\x{ff60}]/ ? 2 : 1;
    }
    print "@columns"'
}
# The check itself: two aligned lines, and two that are not.
[ "$(printf '단계    시간\nab      cd\n' | cell_columns | uniq | wc -l)" = 1 ]
[ "$(printf '단계  시간\nab  cd\n' | cell_columns | uniq | wc -l)" = 2 ]

unset LC_ALL LC_MESSAGES LANGUAGE
LANG=ko_KR.UTF-8 "$program" check --config configs/mini.toml output_dir="$scratch" >"$scratch/korean"
LANG=C.UTF-8 "$program" check --config configs/mini.toml output_dir="$scratch" >"$scratch/english"
LANG=ko_KR.UTF-8 "$program" --lang en check --config configs/mini.toml output_dir="$scratch" >"$scratch/asked"
grep -q '^이 시스템$' "$scratch/korean" || { echo "LANG=ko_KR.UTF-8 does not give Korean"; exit 1; }
for file in english asked; do
  grep -q '^This machine$' "$scratch/$file" || { echo "the $file output is not English"; exit 1; }
done

# The paragraph before the last ends with the plan: a heading and one line for each of the six stages.
for file in korean english; do
  awk 'BEGIN { RS = "" } { before = last; last = $0 } END { print before }' "$scratch/$file" | tail -n 7 >"$scratch/plan"
  cell_columns <"$scratch/plan" >"$scratch/columns"
  if [ "$(sort -u "$scratch/columns" | wc -l)" != 1 ] || [ "$(wc -w <"$scratch/columns")" != 35 ]; then
    echo "the table is not aligned (columns at which cells begin):"
    paste "$scratch/plan" "$scratch/columns"
    exit 1
  fi
done
