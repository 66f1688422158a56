//! Running checks in a check-out: what they may do with git there, and what counts as a change of the files.
//!
//! A check runs under a keeper, which is this program started again; hence its own `main`.

#[path = "it/common/mod.rs"]
mod common;
#[path = "it/common/place.rs"]
mod place;

use command_runner::keeper;
use git::WorkTree;
use git::check::{CheckSpec, CheckVerdict, run_check};
use place::{Place, land};
use test_support::{BOUND, git, run_tests, tests};
use tokio::sync::watch;

fn main() {
    keeper::run_if_asked();
    run_tests(tests![checks_in_a_check_out_follow_each_other_unharmed, what_only_conversion_makes_differ_is_no_checks_change]);
}

/// As the gate runs one check after the other.
fn checks_in_a_check_out_follow_each_other_unharmed() {
    let place = Place::new(&[("a.txt", "one\n")]);
    let store = place.store();
    let commit = land(&store, &[("a.txt", "two\n")]);
    let tree = store.check_out(&place.loops.join("gates/one"), &commit).unwrap();
    let before = place.fingerprint();
    let fails = |what: &str| CheckVerdict::Fail(format!("check one changed {what}"));
    for (script, verdict) in [
        ("git config alias.left status; git tag left; git stash list", CheckVerdict::Pass),
        ("git checkout --quiet --detach HEAD~1", fails("the commit under test")),
        ("git commit --quiet --allow-empty -m mine", fails("the commit under test")),
        ("git update-index --assume-unchanged a.txt; echo x > a.txt", fails("tracked files: a.txt")),
        ("rm -rf .git; git init --quiet", CheckVerdict::Pass),
        ("rm -rf .git", CheckVerdict::Pass),
        ("exit 0", CheckVerdict::Pass),
    ] {
        let intact =
            "[ -z \"$(git status --porcelain; git tag; git config alias.left)\" ] && [ \"$(cat a.txt)\" = two ] || exit 9";
        assert_eq!(verdict_of(&format!("{intact}; {script}"), &tree), verdict, "{script}");
    }
    assert_eq!(place.fingerprint(), before);
    assert_eq!(store.integration().unwrap(), Some(commit));
}

fn verdict_of(script: &str, tree: &WorkTree) -> CheckVerdict {
    let spec = CheckSpec {
        name: "one".to_owned(),
        argv: ["sh", "-c", script].map(str::to_owned).to_vec(),
        timeout: BOUND,
        env: ["PATH", "HOME"].iter().filter_map(|name| Some(((*name).to_owned(), std::env::var_os(name)?))).collect(),
        nice: None,
        log_path: None,
        output_bytes: 0,
    };
    let (_never, mut cancel) = watch::channel(false);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(run_check(&spec, tree, &mut cancel, |_| ())).unwrap().verdict
}

/// Files that are stored in another way than their attributes ask for: git calls them changed as soon as it compares content.
fn what_only_conversion_makes_differ_is_no_checks_change() {
    let place = Place::new(&[("a.txt", "one\r\ntwo\r\n"), ("b.txt", "one\r\n"), ("c.up", "one\n")]);
    git(&place.root, ["config", "filter.up.clean", "tr a-z A-Z"]);
    let store = place.store();
    let commit = land(&store, &[(".gitattributes", "*.txt text eol=crlf\n*.up filter=up\n")]);
    let tree = store.check_out(&place.loops.join("gates/one"), &commit).unwrap();
    let fails = |what: &str| CheckVerdict::Fail(format!("check one changed tracked files: {what}"));
    for (script, verdict) in [
        ("touch *; git status --short", CheckVerdict::Pass),
        ("exit 0", CheckVerdict::Pass),
        ("printf 'one\\ntwo\\n' > a.txt", fails("a.txt")),
        ("touch *; rm b.txt", fails("b.txt")),
        ("touch *; chmod +x c.up", fails("c.up")),
        ("ln -sf a.txt b.txt", fails("b.txt")),
        ("touch *", CheckVerdict::Pass),
    ] {
        assert_eq!(verdict_of(script, &tree), verdict, "{script}");
    }
}
