//! How long loops that finish at once wait until all their work has landed: by the landing train, and each alone. Real
//! processes, a real repository, a suite that takes a given time.
//!
//! `cargo build --release -p coding-loop && cargo run --release -p coding-loop --example landing [SECONDS [CASE]]`

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use coord_db::{Database, NewTest, OpenOptions, TestStatus};
use test_support::{new_loop, new_test};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// One line of the table.
struct Case {
    name: &'static str,
    loops: usize,
    /// Works that are expected to land.
    landing: usize,
    /// The suite, with `{s}` for the seconds.
    suite: &'static str,
    /// Target in suite-times.
    target: f64,
}

const CASES: &[Case] = &[
    Case { name: "8 loops", loops: 8, landing: 8, suite: "sleep {s}", target: 3.0 },
    Case { name: "20 loops", loops: 20, landing: 20, suite: "sleep {s}", target: 4.0 },
    Case {
        name: "8 loops, two of which clash only together",
        loops: 8,
        landing: 7,
        suite: "sleep {s}; ! { test -f t03 && test -f t06; }",
        target: 5.5,
    },
    Case {
        name: "4 loops, a suite that needs a core",
        loops: 4,
        landing: 4,
        suite: "timeout {s} sh -c 'while :; do :; done'; true",
        target: 3.0,
    },
];

/// How long one measurement may take, in suite-times.
const BOUND: f64 = 60.0;

fn main() -> Outcome<()> {
    let seconds: f64 = std::env::args().nth(1).map_or(Ok(8.0), |text| text.parse())?;
    let only = std::env::args().nth(2);
    let own = std::env::current_exe()?;
    let program = own.ancestors().nth(2).map(|folder| folder.join("coding-loop")).filter(|path| path.exists());
    let program = program.ok_or("build the program first: cargo build --release -p coding-loop")?;
    println!("all times in suite-times of {seconds} s, from the moment at which all agents end to the last landing");
    println!("{:<44} {:>7} {:>7} {:>7} {:>9} {:>10}", "", "train", "target", "alone", "runs", "runs alone");
    for case in CASES.iter().filter(|case| only.as_deref().is_none_or(|only| case.name.contains(only))) {
        let (train, runs) = measure(&program, case, seconds, "")?;
        let (alone, runs_alone) = measure(&program, case, seconds, "[landing]\nbatch = 1\n")?;
        let judged = if train <= case.target { "met" } else { "missed" };
        println!("{:<44} {train:>7.2} {:>7.1} {alone:>7.2} {runs:>9.2} {runs_alone:>10.2}  {judged}", case.name, case.target);
    }
    Ok(())
}

/// Suite-times until everything has landed, and runs of the suite for each landing.
fn measure(program: &Path, case: &Case, seconds: f64, settings: &str) -> Outcome<(f64, f64)> {
    let folder = tempfile::tempdir()?;
    let root = folder.path().join("repository");
    make_repository(&root)?;
    let home = root.join("coding-loops");
    fs::create_dir(&home)?;
    let (ready, go, runs) = (folder.path().join("ready"), folder.path().join("go"), folder.path().join("runs"));
    fs::create_dir(&ready)?;
    let agent = format!(
        "touch '{}'/$TEST_ID; while ! test -e '{}'; do sleep 0.05; done; echo done >$TEST_ID",
        ready.display(),
        go.display()
    );
    let suite = format!("echo run >>'{}'; {}", runs.display(), case.suite.replace("{s}", &seconds.to_string()));
    let parallel = if settings.is_empty() { "" } else { "parallel = 1\n" };
    fs::write(
        home.join("config.toml"),
        format!(
            "[agent]\ncommand = [\"sh\", \"-c\", {agent:?}]\n{settings}[gate]\n{parallel}[[gate.check]]\nname = \"suite\"\n\
             command = [\"sh\", \"-c\", {suite:?}]\n"
        ),
    )?;
    let db = Database::create(&home.join("coordination.db"), &OpenOptions::default())?;
    let ids: Vec<String> = (1..=case.loops).map(|number| format!("{number:02}")).collect();
    db.write(|tx| {
        for id in &ids {
            tx.add_loop(&new_loop(&format!("l{id}")))?;
            tx.import_tests(&[NewTest { max_attempts: 3, ..new_test(&format!("t{id}"), &format!("l{id}")) }])?;
        }
        Ok::<_, coord_db::Error>(())
    })?;
    let mut processes: Vec<Child> = Vec::new();
    let measured = (|| {
        for id in &ids {
            processes.push(start(program, &root, &format!("l{id}"), &folder.path().join(format!("log.{id}")))?);
        }
        let bound = Duration::from_secs_f64(seconds * BOUND + 60.0);
        until(bound, "the agents do not start", || Ok(fs::read_dir(&ready)?.count() == case.loops))?;
        let before = count(&runs);
        let begun = Instant::now();
        File::create(&go)?;
        until(bound, "not everything lands", || {
            Ok(db.read(|tx| tx.tests(None, Some(TestStatus::Passed)))?.len() >= case.landing)
        })?;
        let took = begun.elapsed().as_secs_f64() / seconds;
        Ok((took, (count(&runs) - before) as f64 / case.landing as f64))
    })();
    for process in &processes {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(i32::try_from(process.id())?), nix::sys::signal::SIGTERM)?;
    }
    for mut process in processes {
        process.wait()?;
    }
    measured
}

fn count(runs: &Path) -> usize {
    fs::read_to_string(runs).unwrap_or_default().lines().count()
}

fn start(program: &Path, root: &Path, id: &str, log: &PathBuf) -> Outcome<Child> {
    let mut command = Command::new(program);
    command.arg(id).current_dir(root).stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(log)?);
    Ok(command.spawn()?)
}

#[allow(clippy::disallowed_methods)] // What is measured is a time.
fn until(bound: Duration, what: &str, mut is_so: impl FnMut() -> Outcome<bool>) -> Outcome<()> {
    let deadline = Instant::now() + bound;
    while !is_so()? {
        if Instant::now() > deadline {
            return Err(format!("{what} within {} s", bound.as_secs()).into());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn make_repository(root: &Path) -> Outcome<()> {
    fs::create_dir(root)?;
    let git = |arguments: &[&str]| -> Outcome<()> {
        let done = Command::new("git").arg("-C").arg(root).args(arguments).status()?;
        done.success().then_some(()).ok_or_else(|| format!("git {arguments:?} failed").into())
    };
    git(&["init", "--quiet", "-b", "main"])?;
    fs::write(root.join(".gitignore"), "/coding-loops/\n")?;
    git(&["add", "--all"])?;
    git(&["-c", "user.name=a", "-c", "user.email=a@example.org", "commit", "--quiet", "-m", "begin"])
}
