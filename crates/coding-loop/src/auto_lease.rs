//! Leases for agents that do not use leases themselves: a file is leased once it has changed and the workspace is quiet
//! for a moment. If another loop holds it, the loop queues for it, the agent continues, and landing waits for the
//! grant.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use coord_db::process::ProcessIdentity;
use coord_db::{AcquireRequest, ComponentId, Config, LeasePath, LoopId, OwnedByOther, ReadTx, TestId, UnlockCause, Waiting};
use git::{Notice, Watches, Workspace, shown};
use globset::{Glob, GlobSet, GlobSetBuilder};
use tokio::sync::Notify;

use crate::context::{Attempt, Context};
use crate::{Error, Result};

/// Seconds after which a queued request ends unless its loop renews it.
pub(crate) const WAIT_SECONDS: i64 = 600;

/// Files that two loops may change.
pub(crate) fn ignored(patterns: &[String]) -> GlobSet {
    let anywhere = patterns.iter().map(|pattern| format!("**/{pattern}"));
    globs(patterns.iter().cloned().chain(anywhere))
}

/// Matches exactly these patterns, not in every folder.
pub(crate) fn exactly(patterns: &[String]) -> GlobSet {
    globs(patterns.iter().cloned())
}

fn globs(patterns: impl Iterator<Item = String>) -> GlobSet {
    let mut set = GlobSetBuilder::new();
    // The settings were validated when they were loaded.
    for glob in patterns.filter_map(|pattern| Glob::new(&pattern).ok()) {
        set.add(glob);
    }
    set.build().unwrap_or_else(|_| GlobSet::empty())
}

/// Time without changes before the changed files are leased, so that short-lived files are ignored. It must be short:
/// two agents that change one file before either has leased it have a conflict, and one of them is paused.
const QUIET: Duration = Duration::from_millis(60);
/// Maximum time to wait while changes continue.
const MAX_UNREST: Duration = Duration::from_secs(2);
/// Interval at which a workspace is read that cannot be watched.
const BLIND_LOOK: Duration = Duration::from_secs(30);

/// Tells when the changes of an agent have to be read.
pub(crate) struct Changes {
    seen: Arc<Seen>,
    _watches: Option<Watches>,
}

#[derive(Default)]
struct Seen {
    notify: Notify,
    unrest: Mutex<Unrest>,
}

/// The changes that have not been read.
#[derive(Debug, Clone, Copy, Default)]
struct Unrest {
    /// When the first and the last of them were noticed.
    since: Option<(Instant, Instant)>,
    is_blind: bool,
}

impl Unrest {
    fn changed(&mut self, now: Instant) {
        let first = self.since.map_or(now, |(first, _)| first);
        self.since = Some((first, now));
    }

    /// When to read; none before something changes.
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
                tracing::warn!(%error, "cannot watch the workspace; reading it at intervals");
                seen.note(|unrest| unrest.is_blind = true);
            })
            .ok();
        Self { seen, _watches: watches }
    }

    /// Returns when the changes have to be read.
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

/// True if a changed file needs a lease.
#[must_use]
pub fn is_leased(config: &Config, file: &Path) -> bool {
    !ignored(&config.monitor.conflict_ignore).is_match(file)
}

/// The path in the form of a lease.
///
/// # Errors
/// Why it cannot be leased.
pub fn lease_path(path: &Path) -> Result<LeasePath, String> {
    let text = path.to_str().ok_or_else(|| format!("{} is not UTF-8 and cannot be leased; rename it", shown(path)))?;
    if text == LeasePath::integration().as_str() {
        return Err(format!("rename the file {text}: this name is reserved for the lease on the integration branch"));
    }
    text.parse().map_err(|error: coord_db::Error| error.to_string())
}

/// The fencing token of the loop's lease on a path or on a subtree above it.
fn own_token(tx: &ReadTx<'_>, loop_id: &LoopId, path: &LeasePath) -> coord_db::Result<Option<i64>> {
    let own = tx
        .leases_overlapping(path)?
        .into_iter()
        .find(|lease| lease.locked_by == loop_id.as_str() && (lease.file_path == *path || lease.file_path.is_subtree()));
    Ok(own.map(|lease| lease.fencing_token))
}

