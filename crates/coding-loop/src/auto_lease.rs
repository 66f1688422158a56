//! Leases for an agent that knows nothing of leases: each file is leased once it has changed and nothing changes for a moment. If another loop has it, the
//! loop queues for it, the agent works on, and landing waits for the grant.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use coord_db::{AcquireRequest, LeasePath, LoopId, OwnedByOther, ReadTx, TestId, UnlockCause, Waiting};
use git::{Notice, Watches, Workspace, shown};
use globset::{Glob, GlobSet, GlobSetBuilder};
use tokio::sync::Notify;

use crate::context::{Attempt, Context};
use crate::work::INTEGRATION;
use crate::{Error, Result};

/// How long a queued acquire waits unless its loop says that it still wants it.
pub(crate) const WAIT_SECONDS: i64 = 600;

/// Files that two may change.
pub(crate) fn ignored(patterns: &[String]) -> GlobSet {
    let anywhere = patterns.iter().map(|pattern| format!("**/{pattern}"));
    globs(patterns.iter().cloned().chain(anywhere))
}

/// Files that these patterns name, and no others.
pub(crate) fn exactly(patterns: &[String]) -> GlobSet {
    globs(patterns.iter().cloned())
}

fn globs(patterns: impl Iterator<Item = String>) -> GlobSet {
    let mut set = GlobSetBuilder::new();
    // The settings were checked when they were read.
    for glob in patterns.filter_map(|pattern| Glob::new(&pattern).ok()) {
        set.add(glob);
    }
    set.build().unwrap_or_else(|_| GlobSet::empty())
}

/// How long nothing has to change before the changed files are leased: what lies there for a moment is nobody's work. Not
/// longer: two agents that change one file before either has it leased are a conflict, for which one of them is paused.
const QUIET: Duration = Duration::from_millis(60);
/// How long changes that never stop are waited for.
const MAX_UNREST: Duration = Duration::from_secs(2);
/// Between two looks at a workspace that cannot be watched.
const BLIND_LOOK: Duration = Duration::from_secs(30);

/// Says when it is time to look at what an agent has changed.
pub(crate) struct Changes {
    seen: Arc<Seen>,
    _watches: Option<Watches>,
}

#[derive(Default)]
struct Seen {
    notify: Notify,
    unrest: Mutex<Unrest>,
}

/// The changes that were not looked at yet.
#[derive(Debug, Clone, Copy, Default)]
struct Unrest {
    /// When the first and the last of them was noticed.
    since: Option<(Instant, Instant)>,
    is_blind: bool,
}

impl Unrest {
    fn changed(&mut self, now: Instant) {
        let first = self.since.map_or(now, |(first, _)| first);
        self.since = Some((first, now));
    }

    /// When to look; none before something changes.
    fn due(&self, looked: Instant) -> Option<Instant> {
        let quiet = self.since.map(|(first, last)| (last + QUIET).min(first + MAX_UNREST));
        quiet.or_else(|| self.is_blind.then_some(looked + BLIND_LOOK))
    }
}

impl Seen {
    fn note(&self, change: impl FnOnce(&mut Unrest)) {
        change(&mut self.unrest.lock().unwrap_or_else(PoisonError::into_inner));
        self.notify.notify_one();
    }

