//! What must hold after the killing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use coord_db::payload::Payload;
use coord_db::{Database, Event, EventFilter, OpenOptions, TestStatus};

/// Once the dead have been cleaned up after, nothing stands in their name.
pub fn nothing_is_held_by_the_dead(db: &Database) {
    db.read(|tx| {
        assert_eq!(tx.leases(false)?, [], "leases");
        assert_eq!(tx.lease_requests()?.len(), 0, "acquires that wait");
        assert_eq!(tx.wait_edges()?.len(), 0, "wait edges");
        assert_eq!(tx.tests(None, Some(TestStatus::InProgress))?, [], "tests in progress");
        for row in tx.loops()? {
            assert_eq!((row.pid, row.current_test_id), (None, None), "loop {}", row.id);
        }
        Ok::<_, coord_db::Error>(())
    })
    .unwrap();
    assert_eq!(db.check().unwrap(), []);
}

/// Whatever stands under a backup's name is whole.
pub fn backups_are_sound(folder: &Path) {
    let Ok(entries) = std::fs::read_dir(folder.join("backups")) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.extension().is_some_and(|extension| extension == "db") {
            let copy = Database::open(&path, &OpenOptions::default()).unwrap();
            let problems = copy.check().unwrap();
            // It was taken in the middle of others' lives, so a dead one may still be at work in it; but it is whole.
            assert_eq!(problems, [], "{}", path.display());
        }
    }
}

/// How much was done.
pub struct Counts {
    made: usize,
    done: usize,
    passed: usize,
    leases: usize,
}

impl std::fmt::Display for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { made, done, passed, leases } = self;
        write!(f, "{made} events made, {done} effects, {passed} tests passed, {leases} leases")
    }
}

fn of_type(db: &Database, event_type: &str) -> Vec<Event> {
    let filter = EventFilter { event_type: Some(event_type.to_owned()), ..EventFilter::default() };
    db.read(|tx| tx.events(&filter)).unwrap()
}

fn count<K: Ord>(keys: impl Iterator<Item = K>) -> BTreeMap<K, usize> {
    let mut counts = BTreeMap::new();
    for key in keys {
        *counts.entry(key).or_default() += 1;
    }
    counts
}

/// Everything that was reported is there; every effect happened once; every test passed once, with its proof.
pub fn every_promise_was_kept(db: &Database, told: &[String]) -> Counts {
    assert_eq!(db.check().unwrap(), []);
    let told: Vec<Vec<&str>> = told.iter().map(|line| line.split(' ').collect()).collect();
    let said = |what: &'static str| told.iter().filter(move |words| words[0] == what).map(|words| &words[1..]);

    let made: BTreeSet<String> = of_type(db, "custom.made").iter().map(|event| event.id.to_string()).collect();
    for words in said("made") {
        assert!(made.contains(words[0]), "event {} was reported and is lost", words[0]);
    }

    // One effect for each event and each consumer, and none without its cause.
    let done = of_type(db, "custom.done");
    let effects = count(done.iter().map(|event| (event.caused_by.clone().unwrap().to_string(), event.source.clone())));
    for ((event, consumer), times) in &effects {
        assert_eq!(*times, 1, "the effect of {event} for {consumer} happened {times} times");
        assert!(made.contains(event), "an effect of {event}, which is not there");
    }
    assert_eq!(effects.len(), made.len() * crate::CONSUMERS, "effects that never happened");
    for words in said("done") {
        assert!(
            effects.contains_key(&(words[0].to_owned(), words[1].to_owned())),
            "the effect {words:?} was reported and is lost"
        );
    }
    for index in 0..crate::CONSUMERS {
        let left = db.read(|tx| tx.pending_deliveries(&crate::worker::consumer(index), 1)).unwrap();
        assert_eq!(left, [], "deliveries that nobody has handled");
    }

    let passed = tests(db, &told);
    let leases = leases(db, &told);
    Counts { made: made.len(), done: done.len(), passed, leases }
}

