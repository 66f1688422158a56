//! The wall clock is set, forward and back, under leases, tests and events: nobody loses anything by it, what is said later
//! comes later, and everything goes on.

use std::sync::Arc;

use coord_db::{Acquire, ActorId, ClockChange, Database, Error, ManualClock, NewEvent, OpenOptions, Payload, TestStatus};
use test_support::{NOW, acquire_request, new_loop, new_test};

use crate::common::{id, running};

const HOURS: i64 = 3_600_000;

fn acquire(db: &Database, loop_id: &str) -> Result<i64, Vec<String>> {
    match db.write(|tx| tx.acquire(&acquire_request(loop_id, &["file"]), 5)).unwrap() {
        Acquire::Granted(grant) => Ok(grant.fencing_token),
        Acquire::Refused(blockers) => Err(blockers.into_iter().map(|blocker| blocker.locked_by).collect()),
    }
}

fn say(db: &Database, number: i64) {
    let payload = Payload::Custom { event_type: "custom.said".to_owned(), value: serde_json::json!(number) };
    let event = NewEvent::new("a".parse().unwrap(), payload);
    db.write(|tx| tx.publish(&event)).unwrap();
}

/// What the listener has still to hear, in its order.
fn heard(db: &Database) -> Vec<i64> {
    let deliveries = db.read(|tx| tx.pending_deliveries("listener", 100)).unwrap();
    deliveries.into_iter().map(|delivery| delivery.event.payload.as_i64().unwrap()).collect()
}

fn jump(by_millis: i64) {
    let (db, clock) = running(["a", "b"].map(new_loop));
    let listener: ActorId = "listener".parse().unwrap();
    let test = new_test("t", "a");
    db.write(|tx| {
        assert_eq!(tx.import_tests(&[test])?, []);
        tx.subscribe(&listener, &["custom.said".to_owned()], None)?;
        tx.observe_clock(30)?;
        tx.claim_next_test(&id("a"), true)?;
        Ok::<_, Error>(())
    })
    .unwrap();
    let token = acquire(&db, "a").unwrap();
    say(&db, 1);

    clock.jump_millis(by_millis);
    // Before anyone has written the jump down, and after it.
    assert_eq!(acquire(&db, "b"), Err(vec!["a".to_owned()]));
    db.write(|tx| tx.observe_clock(30)).unwrap();
    assert_eq!(acquire(&db, "b"), Err(vec!["a".to_owned()]));
    say(&db, 2);
    assert_eq!(heard(&db), [1, 2]);
    // The holder goes on by the new time.
    db.write(|tx| tx.renew(&id("a"), token, None)).unwrap();
    clock.advance_millis(45_000);
    db.write(|tx| tx.observe_clock(30)).unwrap();
    assert_eq!(acquire(&db, "b"), Err(vec!["a".to_owned()]));
    say(&db, 3);
    assert_eq!(heard(&db), [1, 2, 3]);
    let claimed = db.read(|tx| tx.test(&"t".parse().unwrap())).unwrap();
    assert_eq!((claimed.status, claimed.attempts), (TestStatus::InProgress, 1));
    // A holder that falls silent is waited for no longer than ever.
    clock.advance_millis(16_000);
    assert!(acquire(&db, "b").unwrap() > token);
    let lost = db.write(|tx| tx.renew(&id("a"), token, None));
    assert!(matches!(lost, Err(Error::LeaseLost { .. })), "{lost:?}");
    assert_eq!(db.check().unwrap(), []);
}

#[test]
fn a_clock_set_forward_takes_nothing_from_anyone() {
    for by in [10_000, HOURS, 24 * 365 * HOURS] {
        jump(by);
    }
}

#[test]
fn a_clock_set_back_takes_nothing_from_anyone() {
    for by in [-10_000, -HOURS, -24 * 365 * HOURS] {
        jump(by);
    }
}

#[test]
fn a_clock_set_forth_and_back_again_leaves_no_lease_behind_for_ever() {
    let (db, clock) = running(["a", "b"].map(new_loop));
    db.write(|tx| tx.observe_clock(30)).unwrap();
    clock.jump_millis(HOURS);
    db.write(|tx| tx.observe_clock(30)).unwrap();
    let token = acquire(&db, "a").unwrap();
    clock.jump_millis(-HOURS);
    db.write(|tx| tx.observe_clock(30)).unwrap();
    // Taken by the wrong time, it ends an hour late, unless its holder renews it, gives it back or dies.
    assert_eq!(acquire(&db, "b"), Err(vec!["a".to_owned()]));
    db.write(|tx| tx.renew(&id("a"), token, None)).unwrap();
    clock.advance_millis(61_000);
    assert!(acquire(&db, "b").unwrap() > token);
}

#[test]
fn each_host_has_clocks_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let clocks = ["a", "b"].map(|host| ManualClock::new(NOW).on_host(host));
    // The second was started ten hours earlier.
    clocks[1].advance_millis(10 * HOURS);
    clocks[1].jump_millis(-10 * HOURS);
    let hosts = clocks.clone().map(|clock| {
        let options = OpenOptions { clock: Arc::new(clock), ..OpenOptions::default() };
        Database::create(&test_support::place(&folder.path().join("coordination.db")), &options).unwrap()
    });
    let observed = || hosts.each_ref().map(|db| db.write(|tx| tx.observe_clock(30)).unwrap());
    for _ in 0..3 {
        assert_eq!(observed(), [ClockChange::None; 2]);
        clocks.iter().for_each(|clock| clock.advance_millis(1000));
    }
    clocks[1].suspend_millis(600_000);
    clocks[0].advance_millis(600_000);
    assert_eq!(observed(), [ClockChange::None, ClockChange::Suspended(600_000)]);
    let seen =
        hosts.each_ref().map(|db| db.read(|tx| Ok::<_, Error>((tx.in_clock_grace()?, tx.clock_changes()?.len()))).unwrap());
    assert_eq!(seen, [(false, 0), (true, 1)]);
}
