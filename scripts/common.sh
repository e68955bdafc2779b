# shellcheck shell=bash
# Sourced by the scripts here: the lab's names and words, pinned tools, the build.

cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.." || exit
. lab/env.sh
. lab/parts/common.sh
die() { printf '%s: %s\n' "${0##*/}" "$*" >&2; exit 1; } # the lab's functions call it too

NEXTEST=0.9.143 DENY=0.20.2 CYCLONEDX=0.5.7 TARPAULIN=0.37.5
# Outside the clone and by version: a second clone builds no tool again, a new pin does.
TOOLS=${XDG_CACHE_HOME:-$HOME/.cache}/gmsa-sidecar/tools
PATH=$TOOLS/cargo-nextest-$NEXTEST/bin:$TOOLS/cargo-deny-$DENY/bin:$TOOLS/cargo-cyclonedx-$CYCLONEDX/bin:$TOOLS/cargo-tarpaulin-$TARPAULIN/bin:$PATH:${CARGO_HOME:-$HOME/.cargo}/bin

# Builds what is run and leaves its path in $binary: the static binary, or where that cannot be built here the debug one.
# shellcheck disable=SC2034 # for the caller
build_sidecar() {
  local code=0
  binary=$(scripts/build-static) || code=$?
  case $code in
    0) ;;
    3)
      echo 'static build skipped'
      cargo build --locked
      binary=target/debug/gmsa-sidecar
      ;;
    *) die 'the static binary does not build' ;;
  esac
}