fn tests(db: &Database, told: &[Vec<&str>]) -> usize {
    let said = |what: &'static str| told.iter().filter(move |words| words[0] == what).map(|words| &words[1..]);
    let tests = db.read(|tx| tx.tests(None, None)).unwrap();
    let ids: BTreeSet<&str> = tests.iter().map(|test| test.id.as_str()).collect();
    for words in said("imported") {
        assert!(ids.contains(words[0]), "test {} was reported and is lost", words[0]);
    }
    let passes = count(of_type(db, "test_passed").iter().map(|event| match event.parse().unwrap() {
        Payload::TestPassed(passed) => passed.test_id.to_string(),
        other => panic!("{other:?} under test_passed"),
    }));
    let baselines = db.read(|tx| tx.baselines(None)).unwrap();
    let mut proofs = BTreeMap::new();
    for test in &tests {
        assert_eq!(test.status, TestStatus::Passed, "test {}", test.id);
        assert!(test.verified_at.is_some(), "test {}", test.id);
        assert_eq!(passes.get(test.id.as_str()), Some(&1), "passes of test {}", test.id);
        let found = db.read(|tx| tx.proofs(&test.id, None)).unwrap();
        assert_eq!(found.len(), 1, "proofs of test {}", test.id);
        assert_eq!(test.commit_hash.as_deref(), Some(found[0].commit_hash.as_str()), "test {}", test.id);
        let lines = baselines.iter().filter(|baseline| baseline.test_id == test.id).count();
        assert_eq!(lines, 1, "baselines of test {}", test.id);
        proofs.insert(test.id.to_string(), found[0].id.clone());
    }
    for words in said("passed") {
        assert_eq!(proofs.get(words[0]).map(String::as_str), Some(words[1]), "the reported proof of {}", words[0]);
    }
    // Each claim that was reported has its event, and each attempt that did not pass was given back.
    let started = count(of_type(db, "test_started").iter().map(|event| event.payload["test_id"].to_string()));
    for (test, claims) in count(said("claimed").map(|words| format!("\"{}\"", words[0]))) {
        assert!(started.get(&test).is_some_and(|times| *times >= claims), "a claim of {test} was reported and is lost");
    }
    for test in &tests {
        assert_eq!(test.attempts, 1, "attempts of test {} that were not given back", test.id);
    }
    tests.len()
}

/// Each lease began once and ended once.
fn leases(db: &Database, told: &[Vec<&str>]) -> usize {
    let paths = |events: &[Event]| {
        count(events.iter().map(|event| (event.payload["loop_id"].to_string(), event.payload["file_path"].to_string())))
    };
    let (locked, unlocked) = (of_type(db, "file_locked"), of_type(db, "file_unlocked"));
    assert_eq!(paths(&locked), paths(&unlocked), "leases that began, and leases that ended");
    let granted = told.iter().filter(|words| words[0] == "leased").count();
    assert!(locked.len() >= granted, "{granted} leases were reported, {} are there", locked.len());
    let tokens: BTreeSet<&str> = told.iter().filter(|words| words[0] == "leased").map(|words| words[1]).collect();
    assert_eq!(tokens.len(), granted, "a fencing token was given twice");
    assert_eq!(db.read(|tx| tx.leases(false)).unwrap(), []);
    locked.len()
}

/// In each file's history fencing tokens never go back, and no two holders' times overlap: when one began, the one before had
/// ended, or was dead and never wrote again.
pub fn exclusion_held(paths: &Path, killed: &BTreeSet<u64>) -> usize {
    let mut grants = 0;
    for entry in std::fs::read_dir(paths).unwrap().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let text = std::fs::read_to_string(entry.path()).unwrap();
        let mut last = 0_i64;
        let mut open: Option<(i64, u64)> = None;
        for (at, line) in text.lines().enumerate() {
            let words: Vec<&str> = line.split(' ').collect();
            let (token, life): (i64, u64) = (words[0].parse().unwrap(), words[1].parse().unwrap());
            let place = format!("{name}, line {}: {line}", at + 1);
            assert!(token >= last, "{place}: the token goes back from {last}");
            last = token;
            match words[2] {
                "begin" => {
                    if let Some((before, holder)) = open {
                        assert!(killed.contains(&holder), "{place}: {holder} still holds under {before}");
                        assert_ne!(token, before, "{place}: a token was given twice");
                    }
                    open = Some((token, life));
                    grants += 1;
                }
                _ => {
                    assert_eq!(open, Some((token, life)), "{place}: somebody else has begun since");
                    open = None;
                }
            }
        }
    }
    assert!(grants > 0, "nobody has ever held anything");
    grants
}
