//! What is seen of the store: where integration stands. Nothing is changed here.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use coord_db::{Config, TestId};
use git::{CommitHash, Layout, Repository, Store};

/// How long an answer of git is believed while the files behind it look the same.
const BELIEVED: Duration = Duration::from_secs(15);
/// How long after git could not tell it is not asked again.
const FAILED: Duration = Duration::from_secs(2);

/// What is seen outside of the database.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Observation {
    /// The commit that the integration branch points to; none before there is a store with the branch.
    pub head: Option<String>,
    /// Passed tests whose commit is not on the branch.
    pub lost: Vec<TestId>,
}

/// Device, inode, size and time of change of a file; none if there is none.
type Look = Option<(u64, u64, u64, i64, i64)>;

/// What passed tests were compared with a head, and which of them it does not hold.
#[derive(Debug)]
struct Compared {
    head: String,
    passed: Vec<(TestId, String)>,
    lost: Vec<TestId>,
}

/// Looks without asking git each time: a pass follows every commit to the database.
#[derive(Debug, Default)]
pub(crate) struct Eyes {
    store: Option<Store>,
    seen: Option<(Vec<Look>, Instant, Observation)>,
    /// The head and the passed tests for which it was last asked what is lost, and the answer.
    compared: Option<Compared>,
    /// Why git could not tell, and when.
    failed: Option<(String, Instant)>,
}

impl Eyes {
    /// Where the branch stands, and which passed tests it does not hold any more. `passed` gives these with their commits; it is
    /// asked only where the answer can differ from the last one.
    pub(crate) fn look(
        &mut self,
        config: &Config,
        passed: impl FnOnce() -> coord_db::Result<Vec<(TestId, String)>>,
    ) -> coord_db::Result<Observation> {
        let mut observation = self.look_at_head(config);
        let (Some(head), Some(store)) = (&observation.head, &self.store) else { return Ok(observation) };
        // What a branch holds, it holds as long as it stands where it is.
        let all_there = self.compared.as_ref().is_some_and(|last| last.head == *head && last.lost.is_empty());
        if !all_there {
            let passed = passed()?;
            let known = self.compared.as_ref().filter(|last| last.head == *head && last.passed == passed);
            let lost = match known {
                Some(last) => last.lost.clone(),
                None => lost(store.repository(), head, &passed).unwrap_or_else(|error| {
                    tracing::warn!(%error, "whether passed tests are still on the integration branch cannot be seen");
                    Vec::new()
                }),
            };
            self.compared = Some(Compared { head: head.clone(), passed, lost: lost.clone() });
            observation.lost = lost;
        }
        Ok(observation)
    }

    fn look_at_head(&mut self, config: &Config) -> Observation {
        if let Some((_, at)) = &self.failed
            && at.elapsed() < FAILED
        {
            return Observation::default();
        }
        // Before git is asked, so that a move in between is seen the next time.
        let files = self.store.as_ref().map(files);
        if let (Some(files), Some((then, at, seen))) = (&files, &self.seen)
            && files == then
            && at.elapsed() < BELIEVED
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
                    tracing::warn!(error, "the integration branch cannot be read");
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
    // A row that another tool wrote can name anything.
    let commits: Vec<CommitHash> = passed.iter().filter_map(|(_, commit)| CommitHash::new(commit).ok()).collect();
    let lost = repository.not_contained(&commits, &head)?;
    Ok(passed
        .iter()
        .filter(|(_, commit)| lost.iter().any(|lost| lost.as_str() == commit))
        .map(|(test, _)| test.clone())
        .collect())
}

/// Whatever way references are kept in, a move replaces one of these files.
fn files(store: &Store) -> Vec<Look> {
    let look = |path: &Path| {
        let meta = std::fs::symlink_metadata(path).ok()?;
        Some((meta.dev(), meta.ino(), meta.size(), meta.mtime(), meta.mtime_nsec()))
    };
    [store.integration_ref(), "packed-refs", "reftable/tables.list"].iter().map(|name| look(&store.path().join(name))).collect()
}
