//! The first thing a loop does: ends what its former self left running, and settles what it had begun outside of the
//! database. A landed commit wins over a given-back test.

use coord_db::process::ProcessIdentity;
use coord_db::{ActorId, JournalEntry, JournalStatus, PassedAttempt, TestId, UnlockCause, WriteTx};
use crash_point::{Point, reach};
use serde_json::Value;
use work_tree::CommitHash;

use crate::context::Context;
use crate::landing::INTEGRATE;
use crate::{Error, Result};

/// What is known of an interrupted landing.
enum Interrupted {
    Landed(TestId, PassedAttempt),
    NotLanded,
}

impl Context<'_> {
    /// Ends the agent or check that a killed former self left behind. Its keeper does so by itself; this makes sure.
    pub(crate) fn end_leftovers(&self) -> Result<()> {
        let Some(row) = self.db.read(|tx| tx.component(self.loop_id.as_str()))? else { return Ok(()) };
        let same_boot = row.boot_id.as_deref() == ProcessIdentity::own().boot_id.as_deref();
        if let (true, Some(pid), Some(start)) = (same_boot, row.child_pid, row.child_pid_start_time)
            && let (Ok(pid), Ok(start)) = (u32::try_from(pid), u64::try_from(start))
        {
            match work_tree::keeper::kill_leftover(pid, start) {
                Ok(0) => {}
                Ok(count) => tracing::warn!(count, "ended processes that a former self had left"),
                Err(error) => tracing::warn!(%error, "cannot end what a former self had left"),
            }
        }
        Ok(())
    }

    /// Starts the loop in the database: settles interrupted landings, gives the former self's test back, takes the row. Gives
    /// the test that the former self had in hand.
    pub(crate) fn start(&self, version: &str) -> Result<Option<TestId>> {
        let own = ProcessIdentity::own();
        let other = self.db.read(|tx| {
            tx.loop_row(&self.loop_id)?;
            tx.running_process(self.loop_id.as_str(), &own)
        })?;
        if let Some(other) = other {
            let component = self.loop_id.to_string();
            return Err(coord_db::Error::AlreadyRunning { component, pid: other.pid }.into());
        }
        let row = self.db.read(|tx| tx.loop_row(&self.loop_id))?;
        self.end_leftovers()?;
        reach(Point::StartLeftoversEnded);
        self.db.write(|tx| {
            self.settle_landings(tx)?;
            tx.start_loop(&self.loop_id, &own, version).map_err(Error::from)
        })?;
        reach(Point::StartTaken);
        Ok(row.current_test_id)
    }

    /// Settles the landings that the journal has open for this loop.
    pub(crate) fn settle_landings(&self, tx: &WriteTx<'_>) -> Result<()> {
        let own = ProcessIdentity::own();
        for entry in tx.open_journal(self.loop_id.as_str())? {
            if entry.operation == INTEGRATE && !entry.steps.in_other_hands(&own) {
                self.settle_landing(tx, &entry)?;
            }
        }
        Ok(())
    }

    /// Settles a landing that was cut off: a commit that got to the branch is recorded, in the name of the loop that made it; the
    /// rest was never begun. Looks at the repository with the write lock held, so that nobody settles the same entry twice.
    pub(crate) fn settle_landing(&self, tx: &WriteTx<'_>, entry: &JournalEntry) -> Result<()> {
        if tx.journal_entry(&entry.id)?.is_none_or(|now| now.status != JournalStatus::InProgress) {
            return Ok(());
        }
        let state = self.look_at(entry)?;
        let landed = matches!(state, Interrupted::Landed(..));
        if let Interrupted::Landed(test, passed) = state {
            reach(Point::RecoverLanded);
            let author = entry.loop_id.as_ref().unwrap_or(&self.loop_id);
            match tx.adopt_landed(&test, author, &passed) {
                Ok(_) => {
                    tracing::info!(%test, commit = %passed.commit, "a landing that was cut off is recorded now");
                    // As at the end of every landing: nobody else is to wait until the leases of a submit that is gone expire.
                    tx.release_everything(author.as_str(), &ActorId::from(author), UnlockCause::Released, None)?;
                }
                // Another hand has settled the test; the entry must not keep the loop from starting.
                Err(error) if error.is_refusal() => {
                    tracing::warn!(%test, %error, commit = %passed.commit, "a landing that was cut off is not recorded");
                }
                Err(error) => return Err(error.into()),
            }
        }
        tx.end_operation(&entry.id, landed)?;
        Ok(())
    }

    /// Compares the journal with the branch: did the commit get there?
    fn look_at(&self, entry: &JournalEntry) -> Result<Interrupted> {
        let text = |key: &str| entry.steps.text(key);
        let (Some(test), Some(commit), Some(old)) = (text("test"), text("commit"), text("old")) else {
            return Ok(Interrupted::NotLanded);
        };
        let (Ok(test), Ok(hash)) = (test.parse::<TestId>(), CommitHash::new(commit)) else {
            return Ok(Interrupted::NotLanded);
        };
        let known = self.repository.resolve(commit)?.is_some();
        let head = self.repository.resolve(&self.integration_ref())?;
        let landed = match head {
            // An attempt that changed nothing landed as soon as it was written down: its gate had passed at the head.
            Some(head) => known && (commit == old || self.repository.is_ancestor(&hash, &head)?),
            None => false,
        };
        if !landed {
            return Ok(Interrupted::NotLanded);
        }
        let list = |key: &str| entry.steps.intent.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
        Ok(Interrupted::Landed(
            test,
            PassedAttempt {
                commit: commit.to_owned(),
                checks: list("checks")
                    .iter()
                    .filter_map(|pair| Some((pair.get(0)?.as_str()?.to_owned(), pair.get(1)?.as_bool()?)))
                    .collect(),
                duration_seconds: entry.steps.intent.get("seconds").and_then(Value::as_i64).unwrap_or_default(),
                tokens_estimated: entry.steps.intent.get("tokens").and_then(Value::as_i64),
                files_modified: list("files").iter().filter_map(|file| Some(file.as_str()?.to_owned())).collect(),
            },
        ))
    }
}
