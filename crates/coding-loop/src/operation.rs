//! Operations of a loop outside the database, which are recorded before they are performed and completed afterwards.
//!
//! | operation | effect | recovery of an open entry |
//! | --- | --- | --- |
//! | `checkpoint` | a reference for rollbacks | it is deleted: the attempt never began |
//! | `put_away` | work saved under a reference, the workspace reset | if the work is in the store, finished; else nothing was done |
//! | `integrate` | integration moved to a batch | if its commit is on it, recorded; else nothing was done |
//! | `judge` | none: queued work is judged | the lease on integration is released; another process judges |
//! | `sync` | integration moved to the user's new commits | the same; its leases are released |
//!
//! Every step is idempotent. A workspace is touched only by its own loop; references and rows of a dead loop also by
//! others. Creating store, workspaces and check-outs, and publishing, need no entry: each is atomic or detected again.

use coord_db::{JUDGE_OPERATION, JournalEntry, LANDING_OPERATION, LoopId, PassedAttempt, TestId};
use git::CommitHash;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Prefixes of the references of saved work and of checkpoints.
pub(crate) const SAVED: &str = "refs/coding-loops/saved/";
pub(crate) const CHECKPOINTS: &str = "refs/coding-loops/checkpoints/";

/// An operation in the journal: its name, and the intent as an object.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "operation", rename_all = "snake_case")]
pub(crate) enum Operation {
    /// Creating a checkpoint.
    Checkpoint { git_ref: String, commit: CommitHash, test: TestId, attempt: i64 },
    /// Saving work under a reference.
    PutAway(PutAway),
    /// Moving integration.
    Integrate(Integrate),
    /// Bringing the user's new commits in.
    Sync(Sync),
    /// Judging queued work, in the name of a loop, whose lease on integration has this token.
    Judge { judge: LoopId, token: i64 },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Sync {
    pub(crate) branch: String,
    /// The move of integration, once known.
    pub(crate) landing: Option<SyncLanding>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct SyncLanding {
    /// The head of the user's branch.
    pub(crate) theirs: CommitHash,
    pub(crate) old: CommitHash,
    pub(crate) commit: CommitHash,
    /// Number of new commits of the user.
    pub(crate) commits: usize,
    pub(crate) checks: Vec<(String, bool)>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct PutAway {
    pub(crate) git_ref: String,
    /// The saved work; none in an entry of an older version.
    #[serde(default)]
    pub(crate) commit: Option<CommitHash>,
    pub(crate) test: Option<TestId>,
    pub(crate) reason: String,
    /// The target of the workspace; none if it stays as it is.
    pub(crate) target: Option<CommitHash>,
}

/// A batch that lands: integration moves from `old` to `commit`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Integrate {
    pub(crate) commit: CommitHash,
    /// The old head of integration; equal to the commit if nothing had to change.
    pub(crate) old: CommitHash,
    /// Its row in `batches`; none in an entry of an older version.
    pub(crate) batch: Option<String>,
    pub(crate) members: Vec<Member>,
}

/// A work of a batch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Member {
    pub(crate) test: TestId,
    /// Its row in `landings`; none in an entry of an older version.
    #[serde(default)]
    pub(crate) landing: Option<String>,
    /// The loop; none in an entry of an older version, which belongs to the loop.
    #[serde(default)]
    pub(crate) author: Option<LoopId>,
    pub(crate) commit: CommitHash,
    #[serde(default)]
    pub(crate) checks: Vec<(String, bool)>,
    #[serde(default)]
    pub(crate) seconds: i64,
    pub(crate) tokens: Option<i64>,
    #[serde(default)]
    pub(crate) files: Vec<String>,
}

impl Member {
    pub(crate) fn passed(&self) -> PassedAttempt {
        PassedAttempt {
            commit: self.commit.to_string(),
            checks: self.checks.clone(),
            duration_seconds: self.seconds,
            tokens_estimated: self.tokens,
            files_modified: self.files.clone(),
        }
    }
}

/// The observed state of an interrupted operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seen {
    /// Its reference exists.
    pub(crate) has_ref: bool,
    /// Its commit is in the store.
    pub(crate) has_commit: bool,
    /// Its commit is on integration.
    pub(crate) is_on_integration: bool,
}

/// The recovery of an interrupted operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Recovery {
    /// Record the landing.
    RecordPass,
    /// Create the reference if it does not exist, and record it.
    RecordSaved,
    /// Delete the reference.
    DeleteRef,
    /// Nothing has to be done.
    None,
}

