//! Events and deliveries between processes that are killed: each event takes effect exactly once.

use std::path::PathBuf;

use coord_db::payload::Payload;
use coord_db::{ActorId, Database, Error, NewEvent, OpenOptions};
use serde_json::json;

fn note(text: &str) -> NewEvent {
    NewEvent::new(
        "x".parse().unwrap(),
        Payload::Custom { event_type: "custom.note".to_owned(), value: json!({ "text": text }) },
    )
}

struct Place {
    path: PathBuf,
    _folder: tempfile::TempDir,
}

/// A database where others can open it too, and who reads in it.
fn world() -> (Place, Database, ActorId) {
    let folder = tempfile::tempdir().unwrap();
    let path = test_support::place(&folder.path().join("coordination.db"));
    let db = Database::create(&path, &OpenOptions::default()).unwrap();
    let reader: ActorId = "reader".parse().unwrap();
    db.write(|tx| tx.subscribe(&reader, &["custom.note".to_owned()], None)).unwrap();
    (Place { path, _folder: folder }, db, reader)
}

fn texts(db: &Database) -> Vec<String> {
    let deliveries = db.read(|tx| tx.pending_deliveries("reader", 100)).unwrap();
    deliveries.iter().map(|delivery| delivery.event.payload["text"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn the_most_urgent_comes_first_and_then_the_order_of_commits() {
    let (_folder, db, _) = world();
    db.write(|tx| {
        tx.publish(&note("late"))?;
        tx.publish(&note("urgent").priority(1))?;
        tx.publish(&note("later"))
    })
    .unwrap();
    assert_eq!(texts(&db), ["urgent", "late", "later"]);
}

#[test]
fn what_fails_to_commit_has_not_happened() {
    let (_folder, db, _) = world();
    db.write(|tx| tx.publish(&note("stays"))).unwrap();
    let result: Result<(), Error> = db.write(|tx| {
        let delivery = tx.pending_deliveries("reader", 1)?.remove(0);
        tx.acknowledge("reader", [&delivery.event.id])?;
        tx.publish(&note("never"))?;
        Err(Error::Refused("changed my mind".to_owned()))
    });
    assert!(result.is_err());
    assert_eq!(texts(&db), ["stays"]);
}

#[test]
fn a_reader_that_lags_misses_nothing_and_an_ended_subscription_holds_nobody_up() {
    let (_folder, db, reader) = world();
    for at in 0..300 {
        db.write(|tx| tx.publish(&note(&at.to_string()))).unwrap();
    }
    let mut seen = Vec::new();
    while db.read(|tx| tx.has_deliveries("reader")).unwrap() {
        let batch = db.read(|tx| tx.pending_deliveries("reader", 7)).unwrap();
        db.write(|tx| tx.acknowledge("reader", batch.iter().map(|delivery| &delivery.event.id))).unwrap();
        seen.extend(batch.into_iter().map(|delivery| delivery.event.payload["text"].as_str().unwrap().to_owned()));
    }
    assert_eq!(seen, (0..300).map(|at| at.to_string()).collect::<Vec<_>>());
    db.write(|tx| tx.publish(&note("unheard"))).unwrap();
    db.execute_foreign("UPDATE subscriptions SET active = 0 WHERE id = 'reader'").unwrap();
    assert_eq!(texts(&db), Vec::<String>::new());
    db.write(|tx| tx.subscribe(&reader, &["custom.*".to_owned()], None)).unwrap();
    db.write(|tx| tx.publish(&note("again"))).unwrap();
    assert_eq!(texts(&db), ["again"]);
}

#[test]
fn a_story_carries_its_causes() {
    let (_folder, db, _) = world();
    let first = db.write(|tx| tx.publish(&note("cause"))).unwrap();
    let cause = db.read(|tx| tx.event(first.as_str())).unwrap().unwrap();
    let second = db.write(|tx| tx.publish(&note("effect").caused_by(&cause))).unwrap();
    let third = db.write(|tx| tx.publish(&note("effect of that").caused_by_id(Some(second.clone())))).unwrap();
    for id in [&first, &second, &third] {
        let event = db.read(|tx| tx.event(id.as_str())).unwrap().unwrap();
        assert_eq!(event.correlation_id.as_deref(), Some(first.as_str()));
    }
    assert_eq!(db.read(|tx| tx.effects_of(&first)).unwrap()[0].id, second);
}

#[test]
fn many_writers_at_once_lose_nothing() {
    let (place, db, _) = world();
    std::thread::scope(|scope| {
        for writer in 0..4 {
            let path = &place.path;
            scope.spawn(move || {
                let db = Database::open(path, &OpenOptions::default()).unwrap();
                for at in 0..50 {
                    db.write(|tx| tx.publish(&note(&format!("{writer}.{at}")))).unwrap();
                }
            });
        }
    });
    assert_eq!(db.read(|tx| tx.pending_deliveries("reader", 1000)).unwrap().len(), 200);
    assert_eq!(db.check().unwrap(), []);
}

/// Everything about events but their ids, and who is to hear them.
fn told(db: &Database) -> Vec<Vec<Option<String>>> {
    db.query_foreign(
        "SELECT e.rowid, e.timestamp, e.source, e.event_type, e.payload, e.priority,
           (SELECT c.rowid FROM events AS c WHERE c.id = e.caused_by), (SELECT c.rowid FROM events AS c WHERE c.id = e.correlation_id),
           (SELECT string_agg(d.subscription_id || d.seq || d.priority || d.status, ' ' ORDER BY d.subscription_id) FROM deliveries AS d WHERE d.event_id = e.id)
         FROM events AS e ORDER BY e.rowid",
    )
    .unwrap()
}

#[test]
fn one_alone_one_in_a_transaction_and_many_at_once_are_said_alike() {
    let rooms: Vec<_> = (0..3)
        .map(|_| {
            let clock = coord_db::ManualClock::new(test_support::NOW);
            let db = test_support::in_memory(std::sync::Arc::new(clock.clone()));
            db.write(|tx| tx.subscribe(&"reader".parse().unwrap(), &["custom.note".to_owned()], None)).unwrap();
            clock.advance_millis(1_500);
            let root = db.publish(&note("root")).unwrap();
            let story = |at: usize| {
                let event = note(&at.to_string()).priority(1 + at as i64 % 3);
                if at.is_multiple_of(2) { event.caused_by_id(Some(root.clone())) } else { event }
            };
            let events: Vec<NewEvent> = (0..107).map(story).collect();
            (db, events)
        })
        .collect();
    let [(alone, first), (each, second), (all, third)] = &rooms[..] else { unreachable!() };
    for event in first {
        alone.publish(event).unwrap();
    }
    for event in second {
        each.write(|tx| tx.publish(event)).unwrap();
    }
    assert_eq!(all.write(|tx| tx.publish_all(third)).unwrap().len(), 107);
    assert_eq!(told(alone).len(), 108);
    assert_eq!(told(alone)[0][1].as_deref(), Some("2027-01-15 08:00:01.500"));
    assert_eq!(told(alone), told(each));
    assert_eq!(told(alone), told(all));
}

#[test]
fn what_is_asked_for_twice_is_delivered_once() {
    let (_folder, db, reader) = world();
    let texts = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    let (types, sources) = (texts(&["custom.note", "custom.*", "custom.note"]), texts(&["x", "x"]));
    db.write(|tx| tx.subscribe(&reader, &types, Some(&sources))).unwrap();
    db.write(|tx| tx.subscribe(&reader, &types, Some(&sources))).unwrap();
    db.write(|tx| tx.publish(&note("once"))).unwrap();
    assert_eq!(self::texts(&db), ["once"]);
    // A source without a name would stand for everyone beside x.
    let refused = db.write(|tx| tx.subscribe(&reader, &types, Some(&["x".to_owned(), String::new()])));
    assert!(matches!(refused, Err(Error::Invalid(_))), "{refused:?}");
    let deaf = db.write(|tx| tx.subscribe(&reader, &types, Some(&[])));
    assert!(matches!(deaf, Err(Error::Invalid(_))), "{deaf:?}");
    // By the shell, as it likes.
    db.execute_foreign(
        "UPDATE subscriptions SET event_types = '[\"custom.*\",\"custom.note\",\"custom.note\"]' WHERE id = 'reader'",
    )
    .unwrap();
    db.publish(&note("again")).unwrap();
    assert_eq!(self::texts(&db), ["once", "again"]);
}
