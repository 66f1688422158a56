//! Commits as values: trailers, and messages that are safe for any content.

use std::fmt::Write as _;

use crate::{CommitHash, Error, Result};

/// A trailer: key and value, as in `Loop: parser`.
pub type Trailer = (String, String);

/// A commit of the history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommitInfo {
    /// Its hash.
    pub hash: CommitHash,
    /// The hashes of its parents.
    pub parents: Vec<CommitHash>,
    /// The first line of its message, invalid UTF-8 replaced.
    pub subject: String,
    /// The trailers as parsed by git, in order.
    pub trailers: Vec<Trailer>,
}

impl CommitInfo {
    /// The value of the first trailer with this key, ignoring case.
    #[must_use]
    pub fn trailer(&self, key: &str) -> Option<&str> {
        self.trailers.iter().find(|(name, _)| name.eq_ignore_ascii_case(key)).map(|(_, value)| value.as_str())
    }
}

/// The keys that attribute a commit; other text must never be parsed as one of them.
const RESERVED_KEYS: [&str; 3] = ["Loop", "Test", "Proof"];

/// Builds a commit message from a text and trailers.
///
/// The text may be anything. Lines that git could parse as one of the trailers, as a comment, or as the end of the
/// message are indented, and no paragraph of the text is the last one, so git finds exactly the given trailers. Line
/// breaks and control characters in a trailer's value become single spaces.
///
/// # Errors
/// [`Error::BadName`] if a key is not made of ASCII letters, digits and dashes.
pub fn build_message(text: &str, trailers: &[Trailer]) -> Result<String> {
    for (key, _) in trailers {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        if key.is_empty() || !key.bytes().all(fits) || key.starts_with('-') {
            return Err(Error::BadName { name: key.clone() });
        }
    }
    let mut message = String::with_capacity(text.len() + 64);
    for line in text.trim().split('\n') {
        let line: String = line.chars().filter(|&each| each == '\t' || !each.is_control()).collect();
        let line = line.trim_end();
        if must_indent(line, trailers) {
            message.push(' ');
        }
        message.push_str(line);
        message.push('\n');
    }
    if message.trim().is_empty() {
        message = "(no message)\n".to_owned();
    }
    if !trailers.is_empty() {
        message.push('\n');
    }
    for (key, value) in trailers {
        let words: Vec<&str> =
            value.split(|each: char| each.is_control() || each.is_whitespace()).filter(|word| !word.is_empty()).collect();
        let _ = writeln!(message, "{key}: {}", words.join(" "));
    }
    Ok(message)
}

fn must_indent(line: &str, trailers: &[Trailer]) -> bool {
    let looks_like_trailer = |key: &str| {
        line.get(..key.len()).is_some_and(|start| start.eq_ignore_ascii_case(key))
            && line[key.len()..].trim_start().starts_with([':', '='])
    };
    line.starts_with('#')
        || line.starts_with("---")
        || RESERVED_KEYS.into_iter().any(looks_like_trailer)
        || trailers.iter().any(|(key, _)| looks_like_trailer(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_full_and_lower_case() {
        assert!(CommitHash::new("a".repeat(40)).is_ok());
        assert!(CommitHash::new("0".repeat(64)).is_ok());
        for bad in ["", "abc", &"A".repeat(40), &"g".repeat(40), &"a".repeat(41), "--output=x"] {
            assert!(CommitHash::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_message_keeps_its_text_and_ends_with_the_trailers() {
        let trailers = [("Loop".to_owned(), "a".to_owned()), ("Test".to_owned(), "t\nLoop: evil\r\n\n# x".to_owned())];
        let message = build_message("Add a parser\n\nIt parses.\nloop : evil\n# note\n---\n", &trailers).unwrap();
        assert_eq!(message, "Add a parser\n\nIt parses.\n loop : evil\n # note\n ---\n\nLoop: a\nTest: t Loop: evil # x\n");
    }

    #[test]
    fn bad_keys_are_refused_and_empty_text_is_named() {
        for key in ["", "a b", "a:b", "a\nb", "-a", "é"] {
            assert!(build_message("x", &[(key.to_owned(), String::new())]).is_err(), "{key}");
        }
        assert_eq!(build_message(" \n\u{7}", &[]).unwrap(), "(no message)\n");
    }
}
