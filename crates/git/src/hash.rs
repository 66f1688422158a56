//! The hash of a commit or a tree, as a type.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The full hash of a commit: 40 (SHA-1) or 64 (SHA-256) lower-case hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CommitHash(String);

/// A text that is not the full hash of a commit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a full commit hash")]
pub struct InvalidHash(pub String);

impl CommitHash {
    /// Takes a full hash.
    ///
    /// # Errors
    /// [`InvalidHash`] for anything but 40 or 64 lower-case hexadecimal digits.
    pub fn new(text: impl Into<String>) -> Result<Self, InvalidHash> {
        let text = text.into();
        let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if matches!(text.len(), 40 | 64) && text.bytes().all(hex) { Ok(Self(text)) } else { Err(InvalidHash(text)) }
    }

    /// The hash as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first twelve digits.
    #[must_use]
    pub fn short(&self) -> &str {
        &self.0[..12]
    }

    /// The zero hash of the same length, with which git denotes "must not exist".
    pub(crate) fn zero_like(&self) -> String {
        "0".repeat(self.0.len())
    }
}

impl fmt::Display for CommitHash {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl TryFrom<String> for CommitHash {
    type Error = InvalidHash;

    fn try_from(text: String) -> Result<Self, InvalidHash> {
        Self::new(text)
    }
}

impl From<CommitHash> for String {
    fn from(commit: CommitHash) -> Self {
        commit.0
    }
}

impl std::str::FromStr for CommitHash {
    type Err = InvalidHash;

    fn from_str(text: &str) -> Result<Self, InvalidHash> {
        Self::new(text)
    }
}
