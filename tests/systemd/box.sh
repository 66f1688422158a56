#!/usr/bin/env bash
# Boots this machine's own systemd as the system manager of private namespaces, prints `pid N` (its manager's pid as seen from
# here) and stays until standard input closes. Then everything in there is killed, and nothing of it is left.
#
#   box.sh DISK
#
# DISK is a folder that outlives the box, as a disk outlives a boot. Inside it appears as /srv; below it, as in a real machine's
# tree: usr-local (/usr/local), etc (/etc/systemd/system). The user `owner` (uid 4242) has the home /srv/home, and a user manager
# runs for him as if he lingered. The rest of the machine's files are seen through a throw-away overlay; network there is none.
#
# Exit code 77 and one line: this machine gives no such box, and why. Needs root, util-linux and systemd; no D-Bus.
set -euo pipefail

cannot() { echo "$*"; exit 77; }

if [ "${1:-}" != inside ]; then
  disk=$(realpath "$1")
  [ "$(id -u)" = 0 ] || cannot "this is not root"
  [ -x /lib/systemd/systemd ] || cannot "systemd is not installed"
  for tool in unshare nsenter setpriv journalctl; do command -v "$tool" >/dev/null || cannot "$tool is not installed"; done
  cgroup=$(awk '$3 == "cgroup2" {print $2; exit}' /proc/mounts)
  [ -n "$cgroup" ] || cannot "no cgroup2 is mounted"
  cgroup+=/coding-loops-box-$$
  mkdir "$cgroup" 2>/dev/null || cannot "no cgroup can be made"
  root=$(mktemp -d)
  # shellcheck disable=SC2317 # the trap calls it
  clean_up() {
    set +e
    [ -z "${box:-}" ] || { kill -KILL "$box" 2>/dev/null; wait "$box" 2>/dev/null; }
    rm -rf "$root"
    for _ in {1..100}; do
      find "$cgroup" -depth -type d -exec rmdir {} + 2>/dev/null && return
      sleep 0.1
    done
  }
  trap clean_up EXIT
  mkdir -p "$disk"/{usr-local,etc,home}
  chown 4242:4242 "$disk/home"
  mkfifo "$root/said"
  # shellcheck disable=SC2016 # expanded by the inner shell
  setpriv --pdeathsig KILL bash -c '
    echo $$ >"$1/cgroup.procs" && exec unshare --cgroup --mount --pid --ipc --uts --net --fork --kill-child --propagation private \
      bash "$2" inside "$3" "$4"
  ' _ "$cgroup" "$0" "$root" "$disk" >"$root/said" 2>&1 </dev/null &
  box=$!
  exec 3<"$root/said"
  read -r said <&3 || said=nothing
  [ "$said" = booting ] || cannot "no private namespaces can be had: $said"
  for _ in {1..300}; do
    pid=$(pgrep -P "$box" -f ^/lib/systemd/systemd || :)
    if [ -n "$pid" ] && nsenter -t "$pid" -m -p -C -r -w -- test -S /run/systemd/private; then break; fi
    kill -0 "$box" 2>/dev/null || { echo "the manager has ended"; exit 1; }
    sleep 0.1
  done 2>/dev/null
  echo "pid $pid"
  cat >/dev/null || :
  exit 0
fi

root=$2 disk=$3 m=$2/m
mount -t tmpfs -o mode=755 box "$root"
mkdir -p "$root"/{work,m,upper/etc}
chmod 755 "$root"/upper{,/etc}
: >"$root/upper/etc/machine-id"
cp /etc/{passwd,group} "$root/upper/etc/"
echo 'owner:x:4242:4242::/srv/home:/bin/bash' >>"$root/upper/etc/passwd"
echo 'owner:x:4242:' >>"$root/upper/etc/group"
mount -t overlay -o "lowerdir=/,upperdir=$root/upper,workdir=$root/work" box "$m"
mount -t proc proc "$m/proc"
mount --bind "$m/proc/sys" "$m/proc/sys"
mount -o remount,bind,ro "$m/proc/sys"
mount -t sysfs -o ro sys "$m/sys"
mount -t cgroup2 cgroup "$m/sys/fs/cgroup"
for folder in dev run tmp; do mount -t tmpfs -o mode=755 box "$m/$folder"; done
chmod 1777 "$m/tmp"
for device in null zero full random urandom tty; do
  : >"$m/dev/$device"
  mount --bind "/dev/$device" "$m/dev/$device"
done
mkdir -p "$m"/dev/{pts,shm} "$m"/run/{systemd/unit-root,units,user-units,user/4242} "$m/etc/systemd/system"
chmod 1777 "$m/dev/shm"
mount -t devpts -o newinstance,ptmxmode=666 devpts "$m/dev/pts"
ln -s pts/ptmx "$m/dev/ptmx"
ln -s /proc/self/fd "$m/dev/fd"
mount --bind "$disk" "$m/srv"
mount --bind "$disk/usr-local" "$m/usr/local"
mount --bind "$disk/etc" "$m/etc/systemd/system"
chown 4242:4242 "$m/run/user/4242"
chmod 700 "$m/run/user/4242"

(
  cd /lib/systemd/system
  cp {sysinit,basic,sockets,timers,paths,local-fs,multi-user,shutdown,umount,final,exit}.target \
    systemd-{exit.service,journald.service,journald.socket,journald-dev-log.socket} "$m/run/units/"
  cd /lib/systemd/user
  cp {basic,default,sockets,timers,paths,shutdown,exit}.target systemd-exit.service "$m/run/user-units/"
)
printf '[Unit]\nWants=systemd-journald.service multi-user.target user-manager.service\n' >"$m/run/units/box.target"
cat >"$m/run/units/user-manager.service" <<'UNIT'
[Service]
Type=notify
User=owner
ExecStart=/lib/systemd/systemd --user
Environment=XDG_RUNTIME_DIR=/run/user/4242
Environment=SYSTEMD_UNIT_PATH=/srv/home/.config/systemd/user:/srv/home/.local/share/systemd/user:/run/user-units
Delegate=yes
KillMode=mixed
TimeoutStopSec=20s
UNIT
cd "$m"
pivot_root . mnt
umount -l /mnt
echo booting
exec env -i container=box PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
  SYSTEMD_UNIT_PATH=/etc/systemd/system:/usr/local/lib/systemd/system:/run/units \
  /lib/systemd/systemd --system --unit=box.target >/dev/null 2>&1
