//! The remote repository at which several machines meet: the truth of integration is a branch there, moved by
//! compare-and-swap, and our other references have copies there.
//!
//! The store's own integration is what was seen at the remote last. It must never move without the remote, and nothing at
//! the remote moves from a value that was not seen.

use std::time::Duration;

use crate::call::{Answer, Call};
use crate::settings::{REMOTE, replace_setting};
use crate::store::{NamedRef, write_settings};
use crate::{CommitHash, Error, RefExpectation, Repository, Result, Store};

/// The head of integration at the remote when it was seen last.
const SEEN: &str = "refs/coding-loops/remote/seen";

/// Work that waits to land; the other machines need it.
const QUEUED: &str = "refs/coding-loops/queued/";

/// The name of the remote in the store: no command line of ours has its address, which may hold a password. git itself gives one with
/// http to its helper; a credential helper keeps passwords out of addresses.
const NAME: &str = "codingloops";

/// Time limits: of a question, of moving integration, and of carrying much.
const ASK_LIMIT: Duration = Duration::from_secs(20);
const MOVE_LIMIT: Duration = Duration::from_secs(120);
const CARRY_LIMIT: Duration = Duration::from_secs(600);

/// How long a push that was cut off may still arrive: the kernel gives up a broken connection after a quarter of an hour.
pub const ARRIVAL_LIMIT: Duration = Duration::from_secs(1200);

/// Variables that say how to reach a remote.
const CONNECTION: [&str; 4] = ["GIT_SSH", "GIT_SSH_COMMAND", "GIT_SSH_VARIANT", "GIT_ASKPASS"];

/// What was found at the remote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refreshed {
    /// The store has no remote.
    NoRemote,
    /// The store's integration is what the remote has, or was brought there.
    Same,
    /// The store's integration was moved to what others have landed.
    Moved {
        /// The new head.
        to: CommitHash,
    },
    /// The remote lacks commits of integration: somebody has moved or deleted its branch. Nothing was changed.
    Diverged {
        /// The head of the branch; none if it was deleted.
        found: Option<CommitHash>,
    },
}

impl Store {
    /// The address of the remote, without a password; none if integration is this store's alone.
    #[must_use]
    pub fn remote(&self) -> Option<String> {
        self.remote.as_deref().map(without_password)
    }

    /// Sets the remote: an address, or the name of a remote of the user's repository; empty for none.
    ///
    /// # Errors
    /// [`Error::UnknownRemote`], [`Error::RemoteIsOwn`].
    pub fn set_remote(&mut self, user: &Repository, name: &str) -> Result<()> {
        let address = if name.is_empty() { None } else { Some(address_of(user, name)?) };
        if address == self.remote {
            return Ok(());
        }
        replace_setting(&self.path().join("config"), REMOTE, address.as_deref())?;
        write_settings(user, self.path(), self.integration_ref())?;
        // What was seen elsewhere says nothing about this one.
        self.repository().delete_ref(SEEN, &RefExpectation::Any)?;
        self.remote = address;
        Ok(())
    }

    /// Brings integration, and the work that waits to land, from the remote. A remote without integration gets it.
    ///
    /// # Errors
    /// [`Error::RemoteUnreachable`], [`Error::RemoteRefused`].
    pub fn refresh(&self) -> Result<Refreshed> {
        let Some(remote) = &self.remote else { return Ok(Refreshed::NoRemote) };
        let there = self.list_remote(remote, &[self.integration_ref(), &format!("{QUEUED}*")])?;
        let (integration, queued): (Vec<_>, Vec<_>) = there.into_iter().partition(|(name, _)| name == self.integration_ref());
        self.fetch(remote, &integration)?;
        // The work of another machine can be deleted meanwhile, or be broken; this one is not concerned.
        match self.fetch(remote, &queued) {
            Err(Error::RemoteRefused { .. }) => {
                for one in &queued {
                    if let Err(error) = self.fetch(remote, std::slice::from_ref(one)) {
                        tracing::debug!(%error, name = one.0, "cannot fetch queued work of another machine");
                    }
                }
            }
            Err(error) => tracing::debug!(%error, "cannot fetch the queued work of other machines"),
            Ok(()) => {}
        }
        let head = integration.into_iter().next().map(|(_, commit)| commit);
        let (ours, seen) = (self.integration()?, self.repository().resolve(SEEN)?);
        match (ours, head) {
            (None, None) => Ok(Refreshed::Same),
            (Some(ours), Some(head)) if ours == head => {
                self.note_seen(&head)?;
                Ok(Refreshed::Same)
            }
            (ours, Some(head)) => {
                let is_newer = match &ours {
                    Some(ours) => self.repository().is_ancestor(ours, &head)?,
                    None => true,
                };
                if is_newer {
                    let old = ours.map_or(RefExpectation::Absent, RefExpectation::At);
                    self.follow_remote(&head, &old)?;
                    return Ok(Refreshed::Moved { to: head });
                }
                match ours {
                    // The first time: it has an earlier state of ours.
                    Some(ours) if seen.is_none() && self.repository().is_ancestor(&head, &ours)? => {
                        self.push_integration(remote, &ours, Some(&head))?;
                        Ok(Refreshed::Same)
                    }
                    _ => Ok(Refreshed::Diverged { found: Some(head) }),
                }
            }
            (Some(_), None) if seen.is_some() => Ok(Refreshed::Diverged { found: None }),
            (Some(ours), None) => {
                self.push_integration(remote, &ours, None)?;
                Ok(Refreshed::Same)
            }
        }
    }

