//! Records each run of a loop from before its start to its end. Each run's log has a unique name, so an interrupted
//! attempt that continues keeps its first log too.

use std::path::PathBuf;

use command_runner::End;
use command_runner::keeper::KeeperId;
use coord_db::{ComponentId, ModelUse, NewRun, RunOf, Test, TestId};

use crate::Result;
use crate::agents::{self, Call, Report};
use crate::context::Context;

/// Maximum number of logs deleted at one start.
const MAX_LOGS: usize = 2_000;

/// A recorded run.
pub(crate) struct Recorded {
    id: String,
    /// The file of its output.
    pub(crate) log: PathBuf,
}

/// Describes the end of a command.
pub(crate) fn describe_end(end: &End) -> String {
    match end {
        End::Exited(code) => format!("exit code {code}"),
        End::Signaled(signal) => format!("ended by signal {signal}"),
        End::TimedOut => "stopped: timeout".to_owned(),
        End::Cancelled => "stopped".to_owned(),
        End::NotStarted { message, .. } => format!("not started: {message}"),
        End::Lost => "its keeper was killed".to_owned(),
    }
}

impl Context<'_> {
    /// Records the keeper of the running command, so that a successor of a killed loop can end it; none after its end.
    pub(crate) fn record_child(&self, keeper: Option<KeeperId>) {
        if !self.managed {
            return;
        }
        let child = keeper.map(|keeper| (i64::from(keeper.pid), i64::try_from(keeper.start_time).ok()));
        let id = ComponentId::from(&self.loop_id);
        if let Err(error) = self.db.write_quietly(|tx| tx.set_child(&id, child)) {
            tracing::warn!(%error, "cannot record the process of a run");
        }
    }

    /// Records the start of a run, for a test or for none, and the session that it continues: an agent may be stopped before it
    /// names its own. `log` is the name of its log without `.log`; a number is added if it exists.
    pub(crate) fn begin_run(
        &self,
        test: Option<&Test>,
        kind: RunOf,
        session: Option<&str>,
        name: &str,
        log: &str,
    ) -> Result<Recorded> {
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
            session,
            name,
            log: &file,
        };
        let id = self.db.write_quietly(|tx| tx.begin_run(&run))?;
        Ok(Recorded { id, log: self.logs().join(file) })
    }

    /// Records the session of a running agent and what it does. False if that failed.
    pub(crate) fn note_run(&self, run: &Recorded, session: Option<&str>, progress: Option<&str>) -> bool {
        let noted = self.db.write_quietly(|tx| tx.note_run(&run.id, session, progress));
        noted.inspect_err(|error| tracing::debug!(%error, "cannot record what the agent does")).is_ok()
    }

    /// Records the end of an agent's run, with its session and what it has used. A loop that is killed later has lost nothing.
    pub(crate) fn end_agent_run(
        &self,
        run: &Recorded,
        report: &Report,
        used: &[ModelUse],
        seconds: i64,
        outcome: &str,
    ) -> coord_db::Result<()> {
        self.db.write(|tx| {
            tx.note_run(&run.id, report.session.as_deref(), None)?;
            if report.is_of_session && !report.used.is_empty() {
                tx.note_session_used(&run.id, &report.used)?;
            }
            tx.end_agent_run(&run.id, used, seconds, outcome)
        })
    }

    /// Records what the agent's newest run has used if nobody saw its end, from its log. Gives its test, whose work is in
    /// the workspace.
    pub(crate) fn settle_unseen_run(&self) -> Result<Option<TestId>> {
        let run = self.db.read(|tx| tx.last_run(&self.loop_id))?;
        let Some(run) = run.filter(|run| run.kind == RunOf::Agent && run.has_unseen_end()) else { return Ok(None) };
        let agent = self.config.agent_of(&self.loop_id);
        let (report, bytes) = agents::read_file(agent.kind(), &self.logs().join(&run.log));
        let begun_in = run.session.as_deref().or(report.session.as_deref());
        let before = begun_in.map(|id| self.session(id)).transpose()?.map(|session| session.used).unwrap_or_default();
        let call = Call::of(&agent.command);
        let used = self.priced(report.stated(&before), report.model.as_deref().or(call.model()), bytes);
        // Some agents change the id when they continue a session.
        let session = report.session.as_deref().or(run.session.as_deref());
        self.db.write(|tx| tx.end_unseen_run(&run, session, &used))?;
        Ok(run.test_id)
    }

    /// Records the end of a run.
    pub(crate) fn end_run(&self, run: &Recorded, outcome: &str) {
        // If the database is unavailable, the result is kept and the loop's next run completes the record.
        if let Err(error) = self.db.write_quietly(|tx| tx.end_run(&run.id, outcome)) {
            tracing::warn!(%error, "cannot record the end of a run");
        }
    }

    /// Deletes expired logs of all loops of this machine: the file first, because without its row it would never be found again.
    pub(crate) fn prune_logs(&self) -> Result<()> {
        let days = self.config.retention.events_days.max(0);
        let old = self.db.read(|tx| tx.runs_before(tx.now().plus_seconds(-days.saturating_mul(24 * 3600)), MAX_LOGS))?;
        let logs = self.home.join("logs");
        let mut gone = 0;
        for run in old.iter().filter(|run| run.ended_at.is_some()) {
            match std::fs::remove_file(logs.join(run.loop_id.as_str()).join(&run.log)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    tracing::debug!(%error, log = run.log, "cannot delete an expired log");
                }
                _ => {
                    self.db.write_quietly(|tx| tx.delete_run(&run.id))?;
                    gone += 1;
                }
            }
        }
        if gone > 0 {
            tracing::info!(logs = gone, days, "expired logs deleted");
        }
        Ok(())
    }
}
