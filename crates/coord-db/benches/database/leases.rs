//! Taking and giving back a lease, with the two events that go with it.

use std::time::Instant;

use coord_db::Durability;

use crate::report::{Report, Target, median};
use crate::{Extent, Failure, world};

pub fn measure(extent: Extent, report: &mut Report) -> Result<(), Failure> {
    let (rounds, count) = (extent.of(15, 5), extent.of(500, 200));
    let folder = tempfile::tempdir()?;
    let db = world::database(&folder.path().join("ours.db"), Durability::Normal, 0, 0)?;
    let plain = world::without_triggers(&folder.path().join("plain.db"), Durability::Normal)?;
    let request = world::lease();
    let mut ratios = Vec::new();
    for round in 0..=rounds {
        let raw = world::insert_raw(&plain, count, 1)?;
        let begin = Instant::now();
        for _ in 0..count {
            db.write(|tx| tx.acquire(&request, 5))?;
            db.write(|tx| tx.release(&request.loop_id, &request.paths, None))?;
        }
        if round > 0 {
            ratios.push(begin.elapsed().as_secs_f64() / count as f64 / raw);
        }
    }
    report.add("acquire and release, with their events", median(ratios), "raw commits", Target::AtMost(2.5));
    Ok(())
}
