//! Decides whether a check fails on the work in the same way as at the base. Pure.
//!
//! The lines that state a failure are compared, without what varies between runs: durations, line numbers, addresses,
//! folders. A statement that appears only with the work is a failure of the work.

use std::collections::BTreeMap;

use crate::agents::plain;

/// Number of lines of a failure that are kept, from the start.
pub(crate) const MAX_LINES: usize = 500;
/// Number of characters of a line that are kept.
const LINE_CHARS: usize = 300;
/// Number of characters of a line in a message.
const SHOWN_CHARS: usize = 160;

/// The failure of a check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    /// Description: the exit status, or why it could not run.
    pub(crate) why: String,
    /// The exit status; none if it did not exit.
    pub(crate) exit_code: Option<i64>,
    /// The lines that state a failure, verbatim; none if unknown.
    pub(crate) lines: Option<Vec<String>>,
}

/// The result of a comparison with the base.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Likeness {
    Same,
    /// No difference was found; with the reason why that is no proof of equality.
    Unclear(String),
    /// The difference.
    Different(String),
}

/// Extracts the lines that state a failure. `root` is the folder in which the check ran.
pub(crate) fn failing_lines(output: &str, root: &str) -> Vec<String> {
    let output =
        if root.is_empty() { output.to_owned() } else { output.replace(&format!("{}/", root.trim_end_matches('/')), "") };
    let lines = output.lines().map(plain).filter(|line| states_failure(line));
    lines.map(|line| line.chars().take(LINE_CHARS).collect()).take(MAX_LINES).collect()
}

/// Compares a failure of the work with that of the same check at the base.
pub(crate) fn compare(base: &Failure, work: &Failure) -> Likeness {
    let is_plain = |failure: &Failure| matches!(failure.exit_code, Some(code) if !matches!(code, 0 | 126 | 127));
    if !is_plain(base) || !is_plain(work) {
        return if base.why == work.why {
            Likeness::Same
        } else {
            Likeness::Different(format!("{}, but at the base: {}", work.why, base.why))
        };
    }
    let (Some(known), Some(lines)) = (&base.lines, &work.lines) else {
        return Likeness::Unclear("the output of the two runs was not recorded".to_owned());
    };
    let (known_forms, forms) = (by_form(known), by_form(lines));
    for line in lines {
        let (form, numbers) = form_of(line);
        let Some(before) = known_forms.get(&form) else {
            return Likeness::Different(format!("not printed at the base: {}", shown(line)));
        };
        if numbers.iter().zip(&before.numbers).any(|(now, before)| now > before) {
            return Likeness::Different(format!("more failures than at the base: {}", shown(line)));
        }
    }
    match (known.is_empty(), lines.is_empty()) {
        // Some runners exit with the number of failures, so fewer lines may come with a different status.
        _ if base.exit_code != work.exit_code && lines.len() >= known.len() => {
            Likeness::Different(format!("{}, but at the base: {}", work.why, base.why))
        }
        (true, true) => Likeness::Unclear("neither run prints a line that states a failure".to_owned()),
        (false, true) => Likeness::Different(format!("printed only at the base: {}", shown(&known[0]))),
        _ if known.len() >= MAX_LINES || lines.len() >= MAX_LINES => {
            Likeness::Unclear(format!("only the first {MAX_LINES} lines that state a failure were compared"))
        }
        _ => match forms.iter().find(|(form, seen)| known_forms.get(*form).is_some_and(|before| seen.times > before.times)) {
            Some((_, seen)) => Likeness::Unclear(format!("printed more often than at the base: {}", shown(seen.line))),
            None => Likeness::Same,
        },
    }
}

/// Lines that are equal except for what varies between runs.
struct Seen<'a> {
    line: &'a str,
    times: usize,
    /// The numbers of failures in them, by position.
    numbers: Vec<u64>,
}

fn by_form(lines: &[String]) -> BTreeMap<String, Seen<'_>> {
    let mut forms: BTreeMap<String, Seen<'_>> = BTreeMap::new();
    for line in lines {
        let (form, numbers) = form_of(line);
        let seen = forms.entry(form).or_insert_with(|| Seen { line, times: 0, numbers: numbers.clone() });
        seen.times += 1;
        seen.numbers.iter_mut().zip(numbers).for_each(|(most, number)| *most = number.max(*most));
    }
    forms
}

