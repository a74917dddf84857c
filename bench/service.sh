#!/usr/bin/env bash
# What clients of a service get over HTTP: tokens per second and the time to the first token, for several numbers of
# users with short prompts, then with long ones.
#
#   bench/service.sh PROGRAM MODEL.gguf [arguments of onggi serve]
#   e.g. bench/service.sh build/cuda/onggi qwen3-8b-q4_k_m.gguf --device cuda
set -euo pipefail
program=$1 model=$2
shift 2

log=$(mktemp)
"$program" serve --model "$model" --port 0 --ollama-port 0 "$@" >"$log" 2>&1 &
server=$!
trap 'kill "$server" 2>/dev/null; wait "$server" 2>/dev/null; rm -f "$log"' EXIT
until grep -q 'GET .*/health' "$log"; do
  kill -0 "$server" 2>/dev/null || { cat "$log"; exit 1; }
  sleep 0.1
done
grep -v http "$log"
url=$(grep -o 'http://[^ ]*/health' "$log" | head -1)
url=${url%/health}
load() { "$program" loadtest --url "$url" "$@"; }

load --users 1 --requests 1 --max-tokens 16 >/dev/null
echo "prompts of about 20 tokens, answers of 256:"
load --users 1,2,5,8,32,64 --requests 4 --max-tokens 256
for words in 400 1500; do
  echo "prompts of $words random words, answers of 64 tokens:"
  load --users 1,8,32 --requests 3 --max-tokens 64 --prompt-words "$words"
done
