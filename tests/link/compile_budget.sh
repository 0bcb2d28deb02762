#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# compile_budget.sh <limit in ms> <compiler> [flags...]
#
# What `#include <nibble/nibble.hpp>` costs in an empty file at -O0: processor time, median of three compilations. The
# budget is 2000 ms on an idle machine; the limit leaves room for busy and slower ones.
set -euo pipefail
export LC_ALL=C TIMEFORMAT='%U %S'

limit=$1
shift
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
echo '#include <nibble/nibble.hpp>' >"$work/empty.cpp"

for _ in 1 2 3; do
  { time "$@" -O0 -c "$work/empty.cpp" -o "$work/empty.o" 2>"$work/errors"; } 2>>"$work/times" || { cat "$work/errors"; exit 1; }
done
median=$(awk '{ printf "%d\n", 1000 * ($1 + $2) }' "$work/times" | sort -n | sed -n 2p)
printf 'nibble.hpp in an empty file: %s ms of processor time (budget 2000 ms, limit here %s ms)\n' "$median" "$limit"
[ "$median" -le "$limit" ] || { echo "FAILED: too expensive to include"; exit 1; }
