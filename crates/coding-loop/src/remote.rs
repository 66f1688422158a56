//! The remote at which several machines meet: bringing what others have landed, moving integration there, and sending the
//! references of this loop, so that a machine that is lost takes no work with it.
//!
//! A conversation with it can last until its time limit. While a loop works, it runs on a thread of its own, beside which
//! heartbeats go on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use coord_db::{AlertType, JournalEntry, LandingState, NewAlert, Severity, queued_refs};
use git::{CommitHash, NamedRef, Refreshed, Store};
use serde_json::json;

use crate::context::Context;
use crate::operation::{CHECKPOINTS, Operation, SAVED};
use crate::publish::{MovedBranch, PUBLISH_AGAIN, Place, TAKE_THEIRS};
use crate::{Error, Result, secrets};

/// Interval at which the remote is asked between attempts. What lands is compared with it in any case.
const ASK_EVERY: Duration = Duration::from_secs(5);

/// How long work waits in front of the queue for its copy at the remote.
const SEND_LIMIT: Duration = Duration::from_secs(60);
/// Interval at which what could not be sent is sent again.
const SEND_EVERY: Duration = Duration::from_secs(15);

impl Context<'_> {
    /// Brings integration up to the remote.
    ///
    /// # Errors
    /// [`Error::Waiting`] while somebody else has moved the branch there, and the human was asked.
    pub(crate) async fn refresh(&self) -> Result<()> {
        if self.store.remote().is_none() {
            return Ok(());
        }
        let began = (Instant::now(), self.db.now());
        let refreshed = beside(&self.store, Store::refresh).await?;
        self.news.asked_remote.set(Some(began));
        self.take_in(refreshed)
    }

    /// As [`Context::refresh`], for an attempt, which can work on what is known of integration: false if nothing new is.
    pub(crate) async fn refresh_if_reachable(&self) -> bool {
        if self.news.asked_remote.get().is_some_and(|(at, _)| at.elapsed() < ASK_EVERY) && !self.news.has_to_ask() {
            return true;
        }
        let refreshed = self.refresh().await;
        if let Err(error) = &refreshed {
            tracing::warn!(error = coord_db::error_chain(error), "going on with what is known of integration");
        }
        refreshed.is_ok()
    }

    /// As [`Context::ask_remote_of`], for all open landings of this loop.
    pub(crate) fn ask_about_own_landings(&self) -> Result<()> {
        for entry in self.db.read(|tx| tx.open_journal(Some(self.loop_id.as_str())))? {
            if matches!(Operation::of(&entry), Some(Operation::Integrate(_) | Operation::Sync(_))) {
                self.ask_remote_of(&entry, true)?;
            }
        }
        Ok(())
    }

    /// To be called before an interrupted landing is judged by integration: one that has reached the remote would look undone.
    ///
    /// # Errors
    /// [`Error::Waiting`] in a process at work: a conversation can last for minutes, and is for [`Context::refresh`], which sends
    /// heartbeats meanwhile. The caller asks there before its next try, which does not wait for this entry again.
    pub(crate) fn ask_remote_of(&self, entry: &JournalEntry, has_ended: bool) -> Result<()> {
        if self.store.remote().is_none() || self.news.has_asked_about(&entry.id, has_ended) {
            return Ok(());
        }
        if self.news.is_at_work.get() {
            return Err(Error::Waiting("the remote has to be asked about a landing that was interrupted".to_owned()));
        }
        let began = (Instant::now(), self.db.now());
        let refreshed = self.store.refresh()?;
        self.news.asked_remote.set(Some(began));
        self.take_in(refreshed)
    }

    fn take_in(&self, refreshed: Refreshed) -> Result<()> {
        let Refreshed::Diverged { found } = refreshed else {
            if let Refreshed::Moved { to } = &refreshed {
                tracing::info!(commit = to.short(), "integration was brought from the remote");
            }
            return self.withdraw_branch_questions(Place::Remote, None, "the branch is in its place again");
        };
        let moved = MovedBranch { place: Place::Remote, found, symbolic: None, last: self.store.integration()? };
        match (self.answer_about(&moved)?.as_deref(), &moved.found) {
            (Some(PUBLISH_AGAIN), found) => {
                self.store.overwrite_remote(found.as_ref())?;
                tracing::info!("integration was put back at the remote by the human's decision");
                Ok(())
            }
            (Some(TAKE_THEIRS), Some(found)) => self.take_theirs(Place::Remote, found),
            _ => Err(Error::Waiting(
                "somebody else has moved the branch of integration at the remote; answer the question about it".to_owned(),
            )),
        }
    }

    /// Moves integration by compare-and-swap; false if somebody else has moved it. After [`git::Error::RemoteUnreachable`] it
    /// may have moved.
    ///
    /// # Errors
    /// [`Error::NotJudged`] if the remote refuses: its settings, or its hooks.
    pub(crate) async fn move_integration(&self, new: &CommitHash, expected: &CommitHash) -> Result<bool> {
        let moved = match self.store.remote() {
            None => self.store.move_integration(new, expected),
            Some(_) => {
                let (new, expected) = (new.clone(), expected.clone());
                beside(&self.store, move |store| store.move_integration(&new, &expected)).await
            }
        };
        match moved {
            Ok(()) => Ok(true),
            Err(git::Error::RefMoved { .. }) => Ok(false),
            Err(error @ git::Error::RemoteRefused { .. }) => Err(Error::NotJudged(error.to_string())),
            Err(error) => Err(error.into()),
        }
    }

    // ---- references of this loop ----

    /// Sends a work that is about to be queued. If that fails, it is sent later, and until then only this machine can judge it.
    pub(crate) async fn send_queued(&self, name: String, commit: CommitHash) {
        if self.store.remote().is_none() {
            return;
        }
        // Until it has arrived; this may be cut off.
        self.news.unsent_since.set(Some(Instant::now()));
        let sending = beside(&self.store, move |store| store.send(&[(name, commit)], &[]));
        match tokio::time::timeout(SEND_LIMIT, sending).await {
            Ok(Ok(())) => self.news.unsent_since.set(None),
            Ok(Err(error)) => {
                tracing::warn!(error = coord_db::error_chain(&error), "queued work has no copy at the remote yet")
            }
            Err(_) => tracing::warn!("queued work has no copy at the remote yet: it does not answer"),
        }
    }

    /// Sends again what could not be sent, if that is some time ago.
    pub(crate) async fn send_unsent(&self) {
        if self.news.unsent_since.get().is_some_and(|at| at.elapsed() >= SEND_EVERY) {
            self.send_refs().await;
        }
    }

    /// Sends what this loop has saved, marked and queued, and deletes there what has landed. What the human would be asked
    /// about before it lands stays on this machine.
    pub(crate) async fn send_refs(&self) {
        if self.store.remote().is_none() {
            return;
        }
        let sending = async {
            let there = beside(&self.store, Store::sent).await?;
            let (new, landed) = self.refs_to_send(&there)?;
            Ok::<_, Error>(beside(&self.store, move |store| store.send(&new, &landed)).await?)
        };
        let fingerprint = format!("remote_copies:{}", self.loop_id);
        let sent = sending.await;
        self.news.unsent_since.set(sent.is_err().then(Instant::now));
        let recorded = match sent {
            Ok(()) => self.db.read(|tx| tx.open_alert(&fingerprint)).and_then(|open| match open {
                Some(_) => self.db.write(|tx| tx.close_alert(&fingerprint)).map(drop),
                None => Ok(()),
            }),
            Err(error) => {
                let why = coord_db::error_chain(&error);
                tracing::warn!(why, "saved work has no copy at the remote; it is sent later");
                let alert = NewAlert {
                    fingerprint,
                    severity: Severity::Warning,
                    alert_type: AlertType::Resource,
                    source: "coding-loop".to_owned(),
                    message: format!(
                        "the saved work of loop {} has no copy at the remote: {why}; it is sent later",
                        self.loop_id
                    ),
                    context: json!({ "loop_id": self.loop_id }),
                    event_id: None,
                };
                self.db.write(|tx| tx.raise_alert(&alert)).map(drop)
            }
        };
        if let Err(error) = recorded {
            tracing::warn!(%error, "cannot record whether saved work has copies");
        }
    }

    /// Of this loop: the references that the remote lacks, and the names of queued ones there whose work has landed.
    fn refs_to_send(&self, there: &[NamedRef]) -> Result<(Vec<NamedRef>, Vec<String>)> {
        let queued = queued_refs(&self.loop_id);
        // What is queued was approved, if it had to be.
        let mut new = self.history().list_refs(&queued)?;
        for prefix in [format!("{SAVED}{}/", self.loop_id), format!("{CHECKPOINTS}{}/", self.loop_id)] {
            for (name, commit) in self.history().list_refs(&prefix)? {
                if !there.iter().any(|(sent, _)| *sent == name) && !self.waits_for_a_human(&commit)? {
                    new.push((name, commit));
                }
            }
        }
        new.retain(|found| !there.contains(found));
        let mut landed = Vec::new();
        for (id, name) in there.iter().filter_map(|(name, _)| Some((name.strip_prefix(&queued)?, name))) {
            if self.db.read(|tx| tx.landing(id))?.is_some_and(|landing| landing.state == LandingState::Landed) {
                new.retain(|(sent, _)| sent != name);
                landed.push(name.clone());
            }
        }
        Ok((new, landed))
    }

    /// Deletes the copies of references that were deleted here.
    pub(crate) fn delete_sent(&self, names: &[String]) -> git::Result<()> {
        let there = self.store.sent()?;
        let left: Vec<String> = there.into_iter().map(|(name, _)| name).filter(|name| names.contains(name)).collect();
        self.store.send(&[], &left)
    }

    /// True if a commit, or one on which it builds, holds what would be asked about before it lands.
    fn waits_for_a_human(&self, commit: &CommitHash) -> Result<bool> {
        let Some(head) = self.store.integration()? else { return Ok(true) };
        for beyond in self.history().commits_between(&head, commit)? {
            let Some(parent) = beyond.parents.first() else { return Ok(true) };
            let holds_secret = self.config.landing.secrets && self.history().message(&beyond.hash)?.lines().any(is_secret);
            if holds_secret || self.is_asked_about(parent, &beyond.hash)? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

fn is_secret(line: &str) -> bool {
    !secrets::find(line).is_empty()
}

/// Does something with the store on a thread of its own. Dropped, it ends its conversation with the remote.
async fn beside<T: Send + 'static>(
    store: &Store,
    action: impl FnOnce(&Store) -> git::Result<T> + Send + 'static,
) -> git::Result<T> {
    struct CutOff(Arc<AtomicBool>);
    impl Drop for CutOff {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let cut_off = CutOff(Arc::default());
    let store = store.until(Arc::clone(&cut_off.0));
    match tokio::task::spawn_blocking(move || action(&store)).await {
        Ok(done) => done,
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}
