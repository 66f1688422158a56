//! Runs the git command: its fixed options and environment, and how its output is parsed.
//!
//! It must never use a shell, prompt on a terminal, run the repository's hooks, or be redirected to another repository
//! by the caller's environment.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};

use crate::known::{Found, Known, ObjectFiles, object_files};
use crate::{CommitHash, Error, Result};

/// Settings for every call: the user's configuration must neither change our formats nor run programs.
const SETTINGS: &[&str] = &[
    "core.hooksPath=/dev/null",
    "core.quotePath=off",
    "core.fsmonitor=false",
    "core.safecrlf=false",
    "core.splitIndex=false",
    "core.commentChar=#",
    "core.filesRefLockTimeout=5000",
    "core.packedRefsTimeout=5000",
    "gc.auto=0",
    "maintenance.auto=false",
    "commit.gpgSign=false",
    "i18n.logOutputEncoding=UTF-8",
    "i18n.commitEncoding=UTF-8",
    "log.showSignature=false",
    "trailer.separators=:",
    "submodule.recurse=false",
    "rerere.enabled=false",
    "diff.autoRefreshIndex=true",
    "diff.ignoreSubmodules=none",
    "rebase.autoStash=false",
    "rebase.autoSquash=false",
    "rebase.updateRefs=false",
    "rebase.rebaseMerges=false",
    "worktree.useRelativePaths=false",
    "worktree.guessRemote=false",
];

/// The variables of git that are passed on: they describe the user or locate the configuration.
const KEPT_VARIABLES: &[&str] = &[
    "GIT_AUTHOR_NAME",
    "GIT_AUTHOR_EMAIL",
    "GIT_COMMITTER_NAME",
    "GIT_COMMITTER_EMAIL",
    "GIT_CONFIG_GLOBAL",
    "GIT_CONFIG_SYSTEM",
    "GIT_CONFIG_NOSYSTEM",
    "GIT_EXEC_PATH",
];

/// Maximum number of retries if another git process interferes, and the increment of the delay.
const MAX_TRIES: u32 = 10;
const PAUSE: Duration = Duration::from_millis(20);

/// Default time limit of a call, and the limit of calls whose work grows with the repository.
const TIME_LIMIT: Duration = Duration::from_secs(600);
pub(crate) const LONG_TIME_LIMIT: Duration = Duration::from_secs(7200);

/// Interval at which a call looks whether it was cut off.
const LOOK: Duration = Duration::from_millis(100);

/// The number of bytes that a pipe takes at once if it is ready, by pipe(7).
const PIPE_BYTES: usize = 4096;

/// Maximum number of bytes of stderr in an error.
const STDERR_BYTES: usize = 2048;

/// git for one repository or worktree.
#[derive(Clone, Debug)]
pub(crate) struct Git {
    cwd: PathBuf,
    place: Vec<OsString>,
    env: Vec<(&'static str, OsString)>,
    identity: Arc<OnceLock<Vec<String>>>,
    known: Arc<Known>,
    /// Set once nobody waits for what this does any more.
    cut_off: Arc<AtomicBool>,
}

/// The result of a call.
pub(crate) struct Answer {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

/// A call under construction.
pub(crate) struct Call<'a> {
    git: &'a Git,
    args: Vec<OsString>,
    env: Vec<(&'static str, OsString)>,
    stdin: Option<Vec<u8>>,
    stdin_file: Option<PathBuf>,
    stdout_file: Option<PathBuf>,
    time_limit: Duration,
    stdout_limit: u64,
    identity: bool,
}

impl Git {
    /// git that discovers its repository from a folder. Used only for discovery; all other calls pin the repository.
    pub(crate) fn discovering(cwd: &Path) -> Self {
        Self {
            cwd: cwd.to_owned(),
            place: Vec::new(),
            env: Vec::new(),
            identity: Arc::default(),
            known: Arc::default(),
            cut_off: Arc::default(),
        }
    }