    /// Puts the store's integration over what somebody else has put there, if that is still what was found.
    ///
    /// # Errors
    /// [`Error::RefMoved`] if it is not.
    pub fn overwrite_remote(&self, found: Option<&CommitHash>) -> Result<()> {
        let (Some(remote), Some(ours)) = (&self.remote, self.integration()?) else { return Ok(()) };
        self.push_integration(remote, &ours, found)
    }

    /// Moves integration to what somebody else has put at the remote, whatever it loses.
    ///
    /// # Errors
    /// [`Error::RefMoved`] if integration is not at the expected commit.
    pub fn take_from_remote(&self, head: &CommitHash, expected: &CommitHash) -> Result<()> {
        self.follow_remote(head, &RefExpectation::At(expected.clone()))
    }

    /// Brings back the references that have copies at the remote and are missing here. Gives their names.
    pub fn bring_back(&self, prefixes: &[&str]) -> Result<Vec<String>> {
        let Some(remote) = &self.remote else { return Ok(Vec::new()) };
        let mut lost = self.sent()?;
        lost.retain(|(name, _)| prefixes.iter().any(|prefix| name.starts_with(prefix)));
        let here = self.repository().list_refs("refs/coding-loops")?;
        lost.retain(|(name, _)| !here.iter().any(|(known, _)| known == name));
        self.fetch(remote, &lost)?;
        for (name, commit) in &lost {
            self.repository().set_ref(name, commit, &RefExpectation::Absent)?;
        }
        Ok(lost.into_iter().map(|(name, _)| name).collect())
    }

    /// Our references that have copies at the remote, other than integration.
    pub fn sent(&self) -> Result<Vec<NamedRef>> {
        let Some(remote) = &self.remote else { return Ok(Vec::new()) };
        self.list_remote(remote, &["refs/coding-loops/*"])
    }

    /// Copies references to the remote, under their names, and deletes the copies of others there.
    pub fn send(&self, refs: &[NamedRef], deleted: &[String]) -> Result<()> {
        let Some(remote) = &self.remote else { return Ok(()) };
        let copied = refs.iter().map(|(name, commit)| format!("+{commit}:{name}"));
        let specs: Vec<String> = copied.chain(deleted.iter().map(|name| format!(":{name}"))).collect();
        if specs.is_empty() {
            return Ok(());
        }
        let call = self.talk(["push", "--porcelain", "--no-verify", NAME]).args(specs).time_limit(CARRY_LIMIT);
        let answer = answer_of(&call, remote)?;
        if answer.code == Some(0) { Ok(()) } else { Err(refused(remote, &answer)) }
    }

    /// Moves integration at the remote by compare-and-swap. If the answer is lost, the remote is asked.
    ///
    /// # Errors
    /// [`Error::RefMoved`] if it is not at the expected commit, and does not contain the new one. After
    /// [`Error::RemoteUnreachable`] it may have moved.
    pub(crate) fn push_integration(&self, remote: &str, new: &CommitHash, expected: Option<&CommitHash>) -> Result<()> {
        let name = self.integration_ref();
        let lease = format!("--force-with-lease={name}:{}", expected.map(CommitHash::as_str).unwrap_or_default());
        let call = self.talk(["push", "--porcelain", "--no-verify", &lease, NAME, &format!("{new}:{name}")]);
        let pushed = answer_of(&call.time_limit(MOVE_LIMIT), remote);
        if let Ok(answer) = &pushed
            && answer.code == Some(0)
        {
            return self.note_seen(new);
        }
        let there = self.list_remote(remote, &[name])?;
        self.fetch(remote, &there)?;
        let found = there.into_iter().next().map(|(_, commit)| commit);
        if let Some(found) = &found
            && self.repository().is_ancestor(new, found)?
        {
            return self.note_seen(new);
        }
        if found.as_ref() != expected {
            return Err(Error::RefMoved { name: name.to_owned(), expected: expected.cloned(), found });
        }
        Err(pushed.map_or_else(|error| error, |answer| refused(remote, &answer)))
    }

