#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# numeric_law.sh <source> <include dir> <work folder> <compiler>...
#
# Compiles numeric_law.cpp with every compiler: without optimization and without hardware FMA, where nothing contracts a * b + c;
# at -O3 with hardware FMA and contraction allowed; and for this CPU. All programs must print the same digest. Where the CPU has
# no FMA those programs are only compiled. (-fno-tree-pta saves gcc's time and is no question of arithmetic.)
set -euo pipefail

source=$1 include=$2 work=$3
shift 3
rm -rf "$work"
mkdir -p "$work"

has_fma=no
if grep -q -w fma /proc/cpuinfo; then has_fma=yes; fi

# one <compiler> <flags>: a line "<digest> <compiler> <flags>", or "failed ..."
one() {
  local name quicker=-fno-tree-pta
  [[ $1 != *clang* ]] || quicker=
  name=$(printf '%s%s' "$1" "$2" | tr -c 'A-Za-z0-9\n' _)
  # shellcheck disable=SC2086  # flags are several words
  if ! $1 -std=c++20 $2 $quicker -I"$include" "$source" -o "$work/$name" >"$work/$name.log" 2>&1; then
    printf 'failed   %s %s: does not compile: %s\n' "$1" "$2" "$(grep -m 1 error "$work/$name.log")"
  elif [[ $2 == *-mfma* && $has_fma = no ]]; then
    printf 'compiled %s %s\n' "$1" "$2"
  else
    printf '%s %s %s\n' "$("$work/$name" || echo failed)" "$1" "$2"
  fi
}
export -f one
export source include work has_fma

for compiler in "$@"; do
  for flags in -O0 "-O3 -mfma -ffp-contract=fast" "-O3 -march=native"; do
    printf '%s\0%s\0' "$compiler" "$flags"
  done
done | xargs -0 -n 2 -P 2 bash -c 'one "$1" "$2"' - | sort -k 2 | tee "$work/digests"

distinct=$(grep -v '^compiled ' "$work/digests" | cut -d ' ' -f 1 | sort -u | wc -l)
programs=$(grep -c -v '^compiled ' "$work/digests")
if grep -q '^failed' "$work/digests" || [ "$distinct" -ne 1 ] || [ "$programs" -lt 2 ]; then
  printf 'FAILED: %s programs gave %s different digests\n' "$programs" "$distinct"
  exit 1
fi
printf '%s programs, one digest\n' "$programs"
