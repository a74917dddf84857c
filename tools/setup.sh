# shellcheck shell=bash disable=SC2034
# Shared by quickstart.sh and test.sh (sourced, not run): Debian/Ubuntu packages, the build, and messages.

# What the program is built from, and what its tests need besides.
build_packages=(
  g++ cmake ninja-build pkg-config gettext
  nlohmann-json3-dev libtomlplusplus-dev libcli11-dev libspdlog-dev libfmt-dev libcpp-httplib-dev
  libcurl4-openssl-dev libssl-dev libsqlite3-dev prometheus-cpp-dev libpcre2-dev libutf8proc-dev
  libdnnl-dev ocl-icd-opencl-dev libhwy-dev libjs-chart.js
)
# (ccache: a build with CUDA compiles little but the kernels once more.)
test_packages=(python3 python3-yaml libgtest-dev libgmock-dev libbenchmark-dev clang-format git ccache)

say() { printf '\n== %s\n' "$*"; }
fail() {
  printf '%s\n' "$*" >&2
  exit 1
}

# Prints those of the given packages that are not installed.
missing_packages() {
  local package
  for package in "$@"; do
    [ "$(dpkg-query -W -f='${Status}' "$package" 2>/dev/null)" = 'install ok installed' ] || echo "$package"
  done
}

# install_packages WHY PACKAGE...: installs what is missing, as root or with sudo; does nothing where nothing is.
install_packages() {
  local why=$1 missing as_root=()
  shift
  command -v dpkg-query >/dev/null ||
    fail "This is not Debian or Ubuntu: install the counterparts of these packages, then build with CMake as README.md says: $*"
  mapfile -t missing < <(missing_packages "$@")
  if [ ${#missing[@]} -eq 0 ]; then
    echo "All packages $why are installed."
    return
  fi
  echo "Installing ${#missing[@]} packages $why: ${missing[*]}"
  if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null ||
      fail "Packages are missing and only root can install them. Run as root: apt-get install ${missing[*]}"
    echo "(sudo may ask for your password: only root can install packages)"
    as_root=(sudo)
  fi
  # No questions: a container has nobody to answer.
  local apt=(env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Acquire::Retries=3 -o Dpkg::Use-Pty=0)
  "${as_root[@]}" "${apt[@]}" update
  "${as_root[@]}" "${apt[@]}" install -y --no-install-recommends "${missing[@]}" >/dev/null
}

# Compilers that run at once: one per CPU, but each may take 1.5 GB.
build_jobs() {
  local cpus memory_jobs
  cpus=$(nproc)
  memory_jobs=$(awk '/^MemAvailable:/ { print int($2 / 1500000) }' /proc/meminfo)
  [ "${memory_jobs:-1}" -ge 1 ] || memory_jobs=1
  echo $((cpus < memory_jobs ? cpus : memory_jobs))
}

# The CUDA compiler's path, or nothing. The toolkit's packages do not put it into the PATH.
find_nvcc() {
  command -v nvcc || { [ -x /usr/local/cuda/bin/nvcc ] && echo /usr/local/cuda/bin/nvcc; } || true
}

# build PRESET FOLDER [CMAKE ARGUMENT...] -- [TARGET...]: configures and builds; CMake's own output is shown where it
# fails.
build() {
  local preset=$1 folder=$2 arguments=() targets=()
  shift 2
  while [ $# -gt 0 ] && [ "$1" != -- ]; do
    arguments+=("$1")
    shift
  done
  [ $# -gt 0 ] && shift
  [ $# -gt 0 ] && targets=(--target "$@")
  mkdir -p "$folder"
  # A folder that another checkout configured cannot be used again.
  if [ -f "$folder/CMakeCache.txt" ] && ! grep -qx "CMAKE_HOME_DIRECTORY:INTERNAL=$PWD" "$folder/CMakeCache.txt"; then
    rm -rf "$folder/CMakeCache.txt" "$folder/CMakeFiles"
  fi
  cmake --preset "$preset" -B "$folder" "${arguments[@]}" >"$folder/configure.log" 2>&1 || {
    cat "$folder/configure.log" >&2
    fail "The build could not be configured; the message is above."
  }
  cmake --build "$folder" -j "$(build_jobs)" "${targets[@]}"
}

# build_release [CMAKE ARGUMENT...] -- [TARGET...]
build_release() { build release build/release "$@"; }
