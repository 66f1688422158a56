//! What was saved of tests that have passed since goes after its time; what has not landed stays.

use crate::common::{CHECK, World};
use coord_db::Error;

#[test]
fn saved_work_goes_after_its_time_if_its_test_has_passed_and_never_otherwise() {
    let agent = "echo $RANDOM$$ > half; if [ $TEST_ID = t1 ] && [ $ATTEMPT = 2 ]; then touch $TEST_ID; fi; test -e $TEST_ID";
    let world = World::new(agent, CHECK);
    world.add_loop("one");
    world.add_test("t1", "one");
    world.add_test("t2", "one");
    world.once("one");
    let refs =
        || world.store(&["for-each-ref", "--format=%(refname)", "refs/coding-loops/saved", "refs/coding-loops/checkpoints"]);
    let of = |test: &str| refs().lines().filter(|name| name.contains(&format!("/{test}/"))).count();
    let (first, second) = (of("t1"), of("t2"));
    assert!(first >= 2 && second >= 2, "{}", refs());
    world.once("one");
    assert_eq!((of("t1"), of("t2")), (first, second), "nothing goes before its time");
    // With no time to keep them.
    let config = std::fs::read_to_string(world.home.join("config.toml")).unwrap();
    std::fs::write(world.home.join("config.toml"), format!("{config}\n[retention]\nsaved_work_days = 0\n")).unwrap();
    // Whoever starts next does it, be it another loop.
    world.add_loop("two");
    world.once("two");
    assert_eq!((of("t1"), of("t2")), (0, second), "{}", refs());
    let left = world.db.read(|tx| Ok::<_, Error>(tx.checkpoints(None)?.len())).unwrap();
    assert_eq!(left, second, "the rows say the same");
    world.assert_tidy();
}
