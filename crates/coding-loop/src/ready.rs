//! Prepares workspaces and check-outs: copies files and runs the set-up commands.
//!
//! A set-up that fails with the work but succeeds at the base is a failure of the work. If it fails at the base, no
//! attempt of any loop can start, and the human is asked. A network that does not answer is nobody's fault.

use std::ffi::OsString;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::TcpListener;
use std::path::Path;
use std::pin::pin;
use std::time::Duration;

use coord_db::ErrorCategory;
use git::{CommitHash, Folder, Ready, SetUp, WorkTree, Workspace, filled_in, free_port, looks_like_network};
use tokio::sync::watch;

use crate::context::{Attempt, Context};
use crate::control::Waiter;
use crate::end::{End, Step, Stop};
use crate::{Error, Result};

/// Ports that Linux does not assign by itself; each database uses its own hundred of them.
const FIRST_PORT: u16 = 20_000;
const HUNDREDS: u16 = 120;

/// The first port for the loops of a database.
fn first_port(database: &Path) -> u16 {
    let mut hash = DefaultHasher::new();
    database.hash(&mut hash);
    let hundred = u16::try_from(hash.finish() % u64::from(HUNDREDS)).unwrap_or(0);
    FIRST_PORT + hundred * 100
}

impl Context<'_> {
    /// The environment variables from the settings for the agent, the set-up and the checks in this folder. A loop's
    /// agent has ended before its checks run, so they use the same port.
    pub(crate) fn own_variables(&self, workspace: &Path) -> Result<Vec<(String, OsString)>> {
        let set = self.config.agent_of(&self.loop_id).set;
        if set.is_empty() {
            return Ok(Vec::new());
        }
        let first = self.db.path().map_or(FIRST_PORT, first_port);
        let is_free = |port| TcpListener::bind(("127.0.0.1", port)).is_ok();
        let port = match self.has_no_loop() {
            true => free_port(),
            false => self.db.write_quietly(|tx| tx.port_of(&self.loop_id, first, is_free))?,
        };
        let fill = |text: &str| filled_in(text, port, self.loop_id.as_str(), workspace);
        Ok(set.into_iter().map(|(name, text)| (name, fill(&text))).collect())
    }

    fn ready(&self, place: &str, more: Vec<(String, OsString)>) -> Ready {
        let workspace = &self.config.workspace;
        let mut env = self.bare_environment();
        env.push(("LOOP_ID".to_owned(), OsString::from(self.loop_id.as_str())));
        env.extend(more);
        Ready {
            setup: workspace.setup.clone(),
            inputs: workspace.setup_inputs.clone(),
            timeout: Duration::from_secs(workspace.setup_timeout_seconds),
            copy: workspace.copy.clone(),
            env,
            log_path: Some(self.logs().join(format!("setup.{place}.log"))),
            output_bytes: self.config.agent.output_bytes,
            nice: None,
        }
    }

    /// Prepares the workspace before the agent starts. Files left by the set-up do not count as changes.
    pub(crate) async fn make_workspace_ready(&self, attempt: &Attempt, waiter: &mut Waiter) -> Step<()> {
        let ready = self.ready("workspace", self.own_variables(attempt.workspace.root())?);
        if ready.is_nothing(Some(&self.user)) {
            return Ok(());
        }
        let made = self.make_ready(&ready, &attempt.workspace.folder(), &attempt.base, Some(attempt), waiter).await?;
        match made {
            SetUp::Ready(was_run) => {
                attempt.workspace.snapshot_start(&self.look_options(self.config.landing.file_bytes))?;
                if was_run {
                    self.db.write_quietly(|tx| tx.clear_set_up_hold(&self.loop_id))?;
                }
                Ok(())
            }
            SetUp::Failed { why, tail } => Err(failed_at_base(&why, &tail)),
            SetUp::Cancelled => Err(Stop::failed(ErrorCategory::Transient, "the set-up was cancelled")),
        }
    }

    /// Prepares the check-out for judging a commit based on `base`.
    pub(crate) async fn make_gate_ready(
        &self,
        worktree: &WorkTree,
        commit: &CommitHash,
        base: &CommitHash,
        attempt: Option<&Attempt>,
        waiter: &mut Waiter,
    ) -> Step<()> {
        let ready = self.ready("gate", self.own_variables(worktree.root())?);
        if ready.is_nothing(Some(&self.user)) {
            return Ok(());
        }
        let made = self.make_ready(&ready, &worktree.folder(), commit, attempt, waiter).await?;
        let (why, tail) = match made {
            SetUp::Ready(was_run) => {
                if was_run {
                    worktree.settle_set_up(commit)?;
                }
                return Ok(());
            }
            SetUp::Failed { why, tail } => (why, tail),
            SetUp::Cancelled => return Err(Stop::failed(ErrorCategory::Transient, "the set-up was cancelled")),
        };
        if looks_like_network(&tail) || base == commit {
            return Err(failed_at_base(&why, &tail));
        }
        tracing::info!(why, base = %base.short(), "the set-up fails with the work; trying it at the base");
        let worktree = self.store.check_out_with_caches(worktree.root(), base, &self.config.workspace.cache)?;
        let ready = self.ready("base", self.own_variables(worktree.root())?);
        match self.make_ready(&ready, &worktree.folder(), base, attempt, waiter).await? {
            SetUp::Ready(_) => {
                let text = format!("{why}; it succeeds without this work\n{tail}");
                Err(Stop::failed(ErrorCategory::Code, text))
            }
            SetUp::Failed { why, tail } => Err(failed_at_base(&why, &tail)),
            SetUp::Cancelled => Err(Stop::failed(ErrorCategory::Transient, "the set-up was cancelled")),
        }
    }

    /// Prepares the workspace of a loop that is driven by hand; returns the reason if that failed.
    pub(crate) fn make_ready_by_hand(&self, workspace: &Workspace, head: &CommitHash) -> Result<Option<String>> {
        let ready = self.ready("workspace", self.own_variables(workspace.root())?);
        if ready.is_nothing(Some(&self.user)) {
            return Ok(None);
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Error::io("cannot create an async runtime", error))?;
        let source = (Some(&self.user), self.own_folder());
        let (_never, mut cancelled) = watch::channel(false);
        let made = runtime.block_on(ready.make(&workspace.folder(), head, source, &mut cancelled, |_| {}))?;
        workspace.snapshot_start(&self.look_options(self.config.landing.file_bytes))?;
        Ok(match made {
            SetUp::Failed { why, tail } => Some(format!("{why}: {}", crate::agents::reason_of(&tail))),
            SetUp::Ready(_) | SetUp::Cancelled => None,
        })
    }

    async fn make_ready(
        &self,
        ready: &Ready,
        folder: &Folder,
        commit: &CommitHash,
        attempt: Option<&Attempt>,
        waiter: &mut Waiter,
    ) -> Step<SetUp> {
        let (cancel, mut cancelled) = watch::channel(false);
        let on_keeper = |keeper| self.record_child(Some(keeper));
        let source = (Some(&self.user), self.own_folder());
        let running = pin!(ready.make(folder, commit, source, &mut cancelled, on_keeper));
        let (made, interrupt) = self.attend(running, &cancel, attempt, waiter, || Ok(false)).await?;
        let made = made?;
        if let Some(interrupt) = interrupt {
            return Err(interrupt.into());
        }
        self.record_child(None);
        Ok(made)
    }
}

/// The failure of a set-up without any work of a loop.
fn failed_at_base(why: &str, tail: &str) -> Stop {
    let last: Vec<&str> = tail.lines().rev().filter(|line| !line.trim().is_empty()).take(3).collect();
    let last: Vec<&str> = last.into_iter().rev().collect();
    if looks_like_network(tail) {
        return Stop::failed(
            ErrorCategory::Transient,
            format!("{why}, because the network does not answer\n{}", last.join("\n")),
        );
    }
    Stop::End(End::SetUpFailed(format!("{why}: {}", last.join(" / "))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_outside_of_those_that_the_kernel_gives() {
        for path in ["/a", "/b/coordination.db", ""] {
            let first = first_port(Path::new(path));
            assert!((20_000..32_000).contains(&first), "{first}");
        }
    }
}
