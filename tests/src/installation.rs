//! `scripts/install.sh` with the programs of this build, for a user whose home is a temporary folder and who has no service
//! manager.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::{binaries, project, supervisors};

/// All programs of the workspace.
pub fn programs() -> impl Iterator<Item = &'static str> {
    ["loopctl", "coding-loop"].into_iter().chain(supervisors())
}

/// Copies this build's programs into a new folder, without what a debugger wants: they would be several hundred megabytes.
///
/// # Panics
/// If a program is missing.
pub fn strip_into(folder: &Path) {
    std::fs::create_dir(folder).expect("a folder for the programs");
    for program in programs() {
        let status = Command::new("strip").arg("-o").arg(folder.join(program)).arg(binaries().join(program)).status();
        assert!(status.expect("strip").success(), "strip {program}; build the workspace first");
    }
}

/// A user's home and built programs.
#[derive(Debug)]
pub struct Installation {
    folder: tempfile::TempDir,
}

impl Default for Installation {
    fn default() -> Self {
        Self::new()
    }
}

impl Installation {
    /// Nothing is installed yet.
    ///
    /// # Panics
    /// If the folders cannot be made.
    #[must_use]
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        std::fs::create_dir(folder.path().join("home")).expect("a home");
        strip_into(&folder.path().join("built"));
        Self { folder }
    }

    /// The home of the user.
    #[must_use]
    pub fn home(&self) -> PathBuf {
        self.folder.path().join("home")
    }

    /// The programs to install.
    #[must_use]
    pub fn built(&self) -> PathBuf {
        self.folder.path().join("built")
    }

    /// A program or script, run by the user in the home.
    #[must_use]
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new(program.as_ref());
        command.current_dir(self.home()).env("HOME", self.home()).stdin(Stdio::null());
        for variable in ["XDG_DATA_HOME", "XDG_CONFIG_HOME", "CODING_LOOPS_DB", "CODING_LOOPS_BIN"] {
            command.env_remove(variable);
        }
        // The test does not touch the services of the user that runs it.
        command.env("XDG_RUNTIME_DIR", "/nonexistent").env("DBUS_SESSION_BUS_ADDRESS", "unix:path=/nonexistent");
        command
    }

    /// Runs `scripts/install.sh`.
    ///
    /// # Panics
    /// If it cannot be run.
    #[must_use]
    pub fn install(&self, arguments: &[&str]) -> Output {
        let mut command = self.command(project().join("scripts/install.sh"));
        command.env("CODING_LOOPS_BIN", self.built()).args(arguments).output().expect("bash")
    }

    /// What `scripts/install.sh` prints; it must succeed and report nothing on stderr.
    ///
    /// # Panics
    /// If it does not.
    pub fn installs(&self, arguments: &[&str]) -> String {
        let output = self.install(arguments);
        let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success() && errors.is_empty(), "{}\n{said}{errors}", output.status);
        said.into_owned()
    }
}
