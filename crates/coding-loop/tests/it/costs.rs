//! The cost of an attempt is recorded however it ends, and what others made it lose is charged to them.

use crate::common::{CHECK, World};
use coord_db::payload::{RestartRequested, TestPassed};
use coord_db::{ActorId, ErrorCategory, NewEvent, Payload, ReworkCause, TestStatus};
use test_support::{wait_for, wait_until};

fn tokens(world: &World, test: &str) -> Vec<i64> {
    let rows =
        world.db.query_foreign(&format!("SELECT tokens_estimated FROM usage WHERE test_id = '{test}' ORDER BY rowid")).unwrap();
    rows.into_iter().map(|row| row[0].as_deref().unwrap().parse().unwrap()).collect()
}

fn passed(world: &World, place: usize) -> TestPassed {
    let Payload::TestPassed(said) = world.events("test_passed")[place].parse().unwrap() else { panic!("it is a pass") };
    said
}

#[test]
fn tokens_are_what_the_agent_says_records_or_else_an_estimate() {
    let agent = r#"cat >/dev/null; echo $TEST_ID > $TEST_ID
case $TEST_ID in
  said) echo '{"type":"result","usage":{"input_tokens":1000,"cache_read_input_tokens":99999,"output_tokens":234}}' ;;
  failing) mv failing other; echo 'tokens used: 77' ;;
  recorded) echo 'tokens used: 5'
    sqlite3 "$CODING_LOOPS_DB" "INSERT INTO usage (id, loop_id, test_id, tokens_estimated) VALUES ('own', 'one', 'recorded', 4000)" ;;
  *) printf '%4000s' x ;;
esac
"#;
    let world = World::new(agent, CHECK);
    world.add_loop("one");
    for test in ["a-silent", "failing", "recorded", "said"] {
        world.add_test(test, "one");
    }
    assert_eq!(world.once("one").status.code(), Some(0));
    assert_eq!(tokens(&world, "said"), [1234]);
    assert_eq!(tokens(&world, "failing"), [77, 77], "each of two attempts");
    assert_eq!(tokens(&world, "recorded"), [4000, 0], "counted once");
    let estimated = tokens(&world, "a-silent");
    assert!(estimated.len() == 1 && (1_001..3_000).contains(&estimated[0]), "{estimated:?}");
    let told: Vec<_> = (0..3).map(|place| passed(&world, place).tokens_estimated).collect();
    assert_eq!(told, [Some(estimated[0]), Some(4000), Some(1234)]);
    world.assert_tidy();
}

#[test]
fn an_attempt_that_is_broken_off_has_its_cost_recorded() {
    let world = World::with_test(
        "cat >/dev/null; echo 'tokens used: 9'; touch $FOLDER/begun-$ATTEMPT; [ -e $FOLDER/go ] && touch t1 || sleep 60\n",
        &format!("{CHECK}\n"),
    );
    let config = std::fs::read_to_string(world.home.join("config.toml")).unwrap();
    let environment = "environment = [\"PATH\", \"HOME\", \"FOLDER\"]\n";
    std::fs::write(world.home.join("config.toml"), config.replacen("[agent]\n", &format!("[agent]\n{environment}"), 1))
        .unwrap();
    let running = world.start("one");
    wait_for("the agent", || world.exists("begun-1"));
    std::fs::write(world.folder().join("go"), "").unwrap();
    let (loop_id, reason) = ("one".parse().unwrap(), "begin afresh".to_owned());
    let restart = RestartRequested { loop_id, reason, requested_by: ActorId::human() };
    world.db.write(|tx| tx.publish(&NewEvent::new(ActorId::human(), restart))).unwrap();
    wait_until("a pass", || world.test("t1").status == TestStatus::Passed);
    assert_eq!(running.terminate().code(), Some(0));
    assert_eq!(tokens(&world, "t1"), [9, 9]);
    // Nobody but the human wanted it.
    assert_eq!(world.db.read(|tx| tx.rework(None)).unwrap(), []);
}

#[test]
fn an_attempt_lost_to_a_conflict_names_the_pass_that_came_first() {
    let agent = r#"cat >/dev/null; echo 'tokens used: 50'
if [ $TEST_ID = t1 ] && ! [ -e $FOLDER/begun ]; then
  touch $FOLDER/begun
  for i in $(seq 600); do [ -e $FOLDER/go ] && break; sleep 0.05; done
fi
sed -i "1s/.*/by $TEST_ID/" shared; touch $TEST_ID
"#;
    let world = World::new(agent, CHECK);
    for (id, test) in [("one", "t1"), ("two", "t2")] {
        world.add_loop(id);
        world.add_test(test, id);
    }
    let config = std::fs::read_to_string(world.home.join("config.toml")).unwrap();
    let environment = "environment = [\"PATH\", \"HOME\", \"FOLDER\"]\n";
    std::fs::write(world.home.join("config.toml"), config.replacen("[agent]\n", &format!("[agent]\n{environment}"), 1))
        .unwrap();
    let one = world.start("one");
    wait_for("the first agent", || world.exists("begun"));
    assert_eq!(world.once("two").status.code(), Some(0));
    std::fs::write(world.folder().join("go"), "").unwrap();
    wait_until("both to pass", || world.test("t1").status == TestStatus::Passed);
    assert_eq!(one.terminate().code(), Some(0));
    let failed = &world.events("test_failed")[0];
    assert_eq!(failed.payload["error_category"], ErrorCategory::Conflict.as_str());
    let landed = &world.events("test_passed")[0];
    assert_eq!((landed.source.as_str(), failed.caused_by.as_ref()), ("two", Some(&landed.id)));
    let rework = world.db.read(|tx| tx.rework(None)).unwrap();
    assert_eq!(rework.len(), 1, "{rework:?}");
    let row = &rework[0];
    assert_eq!((row.charged_to.as_str(), row.cause, row.tokens_estimated), ("two", ReworkCause::Conflict, 50));
    assert_eq!((row.test_id.as_str(), &row.event_id), ("t1", &landed.id));
    world.assert_tidy();
}
