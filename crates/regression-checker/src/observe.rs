//! What is seen of the repository: where the integration branch stands. Nothing is changed here.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use coord_db::Config;
use work_tree::Repository;

/// How long an answer of git is believed while the files behind it look the same.
const BELIEVED: Duration = Duration::from_secs(15);
/// How long after git could not tell it is not asked again.
const FAILED: Duration = Duration::from_secs(2);

/// What is seen outside of the database.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Observation {
    /// The commit that the integration branch points to; none without a repository or the branch.
    pub head: Option<String>,
}

/// Device, inode, size and time of change of a file; none if there is none.
type Look = Option<(u64, u64, u64, i64, i64)>;

/// Looks without asking git each time: a pass follows every commit to the database.
#[derive(Debug, Default)]
pub(crate) struct Eyes {
    repository: Option<Repository>,
    seen: Option<(Vec<Look>, Instant, Observation)>,
    /// Why git could not tell, and when.
    failed: Option<(String, Instant)>,
}

impl Eyes {
    pub(crate) fn look(&mut self, config: &Config) -> Observation {
        let full = format!("refs/heads/{}", config.repository.integration_branch);
        if let Some((_, at)) = &self.failed
            && at.elapsed() < FAILED
        {
            return Observation::default();
        }
        // Before git is asked, so that a move in between is seen the next time.
        let files = self.repository.as_ref().map(|repository| files(repository.common_dir(), &full));
        if let (Some(files), Some((then, at, seen))) = (&files, &self.seen)
            && files == then
            && at.elapsed() < BELIEVED
        {
            return seen.clone();
        }
        match self.ask(config, &full) {
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
                (self.repository, self.seen) = (None, None);
                Observation::default()
            }
        }
    }

    fn ask(&mut self, config: &Config, full: &str) -> work_tree::Result<Observation> {
        let repository = match self.repository.take() {
            Some(repository) if repository.common_dir().is_dir() => repository,
            _ => Repository::open(&config.repository_path())?,
        };
        let head = repository.resolve(full)?.map(|commit| commit.to_string());
        self.repository = Some(repository);
        Ok(Observation { head })
    }
}

/// Whatever way references are kept in, a move replaces one of these files.
fn files(common_dir: &Path, full: &str) -> Vec<Look> {
    let look = |path: &Path| {
        let meta = std::fs::symlink_metadata(path).ok()?;
        Some((meta.dev(), meta.ino(), meta.size(), meta.mtime(), meta.mtime_nsec()))
    };
    [full, "packed-refs", "reftable/tables.list"].iter().map(|name| look(&common_dir.join(name))).collect()
}
