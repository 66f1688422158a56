//! Running commands: ends, limits, and that no process is left, whichever process is killed.
//!
//! The program starts itself again as the keeper, and as the parent that is killed; hence its own `main`.

use std::ffi::OsString;
use std::fs;
use std::future::Future;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use command_runner::keeper::{self, KeeperId};
use command_runner::{CommandSpec, End, NotStartedKind, Outcome, run, start_time};
use tempfile::TempDir;
use test_support::{BOUND, Signal, is_alive, run_tests, signal, tests, wait_for, wait_until};
use tokio::sync::watch;

/// Daemonises in the classic way and by a session of its own, writes each pid to a file, and goes on.
const DAEMONS: &str = "
    (setsid sh -c 'echo $$ > daemon1; exec sleep 1000' &)
    setsid env -i /bin/sh -c '(trap \"\" TERM HUP; /bin/sh -c \"echo \\$PPID > daemon2\"; while :; do /bin/sleep 1; done) & exit' </dev/null >/dev/null 2>&1
    while ! [ -s daemon1 ] || ! [ -s daemon2 ]; do sleep 0.02; done
    echo ready
";

fn main() {
    keeper::run_if_asked();
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [word, folder] = args.as_slice()
        && word == "__parent"
    {
        return parent(Path::new(folder));
    }
    run_tests(tests![
        exit_codes_and_signals,
        what_cannot_start_says_why,
        environment_input_and_arguments_are_exact,
        output_is_bounded,
        output_is_merged_in_order,
        a_timeout_ends_daemons_too,
        what_ends_by_itself_leaves_nothing,
        sigterm_comes_first,
        cancelling_stops_it,
        dropping_the_future_stops_it,
        a_killed_parent_leaves_nothing,
        a_killed_keeper_leaves_nothing,
        leftovers_are_killed_by_identity,
        a_terminated_keeper_stops_the_command,
        many_at_once,
    ]);
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn spec(dir: &TempDir, script: &str) -> CommandSpec {
    let mut spec = CommandSpec::new(["sh", "-c", script], dir.path());
    spec.env = vec![("PATH".to_owned(), std::env::var_os("PATH").unwrap())];
    spec.kill_after = Duration::from_millis(300);
    spec.timeout = Duration::from_secs(60);
    spec
}

fn finish(spec: &CommandSpec) -> Outcome {
    let (_keep, mut cancel) = watch::channel(false);
    block_on(run(spec, &mut cancel, |_| {}))
}

fn pid_in(dir: &Path, file: &str) -> Option<u32> {
    fs::read_to_string(dir.join(file)).ok()?.trim().parse().ok()
}

fn assert_daemons_gone(dir: &Path) {
    for file in ["daemon1", "daemon2"] {
        let pid = pid_in(dir, file).unwrap_or_else(|| panic!("{file} was never there"));
        assert!(!is_alive(pid), "{file} lives on");
    }
}

fn exit_codes_and_signals() {
    let dir = tempfile::tempdir().unwrap();
    for (script, end) in [
        ("exit 0", End::Exited(0)),
        ("exit 7", End::Exited(7)),
        ("kill -9 $$", End::Signaled(9)),
        ("kill -SEGV $$", End::Signaled(11)),
        ("kill -TERM $$", End::Signaled(15)),
    ] {
        let outcome = finish(&spec(&dir, script));
        assert_eq!(outcome.end, end, "{script}");
        assert_eq!(outcome.survivors, 0);
        assert_eq!(outcome.success(), end == End::Exited(0));
    }
}

fn what_cannot_start_says_why() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("plain"), "no program").unwrap();
    fs::write(dir.path().join("garbage"), [0, 1, 2, 3]).unwrap();
    fs::set_permissions(dir.path().join("garbage"), fs::Permissions::from_mode(0o755)).unwrap();
    let kind = |spec: &CommandSpec| match finish(spec).end {
        End::NotStarted { kind, message } => {
            assert!(!message.is_empty());
            kind
        }
        end => panic!("{end:?}"),
    };
    let with = |argv: &[&str]| CommandSpec { argv: argv.iter().map(OsString::from).collect(), ..spec(&dir, "") };
    assert_eq!(kind(&with(&["no-such-program-here"])), NotStartedKind::Missing);
    assert_eq!(kind(&with(&["./none"])), NotStartedKind::Missing);
    assert_eq!(kind(&with(&[])), NotStartedKind::Missing);
    assert_eq!(kind(&with(&["./plain"])), NotStartedKind::NotExecutable);
    assert_eq!(kind(&with(&["./garbage"])), NotStartedKind::NotExecutable);
    assert_eq!(kind(&with(&["sh", "nul\0"])), NotStartedKind::Other);
    assert_eq!(kind(&with(&["sh", &"x".repeat(1 << 20)])), NotStartedKind::Other);
    assert_eq!(kind(&CommandSpec { cwd: dir.path().join("none"), ..spec(&dir, "true") }), NotStartedKind::Other);
    assert_eq!(kind(&CommandSpec { log_path: Some("/proc/none/x".into()), ..spec(&dir, "true") }), NotStartedKind::Other);
    assert_eq!(kind(&CommandSpec { keeper: Some("/bin/true".into()), ..spec(&dir, "true") }), NotStartedKind::Other);
}