    /// Moves the store's integration to what the remote has.
    pub(crate) fn follow_remote(&self, head: &CommitHash, old: &RefExpectation) -> Result<()> {
        match self.repository().set_ref(self.integration_ref(), head, old) {
            // Another process of this machine has brought it, or more.
            Err(Error::RefMoved { found: Some(found), .. }) if self.repository().is_ancestor(head, &found)? => {}
            moved => moved?,
        }
        self.note_seen(head)
    }

    fn note_seen(&self, head: &CommitHash) -> Result<()> {
        self.repository().set_ref(SEEN, head, &RefExpectation::Any)
    }

    /// The references of the remote that match a pattern.
    fn list_remote(&self, remote: &str, patterns: &[&str]) -> Result<Vec<NamedRef>> {
        let call = self.talk(["ls-remote", "--refs", NAME]).args(patterns);
        let answer = answer_of(&call, remote)?;
        if answer.code != Some(0) {
            return Err(refused(remote, &answer));
        }
        let text = String::from_utf8_lossy(&answer.stdout);
        let parse = |line: &str| {
            let (hash, name) = line.split_once('\t').ok_or_else(|| call.unexpected("a line without a tab"))?;
            let hash = CommitHash::new(hash).map_err(|error| call.unexpected(error.to_string()))?;
            Ok((name.to_owned(), hash))
        };
        let mut found: Vec<NamedRef> = text.lines().map(parse).collect::<Result<_>>()?;
        // git compares a pattern with the end of a name too.
        let is_meant = |name: &str, pattern: &str| match pattern.strip_suffix('*') {
            Some(beginning) => name.starts_with(beginning),
            None => name == pattern,
        };
        found.retain(|(name, _)| patterns.iter().any(|pattern| is_meant(name, pattern)));
        Ok(found)
    }

    /// Fetches the commits of the remote's references that the store lacks, in whole or in part: a fetch that was killed may have
    /// left a commit without its files.
    fn fetch(&self, remote: &str, there: &[NamedRef]) -> Result<()> {
        let commits: Vec<CommitHash> = there.iter().map(|(_, commit)| commit.clone()).collect();
        if self.are_whole(&commits)? {
            return Ok(());
        }
        let options =
            ["fetch", "--quiet", "--no-tags", "--no-auto-maintenance", "--no-write-fetch-head", "--no-recurse-submodules"];
        let names = there.iter().map(|(name, _)| name);
        let call = self.talk(options).arg(NAME).args(names).time_limit(CARRY_LIMIT);
        let answer = answer_of(&call, remote)?;
        if answer.code == Some(0) { Ok(()) } else { Err(refused(remote, &answer)) }
    }

    /// A conversation with the remote, as the user would have it: with their credentials and their way of connecting.
    fn talk<const N: usize>(&self, args: [&str; N]) -> Call<'_> {
        let call = self.git().call(args).time_limit(ASK_LIMIT);
        CONNECTION.iter().fold(call, |call, name| match std::env::var_os(name) {
            Some(value) => call.env(name, value),
            None => call,
        })
    }
}

/// The address of a remote of the user's repository; what is no name of one is an address.
///
/// # Errors
/// [`Error::UnknownRemote`], [`Error::RemoteIsOwn`].
pub fn address_of(user: &Repository, name: &str) -> Result<String> {
    let answer = user.git.call(["remote", "get-url", "--push", "--", name]).answer()?;
    let text = if answer.code == Some(0) { String::from_utf8_lossy(&answer.stdout).trim().to_owned() } else { name.to_owned() };
    let is_path = text.starts_with('/') || text.starts_with("./") || text.starts_with("../");
    if is_path || text.starts_with("file://") {
        let path = user.root().join(text.strip_prefix("file://").unwrap_or(&text));
        let own = [user.root(), user.common_dir()].map(|own| own.canonicalize().ok());
        if path.canonicalize().is_ok_and(|path| own.contains(&Some(path))) {
            return Err(Error::RemoteIsOwn { name: name.to_owned() });
        }
        return Ok(if is_path { path.to_string_lossy().into_owned() } else { text });
    }
    if text.contains(':') && !text.starts_with('-') { Ok(text) } else { Err(Error::UnknownRemote { name: name.to_owned() }) }
}

