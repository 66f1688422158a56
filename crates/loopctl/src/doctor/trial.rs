//! `loopctl doctor --run-checks`: set-up and checks are run at the base, and what they ran is shown. A check that passes
//! because it ran no test verifies nothing.

use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use coord_db::{Config, locate};
use git::check::{CheckSpec, CheckVerdict, run_check};
use git::{CommitHash, Layout, Ready, Repository, SetUp, Store, WorkTree, filled_in, free_port, remove_check_out};
use tokio::sync::watch;

use super::Report;
use crate::context::Context;
use crate::exit::Outcome;
use crate::submit::until_stopped;
use crate::workspaces::failure;

/// The lines of a failed check's output that are shown.
const LINES: usize = 8;

/// Runs everything in a check-out of its own, which is removed again.
///
/// # Errors
/// If there is no store to check a commit out of, or git refuses.
pub fn run(cx: &Context, config: &Config, root: &Path, report: &mut Report) -> Outcome {
    let layout = Layout::new(config.workspace_root());
    let Ok(store) = layout.open_store() else {
        report.problem("run", "the store does not exist", "create it with loopctl init");
        return Ok(());
    };
    let user = Repository::open(root).map_err(|error| failure(&error))?;
    let commit = match store.integration().map_err(|error| failure(&error))? {
        Some(commit) => commit,
        None => store.fetch_from_user(&user, "HEAD").map_err(|error| failure(&error))?,
    };
    let folder = layout.trial();
    let trial = Trial { config, database: &cx.path, store: &store, user: &user, commit: &commit };
    let ran = {
        let _working = cx.out.working(format!("set-up and checks at {}", commit.short()));
        until_stopped(|stop| trial.run(&folder, stop, report)).and_then(|ran| ran.map_err(|error| failure(&error)))
    };
    let removed = remove_check_out(&folder).map_err(|error| failure(&error));
    ran.and(removed)
}

struct Trial<'a> {
    config: &'a Config,
    database: &'a Path,
    store: &'a Store,
    user: &'a Repository,
    commit: &'a CommitHash,
}

impl Trial<'_> {
    async fn run(&self, folder: &Path, mut stop: watch::Receiver<bool>, report: &mut Report) -> git::Result<()> {
        let tree = self.store.check_out(folder, self.commit)?;
        if !self.set_up(&tree, &mut stop, report).await? {
            return Ok(());
        }
        for check in &self.config.gate.check {
            let limit = check.timeout_seconds.unwrap_or(self.config.gate.timeout_seconds);
            let spec = CheckSpec {
                name: check.name.clone(),
                argv: check.command.clone(),
                timeout: Duration::from_secs(limit),
                env: self.environment(),
                nice: None,
                log_path: None,
                output_bytes: 0,
            };
            let result = run_check(&spec, &tree, &mut stop, |_| {}).await?;
            let shown = format!("{} ({})", check.name, check.command.join(" "));
            let seconds = result.duration.as_secs_f32();
            let at = self.commit.short();
            match result.verdict {
                CheckVerdict::Pass => match ran(&result.output_tail) {
                    Ran::Tests(count) => report.ok("run", format!("{shown}: passes at {at} in {seconds:.1} s, {count} tests")),
                    Ran::Nothing(why) => report.problem(
                        "run",
                        format!("{shown}: passes at {at}, but ran no test: {why}"),
                        "change the command in config.toml so that it runs the tests, or use another check",
                    ),
                    Ran::Unknown => {
                        let last = last_lines(&result.output_tail, 1);
                        let said =
                            if last.is_empty() { "it printed nothing".to_owned() } else { format!("it printed: {last}") };
                        report.ok("run", format!("{shown}: passes at {at} in {seconds:.1} s; {said}"));
                    }
                },
                CheckVerdict::Fail(why) | CheckVerdict::Error(why) => report.problem(
                    "run",
                    format!("{shown}: does not pass at {at}: {why}\n{}", last_lines(&result.output_tail, LINES)),
                    "fix it, or change the check in config.toml; no attempt starts while it fails",
                ),
                CheckVerdict::Cancelled => return Ok(()),
            }
        }
        Ok(())
    }

    /// False if the checks have nothing to run in.
    async fn set_up(&self, tree: &WorkTree, stop: &mut watch::Receiver<bool>, report: &mut Report) -> git::Result<bool> {
        let workspace = &self.config.workspace;
        let ready = Ready {
            setup: workspace.setup.clone(),
            inputs: workspace.setup_inputs.clone(),
            timeout: Duration::from_secs(workspace.setup_timeout_seconds),
            copy: workspace.copy.clone(),
            env: self.environment(),
            ..Ready::default()
        };
        let own = self.database.parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy().into_owned();
        match ready.make(&tree.folder(), self.commit, (Some(self.user), &own), stop, |_| {}).await? {
            SetUp::Ready(false) => Ok(true),
            SetUp::Ready(true) => {
                tree.settle_set_up(self.commit)?;
                let commands: Vec<String> = workspace.setup.iter().map(|argv| argv.join(" ")).collect();
                report.ok("run", format!("set up by {}", commands.join(", then ")));
                Ok(true)
            }
            SetUp::Failed { why, tail } => {
                report.problem(
                    "run",
                    format!("{why}\n{}", last_lines(&tail, LINES)),
                    "fix it, or change [workspace] setup in config.toml; no attempt starts while it fails",
                );
                Ok(false)
            }
            SetUp::Cancelled => Ok(false),
        }
    }

    fn environment(&self) -> Vec<(String, OsString)> {
        let mut environment = self.config.agent.passed_on();
        environment.push((locate::VARIABLE.to_owned(), self.database.as_os_str().to_owned()));
        let (port, folder) = (free_port(), Layout::new(self.config.workspace_root()).trial());
        let set = self.config.agent.set.iter();
        environment.extend(set.map(|(name, text)| (name.clone(), filled_in(text, port, "doctor", &folder))));
        environment
    }
}

fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

/// What a check has run, by its output.
#[derive(Debug, PartialEq, Eq)]
enum Ran {
    /// The number of tests.
    Tests(u64),
    /// None, in the tool's words or ours.
    Nothing(String),
    Unknown,
}

/// Reads the summaries that common tools print.
fn ran(text: &str) -> Ran {
    const NOTHING: &[&str] = &[
        "nothing to be done for",
        "is up to date.",
        "no tests ran",
        "no tests were found",
        "no tests found",
        "no test files found",
        "no test files were found",
        "no test specified",
        "there are no tests to run",
        "[no tests to run]",
        "npm <command>",
    ];
    let (mut tests, mut is_counted, mut nothing) = (0, false, None);
    for line in text.lines().map(str::trim) {
        let lower = line.to_lowercase();
        let count = counted(&lower);
        is_counted |= count.is_some();
        tests += count.unwrap_or(0);
        if nothing.is_none() && NOTHING.iter().any(|words| lower.contains(words)) {
            nothing = Some(line.to_owned());
        }
        // go names each package.
        if lower.starts_with("ok  \t") && !lower.contains("[no test") {
            (is_counted, tests) = (true, tests + 1);
        } else if lower.ends_with("[no test files]") && nothing.is_none() {
            nothing = Some(line.to_owned());
        }
    }
    match (tests, is_counted, nothing) {
        (1.., ..) => Ran::Tests(tests),
        (0, _, Some(line)) => Ran::Nothing(line),
        (0, true, None) => Ran::Nothing("it counts 0 tests".to_owned()),
        (0, false, None) => Ran::Unknown,
    }
}

/// The number of tests that a line of a summary gives, in lower case.
fn counted(line: &str) -> Option<u64> {
    let line = line.trim_start_matches(|letter: char| !letter.is_ascii_alphanumeric());
    let words: Vec<&str> =
        line.split(|letter: char| letter.is_whitespace() || letter == ',').filter(|word| !word.is_empty()).collect();
    let number = |at: usize| words.get(at).and_then(|word| word.parse::<u64>().ok());
    match words.as_slice() {
        // cargo test
        ["running", _, "test" | "tests"] => number(1),
        // unittest
        ["ran", _, "test" | "tests", ..] => number(1),
        // pytest
        ["collected", _, "item" | "items", ..] => number(1),
        // node --test
        ["tests", count] if count.bytes().all(|byte| byte.is_ascii_digit()) => number(1),
        // jest, vitest
        ["tests:", .., _, "total"] => number(words.len() - 2),
        // mocha
        [_, "passing", ..] => number(0),
        // ctest
        [.., "tests", "failed", "out", "of", _] => number(words.len() - 1),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_check_ran_is_read_from_its_summary() {
        let cases = [
            ("running 0 tests\n\ntest result: ok. 0 passed\n\nrunning 3 tests\n", Ran::Tests(3)),
            ("running 1 test\ntest a ... ok", Ran::Tests(1)),
            ("running 0 tests\n\ntest result: ok. 0 passed; 0 failed", Ran::Nothing("it counts 0 tests".to_owned())),
            ("..\nRan 2 tests in 0.001s\n\nOK", Ran::Tests(2)),
            ("Ran 0 tests in 0.000s\n\nNO TESTS RAN", Ran::Nothing("NO TESTS RAN".to_owned())),
            ("collected 12 items\n\n12 passed in 0.1s", Ran::Tests(12)),
            ("# tests 4\n# pass 4", Ran::Tests(4)),
            ("ℹ tests 4\nℹ pass 4", Ran::Tests(4)),
            ("Tests:       1 failed, 5 passed, 6 total", Ran::Tests(6)),
            ("  7 passing (12ms)", Ran::Tests(7)),
            ("100% tests passed, 0 tests failed out of 5", Ran::Tests(5)),
            ("ok  \texample/a\t0.1s\n?   \texample/b\t[no test files]", Ran::Tests(1)),
            ("?   \texample/b\t[no test files]", Ran::Nothing("?   \texample/b\t[no test files]".to_owned())),
            ("make: Nothing to be done for 'test'.", Ran::Nothing("make: Nothing to be done for 'test'.".to_owned())),
            ("make: 'test' is up to date.", Ran::Nothing("make: 'test' is up to date.".to_owned())),
            ("npm <command>\n\nUsage:\n\nnpm install", Ran::Nothing("npm <command>".to_owned())),
            ("all is well", Ran::Unknown),
            ("", Ran::Unknown),
        ];
        for (text, expected) in cases {
            assert_eq!(ran(text), expected, "{text}");
        }
    }
}
