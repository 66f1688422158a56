//! What an agent that only thinks costs: CPU time of `coding-loop` and of everything that it starts, over a minute in which
//! the agent changes nothing; against one `git status` in the same workspace.
//!
//! `cargo build --release -p coding-loop && cargo run --release -p coding-loop --example idle [FILES [SECONDS]]`

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use coord_db::{Database, NewTest, OpenOptions};
use test_support::{new_loop, new_test};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

const TARGET_MS: f64 = 5.0;
/// For the work around the agent's start to be over.
const SETTLES: Duration = Duration::from_secs(5);
/// A tick of `/proc/PID/stat` on Linux.
const TICK_MS: f64 = 10.0;

fn main() -> Outcome<()> {
    let files = number(1, 57_000)?;
    let seconds = number(2, 60)?;
    // target/PROFILE/examples/idle -> target/PROFILE/coding-loop
    let own = std::env::current_exe()?;
    let program = own.ancestors().nth(2).map(|folder| folder.join("coding-loop")).filter(|path| path.exists());
    let program = program.ok_or("build the program first: cargo build --release -p coding-loop")?;
    let folder = tempfile::tempdir()?;
    let repository = folder.path().join("repository");
    make_repository(&repository, files)?;
    let home = repository.join("coding-loops");
    let started = folder.path().join("started");
    let log = folder.path().join("log");
    fs::create_dir(&home)?;
    let agent = format!("pwd >'{}' && exec sleep 100000", started.display());
    fs::write(
        home.join("config.toml"),
        format!("[agent]\ncommand = [\"sh\", \"-c\", \"{agent}\"]\n[[gate.check]]\nname = \"none\"\ncommand = [\"true\"]\n"),
    )?;
    let db = Database::create(&home.join("coordination.db"), &OpenOptions::default())?;
    db.write(|tx| {
        tx.add_loop(&new_loop("idle"))?;
        tx.import_tests(&[NewTest { max_attempts: 1, ..new_test("t1", "idle") }])
    })?;
    let mut process = Command::new(program)
        .arg("idle")
        .current_dir(&repository)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(&log)?)
        .spawn()?;
    let measured = measure(process.id(), &started, seconds);
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(i32::try_from(process.id())?), nix::sys::signal::SIGTERM)?;
    process.wait()?;
    let (ours, git) = measured.map_err(|error| format!("{error}:\n{}", fs::read_to_string(&log).unwrap_or_default()))?;
    let judged = if ours <= TARGET_MS { "met" } else { "missed" };
    println!(
        "{files} files, {seconds} s: {ours:.1} ms CPU per 10 s (target {TARGET_MS}: {judged}); one git status: {git:.1} ms"
    );
    Ok(())
}

fn number(nth: usize, otherwise: u64) -> Outcome<u64> {
    Ok(std::env::args().nth(nth).map(|text| text.parse()).transpose()?.unwrap_or(otherwise))
}

fn make_repository(root: &Path, files: u64) -> Outcome<()> {
    fs::create_dir(root)?;
    let git = |arguments: &[&str]| -> Outcome<()> {
        let done = Command::new("git").arg("-C").arg(root).args(arguments).status()?;
        done.success().then_some(()).ok_or_else(|| format!("git {arguments:?} failed").into())
    };
    git(&["init", "--quiet", "-b", "main"])?;
    for file in 0..files {
        let path = root.join(format!("d{}/e{}", file / 1000, file / 50 % 20));
        fs::create_dir_all(&path)?;
        fs::write(path.join(format!("f{file}")), format!("{file}\n"))?;
    }
    fs::write(root.join(".gitignore"), "/coding-loops/\n")?;
    git(&["add", "--all"])?;
    git(&["-c", "user.name=a", "-c", "user.email=a@example.org", "commit", "--quiet", "-m", "begin"])
}

/// Milliseconds of CPU: ours for ten seconds, and one `git status`.
#[allow(clippy::disallowed_methods)] // What is measured is that nothing happens for a time.
fn measure(pid: u32, started: &Path, seconds: u64) -> Outcome<(f64, f64)> {
    let deadline = Instant::now() + Duration::from_secs(60);
    while fs::metadata(started).map_or(0, |file| file.len()) == 0 {
        if Instant::now() > deadline {
            return Err("the agent was not started".into());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    std::thread::sleep(SETTLES);
    let before = cpu_ms(pid)?;
    std::thread::sleep(Duration::from_secs(seconds));
    let ours = (cpu_ms(pid)? - before) * 10.0 / seconds as f64;
    let workspace = fs::read_to_string(started)?;
    let before = cpu_ms(std::process::id())?;
    const TIMES: u32 = 10;
    for _ in 0..TIMES {
        Command::new("git").args(["status", "--porcelain"]).current_dir(workspace.trim()).stdout(Stdio::null()).status()?;
    }
    Ok((ours, (cpu_ms(std::process::id())? - before) / f64::from(TIMES)))
}

/// The time on a processor of a process and of the children that have ended. That of its threads is exact, that of the
/// children comes in ticks.
fn cpu_ms(pid: u32) -> Outcome<f64> {
    let mut nanoseconds = 0.0;
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let text = fs::read_to_string(thread?.path().join("schedstat"))?;
        nanoseconds += text.split(' ').next().ok_or("no figure in schedstat")?.parse::<f64>()?;
    }
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // After the name, which may hold anything, cutime and cstime are the 14th and 15th field.
    let fields = text.rsplit(')').next().ok_or("no name in stat")?;
    let ended: f64 = fields.split_whitespace().skip(13).take(2).map(|ticks| ticks.parse::<f64>().unwrap_or(0.0)).sum();
    Ok(nanoseconds / 1e6 + ended * TICK_MS)
}
