//! Generated histories: commits of five loops in a repository that `git fast-import` makes, with regressions of known
//! origin, the check that judges them, and the rows that their landings would have left.

#![allow(dead_code)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use git::{Layout, Repository};
use test_support::git;

/// The branch that the loops land on.
pub const BRANCH: &str = "coding-loops/integration";
/// How many loops there are.
const LOOPS: usize = 5;

/// Judges the tests of a generated repository. With `TEST_ID` that one alone. A commit with the file `no-build` does not
/// build: then nothing can be told. Flaky tests pass each third or fifth time. `@PAUSE@` is how long a run takes, `@COUNTS@`
/// the folder in which the flaky count.
const CHECK: &str = r#"#!/bin/sh
if [ -e no-build ]; then echo "it does not build"; exit 125; fi
@PAUSE@
flaky() {
  printf x >> "@COUNTS@/$1"
  if [ $(( $(wc -c < "@COUNTS@/$1") % $2 )) -ne 0 ]; then echo "$1 fails now and then"; return 1; fi
}
case "$TEST_ID" in
  t-flaky-third) flaky "$TEST_ID" 3; exit ;;
  t-flaky-fifth) flaky "$TEST_ID" 5; exit ;;
  "") files=src/* ;;
  *) files="src/$TEST_ID"; [ -e "$files" ] || { echo "$TEST_ID is not there"; exit 1; } ;;
esac
awk -v only="$TEST_ID" '
  FILENAME == "conf/modes" { modes[$2]++; if (modes[$2] == 2) bad[$2] = "both modes are on"; next }
  FILENAME ~ /^conf/ { if ($1 == "limit" && $4 == 0) bad[$2] = "the limit is 0"; next }
  $1 == "answer" && $3 != 42 { bad[substr(FILENAME, 5)] = "the answer is " $3 }
  END { for (test in bad) if (only == "" || only == test) { print test ": " bad[test]; failed = 1 } exit failed }
' $files conf/*
"#;

/// What made a test fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A line of the test's own file.
    Line,
    /// A line of a config file, which nobody would look into first.
    Config,
    /// Two commits, each of which is harmless: the later one is it.
    Interplay,
    /// A line that a later commit puts right without meaning to.
    FixedByChance,
    /// A commit that does not build, so that the next one is suspected as well.
    Hidden,
}

/// A regression of known origin.
#[derive(Debug, Clone)]
pub struct Planted {
    pub kind: Kind,
    /// The test that fails.
    pub victim: String,
    /// The number of the commit that breaks it.
    pub at: usize,
    /// The number of the commit that mends it.
    pub fixed_at: Option<usize>,
}

/// A commit of a generated history.
#[derive(Debug, Clone)]
pub struct Commit {
    pub hash: String,
    /// The loop and the test of its trailers; none if a person made it.
    pub by: Option<(String, String)>,
    pub builds: bool,
    pub files: Vec<String>,
}

/// A generated history, in a bare repository.
pub struct History {
    pub repository: PathBuf,
    /// The store of that repository.
    pub store: PathBuf,
    /// The check as a script.
    pub check: PathBuf,
    /// By number; 0 is the beginning, with all tests in order.
    pub commits: Vec<Commit>,
    pub planted: Vec<Planted>,
    pub tests: Vec<String>,
}

/// The same numbers each time.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % sides
    }
}

pub fn owner(test: usize) -> usize {
    test % LOOPS
}

pub fn loop_name(number: usize) -> String {
    ["core", "store", "report", "web", "tools"][number].to_owned()
}

/// How long a run of the check takes, in the words of the shell.
pub fn pause(words: &str) -> String {
    words.to_owned()
}

/// The files of the repository as they change, and the stream that `git fast-import` reads.
struct Writer {
    files: BTreeMap<String, String>,
    changed: BTreeMap<String, Option<String>>,
    stream: String,
}

impl Writer {
    fn put(&mut self, path: &str, content: String) {
        self.changed.insert(path.to_owned(), Some(content.clone()));
        self.files.insert(path.to_owned(), content);
    }

    fn remove(&mut self, path: &str) {
        if self.files.remove(path).is_some() {
            self.changed.insert(path.to_owned(), None);
        }
    }

    fn edit(&mut self, path: &str, from: &str, to: &str) {
        let content = self.files[path].clone();
        assert!(content.contains(from), "{path} holds {from:?}");
        self.put(path, content.replacen(from, to, 1));
    }

    fn append(&mut self, path: &str, line: &str) {
        let content = self.files.get(path).cloned().unwrap_or_default();
        self.put(path, content + line + "\n");
    }

    /// Ends a commit; gives the files that it changed.
    fn commit(&mut self, number: usize, message: &str) -> Vec<String> {
        let stream = &mut self.stream;
        let _ = writeln!(stream, "commit refs/heads/generated\nmark :{}", number + 1);
        let _ = writeln!(stream, "committer Test <test@localhost> {} +0000", 1_700_000_000 + number * 60);
        let _ = writeln!(stream, "data {}\n{message}", message.len());
        if number > 0 {
            let _ = writeln!(stream, "from :{number}");
        }
        let changed = std::mem::take(&mut self.changed);
        for (path, content) in &changed {
            let _ = match content {
                Some(content) => writeln!(stream, "M 100644 inline {path}\ndata {}\n{content}", content.len()),
                None => writeln!(stream, "D {path}"),
            };
        }
        changed.into_keys().collect()
    }
}

/// What history to make.
pub struct Recipe {
    /// Commits after the beginning.
    pub commits: usize,
    pub tests: usize,
    /// How many regressions of each kind.
    pub planted: Vec<(Kind, usize)>,
    /// Where none may be planted before.
    pub from: usize,
    /// Commits that have to build and change no verdict: the heads that will be checked.
    pub heads: Vec<usize>,
    /// One in this number of commits does not build.
    pub broken_builds: usize,
    /// In the check's script, before it judges.
    pub pause: String,
    pub seed: u64,
}

impl Recipe {
    /// Chooses which test is broken where: each test once, each commit once, never at a head.
    fn plan(&self, dice: &mut Dice) -> Vec<Planted> {
        let kinds: Vec<Kind> = self.planted.iter().flat_map(|(kind, count)| std::iter::repeat_n(*kind, *count)).collect();
        // Room for the commits before and after, and for a mending.
        let room = (self.commits - self.from) / kinds.len().max(1);
        assert!(room >= 6, "too little history for this number of regressions");
        let mut order: Vec<usize> = (0..kinds.len()).collect();
        for at in (1..order.len()).rev() {
            order.swap(at, dice.roll(at + 1));
        }
        let mut chance = 0;
        let plan = order.into_iter().enumerate().map(|(place, which)| {
            let near = |number: usize| self.heads.iter().any(|head| number.abs_diff(*head) < 3);
            let mut at = self.from + place * room + 2 + dice.roll(room - 4);
            while near(at) {
                at -= 1;
            }
            let fixed_at = (kinds[which] == Kind::FixedByChance).then(|| {
                chance += 1;
                // Every other one is put right before any head shows it.
                let next = self.heads.iter().find(|head| **head > at).copied().unwrap_or(self.commits);
                if chance % 2 == 1 && at + 2 < next { at + 1 } else { (next + 2).min(self.commits) }
            });
            Planted { kind: kinds[which], victim: format!("t-{:03}", which * 3 + 1), at, fixed_at }
        });
        plan.collect()
    }

    /// Makes it, with a bare repository, its store for a database and the check in a folder.
    pub fn make(&self, folder: &Path, database: &Path) -> History {
        let mut dice = Dice(self.seed);
        let planted = self.plan(&mut dice);
        let tests: Vec<String> = (0..self.tests).map(|n| format!("t-{n:03}")).collect();
        let mut writer = Writer { files: BTreeMap::new(), changed: BTreeMap::new(), stream: String::new() };
        for (n, test) in tests.iter().enumerate() {
            writer.put(&format!("src/{test}"), format!("of {}\nanswer = 42\n", loop_name(owner(n))));
            writer.append(&format!("conf/{}", loop_name(owner(n))), &format!("limit {test} = 10"));
        }
        writer.put("conf/modes", String::new());
        let mut commits = vec![Commit { hash: String::new(), by: None, builds: true, files: writer.commit(0, "Begin\n") }];
        for number in 1..=self.commits {
            let breaks = planted.iter().find(|one| one.at == number);
            let half = planted.iter().find(|one| one.kind == Kind::Interplay && one.at - 5 == number);
            let mends = planted.iter().find(|one| one.fixed_at == Some(number));
            let hidden = breaks.is_some_and(|one| one.kind == Kind::Hidden);
            let special = breaks.or(half).or(mends).is_some() || self.heads.contains(&number);
            let builds = !hidden && (special || dice.roll(self.broken_builds) != 0);
            writer.remove("no-build");
            if !builds {
                writer.put("no-build", String::new());
            }
            // A loop lands what passes: not a test that is broken just now.
            let broken = |n: usize| {
                let of = |one: &&Planted| one.victim == tests[n];
                planted.iter().find(of).is_some_and(|one| one.at <= number && one.fixed_at.is_none_or(|at| at > number))
            };
            let mut landed = dice.roll(self.tests);
            while broken(landed) || planted.iter().any(|one| one.victim == tests[landed] && one.at == number) {
                landed = (landed + 1) % self.tests;
            }
            let own = format!("src/{}", tests[landed]);
            writer.append(&own, &format!("note {number}"));
            if let Some(one) = breaks {
                let file = format!("src/{}", one.victim);
                let n: usize = one.victim[2..].parse().unwrap();
                match one.kind {
                    Kind::Line | Kind::FixedByChance | Kind::Hidden => writer.edit(&file, "answer = 42", "answer = 41"),
                    Kind::Config => {
                        let (from, to) = (format!("limit {} = 10", one.victim), format!("limit {} = 0", one.victim));
                        writer.edit(&format!("conf/{}", loop_name(owner(n))), &from, &to);
                    }
                    Kind::Interplay => writer.append("conf/modes", &format!("shared {}", one.victim)),
                }
            }
            if let Some(one) = half {
                writer.append("conf/modes", &format!("fast {}", one.victim));
            }
            if let Some(one) = mends {
                writer.edit(&format!("src/{}", one.victim), "answer = 41", "answer = 42");
            }
            let by = builds.then(|| (loop_name(owner(landed)), tests[landed].clone()));
            let message = match &by {
                Some((by, test)) => format!("Work on {test}\n\nLoop: {by}\nTest: {test}\nProof: p-{number}\n"),
                None => "Something by hand\n".to_owned(),
            };
            let files = writer.commit(number, &message);
            commits.push(Commit { hash: String::new(), by, builds, files });
        }
        let (repository, check) = (folder.join("repository"), folder.join("check.sh"));
        let marks = import(&repository, &writer.stream);
        for (number, commit) in commits.iter_mut().enumerate() {
            commit.hash.clone_from(&marks[&(number + 1)]);
        }
        let counts = folder.join("counts");
        std::fs::create_dir_all(&counts).unwrap();
        let script = CHECK.replace("@COUNTS@", counts.to_str().unwrap()).replace("@PAUSE@", &self.pause);
        std::fs::write(&check, script).unwrap();
        let user = Repository::open(&repository).unwrap();
        let store = Layout::new(folder.join("repository-loops")).create(&user, database, BRANCH).unwrap().0.path().to_owned();
        History { repository, store, check, commits, planted, tests }
    }
}

/// Makes a repository of a stream; gives the commits by their marks.
fn import(repository: &Path, stream: &str) -> BTreeMap<usize, String> {
    std::fs::create_dir_all(repository).unwrap();
    git(repository, ["init", "--quiet", "--bare", "."]);
    let mut child = Command::new("git")
        .current_dir(repository)
        .args(["fast-import", "--quiet", "--export-marks=marks"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(stream.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
    let marks = std::fs::read_to_string(repository.join("marks")).unwrap();
    let pairs = marks.lines().map(|line| line.split_once(' ').unwrap());
    pairs.map(|(mark, hash)| (mark[1..].parse().unwrap(), hash.to_owned())).collect()
}

impl History {
    /// Moves the integration branch.
    pub fn move_to(&self, number: usize) {
        git(&self.store, ["update-ref", &format!("refs/heads/{BRANCH}"), &self.commits[number].hash]);
    }

    /// What the landings of these commits would have left, as SQL: tests that are verified, baselines, proofs and use.
    pub fn rows(&self, numbers: std::ops::RangeInclusive<usize>) -> String {
        let mut sql = String::from("BEGIN;\n");
        for number in numbers {
            let Commit { hash, by: Some((by, test)), files, .. } = &self.commits[number] else { continue };
            let at = format!("strftime('%Y-%m-%d %H:%M:%f', 'now', '-1 day', '+{number} seconds')");
            let files: Vec<String> = files.iter().map(|file| format!("\"{file}\"")).collect();
            let _ = writeln!(
                sql,
                "INSERT OR IGNORE INTO loops(id, name, priority, status) VALUES ('{by}', '', 1, 'stopped');
                 INSERT INTO tests(id, loop_id, category, status, attempts, passed_at, verified_at, commit_hash)
                   VALUES ('{test}', '{by}', 'build', 'passed', 1, {at}, {at}, '{hash}')
                   ON CONFLICT DO UPDATE SET commit_hash = excluded.commit_hash, verified_at = excluded.verified_at;
                 INSERT INTO proofs(id, test_id, attempt, commit_hash, tree_hash, check_name, outcome, exit_code, duration_ms, output_sha256)
                   VALUES ('p-{number}', '{test}', 1, '{hash}', 'tree-{number}', 'tests', 'pass', 0, 5, '');
                 INSERT INTO usage(id, loop_id, test_id, files_modified, recorded_at)
                   VALUES ('u-{number}', '{by}', '{test}', '[{files}]', {at});
                 INSERT OR IGNORE INTO passing_tests(test_id, commit_hash, passed_at) VALUES ('{test}', '{hash}', {at});",
                files = files.join(",")
            );
        }
        sql + "COMMIT;\n"
    }
}
