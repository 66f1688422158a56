//! `loopctl pr`: hands landed work over, as a pull request or as files.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use coding_loop::followed_branch;
use coord_db::{Database, Proof, Regression, RegressionStatus, Test, dollars};
use git::{CommitHash, CommitInfo, HandOverTurn, HandedOver, Layout, Line, Repository, Store, hand_over};
use serde::Serialize;
use serde_json::Value;
use views::report::title;
use views::sentence::{count, list, spent};
use views::text::shortened;
use views::when::span;

use crate::cli::PrArgs;
use crate::context::Context;
use crate::exit::{Failure, Outcome, eprintln_quietly, io};
use crate::markdown::{block, code, literal};
use crate::programs;
use crate::submit::failure;

/// The folder for files, beside the database.
const FOLDER: &str = "pr";
/// The file of the text among the patches.
const BODY: &str = "body.md";
/// The file that lists the patches in their order, as quilt reads it.
const SERIES: &str = "series";
/// Maximum length of a generated title, in characters.
const MAX_TITLE: usize = 72;
/// Maximum length of the text, in bytes: GitHub refuses more than 65,536 characters.
const MAX_BODY: usize = 60_000;

/// A landed work with what the database knows of it.
struct Work {
    commit: CommitInfo,
    /// Its commit on the branch.
    on_branch: CommitHash,
    test: Option<Test>,
    /// Those of the attempt that landed.
    proofs: Vec<Proof>,
    /// What its test has cost; none where a later work of the same test is on the branch too.
    spent: Option<Spent>,
}

#[derive(Clone, Copy, Default)]
struct Spent {
    tokens: i64,
    cost_microusd: i64,
    seconds: i64,
}

/// What the command did.
#[derive(Debug, Default, Serialize)]
struct Handed {
    base: String,
    branch: String,
    head: String,
    tests: Vec<String>,
    title: String,
    body: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    folder: Option<PathBuf>,
}

