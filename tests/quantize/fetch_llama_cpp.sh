#!/usr/bin/env bash
# Installs the real llama.cpp (node-llama-cpp with its prebuilt CPU binary), which the tests compare with, into
# build/npm/. Does nothing where it is already there. Needs npm.
set -euo pipefail
cd "$(dirname "$0")/../.."

readonly LLAMA_CPP=3.22.1
readonly FOLDER=build/npm
readonly STAMP="$FOLDER/llama-cpp-$LLAMA_CPP"

if [[ -e $STAMP ]]; then exit 0; fi
if ! command -v npm > /dev/null; then
  echo "fetch_llama_cpp.sh: npm is missing; install the packages nodejs and npm, then run this again" >&2
  exit 1
fi
mkdir -p "$FOLDER"
echo '{"private": true}' > "$FOLDER/package.json"
# --omit=optional: the binaries for GPUs are not wanted. --ignore-scripts: the prebuilt binary needs no install step, and none of the packages gets to run one.
npm install --prefix "$FOLDER" --ignore-scripts --omit=optional --no-audit --no-fund --loglevel=error \
  "node-llama-cpp@$LLAMA_CPP" "@node-llama-cpp/linux-x64@$LLAMA_CPP"
touch "$STAMP"
