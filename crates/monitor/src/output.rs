//! Reads the output of an agent: does it contain anything new, and does it repeat the same error?
//!
//! One run of a compiler or of a test suite may print one error a hundred times, which is no repetition. The output is
//! therefore read in rounds, an interval apart. An error counts as repeated while each round that shows any errors
//! shows this one, and not fewer times than the round before.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;

use coord_db::{AgentOutput, LoopId, Timestamp};
use serde_json::{Value, json};

/// The end of an agent's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Time of the last write by the agent or by a check of its work.
    pub written_at: Timestamp,
    /// The log of the current attempt, or the newest log.
    pub log: String,
    /// Its length in bytes.
    pub bytes: i64,
    /// Time of the last write to this log.
    pub changed_at: Timestamp,
    /// The end of the log.
    pub tail: Arc<[u8]>,
}

/// Size of the part at the end of a log that is read.
const TAIL_BYTES: u64 = 64 << 10;
/// Number of characters of a line that are compared.
const LINE_CHARS: usize = 300;
/// Minimum number of letters of a line that can count as an error.
const MIN_LETTERS: usize = 8;
/// Maximum number of errors followed from one round to the next, most frequent first.
const MAX_ERRORS: usize = 32;

const ALARMING: [&str; 7] = ["error", "fail", "panic", "exception", "traceback", "fatal", "cannot "];
const REASSURING: [&str; 7] = [" 0 error", " 0 fail", "no error", "no fail", "without error", "errors: 0", "failed: 0"];

/// An error and the number of consecutive rounds that show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repeated {
    /// One of its lines, verbatim.
    pub error: String,
    /// Number of consecutive rounds with this error, ignoring numbers, paths and times.
    pub times: i64,
}

/// The end of a log, and the length of the whole log in bytes.
pub(crate) fn tail(path: &Path) -> Option<(Vec<u8>, u64)> {
    let mut file = File::open(path).ok()?;
    let length = file.metadata().ok()?.len();
    let from = length.saturating_sub(TAIL_BYTES);
    file.seek(SeekFrom::Start(from)).ok()?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut bytes).ok()?;
    let read = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    Some((bytes, from.saturating_add(read)))
}

/// Advances the stored state by what the log contains now. Unchanged if there is no new line or the interval is not over.
#[must_use]
pub fn read_on(loop_id: &LoopId, known: Option<&AgentOutput>, seen: &Output, interval_seconds: i64) -> AgentOutput {
    let end = end_of_lines(seen);
    let known = known.filter(|known| known.log == seen.log && known.read_bytes <= end);
    let Some(known) = known else {
        return AgentOutput {
            loop_id: loop_id.to_string(),
            log: seen.log.clone(),
            read_bytes: end,
            read_at: seen.changed_at,
            news_at: seen.changed_at,
            errors: next_errors(&Value::Null, &errors(&text(seen, 0, end))),
        };
    };
    let apart = seen.changed_at.millis_since(known.read_at).abs() >= interval_seconds.saturating_mul(1000);
    if end == known.read_bytes || !apart {
        return known.clone();
    }
    let new = text(seen, known.read_bytes, end);
    let start = start(seen);
    // If the whole tail is new, compare its second half with its first half.
    let says_new = if known.read_bytes > start {
        has_news(&text(seen, start, known.read_bytes), &new)
    } else {
        let middle = start.saturating_add((end - start) / 2);
        let later = text(seen, middle, end);
        has_news(&text(seen, start, middle), later.split_once('\n').map_or("", |(_, whole)| whole))
    };
    AgentOutput {
        read_bytes: end,
        read_at: seen.changed_at,
        news_at: if says_new { seen.changed_at } else { known.news_at },
        errors: next_errors(&known.errors, &errors(&new)),
        ..known.clone()
    }
}

/// The error with the highest number of consecutive rounds.
#[must_use]
pub fn most_repeated(known: &AgentOutput) -> Option<Repeated> {
    let rows = known.errors.as_object()?.values();
    let (times, error) = rows
        .filter_map(|row| Some((row.get("times")?.as_i64()?, row.get("example")?.as_str()?)))
        .max_by_key(|(times, _)| *times)?;
    Some(Repeated { error: error.to_owned(), times })
}

/// Offset in the log at which the tail starts.
fn start(seen: &Output) -> i64 {
    seen.bytes.saturating_sub(i64::try_from(seen.tail.len()).unwrap_or(i64::MAX)).max(0)
}