/// `loopctl pr`
///
/// # Errors
/// Exit 1 if nothing has landed, if the base has commits that the work was not verified with, if the branch is somebody
/// else's, or if git, gh or glab fail.
pub fn run(cx: &Context, args: &PrArgs) -> Outcome {
    let (db, config) = cx.open_with_config()?;
    let user = Repository::open(&config.repository_path()).map_err(git_failure)?;
    let store = Layout::new(config.workspace_root()).open_store().map_err(git_failure)?;
    let base = match &args.base {
        Some(named) if user.is_branch_name(named) => named.clone(),
        Some(named) => return Err(Failure::usage(format!("{named:?} is not a valid branch name"))),
        None => followed_branch(&config, &user).map_err(failure)?,
    };
    if args.branch == config.repository.integration_branch || args.branch.starts_with("coding-loops/") {
        return Err(Failure::usage(format!("{} is a branch of the loops; name another one with --branch", args.branch)));
    }
    if args.branch == base {
        return Err(Failure::usage(format!("{base} is the branch that this makes; name your own branch with --base")));
    }
    if args.title.as_ref().is_some_and(|title| title.trim().is_empty()) {
        return Err(Failure::usage("the title is empty"));
    }
    // Two at once would move the same branch, and open two pull requests.
    let _turn = (!args.dry_run).then(|| take_turn(cx, &store)).transpose()?;
    let at = store.fetch_from_user(&user, &format!("refs/heads/{base}")).map_err(git_failure)?;
    let integration = &config.repository.integration_branch;
    let Some(landed) = store.integration().map_err(git_failure)? else {
        return Err(Failure::No(format!("nothing has landed yet: the store has no {integration}")));
    };
    let Some(line) = store.line_up(&at, &landed).map_err(git_failure)? else {
        return Err(Failure::No(format!(
            "{base} has commits that the work on {integration} (at {}) was not verified with; bring them in with loopctl sync, \
             then try again",
            landed.short()
        )));
    };
    if line.works.is_empty() {
        return Err(Failure::No(format!("{base} has everything that has landed")));
    }
    let has_merges = line.has_merges;
    let head = line.head.clone();
    let works = known(&db, line)?;
    let broken = broken(&db, &works)?;
    for text in &broken {
        eprintln_quietly(&format!("loopctl: known to fail: {text}"));
    }
    let title = args.title.clone().unwrap_or_else(|| headline(&works));
    let body = body(&works, &broken, &base, has_merges);
    let tests = newest(&works).filter_map(|work| work.commit.trailer("Test").map(str::to_owned)).collect();
    let mut handed =
        Handed { base, branch: args.branch.clone(), head: head.to_string(), tests, title, body, ..Handed::default() };
    if args.dry_run {
        let commits: String =
            works.iter().map(|work| format!("{} {}\n", work.on_branch.short(), work.commit.subject)).collect();
        return cx.out.done(&handed, &format!("{}\n\n{}\n{}", handed.title, commits, handed.body));
    }
    match hand_over(&store, &user, &args.branch, &head).map_err(git_failure)? {
        HandedOver::At(_) => {}
        HandedOver::Taken(found) => {
            return Err(Failure::No(format!(
                "the branch {} is at {} and was not made by loopctl pr, or was changed since; name another one with --branch",
                args.branch,
                found.short()
            )));
        }
    }
    let place = Place { root: user.root(), base: &handed.base, branch: &args.branch };
    let remote = place.remote();
    let forge = remote.as_deref().and_then(|remote| Forge::of(&place, remote));
    let text = match (&args.files, remote, forge) {
        (None, Some(remote), Some(forge)) => {
            let _working = cx.out.working(format!("pushing {} to {remote}", args.branch));
            place.push(&store, &remote, &head)?;
            let url = forge.open(&place, &handed, args.draft)?;
            let text = format!("{} in {url}", count(length(&handed.tests), "test"));
            handed.url = Some(url);
            text
        }
        (files, remote, _) => {
            let beside = || db.path().and_then(Path::parent).unwrap_or(Path::new(".")).join(FOLDER);
            let folder = files.as_ref().map_or_else(beside, |folder| cx.folder.join(folder));
            place.write(&folder, &at, &head, &handed)?;
            let push = match (files, remote) {
                (None, Some(remote)) => {
                    format!("; neither gh nor glab is installed: push it with git push {remote} {}", args.branch)
                }
                _ => String::new(),
            };
            let text = format!(
                "{} on the branch {}; patches and {BODY} are in {}{push}",
                count(length(&handed.tests), "test"),
                args.branch,
                folder.display()
            );
            handed.folder = Some(folder);
            text
        }
    };
    cx.out.done(&handed, &text)
}

fn take_turn(cx: &Context, store: &Store) -> Outcome<HandOverTurn> {
    let _working = cx.out.working("waiting for another loopctl pr to end");
    store.hand_over_turn().map_err(git_failure)
}

fn length<T>(items: &[T]) -> i64 {
    i64::try_from(items.len()).unwrap_or(i64::MAX)
}

fn git_failure(error: git::Error) -> Failure {
    failure(coding_loop::Error::from(error))
}

fn known(db: &Database, line: Line) -> Outcome<Vec<Work>> {
    let mut works: Vec<Work> = db.read(|tx| {
        line.works
            .into_iter()
            .map(|(commit, on_branch)| {
                let test = match commit.trailer("Test") {
                    Some(id) => tx.find_test(id)?,
                    None => None,
                };
                let (proofs, used) = match &test {
                    Some(test) => (tx.proofs(&test.id, None)?, tx.usage_of_test(&test.id)?),
                    None => Default::default(),
                };
                // Of several landings of a test each has its own proofs; one that a later attempt has replaced has none here.
                let attempt = proofs.iter().rev().find(|proof| is_of(proof, &commit)).map(|proof| proof.attempt);
                let proofs = proofs.into_iter().filter(|proof| Some(proof.attempt) == attempt).collect();
                let spent = Some(Spent {
                    tokens: used.tokens_estimated,
                    cost_microusd: used.cost_microusd,
                    seconds: used.duration_seconds,
                });
                Ok(Work { commit, on_branch, test, proofs, spent })
            })
            .collect::<coord_db::Result<_>>()
    })?;
    let mut seen = BTreeSet::new();
    for work in works.iter_mut().rev() {
        if !seen.insert(work.name().to_owned()) {
            work.spent = None;
        }
    }
    Ok(works)
}

