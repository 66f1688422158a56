//! Several machines on one: each has a host name, a machine id, a boot and processes of its own, a clone of the repository, and a line
//! to the PostgreSQL server and to the remote at which all meet. A line can be slow, hold back what it carries, or be cut.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use test_support::{Line, Link, Postgres, Process, git, git_command, make_repository, run, wait_for_within};

use crate::binaries;

/// Time for what needs a server, a remote and many loops on a machine that does other things too.
pub const PATIENCE: Duration = Duration::from_secs(240);

/// The branch of integration at the remote.
const INTEGRATION: &str = "coding-loops/integration";

/// Stands for ssh: runs git's other end here, over a line that may be cut. What runs there does not end with the machine.
const SSH: &str = r#"#!/bin/sh
while [ -e "$0.cut" ]; do sleep 0.1; done
for last; do :; done
FROM=${0%/ssh} exec setsid sh -c "$last"
"#;

/// The remote's hook: while the file `hold` is there, the first push that moves integration arrives late.
const HOOK: &str = r#"#!/bin/sh
[ -e hold ] || exit 0
while read -r _ _ name; do
    [ "$name" = refs/heads/coding-loops/integration ] && mkdir held 2>/dev/null || continue
    echo "${FROM##*/}" > held/by
    while [ -e hold ]; do sleep 0.1; done
done
exit 0
"#;

/// A library that is loaded before all others: the wall clock of the machine is `AHEAD` seconds ahead, and times of files, as programs
/// in Rust read and write them, are by that clock.
const CLOCK: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <time.h>
int clock_gettime(clockid_t id, struct timespec *at) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(id, at);
    if (!result && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) at->tv_sec += AHEAD;
    return result;
}
int gettimeofday(struct timeval *at, void *zone) {
    struct timespec now;
    (void)zone;
    int result = clock_gettime(CLOCK_REALTIME, &now);
    at->tv_sec = now.tv_sec;
    at->tv_usec = now.tv_nsec / 1000;
    return result;
}
time_t time(time_t *at) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (at) *at = now.tv_sec;
    return now.tv_sec;
}
int statx(int folder, const char *restrict path, int flags, unsigned int mask, struct statx *restrict found) {
    static int (*real)(int, const char *, int, unsigned int, struct statx *);
    if (!real) real = dlsym(RTLD_NEXT, "statx");
    int result = real(folder, path, flags, mask, found);
    if (!result) {
        found->stx_atime.tv_sec += AHEAD;
        found->stx_btime.tv_sec += AHEAD;
        found->stx_ctime.tv_sec += AHEAD;
        found->stx_mtime.tv_sec += AHEAD;
    }
    return result;
}
int futimens(int file, const struct timespec times[2]) {
    static int (*real)(int, const struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "futimens");
    if (!times) return real(file, times);
    struct timespec moved[2] = { times[0], times[1] };
    for (int at = 0; at < 2; at++)
        if (moved[at].tv_nsec != UTIME_NOW && moved[at].tv_nsec != UTIME_OMIT) moved[at].tv_sec -= AHEAD;
    return real(file, moved);
}
"#;

/// A machine: says that it is ready, and runs until its input ends.
const BOOT: &str = r#"
set -e
hostname "$1"
[ ! -e /etc/machine-id ] || mount --bind "$2/machine-id" /etc/machine-id
mount --bind "$2/boot-id" /proc/sys/kernel/random/boot_id
echo ready
# The first process of a machine waits for those whose parents have ended.
exec 3<&0
cat <&3 > /dev/null &
wait
"#;

/// One of the machines.
#[derive(Debug)]
pub struct Machine {
    /// Its host name.
    pub name: String,
    link: Link,
    folder: PathBuf,
    holder: Child,
    processes: Vec<Process>,
    /// The library that makes its clock wrong.
    clock: Option<PathBuf>,
}

impl Machine {
    /// Its clone of the repository.
    #[must_use]
    pub fn repository(&self) -> PathBuf {
        self.folder.join("shop")
    }

