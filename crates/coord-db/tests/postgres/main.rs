//! What only a server has: a lock and a clock that all clients share, connections that break, databases that are not ours.

mod breaks;
mod claims;
mod failover;
mod moving;
mod opening;
mod sharing;
mod waking;

use std::path::Path;
use std::time::Duration;

use coord_db::payload::Payload;
use coord_db::{Database, NewEvent, OpenOptions, Result};
use serde_json::json;
use test_support::Postgres;

/// Opens a database with a short patience.
fn open(address: &str) -> Result<Database> {
    Database::open(Path::new(address), &OpenOptions { busy_deadline: Duration::from_millis(300), ..OpenOptions::default() })
}

/// A new database and its address; none where there is no server.
fn new_database() -> Option<(Database, String)> {
    let address = Postgres::get()?.new_address();
    Some((open(&address).unwrap(), address))
}

fn note(text: &str) -> NewEvent {
    let payload = Payload::Custom { event_type: "custom.note".to_owned(), value: json!({ "text": text }) };
    NewEvent::new("x".parse().unwrap(), payload)
}

/// The texts of all notes, in the order of commits.
fn notes(db: &Database) -> Vec<String> {
    let events = db.read(|tx| tx.events(&coord_db::EventFilter::default())).unwrap();
    events.iter().filter_map(|event| event.payload["text"].as_str().map(str::to_owned)).collect()
}
