//! Reports what a loop's workspace shows, for the monitor of another machine, which cannot see it.

use std::time::{Duration, Instant};

use coord_db::{ChangedFile, MAX_CHANGED_FILES};
use git::{CommitHash, Contents};

use crate::Result;
use crate::auto_lease::ignored;
use crate::context::{Attempt, Context};

/// Minimum time between two reports: each is a transaction on the server.
const INTERVAL: Duration = Duration::from_secs(5);

/// What was reported during a run of the agent.
#[derive(Debug, Default)]
pub(crate) struct WorkspaceReport {
    contents: Contents,
    /// The start against which files were compared that are not reported yet.
    due: Option<CommitHash>,
    sent: Option<Instant>,
}

impl WorkspaceReport {
    /// The changed files were read, compared with this start.
    pub(crate) fn is_due_for(&mut self, start: CommitHash) {
        self.due = Some(start);
    }

    /// Records the changed files, if they were read since the last report and that is long enough ago.
    pub(crate) fn send(&mut self, context: &Context<'_>, attempt: &Attempt) -> Result<()> {
        let is_early = self.sent.is_some_and(|sent| sent.elapsed() < INTERVAL);
        let Some(start) = self.due.as_ref().filter(|_| !is_early) else { return Ok(()) };
        let ignored = ignored(&context.config.monitor.conflict_ignore);
        let paths = attempt.seen.iter().filter(|path| !ignored.is_match(path)).take(MAX_CHANGED_FILES).cloned();
        let files = self.contents.read(attempt.workspace.root(), paths).into_iter();
        // This machine's clock may differ from the server's, so that a change counts from its report.
        let files = files.map(|content| ChangedFile {
            path: content.path.to_string_lossy().into_owned(),
            fingerprint: content.fingerprint,
            changed_at: None,
        });
        let files: Vec<ChangedFile> = files.collect();
        context.db.write_quietly(|tx| tx.report_worktree_changes(&context.loop_id, start.as_str(), &files))?;
        (self.due, self.sent) = (None, Some(Instant::now()));
        Ok(())
    }
}
