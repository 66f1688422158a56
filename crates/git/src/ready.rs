//! Prepares a folder for work or for checks: copies ignored files from the user's checkout, and runs the set-up
//! commands if their inputs have changed or their results are missing.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::sync::watch;

use crate::call::{Git, LONG_TIME_LIMIT};
use crate::folders::{beside, remove_all};
use crate::plan::ignored;
use crate::settings::replace_file;
use crate::{CommitHash, Error, Repository, Result, WorkTree, Workspace};
use command_runner::hex;
use command_runner::keeper::KeeperId;
use command_runner::{CommandSpec, End, run};

/// A file of patterns in the user's checkout: ignored files that match are copied.
pub const INCLUDE_FILE: &str = ".worktreeinclude";

/// The preparation that a fresh clone needs.
#[derive(Debug, Clone, Default)]
pub struct Ready {
    /// Commands (argv), run in order.
    pub setup: Vec<Vec<String>>,
    /// Files and folders of the repository whose content decides whether the commands run again.
    pub inputs: Vec<String>,
    /// Time limit of each command.
    pub timeout: Duration,
    /// Patterns, as in `.gitignore`, of ignored files to copy from the user's checkout.
    pub copy: Vec<String>,
    /// The complete environment of the commands.
    pub env: Vec<(String, OsString)>,
    /// The base name of the files with the output of the commands, one for each.
    pub log_path: Option<PathBuf>,
    /// Number of bytes kept.
    pub output_bytes: u64,
    /// The nice value, if any.
    pub nice: Option<i32>,
}

/// The result of the preparation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SetUp {
    /// The folder is ready; true if commands ran.
    Ready(bool),
    /// A command failed.
    Failed {
        /// The command and its end, as text.
        why: String,
        /// The end of its output.
        tail: String,
    },
    /// The caller cancelled it.
    Cancelled,
}

/// A folder with a commit's files that can be prepared.
#[derive(Debug, Clone)]
pub struct Folder {
    git: Git,
    root: PathBuf,
    /// The file with our record of the set-up.
    stamp: PathBuf,
}

/// The record of a set-up.
#[derive(Debug, Serialize, Deserialize)]
struct Stamp {
    key: String,
    /// The untracked files after it.
    made: Vec<PathBuf>,
}

impl Workspace {
    /// The workspace as a folder to prepare. Take the first snapshot after that.
    #[must_use]
    pub fn folder(&self) -> Folder {
        Folder { git: self.git.clone(), root: self.root().to_owned(), stamp: self.spec.state.join("setup") }
    }
}

impl WorkTree {
    /// The check-out as a folder to prepare.
    #[must_use]
    pub fn folder(&self) -> Folder {
        Folder { git: self.git().clone(), root: self.root().to_owned(), stamp: beside(self.root(), ".setup") }
    }

    /// Undoes the changes of the set-up to tracked files and to the git folder for checks.
    ///
    /// # Errors
    /// [`Error::NotForChecks`].
    pub fn settle_set_up(&self, commit: &CommitHash) -> Result<()> {
        self.must_be_for_checks()?;
        self.git().call(["reset", "--quiet", "--hard", commit.as_str()]).time_limit(LONG_TIME_LIMIT).ok()?;
        self.renew_git()?;
        self.note_submodules(commit)
    }
}

impl Folder {
    /// The untracked files; a folder without tracked files as one entry.
    fn untracked(&self) -> Result<BTreeSet<PathBuf>> {
        let call = self.git.call(["ls-files", "-z", "--others", "--directory"]).time_limit(LONG_TIME_LIMIT);
        Ok(call.paths()?.into_iter().collect())
    }

    /// The record of the set-up for this key.
    fn stamp(&self, key: &str) -> Option<Stamp> {
        let stamp: Option<Stamp> = fs::read(&self.stamp).ok().and_then(|text| serde_json::from_slice(&text).ok());
        stamp.filter(|stamp| stamp.key == key)
    }

    fn is_ready(&self, key: &str) -> bool {
        let is_there = |path: &PathBuf| self.root.join(path).symlink_metadata().is_ok();
        self.stamp(key).is_some_and(|stamp| stamp.made.iter().all(is_there))
    }
}

/// Why a pattern of files to copy has no effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Useless {
    /// It matches nothing.
    MatchesNothing,
    /// All files that it matches are tracked, and so in every clone.
    Tracked,
    /// git does not ignore the files that it matches.
    NotIgnored,
}

