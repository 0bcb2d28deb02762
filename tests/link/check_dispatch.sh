#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# check_dispatch.sh <nm> <objdump> <object of nibble::dispatch>...
#
# Each instance exports one strong symbol, its constant `table`, and defines weak symbols only in an inline namespace that
# names its instruction set and that no other object has: the linker then cannot give code for one CPU to a unit for
# another. The object that chooses exports its three functions. It and the first instance, the baseline, hold no instruction
# that other instances have and not every CPU: with VEX or EVEX prefix, on Arm dot products and Armv8.1's atomics.
set -euo pipefail
export LC_ALL=C

nm=$1 objdump=$2
shift 2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failures=0
complain() { printf 'FAILED: %s\n' "$*"; failures=$((failures + 1)); }

# The compilers' own: clang's call of std::terminate, the reference to the personality routine of exceptions.
compilers_own='^(__clang_call_terminate|DW\.ref\.__gxx_personality_v0)$'
weak() { "$nm" --defined-only "$1" | awk '$2 ~ /^[wWvVu]$/ { print $3 }' | grep -v -E "$compilers_own" | sort -u || true; }
strong() { "$nm" --defined-only "$1" | awk '$2 ~ /^[A-TX-Z]$/ { print $3 }' | sort -u; }
case $("$objdump" -f "$1") in
  *aarch64*) beyond='[[:space:]](u?sdot|udot|(cas|swp|ldadd)[alh]*)[[:space:]]' ;;
  *) beyond='^ *[0-9a-f]+:[[:space:]]+((26|2e|36|3e|64|65|67) )*(c4|c5|62) ' ;;
esac
beyond_count() { "$objdump" -d -w "$1" | grep -c -E "$beyond" || true; }

baseline=
instances=0
: >"$work/namespaces"
for object in "$@"; do
  name=$(basename "$object")
  tier=${name%%.*}
  weak "$object" >"$work/weak"
  # The inline namespace as it stands in mangled names, length first: 22v0_1_sse2_xsimd_assert...
  grep -o -E '6nibble[0-9]+v[0-9]+_[0-9]+_[a-z0-9_]+' "$work/weak" |
    sed -E 's/^6nibble([0-9]+)(.*)$/\1 \2/' | awk '{ print substr($2, 1, $1) }' | sort -u >"$work/abi"
  abi=$(cat "$work/abi")
  if [ "$tier" = choose ]; then
    strong "$object" | c++filt | sed 's/(.*//' | tr '\n' ' ' >"$work/strong"
    [ "$(cat "$work/strong")" = "nibble::dispatch_tier nibble::dispatch_chosen nibble::dispatch_forced " ] ||
      complain "$name exports: $(cat "$work/strong")"
  else
    instances=$((instances + 1))
    [ -n "$baseline" ] || baseline=$object
    strong "$object" | c++filt >"$work/strong"
    [ "$(cat "$work/strong")" = "nibble::dispatch_${tier}::table" ] ||
      complain "$name exports, beside its table: $(head -n 20 "$work/strong")"
    echo "$abi" >>"$work/namespaces"
    [ "$(beyond_count "$object")" -gt 0 ] || [ "$object" = "$baseline" ] ||
      complain "no instruction beyond the baseline in $name: this check sees nothing"
  fi
  [ "$(wc -l <"$work/abi")" = 1 ] || complain "$name has not one inline namespace: $abi"
  grep -v -F "$abi" "$work/weak" >"$work/nameless" || true
  [ ! -s "$work/nameless" ] || complain "weak symbols of $name outside its namespace: $(c++filt <"$work/nameless" | head -n 20)"
  printf '%-20s %-80s %4s weak symbols\n' "$name" "$abi" "$(wc -l <"$work/weak")"
  if [ "$tier" = choose ] || [ "$object" = "$baseline" ]; then
    [ "$(beyond_count "$object")" = 0 ] || complain "instructions beyond the baseline in $name, which must run everywhere"
  fi
done
[ "$instances" -gt 0 ] || complain "no instance among: $*"
[ "$(sort -u "$work/namespaces" | wc -l)" = "$instances" ] || complain "two instances share an inline namespace"

[ "$failures" -eq 0 ] || { printf '%s failures\n' "$failures"; exit 1; }
printf 'the objects of nibble::dispatch keep their code to themselves\n'