/// Offset of the end of the last complete line. A carriage return ends a line too.
fn end_of_lines(seen: &Output) -> i64 {
    let start = start(seen);
    let last = seen.tail.iter().rposition(|byte| matches!(byte, b'\n' | b'\r'));
    last.map_or(start, |at| start.saturating_add(i64::try_from(at).unwrap_or(0)).saturating_add(1))
}

/// The text between two offsets of the log, limited to the tail.
fn text(seen: &Output, from: i64, to: i64) -> String {
    let start = start(seen);
    let place = |at: i64| usize::try_from((at - start).max(0)).unwrap_or(usize::MAX).min(seen.tail.len());
    let bytes = seen.tail.get(place(from)..place(to)).unwrap_or_default();
    let text = String::from_utf8_lossy(bytes);
    // The first line of a tail is incomplete.
    if from <= start && start > 0 { text.split_once('\n').map_or("", |(_, rest)| rest).to_owned() } else { text.into_owned() }
}

fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.split(['\n', '\r']).map(str::trim).filter(|line| !line.is_empty())
}

fn has_news(old: &str, new: &str) -> bool {
    // A different path is new; a different number is not.
    let without_numbers = |line| replaced(line, |_| false);
    let old: BTreeSet<String> = lines(old).map(without_numbers).collect();
    lines(new).any(|line| !old.contains(&without_numbers(line)))
}

/// The errors in a text: by normalized line, an example and the number of occurrences.
fn errors(text: &str) -> BTreeMap<String, (String, i64)> {
    let mut seen: BTreeMap<String, (String, i64)> = BTreeMap::new();
    for line in lines(text).filter(|line| is_error(line)) {
        let normal = normalise(line);
        if normal.chars().filter(|letter| letter.is_alphabetic()).count() >= MIN_LETTERS {
            let example = || line.chars().filter(|letter| !letter.is_control()).take(LINE_CHARS).collect();
            seen.entry(normal).or_insert_with(|| (example(), 0)).1 += 1;
        }
    }
    seen
}

fn next_errors(known: &Value, seen: &BTreeMap<String, (String, i64)>) -> Value {
    if seen.is_empty() {
        return if known.is_object() { known.clone() } else { json!({}) };
    }
    let before = |error: &str, field: &str| known.get(error)?.get(field)?.as_i64();
    let mut most: Vec<_> = seen.iter().collect();
    most.sort_by_key(|(error, (_, shown))| (std::cmp::Reverse(before(error, "times").unwrap_or(0)), std::cmp::Reverse(*shown)));
    let next = |(error, (example, shown)): (&String, &(String, i64))| {
        let again = before(error, "shown").is_some_and(|last| *shown >= last);
        let times = if again { before(error, "times").unwrap_or(0).saturating_add(1) } else { 1 };
        (error.clone(), json!({"example": example, "times": times, "shown": shown}))
    };
    Value::Object(most.into_iter().take(MAX_ERRORS).map(next).collect())
}

fn is_error(line: &str) -> bool {
    let line: String = format!(" {}", line.chars().take(LINE_CHARS).collect::<String>()).to_lowercase();
    ALARMING.iter().any(|word| line.contains(word)) && !REASSURING.iter().any(|word| line.contains(word))
}

/// Replaces every number, hash, path and time in a line, so that two reports of one error become equal.
fn normalise(line: &str) -> String {
    replaced(line, |word| word.contains(['/', '\\']))
}