/// The patterns of files to copy that have no effect in the user's checkout, with the reasons; includes those of
/// [`INCLUDE_FILE`].
pub fn useless_patterns(user: &Repository, own: &str, patterns: &[String]) -> Result<Vec<(String, Useless)>> {
    if user.is_bare() {
        return Ok(Vec::new());
    }
    let included = fs::read(user.root().join(INCLUDE_FILE)).unwrap_or_default();
    let included = String::from_utf8_lossy(&included).into_owned();
    let is_pattern = |line: &&str| !line.is_empty() && !line.starts_with(['#', '!']);
    let git = user.git.in_files(user.root());
    let mut useless = Vec::new();
    for pattern in patterns.iter().map(String::as_str).chain(included.lines()).map(str::trim_end).filter(is_pattern) {
        let matched = |which: &str| {
            let call = git.call(["ls-files", "-z", which, "--ignored"]).arg(format!("--exclude={pattern}"));
            let mut paths = call.time_limit(LONG_TIME_LIMIT).paths()?;
            paths.retain(|path| !path.starts_with(own));
            Ok::<_, Error>(paths)
        };
        let others = matched("--others")?;
        if !ignored(git.call(["check-ignore", "-z", "--stdin"]), others.iter())?.is_empty() {
            continue;
        }
        let why = match (others.is_empty(), matched("--cached")?.is_empty()) {
            (false, _) => Useless::NotIgnored,
            (true, false) => Useless::Tracked,
            (true, true) => Useless::MatchesNothing,
        };
        useless.push((pattern.to_owned(), why));
    }
    Ok(useless)
}

impl Ready {
    /// True if there is nothing to do for any folder.
    #[must_use]
    pub fn is_nothing(&self, user: Option<&Repository>) -> bool {
        self.setup.is_empty() && self.copy.is_empty() && user.is_none_or(|user| !user.root().join(INCLUDE_FILE).is_file())
    }

    /// A hash that decides whether the commands have to run at a commit.
    pub fn key(&self, repository: &Repository, commit: &CommitHash) -> Result<String> {
        self.key_at(&repository.git, commit)
    }

    fn key_at(&self, git: &Git, commit: &CommitHash) -> Result<String> {
        let mut hash = Sha256::new();
        for word in self.setup.iter().flat_map(|argv| argv.iter().map(String::as_str).chain([""])) {
            hash.update((word.len() as u64).to_le_bytes());
            hash.update(word.as_bytes());
        }
        if !self.inputs.is_empty() {
            let inputs = self.inputs.iter().map(|input| input.trim_end_matches('/'));
            hash.update(git.call(["ls-tree", "-z", "--full-tree", commit.as_str(), "--"]).args(inputs).ok()?);
        }
        Ok(hex(hash))
    }

    /// Prepares a folder with a commit's files. Ignored files are copied from the checkout of `user`, except from its
    /// folder `own`, which is ours.
    ///
    /// # Errors
    /// If files cannot be copied, or git fails.
    pub async fn make(
        &self,
        folder: &Folder,
        commit: &CommitHash,
        (user, own): (Option<&Repository>, &str),
        cancel: &mut watch::Receiver<bool>,
        on_keeper: impl Fn(KeeperId),
    ) -> Result<SetUp> {
        if let Some(user) = user {
            self.bring_along(folder, user, own)?;
        }
        if self.setup.is_empty() {
            return Ok(SetUp::Ready(false));
        }
        let key = self.key_at(&folder.git, commit)?;
        if folder.is_ready(&key) {
            return Ok(SetUp::Ready(false));
        }
        remove_all(&folder.stamp)?;
        for (number, argv) in self.setup.iter().enumerate() {
            let outcome = run(&self.command(folder, number, argv), cancel, &on_keeper).await;
            let shown = argv.join(" ");
            let why = match outcome.end {
                End::Exited(0) => continue,
                End::Cancelled => return Ok(SetUp::Cancelled),
                End::Exited(code) => format!("set-up command {shown} failed with exit code {code}"),
                End::TimedOut => format!("set-up command {shown} exceeded its time limit of {} s", self.timeout.as_secs()),
                End::Signaled(signal) => format!("set-up command {shown} was killed by signal {signal}"),
                End::Lost => format!("set-up command {shown} was lost: its keeper was killed"),
                End::NotStarted { message, .. } => format!("cannot run set-up command {shown}: {message}"),
            };
            return Ok(SetUp::Failed { why, tail: outcome.tail });
        }
        let made = folder.untracked()?.iter().map(|path| path.to_string_lossy().into_owned().into()).collect();
        let text = serde_json::to_vec(&Stamp { key, made }).map_err(|error| Error::io("write", &folder.stamp)(error.into()))?;
        replace_file(&folder.stamp, &text)?;
        Ok(SetUp::Ready(true))
    }

