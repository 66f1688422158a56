//! Loops: one coding agent each, run over and over on its own branch.

use crate::payload::{PriorityChanged, TestFailed};
use crate::process::ProcessIdentity;
use crate::{
    ActorId, ComponentId, Error, ErrorCategory, Event, HealthStatus, LoopId, LoopStatus, NewEvent, ReadTx, Result, TestId,
    Timestamp, UnlockCause, WriteTx,
};

row! {
    /// A registered loop.
    Loop {
        id: LoopId, name: String, priority: i64, branch: Option<String>, status: LoopStatus, current_test_id: Option<TestId>,
        pid: Option<i64>, created_at: Timestamp, updated_at: Timestamp, died_at: Option<Timestamp>,
        agent: Option<String>, vain_runs: i64,
    }
}

row! {
    /// How far a loop's queue is, as the view `loop_progress` has it.
    LoopProgress {
        loop_id: LoopId, total: i64, passed: i64, blocked: i64, failed: i64, skipped: i64, in_progress: i64, pending: i64,
    }
}

/// A loop to be registered.
#[derive(Debug, Clone)]
pub struct NewLoop {
    /// Its id.
    pub id: LoopId,
    /// For people; the id if empty.
    pub name: String,
    /// 1 is the most important.
    pub priority: i64,
    /// Its branch; `coding-loops/<id>` if none is given.
    pub branch: Option<String>,
}

/// What is undone of a loop that ended without doing it itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CleanUp {
    /// Who says so: the source of the events.
    pub source: ActorId,
    /// Why its leases end.
    pub cause: UnlockCause,
    /// What the loop's row says afterwards.
    pub status: LoopStatus,
    /// In words, for the test's last error.
    pub reason: String,
}

/// The tests that a loop works on. Queued work is out of its hands.
pub(super) const CURRENT_TESTS: &str = "SELECT id FROM tests WHERE loop_id = ?1 AND status = 'in_progress'
   AND id NOT IN (SELECT test_id FROM landings WHERE ended_at IS NULL) ORDER BY id";

impl ReadTx<'_> {
    /// All loops, by id.
    pub fn loops(&self) -> Result<Vec<Loop>> {
        self.query(select!(Loop, "FROM loops ORDER BY id"), [], Loop::from_row)
    }

    /// One loop.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn loop_row(&self, id: &LoopId) -> Result<Loop> {
        self.find_loop(id.as_str())?.ok_or_else(|| Error::not_found("loop", id))
    }

    /// One loop, if it is registered.
    pub fn find_loop(&self, id: &str) -> Result<Option<Loop>> {
        self.query_opt(select!(Loop, "FROM loops WHERE id = ?1"), [id], Loop::from_row)
    }

    /// How far each loop's queue is. Loops without tests are not in it.
    pub fn loop_progress(&self) -> Result<Vec<LoopProgress>> {
        self.query(select!(LoopProgress, "FROM loop_progress ORDER BY loop_id"), [], LoopProgress::from_row)
    }
}

impl WriteTx<'_> {
    /// The port that is a loop's own, chosen once: the first one from `first` on that no other loop has and that is free now.
    ///
    /// # Errors
    /// [`Error::Refused`] if there is none.
    pub fn port_of(&self, id: &LoopId, first: u16, is_free: impl Fn(u16) -> bool) -> Result<u16> {
        let known = self.query_opt("SELECT port FROM loop_ports WHERE loop_id = ?1", [id], |row| row.get::<u16>(0))?;
        if let Some(port) = known {
            return Ok(port);
        }
        // Those of loops that are gone can be given again.
        self.execute("DELETE FROM loop_ports WHERE loop_id NOT IN (SELECT id FROM loops)", [])?;
        let taken = self.query("SELECT port FROM loop_ports", [], |row| row.get::<u16>(0))?;
        let port = (first..=u16::MAX).find(|port| !taken.contains(port) && is_free(*port));
        let port = port.ok_or_else(|| Error::Refused(format!("no port from {first} on is free")))?;
        self.execute("INSERT INTO loop_ports (loop_id, port) VALUES (?1, ?2)", params![id, port])?;
        Ok(port)
    }
}

