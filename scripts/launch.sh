#!/usr/bin/env bash
# Runs the whole system on the git repository of the current folder: makes the database if there is none, starts the five
# supervisors and the registered loops, and shows the live status. Ctrl-C stops everything in order.
# It starts nothing if loopctl doctor finds a problem, or if something else runs on the same database.
#
#   scripts/launch.sh           your repository; builds first
#   scripts/launch.sh --demo    an example with three scripted agents, in .demo/ of this project
#
# --loops NAME,NAME starts only these loops, --loops '' none: on each of several machines, those that run there.
# --db FILE and --config FILE name another database and other settings. loopctl up runs this script, loopctl down stops it.
# Installed by scripts/install.sh it is called coding-loops-launch, runs the installed programs, and makes the example in
# ~/coding-loops-demo. CODING_LOOPS_BIN names a folder of other programs, CODING_LOOPS_DEMO another folder for the example.
set -euo pipefail
set -m # every job gets a process group of its own: Ctrl-C reaches this script alone, which stops the others in order

here=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")" && pwd)
if [ -x "$here/loopctl" ]; then
  built=$here stage_manager=${here%/*}/share/coding-loops/demo/demo.py demo_folder=${HOME:-$PWD}/coding-loops-demo
else
  project=${here%/*}
  built='' stage_manager=$here/demo/demo.py demo_folder=$project/.demo
fi
supervisors=(heartbeat deadlock-detector monitor regression-checker pm-agent)
demo='' settings=() loops=all

usage() { echo "$0: $1; try --help" >&2; exit 2; }
while [ $# -gt 0 ]; do
  case "$1" in
    --demo) demo=${CODING_LOOPS_DEMO:-$demo_folder} ;;
    --db) export CODING_LOOPS_DB=${2:?--db needs a file}; shift ;;
    --config) settings=(--config "${2:?--config needs a file}"); shift ;;
    --loops) loops=${2?--loops needs names, separated by commas}; shift ;;
    -h | --help) sed -n '2,13s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) usage "unknown option $1" ;;
  esac
  shift
done

declare -A pid=() starts=() retry_at=() command=()
order=() display='' director=''

say() { printf '%(%H:%M:%S)T  %s\n' -1 "$*" >&3; }

exec 3>&2

build() {
  bin=${CODING_LOOPS_BIN:-$built}
  if [ -z "$bin" ]; then
    say "building (the first time takes a few minutes)"
    (cd "$project" && cargo build --release --locked --quiet --bins) # from there, where cargo finds its settings
    bin=$project/target/release
  fi
  bin=$(cd "$bin" && pwd)
  PATH=$bin:$PATH # the agents find loopctl
  export PATH
}

start() { # NAME: runs its command in the background, its log under logs/
  "$bin/${command[$1]%% *}" "${settings[@]}" ${2:+"$2"} >>"$home/logs/$1.log" 2>&1 </dev/null &
  pid[$1]=$!
  starts[$1]=$((${starts[$1]:-0} + 1))
  retry_at[$1]=
}

health_of() { # NAME: prints the status and the pid that the database has of it, and whether that is here or elsewhere
  # Of a heartbeat for each machine, that of this one has no other name here.
  loopctl "${settings[@]}" --json health | python3 -c '
import json, sys
name = sys.argv[1]
rows = [row for row in json.load(sys.stdin) if row.get("pid")]
rows = [row for row in rows if row["component"] == name or name == "heartbeat" and row["component"].startswith("heartbeat.")]
for row in sorted(rows, key=lambda row: row["is_elsewhere"])[:1]:
    print(row["status"], row["pid"], "elsewhere" if row["is_elsewhere"] else "here")' "$1"
}

await_ready() { # NAME: reports when the started process sends heartbeats; gives up if another process does its work
  local name=$1 component=${1/pm-agent/pm} started=${pid[$1]} status other place
  for _ in {1..150}; do
    read -r status other place < <(health_of "$component") || :
    if [ "$status $other $place" = "healthy $started here" ]; then
      say "$name is ready (pid $started)"
      return 0
    fi
    if [ "$status $place" = "healthy elsewhere" ] && [ "$name" != heartbeat ] && [ "${command[$name]}" != coding-loop ]; then
      say "$name stands by (pid $started): another machine has one"
      return 0
    fi
    kill -0 "$started" 2>/dev/null || break
    pause 0.1
  done
  read -r status other place < <(health_of "$component") || :
  if [ "${command[$name]}" != coding-loop ] && [ -n "$other" ] && [ "$other" != "$started" ] && [ -e "/proc/$other" ]; then
    say "not started: $name is running already on this database as pid $other"
    say "stop that first: Ctrl-C in the terminal where it was launched, or loopctl service disable"
    trap - EXIT
    stop_all
    exit 1
  fi
  ended "$name"
}

examine() { # stops where work cannot start, with the words of loopctl doctor
  local findings
  if findings=$(loopctl "${settings[@]}" --quiet doctor --before-start 2>&1); then
    [ -z "$findings" ] || printf '%s\n' "$findings" >&3
  else
    printf '%s\n' "$findings" >&3
    say "not started"
    exit 1
  fi
}

pause() { sleep "$1" & wait $! || :; } # a wait that traps interrupt

ended() { # NAME: its process has ended; start it again after a delay, unless it was stopped
  local name=$1 code=0 delay
  wait "${pid[$name]}" 2>/dev/null || code=$?
  pid[$name]=
  if [ "${command[$name]}" = coding-loop ] && [ "$code" = 2 ]; then
    say "loop $name has no agent; it is driven by hand (loopctl next --loop $name)"
    command[$name]=
    return 0
  fi
  delay=$((starts[$name] > 6 ? 30 : 1 << (starts[$name] - 1) > 30 ? 30 : 1 << (starts[$name] - 1)))
  # 128 + SIGBUS: it leaves no word of its own.
  [ "$code" != 135 ] || say "$name ended by SIGBUS: $home/coordination.db-shm was cut short or its disk is full; the next start makes the file again"
  say "$name ended (exit code $code); starting it again in $delay s; see $home/logs/$name.log"
  retry_at[$name]=$((SECONDS + delay))
}

look_after() { # one round over everything that should run
  local name
  for name in "${order[@]}"; do
    [ $((SECONDS % 60)) != 0 ] || rotate "$home/logs/$name.log"
    [ -n "${command[$name]}" ] || continue
    if [ -n "${pid[$name]}" ]; then
      kill -0 "${pid[$name]}" 2>/dev/null || ended "$name"
    elif [ -n "${retry_at[$name]}" ] && [ "$SECONDS" -ge "${retry_at[$name]}" ]; then
      start_by_name "$name"
      say "$name runs again (pid ${pid[$name]})"
    fi
  done
}

start_by_name() {
  if [ "${command[$1]}" = coding-loop ]; then start "$1" "$1"; else start "$1"; fi
}

rotate() { # FILE: beyond 10 MB its text moves on to FILE.1, that to FILE.2, and the oldest goes
  local file=$1
  [ "$(stat --format %s "$file" 2>/dev/null || echo 0)" -gt 10485760 ] || return 0
  [ ! -e "$file.1" ] || mv "$file.1" "$file.2"
  # Its writer appends, so an emptied file is written from its beginning.
  cp "$file" "$file.1" && : >"$file"
}

stop_one() { # NAME: SIGTERM, and SIGKILL for what does not listen
  local name=$1
  [ -n "${pid[$name]:-}" ] || return 0
  kill -TERM "${pid[$name]}" 2>/dev/null || :
}

await_end() {
  local name=$1
  [ -n "${pid[$name]:-}" ] || return 0
  for _ in {1..150}; do
    kill -0 "${pid[$name]}" 2>/dev/null || { wait "${pid[$name]}" 2>/dev/null || :; pid[$name]=; return 0; }
    sleep 0.1
  done
  say "$name does not stop; killing it"
  kill -KILL "${pid[$name]}" 2>/dev/null || :
  pid[$name]=
}

stop_all() { # loops first, so that their supervisors see them off; heartbeat last
  trap '' INT TERM
  local name
  for name in ${display:+"$display"} ${director:+"$director"}; do kill -TERM "$name" 2>/dev/null || :; done
  for name in "${order[@]}"; do [ "${command[$name]}" != coding-loop ] || stop_one "$name"; done
  for name in "${order[@]}"; do [ "${command[$name]}" != coding-loop ] || await_end "$name"; done
  local at
  for ((at = ${#supervisors[@]} - 1; at >= 0; at--)); do
    stop_one "${supervisors[at]}"
    await_end "${supervisors[at]}"
  done
}

stop() {
  stop_all
  say "all stopped"
}

build
if [ -n "$demo" ]; then
  python3 "$stage_manager" set-up "$demo" "$bin"
  export DEMO_STAGE=$demo/stage
  cd "$demo/repository"
  unset CODING_LOOPS_DB
  settings=()
fi
database=$(loopctl "${settings[@]}" --json init | python3 -c 'import json, sys; print(json.load(sys.stdin)["database"])' 2>/dev/null) ||
  exit 1 # loopctl has said why
home=${database%/*}
mkdir -p "$home/logs"
# By this loopctl down finds what runs, and this script.
CODING_LOOPS_LAUNCH=$$:$(readlink -f "$database")
export CODING_LOOPS_LAUNCH
examine
chosen=$(loopctl "${settings[@]}" --json loop list | python3 -c '
import json, sys
known = [row["id"] for row in json.load(sys.stdin)]
wanted = known if sys.argv[1] == "all" else [name for name in sys.argv[1].split(",") if name]
unknown = [name for name in wanted if name not in known]
if unknown:
    sys.exit("there is no loop " + ", ".join(unknown) + "; see loopctl loops")
print(*wanted, sep="\n")' "$loops") || exit 1

exec 2>/dev/null # the shell's own words about jobs that were killed; ours go to 3
trap 'trap - EXIT; stop; exit 130' INT
trap 'trap - EXIT; stop; exit 143' TERM
trap 'stop' EXIT
# What a script starts in the background ignores Ctrl-C, and bash cannot undo that.
case $(trap -p INT) in "trap -- '' "*) say "Ctrl-C is ignored here, as it was started in the background; stop it with: kill $$" ;; esac

for name in "${supervisors[@]}"; do
  order+=("$name") command[$name]=$name pid[$name]='' retry_at[$name]=''
done
# The first one alone: only one of two launches at the same time gets past it.
start "${supervisors[0]}"
await_ready "${supervisors[0]}"
for name in "${supervisors[@]:1}"; do start "$name"; done
for name in "${supervisors[@]:1}"; do await_ready "$name"; done
while read -r name && [ -n "$name" ]; do
  order+=("$name") command[$name]=coding-loop pid[$name]='' retry_at[$name]=''
  start "$name" "$name"
done <<<"$chosen"
for name in "${order[@]}"; do [ "${command[$name]}" != coding-loop ] || await_ready "$name"; done

if [ -t 1 ]; then
  # In this process group, which has the terminal: a shell's terminal stops another group that takes keys.
  set +m
  loopctl "${settings[@]}" status --watch <&0 &
  set -m
else
  loopctl "${settings[@]}" timeline --follow &
fi
display=$!
if [ -n "$demo" ]; then
  python3 "$stage_manager" direct "$demo" "$bin" 2>&3 &
  director=$!
fi

while [ -z "$director" ] || kill -0 "$director" 2>/dev/null; do
  look_after
  pause 0.3
done

code=0
wait "$director" || code=$?
director=
stop
trap - EXIT
[ "$code" = 0 ] || say "the demo's time is over before everything was settled"
python3 "$stage_manager" report "$demo" "$bin" 2>&3 || code=$?
exit "$code"
