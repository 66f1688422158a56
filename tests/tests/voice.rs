//! The vocabulary: words and phrases that no text or name of the repository uses, with what to write instead.

use std::fs;
use std::process::Command;

/// The endings of the files that are searched.
const SEARCHED: [&str; 7] = [".md", ".rs", ".sh", ".py", ".sql", ".service", ".toml"];

/// History, files generated from it, and this list.
const EXEMPT: [&str; 3] = ["schema/migrations/", "schema/schema.sql", "tests/tests/voice.rs"];

/// A word or phrase, in lower case, and what to write instead. It matches whole words, in names (`told_to_stop`) and across lines too.
const FORBIDDEN: [(&str, &str); 51] = [
    ("anew", "again; create"),
    ("whoever", "a loop that, a process that; name the actor"),
    ("whomever", "name the actor"),
    ("so many", "maximum number of; this number of"),
    ("so often", "this number of times"),
    ("so long as", "while"),
    ("as far as", "if; according to"),
    ("such a", "this kind of; name the thing"),
    ("such an", "this kind of; name the thing"),
    ("goodbye", "shutdown"),
    ("what sqlite says", "an Errors section only where a caller can act on the difference"),
    ("what the database says", "an Errors section only where a caller can act on the difference"),
    ("what git says", "an Errors section only where a caller can act on the difference"),
    ("spelled", "written; the thing by its usual name"),
    ("spells", "writes"),
    ("overlook", "ignore; hide"),
    ("told to", "requested to; say the effect"),
    ("told apart", "distinguished"),
    ("told as", "reported as"),
    ("told twice", "reported twice"),
    ("is told", "is reported; is notified; receives"),
    ("was told", "was reported; was notified; received"),
    ("cannot be told", "is unknown"),
    ("tells of", "reports"),
    ("another hand", "another process; somebody else"),
    ("other hands", "other processes"),
    ("foreign hand", "an external tool"),
    ("former self", "predecessor; previous process"),
    ("former life", "previous process"),
    ("at its post", "responsive"),
    ("in hand", "current"),
    ("in its hand", "current"),
    ("is gone", "no longer exists; has ended; is missing"),
    ("come to nothing", "have no effect"),
    ("comes to nothing", "has no effect"),
    ("came to nothing", "had no effect"),
    ("what becomes of", "the outcome of"),
    ("what came of", "the result of"),
    ("made anew", "created again"),
    ("made again", "created again"),
    ("taken back", "reverted; withdrawn"),
    ("took back", "reverted; withdrew"),
    ("gives way", "releases its leases; yields"),
    ("give way", "release its leases; yield"),
    ("gave way", "released its leases; yielded"),
    ("as it stands", "unchanged; verbatim"),
    ("as they stand", "unchanged; verbatim"),
    ("out of turn", "in an unexpected state"),
    ("past its time", "expired"),
    ("on record", "recorded"),
    ("has beaten", "has sent a heartbeat"),
];

/// Beginnings of names, compared as they are written.
const FORBIDDEN_NAMES: [(&str, &str); 4] =
    [("MOST_", "MAX_"), ("LEAST_", "MIN_"), ("overlook_", "ignore_; hide_"), ("tell_", "report_; log_")];

fn tracked_files() -> Vec<String> {
    let project = system_tests::project().display().to_string();
    let list = ["-C", &project, "ls-files", "-z", "--cached", "--others", "--exclude-standard"];
    let output = Command::new("git").args(list).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let files = String::from_utf8(output.stdout).unwrap();
    files
        .split_terminator('\0')
        .filter(|file| SEARCHED.iter().any(|ending| file.ends_with(ending)))
        .map(str::to_owned)
        .collect()
}

/// The words of a text in lower case with one space between them, and for each of its bytes the line. Comment markers are left out.
fn words(text: &str) -> (String, Vec<usize>) {
    let (mut words, mut lines) = (String::from(" "), vec![1]);
    for (number, line) in text.lines().enumerate() {
        let line = line.trim_start().trim_start_matches(['/', '!', '#', '-', '*']);
        for letter in line.chars().chain(std::iter::once(' ')) {
            let letter = if letter == '_' || letter.is_whitespace() { ' ' } else { letter.to_ascii_lowercase() };
            if letter != ' ' || !words.ends_with(' ') {
                words.push(letter);
                lines.resize(words.len(), number + 1);
            }
        }
    }
    (words, lines)
}

fn is_word(letter: Option<char>) -> bool {
    letter.is_some_and(char::is_alphanumeric)
}

/// The lines with a forbidden phrase or name, each with what to write instead.
fn violations(text: &str) -> Vec<(usize, &'static str, &'static str)> {
    let (words, lines) = words(text);
    let mut found = Vec::new();
    for (phrase, instead) in FORBIDDEN {
        for (at, _) in words.match_indices(phrase) {
            if !is_word(words[..at].chars().next_back()) && !is_word(words[at + phrase.len()..].chars().next()) {
                found.push((lines[at], phrase, instead));
            }
        }
    }
    for (number, line) in text.lines().enumerate() {
        for (prefix, instead) in FORBIDDEN_NAMES {
            let starts = |at: usize| !line[..at].ends_with(|letter: char| letter.is_alphanumeric() || letter == '_');
            if line.match_indices(prefix).any(|(at, _)| starts(at)) {
                found.push((number + 1, prefix, instead));
            }
        }
    }
    found.sort_unstable();
    found
}

#[test]
fn no_text_uses_a_forbidden_word() {
    let mut report = Vec::new();
    for file in tracked_files() {
        if EXEMPT.iter().any(|exempt| file.starts_with(exempt)) {
            continue;
        }
        let Ok(text) = fs::read_to_string(system_tests::project().join(&file)) else { continue };
        report.extend(
            violations(&text).into_iter().map(|(line, word, instead)| format!("{file}:{line}: {word:?}; write: {instead}")),
        );
    }
    assert!(report.is_empty(), "{} forbidden words\n{}", report.len(), report.join("\n"));
}

#[test]
fn phrases_are_found_in_names_across_lines_and_only_as_whole_words() {
    let found = |text| violations(text).into_iter().map(|(line, word, _)| (line, word)).collect::<Vec<_>>();
    assert_eq!(found("fn told_to_stop() {}"), [(1, "told to")]);
    assert_eq!(found("x\n/// Reported so\n    /// many times."), [(2, "so many")]);
    assert_eq!(found("const MOST_ROWS: usize = 1;\nconst ALMOST_NONE: u8 = 1;"), [(1, "MOST_")]);
    assert_eq!(found("A canew is whole; also many, untold to."), []);
}

/// Each command with its subcommands: the text of its long help.
fn helps(command: &mut clap::Command, path: &str, texts: &mut Vec<(String, String)>) {
    let path = format!("{path} {}", command.get_name());
    texts.push((path.clone(), command.render_long_help().to_string()));
    for subcommand in command.get_subcommands_mut() {
        helps(subcommand, &path, texts);
    }
}

#[test]
fn no_help_shows_an_escape_sequence() {
    let mut texts = Vec::new();
    helps(&mut loopctl::cli::command(), "", &mut texts);
    helps(&mut coding_loop::command_line::command(), "", &mut texts);
    for each in &coord_db::SUPERVISORS {
        helps(&mut supervisor::command(each), "", &mut texts);
    }
    assert!(texts.len() > 50, "{}", texts.len());
    for (command, text) in texts {
        assert!(!["\\n", "\\t", "\\\"", "\\u{"].iter().any(|escape| text.contains(escape)), "{command}:\n{text}");
    }
}
