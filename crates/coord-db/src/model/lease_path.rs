//! What can be leased: a file, a subtree, or a named resource under a scheme.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize};

use crate::Error;

/// A normalised path relative to the repository (`src/a.rs`), a subtree (`src/`), or a resource under a scheme
/// (`port:5432`, `git:integration`). Absolute paths, `..`, NUL, empty and over-long ones do not exist as values.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct LeasePath(String);

const MAX_BYTES: usize = 4096;
const MAX_COMPONENT_BYTES: usize = 255;

impl LeasePath {
    /// The path as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// True for what a loop takes so that one of them runs the checks at the base: its events are `base_proven` and `base_red`,
    /// and a lease of its own in the timeline, of no attempt, would say less.
    pub(crate) fn is_base(&self) -> bool {
        self.0.starts_with("gate:base:")
    }

    /// True for a subtree.
    #[must_use]
    pub fn is_subtree(&self) -> bool {
        self.0.ends_with('/')
    }

    /// True if both cannot be held by two loops at once: equal, or one in the other's subtree.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        overlap(&self.0, &other.0)
    }

    /// True if a lease on this path covers all of `other`.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        self == other || (self.is_subtree() && (other.0.starts_with(&self.0) || bare(&self.0) == other.0))
    }

    /// The lease for moving the integration branch.
    #[must_use]
    pub fn integration() -> Self {
        Self("git:integration".to_owned())
    }

    /// Takes text that is already in the database, whatever it is.
    pub(crate) fn trusted(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Every path, other than a descendant, whose lease excludes a lease on this one.
    pub(crate) fn equal_or_above(&self) -> Vec<String> {
        let bare = self.0.trim_end_matches('/');
        let mut all = vec![bare.to_owned(), format!("{bare}/")];
        all.extend(bare.match_indices('/').map(|(at, _)| bare[..=at].to_owned()));
        all
    }

    /// The range `[low, high)` of text that lies in this subtree; none for a single file.
    pub(crate) fn subtree_range(&self) -> Option<(String, String)> {
        let bare = self.0.strip_suffix('/')?;
        // '0' is the character after '/'.
        Some((self.0.clone(), format!("{bare}0")))
    }
}

/// A path's name, whether it stands for a file or a subtree.
#[must_use]
pub(crate) fn bare(path: &str) -> &str {
    path.trim_end_matches('/')
}

/// The rule of [`LeasePath::overlaps`], on text.
#[must_use]
pub(crate) fn overlap(a: &str, b: &str) -> bool {
    let inside = |inner: &str, tree: &str| tree.ends_with('/') && inner.starts_with(tree);
    bare(a) == bare(b) || inside(b, a) || inside(a, b)
}

impl FromStr for LeasePath {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let refuse = |why: &str| Err(Error::Invalid(format!("path {text:?} cannot be leased: {why}")));
        if text.contains('\0') {
            return refuse("it contains NUL");
        }
        if text.starts_with('/') {
            return refuse("it is absolute; give it relative to the repository");
        }
        let mut parts = Vec::new();
        for part in text.split('/') {
            match part {
                "" | "." => {}
                ".." => return refuse("it contains '..'; give it relative to the repository"),
                part if part.len() > MAX_COMPONENT_BYTES => return refuse("one component is longer than 255 bytes"),
                part => parts.push(part),
            }
        }
        if parts.is_empty() {
            return refuse("it is empty");
        }
        let mut path = parts.join("/");
        if text.ends_with('/') || text.ends_with("/.") {
            path.push('/');
        }
        if path.len() > MAX_BYTES {
            return refuse("it is longer than 4096 bytes");
        }
        Ok(Self(path))
    }
}

impl<'de> Deserialize<'de> for LeasePath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl fmt::Display for LeasePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl crate::engine::ToParameter for LeasePath {
    fn to_parameter(&self) -> crate::engine::Parameter<'_> {
        self.0.to_parameter()
    }
}

impl crate::engine::Column for LeasePath {
    fn take(value: crate::engine::ValueRef<'_>) -> Result<Self, crate::engine::Unreadable> {
        <String as crate::engine::Column>::take(value).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> LeasePath {
        text.parse().unwrap()
    }

    #[test]
    fn paths_are_normalised_or_refused() {
        assert_eq!(path("./src//a.rs").as_str(), "src/a.rs");
        assert_eq!(path("src/./").as_str(), "src/");
        assert_eq!(path("port:5432").as_str(), "port:5432");
        for bad in ["", ".", "./", "/etc/passwd", "../a", "a/../b", "a\0b", &"x/".repeat(3000), &"y".repeat(256)] {
            assert!(bad.parse::<LeasePath>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn ancestors_and_descendants_overlap_and_siblings_do_not() {
        for (a, b, expected) in [
            ("src/", "src/a.rs", true),
            ("src/", "src/deep/a.rs", true),
            ("src/", "src", true),
            ("src/a", "src/a", true),
            ("src/a", "src/ab", false),
            ("src/a/", "src/ab", false),
            ("src", "src/a", false),
            ("db:test/", "db:test/users", true),
        ] {
            assert_eq!(path(a).overlaps(&path(b)), expected, "{a} {b}");
            assert_eq!(path(b).overlaps(&path(a)), expected, "{b} {a}");
        }
    }
}
