//! What workspaces cost, against git on the same machine: `cargo run --release -p git --example workspaces`.
//!
//! A new workspace of 57,000 files against `git worktree add` (target: at most 1.5 times), and a snapshot without a change
//! against `git status` (target: at most 1.2 times). `FILES` and `ROUNDS` change the size.

use std::error::Error;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use git::{Repository, SnapshotOptions, Store, Workspace, WorkspaceSpec};

type Outcome<T> = Result<T, Box<dyn Error>>;

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn git(folder: &Path, args: &[&str]) -> Outcome<()> {
    let status = Command::new("git").args(args).current_dir(folder).stdout(std::process::Stdio::null()).status()?;
    if status.success() { Ok(()) } else { Err(format!("git {} failed", args.join(" ")).into()) }
}

fn timed(work: impl FnOnce() -> Outcome<()>) -> Outcome<Duration> {
    let start = Instant::now();
    work()?;
    Ok(start.elapsed())
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

fn row(what: &str, ours: Vec<Duration>, theirs: Vec<Duration>, target: f64) {
    let (ours, theirs) = (median(ours).as_secs_f64(), median(theirs).as_secs_f64());
    let ratio = ours / theirs;
    let verdict = if ratio <= target { "met" } else { "MISSED" };
    println!("{what}: {:.1} ms, git {:.1} ms, ratio {ratio:.2} (target {target}: {verdict})", ours * 1e3, theirs * 1e3);
}

fn main() -> Outcome<()> {
    let (files, rounds) = (number("FILES", 57_000), number("ROUNDS", 3));
    let folder = tempfile::tempdir()?;
    let root = folder.path().join("repository");
    fs::create_dir(&root)?;
    git(&root, &["init", "--quiet", "-b", "main"])?;
    // Its own, in the background, would be in the way of the one below.
    git(&root, &["config", "gc.auto", "0"])?;
    for file in 0..files {
        let path = root.join(format!("d{}/e{}", file / 1000, file / 50 % 20));
        fs::create_dir_all(&path)?;
        fs::write(path.join(format!("f{file}.rs")), format!("// file {file}\n").repeat(20 + file % 100))?;
    }
    git(&root, &["add", "-A"])?;
    git(&root, &["-c", "user.name=bench", "-c", "user.email=bench@localhost", "commit", "--quiet", "-m", "all"])?;
    git(&root, &["gc", "--quiet"])?;
    println!("{files} files, {rounds} rounds, medians");

    let user = Repository::open(&root)?;
    let base = user.commit("main")?;
    let start = Instant::now();
    let (store, _) = Store::create(&user, &folder.path().join("store.git"), "coding-loops/integration")?;
    store.start_integration(&base)?;
    println!("new store: {:.1} ms", start.elapsed().as_secs_f64() * 1e3);

    let spec = |name: String| WorkspaceSpec {
        path: folder.path().join("loops").join(&name),
        state: folder.path().join("state").join(&name),
        branch: format!("loop/{name}"),
    };
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        let linked = folder.path().join(format!("linked{round}"));
        let path = linked.to_str().ok_or("a path that is no text")?;
        theirs.push(timed(|| git(&root, &["worktree", "add", "--quiet", "--detach", path, "main"]))?);
        ours.push(timed(|| {
            Workspace::open_or_create(&store, &spec(format!("w{round}")), &base)?;
            Ok(())
        })?);
    }
    row("new workspace", ours, theirs, 1.5);

    let options = SnapshotOptions { own_folder: "coding-loops", file_bytes: 1 << 30, user: None, take_unignored: false };
    let (workspace, _) = Workspace::open_or_create(&store, &spec("w0".to_owned()), &base)?;
    let linked = folder.path().join("linked0");
    git(&linked, &["update-index", "--refresh"])?;
    workspace.snapshot_start(&options)?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..rounds * 5 {
        theirs.push(timed(|| git(&linked, &["status", "--porcelain", "-uall"]))?);
        ours.push(timed(|| {
            let snapshot = workspace.snapshot(&options)?;
            if snapshot.changed.is_empty() { Ok(()) } else { Err("there is a change".into()) }
        })?);
    }
    row("snapshot without a change", ours, theirs, 1.2);
    let start = Instant::now();
    workspace.reset_to(&base)?;
    println!("reset without a change: {:.1} ms", start.elapsed().as_secs_f64() * 1e3);
    Ok(())
}
