//! What runs for a loop is on record from before it starts until it has ended, and each run's log has a name that no other
//! run's has: an attempt that was interrupted and goes on keeps its first log too.

use std::path::PathBuf;

use command_runner::End;
use command_runner::keeper::KeeperId;
use coord_db::{ComponentId, NewRun, RunOf, Test};

use crate::Result;
use crate::context::Context;

/// Logs that go at a time; the rest at the next start.
const MAX_LOGS: usize = 2_000;

/// A run on record.
pub(crate) struct Recorded {
    id: String,
    /// Where its output goes.
    pub(crate) log: PathBuf,
}

/// How a command ended.
pub(crate) fn words(end: &End) -> String {
    match end {
        End::Exited(code) => format!("exit code {code}"),
        End::Signaled(signal) => format!("ended by signal {signal}"),
        End::TimedOut => "stopped: its time was over".to_owned(),
        End::Cancelled => "stopped".to_owned(),
        End::NotStarted { message, .. } => format!("not started: {message}"),
        End::Lost => "its keeper was killed".to_owned(),
    }
}

impl Context<'_> {
    /// Records the keeper of what runs now, so that whoever comes after a killed loop can end it; none: it has ended.
    pub(crate) fn record_child(&self, keeper: Option<KeeperId>) {
        if !self.managed {
            return;
        }
        let child = keeper.map(|keeper| (i64::from(keeper.pid), i64::try_from(keeper.start_time).ok()));
        let id = ComponentId::from(&self.loop_id);
        if let Err(error) = self.db.write_quietly(|tx| tx.set_child(&id, child)) {
            tracing::warn!(%error, "cannot write down the process of a run");
        }
    }

    /// Records that a run begins, for a test or for none. `log` is the name that its log has without `.log`, and with a number if that is taken.
    pub(crate) fn begin_run(&self, test: Option<&Test>, kind: RunOf, name: &str, log: &str) -> Result<Recorded> {
        let log = log.replace('/', "_");
        let mut file = format!("{log}.log");
        let mut number = 1;
        while self.logs().join(&file).symlink_metadata().is_ok() {
            number += 1;
            file = format!("{log}.{number}.log");
        }
        let run = NewRun {
            loop_id: &self.loop_id,
            test_id: test.map(|test| &test.id),
            attempt: test.map_or(0, |test| test.attempts),
            kind,
            name,
            log: &file,
        };
        let id = self.db.write_quietly(|tx| tx.begin_run(&run))?;
        Ok(Recorded { id, log: self.logs().join(file) })
    }

    /// Records how a run ended. A database that cannot be used now is no reason to lose what came of it: the loop's next
    /// run ends this one.
    pub(crate) fn end_run(&self, run: &Recorded, outcome: &str) {
        if let Err(error) = self.db.write_quietly(|tx| tx.end_run(&run.id, outcome)) {
            tracing::warn!(%error, "cannot write down that a run has ended");
        }
    }

    /// Deletes the logs of runs that are past their time, whichever loop's: the file first, for without its row nobody would
    /// look for it again.
    pub(crate) fn prune_logs(&self) -> Result<()> {
        let days = self.config.retention.events_days.max(0);
        let old = self.db.read(|tx| tx.runs_before(tx.now().plus_seconds(-days.saturating_mul(24 * 3600)), MAX_LOGS))?;
        let logs = self.home.join("logs");
        let mut gone = 0;
        for run in old.iter().filter(|run| run.ended_at.is_some()) {
            match std::fs::remove_file(logs.join(run.loop_id.as_str()).join(&run.log)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    tracing::debug!(%error, log = run.log, "cannot delete a log that is past its time");
                }
                _ => {
                    self.db.write_quietly(|tx| tx.delete_run(&run.id))?;
                    gone += 1;
                }
            }
        }
        if gone > 0 {
            tracing::info!(logs = gone, days, "deleted logs of runs that ended long ago");
        }
        Ok(())
    }
}
