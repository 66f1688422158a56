//! Leases through the public API, on a virtual clock.

use coord_db::{Acquire, ActorId, Database, Error, LoopStatus, ManualClock, NewLoop, UnlockCause, Waiting};
use test_support::{acquire_request as want, new_loop};

use crate::common::{id, running};

struct World {
    db: Database,
    clock: ManualClock,
}

impl World {
    fn new() -> Self {
        let (db, clock) =
            running([("a", 5), ("b", 5), ("c", 1)].map(|(name, priority)| NewLoop { priority, ..new_loop(name) }));
        Self { db, clock }
    }

    /// The token, or who is in the way.
    fn acquire(&self, loop_id: &str, paths: &[&str]) -> Result<i64, Vec<String>> {
        match self.db.write(|tx| tx.acquire(&want(loop_id, paths), 5)).unwrap() {
            Acquire::Granted(grant) => Ok(grant.fencing_token),
            Acquire::Refused(blockers) => Err(blockers.into_iter().map(|blocker| blocker.locked_by).collect()),
        }
    }

    fn queue(&self, loop_id: &str, paths: &[&str], seconds: i64) -> String {
        let (request, answer) =
            self.db.write(|tx| tx.acquire_or_queue(&want(loop_id, paths), tx.now().plus_seconds(seconds), 5)).unwrap();
        assert!(matches!(answer, Waiting::Queued(_)), "{answer:?}");
        request.unwrap()
    }

    fn granted(&self, request: &str, loop_id: &str, paths: &[&str]) -> bool {
        matches!(self.db.write(|tx| tx.retry_request(request, &want(loop_id, paths), 5)).unwrap(), Waiting::Granted(_))
    }

    fn release(&self, loop_id: &str) {
        self.db.write(|tx| tx.release_all(&id(loop_id), None)).unwrap();
    }

    fn edges(&self) -> Vec<String> {
        let edges = self.db.read(|tx| tx.wait_edges()).unwrap();
        edges.into_iter().map(|edge| format!("{}>{} {}", edge.waiter, edge.holder, edge.resource)).collect()
    }

    fn events(&self, event_type: &str) -> Vec<String> {
        let filter = coord_db::EventFilter { event_type: Some(event_type.to_owned()), ..Default::default() };
        let events = self.db.read(|tx| tx.events(&filter)).unwrap();
        let text = |event: &coord_db::Event, key: &str| event.payload[key].as_str().unwrap_or_default().to_owned();
        events.iter().map(|event| format!("{} {} {}", event.source, text(event, "file_path"), text(event, "cause"))).collect()
    }
}

#[test]
fn a_set_is_granted_whole_or_not_at_all() {
    let world = World::new();
    let token = world.acquire("a", &["x", "y"]).unwrap();
    assert_eq!(world.acquire("b", &["y", "z"]), Err(vec!["a".to_owned()]));
    assert_eq!(world.db.read(|tx| tx.leases(true)).unwrap().len(), 2);
    assert_eq!(world.edges(), Vec::<String>::new());
    assert!(world.acquire("b", &["z"]).unwrap() > token);
}

#[test]
fn subtrees_exclude_what_is_in_them() {
    let world = World::new();
    world.acquire("a", &["src/"]).unwrap();
    assert!(world.acquire("b", &["src/deep/file.rs"]).is_err());
    assert!(world.acquire("b", &["src"]).is_err());
    assert!(world.acquire("a", &["src/deep/file.rs"]).is_ok());
    world.acquire("b", &["doc/x"]).unwrap();
    assert!(world.acquire("a", &["doc/"]).is_err());
    world.acquire("a", &["docs/"]).unwrap();
}

#[test]
fn an_expired_lease_is_free_at_the_moment_of_asking_and_its_token_is_then_lost() {
    let world = World::new();
    let old = world.acquire("a", &["x"]).unwrap();
    world.clock.advance_millis(59_999);
    assert!(world.acquire("b", &["x"]).is_err());
    world.clock.advance_millis(1);
    // It may still be renewed while nobody has taken it.
    world.db.write(|tx| tx.renew(&id("a"), old, None)).unwrap();
    world.clock.advance_millis(60_000);
    let new = world.acquire("b", &["x"]).unwrap();
    assert!(new > old);
    assert_eq!(world.events("file_unlocked"), ["b x expired"]);
    assert!(matches!(world.db.write(|tx| tx.renew(&id("a"), old, None)), Err(Error::LeaseLost { .. })));
    assert!(matches!(
        world.db.write(|tx| tx.release(&id("a"), &["x".parse().unwrap()], Some(old))),
        Err(Error::LeaseLost { .. })
    ));
    assert!(world.db.read(|tx| tx.holds(&id("b"), &"x".parse().unwrap(), new)).unwrap());
}

