//! A judgement sees the files of its commit and nothing else, however quickly one commit follows another in a check-out.

use std::fs;
use std::process::Command;

use crate::common::World;

/// Runs `code.py` through an import, so that Python caches what it has compiled of it.
const PYTHON: &str = r#"
export @CACHE@
exec python3 -c 'import os, sys; sys.path.insert(0, "."); import code_of_tests as code; sys.exit(code.ANSWER != 42)'"#;

/// Commits that each edit the module by the same size, one of which breaks it. The true culprit, and who is blamed.
fn same_size_edits(length: usize, breaks_at: usize, cache: &str) -> (String, String) {
    let world = World::with_baseline();
    fs::write(world.layout.store_path().join("info/exclude"), "__pycache__/\n").unwrap();
    let write = |number: usize, answer: u32| {
        let content = format!("NUMBER = {number:04}\nANSWER = {answer}\n").replace("= 0", "= 1");
        world.commit_file("code_of_tests.py", &content, "Loop: b")
    };
    let good = write(0, 42);
    let commits: Vec<String> = (1..=length).map(|number| write(number, if number >= breaks_at { 41 } else { 42 })).collect();
    world.sql(&format!("DELETE FROM passing_tests; INSERT INTO passing_tests(test_id, commit_hash) VALUES ('t1', '{good}')"));
    let cache = cache.replace("@ROOT@", &world.path.with_file_name("cache").display().to_string());
    world.configure_with(&world.script(&PYTHON.replace("@CACHE@", &cache)), "[regression]\nparallel = 1");
    world.once();
    (commits[breaks_at - 1].clone(), world.sql("SELECT first_bad_commit FROM regressions"))
}

#[test]
fn edits_of_the_same_size_within_a_second_are_distinguished() {
    if !Command::new("python3").arg("--version").output().is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: no python3");
        return;
    }
    for n in 0..12 {
        // Beside the sources, and elsewhere.
        let cache = if n % 3 == 2 { "PYTHONPYCACHEPREFIX='@ROOT@'" } else { "PYTHONNOUSERSITE=1" };
        let (culprit, blamed) = same_size_edits(6 + n % 4, 2 + n % 5, cache);
        assert_eq!(blamed, culprit, "number {n}");
    }
}

/// Writes down what lies in the folder that is not of the commit or built at it, and leaves there what checks leave.
const WITNESS: &str = r#"
before="$(git ls-files --others; find . -type d -empty -not -path './.git/*' -not -path ./vendor)"
[ -e vendor/file ] && before="$before vendor/file"
[ "$(cat cache/commit 2>/dev/null)" = "$(git rev-parse HEAD)" ] || [ -z "$before" ] || echo "$before" >> "$RUNS"
mkdir -p cache/deep empty/folder other/nested
git rev-parse HEAD > cache/commit; echo built > cache/deep/object; echo left > left
git init -q other/nested; echo mine > other/nested/file
if [ -d vendor ]; then echo "of a submodule" > vendor/file; fi
test "$(cat state/t1)" = ok"#;

#[test]
fn nothing_of_another_commit_is_there() {
    let world = World::with_baseline();
    world.commit_file(".gitmodules", "[submodule \"vendor\"]\n\tpath = vendor\n\turl = ./nowhere\n", "");
    let submodule = world.head();
    world.commit_link("vendor", &submodule);
    world.history(9, 6);
    world.configure_with(&world.script(WITNESS), "[regression]\nparallel = 1\nretries = 0");
    world.once();
    assert_eq!(world.sql("SELECT status FROM regressions"), "regressed");
    assert_eq!(world.runs(), Vec::<String>::new());
    assert!(
        world.layout.checker().join("0/cache/deep/object").exists(),
        "what is built stays for the next run at the same commit"
    );
}

#[test]
fn files_written_under_other_rules_are_written_again() {
    let world = World::with_baseline();
    world.commit_file("text", "one\ntwo\n", "");
    let commits: Vec<String> = (1..=8)
        .map(|number| match number {
            4 => world.commit_file(".gitattributes", "text eol=crlf\n", "Loop: b"),
            _ => world.commit_file("other", &format!("{number}\n"), "Loop: a"),
        })
        .collect();
    // Neither the file nor its blob changes where the rule does.
    let check = r#"[ "$(wc -c < text)" -eq 8 ]"#;
    world.configure_with(&world.script(check), "[regression]\nparallel = 1");
    world.sql(&format!(
        "DELETE FROM passing_tests; INSERT INTO passing_tests(test_id, commit_hash) VALUES ('t1', '{}')",
        world.in_store(&["rev-parse", &format!("{}^", commits[0])])
    ));
    world.once();
    assert_eq!(world.sql("SELECT status, first_bad_commit FROM regressions"), format!("regressed|{}", commits[3]));
}

#[test]
fn what_a_check_needs_is_set_up_again_only_where_its_inputs_differ() {
    let world = World::with_baseline();
    world.commit_file(".gitignore", "dep/\n", "");
    world.commit_file("lock", "1\n", "");
    world.history(9, 6);
    let newest = world.commit_file("lock", "2\n", "Loop: b");
    let set_up = world.script("mkdir -p dep; cp lock dep/made; echo x >> state/t1; echo set-up >> \"$RUNS\"");
    let check = world.script("cmp lock dep/made || echo wrong >> \"$RUNS\"; test \"$(cat state/t1)\" = ok");
    let settings = "[regression]\nparallel = 1\nretries = 0\n[workspace]\nsetup_inputs = [\"lock\"]\nsetup = ";
    world.configure_with(&check, &format!("{settings}[{set_up}]"));
    world.once();
    assert_eq!(world.sql("SELECT status FROM regressions"), "regressed");
    let runs = world.runs();
    assert!(runs.iter().all(|run| run == "set-up"), "{runs:?}");
    assert!((1..=3).contains(&runs.len()), "{runs:?}, the newest is {newest}");
}
