//! User and mount namespaces of a test's own, with a small disk in them: what is done in there is seen by nobody else.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A process that holds the namespaces open until this is dropped.
#[derive(Debug)]
pub struct Namespace {
    holder: Child,
    /// The namespaces, as `unshare` and `nsenter` name them.
    kinds: &'static [&'static str],
}

/// Root needs no user namespace where none can be had.
const KINDS: [&[&str]; 2] = [&["--user", "--mount"], &["--mount"]];

impl Namespace {
    /// Namespaces with a tmpfs of this size at `disk`; none, reported loudly, where the machine gives none.
    #[must_use]
    pub fn with_disk(disk: &Path, kilobytes: u32) -> Option<Self> {
        let space = KINDS.into_iter().find_map(|kinds| Self::of(kinds, disk, kilobytes));
        space.or_else(|| skipped("neither user nor mount namespaces can be had here"))
    }

    fn of(kinds: &'static [&'static str], disk: &Path, kilobytes: u32) -> Option<Self> {
        let script = r#"mount -t tmpfs -o "size=$1k" none "$2" && echo ready && exec cat >/dev/null"#;
        let mut command = Command::new("unshare");
        command.args(kinds).args(kinds.contains(&"--user").then_some("--map-root-user"));
        command.args(["sh", "-c", script, "sh", &kilobytes.to_string()]).arg(disk);
        let mut holder = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().ok()?;
        let mut line = String::new();
        if let Some(output) = holder.stdout.take() {
            let _ = BufReader::new(output).read_line(&mut line);
        }
        let space = Self { holder, kinds };
        (line.trim() == "ready").then_some(space)
    }

    /// What comes before a command to run it in here.
    #[must_use]
    pub fn prefix(&self) -> Vec<String> {
        let mut words = vec!["nsenter".to_owned()];
        words.extend(self.kinds.iter().map(|kind| (*kind).to_owned()));
        if self.kinds.contains(&"--user") {
            words.push("--preserve-credentials".to_owned());
        }
        words.extend(["--target".to_owned(), self.holder.id().to_string()]);
        words
    }

    /// True if limits that are set in here (`/proc/sys/user`) are nobody else's; said loudly if not.
    #[must_use]
    pub fn has_limits(&self) -> bool {
        self.kinds.contains(&"--user") || skipped::<()>("no user namespaces can be had here").is_some()
    }
}

fn skipped<T>(why: &str) -> Option<T> {
    eprintln!("SKIPPED, NOTHING WAS TESTED: {why}");
    None
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}
