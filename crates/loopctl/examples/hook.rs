//! How long an agent waits for the hook before an edit, with nothing in the way: the whole process, against
//! `loopctl --version` in the same run.
//!
//! `cargo build --release -p loopctl && cargo run --release -p loopctl --example hook`

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use coord_db::{Database, OpenOptions};
use serde_json::json;
use test_support::make_repository;

const ROUNDS: usize = 300;

type Failure = Box<dyn std::error::Error>;

/// A loop with a test in progress.
struct Scene {
    folder: tempfile::TempDir,
    program: PathBuf,
    database: PathBuf,
    workspace: PathBuf,
    /// As the loop does, so that no command is the last to close it.
    _open: Database,
}

impl Scene {
    fn new() -> Result<Self, Failure> {
        // target/PROFILE/examples/hook -> target/PROFILE/loopctl
        let own = std::env::current_exe()?;
        let program = own.ancestors().nth(2).map(|folder| folder.join("loopctl")).filter(|path| path.exists());
        let program = program.ok_or("build the program first: cargo build --release -p loopctl")?;
        let folder = tempfile::tempdir()?;
        let repository = folder.path().join("repo");
        let tracked: Vec<String> = (0..ROUNDS).map(|round| format!("src/file{round}.py")).collect();
        let mut files: Vec<(&str, &str)> = tracked.iter().map(|file| (file.as_str(), "print()\n")).collect();
        files.push((".gitignore", "*.log\n/build/\n"));
        make_repository(&repository, &files);
        for line in [&["init"][..], &["loop", "add", "a"], &["test", "add", "t", "--loop", "a"], &["next", "--loop", "a"]] {
            let output = Command::new(&program).args(line).current_dir(&repository).output()?;
            if !output.status.success() {
                return Err(String::from_utf8_lossy(&output.stderr).into());
            }
        }
        let database = repository.join("coding-loops/coordination.db");
        let workspace = folder.path().join("repo-loops/loops/a");
        let open = Database::open(&database, &OpenOptions::default())?;
        Ok(Self { folder, program, database, workspace, _open: open })
    }

    fn version(&self) -> Result<Duration, Failure> {
        let begun = Instant::now();
        let output = Command::new(&self.program).arg("--version").output()?;
        if output.status.success() { Ok(begun.elapsed()) } else { Err("loopctl --version fails".into()) }
    }

    fn hook(&self, file: &Path) -> Result<Duration, Failure> {
        let input = json!({
            "hook_event_name": "PreToolUse", "tool_name": "Edit", "cwd": self.workspace, "tool_input": { "file_path": file }
        });
        let begun = Instant::now();
        let mut command = Command::new(&self.program);
        command.arg("--db").arg(&self.database).args(["hook", "claude", "--loop", "a"]).current_dir(self.folder.path());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
        child.stdin.take().ok_or("no input")?.write_all(input.to_string().as_bytes())?;
        let output = child.wait_with_output()?;
        let took = begun.elapsed();
        if output.status.success() { Ok(took) } else { Err(String::from_utf8_lossy(&output.stderr).into()) }
    }
}

fn main() -> Result<(), Failure> {
    let scene = Scene::new()?;
    let [mut version, mut first, mut held, mut new, mut ignored] = [const { Vec::new() }; 5];
    // In turn, so that each sees the same machine.
    for round in 0..ROUNDS {
        version.push(scene.version()?);
        let file = scene.workspace.join(format!("src/file{round}.py"));
        first.push(scene.hook(&file)?);
        held.push(scene.hook(&file)?);
        new.push(scene.hook(&scene.workspace.join(format!("src/new{round}.py")))?);
        ignored.push(scene.hook(&scene.workspace.join("x.log"))?);
    }
    println!("| whole process | p50 | p99 | p50 to --version |");
    println!("| --- | --- | --- | --- |");
    let at = |took: &[Duration], share: f64| took[((took.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
    version.sort();
    let base = at(&version, 0.5);
    println!("| loopctl --version | {base:.1} ms | {:.1} ms | |", at(&version, 0.99));
    for (name, took) in [
        ("first edit of a file", &mut first),
        ("a file that is leased", &mut held),
        ("a new file", &mut new),
        ("an ignored file", &mut ignored),
    ] {
        took.sort();
        println!("| hook, {name} | {:.1} ms | {:.1} ms | {:.1} |", at(took, 0.5), at(took, 0.99), at(took, 0.5) / base);
    }
    Ok(())
}
