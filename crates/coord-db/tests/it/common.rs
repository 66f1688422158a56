//! A database with running loops, on a virtual clock.

use std::sync::Arc;

use coord_db::{Database, Error, LoopId, LoopStatus, ManualClock, NewLoop};
use test_support::NOW;

pub fn id(text: &str) -> LoopId {
    text.parse().unwrap()
}

/// A database with these loops, all of them running, and its clock.
pub fn running(loops: impl IntoIterator<Item = NewLoop>) -> (Database, ManualClock) {
    let clock = ManualClock::new(NOW);
    let db = test_support::in_memory(Arc::new(clock.clone()));
    db.write(|tx| {
        for new in loops {
            tx.add_loop(&new)?;
            tx.set_loop_status(&new.id, LoopStatus::Running)?;
        }
        Ok::<_, Error>(())
    })
    .unwrap();
    (db, clock)
}
