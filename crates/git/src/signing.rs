//! Signed commits: only landing commits are signed, with the key and program of the user's git configuration.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::time::Duration;

use crate::call::fields;
use crate::commit::build_message;
use crate::{CommitHash, Error, Repository, Result, Store, Trailer};

/// Nobody can type a passphrase here; an agent that holds the key answers at once.
const TIME_LIMIT: Duration = Duration::from_secs(30);

impl Store {
    /// Like [`Store::commit`], signed according to the git configuration of the user's repository.
    ///
    /// # Errors
    /// [`Error::NotSigned`] if signing fails or waits for a passphrase; [`Error::BadName`] for a trailer's key.
    pub fn signed_commit(
        &self,
        user: &Repository,
        tree: &CommitHash,
        parents: &[&CommitHash],
        message: &str,
        trailers: &[Trailer],
    ) -> Result<CommitHash> {
        let stdout = user.git.call(["config", "-z", "--get-regexp", r"^(user\.signingkey|gpg\..*)$"]).answer()?.stdout;
        let mut args: Vec<OsString> = Vec::new();
        for entry in fields(&stdout) {
            let setting = entry.iter().map(|&byte| if byte == b'\n' { b'=' } else { byte }).collect();
            args.extend(["-c".into(), OsString::from_vec(setting)]);
        }
        args.extend(["commit-tree", tree.as_str(), "-S", "-F", "-"].map(OsString::from));
        for parent in parents {
            args.extend(["-p", parent.as_str()].map(OsString::from));
        }
        let call = self.git().call(args).stdin(build_message(message, trailers)?).with_identity().time_limit(TIME_LIMIT);
        match call.answer() {
            Ok(answer) if answer.code == Some(0) => call.parse_hash(&answer.stdout),
            Ok(answer) => {
                let why = answer.stderr.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(", ");
                Err(Error::NotSigned { why })
            }
            Err(Error::GitTimedOut { seconds, .. }) => {
                Err(Error::NotSigned { why: format!("the signing program did not end within {seconds} s") })
            }
            Err(error) => Err(error),
        }
    }
}