    /// git on a repository without files.
    pub(crate) fn in_repository(common_dir: &Path) -> Self {
        let place = vec![OsString::from("--git-dir"), common_dir.into()];
        Self {
            cwd: common_dir.to_owned(),
            place,
            env: Vec::new(),
            identity: Arc::default(),
            known: Arc::default(),
            cut_off: Arc::default(),
        }
    }

    /// git in a worktree. The repository is pinned: if somebody removes the worktree's `.git`, calls fail instead of
    /// using a repository further up.
    pub(crate) fn in_work_tree(git_dir: &Path, root: &Path) -> Self {
        let place = vec![OsString::from("--git-dir"), git_dir.into(), OsString::from("--work-tree"), root.into()];
        Self {
            cwd: root.to_owned(),
            place,
            env: Vec::new(),
            identity: Arc::default(),
            known: Arc::default(),
            cut_off: Arc::default(),
        }
    }

    pub(crate) fn call<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Call<'_> {
        let args = args.into_iter().map(|arg| arg.as_ref().to_owned()).collect();
        Call {
            git: self,
            args,
            env: self.env.clone(),
            stdin: None,
            stdin_file: None,
            stdout_file: None,
            time_limit: TIME_LIMIT,
            stdout_limit: u64::MAX,
            identity: false,
        }
    }

    /// The same git on the files of the repository's checkout.
    pub(crate) fn in_files(&self, root: &Path) -> Self {
        let mut git = self.clone();
        git.place.extend([OsString::from("--work-tree"), root.into()]);
        git.cwd = root.to_owned();
        git
    }

    /// The same git, whose calls are killed once the flag is set.
    pub(crate) fn until(&self, cut_off: Arc<AtomicBool>) -> Self {
        Self { cut_off, ..self.clone() }
    }

    /// The same git with a variable set in every call.
    pub(crate) fn with_env(&self, name: &'static str, value: impl AsRef<OsStr>) -> Self {
        let mut git = self.clone();
        git.env.push((name, value.as_ref().to_owned()));
        git
    }

    /// The same git with another folder as work tree.
    pub(crate) fn with_work_tree(&self, root: &Path) -> Self {
        let mut git = self.clone();
        git.place = self.place.iter().take(2).cloned().chain(["--work-tree".into(), root.into()]).collect();
        git.cwd = root.to_owned();
        git
    }

    /// Settings with an identity for commits if the user has configured none.
    fn identity(&self) -> &[String] {
        self.identity.get_or_init(|| {
            let found = self.call(["config", "-z", "--get-regexp", r"^user\.(name|email)$"]).answer();
            let Some(found) = found.ok().filter(|answer| matches!(answer.code, Some(0 | 1))) else { return Vec::new() };
            let missing = |key: &str| !fields(&found.stdout).any(|entry| entry.starts_with(format!("{key}\n").as_bytes()));
            let mut settings = Vec::new();
            if missing("user.name") {
                settings.push("user.name=coding-loops".to_owned());
            }
            if std::env::var_os("EMAIL").is_none() && missing("user.email") {
                settings.push("user.email=coding-loops@localhost".to_owned());
            }
            settings
        })
    }

    /// The git folder, if it is pinned.
    pub(crate) fn folder(&self) -> Option<&Path> {
        self.place.get(1).map(Path::new)
    }

    /// What git has found in this repository.
    pub(crate) fn known(&self) -> &Known {
        &self.known
    }

    /// The files of an object, to remember that git has found it; none if git has to be asked each time.
    pub(crate) fn object_files(&self, hash: &CommitHash) -> Option<ObjectFiles> {
        let is_elsewhere = self.env.iter().any(|(name, _)| *name == "GIT_OBJECT_DIRECTORY");
        object_files(self.folder().filter(|_| !is_elsewhere)?, hash)
    }

    /// Remembers that git has found an object. `files` are its files before git was asked.
    pub(crate) fn note_found(&self, hash: &CommitHash, how: Found, files: Option<ObjectFiles>) {
        self.known.remember(hash, how, files.filter(|files| self.object_files(hash).as_ref() == Some(files)));
    }

