//! Records operations before they are performed, completes them afterwards, and recovers interrupted ones (the table is
//! at [`Operation`]).

use coord_db::process::{Liveness, ProcessIdentity};
use coord_db::{CheckpointType, JournalEntry, LoopId, LoopStatus, NewCheckpoint, WriteTx, owned_intent};
use crash_point::{Point, reach};
use git::{CommitHash, RefExpectation, Workspace};
use serde_json::{Value, json};

use crate::Result;
use crate::context::Context;
use crate::operation::{CHECKPOINTS, Integrate, Operation, PutAway, Recovery, Seen};

impl Context<'_> {
    /// Records an intent durably. Returns its id.
    pub(crate) fn intend(&self, operation: &Operation) -> Result<String> {
        Ok(self.db.write_durably(|tx| self.intend_in(tx, operation))?)
    }

    /// The loop as which this process runs: none for a command, also for one that acts for a loop driven by hand.
    pub(crate) fn runs_as(&self) -> Option<&LoopId> {
        Some(&self.loop_id).filter(|_| self.managed && !self.has_no_loop())
    }

    /// The intent of an operation, in the name of this process.
    pub(crate) fn own_intent(&self, operation: &Operation) -> Value {
        owned_intent(operation.intent(), &ProcessIdentity::own(), self.runs_as())
    }

    /// Like [`Context::intend`], within a transaction.
    pub(crate) fn intend_in(&self, tx: &WriteTx<'_>, operation: &Operation) -> coord_db::Result<String> {
        let intent = self.own_intent(operation);
        let loop_id = Some(&self.loop_id).filter(|_| !self.has_no_loop());
        tx.begin_operation(operation.name(), self.loop_id.as_str(), loop_id, &intent, None)
    }

    /// Completes the entry of an operation that was performed or undone.
    pub(crate) fn settle(&self, entry: &str, committed: bool) -> Result<()> {
        match self.db.write_quietly(|tx| tx.end_operation(entry, committed)) {
            // Another process took this one for dead and settled the entry; the operation itself is done.
            Err(error) if error.is_refusal() => {
                tracing::warn!(%error, "the journal entry was already settled by another process")
            }
            other => drop(other?),
        }
        Ok(())
    }

    // ---- saved work ----

    /// Saves work under its reference and brings the workspace to its target.
    pub(crate) fn put_away(&self, workspace: &Workspace, work: PutAway) -> Result<()> {
        let operation = Operation::PutAway(work.clone());
        let entry = self.intend(&operation)?;
        reach(Point::PutAwayIntended);
        self.save(&work, &entry)?;
        if let Some(target) = &work.target {
            self.restore(workspace, target)?;
            reach(Point::PutAwayRestored);
        }
        self.settle(&entry, true)?;
        reach(Point::PutAwaySettled);
        Ok(())
    }

    /// Creates the reference and its row, unless they exist.
    fn save(&self, work: &PutAway, entry: &str) -> Result<()> {
        if let Some(commit) = &work.commit {
            match self.history().set_ref(&work.git_ref, commit, &RefExpectation::Absent) {
                Err(git::Error::RefMoved { found: Some(found), .. }) if found == *commit => {}
                made => made?,
            }
        }
        reach(Point::PutAwaySaved);
        let Some(commit) = self.history().resolve(&work.git_ref)? else { return Ok(()) };
        tracing::info!(git_ref = work.git_ref, reason = work.reason, "work saved");
        self.db.write(|tx| {
            let owner = tx.journal_entry(entry)?.and_then(|entry| entry.loop_id).unwrap_or_else(|| self.loop_id.clone());
            let test_id = match &work.test {
                Some(test) => tx.find_test(test.as_str())?.map(|test| test.id),
                None => None,
            };
            if tx.checkpoint_of_ref(&owner, &work.git_ref)?.is_none() {
                tx.add_checkpoint(&NewCheckpoint {
                    loop_id: owner,
                    test_id,
                    git_ref: work.git_ref.clone(),
                    checkpoint_type: CheckpointType::Stash,
                    commit_hash: commit.to_string(),
                    reason: work.reason.clone(),
                })?;
            }
            tx.note_step(entry, "saved", json!({ "refs": [work.git_ref] }))
        })?;
        reach(Point::PutAwayRecorded);
        Ok(())
    }

    /// Creates a checkpoint.
    pub(crate) fn make_checkpoint(&self, test: &coord_db::Test, commit: &CommitHash) -> Result<String> {
        let git_ref = format!("{CHECKPOINTS}{}/{}/{}", self.loop_id, test.id, coord_db::new_id());
        let (test_id, attempt) = (test.id.clone(), test.attempts);
        let operation = Operation::Checkpoint { git_ref: git_ref.clone(), commit: commit.clone(), test: test_id, attempt };
        let entry = self.intend(&operation)?;
        reach(Point::CheckpointIntended);
        self.history().set_ref(&git_ref, commit, &RefExpectation::Any)?;
        reach(Point::CheckpointMade);
        self.db.write(|tx| {
            tx.add_checkpoint(&NewCheckpoint {
                loop_id: self.loop_id.clone(),
                test_id: Some(test.id.clone()),
                git_ref: git_ref.clone(),
                checkpoint_type: CheckpointType::Branch,
                commit_hash: commit.to_string(),
                reason: format!("before attempt {attempt}"),
            })?;
            tx.end_operation(&entry, true)
        })?;
        reach(Point::CheckpointSettled);
        Ok(git_ref)
    }

    // ---- what was cut off ----

    /// Completes or undoes interrupted operations of this loop, from this or an earlier process. With a workspace, that
    /// is restored too.
    pub(crate) fn recover(&self, workspace: Option<&Workspace>) -> Result<()> {
        let own = ProcessIdentity::own();
        for entry in self.db.read(|tx| tx.open_journal(Some(self.loop_id.as_str())))? {
            if !self.db.read(|tx| tx.is_owned_by_other(&entry.steps, &own))? {
                self.recover_one(&entry, workspace)?;
            }
        }
        Ok(())
    }

    /// Like [`Context::recover`], for dead loops: their landings are recorded before anyone repeats the work. Their
    /// workspaces are not touched.
    pub(crate) fn recover_dead_loops(&self) -> Result<()> {
        self.recover_train()?;
        // Asked about here, they keep no attempt waiting.
        self.ask_about_own_landings()?;
        for entry in self.db.read(|tx| tx.open_journal(None))? {
            let gone = self.db.read(|tx| tx.has_owner_ended(&entry.steps))?;
            if gone {
                self.recover_dead_command(&entry)?;
            }
            let Some(other) = entry.loop_id.clone().filter(|id| *id != self.loop_id) else { continue };
            let row = self.db.read(|tx| tx.loops())?.into_iter().find(|row| row.id == other);
            let Some(row) = row else { continue };
            let operation = Operation::of(&entry);
            let is_landing = matches!(operation, Some(Operation::Integrate(_) | Operation::Sync(_)));
            if row.status != LoopStatus::Error && !(gone && is_landing) {
                continue;
            }
            // What it has saved is in the store of its machine.
            let is_of_all = is_landing || matches!(operation, Some(Operation::Judge { .. }));
            if !is_of_all && self.is_of_another_machine(&entry)? {
                continue;
            }
            tracing::info!(operation = entry.operation, loop_id = %other, "settling an operation of a dead loop");
            match self.recover_one(&entry, None) {
                Err(error) if error.is_temporary() => return Err(error),
                // The entry stays open and must not prevent this loop from working.
                Err(error) => tracing::warn!(%error, entry = entry.id, "cannot settle an operation of a dead loop"),
                Ok(()) => {}
            }
        }
        Ok(())
    }

    /// True if the process that acts on an entry, or else its loop, is one of another machine.
    fn is_of_another_machine(&self, entry: &JournalEntry) -> Result<bool> {
        let process = match (entry.steps.owner(), &entry.loop_id) {
            (Some(owner), _) => Some(owner),
            (None, Some(id)) => self.db.read(|tx| tx.component(id.as_str()))?.and_then(|row| row.identity()),
            (None, None) => None,
        };
        Ok(process.is_some_and(|process| process.is_elsewhere()))
    }

    /// Like [`Context::recover_dead_loops`], for a killed command of the human.
    fn recover_dead_command(&self, entry: &JournalEntry) -> Result<()> {
        match Operation::of(entry) {
            Some(Operation::Sync(sync)) if entry.component.as_deref() == Some("human") => {
                self.ask_remote_of(entry, true)?;
                self.settle_sync(entry, &sync)
            }
            _ => Ok(()),
        }
    }

    /// Settles the open landings of this loop, in the transaction that starts it: its previous process has ended, or has been
    /// silent for so long that another one may take its place.
    pub(crate) fn settle_landings(&self, tx: &WriteTx<'_>) -> Result<()> {
        let own = ProcessIdentity::own();
        for entry in tx.open_journal(Some(self.loop_id.as_str()))? {
            let is_other = |owner: ProcessIdentity| owner != own && owner.liveness() == Liveness::Alive;
            if let Some(Operation::Integrate(landing)) = Operation::of(&entry)
                && !entry.steps.owner().is_some_and(is_other)
            {
                self.settle_landing(tx, &entry, &landing)?;
            }
        }
        Ok(())
    }

    fn recover_one(&self, entry: &JournalEntry, workspace: Option<&Workspace>) -> Result<()> {
        let Some(operation) = Operation::of(entry) else { return self.settle_recovered(entry, false) };
        if matches!(operation, Operation::Integrate(_) | Operation::Sync(_)) {
            self.ask_remote_of(entry, true)?;
        }
        if let Operation::Integrate(landing) = &operation {
            return self.db.write(|tx| self.settle_landing(tx, entry, landing));
        }
        if let Operation::Sync(sync) = &operation {
            return self.settle_sync(entry, sync);
        }
        if let Operation::Judge { .. } = &operation {
            return self.recover_train();
        }
        match operation.recovery(self.see(&operation)?) {
            Recovery::RecordPass | Recovery::None => self.settle_recovered(entry, false),
            Recovery::DeleteRef => {
                self.history().delete_ref(operation.git_ref().unwrap_or_default(), &RefExpectation::Any)?;
                self.settle_recovered(entry, false)
            }
            Recovery::RecordSaved => {
                if let Operation::PutAway(work) = &operation {
                    self.save(work, &entry.id)?;
                    if let (Some(workspace), Some(target)) = (workspace, &work.target) {
                        self.restore_if_saved(workspace, work, target)?;
                    }
                }
                self.settle_recovered(entry, true)
            }
        }
    }

    /// True if a batch has reached integration.
    pub(crate) fn has_reached_integration(&self, landing: &Integrate) -> Result<bool> {
        let operation = Operation::Integrate(landing.clone());
        Ok(operation.recovery(self.see(&operation)?) == Recovery::RecordPass)
    }

    fn see(&self, operation: &Operation) -> Result<Seen> {
        let history = self.history();
        let has_ref = match operation.git_ref() {
            Some(git_ref) => history.resolve(git_ref)?.is_some(),
            None => false,
        };
        let Some(commit) = operation.commit() else {
            return Ok(Seen { has_ref, has_commit: false, is_on_integration: false });
        };
        let has_commit = history.resolve(commit.as_str())?.is_some();
        let head = self.store.integration()?;
        let is_on_integration = match head {
            Some(head) if has_commit => history.is_ancestor(commit, &head)?,
            _ => false,
        };
        Ok(Seen { has_ref, has_commit, is_on_integration })
    }

    /// Restores the workspace if it contains nothing beyond the saved work.
    fn restore_if_saved(&self, workspace: &Workspace, work: &PutAway, target: &CommitHash) -> Result<()> {
        let Some(saved) = &work.commit else { return Ok(()) };
        let options = self.look_options(self.config.landing.file_bytes);
        let options = git::SnapshotOptions { take_unignored: true, ..options };
        let now = workspace.snapshot(&options).and_then(|snapshot| workspace.change(&snapshot));
        if now.is_ok_and(|change| self.history().tree_of(saved).is_ok_and(|tree| tree == change.tree)) {
            self.restore(workspace, target)?;
        }
        Ok(())
    }

    fn settle_recovered(&self, entry: &JournalEntry, committed: bool) -> Result<()> {
        reach(Point::StartEntryRecovered);
        tracing::info!(operation = entry.operation, committed, "interrupted operation settled");
        self.settle(&entry.id, committed)
    }

    /// True while a push that was cut off may yet move the remote: it was where it was when it was asked last, and the push was not
    /// over its time then. What lands next moves it too.
    fn may_still_arrive(&self, tx: &WriteTx<'_>, entry: &JournalEntry, landing: &Integrate) -> Result<bool> {
        let seconds = i64::try_from(git::ARRIVAL_LIMIT.as_secs()).unwrap_or(i64::MAX);
        let asked_at = self.news.asked_remote.get().map_or(tx.now(), |(_, asked_at)| asked_at);
        Ok(self.store.remote().is_some()
            && asked_at.seconds_since(entry.started_at) < seconds
            && self.store.integration()?.as_ref() == Some(&landing.old))
    }

    /// Settles an interrupted landing: a batch that reached integration is recorded for the loops of its works; otherwise
    /// nothing was done. Reads the store under the write lock, so that no entry is settled twice.
    pub(crate) fn settle_landing(&self, tx: &WriteTx<'_>, entry: &JournalEntry, landing: &Integrate) -> Result<()> {
        if !tx.is_operation_open(&entry.id)? {
            return Ok(());
        }
        let landed = self.has_reached_integration(landing)?;
        if !landed && self.may_still_arrive(tx, entry, landing)? {
            return Ok(());
        }
        if landed {
            reach(Point::RecoverLanded);
            let author = entry.loop_id.as_ref().unwrap_or(&self.loop_id);
            self.record_members(tx, landing, author)?;
            tracing::info!(commit = %landing.commit, works = landing.members.len(), "interrupted landing recorded");
        }
        tx.end_operation(&entry.id, landed)?;
        Ok(())
    }
}
