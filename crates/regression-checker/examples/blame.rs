//! How long it takes to find who is to blame, against `git bisect run` with the same check on the same commits, in the same
//! run: a table.
//!
//! `cargo build --release -p regression-checker && cargo run --release -p regression-checker --example blame`
//!
//! `BLAME_COMMITS` is the length of the history (1,024), `BLAME_MILLIS` how long the check takes at least (50).

#[path = "../tests/it/common/history.rs"]
mod history;

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use coord_db::wake::Listener;
use coord_db::{Database, OpenOptions};
use history::{Commit, History, Kind, Planted, Recipe};
use test_support::{git, sql};

type Failure = Box<dyn std::error::Error>;

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// One search: how long it took, its rounds and its runs of the check.
struct Took {
    millis: f64,
    rounds: u32,
    runs: u32,
}

fn mean(took: impl Iterator<Item = f64>) -> f64 {
    let (sum, count) = took.fold((0.0, 0.0), |(sum, count), one| (sum + one, count + 1.0));
    sum / count
}

fn main() -> Result<(), Failure> {
    // target/PROFILE/examples/blame -> target/PROFILE/regression-checker
    let own = std::env::current_exe()?;
    let program = own.ancestors().nth(2).map(|folder| folder.join("regression-checker")).filter(|path| path.exists());
    let program = program.ok_or("build the program first: cargo build --release -p regression-checker")?;
    let (commits, millis) = (number("BLAME_COMMITS", 1_024), number("BLAME_MILLIS", 50));
    let folder = tempfile::tempdir()?;
    let root = folder.path().canonicalize()?;
    let recipe = Recipe {
        commits,
        tests: 125,
        planted: vec![(Kind::Line, 12), (Kind::Config, 4)],
        from: 1,
        heads: vec![commits],
        broken_builds: 1_000_000,
        pause: format!("sleep {}.{:03}", millis / 1000, millis % 1000),
        seed: 11,
    };
    let path = root.join("coding-loops/coordination.db");
    create(&path)?;
    let history = recipe.make(&root, &path);
    history.move_to(commits);
    println!("{commits} commits, a check of {millis} ms, {} regressions; all figures are means\n", history.planted.len());
    println!("| what is known | at once | rounds | runs | time | `git bisect run` | share |");
    println!("| --- | --- | --- | --- | --- | --- | --- |");
    for (known, said) in [(true, "which files the test is about"), (false, "nothing")] {
        for parallel in [1, 2, 3] {
            let (mut ours, mut git) = (Vec::new(), Vec::new());
            let checker = Checker::start(&program, &path, &history, (parallel, known))?;
            for one in history.planted.iter().filter(|one| !known || one.kind == Kind::Line) {
                // In turn, so that what else the machine does hits both.
                git.push(by_git(&root, &history, one)?);
                ours.push(checker.blame(&history, one)?);
            }
            let (time, theirs) = (mean(ours.iter().map(|one| one.millis)), mean(git.iter().map(|one| one.millis)));
            let rounds = |of: &[Took]| mean(of.iter().map(|one| f64::from(one.rounds)));
            let runs = mean(ours.iter().map(|one| f64::from(one.runs)));
            println!(
                "| {said} | {parallel} | {:.1} | {runs:.1} | {time:.0} ms | {theirs:.0} ms, {:.1} rounds | {:.2} |",
                rounds(&ours),
                rounds(&git),
                time / theirs
            );
        }
    }
    Ok(())
}

fn blamed(history: &History, one: &Planted, found: &str) -> Result<(), Failure> {
    let Commit { hash, .. } = &history.commits[one.at];
    if found == hash { Ok(()) } else { Err(format!("{found} is blamed for {one:?}, which {hash} broke").into()) }
}

/// The commits between which all of it broke.
fn ends(history: &History) -> (&str, &str) {
    (&history.commits[0].hash, &history.commits[history.commits.len() - 1].hash)
}

