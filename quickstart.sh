#!/usr/bin/env bash
# From a fresh clone to a tuned and served model: installs what the build needs, builds Onggi, and runs all seven stages
# on the small model in models/onggi-mini. Safe to run again: finished steps are skipped.
#
#   ./quickstart.sh [key=value ...]     further settings for `onggi run`, e.g. training.max_steps=20
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
. tools/setup.sh

started=$SECONDS
say "1/3 Packages: the compiler and the libraries that Onggi is built with"
install_packages "to build Onggi" "${build_packages[@]}"
packages_seconds=$((SECONDS - started))

say "2/3 Building Onggi (minutes the first time, seconds after)"
build_started=$SECONDS
build_release -DONGGI_TESTS=OFF -- onggi
ln -sfn build/release/onggi onggi
build_seconds=$((SECONDS - build_started))

say "3/3 All seven stages on the embedded model"
run_started=$SECONDS
./onggi run --config configs/mini.toml "$@"
run_seconds=$((SECONDS - run_started))

say "Done in $((SECONDS - started)) s: packages $packages_seconds s, build $build_seconds s, the seven stages $run_seconds s"
cat <<'TEXT'
Chat with the tuned model here:   ./onggi chat --model outputs/onggi-mini-finetune-q4_k_m.gguf
Serve it:                         ./onggi serve --config configs/mini.toml
  then ask:                       curl http://localhost:8000/chat -H 'Content-Type: application/json' \
                                       -d '{"message": "안녕하세요!"}'
  and see:                        http://localhost:8000/dashboard
Your own model and data:          copy onggi.toml to my.toml, edit it, then ./onggi run --config my.toml
TEXT
