//! The published branch: a copy of integration in the user's repository, the only thing written there.
//!
//! It must never push, run a hook of the user, or touch HEAD, index, config, stash, other references or files.

use std::fs;
use std::path::{Path, PathBuf};

use crash_point::{Point, reach};

use crate::lfs::publish_lfs;
use crate::refs;
use crate::repository::{published_note, short_name};
use crate::transfer::{missing, remove_abandoned, retried, transfer};
use crate::{CommitHash, Error, RefExpectation, Repository, Result, Store};

/// The result of publishing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Published {
    /// The branch was moved.
    Moved {
        /// The old commit; none if the branch is new.
        from: Option<CommitHash>,
        /// The new commit.
        to: CommitHash,
    },
    /// The branch was already there.
    Already(CommitHash),
    /// The branch cannot move now; try again later.
    Waiting(Obstacle),
    /// Somebody else has moved it: nothing was changed.
    Diverged(Divergence),
}

/// The reason why the branch cannot move.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// It is checked out here.
    CheckedOut(PathBuf),
    /// Another git holds the lock of the branch; a lock older than five minutes is removed.
    Locked(PathBuf),
    /// Another branch prevents its name, such as `coding-loops` prevents `coding-loops/integration`.
    NameTaken(String),
}

/// The unexpected state of the published branch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Divergence {
    /// The head of the branch; none if it was deleted, or names a missing object.
    pub found: Option<CommitHash>,
    /// Its target, if it was made a symbolic reference.
    pub symbolic: Option<String>,
    /// The commit published last.
    pub last: Option<CommitHash>,
    /// True if it contains the commit to publish: somebody has committed on top of it.
    pub contains_ours: bool,
}

/// Moves a branch of the user's repository to the store's integration.
///
/// The commit published last is recorded in the store; a branch that is elsewhere is not touched, unless it is between
/// that commit and integration. See [`republish`] for resetting it.
///
/// # Errors
/// [`Error::UnknownRevision`] if integration has not started, [`Error::BadName`].
pub fn publish(store: &Store, user: &Repository, branch: &str) -> Result<Published> {
    settled(|| bring(store, user, branch, Wish::Publish))
}

/// The result that [`publish`] would have, without a change; [`Published::Moved`] if it would move the branch.
pub fn look_at_published(store: &Store, user: &Repository, branch: &str) -> Result<Published> {
    settled(|| bring(store, user, branch, Wish::Look))
}

/// Like [`publish`], but overwrites what somebody else has put there, only if it is still what the human has seen.
pub fn republish(store: &Store, user: &Repository, branch: &str, over: &Divergence) -> Result<Published> {
    bring(store, user, branch, Wish::Over(over))
}

/// Repeats the check if the branch seems to have been moved by somebody else, because another process may just be
/// publishing. A divergence counts if two consecutive checks find it.
fn settled(mut look: impl FnMut() -> Result<Published>) -> Result<Published> {
    const MAX_LOOKS: u32 = 20;
    let mut found = look()?;
    for _ in 1..MAX_LOOKS {
        if !matches!(found, Published::Diverged(_)) {
            break;
        }
        let again = look()?;
        if again == found {
            break;
        }
        found = again;
    }
    Ok(found)
}

/// The intention of the caller.
#[derive(Clone, Copy, PartialEq)]
enum Wish<'a> {
    Look,
    Publish,
    /// Overwrite this state too.
    Over(&'a Divergence),
}

fn bring(store: &Store, user: &Repository, branch: &str, wish: Wish<'_>) -> Result<Published> {
    let name = user.branch_ref(branch)?;
    let note = published_note(branch);
    // The branch is read first: what others publish meanwhile is not newer than integration.
    let state = state_of(user, &name)?;
    let ours = store.integration()?;
    let ours = ours.ok_or_else(|| Error::UnknownRevision { rev: store.integration_ref().to_owned() })?;
    let last = store.repository().resolve(&note)?;
    if wish != Wish::Look {
        remove_abandoned(store.path(), &[store.path(), user.common_dir()]);
    }
    let noted = |commit: &CommitHash| store.repository().set_ref(&note, commit, &RefExpectation::Any);

    if state.symbolic.is_none() && state.found.as_ref() == Some(&ours) && !state.broken {
        if wish != Wish::Look && last.as_ref() != Some(&ours) {
            noted(&ours)?;
        }
        return Ok(Published::Already(ours));
    }
    let divergence = Divergence {
        found: state.found.clone().filter(|_| !state.broken),
        symbolic: state.symbolic.clone(),
        last: last.clone(),
        contains_ours: !state.broken && state.found.as_ref().is_some_and(|found| contains(user, found, &ours)),
    };
    if !is_expected(store, &state, last.as_ref(), &ours)? && wish != Wish::Over(&divergence) {
        return Ok(Published::Diverged(divergence));
    }
    if let Some(path) = user.branch_checked_out(short_name(&name).as_str())? {
        return Ok(Published::Waiting(Obstacle::CheckedOut(path)));
    }
    if let Some(taken) = user.branch_in_the_way(&name)? {
        return Ok(Published::Waiting(Obstacle::NameTaken(taken)));
    }
    if wish == Wish::Look {
        return Ok(Published::Moved { from: divergence.found, to: ours });
    }
    // Objects that stay reachable in the user's repository are not sent again. If nothing is known to be intact, all
    // are sent.
    let mut known: Vec<CommitHash> = state.found.iter().filter(|_| !state.broken).cloned().collect();
    if known.is_empty() && !state.broken {
        known = user.list_refs("refs/heads")?.into_iter().map(|(_, hash)| hash).collect();
        let lost = missing(&user.git, &known)?;
        known.retain(|hash| !lost.contains(hash));
    }
    let _kept =
        retried(|| transfer(store.git(), (&user.git, user.common_dir()), store.path(), std::slice::from_ref(&ours), &known))?;
    publish_lfs(store.repository(), user, &ours, &known)?;
    reach(Point::PublishBrought);
    if state.unreadable {
        // The file of the reference contains no hash (after a crash of the machine): git can neither read nor move it.
        let file = user.common_dir().join(&name);
        fs::remove_file(&file).map_err(Error::io("remove", &file))?;
    }
    let expected = match state.found.as_ref().filter(|_| !state.unreadable) {
        None => RefExpectation::Absent,
        Some(_) if state.symbolic.is_some() => RefExpectation::Any,
        Some(found) => RefExpectation::At(found.clone()),
    };
    match user.set_ref(&name, &ours, &expected) {
        Ok(()) => {
            reach(Point::PublishMoved);
            noted(&ours)?;
            Ok(Published::Moved { from: divergence.found, to: ours })
        }
        Err(Error::RefMoved { found, .. }) => Ok(Published::Diverged(Divergence { found, contains_ours: false, ..divergence })),
        Err(error) => match lock_of(user, &name) {
            Some(lock) => Ok(Published::Waiting(Obstacle::Locked(lock))),
            None => Err(error),
        },
    }
}

