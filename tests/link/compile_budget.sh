#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# compile_budget.sh <header limit in ms> <kernel limit in ms> <compiler> [flags...]
#
# What `#include <nibble/nibble.hpp>` costs in an empty file at -O0, processor time, median of three compilations: the
# budget is 2000 ms on an idle machine. And what an object with every kernel of one instruction set costs at -O3: budget
# 60 s. The limits leave room for busy and slower machines.
set -euo pipefail
export LC_ALL=C TIMEFORMAT='%U %S'

header_limit=$1 kernel_limit=$2
shift 2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
echo '#include <nibble/nibble.hpp>' >"$work/empty.cpp"
cat >"$work/kernels.cpp" <<'EOF'
#include <nibble/nibble.hpp>
void all_kernels(nibble::span2d<const float> X, const nibble::packed_view& W, nibble::span2d<float> Y,
                 const nibble::gemm_options& options, const nibble::context& ctx) {
  nibble::multiply(X, W, Y, options, ctx);
}
EOF

# compile <file> <flags...>: milliseconds of processor time.
compile() {
  local file=$1
  shift
  { time "$@" -c "$work/$file.cpp" -o "$work/$file.o" 2>"$work/errors"; } 2>"$work/time" || { cat "$work/errors"; exit 1; }
  awk '{ printf "%d\n", 1000 * ($1 + $2) }' "$work/time"
}

header=$(for _ in 1 2 3; do compile empty "$@" -O0; done | sort -n | sed -n 2p)
kernels=$(compile kernels "$@" -O3)
failed=0
printf 'nibble.hpp in an empty file: %s ms of processor time (budget 2000 ms, limit here %s ms)\n' "$header" "$header_limit"
printf 'all kernels of one set: %s ms of processor time (budget 60000 ms, limit here %s ms)\n' "$kernels" "$kernel_limit"
[ "$header" -le "$header_limit" ] || { echo "FAILED: too expensive to include"; failed=1; }
[ "$kernels" -le "$kernel_limit" ] || { echo "FAILED: too expensive to compile"; failed=1; }
exit $failed