    /// Remembers that git has just written an object.
    pub(crate) fn note_object(&self, hash: &CommitHash, how: Found) {
        let files = self.object_files(hash);
        self.known.remember(hash, Found::Object, files.clone());
        self.known.remember(hash, how, files);
    }

    /// True if git has found this object in this repository, and its files are still the same.
    pub(crate) fn has_found(&self, hash: &CommitHash, how: Found) -> bool {
        self.known.is_found(hash, how, self.object_files(hash).as_ref())
    }
}

impl Call<'_> {
    pub(crate) fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    pub(crate) fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    pub(crate) fn env(mut self, name: &'static str, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name, value.as_ref().to_owned()));
        self
    }

    pub(crate) fn stdin(mut self, content: impl Into<Vec<u8>>) -> Self {
        self.stdin = Some(content.into());
        self
    }

    /// Reads stdin from a file, for large content.
    pub(crate) fn stdin_from(mut self, path: &Path) -> Self {
        self.stdin_file = Some(path.to_owned());
        self
    }

    /// Writes stdout to a file, which is created or replaced.
    pub(crate) fn stdout_to(mut self, path: &Path) -> Self {
        self.stdout_file = Some(path.to_owned());
        self
    }

    /// Kills git and its children after this time: [`Error::GitTimedOut`].
    pub(crate) fn time_limit(mut self, limit: Duration) -> Self {
        self.time_limit = limit;
        self
    }

    /// Ends git once this number of bytes has come from stdout; its exit status says nothing then.
    pub(crate) fn stdout_limit(mut self, bytes: u64) -> Self {
        self.stdout_limit = bytes;
        self
    }

    /// Adds an identity, for calls that create commits.
    pub(crate) fn with_identity(mut self) -> Self {
        self.identity = true;
        self
    }

    /// The arguments of the call, for errors.
    pub(crate) fn shown(&self) -> Vec<String> {
        self.args.iter().map(|arg| arg.to_string_lossy().into_owned()).collect()
    }

    /// Runs it; an exit status other than 0 is a result too, unless the disk is full. git gives up at once if it reads
    /// the registration of a worktree that another git is just writing: then it runs again.
    pub(crate) fn answer(&self) -> Result<Answer> {
        let mut answer = self.answer_once()?;
        for tries in 1..=MAX_TRIES {
            if !has_read_unfinished_worktree(&answer) {
                break;
            }
            std::thread::park_timeout(PAUSE * tries);
            answer = self.answer_once()?;
        }
        // A full disk must not be mistaken for a statement about the repository.
        if is_disk_full(&answer, &self.git.cwd) {
            let what = answer.stderr.lines().last().unwrap_or_default().to_owned();
            return Err(Error::DiskFull { path: self.git.cwd.clone(), what });
        }
        Ok(answer)
    }

