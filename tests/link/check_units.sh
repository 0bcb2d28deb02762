#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# check_units.sh <optimized|unoptimized> <nm> <objdump> <ld> <objects of the baseline unit> <objects of the v3 unit> <program>...
# (objects of a unit: paths with : between them)
#
# The namespace law, read from the machine code. The baseline objects hold no VEX or EVEX instruction; they and the v3 objects
# share no function of nibble outside the inline namespace; and in the linked programs, whatever the order of the
# objects, only functions of the v3 unit hold such instructions.
#
# At -O0 the compiler emits what it inlines otherwise: small templates of the standard library, which no header of ours
# can rename, and the implicit default constructors of the views that stand outside the namespace to cross units. There
# only nibble's other functions are held to the law; units with different -m flags are to be optimized.
set -euo pipefail
export LC_ALL=C

mode=$1 nm=$2 objdump=$3 ld=$4
IFS=: read -r -a baseline <<<"$5"
IFS=: read -r -a v3 <<<"$6"
shift 6
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failures=0
complain() { printf 'FAILED: %s\n' "$*"; failures=$((failures + 1)); }

# Mangled names of the functions with a VEX (c4, c5) or EVEX (62) encoded instruction. In 64-bit code these bytes open
# nothing else; segment and address-size prefixes may stand before them. (GNU and LLVM differ in the space before them.)
vex_functions() {
  "$objdump" -d -w "$@" | awk '
    /^[0-9a-f]+ </ { name = substr($2, 2, length($2) - 3); next }
    /^ *[0-9a-f]+:[ \t]+((26|2e|36|3e|64|65|67) )*(c4|c5|62) / && name != "" { print name; name = "" }' | sort -u
}

# The same of objects, whose thousands of sections objdump takes ten times as long for: merged first, where the linker can.
echo 'SECTIONS { .text : { *(.text .text.*) } }' >"$work/one_section.ld"
vex_functions_of_objects() {
  if "$ld" -r --force-group-allocation -T "$work/one_section.ld" "$@" -o "$work/merged.o" 2>/dev/null; then
    vex_functions "$work/merged.o"
  else
    vex_functions "$@"
  fi
}

weak() { "$nm" --defined-only "$@" | awk '$2 ~ /^[wWvVu]$/ { print $3 }' | sort -u; }
strong() { "$nm" --defined-only "$@" | awk '$2 ~ /^[tT]$/ { print $3 }' | sort -u; }
# The inline namespace of objects, as it stands in mangled names: the one of core::fail.
abi_of() { weak "$@" | sed -n 's/^_ZN6nibble[0-9]*\(v[0-9]*_[0-9]*_[a-z0-9_]*\)4core4failI.*/\1/p' | sort -u; }

baseline_abi=$(abi_of "${baseline[@]}")
v3_abi=$(abi_of "${v3[@]}")
printf 'baseline: %s\nv3:       %s\n' "$baseline_abi" "$v3_abi"
[ "$(wc -w <<<"$baseline_abi")" = 1 ] || complain "the baseline object has not one inline namespace"
[ "$(wc -w <<<"$v3_abi")" = 1 ] || complain "the v3 object has not one inline namespace"
[ "$baseline_abi" != "$v3_abi" ] || complain "both objects have the same inline namespace"

vex_functions_of_objects "${baseline[@]}" >"$work/baseline.vex"
[ ! -s "$work/baseline.vex" ] || complain "VEX or EVEX instructions in the baseline object, in:
$(c++filt <"$work/baseline.vex" | head -n 20)"
vex_functions_of_objects "${v3[@]}" >"$work/v3.vex"
printf 'functions with VEX instructions: 0 must be in the baseline objects, %s are in the v3 objects\n' "$(wc -l <"$work/v3.vex")"
grep -q . "$work/v3.vex" || complain "no VEX instruction in the v3 object: this check sees nothing"

# Shared names. Outside the inline namespace stand, by design, the members of nibble::error: one class for all units.
by_design='^(DW\.ref\.)?_Z(N6nibble5error[CD][0-9]E|T[ISV]N6nibble5errorE)'
[ "$mode" = optimized ] || by_design="$by_design|^_ZN6nibble[0-9]+[a-z0-9_]+C[12]Ev\$"
comm -12 <(weak "${baseline[@]}") <(weak "${v3[@]}") >"$work/shared"
grep -E '^(DW\.ref\.)?_Z(N|NK|T[ISV]N|GVN|ZN|ZNK)6nibble' "$work/shared" | grep -v -E "$by_design" >"$work/shared.nibble" || true
[ ! -s "$work/shared.nibble" ] || complain "functions of nibble that both objects define under one name:
$(c++filt <"$work/shared.nibble" | head -n 20)"
printf 'weak symbols in both objects: %s, of them nibble: %s\n' "$(wc -l <"$work/shared")" "$(wc -l <"$work/shared.nibble")"

# In the programs: VEX only in functions that carry the v3 unit's namespace or that this unit alone defines.
strong "${v3[@]}" >"$work/v3.strong"
for program in "$@"; do
  vex_functions "$program" >"$work/vex"
  { grep -v -F "$v3_abi" "$work/vex" || true; } | comm -23 - "$work/v3.strong" >"$work/outside"
  comm -12 "$work/outside" "$work/shared" >"$work/leaked"
  [ "$mode" = optimized ] || { comm -12 "$work/outside" "$work/shared.nibble" >"$work/leaked"; }
  comm -23 "$work/outside" "$work/shared" >"$work/only_v3"
  printf '%s: %s functions with VEX are of the v3 unit by name, %s more are used by it alone\n' \
    "$(basename "$program")" "$(grep -c -F "$v3_abi" "$work/vex")" "$(wc -l <"$work/only_v3")"
  [ ! -s "$work/leaked" ] || complain "$(basename "$program"): shared with the baseline unit, but compiled for v3:
$(c++filt <"$work/leaked" | head -n 20)"
done

[ "$failures" -eq 0 ] || { printf '%s failures\n' "$failures"; exit 1; }
printf 'the namespace law holds\n'
