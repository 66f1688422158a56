//! Starts beside writers: whatever moment of their work a start meets, a sound database is never refused.
//!
//! `STARTS` sets how many starts there are.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::common::Place;

/// What a start runs, and the exit codes that it may have.
const STARTS: &[(&[&str], &[i32])] = &[
    (&["status"], &[0]),
    (&["health"], &[0]),
    (&["locks"], &[0]),
    (&["tests"], &[0]),
    (&["timeline", "--limit", "5"], &[0]),
    (&["alerts"], &[0]),
    (&["conflicts"], &[0]),
    (&["deadlocks"], &[0]),
    (&["decisions"], &[0]),
    (&["regressions"], &[0]),
    (&["summary"], &[0]),
    (&["loop", "list"], &[0]),
    (&["migration", "list"], &[0]),
    (&["usage", "report"], &[0]),
    (&["poll", "reader", "--limit", "1"], &[0]),
    (&["beat", "--loop", "b"], &[0]),
    (&["next", "--loop", "b"], &[1]),
    (&["lock", "src/start", "--loop", "b", "--ttl", "1"], &[0]),
    (&["publish", "custom.start", "--source", "b"], &[0]),
    (&["knowledge", "search", "word"], &[0]),
];

#[test]
fn no_start_beside_writers_is_refused() {
    let starts: usize = std::env::var("STARTS").ok().and_then(|text| text.parse().ok()).unwrap_or(400);
    let place = Place::with_loops();
    place.run(&["subscribe", "reader", "--types", "custom.start"]).ok();
    let (next, done) = (AtomicUsize::new(0), AtomicBool::new(false));
    let refused = std::thread::scope(|scope| {
        let (place, next, done) = (&place, &next, &done);
        let writers: Vec<_> = (0..3)
            .map(|writer| {
                scope.spawn(move || {
                    let path = format!("src/{writer}");
                    // The file grows, so that its length and its header change all the time.
                    let payload = format!("{{\"x\":\"{}\"}}", "y".repeat(3_000 * (writer + 1)));
                    let mut refused = Vec::new();
                    while !done.load(Ordering::Relaxed) {
                        for arguments in [
                            &["lock", &path, "--loop", "a"][..],
                            &["publish", "custom.x", "--source", "a", "--payload", &payload],
                            &["unlock", &path, "--loop", "a"],
                        ] {
                            refused.extend(refusal(place, arguments, &[0]));
                        }
                    }
                    refused
                })
            })
            .collect();
        let checkpoints = scope.spawn(move || {
            while !done.load(Ordering::Relaxed) {
                for mode in ["PASSIVE", "RESTART", "TRUNCATE"] {
                    place.sql(&format!("PRAGMA wal_checkpoint({mode})"));
                }
            }
        });
        let starters: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(move || {
                    let mut refused = Vec::new();
                    loop {
                        let at = next.fetch_add(1, Ordering::Relaxed);
                        if at >= starts {
                            return refused;
                        }
                        let (arguments, codes) = STARTS[at % STARTS.len()];
                        refused.extend(refusal(place, arguments, codes));
                    }
                })
            })
            .collect();
        let mut refused: Vec<String> = starters.into_iter().flat_map(|starter| starter.join().unwrap()).collect();
        done.store(true, Ordering::Relaxed);
        refused.extend(writers.into_iter().flat_map(|writer| writer.join().unwrap()));
        checkpoints.join().unwrap();
        refused
    });
    assert!(refused.is_empty(), "{} refusals, the first: {}", refused.len(), refused[0]);
    place.run(&["check"]).ok();
}

/// What a command said, if it ended in another way than it may.
fn refusal(place: &Place, arguments: &[&str], codes: &[i32]) -> Option<String> {
    let ran = place.run(arguments);
    (!codes.contains(&ran.code)).then(|| format!("{arguments:?} exits with {}: {}", ran.code, ran.stderr))
}
