//! Runs a command under `bwrap`: it can read everything, but cannot write to the user's checkout, the store, other
//! workspaces or the settings.
//!
//! `bwrap` waits for the command and passes its exit status on. SIGTERM must reach only the command: if it ended
//! `bwrap`, the command would be killed at once without time to end by itself.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::watch;

use crate::call::to_path;
use crate::folders::beside;
use crate::{Layout, Repository};
use command_runner::{CommandSpec, End, run};

/// Time limit of a trial.
const TRIAL_LIMIT: Duration = Duration::from_secs(20);

/// The paths that a command may write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sandbox {
    read_only: Vec<PathBuf>,
    writable: Vec<PathBuf>,
}

impl Sandbox {
    /// The sandbox of an agent in a workspace: of the user's repository, our folder and the folder of the database, it
    /// may write only the workspace and the database; it may write anything elsewhere.
    #[must_use]
    pub fn of_agent(user: &Repository, layout: &Layout, workspace: &Path, database: &Path) -> Self {
        let mut read_only = vec![user.root().to_owned(), user.common_dir().to_owned(), layout.root().to_owned()];
        read_only.extend(database.parent().map(Path::to_owned));
        for linked in fs::read_dir(user.common_dir().join("worktrees")).into_iter().flatten().flatten() {
            let named = fs::read(linked.path().join("gitdir")).unwrap_or_default();
            read_only.extend(to_path(named.trim_ascii_end()).parent().filter(|path| path.is_absolute()).map(Path::to_owned));
        }
        let writable = vec![
            workspace.to_owned(),
            database.to_owned(),
            beside(database, "-wal"),
            beside(database, "-shm"),
            beside(database, ".bell"),
        ];
        let resolved = |paths: Vec<PathBuf>| -> Vec<PathBuf> {
            let mut paths: Vec<PathBuf> = paths.into_iter().filter_map(|path| path.canonicalize().ok()).collect();
            // Entries below a folder come after it, because the later one takes precedence.
            paths.sort();
            paths.dedup();
            paths
        };
        Self { read_only: resolved(read_only), writable: resolved(writable) }
    }

    /// Wraps a command to run in the sandbox, in a folder.
    #[must_use]
    pub fn wrap(&self, argv: &[OsString], cwd: &Path) -> Vec<OsString> {
        let mut all: Vec<OsString> =
            ["env", "--ignore-signal=TERM", "bwrap", "--die-with-parent", "--dev-bind", "/", "/"].map(OsString::from).to_vec();
        for (option, paths) in [("--ro-bind", &self.read_only), ("--bind", &self.writable)] {
            for path in paths {
                all.extend([OsString::from(option), path.into(), path.into()]);
            }
        }
        // root keeps its capabilities in the sandbox: with these it could mount read-only folders as writable, or reach
        // them through the loop's process.
        all.extend(["--cap-drop", "CAP_SYS_ADMIN", "--cap-drop", "CAP_SYS_PTRACE"].map(OsString::from));
        all.extend([OsString::from("--chdir"), cwd.into()]);
        all.extend(["--", "env", "--default-signal=TERM", "--"].map(OsString::from));
        all.extend_from_slice(argv);
        all
    }

    /// Runs an empty command in the sandbox; fails with the error message on one line.
    pub async fn try_out(&self, cwd: &Path, env: &[(String, OsString)]) -> Result<(), String> {
        let mut spec = CommandSpec::new(self.wrap(&[OsString::from("true")], cwd), cwd);
        spec.env = env.to_vec();
        spec.timeout = TRIAL_LIMIT;
        let (_sender, mut never) = watch::channel(false);
        let outcome = run(&spec, &mut never, |_| {}).await;
        match outcome.end {
            End::Exited(0) => Ok(()),
            End::NotStarted { message, .. } => Err(message),
            End::TimedOut => Err(format!("bwrap did not end within {} s", TRIAL_LIMIT.as_secs())),
            _ => {
                let last = outcome.tail.lines().rev().find(|line| !line.trim().is_empty());
                Err(last.unwrap_or("bwrap fails").trim().trim_start_matches("bwrap: ").to_owned())
            }
        }
    }
}

/// The remedy for an error message of the sandbox.
#[must_use]
pub fn remedy(message: &str) -> &'static str {
    let lower = message.to_lowercase();
    if lower.contains("no such file") {
        "install it (Debian: apt-get install bubblewrap), or set sandbox = \"none\" in [agent] of config.toml"
    } else if ["permission", "namespace", "not permitted", "setting up uid map"].iter().any(|part| lower.contains(part)) {
        "allow user namespaces (sysctl kernel.unprivileged_userns_clone=1, on Ubuntu \
         kernel.apparmor_restrict_unprivileged_userns=0), or set sandbox = \"none\" in [agent] of config.toml"
    } else {
        "run bwrap --dev-bind / / true by hand, or set sandbox = \"none\" in [agent] of config.toml"
    }
}
