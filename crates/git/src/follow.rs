//! The user's branch that integration follows: its new commits, and the result of merging them.
//!
//! It must not move integration, nor change anything in the user's repository. Each step of integration keeps the
//! previous step as its first parent, so that the first parents of integration are the states that were judged.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use crate::call::{Git, fields};
use crate::difference::{Difference, differences};
use crate::landing::by_path;
use crate::repository::{commit_tree, tree_of};
use crate::{Change, CommitHash, Error, PutOn, RefExpectation, Repository, Result, Store};

/// Maximum number of commits on each side that are searched for a common state.
const MAX_STATES: usize = 200;
/// Maximum number of file merges to find one.
const MAX_MERGES: usize = 200;

/// The new commits of a branch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incoming {
    /// Number of commits of the branch that integration does not contain.
    pub commits: usize,
    /// Commits that were brought in earlier are no longer on the branch: its history was rewritten.
    pub is_rewritten: bool,
    /// The common state with which both sides are compared; none for unrelated histories.
    pub base: Option<CommitHash>,
    /// The next step.
    pub step: FollowStep,
}

/// How integration takes in the new commits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FollowStep {
    /// Nothing is new: integration contains all commits, or all content, of the branch.
    Nothing,
    /// The branch contains integration: integration moves to it.
    FastForward,
    /// A merge commit with this tree.
    Merge(CommitHash),
    /// These files were changed on both sides and do not merge.
    Conflict(Vec<PathBuf>),
    /// The histories are unrelated.
    Unrelated,
}

/// The distance between the user's branch and integration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Distance {
    /// Number of commits of the user's branch that integration does not contain.
    pub behind: usize,
    /// Number of commits of integration that the user's branch does not contain.
    pub ahead: usize,
}

impl Store {
    /// The head of a followed branch (short name) when its commits were brought in last; workspaces see it too.
    pub fn followed(&self, branch: &str) -> Result<Option<CommitHash>> {
        self.repository().resolve(&self.repository().branch_ref(branch)?)
    }

    /// Records that the commits of a followed branch are on integration up to this one.
    pub fn note_followed(&self, branch: &str, commit: &CommitHash) -> Result<()> {
        let name = self.repository().branch_ref(branch)?;
        if self.is_ours(&name) {
            return Err(Error::BadName { name: branch.to_owned() });
        }
        self.repository().set_ref(&name, commit, &RefExpectation::Any)
    }

    /// Compares `theirs`, a commit of the user in the store, with integration at `ours`. `last` is the head of the
    /// branch when it was brought in last.
    pub fn incoming(&self, ours: &CommitHash, theirs: &CommitHash, last: Option<&CommitHash>) -> Result<Incoming> {
        let repository = self.repository();
        let last = match last {
            Some(last) if repository.is_ancestor(last, ours)? => Some(last),
            _ => None,
        };
        let is_rewritten = match last {
            Some(last) => !repository.is_ancestor(last, theirs)?,
            None => false,
        };
        let commits = count(self.git(), &[&format!("{ours}..{theirs}")])?;
        let incoming = |base, step| Incoming { commits, is_rewritten, base, step };
        if commits == 0 {
            return Ok(incoming(Some(theirs.clone()), FollowStep::Nothing));
        }
        let (our_tree, their_tree) = (repository.tree_of(ours)?, repository.tree_of(theirs)?);
        if repository.is_ancestor(ours, theirs)? {
            let step = if our_tree == their_tree {
                FollowStep::Nothing
            } else if self.is_first_parent(ours, theirs)? {
                FollowStep::FastForward
            } else {
                FollowStep::Merge(their_tree)
            };
            return Ok(incoming(Some(ours.clone()), step));
        }
        let Some(merge_base) = repository.merge_base(ours, theirs)? else {
            return Ok(incoming(None, FollowStep::Unrelated));
        };
        let mut bases: Vec<CommitHash> = last.filter(|_| is_rewritten).into_iter().cloned().collect();
        bases.push(self.shared_state(&merge_base, ours, theirs)?.unwrap_or(merge_base));
        let mut step = FollowStep::Unrelated;
        for base in &bases {
            step = match self.merge(base, ours, theirs)? {
                PutOn::Tree(tree) => return Ok(incoming(Some(base.clone()), FollowStep::Merge(tree))),
                PutOn::Conflict(files) => FollowStep::Conflict(files),
            };
        }
        Ok(incoming(bases.pop(), step))
    }

