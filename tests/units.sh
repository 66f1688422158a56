#!/usr/bin/env bash
# The unit files: systemd takes them without a word, and the sandboxes are as tight as promised. They are tried in
# earnest by tests/tests/systemd.rs.
set -euo pipefail
cd "$(dirname "$0")/.."

# Of the units alone, with a program where the real ones will be.
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
for kind in system user; do
  mkdir "$tree/$kind"
  for unit in systemd/coding-loops*; do
    if [ "$kind" = user ]; then awk -f systemd/user-unit.awk "$unit"; else cat "$unit"; fi |
      sed 's,^ExecStart=[^ ]*,ExecStart=/bin/true,; /^Documentation=/d' >"$tree/$kind/${unit##*/}"
  done
  said=$(for unit in "$tree/$kind"/*; do
    name=${unit##*/}
    XDG_RUNTIME_DIR=$tree SYSTEMD_UNIT_PATH=$tree/$kind: systemd-analyze "--$kind" verify --man=no "${name/@./@shop.}" 2>&1
  done | grep -F coding-loops || :)
  if [ -n "$said" ]; then
    printf 'systemd has something to say about the units (%s):\n%s\n' "$kind" "$said" >&2
    exit 1
  fi
done

# Of the supervisors that need nothing but the database, and how far the others get.
failed=
for unit in systemd/coding-loops-*.service; do
  case "$unit" in
    *-loop@* | *-regression-checker@*) most=40 ;;
    *) most=10 ;;
  esac
  exposure=$(systemd-analyze security --offline=true --no-pager "$unit" | sed -n 's/.*exposure level for .*: \([0-9]*\)\.\([0-9]\).*/\1\2/p')
  printf '%-55s exposure %s.%s\n' "$unit" "$((10#$exposure / 10))" "$((10#$exposure % 10))"
  if [ "$((10#$exposure))" -gt "$most" ]; then
    echo "$unit: more exposed than $((most / 10)).$((most % 10))" >&2
    failed=yes
  fi
done
[ -z "$failed" ]