    fn answer_once(&self) -> Result<Answer> {
        let mut command = Command::new("git");
        for setting in SETTINGS {
            command.args(["-c", setting]);
        }
        if self.identity {
            for setting in self.git.identity() {
                command.args(["-c", setting.as_str()]);
            }
        }
        command.arg("--no-pager").arg("--literal-pathspecs");
        // These commands reject the option set before.
        if self.args.iter().any(|arg| arg == "--pathspec-from-file=-" || arg == "check-ignore") {
            command.arg("--no-literal-pathspecs");
        }
        command.args(&self.git.place).args(&self.args).current_dir(&self.git.cwd);
        for (name, _) in std::env::vars_os() {
            let kept = name.to_str().is_some_and(|name| KEPT_VARIABLES.contains(&name));
            if name.as_encoded_bytes().starts_with(b"GIT_") && !kept {
                command.env_remove(&name);
            }
        }
        command.env("GIT_TERMINAL_PROMPT", "0").env("GIT_OPTIONAL_LOCKS", "0").env("LC_ALL", "C");
        // A missing LFS object stays a pointer; our calls download nothing.
        command.env("GIT_LFS_SKIP_DOWNLOAD_ERRORS", "1").env("GIT_NO_LAZY_FETCH", "1");
        command.env("GIT_EDITOR", "true").env("GIT_SEQUENCE_EDITOR", "true").env_remove("GIT_PAGER");
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command.stdin(match (&self.stdin, &self.stdin_file) {
            (Some(_), _) => Stdio::piped(),
            (None, Some(path)) => fs::File::open(path).map_err(Error::io("open", path))?.into(),
            (None, None) => Stdio::null(),
        });
        command.stdout(match &self.stdout_file {
            Some(path) => fs::File::create(path).map_err(Error::io("create", path))?.into(),
            None => Stdio::piped(),
        });
        command.stderr(Stdio::piped());
        // An interrupt from the terminal is for this program; it must not kill git in the middle of its work.
        command.process_group(0);
        let child = command.spawn().map_err(|error| {
            if error.kind() == ErrorKind::NotFound && self.git.cwd.is_dir() {
                Error::GitMissing
            } else {
                Error::io("run git in", &self.git.cwd)(error)
            }
        })?;
        let output = self.wait(child)?;
        let cut = output.stderr.len().saturating_sub(STDERR_BYTES);
        let stderr = String::from_utf8_lossy(&output.stderr[cut..]).trim().to_owned();
        Ok(Answer { code: output.status.code(), stdout: output.stdout, stderr })
    }

