//! Observes the head of integration in the store. It must change nothing but what it brings from the remote.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use coord_db::{Config, TestId};
use git::{CommitHash, Layout, Repository, Store};
use supervisor::Waker;

use crate::refresh::Refresher;

/// How long a result of git is cached while the files behind it are unchanged.
const CACHED: Duration = Duration::from_secs(15);
/// How long git is not run again after an error.
const FAILED: Duration = Duration::from_secs(2);

/// The state outside the database.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Observation {
    /// The head of the integration branch; none before the store has one.
    pub head: Option<String>,
    /// The passed tests whose commits are not on the branch.
    pub lost: Vec<TestId>,
}

/// Device, inode, size and modification time of a file; none if there is no file.
type FileStamp = Option<(u64, u64, u64, i64, i64)>;

/// The passed tests that were compared with a head, and those of them that it does not contain.
#[derive(Debug)]
struct Compared {
    head: String,
    passed: Vec<(TestId, String)>,
    lost: Vec<TestId>,
}

/// Observes the store without running git each time, because each commit to the database causes a pass.
#[derive(Debug, Default)]
pub(crate) struct Observer {
    store: Option<Store>,
    seen: Option<(Vec<FileStamp>, Instant, Observation)>,
    /// The last comparison.
    compared: Option<Compared>,
    /// The last error of git, and its time.
    failed: Option<(String, Instant)>,
    refresher: Refresher,
}

impl Observer {
    /// Makes it look again at everything.
    pub(crate) fn forget(&mut self) {
        (self.store, self.seen, self.compared, self.failed) = (None, None, None, None);
    }

    pub(crate) fn attach(&mut self, waker: Waker) {
        self.refresher.attach(waker);
    }

    /// The head of the branch, and the passed tests that it does not contain. `passed` returns the passed tests with
    /// their commits; it is called only if the result may have changed.
    pub(crate) fn look(
        &mut self,
        config: &Config,
        passed: impl FnOnce() -> coord_db::Result<Vec<(TestId, String)>>,
    ) -> coord_db::Result<Observation> {
        let mut observation = self.look_at_head(config);
        let Some(store) = &self.store else { return Ok(observation) };
        let Some(head) = &observation.head else {
            // The first work may have landed on another machine.
            self.refresher.look(store, !passed()?.is_empty());
            return Ok(observation);
        };
        // An unmoved branch still contains everything.
        let all_there = self.compared.as_ref().is_some_and(|last| last.head == *head && last.lost.is_empty());
        if !all_there {
            let passed = passed()?;
            let known = self.compared.as_ref().filter(|last| last.head == *head && last.passed == passed);
            let lost = match known {
                Some(last) => last.lost.clone(),
                None => {
                    self.refresher.begin_to_miss();
                    lost(store.repository(), head, &passed).unwrap_or_else(|error| {
                        tracing::warn!(%error, "cannot check whether passed tests are still on the integration branch");
                        Vec::new()
                    })
                }
            };
            self.compared = Some(Compared { head: head.clone(), passed, lost: lost.clone() });
            observation.lost = lost;
        }
        if !self.refresher.look(store, !observation.lost.is_empty()) {
            observation.lost.clear();
        }
        Ok(observation)
    }

    fn look_at_head(&mut self, config: &Config) -> Observation {
        if let Some((_, at)) = &self.failed
            && at.elapsed() < FAILED
        {
            return Observation::default();
        }
        // Read before git runs, so that a move in between is detected the next time.
        let files = self.store.as_ref().map(files);
        if let (Some(files), Some((then, at, seen))) = (&files, &self.seen)
            && files == then
            && at.elapsed() < CACHED
        {
            return seen.clone();
        }
        match self.ask(config) {
            Ok(observation) => {
                self.failed = None;
                self.seen = files.map(|files| (files, Instant::now(), observation.clone()));
                observation
            }
            Err(error) => {
                let error = error.to_string();
                if self.failed.as_ref().is_none_or(|(before, _)| *before != error) {
                    tracing::warn!(error, "cannot read the integration branch");
                }
                self.failed = Some((error, Instant::now()));
                (self.store, self.seen) = (None, None);
                Observation::default()
            }
        }
    }

    fn ask(&mut self, config: &Config) -> git::Result<Observation> {
        let store = match self.store.take().filter(|store| store.path().is_dir()) {
            Some(store) => store,
            None => {
                let layout = Layout::new(config.workspace_root());
                // Nothing has landed yet.
                if layout.store_path().symlink_metadata().is_err() {
                    return Ok(Observation::default());
                }
                layout.open_store()?
            }
        };
        let head = store.integration()?.map(|commit| commit.to_string());
        self.store = Some(store);
        Ok(Observation { head, lost: Vec::new() })
    }
}

fn lost(repository: &Repository, head: &str, passed: &[(TestId, String)]) -> git::Result<Vec<TestId>> {
    let Ok(head) = CommitHash::new(head) else { return Ok(Vec::new()) };
    // A row of an external tool may contain anything.
    let commits: Vec<CommitHash> = passed.iter().filter_map(|(_, commit)| CommitHash::new(commit).ok()).collect();
    let lost = repository.not_contained(&commits, &head)?;
    Ok(passed
        .iter()
        .filter(|(_, commit)| lost.iter().any(|lost| lost.as_str() == commit))
        .map(|(test, _)| test.clone())
        .collect())
}

/// A move of the branch replaces one of these files, whatever the format of references.
fn files(store: &Store) -> Vec<FileStamp> {
    let look = |path: &Path| {
        let meta = std::fs::symlink_metadata(path).ok()?;
        Some((meta.dev(), meta.ino(), meta.size(), meta.mtime(), meta.mtime_nsec()))
    };
    [store.integration_ref(), "packed-refs", "reftable/tables.list"].iter().map(|name| look(&store.path().join(name))).collect()
}
