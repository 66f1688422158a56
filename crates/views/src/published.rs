//! The published branch, as it is seen from outside: where it stands against what has landed.

use std::time::{Duration, Instant};

use coding_loop::followed_branch;
use coord_db::Config;
use git::{CommitHash, Distance, Divergence, Layout, Obstacle, Published, Repository, Store, distance, look_at_published};
use serde::Serialize;

use crate::sentence::count;

/// The least time between two looks: each costs several runs of git.
const PAUSE: Duration = Duration::from_secs(5);

/// The branch, for `loopctl status`.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs)]
pub struct Branch {
    pub branch: String,
    /// Why it is not where it should be; none if it is.
    pub problem: Option<String>,
    /// What to do about it.
    pub remedy: Option<String>,
    /// Commits that are on the branch and not on integration, which nobody of ours has put there.
    behind: Option<usize>,
    /// Commits of integration that are not published yet.
    ahead: Option<usize>,
    /// The user's branch that is followed.
    pub followed: Option<Followed>,
}

/// The user's branch that is followed, and how far integration is from it.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs)]
pub struct Followed {
    branch: String,
    /// Commits of it that are not brought in.
    behind: usize,
    /// Commits of integration that it does not have.
    ahead: usize,
}

impl Followed {
    /// In words; none where neither side has anything that the other has not.
    #[must_use]
    pub fn describe(&self) -> Option<String> {
        let commits = |number: usize| count(i64::try_from(number).unwrap_or(i64::MAX), "commit");
        let Self { branch, behind, ahead } = self;
        let text = match (ahead, behind) {
            (0, 0) => return None,
            (ahead, 0) => format!("landed work is {} ahead of {branch}", commits(*ahead)),
            (0, behind) => format!("landed work is {} behind {branch}", commits(*behind)),
            (ahead, behind) => format!("landed work is {} ahead of {branch} and {behind} behind", commits(*ahead)),
        };
        Some(if *behind > 0 { format!("{text}; merge the new commits with loopctl sync") } else { text })
    }
}

/// The branch as it was seen a moment ago.
#[derive(Debug, Default)]
#[allow(missing_docs)]
pub struct Seen {
    branch: Option<Branch>,
    at: Option<Instant>,
}

impl Seen {
    /// The branch; none without a store in which something has landed.
    pub fn look(&mut self, config: &Config) -> Option<&Branch> {
        if self.at.is_none_or(|at| at.elapsed() >= PAUSE) {
            *self = Self { branch: branch(config), at: Some(Instant::now()) };
        }
        self.branch.as_ref()
    }
}

fn branch(config: &Config) -> Option<Branch> {
    let store = Layout::new(config.workspace_root()).open_store().ok()?;
    let user = Repository::open(&config.repository_path()).ok()?;
    let name = config.repository.integration_branch.clone();
    let (problem, remedy) = match look(&store, &user, config) {
        Ok(found) => trouble(&found?, &name).unzip(),
        Err(error) => (Some(format!("cannot read the branch {name}: {error}")), Some("loopctl doctor".to_owned())),
    };
    let apart = distance(&store, &user, &name).ok().flatten();
    let followed = followed_branch(config, &user).ok().and_then(|branch| {
        let Distance { behind, ahead } = distance(&store, &user, &branch).ok()??;
        Some(Followed { branch, behind, ahead })
    });
    let (behind, ahead) = apart.map(|apart| (apart.behind, apart.ahead)).unzip();
    Some(Branch { branch: name, problem, remedy, behind, ahead, followed })
}

/// What publishing would find; none before anything has landed.
///
/// # Errors
/// If git fails.
pub fn look(store: &Store, user: &Repository, config: &Config) -> git::Result<Option<Published>> {
    if store.integration()?.is_none() {
        return Ok(None);
    }
    look_at_published(store, user, &config.repository.integration_branch).map(Some)
}

/// The user's branch beside which git cannot have one of this name.
pub fn in_the_way(user: &Repository, name: &str) -> Option<String> {
    let found = user.branch_in_the_way(&format!("refs/heads/{name}")).ok()??;
    Some(short(&found).to_owned())
}

/// Why the branch cannot be published beside another one.
#[must_use]
pub fn cannot_have(name: &str, other: &str) -> String {
    format!("git does not allow the branch {name} beside your branch {other}")
}

fn short(name: &str) -> &str {
    name.strip_prefix("refs/heads/").unwrap_or(name)
}

/// What is the matter with the branch of this name and what to do about it; none if it is where it should be, or will be
/// brought there by the next loop.
#[must_use]
pub fn trouble(found: &Published, name: &str) -> Option<(String, String)> {
    match found {
        Published::Already(_) | Published::Moved { .. } => None,
        Published::Waiting(obstacle) => {
            let (what, remedy) = match obstacle {
                Obstacle::CheckedOut(path) => (
                    format!("it is checked out at {}", path.display()),
                    "switch that checkout to another branch; the loops continue meanwhile".to_owned(),
                ),
                Obstacle::Locked(path) => (
                    format!("git holds the lock {}", path.display()),
                    "wait until that git ends, or remove the file if none runs".to_owned(),
                ),
                Obstacle::NameTaken(other) => {
                    (cannot_have(name, short(other)), "rename that branch; the loops continue meanwhile".to_owned())
                }
            };
            Some((format!("landed work is not published on the branch {name}: {what}"), remedy))
        }
        Published::Diverged(divergence) => {
            let asked = "answer the question in loopctl decisions: publish again";
            let remedy = match divergence.found {
                Some(_) => format!("{asked}, or accept the change; git branch NEW {name} keeps its commits"),
                None => asked.to_owned(),
            };
            Some((diverged(divergence, name), remedy))
        }
    }
}

fn diverged(divergence: &Divergence, name: &str) -> String {
    let at = divergence.found.as_ref().map(CommitHash::short).unwrap_or_default();
    match (&divergence.symbolic, &divergence.found) {
        (Some(target), _) => format!("somebody else made the branch {name} a symbolic ref to {target}"),
        (None, None) => format!("somebody else deleted the branch {name}"),
        (None, Some(_)) if divergence.contains_ours => format!("somebody else committed on the branch {name}, now at {at}"),
        (None, Some(_)) => format!("somebody else moved the branch {name} to {at}"),
    }
}