    /// Writes the input and reads the output of git until it ends or exceeds its time limit.
    fn wait(&self, mut child: Child) -> Result<Output> {
        let failed = || Error::io("run git in", &self.git.cwd);
        let mut pipes = Pipes::of(&mut child, self.stdin.as_deref().unwrap_or_default(), self.stdout_limit);
        let end = Instant::now() + self.time_limit;
        let has_ended = loop {
            let left = end.saturating_duration_since(Instant::now());
            match pipes.pass(left.min(LOOK)) {
                // git and its children have closed the pipes.
                Ok(true) => break Ok(true),
                Ok(false) if left.is_zero() || self.git.cut_off.load(Ordering::Relaxed) => break Ok(false),
                Ok(false) => {}
                Err(error) => break Err(error),
            }
        };
        if !matches!(has_ended, Ok(true))
            && let Some(group) = rustix::process::Pid::from_raw(child.id().cast_signed())
        {
            // Not reaped yet, so the group's id cannot have been reused.
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
        let status = child.wait().map_err(failed())?;
        if !has_ended.map_err(failed())? {
            return Err(Error::GitTimedOut { args: self.shown(), seconds: self.time_limit.as_secs() });
        }
        Ok(Output { status, stdout: pipes.stdout.1, stderr: pipes.stderr.1 })
    }

    /// Runs it and requires exit status 0; returns stdout.
    pub(crate) fn ok(&self) -> Result<Vec<u8>> {
        let answer = self.answer()?;
        if answer.code == Some(0) { Ok(answer.stdout) } else { Err(self.failed(answer)) }
    }

    /// Like [`Self::ok`], for a call whose output never changes because it is determined by hashes alone: it runs once.
    pub(crate) fn ok_for_ever(&self) -> Result<Vec<u8>> {
        if let Some(output) = self.git.known.output(&self.args) {
            return Ok(output);
        }
        let output = self.ok()?;
        self.git.known.remember_output(&self.args, &output);
        Ok(output)
    }

    /// Remembers the output of [`Self::ok_for_ever`], which is known otherwise.
    pub(crate) fn note_output(&self, output: &str) {
        self.git.known.remember_output(&self.args, output.as_bytes());
    }

    /// Like [`Self::ok`], with stderr too.
    pub(crate) fn answer_of_success(&self) -> Result<Answer> {
        let answer = self.answer()?;
        if answer.code == Some(0) { Ok(answer) } else { Err(self.failed(answer)) }
    }

    /// Converts a failed result to an error.
    pub(crate) fn failed(&self, answer: Answer) -> Error {
        if answer.stderr.contains("dubious ownership") {
            return Error::ForeignOwner { path: self.git.cwd.clone() };
        }
        if answer.stderr.contains("not a git repository") {
            return Error::NotARepository { path: self.git.cwd.clone() };
        }
        Error::GitFailed { args: self.shown(), code: answer.code, stderr: answer.stderr }
    }

    /// True for exit status 0, false for 1.
    pub(crate) fn yes(&self) -> Result<bool> {
        let answer = self.answer()?;
        match answer.code {
            Some(0) => Ok(true),
            Some(1) => Ok(false),
            _ => Err(self.failed(answer)),
        }
    }

    /// Requires one hash as output.
    pub(crate) fn hash(&self) -> Result<CommitHash> {
        let stdout = self.ok()?;
        self.parse_hash(&stdout)
    }

    /// Requires one hash as output; exit status 1 means none.
    pub(crate) fn hash_if_any(&self) -> Result<Option<CommitHash>> {
        let answer = self.answer()?;
        match answer.code {
            Some(0) => self.parse_hash(&answer.stdout).map(Some),
            Some(1) => Ok(None),
            _ => Err(self.failed(answer)),
        }
    }

    /// Requires one path, which may contain line breaks; only the last line break is removed.
    pub(crate) fn path(&self) -> Result<PathBuf> {
        let mut stdout = self.ok()?;
        if stdout.last() == Some(&b'\n') {
            stdout.pop();
        }
        Ok(PathBuf::from(OsString::from_vec(stdout)))
    }

    /// Requires NUL-separated paths as output.
    pub(crate) fn paths(&self) -> Result<Vec<PathBuf>> {
        Ok(fields(&self.ok()?).map(to_path).collect())
    }

    pub(crate) fn parse_hash(&self, stdout: &[u8]) -> Result<CommitHash> {
        let text = String::from_utf8_lossy(stdout);
        CommitHash::new(text.trim()).map_err(|error| self.unexpected(error.to_string()))
    }

    pub(crate) fn unexpected(&self, what: impl Into<String>) -> Error {
        Error::Unexpected { args: self.shown(), what: what.into() }
    }
}

/// The open pipes of a running git, with what was read from them.
struct Pipes<'a> {
    stdin: Option<(ChildStdin, &'a [u8])>,
    stdout: (Option<ChildStdout>, Vec<u8>),
    stderr: (Option<ChildStderr>, Vec<u8>),
    stdout_left: u64,
}

impl<'a> Pipes<'a> {
    fn of(child: &mut Child, input: &'a [u8], stdout_limit: u64) -> Self {
        Self {
            stdin: child.stdin.take().map(|pipe| (pipe, input)),
            stdout: (child.stdout.take(), Vec::new()),
            stderr: (child.stderr.take(), Vec::new()),
            stdout_left: stdout_limit,
        }
    }

    /// Waits until a pipe is ready, and passes on what there is. True once all output is read.
    fn pass(&mut self, limit: Duration) -> std::io::Result<bool> {
        let is_written = self.stdin.as_ref().is_some_and(|(_, input)| input.is_empty());
        if is_written {
            self.stdin = None;
        }
        let mut ready = [false; 3];
        {
            let input = self.stdin.as_ref().map(|(pipe, _)| PollFd::new(pipe, PollFlags::OUT));
            let output = self.stdout.0.as_ref().map(|pipe| PollFd::new(pipe, PollFlags::IN));
            let errors = self.stderr.0.as_ref().map(|pipe| PollFd::new(pipe, PollFlags::IN));
            let places: Vec<usize> = [&input, &output, &errors]
                .iter()
                .enumerate()
                .filter(|(_, pipe)| pipe.is_some())
                .map(|(place, _)| place)
                .collect();
            let mut polled: Vec<PollFd<'_>> = [input, output, errors].into_iter().flatten().collect();
            if places.iter().all(|&place| place == 0) {
                return Ok(true);
            }
            let limit = Timespec { tv_sec: limit.as_secs().cast_signed(), tv_nsec: limit.subsec_nanos().into() };
            match rustix::event::poll(&mut polled, Some(&limit)) {
                Err(rustix::io::Errno::INTR) => return Ok(false),
                result => result?,
            };
            for (place, pipe) in places.into_iter().zip(polled) {
                ready[place] = !pipe.revents().is_empty();
            }
        }
        if ready[0] {
            self.write();
        }
        let limit = self.stdout_left;
        if ready[1] {
            self.stdout_left -= read_some(&mut self.stdout, limit)?;
        }
        if self.stdout_left == 0 {
            self.stdout.0 = None;
        }
        if ready[2] {
            read_some(&mut self.stderr, u64::MAX)?;
        }
        Ok(self.stdout.0.is_none() && self.stderr.0.is_none())
    }