#[test]
fn nobody_takes_an_expired_lease_right_after_a_suspend() {
    let world = World::new();
    world.db.write(|tx| tx.observe_clock(30)).unwrap();
    world.acquire("a", &["x"]).unwrap();
    world.clock.suspend_millis(3_600_000);
    assert!(world.acquire("b", &["x"]).is_err());
    world.db.write(|tx| tx.observe_clock(30)).unwrap();
    assert!(world.acquire("b", &["x"]).is_err());
    world.clock.advance_millis(30_001);
    world.db.write(|tx| tx.observe_clock(30)).unwrap();
    assert!(world.acquire("b", &["x"]).is_ok());
}

#[test]
fn waiters_queue_with_edges_and_newcomers_do_not_overtake() {
    let world = World::new();
    world.acquire("a", &["x"]).unwrap();
    let request = world.queue("b", &["x", "y"], 60);
    assert_eq!(world.edges(), ["b>a x"]);
    // y is free, but b waits for it.
    assert_eq!(world.acquire("c", &["y"]), Err(vec!["b".to_owned()]));
    world.release("a");
    assert_eq!(world.edges(), Vec::<String>::new());
    assert_eq!(world.acquire("c", &["x"]), Err(vec!["b".to_owned()]));
    assert!(world.granted(&request, "b", &["x", "y"]));
    assert_eq!(world.edges(), Vec::<String>::new());
}

#[test]
fn importance_counts_and_nobody_starves() {
    let world = World::new();
    world.acquire("a", &["x"]).unwrap();
    let early = world.queue("b", &["x"], 3_600);
    world.clock.advance_millis(60_000);
    world.db.write(|tx| tx.renew_all(&id("a"), 3_600)).unwrap();
    // c is four steps more important than b, which has waited one minute: c goes first.
    let important = world.queue("c", &["x"], 3_600);
    world.release("a");
    assert!(!world.granted(&early, "b", &["x"]));
    assert!(world.granted(&important, "c", &["x"]));
    world.clock.advance_millis(10 * 60_000);
    // Now b has waited longer than importance is worth.
    world.db.write(|tx| tx.renew_all(&id("c"), 3_600)).unwrap();
    world.release("c");
    world.acquire("c", &["x"]).unwrap_err();
    assert!(world.granted(&early, "b", &["x"]));
}

#[test]
fn what_is_free_is_kept_five_seconds_for_a_silent_waiter() {
    let world = World::new();
    world.acquire("a", &["x"]).unwrap();
    world.clock.advance_millis(1);
    let silent = world.queue("b", &["x"], 3_600);
    world.db.write(|tx| tx.release_everything("a", &ActorId::human(), UnlockCause::Forced, None)).unwrap();
    assert!(world.acquire("c", &["x"]).is_err());
    world.clock.advance_millis(5_001);
    assert!(world.acquire("c", &["x"]).is_ok());
    assert!(!world.granted(&silent, "b", &["x"]));
}

#[test]
fn a_waiter_whose_loop_is_paused_or_whose_time_is_over_holds_nobody_up() {
    let world = World::new();
    world.acquire("a", &["x"]).unwrap();
    let request = world.queue("b", &["x"], 10);
    world.release("a");
    world.db.write(|tx| tx.set_loop_status(&id("b"), LoopStatus::Paused)).unwrap();
    world.acquire("c", &["x"]).unwrap();
    world.clock.advance_millis(10_000);
    assert!(matches!(world.db.write(|tx| tx.retry_request(&request, &want("b", &["x"]), 5)).unwrap(), Waiting::GaveUp(_)));
    assert_eq!(world.db.read(|tx| tx.lease_requests()).unwrap().len(), 0);
}

