//! Events by hand: publish, subscribe, poll, acknowledge.

use std::time::{Duration, Instant};

use coord_db::wake::Listener;
use coord_db::{ActorId, Database, Delivery, EventId, IdOf, NewEvent};
use serde_json::{Value, json};
use views::ids::Short;
use views::sentence::{JsonEvent, count, sentence};
use views::when::clock;

use crate::context::Context;
use crate::exit::{Failure, Outcome};
use crate::ids;
use crate::output::{Table, id_cell, plain};

/// `loopctl publish`: what does not fit the catalog is refused.
///
/// # Errors
/// Exit 2 for a misfit, 4 for an unknown cause.
pub fn publish(
    cx: &Context,
    source: ActorId,
    event_type: &str,
    payload: &str,
    priority: Option<i64>,
    correlation: Option<String>,
    caused_by: Option<&str>,
) -> Outcome {
    let text = if payload == "-" { crate::read_stdin()? } else { payload.to_owned() };
    let value: Value = serde_json::from_str(&text)
        .map_err(|error| Failure::usage(format!("the payload is not valid JSON: {error}; quote it for the shell")))?;
    let mut event = NewEvent::from_json(source, event_type, value)?.correlation(correlation);
    if let Some(priority) = priority {
        event = event.priority(priority);
    }
    let db = cx.open()?;
    if let Some(given) = caused_by {
        let cause = db.read(|tx| {
            let is_archived = tx.is_archived(given)?;
            if is_archived { Ok(given.to_owned()) } else { ids::find(tx, IdOf::Event, given) }
        })?;
        event = event.caused_by_id(Some(cause.parse::<EventId>()?));
    }
    let id = db.publish(&event)?;
    let published = db.read(|tx| tx.event(id.as_str()))?;
    cx.out.answer(&published.as_ref().map(JsonEvent::from), id.as_str())
}

/// `loopctl subscribe`
///
/// # Errors
/// Exit 2 for a type of no catalog, 1 for an id whose subscription is the system's own.
pub fn subscribe(cx: &Context, subscriber: &ActorId, types: &[String], sources: Option<&[String]>) -> Outcome {
    let db = cx.open()?;
    let id = db.write(|tx| tx.subscribe(subscriber, types, sources))?;
    cx.out.done(&json!({ "id": id }), &format!("{subscriber} is subscribed to {}", types.join(", ")))
}

/// `loopctl subscribe --end`
///
/// # Errors
/// Exit 4 for an unknown subscriber, 1 for one that has ended, or whose subscription is the system's own.
pub fn unsubscribe(cx: &Context, subscriber: &ActorId) -> Outcome {
    let db = cx.open()?;
    db.write(|tx| tx.unsubscribe(subscriber))?;
    cx.out.done(&json!({ "ended": subscriber }), &format!("the subscription of {subscriber} is ended"))
}

fn known(db: &Database, subscriber: &str) -> Outcome {
    let none = db.read(|tx| tx.subscriptions(Some(subscriber)))?.is_empty();
    if none { Err(Failure::not_found("subscriber", subscriber)) } else { Ok(()) }
}

/// `loopctl poll`: deliveries stay until they are acknowledged.
///
/// # Errors
/// Exit 4 for an unknown subscriber.
pub fn poll(cx: &Context, subscriber: &str, limit: u32, wait: Option<u32>) -> Outcome {
    let db = cx.open()?;
    known(&db, subscriber)?;
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let look = || db.read(|tx| tx.pending_deliveries(subscriber, limit));
    // The listener comes first: what is committed after the look wakes it.
    let mut listener = wait.filter(|wait| *wait > 0).zip(db.path()).map(|(_, path)| Listener::new(path));
    let until = Instant::now() + Duration::from_secs(u64::from(wait.unwrap_or(0)));
    let mut deliveries = look()?;
    while let Some(listener) = &mut listener
        && deliveries.is_empty()
    {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        listener.wait(left);
        deliveries = look()?;
    }
    db.write_quietly(|tx| tx.record_poll(subscriber))?;
    let rows = deliveries.iter().map(as_json).collect::<Vec<_>>();
    if cx.out.json {
        return cx.out.document(&rows);
    }
    let short = db.read(|tx| Short::of(tx, IdOf::Event, deliveries.iter().map(|delivery| delivery.event.id.as_str())))?;
    cx.out.list(&deliveries_of(&deliveries), "no pending events", |rows| {
        Table::of(&["EVENT", "TIME", "PRIORITY", "SOURCE", "TYPE", "MESSAGE"], rows, |delivery| {
            let event = &delivery.0.event;
            vec![
                id_cell(&short, event.id.as_str()),
                plain(clock(event.timestamp)),
                plain(event.priority.to_string()),
                plain(&event.source),
                plain(&event.event_type),
                plain(sentence(event)),
            ]
        })
    })
}

/// A delivery is shown as its event, with its place in the order.
struct Row<'a>(&'a Delivery);

impl serde::Serialize for Row<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        as_json(self.0).serialize(serializer)
    }
}

fn deliveries_of(deliveries: &[Delivery]) -> Vec<Row<'_>> {
    deliveries.iter().map(Row).collect()
}

fn as_json(delivery: &Delivery) -> Value {
    let mut row = json!(JsonEvent::from(&delivery.event));
    row["seq"] = json!(delivery.seq);
    row["tries"] = json!(delivery.tries);
    row["subscription_id"] = json!(delivery.subscription_id);
    row
}

/// `loopctl ack`: all or none.
///
/// # Errors
/// Exit 4 for an unknown subscriber or event.
pub fn ack(cx: &Context, subscriber: &str, events: &[String]) -> Outcome {
    let db = cx.open()?;
    known(&db, subscriber)?;
    let acknowledged = db.write(|tx| {
        let mut acknowledged = Vec::new();
        for event in events {
            let event = ids::find(tx, IdOf::Event, event)?;
            if tx.acknowledge_event(subscriber, &event)? {
                acknowledged.push(event);
            }
        }
        Ok::<_, Failure>(acknowledged)
    })?;
    let number = count(i64::try_from(acknowledged.len()).unwrap_or(i64::MAX), "event");
    cx.out.done(&json!({ "acknowledged": acknowledged }), &format!("{number} acknowledged"))
}