    /// Writes no more than what cannot block. If git does not read all of it, its exit status shows why.
    fn write(&mut self) {
        let Some((pipe, input)) = &mut self.stdin else { return };
        match pipe.write(&input[..input.len().min(PIPE_BYTES)]) {
            Ok(written) => *input = &input[written..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => self.stdin = None,
        }
    }
}

/// Reads what is there from a pipe, and closes it at its end.
fn read_some((pipe, read): &mut (Option<impl Read>, Vec<u8>), limit: u64) -> std::io::Result<u64> {
    let mut buffer = [0; 64 << 10];
    let room = usize::try_from(limit).unwrap_or(usize::MAX).min(buffer.len());
    let count = match pipe.as_mut().map(|pipe| pipe.read(&mut buffer[..room])) {
        Some(Err(error)) if error.kind() == ErrorKind::Interrupted => return Ok(0),
        Some(result) => result?,
        None => 0,
    };
    if count == 0 {
        *pipe = None;
    }
    read.extend_from_slice(&buffer[..count]);
    Ok(count as u64)
}

/// True if git failed because of a full disk, which not every command reports.
fn is_disk_full(answer: &Answer, path: &Path) -> bool {
    const LOW_SPACE: u64 = 64 << 20;
    if answer.code == Some(0) {
        return false;
    }
    let stderr = answer.stderr.as_str();
    let has_little_room =
        || rustix::fs::statvfs(path).is_ok_and(|disk| disk.f_bavail.saturating_mul(disk.f_frsize) < LOW_SPACE);
    ["No space left on device", "Disk quota exceeded", "Out of diskspace"].iter().any(|text| stderr.contains(text))
        || (stderr.contains("write") && has_little_room())
}

/// True if git failed only because it read a file that another git was just writing.
fn has_read_unfinished_worktree(answer: &Answer) -> bool {
    let stderr = answer.stderr.as_str();
    answer.code == Some(128)
        && stderr.starts_with("fatal: failed to read ")
        && stderr.contains("/worktrees/")
        && stderr.contains("/commondir")
        && stderr.matches("fatal: ").count() == 1
}

/// NUL-terminated fields.
pub(crate) fn fields(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let bytes = bytes.strip_suffix(b"\0").unwrap_or(bytes);
    let count = if bytes.is_empty() { 0 } else { usize::MAX };
    bytes.split(|&byte| byte == 0).take(count)
}

pub(crate) fn to_path(bytes: &[u8]) -> PathBuf {
    PathBuf::from(OsString::from_vec(bytes.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_limit_ends_git_and_its_children() {
        let git = Git::discovering(Path::new("/"));
        let call = git.call(["-c", "alias.hang=!sleep 600 & sleep 600", "hang"]).time_limit(Duration::from_millis(300));
        assert!(matches!(call.answer(), Err(Error::GitTimedOut { .. })));
        let call = git.call(["hash-object", "--stdin"]).stdin(vec![b'x'; 1_000_000]).time_limit(Duration::from_secs(60));
        assert!(call.hash().is_ok());
    }
}
