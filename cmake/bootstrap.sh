#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: bash cmake/bootstrap.sh <command> [arguments...]

  study [arguments]   install what is missing, build, run nibble-study with the arguments
  test  [arguments]   install what is missing, build, run the test suite; arguments go to ctest
  bench [arguments]   install what is missing, build, run nibble-bench with the arguments
  setup [ci]          only install what is missing; with `ci` what .ci/run needs as well

Made for Debian 12 and its like: missing packages are installed with apt-get as root or through `sudo -n`; without these
rights the line to run is printed. Nothing else on the machine is changed, and running it twice does no harm. Builds go
to build/release and build/dev. NIBBLE_JOBS sets the number of build jobs, CXX the compiler of a fresh build folder.
TEXT
}

say() { printf 'bootstrap: %s\n' "$*"; }
die() { printf 'bootstrap: %s\n' "$*" >&2; exit 2; }

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
jobs=${NIBBLE_JOBS:-$(nproc)}

installed() {
  [ "$(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

# A tool counts wherever it comes from, a library only as the package that CMake finds.
cmake_is_new_enough() {
  command -v cmake >/dev/null && [ "$(printf '%s\n' 3.25 "$(cmake --version | sed -n '1s/[^0-9]*//p')" | sort -V | head -n 1)" = 3.25 ]
}

missing_packages() {
  if [ -z "${CXX:-}" ] && ! command -v g++ >/dev/null; then echo g++; fi
  cmake_is_new_enough || echo cmake
  command -v ninja >/dev/null || echo ninja-build
  command -v gnuplot >/dev/null || echo gnuplot-nox
  for package in doctest-dev libbenchmark-dev libxsimd-dev libeigen3-dev nlohmann-json3-dev libcli11-dev "$@"; do
    installed "$package" || echo "$package"
  done
}

# setup [package...]: makes sure that the packages above and the named ones are there.
setup() {
  command -v dpkg-query >/dev/null && command -v apt-get >/dev/null || die "this script knows apt only. Install g++ >= 12 \
(or clang >= 14), CMake >= 3.25, ninja, gnuplot and the development files of doctest, Google Benchmark, xsimd, Eigen, \
nlohmann/json and CLI11 in this system's way, then use the CMake presets: see CONTRIBUTING.md"
  local missing
  mapfile -t missing < <(missing_packages "$@")
  if [ ${#missing[@]} -eq 0 ]; then
    say "all packages are there"
    return
  fi
  local as_root=()
  if [ "$(id -u)" -ne 0 ]; then
    if command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
      as_root=(sudo -n)
    else
      die "packages are missing, and this user may not install them. Run as root:
  apt-get update && apt-get install --no-install-recommends ${missing[*]}"
    fi
  fi
  say "installing ${missing[*]}"
  local apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=300)
  "${apt[@]}" update </dev/null || say "apt-get update failed; trying with the package lists that are there"
  "${apt[@]}" install -y --no-install-recommends "${missing[@]}" </dev/null \
    || die "apt-get could not install: ${missing[*]}"
  cmake_is_new_enough || die "CMake $(cmake --version | sed -n '1s/[^0-9]*//p') is too old: 3.25 or later is needed"
}

# build <preset> [target...]
build() {
  local preset=$1
  shift
  cd "$root"
  cmake --preset "$preset"
  cmake --build --preset "$preset" --parallel "$jobs" ${1:+--target "$@"}
}

# run_program <name> [arguments...]
run_program() {
  local program=build/release/bin/$1
  [ -x "$root/$program" ] || die "$program was not built: see the lines of CMake above"
  say "running $program ${*:2}"
  cd "$root"
  exec "$program" "${@:2}"
}

command=${1:-}
[ $# -eq 0 ] || shift
case $command in
  setup)
    case ${1:-} in
      "") setup ;;
      ci) setup clang-14 clang-format-14 ;;
      *) die "setup: unknown argument '$1'" ;;
    esac
    ;;
  study)
    setup
    build release nibble-study
    run_program nibble-study "$@"
    ;;
  bench)
    setup
    build release nibble-bench
    run_program nibble-bench "$@"
    ;;
  test)
    setup
    build dev
    cd "$root"
    exec ctest --preset dev --parallel "$jobs" "$@"
    ;;
  -h | --help | help)
    usage
    ;;
  *)
    usage >&2
    exit 2
    ;;
esac
