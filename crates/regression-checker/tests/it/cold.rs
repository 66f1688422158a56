//! Checks on fresh clones without caches: what fails only there.

use crate::common::World;

/// Set-up makes what the check needs, and is kept while its inputs are the same.
const NEEDS: &str = "echo \"$(test -e cache/dependency && echo made) $(git rev-parse HEAD)\" >> \"$RUNS\"; test -e cache/dependency \
                     || { echo dependency is missing; exit 1; }";

fn with_set_up(cold: &str) -> World {
    let world = World::new();
    world.commit_file("setup.sh", "mkdir -p cache; echo > cache/dependency\n", "");
    world.commit_file("lock", "1\n", "");
    let more = format!(
        "[workspace]\nsetup = [[\"sh\", \"setup.sh\"]]\nsetup_inputs = [\"lock\"]\n[gate]\ncold = \"{cold}\"\n[regression]\nretries = 1\n"
    );
    world.configure_with(&world.script(NEEDS), &more);
    world.passed("t1", "a", &world.head());
    world
}

#[test]
fn what_fails_only_on_a_fresh_clone_is_said_blamed_and_over_once_it_passes() {
    let world = with_set_up("every-1");
    world.once();
    let cold = "SELECT check_name, commit_hash, outcome FROM check_runs WHERE check_name LIKE '%(cold)'";
    assert_eq!(world.sql(cold), format!("tests (cold)|{}|pass", world.head()));
    // Its inputs are the same, so that what was made stays, everywhere but on a fresh clone.
    let mut commits = Vec::new();
    for n in 1..=5 {
        let text = if n == 3 { "true\n".to_owned() } else { format!("{n}\n") };
        let file = if n == 3 { "setup.sh" } else { "other" };
        commits.push(world.commit_file(file, &text, &format!("Loop: b\nTest: t-{n}")));
    }
    world.sql("UPDATE check_runs SET ran_at = datetime('now', '-1 hour')");
    world.passed("t2", "b", &world.head());
    world.once();
    let head = world.head();
    assert_eq!(
        world.sql(&format!("SELECT outcome FROM check_runs WHERE check_name = 'tests' AND commit_hash = '{head}'")),
        "pass"
    );
    let row = world.sql("SELECT check_name, status, first_bad_commit, blamed_loop, blamed_test FROM regressions");
    assert_eq!(row, format!("tests (cold)|regressed|{}|b|t-3", commits[2]));
    let alert =
        world.sql("SELECT message, json_extract(context, '$.output_tail') FROM alerts WHERE fingerprint = 'cold:tests'");
    assert!(alert.contains("it fails on a fresh clone without caches, and passes with them"), "{alert}");
    assert!(alert.contains("dependency is missing"), "{alert}");
    assert_eq!(world.events("regression_detected").len(), 1);
    let folders = std::fs::read_dir(world.layout.checker()).unwrap().flatten();
    let left: Vec<_> =
        folders.map(|entry| entry.file_name()).filter(|name| name.to_string_lossy().starts_with("cold")).collect();
    assert!(left.is_empty(), "{left:?}");
    // Nothing is said or run again at the same head.
    world.forget_runs();
    world.once();
    assert_eq!(world.runs(), Vec::<String>::new());

    world.commit_file("setup.sh", "mkdir -p cache; echo > cache/dependency\n", "");
    world.sql("UPDATE check_runs SET ran_at = datetime('now', '-1 hour')");
    world.passed("t3", "b", &world.head());
    world.once();
    assert_eq!(world.sql("SELECT status FROM regressions"), "cleared");
    assert_eq!(world.alerts(), "");
}

#[test]
fn nothing_runs_on_fresh_clones_before_the_set_number_of_landings_or_when_disabled() {
    for cold in ["never", "every-2"] {
        let world = with_set_up(cold);
        world.once();
        assert_eq!(world.sql("SELECT count(*) FROM check_runs WHERE check_name LIKE '%(cold)'"), "0", "{cold}");
        world.passed("t2", "a", &world.head());
        world.once();
        let expected = if cold == "never" { "0" } else { "1" };
        assert_eq!(world.sql("SELECT count(*) FROM check_runs WHERE check_name LIKE '%(cold)'"), expected, "{cold}");
    }
}
