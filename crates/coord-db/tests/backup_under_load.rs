//! A backup ends, and is whole, while others commit without pause.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use coord_db::{ActorId, Database, Error, EventFilter, NewEvent, OpenOptions, Payload};
use serde_json::json;

fn noise(n: u64, bytes: usize) -> NewEvent {
    let value = json!({ "n": n, "text": "x".repeat(bytes) });
    NewEvent::new(ActorId::human(), Payload::Custom { event_type: "custom.noise".to_owned(), value })
}

#[test]
fn a_backup_ends_while_others_commit_without_pause() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("coordination.db");
    let db = Database::create(&path, &OpenOptions::default()).unwrap();
    db.write(|tx| {
        for n in 0..3_000 {
            tx.publish(&noise(n, 8_000))?;
        }
        Ok::<_, Error>(())
    })
    .unwrap();
    drop(db);
    let (over, commits) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let writer = Database::open(&path, &OpenOptions::default()).unwrap();
            while !over.load(Ordering::Relaxed) {
                let n = commits.fetch_add(1, Ordering::Relaxed);
                writer.write(|tx| tx.publish(&noise(10_000 + n, 10))).unwrap();
            }
        });
        let backup = scope.spawn(|| {
            let db = Database::open(&path, &OpenOptions::default()).unwrap();
            let before = commits.load(Ordering::Relaxed);
            let copy = db.back_up(None, 7).unwrap();
            (copy, commits.load(Ordering::Relaxed) - before)
        });
        let begun = Instant::now();
        while !backup.is_finished() && begun.elapsed() < Duration::from_secs(30) {
            std::thread::park_timeout(Duration::from_millis(10));
        }
        let ended = backup.is_finished();
        over.store(true, Ordering::Relaxed);
        let (copy, meanwhile) = backup.join().unwrap();
        assert!(ended, "the backup began anew with each of {meanwhile} commits");
        let copy = Database::open(&copy, &OpenOptions::default()).unwrap();
        assert_eq!(copy.check().unwrap(), []);
        let events = copy.read(|tx| tx.events(&EventFilter::default())).unwrap();
        assert!(events.len() >= 3_000);
        println!("{meanwhile} commits came between, {} of them are in the copy", events.len() - 3_000);
    });
}
