//! The checks on a state that is of no test: what has landed together with the user's new commits.

use std::ffi::OsString;
use std::path::Path;
use std::pin::pin;
use std::time::Duration;

use coord_db::config::CheckConfig;
use coord_db::{ComponentId, ErrorCategory, locate};
use crash_point::{Point, reach};
use tokio::sync::watch;
use work_tree::CommitHash;
use work_tree::check::{CheckSpec, CheckVerdict, run_check};

use crate::context::Context;
use crate::control::Waiter;
use crate::end::{Step, Stop};
use crate::gate::end_of;
use crate::run_end::reason_of;

/// What the checks say of a state.
#[derive(Debug, Clone)]
pub(crate) enum Verdict {
    /// The checks, which have all passed.
    Green(Vec<(String, bool)>),
    /// The first that has failed.
    Red(Red),
}

#[derive(Debug, Clone)]
pub(crate) struct Red {
    pub(crate) check: String,
    /// In one line.
    pub(crate) why: String,
    /// The end of its output.
    pub(crate) output: String,
}

/// Whether a check looks at the test that it is run for. Without one it may still say something of the state.
fn is_about_one_test(check: &CheckConfig) -> bool {
    check.command.iter().any(|word| word.contains("TEST_ID"))
}

impl Context<'_> {
    /// Runs the checks on a commit that integration, at `ours`, is to move to. One that fails is run once more before it is
    /// believed.
    pub(crate) async fn judge_state(&self, commit: &CommitHash, ours: &CommitHash, waiter: &mut Waiter) -> Step<Verdict> {
        if self.config.gate.check.is_empty() {
            let text = "no checks are configured, so nothing can be verified; add [[gate.check]] to config.toml";
            return Err(Stop::failed(ErrorCategory::System, text));
        }
        let mut passed = Vec::new();
        for check in &self.config.gate.check {
            let mut failed = self.run_on_state(check, commit, waiter).await?;
            if failed.is_some() {
                failed = self.run_on_state(check, commit, waiter).await?;
            }
            let Some(red) = failed else {
                passed.push((check.name.clone(), true));
                continue;
            };
            // One that is about a test alone fails without one, whatever the state.
            if !is_about_one_test(check) || self.run_on_state(check, ours, waiter).await?.is_none() {
                return Ok(Verdict::Red(red));
            }
        }
        Ok(Verdict::Green(passed))
    }

    /// Runs one check; none if it passes.
    async fn run_on_state(&self, check: &CheckConfig, commit: &CommitHash, waiter: &mut Waiter) -> Step<Option<Red>> {
        let tree = self.store.check_out(&self.layout.gate(self.loop_id.as_str()), commit)?;
        let logs = self.logs();
        std::fs::create_dir_all(&logs).map_err(|error| crate::Error::io(format!("cannot make {}", logs.display()), error))?;
        let spec = CheckSpec {
            name: check.name.clone(),
            argv: check.command.clone(),
            timeout: Duration::from_secs(check.timeout_seconds.unwrap_or(self.config.gate.timeout_seconds)),
            env: self.state_environment(),
            nice: None,
            log_path: Some(logs.join(format!("sync.{}.log", check.name.replace('/', "_")))),
            output_bytes: self.config.agent.output_bytes,
        };
        let (cancel, mut cancelled) = watch::channel(false);
        let id = ComponentId::from(&self.loop_id);
        let on_keeper = |keeper: work_tree::keeper::KeeperId| {
            if !self.managed {
                return;
            }
            let child = (i64::from(keeper.pid), i64::try_from(keeper.start_time).ok());
            if let Err(error) = self.db.write_quietly(|tx| tx.set_child(&id, Some(child))) {
                tracing::warn!(%error, "cannot write down the check's process");
            }
        };
        tracing::info!(check = %check.name, commit = commit.short(), "a check runs on the user's new commits");
        let mut running = pin!(run_check(&spec, &tree, &mut cancelled, on_keeper));
        let result = loop {
            waiter.wakes.looked(self.db);
            if let Err(stop) = self.may_go_on(waiter) {
                cancel.send_replace(true);
                running.await?;
                return Err(stop);
            }
            tokio::select! {
                result = &mut running => break result?,
                () = waiter.wait(self, Duration::from_secs(5)) => {}
            }
        };
        reach(Point::SyncChecked);
        let output = end_of(&result.output_tail.replace('\0', "\u{fffd}"));
        match result.verdict {
            CheckVerdict::Pass => Ok(None),
            CheckVerdict::Fail(why) => {
                let why = format!("{why}: {}", reason_of(&result.output_tail));
                Ok(Some(Red { check: check.name.clone(), why, output }))
            }
            CheckVerdict::Error(why) => Err(Stop::failed(ErrorCategory::System, format!("{why}\n{output}"))),
            CheckVerdict::Cancelled => Err(Stop::failed(ErrorCategory::Transient, format!("check {} was stopped", check.name))),
        }
    }

    /// What a check of a state sees: what the settings let through, and no test.
    fn state_environment(&self) -> Vec<(String, OsString)> {
        let allowed = &self.config.agent_of(&self.loop_id).environment;
        let mut environment: Vec<(String, OsString)> =
            allowed.iter().filter_map(|name| Some((name.clone(), std::env::var_os(name)?))).collect();
        let database = self.db.path().map(Path::as_os_str).unwrap_or_default().to_owned();
        environment.push((locate::VARIABLE.to_owned(), database));
        environment
    }
}