impl Context<'_> {
    /// A request of the program itself, for a test or for none.
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

    /// Acquires leases for an attempt, or queues for them.
    pub(crate) fn lease_or_queue(&self, attempt: &mut Attempt, request: AcquireRequest) -> Result<()> {
        let silent = self.config.lease.silent_waiter_seconds;
        let (id, answer) = self.db.write(|tx| tx.acquire_or_queue(&request, tx.now().plus_seconds(WAIT_SECONDS), silent))?;
        match (id, answer) {
            (_, Waiting::Granted(grant)) => {
                attempt.tokens.extend(grant.paths.into_iter().map(|path| (path, grant.fencing_token)));
            }
            (Some(id), _) => attempt.waiting.push((id, request)),
            (None, _) => return Err(Error::SetUp("a queued request has no id".to_owned())),
        }
        Ok(())
    }

    /// Acquires or queues for the lease of each of these files, unless the attempt already holds it or waits for it.
    /// Files that other loops own are skipped. Returns the reason for each file that cannot be leased.
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
            // Reported at landing, where it matters: the agent may undo the change.
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
                    tracing::info!(path = %request.paths[0], holders = ?holders, "waiting for a lease; the agent continues");
                    if let Some(id) = id {
                        attempt.waiting.push((id, request));
                    }
                }
                Waiting::GaveUp(_) => {}
            }
        }
        Ok(problems)
    }

    /// The paths that other loops own, without permission to change them.
    fn owned_by_others(&self, paths: &[LeasePath]) -> Result<Vec<OwnedByOther>> {
        Ok(self.db.read(|tx| tx.owned_by_others(&self.loop_id, paths))?)
    }

    /// The changed files that another loop owns. A file that two loops may change counts only if it is owned by its own
    /// name.
    pub(crate) fn trespasses(&self, attempt: &Attempt, files: &[PathBuf]) -> Result<Vec<OwnedByOther>> {
        let ignored = ignored(&self.config.monitor.conflict_ignore);
        let wanted: Vec<LeasePath> = files
            .iter()
            .filter_map(|file| lease_path(file).ok())
            // A lease from before its path became owned stays valid.
            .filter(|path| !attempt.tokens.contains_key(path))
            .collect();
        let mut owned = self.owned_by_others(&wanted)?;
        owned.retain(|owned| owned.wanted.as_str() == owned.resource.path || !ignored.is_match(owned.wanted.as_str()));
        Ok(owned)
    }

    /// Adopts a lease that the agent has acquired itself.
    fn adopt_own_lease(&self, attempt: &mut Attempt, path: &LeasePath) -> Result<bool> {
        let own = self.db.read(|tx| own_token(tx, &self.loop_id, path))?;
        if let Some(token) = own {
            attempt.tokens.insert(path.clone(), token);
        }
        Ok(own.is_some())
    }

    /// Leases the files that the agent has changed so far. Without new changes, the files that were known to be changed
    /// are leased again if the agent has released them.
    pub(crate) fn lease_changes(&self, attempt: &mut Attempt, has_changed: bool) -> Result<Vec<String>> {
        if has_changed {
            attempt.seen = attempt.workspace.snapshot(&self.look_options(self.config.landing.file_bytes))?.changed;
        }
        let seen = std::mem::take(&mut attempt.seen);
        let leased = self.lease_files(attempt, &seen);
        attempt.seen = seen;
        leased
    }

    /// Retries the queued requests.
    pub(crate) fn retry_requests(&self, attempt: &mut Attempt) -> Result<()> {
        let silent = self.config.lease.silent_waiter_seconds;
        // One by one and in place, so that an error loses no request that is still queued.
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
                    tracing::info!(path = %request.paths[0], "lease granted");
                    attempt.waiting.retain(|(waiting, _)| *waiting != id);
                    attempt.tokens.extend(grant.paths.into_iter().map(|path| (path, grant.fencing_token)));
                }
                (Some(_), _) => at += 1,
                (None, _) => {}
            }
        }
        Ok(())
    }

    /// Sends a heartbeat and renews the leases and waits.
    pub(crate) fn beat(&self, attempt: Option<&Attempt>) -> Result<()> {
        self.db.write_quietly(|tx| {
            if self.managed {
                tx.beat_of(&ComponentId::from(&self.loop_id), &ProcessIdentity::own())?;
            }
            // On a host without heartbeat and monitor nobody else notices that it slept.
            tx.observe_clock(self.config.heartbeat.wake_grace_seconds)?;
            tx.renew_all(&self.loop_id, self.lease_seconds())?;
            for (id, _) in attempt.iter().flat_map(|attempt| &attempt.waiting) {
                tx.extend_request(id, tx.now().plus_seconds(WAIT_SECONDS))?;
            }
            Ok::<_, coord_db::Error>(())
        })?;
        Ok(())
    }

    /// True while no one else has ended a lease of the attempt. Leases that the agent itself has acquired again or
    /// released do not count.
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

    /// Updates the known leases of the attempt by what the agent has acquired and released itself. A released file is
    /// leased again while it differs from the base.
    fn follow_the_agent(&self, attempt: &mut Attempt) -> Result<()> {
        attempt.tokens = self.db.read(|tx| {
            let mut known = BTreeMap::new();
            for (path, token) in &attempt.tokens {
                if let Some(current) = own_token(tx, &self.loop_id, path)? {
                    known.insert(path.clone(), current);
                } else if tx.last_unlock(&self.loop_id, path)? != Some(UnlockCause::Released) {
                    // Revoked by somebody else; the next check for orders finds it.
                    known.insert(path.clone(), *token);
                }
            }
            Ok::<_, coord_db::Error>(known)
        })?;
        Ok(())
    }

    /// Cancels requests for files that the attempt no longer changes.
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
