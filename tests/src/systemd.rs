//! This machine's own systemd in private namespaces (`tests/systemd/box.sh`), with the programs of this build installed
//! as `scripts/install.sh` does it. What is done in there is seen by nobody else.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use test_support::{wait_for, wait_until, wait_until_equal};

use crate::installation::strip_into;
use crate::{project, query};

/// The user that owns the repositories in the box.
pub const OWNER: u32 = 4242;

/// Who does something in the box.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// The machine's administrator.
    Root,
    /// The owner of the repositories, logged in.
    Owner,
}

/// A machine with systemd as its init, until it is dropped or shut down. Its disk outlives it.
#[derive(Debug)]
pub struct Machine {
    holder: Child,
    pid: String,
    disk: PathBuf,
}

/// The project, seen from inside a box, which may see neither the folder it is in nor its file system.
pub const PROJECT: &str = "/srv/project";

/// A folder for a machine's disk, with stripped copies of this build's programs in `new/`, to be installed from there with the
/// scripts and units in `project/`.
///
/// # Panics
/// If it cannot be made.
#[must_use]
pub fn disk() -> tempfile::TempDir {
    let disk = tempfile::Builder::new().permissions(mode(0o755)).tempdir().expect("a folder");
    strip_into(&disk.path().join("new"));
    let inside = disk.path().join("project");
    std::fs::create_dir(&inside).expect("a folder for the project");
    for folder in ["scripts", "systemd"] {
        let status = Command::new("cp").arg("-r").arg(project().join(folder)).arg(&inside).status();
        assert!(status.expect("cp").success(), "copy {folder}");
    }
    let status = Command::new("chmod").args(["-R", "a+rX"]).arg(&inside).status();
    assert!(status.expect("chmod").success(), "everybody in the box may read it");
    disk
}

fn mode(bits: u32) -> std::fs::Permissions {
    std::os::unix::fs::PermissionsExt::from_mode(bits)
}

impl Machine {
    /// Boots one; none, said loudly, where this machine gives none.
    ///
    /// # Panics
    /// If the box is there and systemd does not come up in it.
    #[must_use]
    pub fn boot(disk: &Path) -> Option<Self> {
        let mut command = Command::new(project().join("tests/systemd/box.sh"));
        command.arg(disk).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut holder = command.spawn().expect("bash");
        let mut line = String::new();
        let output = holder.stdout.take().expect("its output");
        BufReader::new(output).read_line(&mut line).expect("what it says");
        if let Some(pid) = line.trim().strip_prefix("pid ") {
            let machine = Self { holder, pid: pid.to_owned(), disk: disk.to_owned() };
            machine.until("the box is up", Who::Root, &["sh", "-c", "systemctl is-system-running || :"], "running");
            return Some(machine);
        }
        let status = holder.wait().expect("its end");
        assert_eq!(status.code(), Some(77), "the box did not come up: {line}");
        eprintln!("SKIPPED, NOTHING WAS TESTED: no systemd in namespaces here: {}", line.trim());
        None
    }

    /// Shuts it down in order, as before a reboot.
    ///
    /// # Panics
    /// If it does not end within the bound.
    pub fn shut_down(self) {
        let _ = self.run(Who::Root, &["systemctl", "exit"]);
        let pid = PathBuf::from("/proc").join(&self.pid);
        wait_until("the machine to shut down", || !pid.exists());
    }

    /// Where the disk is, seen from outside; inside it is `/srv`.
    #[must_use]
    pub fn disk(&self) -> &Path {
        &self.disk
    }

