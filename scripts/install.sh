#!/usr/bin/env bash
# Installs coding-loops: programs, units for systemd, shell completions and man pages. Run again it upgrades: services that
# run are started anew one after another, with the new programs.
#
#   scripts/install.sh [--user]           for yourself, below ~/.local (the default)
#   scripts/install.sh --system           for everyone, below /usr/local; for root
#   scripts/install.sh --prefix DIR       below DIR instead
#   scripts/install.sh --uninstall        stops the services and takes away what was installed; the data stays
#
# CODING_LOOPS_BIN names a folder of built programs to install instead of building.
set -euo pipefail

project=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
programs=(loopctl coding-loop heartbeat deadlock-detector monitor regression-checker pm-agent)
kind=user prefix='' uninstall=

refuse() { echo "$0: $*" >&2; exit "${code:-1}"; }
usage() { code=2 refuse "$*; try --help"; }
say() { printf '%s\n' "$*"; }

while [ $# -gt 0 ]; do
  case "$1" in
    --user) kind=user ;;
    --system) kind=system ;;
    --prefix) [ $# -gt 1 ] || usage "--prefix needs a folder"; prefix=$2; shift ;;
    --prefix=*) prefix=${1#--prefix=} ;;
    --uninstall) uninstall=yes ;;
    -h | --help) sed -n '2,11s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) usage "unknown option $1" ;;
  esac
  shift
done

if [ "$kind" = system ]; then
  [ "$(id -u)" = 0 ] || refuse "--system is for root; without it everything is installed for you alone"
  : "${prefix:=/usr/local}"
else
  [ -n "${HOME:-}" ] || refuse "HOME is not set; say whose installation is meant"
  : "${prefix:=$HOME/.local}"
fi
case "$prefix" in
  /*) ;;
  *) usage "--prefix needs an absolute folder, not ${prefix@Q}" ;;
esac
prefix=${prefix%/}
# It stands in units and file names, where these would mean something else.
if [[ $prefix =~ [^A-Za-z0-9/._+@-] ]]; then usage "--prefix may hold letters, digits and /._+@-, not ${prefix@Q}"; fi

bin=$prefix/bin
share=$prefix/share
manifest=$share/coding-loops/manifest
if [ "$kind" = system ]; then
  units=$prefix/lib/systemd/system
  # Where systemd does not look by itself, the administrator's own folder takes them.
  [ "$prefix" = /usr/local ] || [ "$prefix" = /usr ] || units=/etc/systemd/system
else
  units=${XDG_DATA_HOME:-$HOME/.local/share}/systemd/user
fi

manager() { # systemctl of the right manager
  if [ "$kind" = system ]; then systemctl --no-pager "$@"; else systemctl --user --no-pager "$@"; fi
}

# A user without a session, or a container, has systemctl but no manager to talk to.
has_manager() { command -v systemctl >/dev/null && manager show --property Version >/dev/null 2>&1; }

running() { # the services of all repositories that run, loops last
  manager list-units --plain --no-legend --state=active,activating,reloading 'coding-loops-*.service' |
    awk '{print ($1 ~ /^coding-loops-loop@/) "\t" $1}' | sort | cut -f 2
}

if [ -n "$uninstall" ]; then
  [ -f "$manifest" ] || refuse "nothing is installed below $prefix; name another folder with --prefix"
  if has_manager; then
    mapfile -t targets < <(manager list-unit-files --plain --no-legend --state=enabled 'coding-loops@*.target' | awk '{print $1}')
    mapfile -t -O "${#targets[@]}" targets < <(manager list-units --plain --no-legend --all 'coding-loops@*.target' | awk '{print $1}')
    mapfile -t services < <(running)
    [ ${#targets[@]} = 0 ] || manager disable --quiet "${targets[@]}" 2>/dev/null || :
    # Stopping the targets alone would not wait for their services.
    [ $((${#targets[@]} + ${#services[@]})) = 0 ] || manager stop "${targets[@]}" "${services[@]}"
  fi
  for folder in /etc/systemd/system "${XDG_CONFIG_HOME:-${HOME:-/root}/.config}/systemd/user"; do
    case "$kind:$folder" in system:/etc/* | user:*/systemd/user) ;; *) continue ;; esac
    for drop_in in "$folder"/coding-loops*.d/50-repository.conf; do
      [ -e "$drop_in" ] || continue
      rm -f "$drop_in"
      rmdir --ignore-fail-on-non-empty "$(dirname "$drop_in")"
    done
  done
  while IFS= read -r file; do rm -f "$file"; done <"$manifest"
  rm -f "$manifest"
  rmdir "$share/coding-loops" 2>/dev/null || :
  ! has_manager || manager daemon-reload
  say "coding-loops is gone from $prefix. The data stays: each repository's coding-loops/ folder, the folder of workspaces beside it, and its branches"
  say "next: rm -r REPOSITORY/coding-loops REPOSITORY-loops, where you want that gone too"
  exit 0