fn by_git(root: &Path, history: &History, one: &Planted) -> Result<Took, Failure> {
    let tree = root.join("bisect");
    let name = tree.to_str().ok_or("a path that is no text")?;
    if !tree.exists() {
        git(&history.repository, ["worktree", "add", "--quiet", "--detach", name, ends(history).1]);
    }
    let (good, bad) = ends(history);
    git(&tree, ["checkout", "--quiet", "--detach", bad]);
    let log = root.join("bisect-runs");
    let _ = std::fs::remove_file(&log);
    let counted = format!("echo >> '{}'; exec sh '{}'", log.display(), history.check.display());
    let begin = Instant::now();
    git(&tree, ["bisect", "start", bad, good]);
    let output = Command::new("git")
        .current_dir(&tree)
        .args(["bisect", "run", "sh", "-c", &counted])
        .env("TEST_ID", &one.victim)
        .stderr(Stdio::null())
        .output()?;
    let millis = begin.elapsed().as_secs_f64() * 1000.0;
    let found = git(&tree, ["rev-parse", "refs/bisect/bad"]);
    git(&tree, ["bisect", "reset", "HEAD"]);
    if !output.status.success() {
        return Err("git bisect run failed".into());
    }
    blamed(history, one, &found)?;
    let runs = u32::try_from(std::fs::read_to_string(&log)?.lines().count())?;
    Ok(Took { millis, rounds: runs, runs })
}

/// The program at work as a daemon, as it is when something breaks.
struct Checker<'a> {
    child: Child,
    path: &'a Path,
}

fn create(path: &Path) -> Result<(), Failure> {
    std::fs::create_dir_all(path.parent().ok_or("a path without a folder")?)?;
    Database::create(path, &OpenOptions::default())?;
    Ok(())
}

impl Drop for Checker<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl<'a> Checker<'a> {
    /// On a database that is new each time.
    fn start(program: &Path, path: &'a Path, history: &History, (parallel, known): (usize, bool)) -> Result<Self, Failure> {
        for ending in ["", "-wal", "-shm"] {
            let _ = std::fs::remove_file(format!("{}{ending}", path.display()));
        }
        create(path)?;
        let config = format!(
            "[repository]\npath = '{}'\n[regression]\nparallel = {parallel}\nnice = 0\ninterval_seconds = 86400\n\
             [[gate.check]]\nname = \"tests\"\ncommand = [\"sh\", '{}']\n",
            history.repository.display(),
            history.check.display()
        );
        std::fs::write(path.with_file_name("config.toml"), config)?;
        let mut rows = "INSERT INTO loops(id, name, priority, status) VALUES ('core', '', 1, 'stopped');\n".to_owned();
        let (good, bad) = ends(history);
        for one in &history.planted {
            let scope = if known { format!("[\"src/{}\"]", one.victim) } else { "[]".to_owned() };
            // As the check at the head would have left it.
            rows += &format!(
                "INSERT INTO tests(id, loop_id, category, status, verified_at, scope)
                   VALUES ('{test}', 'core', 'build', 'passed', datetime('now'), '{scope}');
                 INSERT INTO passing_tests(test_id, commit_hash) VALUES ('{test}', '{good}');
                 INSERT OR IGNORE INTO check_runs(check_name, commit_hash, outcome, runs) VALUES ('tests', '{bad}', 'fail', 3);
                 INSERT INTO baseline_runs(check_name, test_id, commit_hash, outcome, runs)
                   VALUES ('tests', '{test}', '{bad}', 'fail', 3);\n",
                test = one.victim
            );
        }
        sql(path, &rows);
        let child = Command::new(program).arg("--db").arg(path).stderr(Stdio::null()).spawn()?;
        Ok(Self { child, path })
    }

    /// Suspects one test, and waits for the verdict.
    fn blame(&self, history: &History, one: &Planted) -> Result<Took, Failure> {
        let ((good, bad), test) = (ends(history), &one.victim);
        let mut listener = Listener::new(self.path);
        sql(
            self.path,
            &format!(
                "INSERT INTO regressions(id, test_id, check_name, last_good_commit, bad_commit, status)
                   VALUES ('{test}', '{test}', 'tests', '{good}', '{bad}', 'bisecting');"
            ),
        );
        let deadline = Instant::now() + Duration::from_secs(120);
        let told = loop {
            let told = sql(
                self.path,
                &format!(
                    "SELECT (SELECT sum(julianday(completed_at) - julianday(started_at)) * 86400000.0 FROM transaction_log
                             WHERE operation = 'bisect' AND steps LIKE '%\"{test}\"%'),
                       json_extract(bisect, '$.rounds'), json_extract(bisect, '$.runs'), first_bad_commit FROM regressions
                     WHERE id = '{test}' AND status = 'regressed';"
                ),
            );
            if !told.is_empty() {
                break told;
            }
            if Instant::now() > deadline {
                return Err(format!("no verdict about {one:?}").into());
            }
            listener.wait(Duration::from_millis(500));
        };
        let told: Vec<&str> = told.split('|').collect();
        let [millis, rounds, runs, found] = told.as_slice() else { return Err(format!("{told:?}").into()) };
        blamed(history, one, found)?;
        Ok(Took { millis: millis.parse()?, rounds: rounds.parse()?, runs: runs.parse()? })
    }
}