impl Operation {
    /// The name in the journal.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Checkpoint { .. } => "checkpoint",
            Self::PutAway(_) => "put_away",
            Self::Integrate(_) => LANDING_OPERATION,
            Self::Sync(_) => "sync",
            Self::Judge { .. } => JUDGE_OPERATION,
        }
    }

    /// The intent for the journal.
    pub(crate) fn intent(&self) -> Value {
        let mut value = serde_json::to_value(self).unwrap_or_default();
        if let Some(fields) = value.as_object_mut() {
            fields.remove("operation");
        }
        value
    }

    /// Parses a journal entry; none if it is unknown or invalid, because external tools may write anything.
    pub(crate) fn of(entry: &JournalEntry) -> Option<Self> {
        let mut value = entry.steps.intent.clone();
        // In older versions each work landed alone.
        if entry.operation == "integrate" && value.get("test").is_some() {
            let member = value.clone();
            value.as_object_mut()?.insert("members".to_owned(), Value::Array(vec![member]));
        }
        value.as_object_mut()?.insert("operation".to_owned(), Value::String(entry.operation.clone()));
        let operation: Self = serde_json::from_value(value).ok()?;
        let is_below = match &operation {
            Self::Checkpoint { git_ref, .. } => git_ref.starts_with(CHECKPOINTS),
            Self::PutAway(work) => work.git_ref.starts_with(SAVED),
            Self::Integrate(_) | Self::Sync(_) | Self::Judge { .. } => true,
        };
        is_below.then_some(operation)
    }

    /// The reference that it creates.
    pub(crate) fn git_ref(&self) -> Option<&str> {
        match self {
            Self::Checkpoint { git_ref, .. } => Some(git_ref),
            Self::PutAway(work) => Some(&work.git_ref),
            Self::Integrate(_) | Self::Sync(_) | Self::Judge { .. } => None,
        }
    }

    /// Its commit.
    pub(crate) fn commit(&self) -> Option<&CommitHash> {
        match self {
            Self::Checkpoint { commit, .. } => Some(commit),
            Self::PutAway(work) => work.commit.as_ref(),
            Self::Integrate(landing) => Some(&landing.commit),
            Self::Sync(sync) => sync.landing.as_ref().map(|landing| &landing.commit),
            Self::Judge { .. } => None,
        }
    }

    /// Decides how to recover it.
    pub(crate) fn recovery(&self, seen: Seen) -> Recovery {
        match self {
            // A landing without a change was complete as soon as it was recorded: its gate had passed at the head.
            Self::Integrate(landing) if seen.has_commit && (landing.commit == landing.old || seen.is_on_integration) => {
                Recovery::RecordPass
            }
            Self::PutAway(_) if seen.has_ref || seen.has_commit => Recovery::RecordSaved,
            Self::Checkpoint { .. } if seen.has_ref => Recovery::DeleteRef,
            _ => Recovery::None,
        }
    }
}

#[cfg(test)]
mod tests {
    use coord_db::JournalSteps;
    use serde_json::json;

    use super::*;

    fn hash(digit: char) -> CommitHash {
        CommitHash::new(digit.to_string().repeat(40)).unwrap()
    }

    fn entry(operation: &str, intent: Value) -> JournalEntry {
        JournalEntry {
            id: "e".to_owned(),
            operation: operation.to_owned(),
            loop_id: None,
            steps: JournalSteps { intent, done: Vec::new() },
            status: coord_db::JournalStatus::InProgress,
            started_at: coord_db::Timestamp::from_millis(0),
            completed_at: None,
            component: None,
            event_id: None,
        }
    }

    fn integrate(commit: char) -> Operation {
        let member = Member {
            test: "t".parse().unwrap(),
            landing: Some("l".to_owned()),
            author: Some("one".parse().unwrap()),
            commit: hash(commit),
            checks: vec![("suite".to_owned(), true)],
            seconds: 3,
            tokens: Some(4),
            files: vec!["a".to_owned()],
        };
        let batch = Some("b".to_owned());
        Operation::Integrate(Integrate { commit: hash(commit), old: hash('0'), batch, members: vec![member] })
    }

    #[test]
    fn an_entry_reads_back_as_what_was_written() {
        let operation = integrate('1');
        let mut intent = operation.intent();
        intent["owner"] = json!({"pid": 1});
        assert_eq!(Operation::of(&entry(operation.name(), intent)), Some(operation));
    }

    #[test]
    fn an_entry_of_an_older_version_is_a_batch_of_one() {
        let intent = json!({"test": "t", "attempt": 1, "commit": "1".repeat(40), "old": "0".repeat(40), "branch": "b", "proof": "p",
            "checks": [["suite", true]], "seconds": 3, "tokens": null, "files": ["a"]});
        let Some(Operation::Integrate(landing)) = Operation::of(&entry("integrate", intent)) else { panic!("no landing") };
        assert_eq!((landing.commit, landing.batch, landing.members.len()), (hash('1'), None, 1));
        assert_eq!(landing.members[0].passed().checks, [("suite".to_owned(), true)]);
    }

    #[test]
    fn what_no_loop_has_written_is_nothing() {
        for (name, intent) in [
            ("integrate", json!({})),
            ("integrate", Value::Null),
            ("integrate", json!({"test": "t", "attempt": 1, "commit": "HEAD", "old": "x", "branch": "b", "tokens": null})),
            ("checkpoint", json!({"git_ref": "refs/heads/main", "commit": "0".repeat(40), "test": "t", "attempt": 1})),
            ("put_away", json!({"git_ref": "refs/heads/main", "test": null, "reason": "x", "target": null})),
            ("make_worktree", json!({"path": "/"})),
            ("squash", json!([])),
        ] {
            assert_eq!(Operation::of(&entry(name, intent.clone())), None, "{name} {intent}");
        }
    }

    #[test]
    fn only_what_is_on_integration_is_recorded_as_landed() {
        let seen = |has_commit, is_on_integration| Seen { has_ref: false, has_commit, is_on_integration };
        assert_eq!(integrate('1').recovery(seen(true, true)), Recovery::RecordPass);
        assert_eq!(integrate('1').recovery(seen(true, false)), Recovery::None);
        assert_eq!(integrate('1').recovery(seen(false, false)), Recovery::None);
        assert_eq!(integrate('0').recovery(seen(true, false)), Recovery::RecordPass, "nothing had to change");
    }
}