    fn unrest(&self) -> Unrest {
        *self.unrest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Changes {
    pub(crate) fn of(workspace: &Workspace) -> Self {
        let seen = Arc::new(Seen::default());
        let heard = Arc::clone(&seen);
        let watches = Watches::new(false, move |notice| {
            heard.note(|unrest| match notice {
                Notice::Changed { .. } => unrest.changed(Instant::now()),
                Notice::Unknown { .. } => {
                    unrest.is_blind = false;
                    unrest.changed(Instant::now());
                }
                Notice::Unwatched { .. } => unrest.is_blind = true,
                Notice::Ignored { .. } => {}
            });
        });
        let watches = watches
            .inspect(|watches| watches.watch(workspace))
            .inspect_err(|error| {
                tracing::warn!(%error, "cannot watch the workspace; looking at intervals instead");
                seen.note(|unrest| unrest.is_blind = true);
            })
            .ok();
        Self { seen, _watches: watches }
    }

    /// Returns when it is time to look.
    pub(crate) async fn next(&self) {
        let began = Instant::now();
        loop {
            let due = self.seen.unrest().due(began);
            let now = Instant::now();
            match due {
                Some(due) if due <= now => break,
                Some(due) => drop(tokio::time::timeout(due - now, self.seen.notify.notified()).await),
                None => self.seen.notify.notified().await,
            }
        }
        self.seen.unrest.lock().unwrap_or_else(PoisonError::into_inner).since = None;
    }
}

/// The path as something that can be leased, or why not.
pub(crate) fn lease_path(path: &Path) -> Result<LeasePath, String> {
    let text = path.to_str().ok_or_else(|| format!("{} is not UTF-8 and cannot be leased; rename it", shown(path)))?;
    if text == INTEGRATION {
        return Err(format!("a file must not be called {text}: that is the name of the right to move the integration branch"));
    }
    text.parse().map_err(|error: coord_db::Error| error.to_string())
}

/// The token of the loop's own lease that covers a path, on it or on a subtree above it.
fn own_token(tx: &ReadTx<'_>, loop_id: &LoopId, path: &LeasePath) -> coord_db::Result<Option<i64>> {
    let own = tx
        .leases_overlapping(path)?
        .into_iter()
        .find(|lease| lease.locked_by == loop_id.as_str() && (lease.file_path == *path || lease.file_path.is_subtree()));
    Ok(own.map(|lease| lease.fencing_token))
}

impl Context<'_> {
    /// What the program leases by itself, for a test or for none.
    pub(crate) fn lease_request(&self, paths: Vec<LeasePath>, reason: String, test: Option<&TestId>) -> AcquireRequest {
        AcquireRequest {
            loop_id: self.loop_id.clone(),
            paths,
            ttl_seconds: self.lease_seconds(),
            reason: Some(reason),
            test_id: test.cloned(),
            automatic: true,
        }
    }

    /// Leases for an attempt, or queues.
    pub(crate) fn lease_or_queue(&self, attempt: &mut Attempt, request: AcquireRequest) -> Result<()> {
        let silent = self.config.lease.silent_waiter_seconds;
        let (id, answer) = self.db.write(|tx| tx.acquire_or_queue(&request, tx.now().plus_seconds(WAIT_SECONDS), silent))?;
        match (id, answer) {
            (_, Waiting::Granted(grant)) => {
                attempt.tokens.extend(grant.paths.into_iter().map(|path| (path, grant.fencing_token)));
            }
            (Some(id), _) => attempt.waiting.push((id, request)),
            (None, _) => return Err(Error::SetUp("a queued acquire has no id".to_owned())),
        }
        Ok(())
    }

    /// Leases, or queues for, every one of these files that the attempt neither holds nor waits for. What other loops own is
    /// left alone. What cannot be leased is given back with the reason.
    pub(crate) fn lease_files(&self, attempt: &mut Attempt, files: &[PathBuf]) -> Result<Vec<String>> {
        self.follow_the_agent(attempt)?;
        let ignored = ignored(&self.config.monitor.conflict_ignore);
        let mut problems = Vec::new();
        for file in files.iter().filter(|file| !ignored.is_match(file)) {
            let path = match lease_path(file) {
                Ok(path) => path,
                Err(problem) => {
                    problems.push(problem);
                    continue;
                }
            };
            let known =
                attempt.tokens.contains_key(&path) || attempt.waiting.iter().any(|(_, request)| request.paths.contains(&path));
            if known || self.adopt_own_lease(attempt, &path)? {
                continue;
            }
            // Told at landing, where it matters: the agent may change it back.
            if !self.owned_by_others(std::slice::from_ref(&path))?.is_empty() {
                continue;
            }
            let test = &attempt.test.id;
            let request = self.lease_request(vec![path], format!("changed for {test}"), Some(test));
            let silent = self.config.lease.silent_waiter_seconds;
            let (id, answer) =
                self.db.write(|tx| tx.acquire_or_queue(&request, tx.now().plus_seconds(WAIT_SECONDS), silent))?;
            match answer {
                Waiting::Granted(grant) => {
                    attempt.tokens.extend(grant.paths.into_iter().map(|path| (path, grant.fencing_token)));
                }
                Waiting::Queued(blockers) => {
                    let holders: Vec<&str> = blockers.iter().map(|blocker| blocker.locked_by.as_str()).collect();
                    tracing::info!(path = %request.paths[0], holders = ?holders, "waiting for a lease; the agent works on");
                    if let Some(id) = id {
                        attempt.waiting.push((id, request));
                    }
                }
                Waiting::GaveUp(_) => {}
            }
        }
        Ok(problems)
    }

    /// Which of these paths are other loops', without leave to change them.
    fn owned_by_others(&self, paths: &[LeasePath]) -> Result<Vec<OwnedByOther>> {
        Ok(self.db.read(|tx| tx.owned_by_others(&self.loop_id, paths))?)
    }

    /// What the attempt has changed although another loop owns it. A file that two may change counts only if it is owned by
    /// its own name.
    pub(crate) fn trespasses(&self, attempt: &Attempt, files: &[PathBuf]) -> Result<Vec<OwnedByOther>> {
        let ignored = ignored(&self.config.monitor.conflict_ignore);
        let wanted: Vec<LeasePath> = files
            .iter()
            .filter_map(|file| lease_path(file).ok())
            // A lease that stood before its path was owned is good to the end.
            .filter(|path| !attempt.tokens.contains_key(path))
            .collect();
        let mut owned = self.owned_by_others(&wanted)?;
        owned.retain(|owned| owned.wanted.as_str() == owned.resource.path || !ignored.is_match(owned.wanted.as_str()));
        Ok(owned)
    }

    /// A lease that the agent took by itself counts as well.
    fn adopt_own_lease(&self, attempt: &mut Attempt, path: &LeasePath) -> Result<bool> {
        let own = self.db.read(|tx| own_token(tx, &self.loop_id, path))?;
        if let Some(token) = own {
            attempt.tokens.insert(path.clone(), token);
        }
        Ok(own.is_some())
    }

    /// Leases whatever the agent has changed so far, or, unless it `has_changed` more, what it was seen to have changed: it may
    /// have released that.
    pub(crate) fn lease_changes(&self, attempt: &mut Attempt, has_changed: bool) -> Result<Vec<String>> {
        if has_changed {
            attempt.seen = attempt.workspace.snapshot(&self.look_options(self.config.landing.file_bytes))?.changed;
        }
        let seen = std::mem::take(&mut attempt.seen);
        let leased = self.lease_files(attempt, &seen);
        attempt.seen = seen;
        leased
    }

    /// Asks again for what is still being waited for.
    pub(crate) fn ask_again(&self, attempt: &mut Attempt) -> Result<()> {
        let silent = self.config.lease.silent_waiter_seconds;
        // One by one and in place, so that an error on the way forgets none that still stands in the queue.
        let mut at = 0;
        while let Some((id, request)) = attempt.waiting.get(at).cloned() {
            let mut answer = (Some(id.clone()), self.db.write(|tx| tx.retry_request(&id, &request, silent))?);
            if matches!(answer.1, Waiting::GaveUp(_)) {
                attempt.waiting.remove(at);
                answer = self.db.write(|tx| tx.acquire_or_queue(&request, tx.now().plus_seconds(WAIT_SECONDS), silent))?;
                if let Some(id) = &answer.0 {
                    attempt.waiting.insert(at, (id.clone(), request.clone()));
                }
            }
            match answer {
                (_, Waiting::Granted(grant)) => {
                    tracing::info!(path = %request.paths[0], "got the lease");
                    attempt.waiting.retain(|(waiting, _)| *waiting != id);
                    attempt.tokens.extend(grant.paths.into_iter().map(|path| (path, grant.fencing_token)));
                }
                (Some(_), _) => at += 1,
                (None, _) => {}
            }
        }
        Ok(())
    }

    /// Says that the loop lives: its beat, its leases, its waits.
    pub(crate) fn beat(&self, attempt: Option<&Attempt>) -> Result<()> {
        self.db.write_quietly(|tx| {
            if self.managed {
                tx.beat(&coord_db::ComponentId::from(&self.loop_id), coord_db::HealthStatus::Healthy, None)?;
            }
            tx.renew_all(&self.loop_id, self.lease_seconds())?;
            for (id, _) in attempt.iter().flat_map(|attempt| &attempt.waiting) {
                tx.extend_request(id, tx.now().plus_seconds(WAIT_SECONDS))?;
            }
            Ok::<_, coord_db::Error>(())
        })?;
        Ok(())
    }

    /// True while nobody else has ended a lease of the attempt. What the agent has taken again, or released, by itself is
    /// its own affair.
    pub(crate) fn leases_stand(&self, attempt: &Attempt) -> Result<bool> {
        self.db.read(|tx| {
            for (path, token) in &attempt.tokens {
                if !tx.holds(&self.loop_id, path, *token)?
                    && own_token(tx, &self.loop_id, path)?.is_none()
                    && tx.last_unlock(&self.loop_id, path)? != Some(UnlockCause::Released)
                {
                    return Ok(false);
                }
            }
            Ok(true)
        })
    }

    /// Brings what is known of the attempt's leases in line with what the agent has done with them by itself. A file that it
    /// has released is leased again as long as it differs.
    fn follow_the_agent(&self, attempt: &mut Attempt) -> Result<()> {
        attempt.tokens = self.db.read(|tx| {
            let mut known = BTreeMap::new();
            for (path, token) in &attempt.tokens {
                if let Some(current) = own_token(tx, &self.loop_id, path)? {
                    known.insert(path.clone(), current);
                } else if tx.last_unlock(&self.loop_id, path)? != Some(UnlockCause::Released) {
                    // Taken by another hand: the next look at the orders finds it.
                    known.insert(path.clone(), *token);
                }
            }
            Ok::<_, coord_db::Error>(known)
        })?;
        Ok(())
    }

    /// Gives up waiting for files that the attempt no longer changes.
    pub(crate) fn forget_waits(&self, attempt: &mut Attempt, files: &[PathBuf]) -> Result<()> {
        let wanted: Vec<LeasePath> = files.iter().filter_map(|file| lease_path(file).ok()).collect();
        let (keep, drop): (Vec<_>, Vec<_>) =
            std::mem::take(&mut attempt.waiting).into_iter().partition(|(_, request)| wanted.contains(&request.paths[0]));
        attempt.waiting = keep;
        for (id, _) in drop {
            self.db.write(|tx| tx.withdraw_request(&id))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_is_due_after_quiet_and_in_any_case_in_the_end() {
        let begin = Instant::now();
        let mut unrest = Unrest::default();
        assert_eq!(unrest.due(begin), None, "nothing has changed");
        unrest.changed(begin);
        assert_eq!(unrest.due(begin), Some(begin + QUIET));
        for tenth in 1..20 {
            unrest.changed(begin + Duration::from_millis(100 * tenth));
            assert!(unrest.due(begin).unwrap() <= begin + MAX_UNREST);
        }
        let blind = Unrest { since: None, is_blind: true };
        assert_eq!(blind.due(begin), Some(begin + BLIND_LOOK));
    }
}