    /// The files to keep, as patterns of `.gitignore`, when a folder is brought to a commit with the same set-up.
    pub(crate) fn kept(&self, folder: &Folder, git: &Git, commit: &CommitHash) -> Vec<String> {
        let key = if self.setup.is_empty() { None } else { self.key_at(git, commit).ok() };
        let stamp = key.and_then(|key| folder.stamp(&key));
        stamp.map_or_else(Vec::new, |stamp| stamp.made.iter().map(|path| anchored(path)).collect())
    }

    fn command(&self, folder: &Folder, number: usize, argv: &[String]) -> CommandSpec {
        let mut command = CommandSpec::new(argv.iter().map(OsString::from), &folder.root);
        command.env.clone_from(&self.env);
        command.timeout = self.timeout;
        command.nice = self.nice;
        let log = |path: &PathBuf| if number == 0 { path.clone() } else { beside(path, &format!(".{}", number + 1)) };
        command.log_path = self.log_path.as_ref().map(log);
        command.output_bytes = self.output_bytes;
        command
    }

    /// Copies ignored files that match the patterns from the user's checkout, unless a tracked file is in their place.
    fn bring_along(&self, folder: &Folder, user: &Repository, own: &str) -> Result<()> {
        let (top, git) = (user.root(), &user.git);
        let mut patterns = fs::read(top.join(INCLUDE_FILE)).unwrap_or_default();
        patterns.push(b'\n');
        self.copy.iter().for_each(|pattern| patterns.extend_from_slice(format!("{pattern}\n").as_bytes()));
        if user.is_bare() || patterns.trim_ascii().is_empty() {
            return Ok(());
        }
        let list = beside(&folder.stamp, ".patterns");
        replace_file(&list, &patterns)?;
        let git = git.in_files(top);
        let mut option = OsString::from("--exclude-from=");
        option.push(&list);
        let matched = git.call(["ls-files", "-z", "--others", "--ignored"]).arg(option).time_limit(LONG_TIME_LIMIT).paths();
        remove_all(&list)?;
        let matched: Vec<PathBuf> = matched?.into_iter().filter(|path| !path.starts_with(own)).collect();
        if matched.is_empty() {
            return Ok(());
        }
        let ignored: Vec<PathBuf> = ignored(git.call(["check-ignore", "-z", "--stdin"]), matched.iter())?.into_iter().collect();
        if ignored.is_empty() {
            return Ok(());
        }
        let tracked: BTreeSet<PathBuf> =
            folder.git.call(["ls-files", "-z", "--"]).args(&ignored).paths()?.into_iter().collect();
        for path in ignored.iter().filter(|path| !tracked.iter().any(|tracked| tracked.starts_with(path))) {
            copy_file(&top.join(path), &folder.root, path)?;
        }
        Ok(())
    }
}

/// A port that is free now, for processes without a loop.
#[must_use]
pub fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0));
    listener.and_then(|listener| listener.local_addr()).map_or(0, |address| address.port())
}

/// Replaces `{port}`, `{loop}` and `{workspace}` in a text of the settings. Other braces stay.
#[must_use]
pub fn filled_in(text: &str, port: u16, loop_id: &str, workspace: &Path) -> OsString {
    let mut out = OsString::new();
    let mut rest = text;
    while let Some(at) = rest.find('{') {
        out.push(&rest[..at]);
        rest = &rest[at..];
        let length = rest.find('}').map_or(1, |end| end + 1);
        match &rest[..length] {
            "{port}" => out.push(port.to_string()),
            "{loop}" => out.push(loop_id),
            "{workspace}" => out.push(workspace),
            // The rest may start with another brace.
            _ => {
                out.push("{");
                rest = &rest[1..];
                continue;
            }
        }
        rest = &rest[length..];
    }
    out.push(rest);
    out
}

