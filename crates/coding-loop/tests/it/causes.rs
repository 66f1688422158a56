//! Every event of an attempt names the attempt's start and belongs to its story, whether a program or a person drives the loop.

use crate::common::{CHECK, World};
use coord_db::{Event, EventFilter};

/// The events of one test's attempts, leases included, that do not belong to the attempt with this start.
fn strangers(world: &World, start: &Event) -> Vec<String> {
    let events = world.db.read(|tx| tx.events(&EventFilter::default())).unwrap();
    let of_attempt = |event: &&Event| {
        matches!(event.event_type.as_str(), "file_locked" | "file_unlocked" | "test_passed" | "test_failed" | "test_blocked")
    };
    let strange = |event: &&Event| event.caused_by.is_none() || event.correlation_id != start.correlation_id;
    events.iter().filter(of_attempt).filter(strange).map(|event| format!("{event:?}")).collect()
}

#[test]
fn leases_landing_and_result_are_of_the_attempt() {
    let agent = "cat >/dev/null; echo 2 > $TEST_ID; echo 2 >> shared\n";
    let world = World::with_test(agent, CHECK);
    assert_eq!(world.once("one").status.code(), Some(0));
    let start = &world.events("test_started")[0];
    assert_eq!((start.caused_by.as_ref(), start.correlation_id.as_deref()), (None, Some(start.id.as_str())));
    assert_eq!(strangers(&world, start), Vec::<String>::new());
    let locked = world.events("file_locked");
    assert!(locked.iter().any(|event| event.payload["file_path"] == "git:integration"), "{locked:?}");
    for event in locked.iter().chain(&world.events("file_unlocked")).chain(&world.events("test_passed")) {
        assert_eq!(event.caused_by.as_ref(), Some(&start.id), "{event:?}");
    }
    assert!(world.events("component_stopped").iter().all(|event| event.caused_by.is_none()));
    world.assert_tidy();
}

#[test]
fn each_failed_attempt_is_a_story_of_its_own() {
    let world = World::with_test("cat >/dev/null; echo no >> shared; exit 1\n", CHECK);
    assert_eq!(world.once("one").status.code(), Some(0));
    let (starts, failed) = (world.events("test_started"), world.events("test_failed"));
    assert_eq!((starts.len(), failed.len()), (2, 2));
    for (start, failed) in starts.iter().zip(&failed) {
        assert_eq!((&failed.caused_by, &failed.correlation_id), (&Some(start.id.clone()), &start.correlation_id));
    }
    assert_ne!(starts[0].correlation_id, starts[1].correlation_id);
    assert_eq!(world.events("test_blocked")[0].correlation_id, starts[1].correlation_id);
    world.assert_tidy();
}