    /// The files of `theirs` whose changes since `base` a tree (or commit) could contain unchanged but does not.
    pub fn left_out(&self, base: &CommitHash, theirs: &CommitHash, result: &CommitHash) -> Result<Vec<PathBuf>> {
        let change = self.change_between(base, theirs)?;
        let result = tree_of(self.git(), result)?;
        let mut left = Vec::new();
        for path in &change.paths {
            let one = self.only(&change, path)?;
            if matches!(self.put_on_tree(&one, &result)?, PutOn::Tree(tree) if tree != result) {
                left.push(path.clone());
            }
        }
        Ok(left)
    }

    /// Merges two commits with a given common state, with detection of renames.
    fn merge(&self, base: &CommitHash, ours: &CommitHash, theirs: &CommitHash) -> Result<PutOn> {
        let merged = self.put_on(&self.change_between(base, theirs)?, ours)?;
        let PutOn::Conflict(files) = &merged else { return Ok(merged) };
        let of = |commit| Ok::<_, Error>(by_path(differences(self.git(), base, commit)?));
        let (our_changes, their_changes) = (of(ours)?, of(theirs)?);
        let is_deleted = |changes: &BTreeMap<PathBuf, Difference>, path: &PathBuf| {
            changes.get(path).is_some_and(|change| change.new.is_none())
        };
        if !files.iter().all(|path| is_deleted(&our_changes, path) || is_deleted(&their_changes, path)) {
            return Ok(merged);
        }
        Ok(self.merge_with_renames(base, ours, theirs)?.map_or(merged, PutOn::Tree))
    }

    /// git's merge, which detects renames; none if it finds a conflict, or git is too old.
    fn merge_with_renames(&self, base: &CommitHash, ours: &CommitHash, theirs: &CommitHash) -> Result<Option<CommitHash>> {
        let base = commit_tree(self.git(), &tree_of(self.git(), base)?, &[], "base")?;
        let side = |commit| commit_tree(self.git(), &tree_of(self.git(), commit)?, &[&base], "side");
        let (left, right) = (side(ours)?, side(theirs)?);
        let call = self.git().call(["merge-tree", "--write-tree", "-z", "--no-messages", left.as_str(), right.as_str()]);
        let answer = call.env("GIT_ATTR_SOURCE", ours.as_str()).answer()?;
        let tree = fields(&answer.stdout).next().map(|field| String::from_utf8_lossy(field).trim().to_owned());
        Ok(tree.filter(|_| answer.code == Some(0)).and_then(|tree| CommitHash::new(tree).ok()))
    }

    /// The newest state of integration whose content the other side contains, whatever the histories say: our work that
    /// was squashed, rebased or cherry-picked into it. None if there is none beyond the merge base.
    fn shared_state(&self, base: &CommitHash, ours: &CommitHash, theirs: &CommitHash) -> Result<Option<CommitHash>> {
        let descendants = self.states(&["--ancestry-path"], base, ours)?;
        let descendants: BTreeSet<CommitHash> = descendants.into_iter().map(|(commit, _)| commit).collect();
        let mut own = self.states(&["--first-parent"], theirs, ours)?;
        own.retain(|(commit, _)| descendants.contains(commit));
        let others = self.states(&[], ours, theirs)?;
        let trees: BTreeSet<&CommitHash> = others.iter().map(|(_, tree)| tree).collect();
        let same = own.iter().position(|(_, tree)| trees.contains(tree));
        // A newer state can only be found by content.
        let newer = self.contained_state(base, &own[..same.unwrap_or(own.len())], &others)?;
        Ok(newer.or_else(|| same.map(|at| own[at].0.clone())))
    }

