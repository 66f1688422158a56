#!/usr/bin/env bash
# Installs coding-loops: programs, units for systemd, shell completions and man pages. Run it again to upgrade; it restarts
# running services one after another, with the new programs.
#
#   scripts/install.sh [--user]           for yourself, below ~/.local (the default)
#   scripts/install.sh --system           for all users, below /usr/local; needs root
#   scripts/install.sh --prefix DIR       below DIR, and nothing outside of it
#   scripts/install.sh --uninstall        stops the services and removes what was installed; data stays
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
    -h | --help) sed -n '2,10s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) usage "unknown option $1" ;;
  esac
  shift
done

# `searched`: where systemd looks for units by itself. `admin`: where it looks first, and where links and drop-ins are made.
if [ "$kind" = system ]; then
  [ "$(id -u)" = 0 ] || refuse "--system needs root; without it, coding-loops is installed for you alone"
  : "${prefix:=/usr/local}"
  units=lib/systemd/system searched=/usr/local/lib/systemd/system admin=/etc/systemd/system flag=' --system' user=
else
  [ -n "${HOME:-}" ] || refuse "HOME is not set; set it to the home folder of the user to install for"
  units=share/systemd/user searched=${XDG_DATA_HOME:-$HOME/.local/share}/systemd/user
  admin=${XDG_CONFIG_HOME:-$HOME/.config}/systemd/user flag='' user=' --user'
  # Only without a prefix is XDG_DATA_HOME followed.
  [ -n "$prefix" ] || units=$searched
  : "${prefix:=$HOME/.local}"
fi
case "$prefix" in
  /*) ;;
  *) usage "--prefix needs an absolute folder, not ${prefix@Q}" ;;
esac
prefix=${prefix%/}
# It is written into units and file names, where other characters have a meaning.
if [[ $prefix =~ [^A-Za-z0-9/._+@-] ]]; then usage "--prefix may hold letters, digits and /._+@-, not ${prefix@Q}"; fi

bin=$prefix/bin
share=$prefix/share
manifest=$share/coding-loops/manifest
case "$units" in /*) ;; *) units=$prefix/$units ;; esac

manager() { # systemctl of the right manager
  if [ "$kind" = system ]; then systemctl --no-pager "$@"; else systemctl --user --no-pager "$@"; fi
}

# Without a session, or in a container, there is a systemctl but no manager that answers.
has_manager() { command -v systemctl >/dev/null && manager show --property Version >/dev/null 2>&1; }

is_same() { [ -e "$1" ] && [ "$(readlink -f "$1")" = "$(readlink -f "$2")" ]; }

fragment() { manager show --property FragmentPath --value coding-loops@any.target; } # the unit that systemd finds

# Whether services run from these units, and not from those of another installation.
serves() {
  if has_manager; then
    is_same "$(fragment)" "$units/coding-loops@.target"
  else
    [ "$units" = "$searched" ] || is_same "$admin/coding-loops@.target" "$units/coding-loops@.target"
  fi
}

running() { # the running services of all repositories, loops last
  manager list-units --plain --no-legend --state=active,activating,reloading 'coding-loops-*.service' |
    awk '{print ($1 ~ /^coding-loops-loop@/) "\t" $1}' | sort | cut -f 2
}

stop_services() { # stops and disables the services of all repositories, and removes their drop-ins
  local targets services drop_in
  if has_manager; then
    mapfile -t targets < <(manager list-unit-files --plain --no-legend --state=enabled 'coding-loops@*.target' | awk '{print $1}')
    mapfile -t -O "${#targets[@]}" targets < <(manager list-units --plain --no-legend --all 'coding-loops@*.target' | awk '{print $1}')
    mapfile -t services < <(running)
    [ ${#targets[@]} = 0 ] || manager disable --quiet "${targets[@]}" 2>/dev/null || :
    # To stop the targets alone would not wait for their services.
    [ $((${#targets[@]} + ${#services[@]})) = 0 ] || manager stop "${targets[@]}" "${services[@]}"
  fi
  for drop_in in "$admin"/coding-loops*.d/50-repository.conf; do
    [ -e "$drop_in" ] || continue
    rm -f "$drop_in"
    rmdir --ignore-fail-on-non-empty "$(dirname "$drop_in")"
  done
}

if [ -n "$uninstall" ]; then
  [ -f "$manifest" ] || refuse "nothing is installed below $prefix; name the folder with --prefix"
  if serves; then stop_services; fi
  for link in "$admin"/coding-loops*; do
    if [ -L "$link" ] && grep --quiet --line-regexp --fixed-strings "$(readlink "$link")" "$manifest"; then rm -f "$link"; fi
  done
  while IFS= read -r file; do rm -f "$file"; done <"$manifest"
  rm -f "$manifest"
  find "$share/coding-loops" -depth -type d -empty -delete
  ! has_manager || manager daemon-reload
  say "coding-loops is removed from $prefix; each repository keeps its coding-loops/ folder, its workspaces and its branch"
  say "loopctl deinit, run before --uninstall, removes these too"
  exit 0
fi

built=${CODING_LOOPS_BIN:-}
if [ -z "$built" ]; then
  command -v cargo >/dev/null || refuse "cargo is missing; install Rust (https://rustup.rs), or name a folder of built programs with CODING_LOOPS_BIN"
  say "building (the first time takes a few minutes)"
  (cd "$project" && cargo build --release --locked --quiet --bins) # in this folder cargo finds its settings
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
files=() # where each file goes; it is staged under its number
stage() { # MODE SOURCE PLACE
  install -m "$1" "$2" "$staged/${#files[@]}"
  files+=("$3")
}
output() { # PLACE COMMAND…: the output of a command as a file
  "${@:2}" >"$staged/text"
  stage 644 "$staged/text" "$1"
}
unit() { # SOURCE: a unit for this manager, with the programs of this installation
  if [ "$kind" = user ]; then awk -f "$project/systemd/user-unit.awk" "$1"; else cat "$1"; fi |
    sed "s,^ExecStart=[^ ]*/\([a-z-]*\),ExecStart=$bin/\1,"
}

