#!/usr/bin/env bash
# Everything that CI runs: format, clippy with warnings as errors, all tests, docs, shell lint, unit-file check.
set -euo pipefail
cd "$(dirname "$0")/.."

step() { printf '\n== %s\n' "$*"; }

# Installs a Debian package when a tool of a fresh machine is missing.
need() {
  command -v "$1" >/dev/null && return 0
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    { apt-get update && apt-get install --yes --no-install-recommends "$2"; } >/dev/null
  fi
  command -v "$1" >/dev/null || { echo "$0: $1 is missing; install the package $2" >&2; exit 1; }
}

need git git
need sqlite3 sqlite3
need python3 python3
need gcc gcc
need shellcheck shellcheck

step "format"
cargo fmt --all --check

step "clippy"
cargo clippy --workspace --all-targets --locked -- --deny warnings

step "tests"
# Whole-system tests run the binaries of this build.
cargo build --workspace --locked
cargo test --workspace --locked --no-fail-fast

step "docs"
RUSTDOCFLAGS="--deny warnings" cargo doc --workspace --no-deps --locked --quiet

step "shell lint"
git ls-files -z -- '*.sh' '.ci/run' | xargs -0 shellcheck

step "unit files"
if compgen -G 'systemd/*.service' >/dev/null; then
  need systemd-analyze systemd
  tests/units.sh
fi

step "all green"
