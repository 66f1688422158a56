//! The real program on tests that fail by chance, with the truth known: who broke something is found beside chance, and nobody
//! else is blamed. How seldom chance misleads all the same, in numbers: `src/decide/search/tests.rs`.

use crate::common::World;
use coord_db::LedgerState::{self, Flaky, Regressed};

/// `state/t1` and `state/t2` say how the tests fare: `flaky` fails at a rate in percent, by numbers that are the same each time.
const JUDGE: &str = r#"
chance() {
  printf x >> "$RUNS"
  n=$(( $(wc -c < "$RUNS") + @SEED@ * 10007 ))
  n=$(( n * 2654435761 & 4294967295 ))
  n=$(( (n ^ (n >> 15)) * 2246822519 & 4294967295 ))
  n=$(( (n ^ (n >> 13)) * 3266489917 & 4294967295 ))
  [ $(( (n ^ (n >> 16)) % 100 )) -ge @PERCENT@ ]
}
judge() { case "$(cat "$1")" in ok) ;; flaky) chance || exit 1 ;; *) exit 1 ;; esac; }
if [ -n "$TEST_ID" ]; then judge "state/$TEST_ID"; else judge state/t1; judge state/t2; fi"#;

fn configure(world: &World, seed: usize, percent: usize) {
    let judge = JUDGE.replace("@SEED@", &seed.to_string()).replace("@PERCENT@", &percent.to_string());
    world.configure_with(&world.script(&judge), "[regression]\nparallel = 1");
}

fn state_of(world: &World, test: &str) -> LedgerState {
    world.db.read(|tx| tx.ledger(Some(&test.parse().unwrap()))).unwrap().remove(0).state
}

#[test]
fn what_was_flaky_before_it_broke_for_good_is_traced_to_what_broke_it() {
    for n in 0..9 {
        let world = World::with_baseline();
        configure(&world, n, 30);
        let (flaky, broken) = (2 + n % 4, 6 + n % 5);
        let commits: Vec<String> = (0..14)
            .map(|number| match number {
                number if number == flaky => world.commit("t1", "flaky", "Loop: a"),
                number if number == broken => world.commit("t1", "broken", "Loop: b"),
                _ => world.commit("other", &number.to_string(), "Loop: innocent"),
            })
            .collect();
        world.once();
        let found = world.sql("SELECT status, first_bad_commit, blamed_loop FROM regressions");
        assert_eq!(found, format!("regressed|{}|b", commits[broken]), "number {n}");
    }
}

#[test]
fn a_flaky_test_beside_a_standing_regression_blames_nobody() {
    let world = World::with_baseline();
    world.passed("t2", "a", &world.head());
    configure(&world, 1, 30);
    let broken = world.commit("t1", "broken", "Loop: b");
    world.once();
    world.commit("t2", "flaky", "Loop: a");
    for number in 0..40 {
        world.commit("other", &number.to_string(), "Loop: innocent");
        world.once();
    }
    let blamed = world.sql("SELECT test_id, first_bad_commit FROM regressions WHERE status NOT IN ('flaky', 'cleared')");
    assert_eq!(blamed, format!("t1|{broken}"));
    assert_eq!(world.events("regression_detected").len(), 1);
    assert_eq!(world.sql("SELECT count(*) FROM regressions WHERE test_id = 't2' AND status = 'flaky'"), "1");
}

#[test]
fn what_was_taken_for_flaky_is_looked_at_again_while_the_head_fails() {
    let world = World::with_baseline();
    // Once it is searched for, it passes as long as there is the file.
    let luck = world.path.with_file_name("luck");
    let script = format!(
        r#"[ -z "$TEST_ID" ] || echo run >> "$RUNS"
        if [ -e '{}' ] && [ -n "$TEST_ID" ] && [ "$(wc -l < "$RUNS")" -gt 3 ]; then exit 0; fi
        test "$(cat state/t1)" = ok"#,
        luck.display()
    );
    world.configure_with(&world.script(&script), "[regression]\nparallel = 1");
    std::fs::write(&luck, "").unwrap();
    let broken = world.commit("t1", "broken", "Loop: b");
    world.once();
    assert_eq!((state_of(&world, "t1"), world.alerts()), (Flaky, String::new()));
    std::fs::remove_file(&luck).unwrap();
    world.once();
    assert_eq!(state_of(&world, "t1"), Flaky, "not before the interval has passed");
    world.let_interval_pass();
    world.once();
    assert_eq!(state_of(&world, "t1"), Regressed);
    assert_eq!(
        world.sql("SELECT first_bad_commit, blamed_loop FROM regressions WHERE resolved_at IS NULL"),
        format!("{broken}|b")
    );
    assert_eq!(world.alerts(), "regression:t1|error");
    assert_eq!(world.sql("SELECT count(*) FROM alerts WHERE fingerprint LIKE 'check_fails:%'"), "0");
}

#[test]
fn a_head_that_was_judged_before_is_judged_again() {
    let world = World::with_baseline();
    let good = world.head();
    let bad = world.commit("t1", "broken", "Loop: b");
    world.once();
    let mended = world.commit("t1", "ok", "Loop: a");
    world.once();
    for (head, state, alerts) in [
        (&bad, Regressed, "regression:t1|error"),
        (&mended, LedgerState::Cleared, ""),
        (&bad, Regressed, "regression:t1|error"),
    ] {
        world.move_to(head);
        world.once();
        assert_eq!((state_of(&world, "t1"), world.alerts().as_str()), (state, alerts), "at {head}");
        assert_eq!(
            world.sql("SELECT blamed_loop FROM regressions WHERE resolved_at IS NULL"),
            if alerts.is_empty() { "" } else { "b" }
        );
    }
    // A good head that was judged before clears it at once.
    world.move_to(&good);
    world.once();
    assert_eq!((state_of(&world, "t1"), world.alerts()), (LedgerState::Cleared, String::new()));
    world.let_interval_pass();
    world.once();
    assert_eq!(world.sql("SELECT count(*) FROM alerts WHERE fingerprint LIKE 'check_fails:%'"), "0");
    assert_eq!(world.events("regression_detected").len(), 1, "once for each test and first bad commit");
    // Nothing new, nothing run.
    world.forget_runs();
    world.once();
    assert_eq!(world.runs().len(), 0);
}
