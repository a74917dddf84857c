#!/usr/bin/env bash
# Builds the fuzz targets, runs each from the corpus of make_corpus.py and ends with a table. What a target finds lies in
# build/fuzz/found/TARGET-crash-... (or -timeout-, -oom-); the corpora grow in build/fuzz/corpus.
#
#   tests/fuzz/run.sh [SECONDS of each, 600] [TARGET...]      e.g. tests/fuzz/run.sh 60 gguf schema
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

seconds=${1:-600}
shift $(($# > 0))
targets=("$@")
[ ${#targets[@]} -gt 0 ] || mapfile -t targets < <(sed -n 's/^onggi_fuzz(\([a-z_]*\).*/\1/p' tests/fuzz/CMakeLists.txt)

cmake --preset fuzz >/dev/null
cmake --build --preset fuzz --target "${targets[@]/#/fuzz_}"
mkdir -p build/fuzz/found
python3 tests/fuzz/make_corpus.py build/fuzz/corpus

# The last "name: value" of libFuzzer's statistics, or of the "cov: " and "ft: " of its progress.
statistic() { sed -n "s/.*$1: *\([0-9]*\).*/\1/p" "$2" | tail -1; }

table=("target|seconds|executions|per second|edges|features|inputs kept|result")
failed=0
for target in "${targets[@]}"; do
  log=build/fuzz/$target.log
  started=$SECONDS
  if "build/fuzz/tests/fuzz/fuzz_$target" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=4096 -print_final_stats=1 \
    -artifact_prefix="build/fuzz/found/$target-" "build/fuzz/corpus/$target" >"$log" 2>&1; then
    result=clean
  else
    result=$(sed -n 's/^SUMMARY: //p' "$log" | head -1)
    failed=1
  fi
  ran=$((SECONDS - started))
  table+=("$target|$ran|$(statistic stat::number_of_executed_units "$log")|$(statistic stat::average_exec_per_sec "$log")|$(statistic cov "$log")|$(statistic ft "$log")|$(find "build/fuzz/corpus/$target" -type f | wc -l)|${result:-failed, see $log}")
done
printf '%s\n' "${table[@]}" | column -t -s '|'
exit "$failed"
