#!/usr/bin/env bash
# tools/setup.sh with stand-ins for dpkg-query, apt-get, id and sudo: what is installed is left alone, what is missing
# is installed as root or with sudo, and without either a sentence says what to do.
set -euo pipefail
setup=$(cd "$(dirname "${BASH_SOURCE[0]}")/../../tools" && pwd -P)/setup.sh
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/bin"
for program in bash env cat awk nproc dirname; do ln -s "$(command -v "$program")" "$work/bin/$program"; done

stand_in() {  # name, body
  printf '#!/bin/bash\n%s\n' "$2" >"$work/bin/$1"
  chmod +x "$work/bin/$1"
}
stand_in dpkg-query 'case "${@: -1}" in here-*) printf "install ok installed";; removed-*) printf "deinstall ok config-files";; *) exit 1;; esac'
stand_in apt-get 'echo "apt-get $*" >>"$CALLS"'
stand_in sudo 'echo "sudo" >>"$CALLS"; exec "$@"'

failures=0
# case NAME UID PACKAGE...: runs install_packages; leaves its output in $output and the programs called in $calls.
run_case() {
  local name=$1 uid=$2
  shift 2
  stand_in id "echo $uid"
  : >"$work/calls"
  status=0
  output=$(CALLS=$work/calls PATH=$work/bin bash -c 'set -euo pipefail; . "$1"; shift; install_packages "for a test" "$@"' \
    bash "$setup" "$@" 2>&1) || status=$?
  calls=$(cat "$work/calls")
}
expect() {  # name, condition...
  local name=$1
  shift
  "$@" && return
  echo "$name: status $status, output: $output, calls: $calls"
  failures=$((failures + 1))
}
contains() { [[ $1 == *"$2"* ]]; }

run_case installed 0 here-a here-b
expect "nothing to do" [ "$status" -eq 0 -a -z "$calls" ]
run_case root 0 here-a absent-b removed-c
expect "root installs" contains "$calls" 'install -y --no-install-recommends absent-b removed-c'
expect "root needs no sudo" [ "${calls#*sudo}" = "$calls" ]
expect "says what" contains "$output" 'Installing 2 packages for a test: absent-b removed-c'
run_case user 1000 absent-b
expect "a user takes sudo" contains "$calls" 'sudo'
expect "and installs" contains "$calls" 'install -y --no-install-recommends absent-b'
rm "$work/bin/sudo"
run_case helpless 1000 absent-b
expect "neither root nor sudo" [ "$status" -ne 0 -a -z "$calls" ]
expect "says what to do" contains "$output" 'apt-get install absent-b'
rm "$work/bin/dpkg-query"
run_case elsewhere 0 absent-b
expect "another system" [ "$status" -ne 0 ]
expect "names the packages" contains "$output" 'absent-b'

[ "$failures" -eq 0 ] && echo "packages are installed as they should"
exit "$((failures > 0))"
