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

# may_install: sets as_root to the words that make a command run as root; fails when this user has no such rights.
may_install() {
  as_root=()
  [ "$(id -u)" -eq 0 ] && return
  as_root=(sudo -n)
  command -v sudo >/dev/null && sudo -n true 2>/dev/null
}

# apt_install <package...>
apt_install() {
  local apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=300)
  say "installing $*"
  "${apt[@]}" update </dev/null || say "apt-get update failed; trying with the package lists that are there"
  "${apt[@]}" install -y --no-install-recommends "$@" </dev/null
}

# setup [package...]: makes sure that the packages above and the named ones are there.
setup() {
  if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
    die "this script knows apt only. Install g++ >= 12 (or clang >= 14), CMake >= 3.25, ninja, gnuplot and the development \
files of doctest, Google Benchmark, xsimd, Eigen, nlohmann/json and CLI11 in this system's way, then use the CMake presets: \
see CONTRIBUTING.md"
  fi
  local missing
  mapfile -t missing < <(missing_packages "$@")
  if [ ${#missing[@]} -eq 0 ]; then
    say "all packages are there"
    return
  fi
  may_install || die "packages are missing, and this user may not install them. Run as root:
  apt-get update && apt-get install --no-install-recommends ${missing[*]}"
  apt_install "${missing[@]}" || die "apt-get could not install: ${missing[*]}"
  cmake_is_new_enough || die "CMake 3.25 or later is needed, this system has $(cmake --version | head -n 1)"
}

# setup_optional <what is lost> <package...>: packages that nothing fails without; without the rights to install them, too.
setup_optional() {
  local loss=$1 missing=() package
  shift
  for package in "$@"; do installed "$package" || missing+=("$package"); done
  [ ${#missing[@]} -eq 0 ] && return
  if may_install; then
    apt_install "${missing[@]}" && return
    for package in "${missing[@]}"; do  # one that this system lacks must not keep the others out
      installed "$package" || apt_install "$package" || say "going on without $package: $loss"
    done
  else
    say "going on without ${missing[*]}: $loss"
  fi
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
      ci) setup clang-14 libclang-rt-14-dev clang-format-14 g++-aarch64-linux-gnu qemu-user python3-venv ;;
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
    setup_optional "its lines of the tables are missing" libopenblas-dev libdnnl-dev libgemmlowp-dev libxnnpack-dev \
      libpthreadpool-dev
    build release nibble-bench
    run_program nibble-bench "$@"
    ;;
  test)
    setup
    setup_optional "the test of its adaptor is left out" libtbb-dev
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