    /// A command on the machine, in its repository.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let program = if program.contains('/') { PathBuf::from(program) } else { binaries().join(program) };
        let inside = format!("/proc/{}/ns/pid_for_children", self.holder.id());
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.holder.id().to_string(), "--uts", "--mount", &format!("--pid={inside}")]);
        command.arg(format!("--wd={}", self.repository().display())).arg("--").arg(program);
        command.env("PATH", format!("{}:{}", binaries().display(), std::env::var("PATH").unwrap_or_default()));
        command.env("RUST_LOG", "info").env_remove("CODING_LOOPS_DB").stdin(Stdio::null());
        command.envs(self.clock.iter().map(|library| ("LD_PRELOAD", library)));
        command
    }

    /// Sets its clock wrong, for what is started from now on: this many seconds ahead.
    ///
    /// # Panics
    /// If the library for that cannot be made.
    pub fn set_clock_ahead(&mut self, seconds: i64) {
        let (source, library) = (self.folder.join("clock.c"), self.folder.join("clock.so"));
        std::fs::write(&source, CLOCK).expect("a source file");
        let ahead = format!("-DAHEAD={seconds}");
        run(Command::new("gcc").args(["-shared", "-fPIC", &ahead, "-o"]).arg(&library).arg(&source));
        self.clock = Some(library);
    }

    /// Runs `loopctl`, which must succeed; gives what it prints.
    ///
    /// # Panics
    /// If it fails.
    #[must_use]
    pub fn loopctl(&self, arguments: &[&str]) -> String {
        run(self.command("loopctl").args(arguments))
    }

    /// What `loopctl --json` prints.
    ///
    /// # Panics
    /// If it fails.
    #[must_use]
    pub fn rows(&self, arguments: &[&str]) -> Value {
        let mut all = vec!["--json"];
        all.extend(arguments);
        serde_json::from_str(&self.loopctl(&all)).expect("JSON")
    }

    /// Starts a program that runs until the machine ends, with its log in the machine's folder.
    pub fn start(&mut self, program: &str, arguments: &[&str]) {
        let log = self.folder.join(format!("{program}{}.log", arguments.join("-").replace('/', "-")));
        let process = Process::start_logged(self.command(program).args(arguments), &log);
        self.processes.push(process);
    }

    /// The logs of its programs, for the failure of a test.
    #[must_use]
    pub fn logs(&self) -> String {
        let mut text = String::new();
        for entry in std::fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            if entry.path().extension().is_some_and(|end| end == "log") {
                let log = std::fs::read_to_string(entry.path()).unwrap_or_default();
                let last: Vec<&str> = log.lines().rev().take(30).collect();
                text.push_str(&format!("--- {} {}\n", self.name, entry.file_name().display()));
                last.iter().rev().for_each(|line| text.push_str(&format!("{line}\n")));
            }
        }
        text
    }

    /// Changes the line to the server.
    pub fn set_line_to_server(&self, line: Line) {
        self.link.set(line);
    }

    /// Cuts or mends the line to the remote.
    ///
    /// # Panics
    /// If the file that says so cannot be made.
    pub fn cut_line_to_remote(&self, is_cut: bool) {
        let mark = self.folder.join("ssh.cut");
        if is_cut { std::fs::write(mark, "").expect("a mark") } else { drop(std::fs::remove_file(mark)) }
    }

    /// Cuts the machine off, or mends its lines.
    pub fn cut_off(&self, is_cut: bool) {
        self.set_line_to_server(if is_cut { Line::Cut } else { Line::Open });
        self.cut_line_to_remote(is_cut);
    }

    /// The power is cut: everything on it has ended.
    pub fn kill(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
        self.processes.clear();
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// The machines, the server and the remote.
#[derive(Debug)]
pub struct Fleet {
    /// The machines.
    pub machines: Vec<Machine>,
    /// The database server.
    pub server: Postgres,
    database: String,
    folder: tempfile::TempDir,
}

impl Fleet {
    /// Machines with clones of a repository and settings, an empty database, and nothing else. None, said loudly, where machines or a
    /// server cannot be had.
    ///
    /// # Panics
    /// If something that must succeed does not.
    #[must_use]
    pub fn new(names: &[&str], files: &[(&str, &str)], settings: &str) -> Option<Self> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let server = Postgres::own()?;
        server.sql("postgres", "CREATE DATABASE fleet TEMPLATE template0");
        let first = folder.path().join("shop");
        make_repository(&first, files);
        let remote = folder.path().join("remote.git");
        run(git_command(folder.path()).args(["clone", "--quiet", "--bare"]).args([&first, &remote]));
        let hook = remote.join("hooks/pre-receive");
        std::fs::create_dir_all(remote.join("hooks")).expect("a folder for hooks");
        std::fs::write(&hook, HOOK).expect("a hook");
        run(Command::new("chmod").arg("755").arg(hook));
        // Without its other end, it would end at the next of them.
        git(&remote, ["config", "receive.keepAlive", "0"]);
        let mut fleet = Self { machines: Vec::new(), server, database: "fleet".to_owned(), folder };
        for (number, name) in names.iter().enumerate() {
            let machine = fleet.boot(name, number)?;
            fleet.machines.push(machine);
            fleet.give_repository(number, settings);
        }
        Some(fleet)
    }

    /// The remote repository.
    #[must_use]
    pub fn remote(&self) -> PathBuf {
        self.folder.path().join("remote.git")
    }

    /// From now on, the next push that moves integration does not arrive.
    ///
    /// # Panics
    /// If the file that says so cannot be made.
    pub fn hold_back_a_push(&self) {
        std::fs::write(self.remote().join("hold"), "").expect("a mark");
    }

    /// Waits until a push is held back, and gives the machine that it is of.
    #[must_use]
    pub fn held_push(&self) -> usize {
        let by = self.remote().join("held/by");
        let name = wait_for_within(PATIENCE, "a push that is held back", || {
            let text = std::fs::read_to_string(&by).ok()?;
            text.strip_suffix('\n').map(str::to_owned)
        });
        self.machines.iter().position(|machine| machine.name == name).expect("one of the machines")
    }

    /// Lets the push arrive, and waits until the remote has answered.
    ///
    /// # Panics
    /// If it ended before.
    pub fn let_the_push_arrive(&self) {
        let remote = self.remote();
        let is_running = || {
            let found =
                Command::new("pgrep").args(["--full", "--"]).arg(format!("receive-pack .*{}", remote.display())).output();
            found.is_ok_and(|found| !found.stdout.is_empty())
        };
        assert!(is_running(), "the push waits at the remote");
        std::fs::remove_file(self.remote().join("hold")).expect("the mark");
        wait_for_within(PATIENCE, "the end of the push", || (!is_running()).then_some(()));
    }

    fn boot(&self, name: &str, number: usize) -> Option<Machine> {
        let folder = self.folder.path().join(name);
        std::fs::create_dir(&folder).expect("a folder for the machine");
        let write = |file: &str, text: &str| std::fs::write(folder.join(file), text).expect("a file of the machine");
        write("machine-id", &format!("{:032x}\n", number + 0xa0_00_00));
        write("boot-id", &format!("00000000-0000-4000-8000-{:012x}\n", number + 0xb000));
        write("ssh", SSH);
        run(Command::new("chmod").arg("755").arg(folder.join("ssh")));
        run(git_command(&folder).args(["clone", "--quiet"]).arg(self.remote()).arg(folder.join("shop")));
        let mut command = Command::new("unshare");
        command.args(["--uts", "--pid", "--mount", "--fork", "--kill-child", "--mount-proc", "sh", "-c", BOOT, "sh", name]);
        command.arg(&folder).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut holder = command.spawn().ok()?;
        let mut line = String::new();
        if let Some(output) = holder.stdout.take() {
            let _ = BufReader::new(output).read_line(&mut line);
        }
        let link = Link::to(&self.server.socket());
        let machine = Machine { name: name.to_owned(), link, folder, holder, processes: Vec::new(), clock: None };
        if line.trim() != "ready" {
            eprintln!("SKIPPED, NOTHING WAS TESTED: no namespaces for machines can be had here");
            return None;
        }
        Some(machine)
    }

    fn give_repository(&self, number: usize, settings: &str) {
        let machine = &self.machines[number];
        let repository = machine.repository();
        let ssh = machine.folder.join("ssh");
        for (key, value) in [
            ("user.name", "Someone"),
            ("user.email", "someone@example.org"),
            ("core.sshCommand", ssh.to_str().unwrap_or_default()),
            ("remote.origin.url", &format!("ssh://hub{}", self.remote().display())),
        ] {
            git(&repository, ["config", key, value]);
        }
        let folder = repository.join("coding-loops");
        std::fs::create_dir(&folder).expect("a folder for the settings");
        std::fs::write(folder.join("config.toml"), settings).expect("settings");
    }

    /// The address of the database for a machine.
    #[must_use]
    pub fn address(&self, machine: &Machine) -> String {
        format!("postgres://tests@{}/{}", machine.link.address(), self.database)
    }

    /// What `psql` prints on the server.
    #[must_use]
    pub fn sql(&self, sql: &str) -> String {
        self.server.sql(&self.database, sql)
    }

    /// Waits until a query gives something.
    pub fn until(&self, what: &str, sql: &str, expected: &str) {
        let is_so = || self.server.try_sql(&self.database, sql).is_ok_and(|found| found == expected);
        wait_for_within(PATIENCE, what, || is_so().then_some(()));
    }

    /// Whether a commit is on integration at the remote.
    #[must_use]
    pub fn has_landed(&self, commit: &str) -> bool {
        let branch = format!("refs/heads/{INTEGRATION}");
        let mut ask = git_command(&self.remote());
        ask.args(["merge-base", "--is-ancestor", commit, &branch])
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    }

    /// The tests that commits of integration at the remote name, in order.
    #[must_use]
    pub fn landed_tests(&self) -> Vec<String> {
        let format = "--format=%(trailers:key=Test,valueonly,separator=%x2C)";
        let log = git(&self.remote(), ["log", "--reverse", format, &format!("refs/heads/{INTEGRATION}")]);
        log.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
    }
}
