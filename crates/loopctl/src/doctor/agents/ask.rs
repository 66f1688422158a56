//! Asks an agent's program for its version and its flags, as the loops run it: with its variables alone, and a time limit.

use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use command_runner::{CommandSpec, End, Outcome};

use crate::known_agents::version_in;

/// How long an agent may take to answer. Those that are written in Python take seconds after a boot, and more on a busy machine.
const SECONDS: u64 = 60;

/// What a program says of itself.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) version: Option<String>,
    /// The text that lists its flags; else why there is none.
    pub(super) help: Result<String, String>,
}

/// Runs a program with `--version` and, at the same time, with the arguments that list its flags.
pub(super) fn ask(program: &[String], help: &[String], env: &[(String, OsString)], root: &Path) -> Answer {
    let log = std::env::temp_dir().join(format!("loopctl-doctor-{}-{}", std::process::id(), coord_db::new_id()));
    let spec = |arguments: &[String]| {
        let mut spec = CommandSpec::new([program, arguments].concat().iter().map(OsString::from), root);
        spec.env = env.to_vec();
        spec.timeout = Duration::from_secs(SECONDS);
        spec.kill_after = Duration::from_secs(1);
        spec
    };
    let (version, mut flags) = (spec(&["--version".to_owned()]), spec(help));
    flags.log_path = Some(log.clone());
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return Answer { version: None, help: Err(format!("cannot start: {error}")) },
    };
    let (_sender, cancel) = tokio::sync::watch::channel(false);
    let (version, flags) = runtime.block_on(async {
        let (mut one, mut other) = (cancel.clone(), cancel);
        let version = command_runner::run(&version, &mut one, |_| {});
        tokio::join!(version, command_runner::run(&flags, &mut other, |_| {}))
    });
    let text = std::fs::read(&log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let _ = std::fs::remove_file(&log);
    Answer { version: version_of(&version), help: help_of(flags, text) }
}

fn version_of(outcome: &Outcome) -> Option<String> {
    (outcome.end == End::Exited(0)).then(|| version_in(&outcome.tail).map(str::to_owned)).flatten()
}

fn help_of(outcome: Outcome, text: String) -> Result<String, String> {
    match outcome.end {
        End::Exited(0) if text.contains("--") => Ok(text),
        End::Exited(0) => Err("lists no flags".to_owned()),
        End::TimedOut => Err(format!("did not end within {SECONDS} s")),
        End::NotStarted { message, .. } => Err(format!("cannot start: {message}")),
        _ => Err("fails".to_owned()),
    }
}
