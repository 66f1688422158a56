//! The agent's sandbox. If it does not work, no agent starts; an agent must never start without it.

use std::fs;
use std::os::unix::ffi::OsStrExt;

use command_runner::CommandSpec;
use coord_db::config::SandboxBy;
use coord_db::{AgentTrouble, HoldKind};
use git::sandbox::{Sandbox, remedy};

use crate::context::{Attempt, Context};
use crate::end::{End, Step, Stop};
use crate::{Error, Result, submit};

impl Context<'_> {
    fn sandbox(&self, attempt: &Attempt) -> Option<Sandbox> {
        match self.config.agent_of(&self.loop_id).sandbox {
            SandboxBy::None => None,
            SandboxBy::Bwrap => {
                let database = self.db.path().unwrap_or(&self.home);
                Some(Sandbox::of_agent(&self.user, &self.layout, attempt.workspace.root(), database))
            }
        }
    }

    /// Tests the agent's sandbox before anything causes cost.
    pub(crate) async fn try_sandbox(&self, attempt: &Attempt) -> Step<()> {
        let Some(sandbox) = self.sandbox(attempt) else { return Ok(()) };
        let Err(error) = sandbox.try_out(attempt.workspace.root(), &self.environment(&attempt.test)).await else {
            return Ok(());
        };
        let reason = format!("its sandbox does not work ({error}); {}", remedy(&error));
        Err(Stop::End(End::Trouble(AgentTrouble { kind: HoldKind::Human, reason, until: None })))
    }

    /// Wraps the agent's command in its sandbox, if it has one.
    pub(crate) fn enter_sandbox(&self, attempt: &Attempt, spec: &mut CommandSpec) {
        if let Some(sandbox) = self.sandbox(attempt) {
            spec.argv = sandbox.wrap(&spec.argv, &spec.cwd);
        }
    }

    /// The end of the agent, which `bwrap` reports only by its exit status.
    pub(crate) fn end_in_sandbox(&self, end: command_runner::End) -> command_runner::End {
        const KILLED: i32 = 128 + 9;
        const TERMINATED: i32 = 128 + 15;
        match (self.config.agent_of(&self.loop_id).sandbox, end) {
            (SandboxBy::Bwrap, command_runner::End::Exited(code @ (KILLED | TERMINATED))) => {
                command_runner::End::Signaled(code - 128)
            }
            (_, end) => end,
        }
    }

    /// Updates files that the agent has leased inside its sandbox, where `loopctl lock` cannot write them, and records
    /// that this is done.
    pub(crate) fn serve_sandbox(&self, attempt: &mut Attempt) -> Result<()> {
        if self.config.agent_of(&self.loop_id).sandbox == SandboxBy::None {
            return Ok(());
        }
        let leases = self.db.read(|tx| tx.leases_of(self.loop_id.as_str()))?;
        let new: Vec<_> =
            leases.into_iter().filter(|lease| !lease.automatic && lease.fencing_token > attempt.served_token).collect();
        let Some(token) = new.iter().map(|lease| lease.fencing_token).max() else { return Ok(()) };
        let paths: Vec<_> = new.into_iter().map(|lease| lease.file_path).collect();
        let updated = submit::bring_up_to_date(self.db, self.config, &self.loop_id, &paths, token)?.updated;
        let mut text = token.to_string().into_bytes();
        for path in updated {
            text.push(0);
            text.extend_from_slice(path.as_os_str().as_bytes());
        }
        let note = submit::served_note(&self.layout, &self.loop_id);
        let new = note.with_extension("new");
        let written = fs::write(&new, text).and_then(|()| fs::rename(&new, &note));
        written.map_err(|error| Error::io(format!("cannot write {}", note.display()), error))?;
        attempt.served_token = token;
        Ok(())
    }
}