for program in "${programs[@]}"; do stage 755 "$built/$program" "$bin/$program"; done
stage 755 "$project/scripts/launch.sh" "$bin/coding-loops-launch"
while IFS= read -r file; do
  stage 644 "$project/scripts/demo/$file" "$share/coding-loops/demo/$file"
done < <(cd "$project/scripts/demo" && find . -name __pycache__ -prune -o -type f -printf '%P\n')
for source in "$project"/systemd/coding-loops*; do output "$units/${source##*/}" unit "$source"; done
output "$share/bash-completion/completions/loopctl" "$built/loopctl" completions bash
output "$share/zsh/site-functions/_loopctl" "$built/loopctl" completions zsh
output "$share/fish/vendor_completions.d/loopctl.fish" "$built/loopctl" completions fish
mkdir "$staged/man"
"$built/loopctl" man-pages "$staged/man"
for page in "$staged"/man/*.1; do stage 644 "$page" "$share/man/man1/${page##*/}"; done

# Files of others are refused before anything is changed.
for file in "${files[@]}"; do
  if [ -e "$file" ] && [ -z "${ours[$file]:-}" ]; then
    refuse "$file exists and was not installed by this script; move it away, or install elsewhere with --prefix"
  fi
done

# In the manifest before they exist, so that an interrupted installation can be repeated.
mkdir -p "${manifest%/*}"
printf '%s\n' "${files[@]}" "${!ours[@]}" | sort -u >"$manifest.new"
mv "$manifest.new" "$manifest"
for at in "${!files[@]}"; do
  file=${files[at]}
  mkdir -p "$(dirname "$file")"
  # A running program keeps its own file, and nobody reads half of one.
  cp "$staged/$at" "$file.new"
  mv "$file.new" "$file"
  unset "ours[$file]"
done
former_units=
for file in "${!ours[@]}"; do # files of an older version only
  [ "${file##*/}" != coding-loops@.target ] || former_units=yes
  rm -f "$file"
done
printf '%s\n' "${files[@]}" | sort -u >"$manifest.new"
mv "$manifest.new" "$manifest"
say "installed below $prefix"

if has_manager; then
  manager daemon-reload
  if [ -n "$former_units" ] && ! serves; then
    manager --quiet link "$units"/coding-loops*
    say "the units are below $prefix now; systemd finds them by links in $admin"
  fi
fi
if serves; then
  # What a service may read and write changes with the programs.
  # shellcheck disable=SC2086
  "$bin/loopctl" --quiet service refresh $flag || say "the drop-ins of the services were not updated; loopctl service enable$flag writes them"
  if has_manager; then
    manager daemon-reload
    mapfile -t services < <(running)
    # One after another, each ready before the next, so that the others work meanwhile. The first one to open a database
    # migrates it.
    for service in "${services[@]}"; do
      manager restart "$service"
      say "restarted: $service"
    done
  fi
fi

say
say "next:"
case ":$PATH:" in
  *":$bin:"*) ;;
  *) say "  export PATH=\"$bin:\$PATH\"" ;;
esac
say "  cd YOUR_REPOSITORY"
say "  loopctl init"
say "  loopctl up                        # runs everything in this terminal; --demo shows an example"
if ! has_manager; then
  say "Services need a systemd$user manager, and none answers here."
elif serves; then
  say "  loopctl service enable$flag   # or: runs everything as services"
elif other=$(fragment) && [ -n "$other" ]; then
  say "Services run from another installation ($other) until that is uninstalled."
else
  say "For services, link the units first, because systemd does not look below $prefix:"
  say "  systemctl$user link $units/coding-loops*"
fi
