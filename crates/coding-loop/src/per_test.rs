//! Decides whether a check depends on the test (by `TEST_ID`) or is the same for all tests.

use std::path::{Component, Path, PathBuf};

use coord_db::Test;
use coord_db::config::{CheckConfig, PerTest};
use git::CommitHash;

use crate::Result;
use crate::context::Context;

/// The environment variable that a check for single tests reads.
const WORD: &str = "TEST_ID";
/// Maximum number of files searched.
const MAX_FILES: usize = 60;
/// Maximum number of cached results.
const MAX_KNOWN: usize = 200;

/// Build files that a program reads by default.
const BUILD_FILES: &[(&str, &[&str])] = &[
    ("make", &["Makefile", "makefile", "GNUmakefile"]),
    ("gmake", &["Makefile", "makefile", "GNUmakefile"]),
    ("npm", &["package.json"]),
    ("pnpm", &["package.json"]),
    ("yarn", &["package.json"]),
    ("bun", &["package.json"]),
    ("just", &["justfile", "Justfile", ".justfile"]),
    ("tox", &["tox.ini"]),
    ("nox", &["noxfile.py"]),
    ("pytest", &["conftest.py", "tests/conftest.py"]),
];

/// The words of a command, including those of shell scripts in it.
fn words(command: &[String]) -> impl Iterator<Item = &str> {
    let is_apart = |letter: char| letter.is_whitespace() || "'\"`;&|()<>{}=".contains(letter);
    command.iter().flat_map(move |argument| argument.split(is_apart)).filter(|word| !word.is_empty())
}

/// True if a text contains the variable's name as a word.
fn is_mentioned(text: &str) -> bool {
    let is_letter = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    text.match_indices(WORD)
        .any(|(at, word)| !text[..at].ends_with(is_letter) && !text[at + word.len()..].starts_with(is_letter))
}

/// The files of the repository that a command may refer to.
fn scripts(command: &[String]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for word in words(command) {
        let path: PathBuf = Path::new(word).components().filter(|part| *part != Component::CurDir).collect();
        let is_inside = path.components().all(|part| matches!(part, Component::Normal(_)));
        if is_inside && !path.as_os_str().is_empty() && !word.starts_with('-') && !word.ends_with('/') {
            found.push(path);
        }
        let program = Path::new(word).file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let own = BUILD_FILES.iter().filter(|(name, _)| *name == program).flat_map(|(_, files)| files.iter());
        found.extend(own.map(PathBuf::from));
    }
    found.sort();
    found.dedup();
    found
}

impl Context<'_> {
    /// True if a check runs for each test, according to the files of a commit.
    pub(crate) fn is_per_test(&self, check: &CheckConfig, commit: &CommitHash) -> Result<bool> {
        match check.per_test {
            PerTest::Yes => return Ok(true),
            PerTest::No => return Ok(false),
            PerTest::Auto => {}
        }
        if check.command.iter().any(|argument| is_mentioned(argument)) {
            return Ok(true);
        }
        let key = (check.command.clone(), commit.clone());
        if let Some(known) = self.per_test.borrow().get(&key) {
            return Ok(*known);
        }
        // A folder of that name would be searched completely.
        let mut named = Vec::new();
        for path in scripts(&check.command).into_iter().take(MAX_FILES) {
            if self.history().read_file_at(commit, &path)?.is_some() {
                named.push(path);
            }
        }
        let mentions = self.history().mentions(commit, WORD, &named)?;
        let mut known = self.per_test.borrow_mut();
        if known.len() >= MAX_KNOWN {
            known.clear();
        }
        known.insert(key, mentions);
        Ok(mentions)
    }
}

/// True if a check covers tests of this category.
pub(crate) fn applies(check: &CheckConfig, test: &Test) -> bool {
    check.categories.is_empty() || check.categories.contains(&test.category)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn a_word_of_its_own_is_a_mention() {
        for text in ["$TEST_ID", "test -f ${TEST_ID}.txt", "--only=$TEST_ID", "os.environ['TEST_ID']"] {
            assert!(is_mentioned(text), "{text}");
        }
        for text in ["$LATEST_ID", "$TEST_IDS", "test", "MY_TEST_ID"] {
            assert!(!is_mentioned(text), "{text}");
        }
    }

    #[test]
    fn scripts_are_what_a_command_can_name() {
        let names = |words: &[&str]| {
            let found = scripts(&command(words));
            found.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(names(&["python3", "check.py"]), "check.py python3");
        assert_eq!(names(&["sh", "-c", "cd web && ./run.sh 'x y'|tee out"]), "cd out run.sh sh tee web x y");
        assert_eq!(names(&["/bin/sh", "../outside", "-v", "src/"]), "");
        assert_eq!(names(&["make", "-C", "sub"]), "GNUmakefile Makefile make makefile sub");
        assert!(names(&["npm", "test"]).contains("package.json"));
    }
}
