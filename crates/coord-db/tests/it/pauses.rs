//! Pauses: when a loop has something to settle.

use crate::common::{id, running};
use coord_db::payload::{PauseRequested, Payload, ResumeRequested};
use coord_db::{ActorId, LoopStatus, NewEvent};
use test_support::new_loop;

#[test]
fn there_is_nothing_to_settle_unless_a_pause_stands_waits_or_has_ended() {
    let (db, _) = running([new_loop("a")]);
    let a = id("a");
    let is_unpaused = || db.read(|tx| tx.is_unpaused(&a)).unwrap();
    let say = |payload: Payload| drop(db.write(|tx| tx.publish(&NewEvent::new(ActorId::human(), payload))).unwrap());
    let settle = || {
        db.write(|tx| {
            let pauses = tx.settle_pauses(&a)?;
            tx.apply_pauses(&a, &pauses)
        })
        .unwrap()
    };
    assert!(is_unpaused());
    let human = ActorId::human();
    say(PauseRequested { loop_id: a.clone(), reason: String::new(), requested_by: human.clone() }.into());
    assert!(!is_unpaused(), "a pause is requested");
    assert!(settle());
    assert!(!is_unpaused(), "it stands");
    say(ResumeRequested { loop_id: a.clone(), reason: String::new(), requested_by: human }.into());
    assert!(!is_unpaused(), "its end is requested");
    assert!(!settle());
    assert!(is_unpaused());
    db.write(|tx| tx.add_pause(&a, &ActorId::human(), "", None)).unwrap();
    assert!(!is_unpaused(), "a pause stands, and the row says that it runs");
    db.write(|tx| tx.lift_pauses(&a, &ActorId::human())).unwrap();
    assert!(is_unpaused());
    db.write(|tx| tx.set_loop_status(&a, LoopStatus::Paused)).unwrap();
    assert!(!is_unpaused(), "no pause stands, and the row says that it is paused");
}