/// The newest work of each test.
fn newest(works: &[Work]) -> impl Iterator<Item = &Work> {
    works.iter().filter(|work| work.spent.is_some())
}

/// What is known to fail on the branch, in sentences.
fn broken(db: &Database, works: &[Work]) -> Outcome<Vec<String>> {
    let open = db.read(|tx| tx.regressions(true))?;
    let is_here = |row: &&Regression| {
        row.status == RegressionStatus::Regressed && works.iter().any(|work| work.name() == row.test_id.as_str())
    };
    let sentence = |row: &Regression| {
        let by = row.blamed_test.as_deref().map(|test| format!(", broken by {test}")).unwrap_or_default();
        format!("test {} fails {} on the branch{by}", row.test_id, row.check_name)
    };
    Ok(open.iter().filter(is_here).map(sentence).collect())
}

fn is_of(proof: &Proof, commit: &CommitInfo) -> bool {
    proof.commit_hash == commit.hash.as_str()
        || commit.trailer("Proof").is_some_and(|named| !named.is_empty() && proof.id.starts_with(named))
}

impl Work {
    fn name(&self) -> &str {
        self.commit.trailer("Test").unwrap_or(&self.commit.subject)
    }

    fn title(&self) -> String {
        self.test.as_ref().map(title).filter(|title| !title.is_empty()).unwrap_or_else(|| self.commit.subject.clone())
    }
}

fn headline(works: &[Work]) -> String {
    match works {
        [work] => shortened(&work.title(), MAX_TITLE),
        works => {
            let names: Vec<String> = newest(works).map(|work| work.name().to_owned()).collect();
            shortened(&format!("{}: {}", count(length(&names), "test"), list(&names)), MAX_TITLE)
        }
    }
}

/// What was done, why, how it was verified and what it cost. What comes from agents stands in it as text.
fn body(works: &[Work], broken: &[String], base: &str, has_merges: bool) -> String {
    let tests: Vec<&Work> = newest(works).collect();
    let mut text = format!(
        "{} on `{}`, one commit each. Each work was verified in a clean check-out, as it landed.\n\n",
        count(length(&tests), "verified test"),
        code(base)
    );
    for sentence in broken {
        let _ = writeln!(text, "**Known to fail:** {}\n", literal(sentence));
    }
    if has_merges {
        text.push_str("The branch contains merges of your commits, because conflicts were resolved in them.\n\n");
    }
    text.push_str("| test | what | verified by | attempt | cost |\n| --- | --- | --- | --- | --- |\n");
    for work in works {
        let mut checks: Vec<&str> = work.proofs.iter().map(|proof| proof.check_name.as_str()).collect();
        checks.sort_unstable();
        checks.dedup();
        let attempt = work.proofs.last().map_or_else(|| "-".to_owned(), |proof| proof.attempt.to_string());
        let _ = writeln!(
            text,
            "| {} | {} | {} | {attempt} | {} |",
            literal(work.name()),
            literal(&work.title()),
            literal(&checks.join(", ")),
            work.spent.map_or_else(|| "done again below".to_owned(), |used| spent(used.tokens, used.cost_microusd))
        );
    }
    let all = works.iter().filter_map(|work| work.spent).fold(Spent::default(), |sum, used| Spent {
        tokens: sum.tokens.saturating_add(used.tokens),
        cost_microusd: sum.cost_microusd.saturating_add(used.cost_microusd),
        seconds: sum.seconds.saturating_add(used.seconds),
    });
    let money = if all.cost_microusd > 0 { format!(", {}", dollars(all.cost_microusd)) } else { String::new() };
    let _ = writeln!(text, "\nTogether {} tokens{money}, {} of agents' time.", all.tokens, span(all.seconds));
    let mut left_out = 0;
    for work in works {
        let details = details(work);
        if text.len() + details.len() > MAX_BODY {
            left_out += 1;
        } else {
            text.push_str(&details);
        }
    }
    if left_out > 0 {
        let _ = writeln!(text, "\nThe details of {} are left out for their length.", count(left_out, "test"));
    }
    text
}