fn replaced(line: &str, is_path: impl Fn(&str) -> bool) -> String {
    let mut normal = String::new();
    let line: String = line.chars().take(LINE_CHARS).collect();
    for word in line.split_whitespace() {
        if !normal.is_empty() {
            normal.push(' ');
        }
        if is_path(word) {
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
    use coord_db::Timestamp;

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

    const START: Timestamp = Timestamp::from_millis(1_800_000_000_000);

    fn seen(text: &str, seconds: i64) -> Output {
        Output {
            written_at: START.plus_seconds(seconds),
            log: "t-1.log".to_owned(),
            bytes: i64::try_from(text.len()).unwrap(),
            changed_at: START.plus_seconds(seconds),
            tail: text.as_bytes().into(),
        }
    }

    /// Reads a log that grows by one piece at each of these seconds.
    fn read(pieces: &[(i64, &str)]) -> AgentOutput {
        let mut log = String::new();
        let mut known = None;
        for (seconds, piece) in pieces {
            log.push_str(piece);
            known = Some(read_on(&"a".parse().unwrap(), known.as_ref(), &seen(&log, *seconds), 30));
        }
        known.unwrap()
    }

    fn times(pieces: &[(i64, &str)]) -> i64 {
        most_repeated(&read(pieces)).map_or(0, |repeated| repeated.times)
    }

    #[test]
    fn an_error_is_repeated_by_rounds_and_not_by_lines() {
        let many = "error: no field `x1` in a.rs\n".repeat(40);
        assert_eq!(times(&[(0, &many)]), 1);
        // All of one run, and read within one interval.
        assert_eq!(times(&[(0, &many), (10, &many), (20, &many)]), 1);
        let again = [(0, "error: cannot open file 1\n"), (40, "thinking\nerror: cannot open file 2\n"), (80, "hm\n")];
        assert_eq!(times(&again), 2);
        let repeated = most_repeated(&read(&again)).unwrap();
        assert_eq!(repeated, Repeated { error: "error: cannot open file 2".to_owned(), times: 2 });
        assert_eq!(times(&[(0, "test result: ok. 5 passed; 0 failed\n"), (40, "error 12\n"), (80, "error 13\n")]), 0);
    }

    #[test]
    fn an_error_that_decreases_or_is_replaced_is_not_repeated() {
        let (three, two) = ("error: no type Foo here\n".repeat(3), "error: no type Foo here\n".repeat(2));
        assert_eq!(times(&[(0, &three), (40, &three), (80, &three)]), 3);
        assert_eq!(times(&[(0, &three), (40, &two), (80, "error: no type Foo here\n")]), 1);
        assert_eq!(times(&[(0, &three), (40, &three), (80, "error: something else\n"), (120, &three)]), 1);
        assert_eq!(times(&[(0, &three), (40, &three), (80, "all is well\n"), (120, &three)]), 3);
    }

    #[test]
    fn the_same_words_again_are_no_news() {
        let after = |piece: &str| read(&[(0, "begins\n"), (60, "waiting 1 s\n"), (120, piece)]).news_at;
        assert_eq!(after("waiting 2 s\n"), START.plus_seconds(60));
        assert_eq!(after("waiting 2 s\rwaiting 3 s\r"), START.plus_seconds(60));
        assert_eq!(after("waiting 2 s\ngot it\n"), START.plus_seconds(120));
        assert_eq!(after("got"), START.plus_seconds(60), "a line that is not whole says nothing yet");
    }

    #[test]
    fn a_flood_of_the_same_line_is_no_news_even_where_nothing_older_is_left() {
        let flood = |from: i64| Output {
            bytes: from + 65_536,
            tail: "the same line again\n".repeat(4000).into_bytes()[..65_536].into(),
            ..seen("", from)
        };
        let id = "a".parse().unwrap();
        let first = read_on(&id, None, &flood(0), 30);
        let later = read_on(&id, Some(&first), &flood(1_000_000), 30);
        assert_eq!(later.news_at, START);
        assert_eq!(later.read_at, START.plus_seconds(1_000_000));
    }

    #[test]
    fn another_log_or_a_shorter_one_starts_again() {
        let known = read(&[(0, "error: the old mistake\n"), (60, "error: the old mistake\n")]);
        let id = "a".parse().unwrap();
        let other = Output { log: "t-2.log".to_owned(), ..seen("error: the old mistake\n", 120) };
        assert_eq!(most_repeated(&read_on(&id, Some(&known), &other, 30)).unwrap().times, 1);
        let short = read_on(&id, Some(&known), &seen("fine\n", 120), 30);
        assert_eq!((most_repeated(&short), short.read_bytes), (None, 5));
    }

    #[test]
    fn only_the_end_of_a_log_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let text = "error: the old mistake\n".repeat(100) + &"fine\n".repeat(20_000) + "error: the new mistake\n";
        std::fs::write(&path, &text).unwrap();
        let (tail, bytes) = tail(&path).unwrap();
        assert_eq!((tail.len(), bytes), (65_536, u64::try_from(text.len()).unwrap()));
        let output = Output { bytes: i64::try_from(bytes).unwrap(), tail: tail.into(), ..seen("", 0) };
        let known = read_on(&"a".parse().unwrap(), None, &output, 30);
        assert_eq!(most_repeated(&known).unwrap().error, "error: the new mistake");
        assert_eq!(super::tail(&folder.path().join("none")), None);
    }
}