fn environment_input_and_arguments_are_exact() {
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    let dir = tempfile::tempdir().unwrap();
    let odd = OsString::from_vec(b"a\xff\n'\"$(x)".to_vec());
    let mut spec =
        CommandSpec::new(["/bin/sh", "-c", "cat; printf '|%s|%s|' \"$ODD\" \"$1\"; pwd; env | wc -l", "sh"], dir.path());
    spec.argv.push(odd.clone());
    spec.env = vec![("ODD".to_owned(), odd.clone()), ("PATH".to_owned(), "/usr/bin:/bin".into())];
    spec.stdin = (0..300_000_u32).flat_map(|n| [b'a' + (n % 26) as u8, b'\n']).collect();
    spec.log_path = Some(dir.path().join("logs/deep/log"));
    let outcome = finish(&spec);
    assert_eq!(outcome.end, End::Exited(0));
    let log = fs::read(dir.path().join("logs/deep/log")).unwrap();
    assert!(log.starts_with(&spec.stdin));
    let rest = log[spec.stdin.len()..].to_vec();
    let expected =
        [b"|", odd.as_bytes(), b"|", odd.as_bytes(), b"|", dir.path().canonicalize().unwrap().as_os_str().as_bytes()].concat();
    assert!(rest.starts_with(&expected), "{:?}", String::from_utf8_lossy(&rest));
    assert_eq!(outcome.output_bytes, log.len() as u64);
    assert_eq!(fs::metadata(dir.path().join("logs/deep/log")).unwrap().permissions().mode() & 0o777, 0o600);
    // A command that does not read its input holds nothing up.
    spec.argv = vec!["/bin/true".into()];
    spec.stdin = vec![b'x'; 4 << 20];
    assert_eq!(finish(&spec).end, End::Exited(0));
    spec.argv = ["nice"].map(Into::into).to_vec();
    spec.nice = Some(11);
    assert_eq!(finish(&spec).tail.trim(), "11");
}

fn output_is_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let mut spec = spec(&dir, "yes | head -c 50000000; printf 'the \\377 end'");
    spec.log_path = Some(dir.path().join("log"));
    spec.output_bytes = 100_000;
    let outcome = finish(&spec);
    assert_eq!(outcome.end, End::Exited(0));
    assert_eq!(outcome.output_bytes, 50_000_009);
    assert!(outcome.tail.ends_with("y\nthe \u{fffd} end"));
    assert!(outcome.log_cut && outcome.log_error.is_none());
    let log = fs::read_to_string(dir.path().join("log")).unwrap();
    assert!(log.len() < 101_000 && log.contains("[output cut: only the first 100000 bytes are kept]"), "{}", log.len());
    let sum = Command::new("sh").args(["-c", "(yes | head -c 50000000; printf 'the \\377 end') | sha256sum"]).output().unwrap();
    assert!(String::from_utf8(sum.stdout).unwrap().starts_with(&outcome.output_sha256));
}

