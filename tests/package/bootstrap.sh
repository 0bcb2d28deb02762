#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# bootstrap.sh <repository>: cmake/bootstrap.sh on machines with and without the packages and the rights to install them,
# played by fake dpkg-query, apt-get, id and sudo.
set -euo pipefail

script=$1/cmake/bootstrap.sh
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/bin"
fake() { printf '#!/bin/bash\n%s\n' "$2" >"$work/bin/$1" && chmod +x "$work/bin/$1"; }
fake dpkg-query 'grep -q -x -F "${@: -1}" "$FAKE/installed" && printf installed'
fake id 'cat "$FAKE/uid"'
fake sudo '[ -e "$FAKE/sudo" ] && { shift; echo "sudo $*" >>"$FAKE/calls"; exec "$@"; }'
fake apt-get 'echo "apt-get $* DEBIAN_FRONTEND=$DEBIAN_FRONTEND" >>"$FAKE/calls"
              case " $* " in *" install "*) printf "%s\n" "$@" >>"$FAKE/installed" ;; esac'
export FAKE=$work PATH=$work/bin:$PATH

failures=0
check() { if ! "${@:2}"; then printf 'FAILED: %s\n' "$1"; sed 's/^/    /' "$work/output" "$work/calls"; failures=$((failures + 1)); fi; }
# machine <uid> <sudo: yes or no> <installed package...>
machine() {
  rm -f "$work/sudo"
  echo "$1" >"$work/uid"
  [ "$2" = no ] || touch "$work/sudo"
  printf '%s\n' "${@:3}" >"$work/installed"
  : >"$work/calls"
}
bootstrap() { status=0; bash "$script" "$@" >"$work/output" 2>&1 </dev/null || status=$?; }
all=(doctest-dev libbenchmark-dev libxsimd-dev libeigen3-dev nlohmann-json3-dev libcli11-dev)

machine 0 no "${all[@]}"
bootstrap setup
check "nothing missing: succeeds" [ "$status" -eq 0 ]
check "nothing missing: apt-get is not called" [ ! -s "$work/calls" ]

machine 0 no "${all[@]:2}"
bootstrap setup
check "root: succeeds" [ "$status" -eq 0 ]
check "root: the lists are updated first" grep -q '^apt-get .*update' <(head -n 1 "$work/calls")
check "root: only what is missing is installed, and nothing is asked" \
  grep -q 'install -y --no-install-recommends doctest-dev libbenchmark-dev DEBIAN_FRONTEND=noninteractive$' <(sed -n 2p "$work/calls")
check "root: no other call" [ "$(wc -l <"$work/calls")" -eq 2 ]
bootstrap setup
check "root, a second time: nothing is done" [ "$(wc -l <"$work/calls")" -eq 2 ]

machine 1000 yes "${all[@]:1}"
bootstrap setup ci
check "sudo: succeeds" [ "$status" -eq 0 ]
check "sudo: apt-get runs through it" grep -q '^sudo env DEBIAN_FRONTEND=noninteractive apt-get .*install .* doctest-dev clang-14 libclang-rt-14-dev clang-format-14 g++-aarch64-linux-gnu qemu-user python3-venv$' "$work/calls"

machine 1000 no "${all[@]:3}"
bootstrap setup
check "no rights: fails" [ "$status" -ne 0 ]
check "no rights: says what to run" \
  grep -q 'apt-get install --no-install-recommends doctest-dev libbenchmark-dev libxsimd-dev$' "$work/output"
check "no rights: calls nothing" [ ! -s "$work/calls" ]

bootstrap --help
check "--help: succeeds" [ "$status" -eq 0 ]
bootstrap
check "no command: fails" [ "$status" -ne 0 ]
bootstrap destroy
check "unknown command: fails" [ "$status" -ne 0 ]

[ "$failures" -eq 0 ] || exit 1
echo "bootstrap.sh does what it must on every machine"
