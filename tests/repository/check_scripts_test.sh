#!/usr/bin/env bash
# tools/check_layers and tools/check_paths find what they are for: small made-up repositories, one fault each.
set -euo pipefail
tools=$(cd "$(dirname "${BASH_SOURCE[0]}")/../../tools" && pwd -P)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failures=0

# A repository with one file of src/ besides what every case has.
repository() {  # path, contents
  rm -rf "$work/r"
  mkdir -p "$work/r/src/base" "$work/r/src/kernels/cuda" "$work/r/docs"
  echo '#include "base/error.h"' >"$work/r/src/base/error.cc"
  mkdir -p "$work/r/$(dirname "$1")"
  printf '%s\n' "$2" >"$work/r/$1"
}
expect() {  # pass|fail, script, text of the message
  local status=pass output
  output=$("$tools/$2" "$work/r" 2>&1) || status=fail
  if [ "$status" != "$1" ] || ! grep -qF -- "$3" <<<"$output"; then
    echo "wanted $1 with \"$3\", got $status: $output"
    failures=$((failures + 1))
  fi
}

repository src/model/model.cc '#include "kernels/table.h"'
expect pass check_layers 'keep the layers'
repository src/base/error.h '#include "tensor/tensor.h"'
expect fail check_layers 'src/base/error.h:1: base may not include tensor/tensor.h'
repository src/kernels/cpu/linear.cc '#include "kernels/ref/ref.h"'
expect fail check_layers 'kernels/cpu may not include kernels/ref/ref.h'
repository src/kernels/table.cc '#include "kernels/cpu/cpu.h"'
expect pass check_layers 'keep the layers'
repository src/kernels/table.h '#include "kernels/cpu/cpu.h"'
expect fail check_layers 'kernels may not include kernels/cpu/cpu.h'
repository src/merge/merge.cc '#include "model/config.h"'
expect pass check_layers 'keep the layers'
repository src/merge/merge.cc '#include "model/training.h"'
expect fail check_layers 'merge may not include model/training.h'
repository src/serve/http.cc '#include "train/trainer.h"'
expect fail check_layers 'serve may not include train/trainer.h'
repository src/model/model.cc '#include <cuda_runtime.h>'
expect fail check_layers 'CUDA headers belong to'
repository src/kernels/cuda/gemm.cu '#include <cuda_runtime.h>'
expect pass check_layers 'keep the layers'
repository src/other/file.cc '#include "base/error.h"'
expect fail check_layers 'the folder other is not in the table'
repository src/base/CMakeLists.txt 'onggi_library(base LINKS onggi_tensor)'
expect fail check_layers 'the library base may not link tensor'
repository src/train/CMakeLists.txt 'onggi_library(train
  LINKS onggi_model onggi_config)'
expect pass check_layers 'keep the layers'

repository README.md 'See `src/base/error.cc`, [it](docs) and [the site](https://example.org); your `data/my.jsonl`.'
expect pass check_paths '2 paths exist'
repository README.md 'See `src/base/missing.cc`.'
expect fail check_paths 'names src/base/missing.cc'
repository docs/page.md 'See [that](../src/nothing.md).'
expect fail check_paths 'which does not exist'
repository docs/page.md 'All of `src/*/error.cc`.'
expect pass check_paths '1 paths exist'

[ "$failures" -eq 0 ] && echo "the checks find what they are for"
exit "$((failures > 0))"