fn output_is_merged_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let outcome = finish(&spec(&dir, "for n in 1 2 3; do echo out $n; echo err $n >&2; done"));
    assert_eq!(outcome.tail, "out 1\nerr 1\nout 2\nerr 2\nout 3\nerr 3\n");
    assert!(!outcome.log_cut);
}

/// What a timeout ends once it has printed `ready`: on a busy machine it gets more time for that.
fn time_out(script: &str, kill_after: Duration) -> (TempDir, Outcome) {
    for timeout in [1, 10, 60] {
        let dir = tempfile::tempdir().unwrap();
        let mut spec = spec(&dir, script);
        (spec.timeout, spec.kill_after) = (Duration::from_secs(timeout), kill_after);
        let outcome = finish(&spec);
        assert_eq!((&outcome.end, outcome.survivors), (&End::TimedOut, 0));
        assert!(outcome.duration >= spec.timeout);
        if outcome.tail.starts_with("ready\n") {
            return (dir, outcome);
        }
    }
    panic!("it is never ready")
}

fn a_timeout_ends_daemons_too() {
    let (dir, _) = time_out(&format!("{DAEMONS} trap '' TERM; while :; do sleep 0.1; done"), Duration::from_millis(300));
    assert_daemons_gone(dir.path());
}

fn what_ends_by_itself_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let outcome = finish(&spec(&dir, &format!("{DAEMONS} sleep 1000 & exit 3")));
    assert_eq!((outcome.end, outcome.survivors), (End::Exited(3), 0));
    assert_eq!(outcome.tail, "ready\n");
    assert_daemons_gone(dir.path());
}

fn sigterm_comes_first() {
    let (_, outcome) = time_out("trap 'echo tidy; exit 0' TERM; echo ready; while :; do sleep 0.05; done", BOUND);
    // The shell may add a word about the process that it waited for.
    assert!(outcome.tail.ends_with("tidy\n"), "{:?}", outcome.tail);
    assert!(outcome.duration < BOUND, "it does not wait for the whole grace period");
}

fn cancelling_stops_it() {
    let dir = tempfile::tempdir().unwrap();
    let (sender, mut cancel) = watch::channel(false);
    let spec = spec(&dir, &format!("{DAEMONS} sleep 1000"));
    let outcome = block_on(async {
        let folder = dir.path().to_owned();
        let wait = tokio::task::spawn_blocking(move || {
            wait_for("the daemons", || pid_in(&folder, "daemon1").and(pid_in(&folder, "daemon2")));
            sender.send(true).unwrap();
            sender
        });
        let outcome = run(&spec, &mut cancel, |_| {}).await;
        drop(wait.await.unwrap());
        outcome
    });
    assert_eq!(outcome.end, End::Cancelled);
    assert_daemons_gone(dir.path());
    assert_eq!(block_on(run(&spec, &mut cancel, |_| panic!("no keeper"))).end, End::Cancelled, "cancelled before it began");
}

fn dropping_the_future_stops_it() {
    let dir = tempfile::tempdir().unwrap();
    let spec = spec(&dir, &format!("{DAEMONS} sleep 1000"));
    let (_keep, mut cancel) = watch::channel(false);
    block_on(async {
        let folder = dir.path().to_owned();
        let wait = tokio::task::spawn_blocking(move || {
            wait_for("the daemons", || pid_in(&folder, "daemon1").and(pid_in(&folder, "daemon2")));
        });
        tokio::select! {
            outcome = run(&spec, &mut cancel, |_| {}) => panic!("{outcome:?}"),
            _ = wait => {}
        }
    });
    for file in ["daemon1", "daemon2"] {
        let pid = pid_in(dir.path(), file).unwrap();
        wait_until("the end of a daemon", || !is_alive(pid));
    }
}

/// Runs the daemons until it is killed; prints its keeper.
fn parent(dir: &Path) {
    let mut spec = CommandSpec::new(["sh", "-c", &format!("{DAEMONS} trap '' TERM; while :; do sleep 0.1; done")], dir);
    spec.env = vec![("PATH".to_owned(), std::env::var_os("PATH").unwrap())];
    spec.kill_after = Duration::from_millis(300);
    let (_keep, mut cancel) = watch::channel(false);
    block_on(run(&spec, &mut cancel, |id| println!("{} {}", id.pid, id.start_time)));
}