    fn contained_state(&self, base: &CommitHash, own: &[State], others: &[State]) -> Result<Option<CommitHash>> {
        let base_tree = tree_of(self.git(), base)?;
        let mut changed_by_others = Vec::new();
        for (_, tree) in others {
            changed_by_others.push((tree, by_path(differences(self.git(), &base_tree, tree)?)));
        }
        let mut merges = 0;
        for (commit, tree) in own {
            let ours = differences(self.git(), &base_tree, tree)?;
            for (their_tree, theirs) in changed_by_others.iter().filter(|_| !ours.is_empty()) {
                if !ours.iter().all(|change| theirs.contains_key(&change.path)) {
                    continue;
                }
                let mut is_contained = true;
                for change in &ours {
                    let their = &theirs[&change.path].new;
                    if *their == change.new {
                        continue;
                    }
                    merges += 1;
                    let may_merge = their.is_some() && merges <= MAX_MERGES;
                    is_contained = may_merge && self.merge_file(change, their, their_tree)? == *their;
                    if !is_contained {
                        break;
                    }
                }
                if is_contained {
                    return Ok(Some(commit.clone()));
                }
            }
        }
        Ok(None)
    }

    /// The newest commits of `head` that `beyond` does not contain, newest first, with their trees.
    fn states(&self, options: &[&str], beyond: &CommitHash, head: &CommitHash) -> Result<Vec<State>> {
        let call = self.git().call(["log", "--topo-order", "--format=%H %T", "--no-color", "--no-decorate"]);
        let call = call.arg(format!("--max-count={MAX_STATES}")).args(options).arg(format!("{beyond}..{head}")).arg("--");
        let stdout = call.ok()?;
        let text = String::from_utf8_lossy(&stdout);
        let pair = |line: &str| {
            let (commit, tree) = line.split_once(' ')?;
            Some((CommitHash::new(commit).ok()?, CommitHash::new(tree).ok()?))
        };
        Ok(text.lines().filter_map(pair).collect())
    }

    fn is_first_parent(&self, ancestor: &CommitHash, head: &CommitHash) -> Result<bool> {
        let call = self.git().call(["rev-list", "--first-parent", "--parents"]).arg(format!("{ancestor}..{head}"));
        let stdout = call.ok()?;
        let text = String::from_utf8_lossy(&stdout);
        Ok(text.lines().last().and_then(|line| line.split(' ').nth(1)) == Some(ancestor.as_str()))
    }

    /// The part of a change for one path.
    fn only(&self, change: &Change, path: &PathBuf) -> Result<Change> {
        let all = differences(self.git(), &change.base, &change.tree)?;
        let entries = all.into_iter().filter(|each| each.path == *path).map(|each| (each.path, each.new)).collect();
        let tree = crate::landing::with_entries(self, &change.base, entries)?;
        Ok(Change { base: change.base.clone(), tree, paths: vec![path.clone()], stale: Vec::new() })
    }
}

/// A commit and its tree.
type State = (CommitHash, CommitHash);

fn count(git: &Git, range: &[&str]) -> Result<usize> {
    let call = git.call(["rev-list", "--count"]).args(range).arg("--");
    let stdout = call.ok()?;
    String::from_utf8_lossy(&stdout).trim().parse().map_err(|_| call.unexpected("no number"))
}

/// The distance between a branch of the user (short name) and integration; none if one of them does not exist. Writes
/// nothing. Commits that only merge integration into the branch do not count.
pub fn distance(store: &Store, user: &Repository, branch: &str) -> Result<Option<Distance>> {
    let theirs = user.resolve(&user.branch_ref(branch)?)?;
    let (Some(theirs), Some(ours)) = (theirs, store.integration()?) else { return Ok(None) };
    if theirs == ours {
        return Ok(Some(Distance { behind: 0, ahead: 0 }));
    }
    // Each repository may lack objects of the other.
    let git = user.git.with_env("GIT_ALTERNATE_OBJECT_DIRECTORIES", store.path().join("objects"));
    let mut behind = count(&git, &[theirs.as_str(), &format!("^{ours}")])?;
    let ahead = count(&git, &[ours.as_str(), &format!("^{theirs}")])?;
    if ahead == 0 && tree_of(&git, &theirs)? == tree_of(&git, &ours)? {
        behind = 0;
    }
    Ok(Some(Distance { behind, ahead }))
}
