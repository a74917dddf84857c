#!/usr/bin/env bash
# The figures of the CUDA engine on this machine's card: random weights at the shapes of published models, the median
# of several steps. Prints one line per figure, with the floor that the counted bytes or operations set.
#
#   bench/gpu.sh [PROGRAM] [PATTERN]    e.g. bench/gpu.sh build/cuda/onggi decode
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
program=${1:-build/cuda/onggi}
pattern=${2:-.}
failed=0

# measure NAME ARGUMENTS...: runs `onggi bench` and prints its figures in one line.
measure() {
  local name=$1 figures
  shift
  grep -qE "$pattern" <<<"$name" || return 0
  if ! figures=$("$program" bench "$@" --device cuda --json 2>&1); then
    printf '%-44s FAILED: %s\n' "$name" "$figures"
    failed=1
    return
  fi
  printf '%-44s %s\n' "$name" "$(sed -E 's/.*"figures":\[(.*)\].*/\1/; s/\{"name":"([^"]*)","value":([^,]*),"unit":"([^"]*)"\},?/\1 \2 \3; /g' <<<"$figures")"
}

measure "train 8b 2x4x2048" train --shape qwen3-8b --tokens 2048 --micro-batch 2 --accumulation 4 --dropout 0
measure "train 8b 8x2048 in one pass" train --shape qwen3-8b --tokens 2048 --micro-batch 8 --accumulation 1 --dropout 0
measure "train 8b 2x4x2048 dropout 0.1" train --shape qwen3-8b --tokens 2048 --micro-batch 2 --accumulation 4 --dropout 0.1
measure "train 8b seed: 4 samples of 256" train --shape qwen3-8b --tokens 256 --micro-batch 1 --accumulation 4 --dropout 0.1 --memory-budget 70GiB
measure "train 8b seed in 8GiB" train --shape qwen3-8b --tokens 256 --micro-batch 1 --accumulation 4 --dropout 0.1 --memory-budget 8GiB
measure "train 8b seed in 5GiB, offloaded" train --shape qwen3-8b --tokens 256 --micro-batch 1 --accumulation 4 --dropout 0.1 --memory-budget 5GiB
measure "train 8b seed in 3GiB, offloaded" train --shape qwen3-8b --tokens 256 --micro-batch 1 --accumulation 4 --dropout 0.1 --memory-budget 3GiB
measure "train 0.6b 2x4x2048" train --shape qwen3-0.6b --tokens 2048 --micro-batch 2 --accumulation 4 --dropout 0
measure "train 4b 2x4x2048" train --shape qwen3-4b --tokens 2048 --micro-batch 2 --accumulation 4 --dropout 0
measure "train 14b 2x4x2048" train --shape qwen3-14b --tokens 2048 --micro-batch 2 --accumulation 4 --dropout 0
measure "train 32b 2048 recomputed" train --shape qwen3-32b --tokens 2048 --micro-batch 1 --accumulation 1 --dropout 0 --recompute
for users in 1 2 5 8 16 32 64 128; do
  measure "decode 8b q4_k_m, $users users" decode --shape qwen3-8b --tokens 512 --users "$users"
done
measure "prefill 8b q4_k_m 128" prefill --shape qwen3-8b --tokens 128
measure "prefill 8b q4_k_m 512" prefill --shape qwen3-8b --tokens 512
measure "prefill 8b q4_k_m 4096" prefill --shape qwen3-8b --tokens 4096
for users in 1 8 64; do
  measure "decode 8b nf4 + adapter, $users users" decode --shape qwen3-8b --weights nf4 --adapter --tokens 512 --users "$users"
done
measure "decode 8b q8_0" decode --shape qwen3-8b --weights q8_0 --tokens 512
measure "decode 8b bf16" decode --shape qwen3-8b --weights bf16 --tokens 512
exit $failed