#[test]
fn releasing_what_is_not_held_releases_nothing() {
    let world = World::new();
    world.acquire("a", &["x"]).unwrap();
    let both = ["x".parse().unwrap(), "y".parse().unwrap()];
    assert!(matches!(world.db.write(|tx| tx.release(&id("a"), &both, None)), Err(Error::Refused(_))));
    assert_eq!(world.db.read(|tx| tx.leases(true)).unwrap().len(), 1);
}

#[test]
fn who_asks_again_for_what_it_holds_does_not_wait_for_those_who_wait_for_it() {
    let world = World::new();
    world.acquire("a", &["src/"]).unwrap();
    let until = world.db.now().plus_seconds(50);
    let (_, waiting) = world.db.write(|tx| tx.acquire_or_queue(&want("b", &["src/"]), until, 5)).unwrap();
    assert!(matches!(waiting, Waiting::Queued(_)));
    world.acquire("a", &["src/"]).unwrap();
    world.acquire("a", &["src/lib.rs"]).unwrap();
    assert_eq!(world.acquire("a", &["src/", "src2/"]).map(|token| token > 0), Ok(true));
    assert_eq!(world.db.read(|tx| tx.wait_edges()).unwrap().len(), 1, "no deadlock of its own making");
}

#[test]
fn one_who_queues_before_others_does_not_wait_for_them() {
    let world = World::new();
    world.acquire("b", &["x"]).unwrap();
    let later = world.queue("a", &["x"], 60);
    // c is more important than a, so it is next although it came later: an edge from it to a would close a circle with a's.
    let first = world.queue("c", &["x"], 60);
    assert!(!world.granted(&later, "a", &["x"]));
    assert_eq!(world.edges(), ["a>b x", "a>c x", "c>b x"]);
    world.release("b");
    assert_eq!(world.edges(), ["a>c x"]);
    assert!(world.granted(&first, "c", &["x"]));
}

#[test]
fn an_edge_to_an_earlier_waiter_stands_on_every_path_that_both_want() {
    let world = World::new();
    world.acquire("a", &["x"]).unwrap();
    world.queue("c", &["x", "y"], 60);
    world.queue("b", &["x", "y"], 60);
    assert_eq!(world.edges(), ["b>a x", "b>c x", "b>c y", "c>a x"]);
}

#[test]
fn two_requests_of_a_loop_for_one_path_keep_the_edges_of_both() {
    let world = World::new();
    world.acquire("c", &["x"]).unwrap();
    let early = world.queue("a", &["x", "y"], 60);
    world.clock.advance_millis(1);
    world.queue("b", &["x"], 60);
    world.clock.advance_millis(1);
    world.queue("a", &["x"], 60);
    // The second one waits for b, also after the first, which does not, has asked again.
    assert!(!world.granted(&early, "a", &["x", "y"]));
    assert!(world.edges().contains(&"a>b x".to_owned()), "{:?}", world.edges());
}

#[test]
fn two_requests_of_a_loop_keep_what_is_free_no_longer_than_one() {
    let world = World::new();
    world.acquire("a", &["x"]).unwrap();
    world.queue("b", &["x"], 3_600);
    world.queue("b", &["x"], 3_600);
    world.release("a");
    world.clock.advance_millis(5_000);
    world.acquire("c", &["x"]).unwrap();
}

#[test]
fn what_expired_while_the_machine_slept_is_kept_for_a_waiter_once_it_may_be_taken() {
    let world = World::new();
    world.db.write(|tx| tx.observe_clock(30)).unwrap();
    world.acquire("a", &["x"]).unwrap();
    let request = world.queue("b", &["x"], 7_200);
    world.clock.suspend_millis(3_600_000);
    world.db.write(|tx| tx.observe_clock(30)).unwrap();
    world.clock.advance_millis(30_000);
    world.db.write(|tx| tx.observe_clock(30)).unwrap();
    assert_eq!(world.acquire("c", &["x"]), Err(vec!["b".to_owned()]));
    assert!(world.granted(&request, "b", &["x"]));
}

#[test]
fn a_lease_on_a_part_does_not_cover_the_whole() {
    let world = World::new();
    let token = world.acquire("a", &["src/deep/"]).unwrap();
    let holds = |path: &str| world.db.read(|tx| tx.holds(&id("a"), &path.parse().unwrap(), token)).unwrap();
    assert!(holds("src/deep/") && holds("src/deep/file.rs") && holds("src/deep"));
    assert!(!holds("src/") && !holds("src") && !holds("src/deeper/file.rs"));
}