/// An address without what may be secret in it: `https://user:secret@host/x?token=y` as `https://host/x`. The user of ssh stays.
#[must_use]
pub fn without_password(address: &str) -> String {
    let (scheme, rest) = match address.split_once("://") {
        Some((scheme, rest)) => (format!("{scheme}://"), rest),
        None if address.starts_with(['/', '.']) => return address.to_owned(),
        None => (String::new(), address),
    };
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    let shown = match rest.rsplit_once('@') {
        Some((user, host)) if scheme.starts_with("http") || user.contains(':') => match user.split_once(':') {
            Some((user, _)) if !scheme.starts_with("http") => format!("{user}@{host}"),
            _ => host.to_owned(),
        },
        _ => rest.to_owned(),
    };
    scheme + &shown
}

fn answer_of(call: &Call<'_>, remote: &str) -> Result<Answer> {
    match call.answer() {
        Err(Error::GitTimedOut { seconds, .. }) => {
            Err(Error::RemoteUnreachable { remote: without_password(remote), why: format!("no answer within {seconds} s") })
        }
        Ok(answer) if is_unreachable(&answer) => {
            Err(Error::RemoteUnreachable { remote: without_password(remote), why: reason(remote, &answer) })
        }
        answered => answered,
    }
}

/// True if git could not connect, or the connection broke. A refusal is an answer: of the server's hooks, or of its rights.
fn is_unreachable(answer: &Answer) -> bool {
    const SIGNS: [&str; 16] = [
        "Could not resolve host",
        "Couldn't connect",
        "Failed to connect",
        "Connection refused",
        "Connection reset",
        "Connection timed out",
        "Connection closed",
        "Network is unreachable",
        "No route to host",
        "Temporary failure in name resolution",
        "timed out",
        "unexpected disconnect",
        "early EOF",
        "the remote end hung up",
        "does not appear to be a git repository",
        "unable to connect",
    ];
    // What the server's hooks say is marked, and is an answer.
    let own = answer.stderr.lines().filter(|line| !line.starts_with("remote:"));
    let is_rejected = answer.stdout.windows(REJECTED.len()).any(|part| part == REJECTED);
    answer.code != Some(0) && !is_rejected && own.into_iter().any(|line| SIGNS.iter().any(|sign| line.contains(sign)))
}

fn refused(remote: &str, answer: &Answer) -> Error {
    Error::RemoteRefused { remote: without_password(remote), why: reason(remote, answer) }
}

/// How git marks a reference that the server has refused.
const REJECTED: &[u8] = b"[remote rejected]";

/// Maximum number of lines of git in an error.
const MAX_LINES: usize = 4;

/// Beginnings of lines of git that say nothing about the cause.
const ADVICE: [&str; 5] = [
    "hint:",
    "To ",
    "fatal: Could not read from remote repository",
    "Please make sure you have the correct access rights",
    "and the repository exists",
];

/// What git and the server say, without a password in it.
fn reason(remote: &str, answer: &Answer) -> String {
    let rejected = String::from_utf8_lossy(&answer.stdout);
    let rejected = rejected.lines().filter(|line| line.starts_with('!')).map(|line| line.trim_start_matches('!').trim());
    let is_advice = |line: &&str| ADVICE.iter().any(|advice| line.starts_with(advice));
    let said = answer.stderr.lines().map(str::trim).filter(|line| !line.is_empty() && !is_advice(line));
    let all: Vec<&str> = rejected.chain(said).take(MAX_LINES).collect();
    all.join("; ").replace('\t', " ").replace(remote, &without_password(remote))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_never_shown() {
        for (address, shown) in [
            ("https://bot:s3cret@example.com/a/b.git", "https://example.com/a/b.git"),
            ("https://bot:s3c/ret@example.com/a", "https://example.com/a"),
            ("https://ghp_s3cret@example.com", "https://example.com"),
            ("https://example.com/a?private_token=s3cret", "https://example.com/a"),
            ("ssh://git@example.com:22/a", "ssh://git@example.com:22/a"),
            ("ssh://git:s3cret@example.com:22/a", "ssh://git@example.com:22/a"),
            ("git@example.com:a/b.git", "git@example.com:a/b.git"),
            ("bot:s3cret@example.com/x", "bot@example.com/x"),
            ("/srv/a@b:c.git", "/srv/a@b:c.git"),
        ] {
            assert_eq!(without_password(address), shown);
        }
        let answer = Answer { code: Some(128), stdout: Vec::new(), stderr: "fatal: https://a:b@c/ not found".to_owned() };
        assert_eq!(reason("https://a:b@c/", &answer), "fatal: https://c/ not found");
    }
}