fn details(work: &Work) -> String {
    let mut text = format!("\n<details><summary>{}</summary>\n\n", literal(work.name()));
    if let Some(spec) = work.test.as_ref().and_then(|test| test.spec_content.as_deref().or(test.notes.as_deref())) {
        text.push_str(&block(spec));
        text.push('\n');
    }
    for proof in &work.proofs {
        let _ = writeln!(
            text,
            "- {}: {} at `{}` in {}.{:03} s, output sha256 `{}`, proof `{}`",
            literal(&proof.check_name),
            proof.outcome.as_str(),
            code(&views::sentence::short(&proof.commit_hash)),
            proof.duration_ms / 1000,
            proof.duration_ms % 1000,
            code(&proof.output_sha256),
            code(&proof.id)
        );
    }
    text.push_str("\n</details>\n");
    text
}

/// The user's repository, where the branch is.
struct Place<'a> {
    root: &'a Path,
    base: &'a str,
    branch: &'a str,
}

impl Place<'_> {
    /// What a command prints; its errors reach the terminal by themselves.
    fn ask(&self, program: &str, arguments: &[&str]) -> Outcome<String> {
        self.ask_with(program, arguments, b"")
    }

    fn ask_with(&self, program: &str, arguments: &[&str], stdin: &[u8]) -> Outcome<String> {
        let shown = format!("{program} {}", arguments.first().copied().unwrap_or_default());
        let run = || {
            let mut command = Command::new(program);
            command.args(arguments).current_dir(self.root).stdin(Stdio::piped()).stdout(Stdio::piped());
            let mut child = command.spawn()?;
            if let Some(mut pipe) = child.stdin.take() {
                // A program that reads nothing has its reason, which its exit status tells.
                let _ = pipe.write_all(stdin);
            }
            child.wait_with_output()
        };
        let output = run().map_err(|error| Failure::No(format!("cannot run {shown}: {error}")))?;
        if !output.status.success() {
            return Err(Failure::No(format!("{shown} failed ({}); see its message above", output.status)));
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// The remote of the base, else `origin`; none if there is none.
    fn remote(&self) -> Option<String> {
        let configured =
            self.ask("git", &["config", "--default", "", "--get", &format!("branch.{}.remote", self.base)]).ok()?;
        let remotes = self.ask("git", &["remote"]).ok()?;
        [configured, "origin".to_owned()].into_iter().find(|name| remotes.lines().any(|remote| remote == name))
    }

    /// Pushes the branch over what this has pushed before, and over nothing else.
    fn push(&self, store: &Store, remote: &str, head: &CommitHash) -> Outcome {
        let name = format!("refs/heads/{}", self.branch);
        let there = self.ask("git", &["ls-remote", remote, &name])?;
        let old = there.split_whitespace().next().unwrap_or_default();
        let is_ours = old.is_empty()
            || old == head.as_str()
            || store.pushed(self.branch).map_err(git_failure)?.is_some_and(|pushed| pushed.as_str() == old);
        if !is_ours {
            return Err(Failure::No(format!(
                "{} on {remote} is at {}, which loopctl pr has not pushed: somebody has committed there; bring that in, or name \
                 another branch with --branch",
                self.branch,
                views::sentence::short(old)
            )));
        }
        let lease = format!("--force-with-lease={name}:{old}");
        self.ask("git", &["push", &lease, remote, &format!("{name}:{name}")])?;
        store.note_pushed(self.branch, head).map_err(git_failure)
    }

    /// Writes the patches and the text, in place of those that an earlier run has written.
    fn write(&self, folder: &Path, base: &CommitHash, head: &CommitHash, handed: &Handed) -> Outcome {
        let shown = folder.display().to_string();
        std::fs::create_dir_all(folder).map_err(io(format!("cannot create {shown}")))?;
        // Only patches that an earlier run has listed are replaced.
        let series = folder.join(SERIES);
        for old in std::fs::read_to_string(&series).unwrap_or_default().lines().filter(|name| is_patch(name)) {
            let _ = std::fs::remove_file(folder.join(old));
        }
        let range = format!("{base}..{head}");
        let written = self.ask("git", &["format-patch", "--output-directory", &folder.to_string_lossy(), &range])?;
        let names = written.lines().filter_map(|path| Path::new(path).file_name()?.to_str());
        let names: String = names.map(|name| format!("{name}\n")).collect();
        std::fs::write(&series, names).map_err(io(format!("cannot write {}", series.display())))?;
        let body = folder.join(BODY);
        std::fs::write(&body, format!("# {}\n\n{}", handed.title, handed.body))
            .map_err(io(format!("cannot write {}", body.display())))
    }
}

/// Where pull requests are opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Forge {
    GitHub,
    GitLab,
}

