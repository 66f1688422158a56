//! Reports what a loop's workspace shows, for the monitor of another machine, which cannot see it.

use std::time::{Duration, Instant};

use coord_db::process::host;
use coord_db::{ChangedFile, Component, MAX_CHANGED_FILES};
use git::Contents;

use crate::Result;
use crate::auto_lease::ignored;
use crate::context::{Attempt, Context};

/// Minimum time between two looks for a report.
const INTERVAL: Duration = Duration::from_secs(5);

/// What was reported during a run of the agent.
#[derive(Debug, Default)]
pub(crate) struct WorkspaceReport {
    contents: Contents,
    /// Something has changed since the last look.
    is_due: bool,
    looked: Option<Instant>,
    /// The start and the files of the last report.
    last: Option<(String, Vec<ChangedFile>)>,
}

impl WorkspaceReport {
    pub(crate) fn note(&mut self, has_changed: bool) {
        self.is_due |= has_changed;
    }

    /// Reports the changed files, if some have changed and the last look is long enough ago. At the end of the run, how it was left.
    /// The work does not depend on it: what fails is tried again at the next look.
    pub(crate) fn send(&mut self, context: &Context<'_>, attempt: &Attempt, is_end: bool) {
        let is_early = self.looked.is_some_and(|looked| looked.elapsed() < INTERVAL);
        if context.db.server().is_none() || !is_end && (is_early || !self.is_due) {
            return;
        }
        self.looked = Some(Instant::now());
        match self.look(context, attempt) {
            Ok(is_done) => self.is_due = !is_done,
            Err(error) => tracing::debug!(%error, "cannot report the changes of the workspace"),
        }
    }

    fn look(&mut self, context: &Context<'_>, attempt: &Attempt) -> Result<bool> {
        let monitor = context.db.read(|tx| tx.component("monitor"))?;
        // It sees for itself.
        if monitor.is_some_and(|monitor: Component| monitor.host.is_some() && monitor.host.as_deref() == host()) {
            return Ok(true);
        }
        let Some(glance) = attempt.workspace.glance()? else { return Ok(false) };
        let ignored = ignored(&context.config.monitor.conflict_ignore);
        let paths = glance.changed.into_iter().filter(|path| !ignored.is_match(path)).take(MAX_CHANGED_FILES);
        let files = self.contents.read(attempt.workspace.root(), paths).into_iter();
        // This machine's clock may differ from the server's, so that a change counts from its report.
        let files = files.map(|content| ChangedFile {
            path: content.path.to_string_lossy().into_owned(),
            fingerprint: content.fingerprint,
            changed_at: None,
        });
        let seen = (glance.start.to_string(), files.collect());
        if self.last.as_ref() != Some(&seen) {
            context.db.write_quietly(|tx| tx.report_worktree_changes(&context.loop_id, &seen.0, &seen.1))?;
            self.last = Some(seen);
        }
        Ok(true)
    }
}