fi

built=${CODING_LOOPS_BIN:-}
if [ -z "$built" ]; then
  command -v cargo >/dev/null || refuse "cargo is missing; install Rust (https://rustup.rs), or name a folder of built programs with CODING_LOOPS_BIN"
  say "building (the first time takes a few minutes)"
  (cd "$project" && cargo build --release --locked --quiet --bins) # from there, where cargo finds its settings
  built=${CARGO_TARGET_DIR:-$project/target}/release
fi
for program in "${programs[@]}"; do
  [ -x "$built/$program" ] || refuse "$built/$program is missing; build it first: cargo build --release --locked"
done

declare -A ours=()
if [ -f "$manifest" ]; then
  while IFS= read -r file; do ours[$file]=yes; done <"$manifest"
fi

staged=$(mktemp -d)
trap 'rm -rf "$staged"' EXIT
files=() # PLACE, one for each file; what goes there is staged under its number
stage() { # MODE SOURCE PLACE
  install -m "$1" "$2" "$staged/${#files[@]}"
  files+=("$3")
}
output() { # PLACE COMMAND…: what a command prints as a file
  "${@:2}" >"$staged/text"
  stage 644 "$staged/text" "$1"
}

for program in "${programs[@]}"; do stage 755 "$built/$program" "$bin/$program"; done
source=$project/systemd
[ "$kind" = system ] || source=$project/systemd/user
for unit in "$source"/coding-loops*; do
  [ -f "$unit" ] || continue
  output "$units/${unit##*/}" sed "s,^ExecStart=[^ ]*/\([a-z-]*\),ExecStart=$bin/\1," "$unit"
done
output "$share/bash-completion/completions/loopctl" "$built/loopctl" completions bash
output "$share/zsh/site-functions/_loopctl" "$built/loopctl" completions zsh
output "$share/fish/vendor_completions.d/loopctl.fish" "$built/loopctl" completions fish
mkdir "$staged/man"
"$built/loopctl" man-pages "$staged/man"
for page in "$staged"/man/*.1; do stage 644 "$page" "$share/man/man1/${page##*/}"; done

# Others' files are refused before anything has been changed.
for file in "${files[@]}"; do
  if [ -e "$file" ] && [ -z "${ours[$file]:-}" ]; then
    refuse "$file is there and not ours; move it away, or install elsewhere with --prefix"
  fi
done

# Known as ours before it is there, so that an installation that is cut off can be taken up again.
mkdir -p "${manifest%/*}"
printf '%s\n' "${files[@]}" "${!ours[@]}" | sort -u >"$manifest.new"
mv "$manifest.new" "$manifest"
for at in "${!files[@]}"; do
  file=${files[at]}
  mkdir -p "$(dirname "$file")"
  # A program that runs keeps its own file; nobody ever sees half of one.
  cp "$staged/$at" "$file.new"
  mv "$file.new" "$file"
  unset "ours[$file]"
done
for file in "${!ours[@]}"; do rm -f "$file"; done # what a former version had
printf '%s\n' "${files[@]}" | sort -u >"$manifest.new"
mv "$manifest.new" "$manifest"
say "installed below $prefix"

flag=
[ "$kind" = user ] || flag=' --system'
# What a service may read and write changes with the programs.
# shellcheck disable=SC2086
"$bin/loopctl" --quiet service refresh $flag || say "the services' files are as they were; see above"

if has_manager; then
  manager daemon-reload
  mapfile -t services < <(running)
  # One after another, each ready again before the next: the others carry on meanwhile. The first one to open a database
  # brings it up to date.
  for service in "${services[@]}"; do
    manager restart "$service"
    say "started anew: $service"
  done
else
  say "no systemd answers here; scripts/launch.sh runs everything without it"
fi

say
"$bin/loopctl" doctor || say "loopctl doctor has found a problem; see above"
case ":$PATH:" in
  *":$bin:"*) ;;
  *) say; say "$bin is not on your PATH: export PATH=\"$bin:\$PATH\"" ;;
esac
say
say "next, in your repository: loopctl init, loopctl loop add, loopctl test import; then loopctl service enable$flag"