impl WriteTx<'_> {
    /// Registers a loop. Its subscription comes with it.
    ///
    /// # Errors
    /// [`Error::Exists`]; [`Error::Invalid`] for an id that no branch can be named after, or a priority below 1.
    pub fn add_loop(&self, new: &NewLoop) -> Result<()> {
        new.id.allow_as_new()?;
        if self.find_loop(new.id.as_str())?.is_some() {
            return Err(Error::Exists { what: "loop", id: new.id.to_string() });
        }
        if new.priority < 1 {
            return Err(Error::Invalid(format!("priority {} is not allowed; 1 is the most important", new.priority)));
        }
        let name = if new.name.is_empty() { new.id.as_str() } else { &new.name };
        let branch = new.branch.clone().unwrap_or_else(|| format!("coding-loops/{}", new.id));
        self.execute(
            "INSERT INTO loops (id, name, priority, branch, created_at, updated_at) VALUES (?1, ?2, ?3, ?4, ?5, ?5)",
            params![new.id, name, new.priority, branch, self.now()],
        )?;
        Ok(())
    }

    /// Removes a loop that has no tests and holds nothing.
    ///
    /// # Errors
    /// [`Error::NotFound`], or [`Error::Refused`] while anything still refers to it.
    pub fn remove_loop(&self, id: &LoopId) -> Result<()> {
        let row = self.loop_row(id)?;
        if matches!(row.status, LoopStatus::Running | LoopStatus::Paused) && row.pid.is_some() {
            return Err(Error::Refused(format!("loop {id} is {}; stop it first", row.status)));
        }
        let tests: i64 = self.value("SELECT count(*) FROM tests WHERE loop_id = ?1", [id])?;
        if tests > 0 {
            return Err(Error::Refused(format!("loop {id} still has {tests} tests; a loop with a history cannot be removed")));
        }
        let leases: i64 = self.value("SELECT count(*) FROM file_locks WHERE locked_by = ?1", [id])?;
        if leases > 0 {
            return Err(Error::Refused(format!("loop {id} still holds {leases} leases; release them first")));
        }
        let owned: i64 = self.value("SELECT count(*) FROM resources WHERE owner_loop = ?1", [id])?;
        if owned > 0 {
            return Err(Error::Refused(format!(
                "loop {id} still owns {owned} resources; see loopctl own --loop {id}, and give each up with loopctl own PATH --release"
            )));
        }
        let asked: i64 =
            self.value("SELECT count(*) FROM change_requests WHERE requestor_loop = ?1 OR owner_loop = ?1", [id])?;
        if asked > 0 {
            return Err(Error::Refused(format!(
                "loop {id} has a part in {asked} change requests (loopctl request list); a loop with a history cannot be removed"
            )));
        }
        self.execute("DELETE FROM component_health WHERE component = ?1", [id])?;
        self.execute("DELETE FROM loops WHERE id = ?1", [id]).map_err(|error| match error {
            Error::Statement(_) => {
                Error::Refused(format!("loop {id} still has records that refer to it; a loop with a history cannot be removed"))
            }
            other => other,
        })?;
        Ok(())
    }

    /// Changes how much a loop counts, and says so.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Invalid`].
    pub fn set_priority(&self, id: &LoopId, priority: i64, reason: &str, by: &ActorId, cause: Option<&Event>) -> Result<()> {
        let old = self.loop_row(id)?.priority;
        if priority < 1 {
            return Err(Error::Invalid(format!("priority {priority} is not allowed; 1 is the most important")));
        }
        self.execute("UPDATE loops SET priority = ?2, updated_at = ?3 WHERE id = ?1", params![id, priority, self.now()])?;
        let payload =
            PriorityChanged { loop_id: id.clone(), old_priority: old, new_priority: priority, reason: reason.to_owned() };
        self.publish(&NewEvent::new(by.clone(), payload).caused_by_opt(cause))?;
        Ok(())
    }

    /// Sets what the loop is doing.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::IllegalMove`] where the loop's table has no such move, or while a pause stands that going
    /// on would ignore.
    pub fn set_loop_status(&self, id: &LoopId, status: LoopStatus) -> Result<()> {
        let from = self.loop_row(id)?.status;
        if !from.may_become(status) {
            return Err(Error::illegal("loop", id, from, format!("become {status} without a clean-up")));
        }
        if status == LoopStatus::Running
            && let Some(pause) = self.pauses(Some(id))?.first()
        {
            let hint = format!("go on while the pause of {} stands; lift it with loopctl resume {id}", pause.requested_by);
            return Err(Error::illegal("loop", id, from, hint));
        }
        self.execute(
            "UPDATE loops SET status = ?2, updated_at = ?3, died_at = CASE WHEN ?2 = 'error' THEN died_at END WHERE id = ?1",
            params![id, status, self.now()],
        )?;
        Ok(())
    }

    /// A loop that someone drives by hand shows that it is at work: a stopped one without a process becomes `running`, or
    /// `paused` while a pause stands.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn touch_by_hand(&self, id: &LoopId) -> Result<()> {
        let row = self.loop_row(id)?;
        if row.pid.is_none() && matches!(row.status, LoopStatus::Stopped | LoopStatus::Error) {
            let paused = !self.pauses(Some(id))?.is_empty();
            self.set_loop_status(id, if paused { LoopStatus::Paused } else { LoopStatus::Running })?;
        }
        Ok(())
    }

    /// A loop's process begins: undoes what its previous process left, and takes the row.
    ///
    /// # Errors
    /// [`Error::AlreadyRunning`] if another live process drives it, [`Error::NotFound`].
    pub fn start_loop(&self, id: &LoopId, identity: &ProcessIdentity, version: &str) -> Result<()> {
        self.loop_row(id)?;
        self.start_component(&ComponentId::from(id), identity, version)?;
        self.clean_up_loop(
            id,
            &CleanUp {
                source: ActorId::from(id),
                cause: UnlockCause::OwnerDied,
                status: LoopStatus::Running,
                reason: "the loop ended during the attempt".to_owned(),
            },
            None,
        )?;
        let paused: bool = self.value("SELECT EXISTS (SELECT 1 FROM pauses WHERE loop_id = ?1)", [id])?;
        self.execute(
            "UPDATE loops SET status = ?2, pid = ?3, died_at = NULL, updated_at = ?4 WHERE id = ?1",
            params![id, if paused { "paused" } else { "running" }, identity.pid, self.now()],
        )?;
        Ok(())
    }

    /// A loop's process ends in an orderly way: what it had is given back, its row says `stopped`.
    pub fn stop_loop(&self, id: &LoopId, reason: &str) -> Result<()> {
        self.clean_up_loop(
            id,
            &CleanUp {
                source: ActorId::from(id),
                cause: UnlockCause::Released,
                status: LoopStatus::Stopped,
                reason: reason.to_owned(),
            },
            None,
        )?;
        let component = ComponentId::from(id);
        // A loop that another tool drives does not record its shutdown.
        let beats = self.component(component.as_str())?.is_some_and(|row| row.status != HealthStatus::Unknown);
        if beats { self.stop_component(&component, reason) } else { Ok(()) }
    }

    /// Undoes a loop's claims in one go; work that waits to land stays in the queue: leases and edges gone, its test pending again with the attempt given back, pid and
    /// current test NULL.
    pub fn clean_up_loop(&self, id: &LoopId, how: &CleanUp, cause: Option<&Event>) -> Result<()> {
        self.release_everything(id.as_str(), &how.source, how.cause, cause)?;
        self.end_open_runs(id)?;
        let tests: Vec<TestId> = self.query(CURRENT_TESTS, [id], |row| row.get(0))?;
        for test in tests {
            self.execute(
                "UPDATE tests SET status = 'pending', attempts = max(attempts - 1, 0), give_backs = give_backs + 1, last_error = ?2
                 WHERE id = ?1",
                params![test, how.reason],
            )?;
            if how.cause == UnlockCause::OwnerDied {
                let attempt = self.value("SELECT attempts + 1 FROM tests WHERE id = ?1", [&test])?;
                let start = self.newest_attempt(&test)?;
                let payload = TestFailed {
                    test_id: test,
                    loop_id: id.clone(),
                    attempt,
                    error_category: ErrorCategory::System,
                    error_message: how.reason.clone(),
                    will_retry: true,
                };
                self.publish(&NewEvent::new(how.source.clone(), payload).caused_by_opt(cause).of_attempt(start))?;
            }
        }
        let died_at = (how.status == LoopStatus::Error).then(|| self.now());
        self.execute(
            "UPDATE loops SET status = ?2, pid = NULL, current_test_id = NULL, updated_at = ?3, died_at = ?4 WHERE id = ?1",
            params![id, how.status, self.now(), died_at],
        )?;
        Ok(())
    }
}