/// The state of the branch in the user's repository.
struct State {
    found: Option<CommitHash>,
    symbolic: Option<String>,
    /// It names a missing object, or nothing.
    broken: bool,
    /// git cannot read it.
    unreadable: bool,
}

fn state_of(user: &Repository, name: &str) -> Result<State> {
    if let Some(found) = refs::target(user.common_dir(), name) {
        let broken = !missing(&user.git, found.as_slice())?.is_empty();
        return Ok(State { found, symbolic: None, broken, unreadable: false });
    }
    let call = user.git.call(["symbolic-ref", "--quiet", name]);
    let answer = call.answer()?;
    if answer.code == Some(0) {
        let target = String::from_utf8_lossy(&answer.stdout).trim().to_owned();
        let found = user.resolve(name)?;
        return Ok(State { broken: found.is_none(), found, symbolic: Some(target), unreadable: false });
    }
    // Not peeled to a commit, because the object may be missing.
    let found = user.git.call(["rev-parse", "--verify", "--quiet", "--end-of-options", name]).answer()?;
    let found = CommitHash::new(String::from_utf8_lossy(&found.stdout).trim()).ok();
    let unreadable = found.is_none() && user.common_dir().join(name).is_file();
    let broken = unreadable
        || match &found {
            Some(hash) => !missing(&user.git, std::slice::from_ref(hash))?.is_empty(),
            None => false,
        };
    Ok(State { found, symbolic: None, broken, unreadable })
}

/// True if nobody else has moved the branch: it is where it was published last, or between there and integration (the
/// record is written after the branch has moved).
fn is_expected(store: &Store, state: &State, last: Option<&CommitHash>, ours: &CommitHash) -> Result<bool> {
    if state.symbolic.is_some() {
        return Ok(false);
    }
    let Some(found) = &state.found else {
        // An empty reference has no content to lose. A deleted one was deleted by somebody.
        return Ok(state.unreadable || last.is_none());
    };
    if Some(found) == last || found == ours {
        return Ok(true);
    }
    if !store.missing(std::slice::from_ref(found))?.is_empty() {
        return Ok(false);
    }
    let repository = store.repository();
    let after_last = match last {
        Some(last) => repository.is_ancestor(last, found)?,
        None => true,
    };
    Ok(after_last && repository.is_ancestor(found, ours)?)
}

fn contains(user: &Repository, found: &CommitHash, ours: &CommitHash) -> bool {
    // The user's repository may not have our commit at all.
    missing(&user.git, std::slice::from_ref(ours)).is_ok_and(|lost| lost.is_empty())
        && user.is_ancestor(ours, found).unwrap_or(false)
}

impl Repository {
    /// The full name of a branch that prevents a branch of this full name: `coding-loops` prevents
    /// `coding-loops/integration`, or the other way round.
    pub fn branch_in_the_way(&self, name: &str) -> Result<Option<String>> {
        let above = Path::new(name).ancestors().skip(1).map(|above| above.to_string_lossy().into_owned());
        for above in above.take_while(|above| above.len() > "refs/heads".len()) {
            if self.read_ref(&above)?.is_some() {
                return Ok(Some(above));
            }
        }
        let below = self.list_refs(name)?.into_iter().map(|(found, _)| found);
        Ok(below.into_iter().find(|found| found != name))
    }
}

fn lock_of(user: &Repository, name: &str) -> Option<PathBuf> {
    let lock = user.common_dir().join(format!("{name}.lock"));
    lock.exists().then_some(lock)
}