impl Forge {
    /// By the address of the remote, else by the program that is installed; none without its program.
    fn of(place: &Place<'_>, remote: &str) -> Option<Self> {
        let url = place.ask("git", &["remote", "get-url", remote]).ok()?;
        let wanted = match (url.contains("github"), url.contains("gitlab")) {
            (true, false) => vec![Self::GitHub],
            (false, true) => vec![Self::GitLab],
            _ => vec![Self::GitHub, Self::GitLab],
        };
        wanted.into_iter().find(|forge| programs::program_at(forge.program(), place.root).is_some())
    }

    fn program(self) -> &'static str {
        match self {
            Self::GitHub => "gh",
            Self::GitLab => "glab",
        }
    }

    /// Opens the pull request, or updates the one that is open. Gives its address.
    fn open(self, place: &Place<'_>, handed: &Handed, draft: bool) -> Outcome<String> {
        let (base, branch, title) = (handed.base.as_str(), handed.branch.as_str(), handed.title.as_str());
        let with_body = |arguments: &[&str]| place.ask_with("gh", arguments, handed.body.as_bytes());
        match self {
            Self::GitHub => {
                let open = place.ask("gh", &["pr", "list", "--head", branch, "--state", "open", "--json", "url"])?;
                if let Some(url) = first_url(&open, "url") {
                    with_body(&["pr", "edit", &url, "--title", title, "--body-file", "-"])?;
                    return Ok(url);
                }
                let mut arguments =
                    vec!["pr", "create", "--base", base, "--head", branch, "--title", title, "--body-file", "-"];
                arguments.extend(draft.then_some("--draft"));
                with_body(&arguments).map(|said| last_line(&said))
            }
            Self::GitLab => {
                let open = place.ask("glab", &["mr", "list", "--source-branch", branch, "--output", "json"])?;
                if let Some(url) = first_url(&open, "web_url") {
                    place.ask("glab", &["mr", "update", branch, "--title", title, "--description", &handed.body])?;
                    return Ok(url);
                }
                let mut arguments = vec!["mr", "create", "--target-branch", base, "--source-branch", branch];
                arguments.extend(["--title", title, "--description", &handed.body, "--yes"]);
                arguments.extend(draft.then_some("--draft"));
                place.ask("glab", &arguments).map(|said| last_line(&said))
            }
        }
    }
}

/// True for a name that `git format-patch` gives.
fn is_patch(name: &str) -> bool {
    name.ends_with(".patch") && !name.contains('/') && name.starts_with(|first: char| first.is_ascii_digit())
}

fn first_url(listed: &str, key: &str) -> Option<String> {
    let listed: Value = serde_json::from_str(listed).ok()?;
    listed[0][key].as_str().map(str::to_owned)
}

/// Both programs end with the address.
fn last_line(said: &str) -> String {
    said.lines().last().unwrap_or_default().trim().to_owned()
}
