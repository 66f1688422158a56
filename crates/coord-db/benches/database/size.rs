//! What the same work costs beside few and beside many old events.

use std::path::Path;
use std::time::Instant;

use coord_db::{Database, Durability, NewEvent};

use crate::report::{Report, Target, median};
use crate::{Extent, Failure, world};

const SMALL: usize = 1_000;

pub fn measure(extent: Extent, report: &mut Report) -> Result<(), Failure> {
    let (rounds, count, large) = (extent.of(15, 5), extent.of(300, 100), extent.of(1_000_000, 50_000));
    let folder = tempfile::tempdir()?;
    let (few, many) = (filled(&folder.path().join("few.db"), SMALL)?, filled(&folder.path().join("many.db"), large)?);
    let event = world::event()?;
    type Work = fn(&Database, &NewEvent) -> Result<(), Failure>;
    let works: [(&str, Work); 4] = [("publish", publish), ("deliver", deliver), ("claim", claim), ("acquire", acquire)];
    for (name, work) in works {
        let timed = |db: &Database| -> Result<f64, Failure> {
            let begin = Instant::now();
            for _ in 0..count {
                work(db, &event)?;
            }
            Ok(begin.elapsed().as_secs_f64())
        };
        let mut ratios = Vec::new();
        for round in 0..=rounds {
            let (small, big) = (timed(&few)?, timed(&many)?);
            if round > 0 {
                ratios.push(big / small);
            }
        }
        let metric = format!("{name} beside {large} events");
        report.add(metric, median(ratios), "times beside 1000", Target::AtMost(1.3));
    }
    Ok(())
}

/// A database with this number of events, each handled by one of its readers, and as many tests and leases as a large day has.
fn filled(path: &Path, events: usize) -> Result<Database, Failure> {
    let db = world::database(path, Durability::Normal, 8, 1)?;
    let raw = world::raw(path, Durability::Normal)?;
    for from in (0..events).step_by(50_000) {
        raw.execute_batch(&format!(
            "BEGIN IMMEDIATE;
             WITH RECURSIVE n (i) AS (SELECT {from} UNION ALL SELECT i + 1 FROM n WHERE i + 1 < {})
             INSERT INTO events (id, timestamp, source, event_type, payload, correlation_id, acknowledged, acknowledged_by, acknowledged_at)
             SELECT printf('%08x-0000-7000-8000-%012x', i, i), datetime('2026-11-01', '+' || i || ' seconds'), 'loop-' || (i % 20),
               CASE i % 5 WHEN 0 THEN 'test_started' WHEN 1 THEN 'test_failed' WHEN 2 THEN 'test_passed' WHEN 3 THEN 'file_locked'
                 ELSE 'file_unlocked' END,
               '{}', printf('%08x-0000-7000-8000-%012x', i / 10, i / 10), 1, 'reader-0', datetime('2026-11-02', '+' || i || ' seconds')
             FROM n;
             INSERT INTO deliveries (event_id, subscription_id, seq, priority, status, settled_at)
             SELECT id, 'reader-0', rowid, priority, 'acknowledged', acknowledged_at FROM events
             WHERE rowid > {from} AND event_type IN ('test_failed', 'test_passed');
             COMMIT",
            (from + 50_000).min(events),
            world::PAYLOAD,
        ))?;
    }
    raw.execute_batch(
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000)
         INSERT INTO tests (id, loop_id, max_attempts) SELECT printf('T-%04d', i), 'loop-1', 1000000 FROM n;
         WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200)
         INSERT INTO file_locks (file_path, locked_by, expires_at) SELECT 'lib/' || i, 'loop-2', '2099-01-01 00:00:00' FROM n",
    )?;
    Ok(db)
}

fn publish(db: &Database, event: &NewEvent) -> Result<(), Failure> {
    db.write(|tx| tx.publish(event))?;
    Ok(())
}

/// From publishing to having settled it.
fn deliver(db: &Database, event: &NewEvent) -> Result<(), Failure> {
    db.write(|tx| tx.publish(event))?;
    Ok(db.write(|tx| {
        let told = tx.pending_deliveries("reader-0", 10)?;
        tx.acknowledge("reader-0", told.iter().map(|delivery| &delivery.event.id))
    })?)
}

fn claim(db: &Database, _: &NewEvent) -> Result<(), Failure> {
    let loop_id = "loop-1".parse()?;
    let test = db.write(|tx| tx.claim_next_test(&loop_id, false))?.ok_or("no test is ready")?;
    Ok(db.write(|tx| tx.give_back(&test.id, &loop_id, "measured"))?)
}

fn acquire(db: &Database, _: &NewEvent) -> Result<(), Failure> {
    let request = world::lease();
    db.write(|tx| tx.acquire(&request, 5))?;
    db.write(|tx| tx.release(&request.loop_id, &request.paths, None))?;
    Ok(())
}