/// Starts a [`parent`] and waits until its daemons run.
fn start_parent(dir: &Path) -> (std::process::Child, KeeperId) {
    let mut parent = Command::new("/proc/self/exe").arg("__parent").arg(dir).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(parent.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let (pid, start) = line.trim().split_once(' ').unwrap();
    let id = KeeperId { pid: pid.parse().unwrap(), start_time: start.parse().unwrap() };
    assert_eq!(start_time(id.pid), Some(id.start_time));
    wait_for("the daemons", || pid_in(dir, "daemon1").and(pid_in(dir, "daemon2")));
    (parent, id)
}

fn a_killed_parent_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (mut parent, id) = start_parent(dir.path());
    parent.kill().unwrap();
    parent.wait().unwrap();
    wait_until("the end of the keeper", || !is_alive(id.pid));
    assert_daemons_gone(dir.path());
    assert_eq!(keeper::kill_leftover(id.pid, id.start_time).unwrap(), 0);
}

fn a_killed_keeper_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    // A daemon that has also dropped its environment is beyond reach then, so this one keeps it.
    let spec = spec(&dir, "(setsid sh -c 'echo $$ > daemon1; exec sleep 1000' &) ; echo $$ > daemon2; sleep 1000");
    let (_keep, mut cancel) = watch::channel(false);
    let outcome = block_on(async {
        let folder = dir.path().to_owned();
        run(&spec, &mut cancel, |id| {
            std::thread::spawn(move || {
                wait_for("the daemons", || pid_in(&folder, "daemon1").and(pid_in(&folder, "daemon2")));
                signal(id.pid, Signal::SIGKILL);
            });
        })
        .await
    });
    assert_eq!(outcome.end, End::Lost);
    assert_daemons_gone(dir.path());
}

fn leftovers_are_killed_by_identity() {
    let dir = tempfile::tempdir().unwrap();
    let (mut parent, id) = start_parent(dir.path());
    assert_eq!(keeper::kill_leftover(id.pid, id.start_time + 1).unwrap(), 0, "another process");
    assert!(is_alive(id.pid) && is_alive(pid_in(dir.path(), "daemon1").unwrap()));
    signal(parent.id(), Signal::SIGSTOP);
    assert!(keeper::kill_leftover(id.pid, id.start_time).unwrap() >= 4);
    assert_daemons_gone(dir.path());
    assert!(!is_alive(id.pid));
    parent.kill().unwrap();
    parent.wait().unwrap();
    assert_eq!(keeper::kill_leftover(id.pid, id.start_time).unwrap(), 0);
}

fn a_terminated_keeper_stops_the_command() {
    let dir = tempfile::tempdir().unwrap();
    let spec = spec(&dir, &format!("{DAEMONS} sleep 1000"));
    let (_keep, mut cancel) = watch::channel(false);
    let folder = dir.path().to_owned();
    let outcome = block_on(run(&spec, &mut cancel, |id| {
        std::thread::spawn(move || {
            wait_for("the daemons", || pid_in(&folder, "daemon1").and(pid_in(&folder, "daemon2")));
            signal(id.pid, Signal::SIGTERM);
        });
    }));
    assert_eq!(outcome.end, End::Cancelled);
    assert_daemons_gone(dir.path());
}

fn many_at_once() {
    let dir = tempfile::tempdir().unwrap();
    block_on(async {
        let mut set = tokio::task::JoinSet::new();
        for number in 0..20 {
            let spec = spec(&dir, &format!("cat; exit {number}"));
            set.spawn(async move {
                let (_keep, mut cancel) = watch::channel(false);
                (number, run(&CommandSpec { stdin: b"hello".to_vec(), ..spec }, &mut cancel, |_| {}).await)
            });
        }
        while let Some(result) = set.join_next().await {
            let (number, outcome) = result.unwrap();
            assert_eq!((outcome.end, outcome.tail.as_str()), (End::Exited(number), "hello"));
        }
    });
}
