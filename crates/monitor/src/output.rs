//! What an agent's output tells: that it grows, and whether it shows the same error again and again.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

/// So much of the end of a log is read.
const TAIL_BYTES: u64 = 64 << 10;
/// So many characters of a line count.
const LINE_CHARS: usize = 300;
/// A line with fewer letters than this says too little to be the same error.
const LEAST_LETTERS: usize = 8;

const ALARMING: [&str; 7] = ["error", "fail", "panic", "exception", "traceback", "fatal", "cannot "];
const REASSURING: [&str; 7] = [" 0 error", " 0 fail", "no error", "no fail", "without error", "errors: 0", "failed: 0"];

/// An error and how often the output shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repeated {
    /// One of its lines, as it stands.
    pub error: String,
    /// How many lines say the same but for numbers, paths and times.
    pub times: i64,
}

/// The error that the end of a log shows most often.
pub(crate) fn most_repeated_error(path: &Path) -> Option<Repeated> {
    let mut file = File::open(path).ok()?;
    let length = file.metadata().ok()?.len();
    let from = length.saturating_sub(TAIL_BYTES);
    file.seek(SeekFrom::Start(from)).ok()?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    // The first line of a tail is half of one.
    let whole = if from > 0 { text.split_once('\n').map_or("", |(_, rest)| rest) } else { &text };
    most_repeated(whole)
}

fn most_repeated(text: &str) -> Option<Repeated> {
    let mut seen: BTreeMap<String, (i64, &str)> = BTreeMap::new();
    for line in text.lines().map(str::trim).filter(|line| is_error(line)) {
        let normal = normalise(line);
        if normal.chars().filter(|letter| letter.is_alphabetic()).count() >= LEAST_LETTERS {
            seen.entry(normal).or_insert((0, line)).0 += 1;
        }
    }
    let (times, line) = seen.into_values().rev().max_by_key(|(times, _)| *times)?;
    let error = line.chars().filter(|letter| !letter.is_control()).take(LINE_CHARS).collect();
    Some(Repeated { error, times })
}

fn is_error(line: &str) -> bool {
    let line: String = format!(" {}", line.chars().take(LINE_CHARS).collect::<String>()).to_lowercase();
    ALARMING.iter().any(|word| line.contains(word)) && !REASSURING.iter().any(|word| line.contains(word))
}

/// The line with every number, hash, path and time replaced, so that two reports of one error are the same text.
pub(crate) fn normalise(line: &str) -> String {
    let mut normal = String::new();
    let line: String = line.chars().take(LINE_CHARS).collect();
    for word in line.split_whitespace() {
        if !normal.is_empty() {
            normal.push(' ');
        }
        if word.contains('/') || word.contains('\\') {
            normal.push_str("<path>");
        } else {
            push_without_numbers(&mut normal, word);
        }
    }
    normal
}

fn push_without_numbers(normal: &mut String, word: &str) {
    let mut part = String::new();
    for letter in word.chars().chain(std::iter::once(' ')) {
        if letter.is_alphanumeric() {
            part.push(letter);
            continue;
        }
        push_part(normal, &part);
        part.clear();
        if letter != ' ' {
            normal.push(letter);
        }
    }
}

fn push_part(normal: &mut String, part: &str) {
    let digits = part.chars().filter(char::is_ascii_digit).count();
    let hex = part.len() >= 6 && digits > 0 && part.trim_start_matches("0x").chars().all(|letter| letter.is_ascii_hexdigit());
    if hex || (digits > 0 && digits == part.len()) {
        normal.push('#');
        return;
    }
    let mut in_number = false;
    for letter in part.chars() {
        if letter.is_ascii_digit() {
            if !in_number {
                normal.push('#');
            }
            in_number = true;
        } else {
            normal.push(letter);
            in_number = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_error_reported_twice_is_one_text() {
        for (one, other) in [
            ("error: line 12: expected `;`", "error: line 7: expected `;`"),
            ("2026-11-22T10:00:00Z ERROR cannot open /tmp/a1/x", "2026-11-23T11:12:13Z ERROR cannot open /home/b/y"),
            ("panicked at src/lib.rs:10:5: index 3", "panicked at src/main.rs:99:1: index 12"),
            ("fatal: bad object deadbeef01", "fatal: bad object 0123456789abcdef"),
            ("thread 'a' (123) failed at 0x7ffe12", "thread 'a' (77) failed at 0x0012ab"),
        ] {
            assert_eq!(normalise(one), normalise(other));
        }
        assert_ne!(normalise("error: expected `;`"), normalise("error: expected `,`"));
    }

    #[test]
    fn errors_are_counted_and_other_lines_are_not() {
        let text = "compiling 1\ncompiling 2\nerror: no field `x1` in a.rs\nok\nerror: no field `x2` in a.rs\n";
        let found = most_repeated(text).unwrap();
        assert_eq!((found.error.as_str(), found.times), ("error: no field `x1` in a.rs", 2));
        assert_eq!(most_repeated(&"test result: ok. 5 passed; 0 failed\n".repeat(9)), None);
        assert_eq!(most_repeated(&"Compiling crate v1\n".repeat(99)), None);
        assert_eq!(most_repeated(&"error 12\n".repeat(9)), None);
    }

    #[test]
    fn only_the_end_of_a_log_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let text = "error: the old mistake\n".repeat(100) + &"fine\n".repeat(20_000) + &"error: the new mistake\n".repeat(3);
        std::fs::write(&path, text).unwrap();
        assert_eq!(most_repeated_error(&path), Some(Repeated { error: "error: the new mistake".to_owned(), times: 3 }));
        assert_eq!(most_repeated_error(folder.path()), None);
        assert_eq!(most_repeated_error(&folder.path().join("none")), None);
    }
}
