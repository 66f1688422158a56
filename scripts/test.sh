#!/usr/bin/env bash
# Everything that CI runs: format, clippy with warnings as errors, all tests, the real agents, docs, shell lint, unit-file check.
#
#   scripts/test.sh           minutes
#   scripts/test.sh --long    about an hour on two cores: 25 minutes of kills, five of kills beside git gc, 400 sequences for each model,
#                             500 pairs of crash points, 1200 simulated worlds, thousands of wakes and starts, two pages open for 25
#                             minutes of events, three machines with twelve loops; each can be set: SIM_SEEDS=20000 …
#   scripts/test.sh --seeds N only the simulation: N worlds
set -euo pipefail
cd "$(dirname "$0")/.."

long=
case "${1:-}" in
  '') ;;
  --long)
    long=--long
    for each in KILLS_SECONDS=1500 KILLS_GIT_SECONDS=300 CODING_LOOPS_CASES=400 CODING_LOOPS_CRASH_PAIRS=500 SIM_SEEDS=1200 \
      ARCHIVE_KILLS=100 WAKES=3000 STARTS=1000 STEADY_SECONDS=1500 FLEET_LOOPS=4 TEST_PROGRAM_SECONDS=7200; do
      name=${each%%=*}
      [ -n "${!name:-}" ] || export "${each?}"
    done
    ;;
  --seeds)
    case "${2:-}" in '' | *[!0-9]*) echo "$0: --seeds needs a number" >&2; exit 2 ;; esac
    SIM_SEEDS=$2 exec cargo test --locked -p system-tests --test simulation chaos
    ;;
  -h | --help) sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 0 ;;
  *) echo "$0: unknown option $1; try --help" >&2; exit 2 ;;
esac

step() { printf '\n== %s\n' "$*"; }

lists_are_new=
# Installs a Debian package when a tool of a fresh machine is missing, where that can be done.
want() {
  command -v "$1" >/dev/null && return 0
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    if [ -z "$lists_are_new" ]; then
      apt-get update >/dev/null
      lists_are_new=1
    fi
    apt-get install --yes --no-install-recommends "$2" >/dev/null
  fi
  command -v "$1" >/dev/null
}

need() {
  want "$@" || { echo "$0: $1 is missing; install the package $2" >&2; exit 1; }
}

need git git
need sqlite3 sqlite3
need python3 python3
need gcc gcc
need strip binutils
need shellcheck shellcheck
# Without it the tests that boot one say that they are skipped.
want systemd-analyze systemd || echo "$0: systemd cannot be had here; nothing is tested under it" >&2

# Likewise for agents in a sandbox, the live page, large files, and PostgreSQL.
want bwrap bubblewrap || echo "$0: bwrap cannot be had here; no agent is tested in a sandbox" >&2
want chromium chromium || echo "$0: chromium cannot be had here; the live page is tested in no browser" >&2
want chromedriver chromium-driver || echo "$0: chromedriver cannot be had here; the live page is tested in no browser" >&2
want git-lfs git-lfs || echo "$0: git-lfs cannot be had here; nothing is tested with large files" >&2
want zsh zsh || echo "$0: zsh cannot be had here; completion is not tested in it" >&2
want fish fish || echo "$0: fish cannot be had here; completion is not tested in it" >&2
want tmux tmux || echo "$0: tmux cannot be had here; status --watch is not tested in a terminal" >&2

# The server programs are in a folder of their version, outside of the PATH.
want psql postgresql || echo "$0: postgresql cannot be had here; nothing is tested on PostgreSQL" >&2

step "format"
cargo fmt --all --check

step "clippy"
cargo clippy --workspace --all-targets --locked -- --deny warnings

step "tests and real agents"
# This builds the programs too. `cargo build` would build them again: tests need other features of some libraries.
cargo test --workspace --locked --no-run --message-format=json-render-diagnostics | scripts/run-tests.py ${long:+"$long"}

step "docs"
RUSTDOCFLAGS="--deny warnings" cargo doc --workspace --no-deps --locked --quiet

step "shell lint"
git ls-files -z -- '*.sh' '.ci/run' | xargs -0 shellcheck

step "unit files"
if command -v systemd-analyze >/dev/null; then
  tests/units.sh
else
  echo "SKIPPED, NOTHING WAS TESTED: systemd is not installed"
fi

step "all green"