/// The pattern that matches only this path.
fn anchored(path: &Path) -> String {
    let mut pattern = String::from("/");
    for letter in path.to_string_lossy().chars() {
        if "*?[]\\! #".contains(letter) {
            pattern.push('\\');
        }
        pattern.push(letter);
    }
    pattern
}

/// Copies a file or link to the same relative path below a folder, with its permissions; never through a link that
/// leads out of it.
fn copy_file(from: &Path, root: &Path, way: &Path) -> Result<()> {
    let to = root.join(way);
    let parent = to.parent().unwrap_or(root);
    if fs::create_dir_all(parent).is_err() || !parent.canonicalize().is_ok_and(|parent| parent.starts_with(root)) {
        tracing::warn!(path = ?way, "file not copied, because something else is in its place");
        return Ok(());
    }
    let Ok(meta) = from.symlink_metadata() else { return Ok(()) };
    if to.symlink_metadata().is_ok_and(|there| there.is_dir() || there.file_type() != meta.file_type()) {
        remove_all(&to)?;
    }
    if meta.is_symlink() {
        let target = fs::read_link(from).map_err(Error::io("read", from))?;
        if fs::read_link(&to).is_ok_and(|there| there == target) {
            return Ok(());
        }
        remove_all(&to)?;
        return std::os::unix::fs::symlink(target, &to).map_err(Error::io("link", &to));
    }
    if !meta.is_file() {
        return Ok(());
    }
    let is_same =
        |there: fs::Metadata| there.is_file() && there.len() == meta.len() && there.permissions() == meta.permissions();
    if to.symlink_metadata().is_ok_and(is_same) && fs::read(&to).ok() == fs::read(from).ok() {
        return Ok(());
    }
    let making = beside(&to, ".new");
    fs::copy(from, &making).map_err(Error::io("copy", from))?;
    fs::rename(&making, &to).map_err(Error::io("rename", &making))
}

/// True if the end of a command's output shows a network failure: a retry may succeed.
#[must_use]
pub fn looks_like_network(text: &str) -> bool {
    const WORDS: &[&str] = &[
        "could not resolve host",
        "couldn't resolve host",
        "temporary failure in name resolution",
        "name or service not known",
        "failed to lookup address",
        "getaddrinfo",
        "eai_again",
        "enotfound",
        "econnrefused",
        "econnreset",
        "etimedout",
        "err_socket_timeout",
        "network is unreachable",
        "network unreachable",
        "connection refused",
        "connection reset by peer",
        "connection timed out",
        "connection aborted",
        "operation timed out",
        "failed to establish a new connection",
        "newconnectionerror",
        "max retries exceeded",
        "read timed out",
        "tls handshake timeout",
        "i/o timeout",
        "dial tcp",
        "no such host",
        "spurious network error",
        "bad gateway",
        "service unavailable",
        "gateway timeout",
        "gateway time-out",
        "too many requests",
        "error trying to connect",
        "dns error",
        "network error",
    ];
    let text = text.to_lowercase();
    WORDS.iter().any(|word| text.contains(word))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{filled_in, looks_like_network};

    #[test]
    fn only_what_is_known_is_filled_in() {
        let fill = |text| filled_in(text, 20_001, "a", Path::new("/w")).into_string().unwrap();
        assert_eq!(fill("{port}"), "20001");
        assert_eq!(fill("http://localhost:{port}/{loop}?{x}"), "http://localhost:20001/a?{x}");
        assert_eq!(fill("{\"d\": \"{workspace}\", {{port}}"), "{\"d\": \"/w\", {20001}");
        assert_eq!(fill("{"), "{");
        assert_eq!(fill(""), "");
    }

    #[test]
    fn network_failures_are_recognised() {
        for text in [
            "npm ERR! code ENOTFOUND\nnpm ERR! network request to https://registry.npmjs.org/x failed",
            "warning: spurious network error (3 tries remaining): [6] Couldn't resolve host name (Could not resolve host: crates.io)",
            "pip: Failed to establish a new connection: [Errno -3] Temporary failure in name resolution",
            "go: module x: Get \"https://proxy.golang.org/x\": dial tcp: lookup proxy.golang.org: no such host",
        ] {
            assert!(looks_like_network(text), "{text}");
        }
        for text in [
            "npm ERR! code EUSAGE\nnpm ci can only install packages when your package.json and package-lock.json are in sync",
            "error: failed to parse manifest at Cargo.toml",
            "",
        ] {
            assert!(!looks_like_network(text), "{text}");
        }
    }
}