fn shown(line: &str) -> String {
    line.chars().take(SHOWN_CHARS).collect()
}

/// Words that indicate a failure.
const FAILURES: &[&str] = &[
    "fail",
    "fails",
    "failed",
    "failing",
    "failure",
    "failures",
    "error",
    "errors",
    "errored",
    "fatal",
    "panic",
    "panicked",
    "exception",
    "aborted",
    "segfault",
    "traceback",
    "timeout",
    "undefined",
    "unresolved",
];
/// Phrases that indicate a failure.
const PHRASES: &[&str] = &["not ok", "timed out", "cannot ", "could not ", "not found", "no such ", "segmentation fault"];
/// Symbols that runners print before a failed test.
const MARKS: &[char] = &['✗', '✘', '✕', '✖', '×', '●', '❌'];

fn is_failure_word(word: &str) -> bool {
    FAILURES.contains(&word) || word.len() > 5 && (word.ends_with("error") || word.ends_with("exception"))
}

/// The words of a line in lower case, with compound names split.
fn words(line: &str) -> Vec<String> {
    let lower = line.to_lowercase();
    lower.split(|letter: char| !letter.is_alphanumeric()).filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

fn states_failure(line: &str) -> bool {
    if is_pass(line) {
        return false;
    }
    let lower = line.to_lowercase();
    if line.starts_with(MARKS) || PHRASES.iter().any(|phrase| lower.contains(phrase)) {
        return true;
    }
    let words = words(line);
    let Some(at) = words.iter().position(|word| is_failure_word(word)) else { return false };
    // "0 failed", "no errors", "failures=0"; the line counts if it states another failure.
    let is_none = |at: usize| {
        let beside = |word: Option<&String>| word.is_some_and(|word| ["0", "no", "without"].contains(&word.as_str()));
        let follows = words.get(at + 1).filter(|word| word.chars().all(|letter| letter.is_ascii_digit()));
        let before = at.checked_sub(1).and_then(|before| words.get(before));
        beside(before) || before.is_none_or(|word| word.parse::<u64>().is_err()) && beside(follows)
    };
    (at..words.len()).any(|at| is_failure_word(&words[at]) && !is_none(at))
}

/// A line about a passed test, which may have a name like `test_error`.
fn is_pass(line: &str) -> bool {
    let lower = line.to_lowercase();
    let trimmed = lower.trim_end_matches(|letter: char| "0123456789.,:;()[]%ms ".contains(letter));
    let ends = ["... ok", " ok", "passed", " pass", "... ignored", " skipped"];
    let begins = ["ok ", "--- pass", "pass:", "pass ", "passed ", "✓", "✔", "√", "[ok]", "[       ok ]", "--- skip"];
    let is_not_ok = lower.contains("not ok") || lower.contains("fail");
    begins.iter().any(|begin| lower.starts_with(begin)) || !is_not_ok && ends.iter().any(|end| trimmed.ends_with(end))
        // "test failed_login ... ok"
        || ["... ok", "... ignored", " ok"].iter().any(|end| lower.trim_end().ends_with(end)) && !lower.contains("not ok")
}

/// Normalizes a line, and extracts the numbers in it that count failures.
fn form_of(line: &str) -> (String, Vec<u64>) {
    let mut form = Vec::new();
    let mut counts = Vec::new();
    let tokens: Vec<&str> = line.split_whitespace().collect();
    for (at, token) in tokens.iter().enumerate() {
        form.push(form_of_token(token));
        counts.extend(count_in(&tokens, at));
    }
    (form.join(" "), counts)
}

/// A number of failures: `3 failed`, `failures=3`, `Failures: 3`.
fn count_in(tokens: &[&str], at: usize) -> Option<u64> {
    let bare = |token: &str| token.trim_matches(|letter: char| !letter.is_alphanumeric()).to_lowercase();
    let is_failure = |token: &str| is_failure_word(&bare(token));
    if let Some((name, number)) = tokens[at].split_once('=') {
        return is_failure(name).then(|| bare(number).parse().ok())?;
    }
    let number: u64 = bare(tokens[at]).parse().ok()?;
    // "1 of 9 tests failed"
    if tokens.get(at + 1) == Some(&"of") {
        return tokens[at..].iter().take(5).any(|token| is_failure(token)).then_some(number);
    }
    let (next, second) = (tokens.get(at + 1), tokens.get(at + 2));
    let is_total = at > 0 && tokens[at - 1] == "of";
    let is_before = !is_total
        && (next.is_some_and(|next| is_failure(next))
            || next.is_some_and(|word| is_word(word)) && second.is_some_and(|next| is_failure(next)));
    let is_after = at > 0 && tokens[at - 1].ends_with(':') && is_failure(tokens[at - 1]);
    (is_before || is_after).then_some(number)
}

/// `2 tests failed`
fn is_word(token: &str) -> bool {
    token.chars().all(char::is_alphabetic)
}

/// Normalizes a word: the last part of an absolute path; separate numbers as `#`.
fn form_of_token(token: &str) -> String {
    let is_name = |letter: char| letter.is_alphanumeric() || "_-".contains(letter);
    // A node id (`tests/a.py::test`) keeps the part after its file.
    let parts: Vec<&str> = token.split("::").collect();
    let paths = parts.iter().map(|part| {
        let path = part.trim_start_matches(|letter: char| !is_name(letter) && letter != '/');
        match path.rfind('/').filter(|_| path.starts_with('/')) {
            Some(slash) => part[..part.len() - path.len()].to_owned() + &path[slash + 1..],
            None => (*part).to_owned(),
        }
    });
    let text = paths.collect::<Vec<_>>().join("::");
    let mut form = String::with_capacity(text.len());
    let mut word = String::new();
    for letter in text.chars().chain(['\n']) {
        if is_name(letter) {
            word.push(letter);
            continue;
        }
        form.push_str(if is_variable(&word) { "#" } else { &word });
        word.clear();
        if letter != '\n' {
            form.push(letter);
        }
    }
    // A decimal such as 0.02s or 12.5 is one number.
    while form.contains("#.#") {
        form = form.replace("#.#", "#");
    }
    form
}

/// Numbers, numbers with a unit, and long hexadecimal words.
fn is_variable(word: &str) -> bool {
    let digits = word.trim_start_matches(|letter: char| letter.is_ascii_digit());
    let starts_with_digit = digits.len() < word.len();
    let is_unit =
        ["", "s", "ms", "us", "µs", "ns", "m", "h", "kb", "mb", "kib", "mib"].contains(&digits.to_lowercase().as_str());
    let is_hex = |text: &str| text.chars().all(|letter| letter.is_ascii_hexdigit() || letter == '-');
    starts_with_digit && is_unit
        || word.strip_prefix("0x").is_some_and(|rest| !rest.is_empty() && is_hex(rest))
        || word.len() >= 7 && is_hex(word) && word.chars().any(|letter| letter.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(text: &str) -> Failure {
        coded(1, text)
    }

    fn coded(code: i64, text: &str) -> Failure {
        Failure { why: format!("exit code {code}"), exit_code: Some(code), lines: Some(failing_lines(text, "")) }
    }

    fn is_same(base: &str, work: &str) {
        assert_eq!(compare(&failure(base), &failure(work)), Likeness::Same, "{work}");
    }

    fn differs(base: &str, work: &str) {
        let found = compare(&failure(base), &failure(work));
        assert!(matches!(found, Likeness::Different(_)), "{found:?}: {work}");
    }

    #[test]
    fn what_differs_from_run_to_run_is_no_difference() {
        is_same(
            "--- FAIL: TestLogin (0.02s)\n    login_test.go:12: error at 0xc000123\nFAIL\tgithub.com/x/y\t0.015s",
            "--- FAIL: TestLogin (1.5s)\n    login_test.go:15: error at 0xc00fe\nFAIL\tgithub.com/x/y\t3.2s",
        );
        is_same(
            "thread 'a::b' panicked at /tmp/gates/one/src/lib.rs:10:5:\ntest a::b ... FAILED\ntest result: FAILED. 8 passed; 1 failed; finished in 0.01s",
            "test a::b ... FAILED\nthread 'a::b' panicked at /srv/gates/two/src/lib.rs:14:5:\ntest result: FAILED. 12 passed; 1 failed; finished in 2.50s",
        );
        is_same(
            "FAILED tests/a.py::test_x - assert 1 == 2\n1 failed, 3 passed in 0.1s",
            "FAILED tests/a.py::test_x - assert 1 == 2\n1 failed, 4 passed in 9s",
        );
        is_same("FAILED a\nFAILED b", "FAILED b");
    }

    #[test]
    fn what_the_base_does_not_print_is_the_works() {
        differs("FAILED test_login", "FAILED test_login\nFAILED test_pay");
        differs("test a ... FAILED", "test a ... FAILED\ntest b ... FAILED");
        differs("FAILED test_1", "FAILED test_2");
        differs("not ok 1 - a", "not ok 1 - a\nnot ok 2 - b");
        differs("error: x\n✕ signs in", "error: x\n✕ signs in\n✕ signs out");
        differs("FAILED tests/a.py::test_x", "FAILED tests/b.py::test_x");
        differs("KeyError: 'a'", "TypeError: 'a'");
        // Another stage of the same command.
        differs("FAILED test_login", "main.c:3:1: error: expected ';'");
        differs("FAILED test_login", "killed");
    }

    #[test]
    fn another_exit_code_with_the_same_lines_is_another_failure() {
        let compared = |base: &str, code: i64, work: &str| compare(&coded(1, base), &coded(code, work));
        assert!(matches!(compared("FAILED a", 2, "FAILED a"), Likeness::Different(_)));
        assert_eq!(compare(&coded(2, "FAILED a\nFAILED b"), &coded(1, "FAILED b")), Likeness::Same);
    }

    #[test]
    fn more_failures_are_counted_where_they_have_no_names() {
        differs("2 failed, 8 passed", "3 failed, 7 passed");
        differs("FAILED (failures=1)", "FAILED (failures=2)");
        differs("Failures: 1, Errors: 1", "Failures: 1, Errors: 2");
        differs("3 failed, 0 errors", "3 failed, 2 errors");
        differs("1 of 9 tests failed", "4 of 9 tests failed");
        is_same("3 failed, 7 passed", "2 failed, 8 passed");
    }

    #[test]
    fn what_passes_is_no_failure_whatever_its_name() {
        for line in [
            "test parse_error ... ok",
            "test_failed_login (auth.T) ... ok",
            "ok 3 - reports the error",
            "✓ shows an error (5 ms)",
            "--- PASS: TestError (0.00s)",
            "tests/a.py::test_error PASSED",
            "5 passed, 0 failed",
            "no errors",
            "failures=0",
            "Errors: 0",
        ] {
            assert!(failing_lines(line, "").is_empty(), "{line}");
        }
        for line in
            ["1 failed, 5 passed", "not ok 3 - x", "0 failed, 2 errors", "Failures: 2, Errors: 0", "test error ... FAILED"]
        {
            assert_eq!(failing_lines(line, "").len(), 1, "{line}");
        }
    }

    #[test]
    fn how_it_ended_counts_too() {
        let ended = |why: &str, exit_code| Failure { why: why.to_owned(), exit_code, lines: Some(Vec::new()) };
        let missing = ended("a program is missing", Some(127));
        assert_eq!(compare(&missing, &missing), Likeness::Same);
        assert!(matches!(compare(&missing, &failure("FAILED x")), Likeness::Different(_)));
        assert!(matches!(compare(&failure("FAILED x"), &ended("took longer than 1 s", None)), Likeness::Different(_)));
        assert!(matches!(compare(&coded(1, ""), &coded(2, "")), Likeness::Different(_)));
        assert_eq!(compare(&coded(2, "FAILED x\nFAILED y"), &coded(1, "FAILED x")), Likeness::Same);
    }

    #[test]
    fn an_unclear_comparison_gives_its_reason() {
        assert!(matches!(compare(&failure("boo"), &failure("boo")), Likeness::Unclear(_)));
        assert!(matches!(
            compare(&failure("AssertionError"), &failure("AssertionError\nAssertionError")),
            Likeness::Unclear(_)
        ));
        let unknown = Failure { lines: None, ..failure("") };
        assert!(matches!(compare(&unknown, &failure("FAILED x")), Likeness::Unclear(_)));
    }
}
