//! Landed work as a branch for review: one commit for each work, in a straight line on the user's base.
//!
//! It must never push, and never move a branch that it has not made.

use crate::folders::FolderLock;
use crate::landing::PutOn;
use crate::lfs::publish_lfs;
use crate::repository::{published_note, tree_of};
use crate::transfer::{retried, transfer};
use crate::{CommitHash, CommitInfo, Error, RefExpectation, Repository, Result, Store};

/// Prefix of the references that record pushed commits in the store.
const PUSHED: &str = "refs/coding-loops/pushed";

/// Landed work on a base.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The works, oldest first: as they landed, and the commit of the line.
    pub works: Vec<(CommitInfo, CommitHash)>,
    /// The head of the line. Its files are those of integration.
    pub head: CommitHash,
    /// True if the works could not be put in a straight line, so that the head is integration itself, with its merges.
    pub has_merges: bool,
}

/// Held by the one process that hands work over, until it is dropped.
#[derive(Debug)]
pub struct HandOverTurn {
    _lock: FolderLock,
}

/// The result of [`hand_over`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HandedOver {
    /// The branch is at the head of the line.
    At(CommitHash),
    /// A branch of this name is somebody else's, or was changed since.
    Taken(CommitHash),
}

impl Store {
    /// Waits until no other process hands work over: two at once would move one branch and open two pull requests for it.
    ///
    /// # Errors
    /// [`Error::NotARepository`] if the store was removed.
    pub fn hand_over_turn(&self) -> Result<HandOverTurn> {
        Ok(HandOverTurn { _lock: self.lock(&self.path().join("hand-over.lock"))? })
    }

    /// Puts the works of this state of integration that have a `Test` trailer in a straight line on a base. None if it does
    /// not contain the base. The same works on the same base give the same commits.
    pub fn line_up(&self, base: &CommitHash, integration: &CommitHash) -> Result<Option<Line>> {
        if !self.repository().is_ancestor(base, integration)? {
            return Ok(None);
        }
        let all = self.repository().commits_between(base, integration)?;
        let as_landed = |works: &[CommitInfo]| works.iter().map(|work| (work.clone(), work.hash.clone())).collect();
        let works: Vec<CommitInfo> = all.iter().filter(|commit| commit.trailer("Test").is_some()).cloned().collect();
        let parents = [base].into_iter().chain(all.iter().map(|commit| &commit.hash));
        let is_straight = works.len() == all.len()
            && all.iter().zip(parents).all(|(commit, parent)| commit.parents == std::slice::from_ref(parent));
        if is_straight {
            return Ok(Some(Line { works: as_landed(&works), head: integration.clone(), has_merges: false }));
        }
        Ok(Some(match self.straighten(base, &works, integration)? {
            Some(line) => line,
            None => Line { works: as_landed(&works), head: integration.clone(), has_merges: true },
        }))
    }

    /// The commit of a branch that was pushed to a remote last.
    pub fn pushed(&self, branch: &str) -> Result<Option<CommitHash>> {
        self.repository().resolve(&format!("{PUSHED}/{branch}"))
    }

    /// Records the commit of a branch that was pushed.
    pub fn note_pushed(&self, branch: &str, head: &CommitHash) -> Result<()> {
        self.repository().set_ref(&format!("{PUSHED}/{branch}"), head, &RefExpectation::Any)
    }

    /// None if the works alone do not give the files of integration: those of a merge were changed by hand.
    fn straighten(&self, base: &CommitHash, works: &[CommitInfo], integration: &CommitHash) -> Result<Option<Line>> {
        let mut line = Line { works: Vec::new(), head: base.clone(), has_merges: false };
        for work in works {
            let Some(parent) = work.parents.first() else { return Ok(None) };
            let PutOn::Tree(tree) = self.put_on(&self.change_between(parent, &work.hash)?, &line.head)? else {
                return Ok(None);
            };
            // The base has it already.
            if tree != tree_of(self.git(), &line.head)? {
                line.head = self.commit_as(&work.hash, &tree, &line.head)?;
                line.works.push((work.clone(), line.head.clone()));
            }
        }
        let is_verified = tree_of(self.git(), &line.head)? == tree_of(self.git(), integration)?;
        Ok(is_verified.then_some(line))
    }

    /// A commit of another tree with the message, author and times of an existing one.
    fn commit_as(&self, like: &CommitHash, tree: &CommitHash, parent: &CommitHash) -> Result<CommitHash> {
        let git = self.git();
        let format = "--format=tformat:%an%n%ae%n%aI%n%cn%n%ce%n%cI%n%B";
        let shown = git.call(["log", "-1", "--no-mailmap", "--no-color", "--no-decorate", format, like.as_str(), "--"]).ok()?;
        let shown = String::from_utf8_lossy(&shown);
        let mut lines = shown.splitn(7, '\n');
        let mut call = git.call(["commit-tree", tree.as_str(), "-p", parent.as_str(), "-F", "-"]);
        for name in [
            "GIT_AUTHOR_NAME",
            "GIT_AUTHOR_EMAIL",
            "GIT_AUTHOR_DATE",
            "GIT_COMMITTER_NAME",
            "GIT_COMMITTER_EMAIL",
            "GIT_COMMITTER_DATE",
        ] {
            call = call.env(name, lines.next().unwrap_or_default());
        }
        call.stdin(format!("{}\n", lines.next().unwrap_or_default().trim_end())).hash()
    }
}

/// Creates or moves a branch of the user's repository to a commit of the store. Only a branch that this has made, and that
/// nobody has moved since, is moved.
///
/// # Errors
/// [`Error::BadName`].
pub fn hand_over(store: &Store, user: &Repository, branch: &str, head: &CommitHash) -> Result<HandedOver> {
    let name = user.branch_ref(branch)?;
    let note = published_note(branch);
    let found = user.resolve(&name)?;
    let noted = || store.repository().set_ref(&note, head, &RefExpectation::Any);
    if found.as_ref() == Some(head) {
        noted()?;
        return Ok(HandedOver::At(head.clone()));
    }
    let expected = match found {
        None => RefExpectation::Absent,
        Some(found) if store.repository().resolve(&note)?.as_ref() == Some(&found) => RefExpectation::At(found),
        Some(found) => return Ok(HandedOver::Taken(found)),
    };
    let known: Vec<CommitHash> = user.list_refs("refs/heads")?.into_iter().map(|(_, hash)| hash).collect();
    let _kept =
        retried(|| transfer(store.git(), (&user.git, user.common_dir()), store.path(), std::slice::from_ref(head), &known))?;
    publish_lfs(store.repository(), user, head, &known)?;
    match user.set_ref(&name, head, &expected) {
        // Somebody was faster.
        Err(Error::RefMoved { found: Some(found), .. }) => Ok(HandedOver::Taken(found)),
        Err(error) => Err(error),
        Ok(()) => {
            noted()?;
            Ok(HandedOver::At(head.clone()))
        }
    }
}
