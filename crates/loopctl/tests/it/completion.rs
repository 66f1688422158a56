//! Completion of ids, as real shells ask for it.

use std::path::Path;
use std::process::Command;

use crate::common::{Place, ran};

/// A shell, its options, and a script that prints what it offers for the last of the script's arguments.
type Shell = (&'static str, &'static [&'static str], &'static str);

const BASH: Shell = (
    "bash",
    &["--norc"],
    r#"
        source <(loopctl completions bash)
        COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMP_TYPE=9 COMPREPLY=()
        _clap_complete_loopctl loopctl "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
        printf '%s\n' "${COMPREPLY[@]}"
    "#,
);

/// Loads the function by its name, as an installed one is. Without a terminal, `_describe` has nothing to write to.
const ZSH: Shell = (
    "zsh",
    &["--no-rcs"],
    r#"
        folder=$(mktemp -d)
        trap 'rm -rf $folder' EXIT
        loopctl completions zsh >$folder/_loopctl
        fpath=($folder $fpath)
        autoload -Uz compinit
        compinit -u -D
        _describe() { print -rl -- ${(P)3%%:*} }
        words=("$@") CURRENT=$#
        $_comps[loopctl]
    "#,
);

const FISH: Shell = (
    "fish",
    &["--no-config"],
    r#"
        loopctl completions fish | source
        complete --do-complete "$argv[2..]" | string replace --regex '\t.*' ''
        true
    "#,
);

/// What a shell offers for the last of these words, typed in a folder.
fn offered((name, options, script): Shell, folder: &Path, words: &[&str]) -> Vec<String> {
    let programs = Path::new(env!("CARGO_BIN_EXE_loopctl")).parent().unwrap();
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
    // fish makes folders in it.
    let home = tempfile::tempdir().unwrap();
    let mut shell = Command::new(name);
    shell.env("HOME", home.path());
    shell.args(options).args(["-c", script]).arg(name).args(words);
    shell.current_dir(folder).env("PATH", path).env_remove("CODING_LOOPS_DB").env("GIT_CEILING_DIRECTORIES", folder);
    let printed = ran(shell.output().unwrap()).ok();
    assert_eq!(printed.stderr, "", "{name} {words:?}");
    printed.stdout.lines().filter(|line| !line.is_empty() && !line.starts_with('-')).map(str::to_owned).collect()
}

fn is_installed((name, ..): &Shell) -> bool {
    let is_there = Command::new(name).args(["-c", "true"]).status().is_ok();
    if !is_there {
        eprintln!("SKIPPED, NOTHING WAS TESTED in {name}: it is not installed");
    }
    is_there
}

#[test]
fn ids_are_completed_from_the_database() {
    let place = Place::with_loops();
    for test in ["api-01", "api-02", "ui-01"] {
        place.run(&["test", "add", test, "--loop", "a"]).ok();
    }
    let question = place.run(&["ask", "--summary", "which?", "--option", "A=x", "--option", "B=y"]).ok().stdout;
    let question = &question.trim()[28..];
    place.sql(
        "INSERT INTO alerts (id, severity, alert_type, message)
           VALUES ('01a20887-a7a2-779d-8fa1-f77f7be2901f', 'info', 'stuck', 'm'), ('a\u{1b}[2J', 'info', 'stuck', 'm')",
    );
    let others = [ZSH, FISH].into_iter().filter(is_installed);
    for shell in [BASH].into_iter().chain(others) {
        check_ids(shell, &place, question);
    }
}

fn check_ids(shell: Shell, place: &Place, question: &str) {
    let here = place.repository();
    let offered = |words: &[&str]| offered(shell, &here, words);
    assert_eq!(offered(&["loopctl", "status", "api"]), ["api-01", "api-02"]);
    assert_eq!(offered(&["loopctl", "status", ""]), ["a", "b", "api-01", "api-02", "ui-01"]);
    assert_eq!(offered(&["loopctl", "pause", ""]), ["a", "b", "all"]);
    assert_eq!(offered(&["loopctl", "tests", "--loop", ""]), ["a", "b"]);
    assert_eq!(offered(&["loopctl", "decide", ""]), [question, "all"]);
    assert_eq!(offered(&["loopctl", "decide", question, ""]), ["A", "B"]);
    assert_eq!(offered(&["loopctl", "ack-alert", ""]), ["7be2901f"]);
    assert_eq!(offered(&["loopctl", "test", "add", ""]), [] as [&str; 0], "a new id is nobody's");
    assert!(offered(&["loopctl", "dead"]).contains(&"deadlocks".to_owned()));
    let db = place.database();
    let elsewhere =
        crate::completion::offered(shell, place.outside(), &["loopctl", "--db", db.to_str().unwrap(), "skip", "ui"]);
    assert_eq!(elsewhere, ["ui-01"]);
}

#[test]
fn without_a_usable_database_nothing_is_offered_and_nothing_is_changed() {
    let place = Place::with_loops();
    assert_eq!(offered(BASH, place.outside(), &["loopctl", "pause", ""]), [] as [&str; 0]);
    place.sql("PRAGMA user_version = 1");
    let before = std::fs::read(place.database()).unwrap();
    assert_eq!(offered(BASH, &place.repository(), &["loopctl", "pause", ""]), [] as [&str; 0]);
    assert_eq!(std::fs::read(place.database()).unwrap(), before);
    std::fs::write(place.database(), "nonsense").unwrap();
    assert_eq!(offered(BASH, &place.repository(), &["loopctl", "pause", ""]), [] as [&str; 0]);
}
