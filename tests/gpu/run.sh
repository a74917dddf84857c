#!/usr/bin/env bash
# Runs the checks that need a card and prints a table. Needs a build with CUDA (cmake --preset cuda; made here where
# nvcc is installed and the programs are missing).
#
#   tests/gpu/run.sh [--build FOLDER] [--sanitizer] [--bench] [GoogleTest arguments]
#
# --build      the folder of the build (default build/cuda)
# --sanitizer  runs the programs under compute-sanitizer as well: memory errors and races of shared memory
# --bench      then measures the figures of bench/gpu.sh, each with its floor
#
# Exit code: 0 all passed, 1 some failed, 77 there is no card that can be used.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
. tools/setup.sh

folder=build/cuda
tools=(plain)
bench=no
while [ $# -gt 0 ]; do
  case $1 in
    --build) folder=$2; shift 2 ;;
    --sanitizer) tools=(plain memcheck racecheck); shift ;;
    --bench) bench=yes; shift ;;
    *) break ;;
  esac
done
# Programs of tests/<folder>/ that run on a card end in _gpu.
programs() { find "$folder/tests" -maxdepth 2 -type f -name 'test_*_gpu' -perm -u+x 2>/dev/null | LC_ALL=C sort; }
if [ -z "$(programs)" ]; then
  [ -n "$(find_nvcc)" ] || fail "There is no build with CUDA in $folder, and no nvcc to make one."
  build cuda "$folder" -DONGGI_TESTS=ON -- onggi test_kernels_gpu test_model_gpu test_serve_gpu
fi

# The log of a GoogleTest program as rows of a table: suite, tests, passed, failed, skipped, milliseconds.
rows() {  # program's name, tool
  awk -v program="$1" -v tool="$2" '
    function suite_of(test,   part) { split(test, part, "."); return part[1] }
    /^\[ RUN      \]/ { suite = suite_of($4); if (!(suite in tests)) order[++suites] = suite; ++tests[suite] }
    /^\[       OK \]/ { ++passed[suite_of($4)] }
    /^\[  SKIPPED \].* ms\)$/ { ++skipped[suite_of($4)] }
    /^\[  FAILED  \].* ms\)$/ { ++failed[suite_of($4)] }
    /^\[----------\] [0-9]+ tests? from .* ms total\)$/ { time = $(NF - 2); sub(/^\(/, "", time); took[$5] = time }
    END {
      for (i = 1; i <= suites; ++i) {
        suite = order[i]
        printf "%-18s %-10s %-36s %6d %7d %7d %8d %9s\n", program, tool, suite, tests[suite], passed[suite],
               failed[suite], skipped[suite], took[suite]
      }
    }'
}

logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT
status=0
table=$(printf '%-18s %-10s %-36s %6s %7s %7s %8s %9s' program under suite tests passed failed skipped ms)
for program in $(programs); do
  name=$(basename "$program")
  for tool in "${tools[@]}"; do
    command=("$program" --gtest_color=no "$@")
    if [ "$tool" != plain ]; then
      # Allocations by cuBLASLt and the runtime are not ours: only errors of kernels count. Nor are cuBLASLt's
      # kernels, for some of which racecheck reports hazards.
      command=(compute-sanitizer --tool "$tool" --kernel-name-exclude kernel_substring=nvjet --error-exitcode 9
               "${command[@]}")
    fi
    log=$logs/$name.$tool
    result=0
    "${command[@]}" >"$log" 2>&1 || result=$?
    if [ "$result" -eq 77 ]; then
      cat "$log"
      exit 77
    fi
    table+=$'\n'$(rows "$name" "$tool" <"$log")
    if [ "$result" -ne 0 ]; then
      status=1
      # What failed and why, without the tests that passed.
      grep -vE '^\[( RUN      |       OK |----------)\]' "$log" || true
      table+=$'\n'$(printf '%-18s %-10s ended with exit code %d' "$name" "$tool" "$result")
    fi
  done
done

command -v nvidia-smi >/dev/null && nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
printf '%s\n' "$table"
if [ "$bench" = yes ]; then
  bench/gpu.sh "$folder/onggi" || status=1
fi
exit "$status"
