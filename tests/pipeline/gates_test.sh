#!/usr/bin/env bash
# The parity gates of merge, convert and deploy: all ask the same prompts, in the trained mode and with the configured
# system text; an artefact that is not the trained model stops the run. And kill -9 in the deployment.
#   gates_test.sh PROGRAM
set -euo pipefail
onggi=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fail() {
  echo "FAILED: $*"
  exit 1
}
settings=(--config configs/mini.toml output_dir="$work/out" server.port=18741 server.ollama_port=18742 ollama.register=false
  training.max_steps=40 validation.match_rate=0 validation.compare_base=false validation.max_new_tokens=8
  parity.max_new_tokens=16 parity.prompts=3 loadtest.users='[1]' loadtest.requests_per_user=1 loadtest.max_new_tokens=8
  data.system="당신은 친절한 기술 도우미입니다.")
merged=$work/out/onggi-mini_merged
gguf=$work/out/onggi-mini-finetune-q4_k_m.gguf

# expect CODE PATTERN... -- ARGUMENTS: the exit code, and what the output must say.
expect() {
  local code=$1 status=0 patterns=()
  shift
  while [ "$1" != -- ]; do
    patterns+=("$1")
    shift
  done
  shift
  "$onggi" "$@" >"$work/log" 2>&1 || status=$?
  [ "$status" -eq "$code" ] || { tail -20 "$work/log"; fail "exit code $status instead of $code: onggi $*"; }
  for pattern in "${patterns[@]}"; do
    grep -qE "$pattern" "$work/log" || { tail -20 "$work/log"; fail "no '$pattern' in the output of onggi $*"; }
  done
}
# Zeros in the second quarter of a file: it stays readable, with other weights.
damage() {
  cp "$1" "$work/intact"
  local quarter=$(($(stat -c %s "$1") / 4096))
  dd if=/dev/zero of="$1" bs=1024 seek="$quarter" count="$quarter" conv=notrunc status=none
}
restore() { cp "$work/intact" "$1"; }

echo "== the same prompts at every gate"
expect 0 -- run "${settings[@]}"
hashes=$(grep -o '"prompts_sha256": "[0-9a-f]*"' "$work/out/onggi-mini/run.json")
[ "$(wc -l <<<"$hashes")" -eq 3 ] || fail "merge, convert and deploy should each record their prompts: $hashes"
[ "$(sort -u <<<"$hashes" | wc -l)" -eq 1 ] || fail "the gates asked different prompts: $hashes"

echo "== a damaged merged file does not become a GGUF"
shard=$(ls "$merged"/model-*.safetensors | tail -1)
damage "$shard"
expect 1 "parity gate failed" "$(basename "$shard")" "prompt [123]" -- convert "${settings[@]}"
restore "$shard"
expect 0 -- convert "${settings[@]}"

echo "== a damaged GGUF is not served"
damage "$gguf"
expect 1 "parity gate failed" "$(basename "$gguf")" "prompt [123]" -- run "${settings[@]}"
restore "$gguf"

echo "== each gate by itself stops the run"
expect 1 "parity gate failed: merged" "prompt [123]" -- merge "${settings[@]}" parity.merged.max_kl=0
expect 0 -- merge "${settings[@]}"
expect 1 "parity gate failed: onggi-mini-finetune-q4_k_m.gguf" "prompt [123]" -- convert "${settings[@]}" parity.q4_k.max_kl=0
grep -q '"message": "the parity gate failed' "$work/out/onggi-mini/run.json" || fail "the manifest does not say why"
expect 0 -- convert "${settings[@]}"
expect 1 "parity gate failed: the service at" "prompt [123]" -- deploy "${settings[@]}" parity.service.max_kl=0

echo "== kill -9 in the deployment, then run"
"$onggi" deploy "${settings[@]}" loadtest.requests_per_user=1000 >"$work/killed.log" 2>&1 &
pid=$!
for _ in $(seq 300); do
  grep -q "the service at" "$work/killed.log" && break
  sleep 0.1
done
grep -q "the service at" "$work/killed.log" || fail "the deployment did not reach its load test"
kill -9 "$pid" 2>/dev/null || fail "the deployment ended before it was killed"
wait "$pid" 2>/dev/null || true
cp "$gguf" "$work/before.gguf"
expect 0 "done before" "parity +the service at" -- run "${settings[@]}"
[ "$(grep -c 'done before;' "$work/log")" -eq 5 ] || { cat "$work/log"; fail "earlier stages ran again"; }
cmp "$gguf" "$work/before.gguf" || fail "the GGUF changed"
[ -s "$work/out/onggi-mini/deploy_report.json" ] || fail "no report of the deployment"
echo "all passed"
