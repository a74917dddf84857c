#!/usr/bin/env bash
# The whole path on onggi-mini: all stages, a second run that does nothing, kill -9 in the middle, bad use.
#   run_test.sh PROGRAM
set -euo pipefail
onggi=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fail() {
  echo "FAILED: $*"
  exit 1
}
# Free ports are taken where others are in use; the ports here are out of the usual way.
settings=(--config configs/mini.toml server.port=18731 server.ollama_port=18732 ollama.register=false training.max_steps=60
  loadtest.requests_per_user=1)

echo "== all stages"
"$onggi" run "${settings[@]}" output_dir="$work/whole" >"$work/whole.log" 2>&1 || { tail -20 "$work/whole.log"; fail "onggi run"; }
merged=$work/whole/onggi-mini_merged
for file in config.json generation_config.json tokenizer.json vocab.json merges.txt chat_template.jinja \
  tokenizer_config.json special_tokens_map.json added_tokens.json model.safetensors.index.json merge_info.json README.md; do
  [ -s "$merged/$file" ] || fail "the merged folder lacks $file"
done
for file in tokenizer.json vocab.json merges.txt chat_template.jinja tokenizer_config.json; do
  cmp -s "models/onggi-mini/$file" "$merged/$file" || fail "$file is not the base's, byte for byte"
done
[ -s "$work/whole/onggi-mini-finetune-q4_k_m.gguf" ] || fail "no GGUF"
[ -s "$work/whole/onggi-mini-finetune-q4_k_m.Modelfile" ] || fail "no Modelfile"

echo "== again: nothing is left to do before the deployment"
"$onggi" run "${settings[@]}" output_dir="$work/whole" --to convert >"$work/again.log" 2>&1 || fail "the second run"
[ "$(grep -c 'done before;' "$work/again.log")" -eq 5 ] || { cat "$work/again.log"; fail "stages ran again"; }

echo "== kill -9 again and again, then run to the end: the same artefacts"
for pause in 0.6 2 3.5 5 6.5 8; do
  "$onggi" run "${settings[@]}" output_dir="$work/killed" --to convert >"$work/killed.log" 2>&1 &
  pid=$!
  sleep "$pause"
  kill -9 "$pid" 2>/dev/null || true
  wait "$pid" 2>/dev/null || true
done
"$onggi" run "${settings[@]}" output_dir="$work/killed" --to convert >"$work/killed.log" 2>&1 || { tail -20 "$work/killed.log"; fail "the run after kill -9"; }
for file in onggi-mini/adapter_model.safetensors onggi-mini-finetune-q4_k_m.gguf; do
  cmp "$work/whole/$file" "$work/killed/$file" || fail "$file differs after kill -9"
done
for shard in "$merged"/model-*.safetensors; do
  cmp "$shard" "$work/killed/onggi-mini_merged/$(basename "$shard")" || fail "$(basename "$shard") differs after kill -9"
done

echo "== two of the five rows are set aside; the loss on them stops the training, and the best checkpoint stays"
# So large a rate ruins the model at once: no evaluation is better than the first.
"$onggi" run "${settings[@]}" output_dir="$work/split" --to train data.validation_split=0.4 training.learning_rate=0.5 \
  training.max_steps=10 training.eval_steps=1 training.early_stopping_patience=2 training.load_best_model_at_end=true \
  >"$work/split.log" 2>&1 || { tail -20 "$work/split.log"; fail "training with a validation split"; }
adapter=$work/split/onggi-mini
for result in '"steps": 3' '"stopped_early": true' '"best_step": 1'; do
  grep -q "$result" "$adapter/run.json" || fail "no $result in the manifest"
done
[ "$(grep -c '"eval_loss"' "$adapter/training_log.jsonl")" -eq 3 ] || fail "not each of the three steps was evaluated"
# Four samples a step of the three that are left.
head -1 "$adapter/training_log.jsonl" | grep -qE '"epoch": ?1\.333' || fail "the first step did not see 4/3 epochs: $(head -1 "$adapter/training_log.jsonl")"
cmp "$adapter/adapter_model.safetensors" "$adapter/checkpoint-1/adapter_model.safetensors" || fail "the best checkpoint did not stay"

echo "== exit codes"
expect() {
  local code=$1 status=0
  shift
  "$onggi" "$@" >"$work/out.log" 2>&1 || status=$?
  [ "$status" -eq "$code" ] || { cat "$work/out.log"; fail "exit code $status instead of $code: onggi $*"; }
}
expect 2 run --config configs/mini.toml training.max_step=3
expect 3 run --config configs/mini.toml output_dir="$work/none" data.train_file=missing.jsonl
expect 1 run --config configs/mini.toml output_dir="$work/none" training.max_steps=1 --to validate
expect 4 run --config configs/mini.toml output_dir="$work/none" memory_budget=20MB training.max_steps=2

if [ "$(id -u)" -eq 0 ] && mkdir "$work/small" && mount -t tmpfs -o size=6m tmpfs "$work/small" 2>/dev/null; then
  echo "== a full disk, then more room"
  trap 'umount "$work/small"; rm -rf "$work"' EXIT
  expect 4 run "${settings[@]}" output_dir="$work/small" training.max_steps=4 training.save_steps=1 --to train
  [ -z "$(find "$work/small" -name '*.tmp' -type f)" ] || fail "temporary files are left"
  mount -o remount,size=200m "$work/small"
  expect 0 run "${settings[@]}" output_dir="$work/small" training.max_steps=4 training.save_steps=1 --to train
else
  echo "== the full disk is not tried: no tmpfs can be mounted here"
fi
echo "all passed"
