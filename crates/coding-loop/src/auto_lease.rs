//! Leases for an agent that knows nothing of leases: each file is leased when it first changes. If another loop has it, the
//! loop queues for it, the agent works on, and landing waits for the grant.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use coord_db::{AcquireRequest, LeasePath, Waiting};
use globset::{Glob, GlobSet, GlobSetBuilder};
use notify::{EventKind, RecursiveMode, Watcher as _};
use tokio::sync::Notify;

use crate::Result;
use crate::context::{Attempt, Context};

/// How long a queued acquire waits unless its loop says that it still wants it.
const WAIT_SECONDS: i64 = 600;

/// Files that two may change.
pub(crate) fn ignored(patterns: &[String]) -> GlobSet {
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        // The settings were checked when they were read.
        for glob in [pattern.clone(), format!("**/{pattern}")] {
            if let Ok(glob) = Glob::new(&glob) {
                set.add(glob);
            }
        }
    }
    set.build().unwrap_or_else(|_| GlobSet::empty())
}

/// Tells when something in a worktree changes.
pub(crate) struct Changes {
    notify: Arc<Notify>,
    _watcher: Option<notify::RecommendedWatcher>,
}

impl Changes {
    pub(crate) fn of(root: &Path) -> Self {
        let notify = Arc::new(Notify::new());
        let heard = Arc::clone(&notify);
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            let changed = event.is_ok_and(|event| {
                !matches!(event.kind, EventKind::Access(_))
                    && (event.paths.is_empty() || event.paths.iter().any(|path| !in_git(path)))
            });
            if changed {
                heard.notify_one();
            }
        })
        .and_then(|mut watcher| {
            watcher.watch(root, RecursiveMode::Recursive)?;
            Ok(watcher)
        })
        .inspect_err(|error| tracing::warn!(%error, "cannot watch the worktree; looking at intervals instead"))
        .ok();
        Self { notify, _watcher: watcher }
    }

    /// Returns soon after a change, in any case after two seconds. A burst of changes is one.
    pub(crate) async fn next(&self) {
        if tokio::time::timeout(Duration::from_secs(2), self.notify.notified()).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(60)).await;
        }
    }
}

fn in_git(path: &Path) -> bool {
    path.components().any(|part| part.as_os_str() == ".git")
}

/// The path as something that can be leased, or why not.
pub(crate) fn lease_path(path: &Path) -> Result<LeasePath, String> {
    let text = path.to_str().ok_or_else(|| format!("{} is not UTF-8 and cannot be leased", path.display()))?;
    text.parse().map_err(|error: coord_db::Error| error.to_string())
}

impl Context<'_> {
    fn request(&self, attempt: &Attempt, path: LeasePath) -> AcquireRequest {
        AcquireRequest {
            loop_id: self.loop_id.clone(),
            paths: vec![path],
            ttl_seconds: self.config.lease.ttl_seconds,
            reason: Some(format!("changed for {}", attempt.test.id)),
            test_id: Some(attempt.test.id.clone()),
            automatic: true,
        }
    }

    /// Leases, or queues for, every one of these files that the attempt neither holds nor waits for.
    /// What cannot be leased is given back with the reason.
    pub(crate) fn lease_files(&self, attempt: &mut Attempt, files: &[PathBuf]) -> Result<Vec<String>> {
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
            let request = self.request(attempt, path);
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

    /// A lease that the agent took by itself counts as well.
    fn adopt_own_lease(&self, attempt: &mut Attempt, path: &LeasePath) -> Result<bool> {
        let own = self.db.read(|tx| tx.leases_overlapping(path))?.into_iter().find(|lease| {
            lease.locked_by == self.loop_id.as_str() && (lease.file_path == *path || lease.file_path.is_subtree())
        });
        if let Some(lease) = own {
            attempt.tokens.insert(path.clone(), lease.fencing_token);
            return Ok(true);
        }
        Ok(false)
    }

    /// Leases whatever the agent has changed so far.
    pub(crate) fn lease_changes(&self, attempt: &mut Attempt) -> Result<Vec<String>> {
        let files = attempt.worktree.changed_since(&attempt.base)?;
        self.lease_files(attempt, &files)
    }

    /// Asks again for what is still being waited for.
    pub(crate) fn ask_again(&self, attempt: &mut Attempt) -> Result<()> {
        let silent = self.config.lease.silent_waiter_seconds;
        let mut still = Vec::new();
        for (id, request) in std::mem::take(&mut attempt.waiting) {
            match self.db.write(|tx| tx.ask_again(&id, &request, silent))? {
                Waiting::Granted(grant) => {
                    tracing::info!(path = %request.paths[0], "got the lease");
                    attempt.tokens.extend(grant.paths.into_iter().map(|path| (path, grant.fencing_token)));
                }
                Waiting::Queued(_) => still.push((id, request)),
                Waiting::GaveUp(_) => {
                    let (id, answer) =
                        self.db.write(|tx| tx.acquire_or_queue(&request, tx.now().plus_seconds(WAIT_SECONDS), silent))?;
                    match (id, answer) {
                        (_, Waiting::Granted(grant)) => {
                            attempt.tokens.extend(grant.paths.into_iter().map(|path| (path, grant.fencing_token)));
                        }
                        (Some(id), _) => still.push((id, request)),
                        (None, _) => {}
                    }
                }
            }
        }
        attempt.waiting = still;
        Ok(())
    }

    /// Says that the loop lives: its beat, its leases, its waits.
    pub(crate) fn beat(&self, attempt: Option<&Attempt>) -> Result<()> {
        self.db.write_quietly(|tx| {
            if self.managed {
                tx.beat(&coord_db::ComponentId::from(&self.loop_id), coord_db::HealthStatus::Healthy, None)?;
            }
            tx.renew_all(&self.loop_id, self.config.lease.ttl_seconds)?;
            for (id, _) in attempt.iter().flat_map(|attempt| &attempt.waiting) {
                tx.extend_request(id, tx.now().plus_seconds(WAIT_SECONDS))?;
            }
            Ok::<_, coord_db::Error>(())
        })?;
        Ok(())
    }

    /// True while every lease of the attempt stands under its token.
    pub(crate) fn leases_stand(&self, attempt: &Attempt) -> Result<bool> {
        self.db.read(|tx| {
            for (path, token) in &attempt.tokens {
                if !tx.holds(&self.loop_id, path, *token)? {
                    return Ok(false);
                }
            }
            Ok(true)
        })
    }
}