    /// A command inside.
    #[must_use]
    pub fn command(&self, who: Who, words: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.pid, "-m", "-p", "-i", "-u", "-n", "-C", "-r", "-w", "--"]);
        command.args(["env", "-i", "container=box", "NO_COLOR=1"]);
        match who {
            Who::Root => command.args(["PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"]),
            Who::Owner => command.args([
                "PATH=/srv/home/.local/bin:/usr/local/bin:/usr/bin:/bin:/srv/new",
                "HOME=/srv/home",
                "XDG_RUNTIME_DIR=/run/user/4242",
                "setpriv",
                "--reuid=4242",
                "--regid=4242",
                "--clear-groups",
            ]),
        };
        command.args(words).stdin(Stdio::null());
        command
    }

    /// Runs a command inside.
    ///
    /// # Panics
    /// If it cannot be run.
    #[must_use]
    pub fn run(&self, who: Who, words: &[&str]) -> Output {
        self.command(who, words).output().expect("nsenter")
    }

    /// What a command prints that must go well.
    ///
    /// # Panics
    /// If it does not.
    pub fn ok(&self, who: Who, words: &[&str]) -> String {
        let output = self.run(who, words);
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{words:?}: {}\n{out}{err}\n{}", output.status, self.journal());
        out.trim_end().to_owned()
    }

    /// Runs a bash script with its arguments; it must go well.
    ///
    /// # Panics
    /// If it does not.
    pub fn script(&self, who: Who, text: &str, arguments: &[&str]) -> String {
        self.ok(who, &[&["bash", "-euc", text, "script"], arguments].concat())
    }

    /// Waits until a command prints this.
    ///
    /// # Panics
    /// If it does not within the bound.
    pub fn until(&self, what: &str, who: Who, words: &[&str], expected: &str) {
        wait_until_equal(what, expected, || String::from_utf8_lossy(&self.run(who, words).stdout).trim_end().to_owned());
    }

    /// A property of a unit.
    ///
    /// # Panics
    /// If systemctl fails.
    #[must_use]
    pub fn property(&self, who: Who, unit: &str, name: &str) -> String {
        let user = if who == Who::Owner { "--user" } else { "--system" };
        self.ok(who, &["systemctl", user, "show", "--value", "--property", name, unit])
    }

    /// Waits until a unit's property is this.
    ///
    /// # Panics
    /// If it is not within the bound.
    pub fn until_property(&self, who: Who, unit: &str, name: &str, expected: &str) {
        let user = if who == Who::Owner { "--user" } else { "--system" };
        let words = ["systemctl", user, "show", "--value", "--property", name, unit];
        self.until(&format!("{name} of {unit}"), who, &words, expected);
    }

    /// The main process of a service, as it is called outside of the box; once there is one.
    ///
    /// # Panics
    /// If there is none within the bound.
    #[must_use]
    pub fn main_pid(&self, who: Who, unit: &str) -> String {
        wait_for(&format!("a process of {unit}"), || Some(self.property(who, unit, "MainPID")).filter(|pid| pid != "0"))
    }

    /// All that the journal has.
    #[must_use]
    pub fn journal(&self) -> String {
        String::from_utf8_lossy(&self.run(Who::Root, &["journalctl", "--no-pager", "--output=short"]).stdout).into_owned()
    }

    /// Entries of the journal as JSON.
    ///
    /// # Panics
    /// If it cannot be read.
    #[must_use]
    pub fn entries(&self, filter: &[&str]) -> Vec<serde_json::Value> {
        let text = self.ok(Who::Root, &[&["journalctl", "--no-pager", "--output=json"], filter].concat());
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }

    /// Makes a repository of the owner in `/srv/home/NAME`, with settings and loops, and says where its database is, seen
    /// from outside.
    ///
    /// # Panics
    /// If it cannot be made.
    pub fn repository(&self, name: &str, settings: &str, loops: &[&str]) -> PathBuf {
        const MAKE: &str = r#"
            mkdir "$HOME/$1" && cd "$HOME/$1"
            git init --quiet --initial-branch=main
            git config user.name A && git config user.email a@example.org
            git commit --quiet --allow-empty --message begin
            loopctl --quiet init
            printf '%s\n' "$2" >coding-loops/config.toml
            for loop in "${@:3}"; do loopctl --quiet loop add "$loop"; done
        "#;
        self.script(Who::Owner, MAKE, &[&[name, settings], loops].concat());
        self.disk.join("home").join(name).join("coding-loops/coordination.db")
    }

    /// Installs the programs as `scripts/install.sh` does.
    ///
    /// # Panics
    /// If it fails.
    pub fn install(&self, who: Who, arguments: &[&str]) -> String {
        let script = format!("{PROJECT}/scripts/install.sh");
        let bin = if who == Who::Root { "--system" } else { "--user" };
        let words = [&["env", "CODING_LOOPS_BIN=/srv/new", &script, bin], arguments].concat();
        self.ok(who, &words)
    }

    /// Waits until the database answers this.
    ///
    /// # Panics
    /// If it does not within the bound.
    pub fn until_sql(&self, database: &Path, sql: &str, expected: &str) {
        wait_until_equal(sql, expected, || query(database, sql).unwrap_or_default().trim_end().to_owned());
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.journal());
        }
        // Its end of the pipe closes, and the box goes.
        drop(self.holder.stdin.take());
        let _ = self.holder.wait();
    }
}
