//! Looking and passing, for daemons, `--once` and the simulation.

use std::collections::BTreeMap;

use coord_db::{AlertType, Database, Delivery, EventId, NewAlert, ReadTx, Result, Severity, Timestamp, WriteTx};
use serde_json::{Value, json};

use crate::{Inbound, Plan, Supervisor, Unhandled};

/// Maximum number of deliveries handled in one pass.
const MAX_DELIVERIES: usize = 100;
/// Maximum number of tries of a delivery before it is set aside.
const MAX_TRIES: i64 = 3;

/// The result of a look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// Something is due.
    Due,
    /// Nothing is due before this time or before another event.
    NothingDue(Option<Timestamp>),
}

/// The result of a pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PassOutcome {
    /// Number of deliveries handled.
    pub handled: usize,
    /// Number of actions applied.
    pub actions: usize,
    /// When the next pass is due.
    pub look_again_at: Option<Timestamp>,
}

fn sort(deliveries: Vec<Delivery>) -> (Vec<Inbound>, Vec<Unhandled>) {
    let (mut inbox, mut unhandled) = (Vec::new(), Vec::new());
    for delivery in deliveries {
        match delivery.event.parse() {
            Ok(payload) => inbox.push(Inbound { event: delivery.event, payload }),
            Err(error) => unhandled.push((delivery, error.to_string())),
        }
    }
    (inbox, unhandled)
}

struct Decided<S: Supervisor> {
    snapshot: S::Snapshot,
    plan: Plan<S::Action>,
    taken: Vec<EventId>,
    unhandled: Vec<Unhandled>,
}

fn decide<S: Supervisor>(supervisor: &mut S, tx: &ReadTx<'_>, observation: &S::Observation, most: usize) -> Result<Decided<S>> {
    let pending = if S::HAS_INBOX { tx.pending_deliveries(S::ID, most)? } else { Vec::new() };
    let (inbox, unhandled) = sort(pending);
    let taken = inbox.iter().map(|inbound| inbound.event.id.clone()).collect();
    supervisor.deliver(inbox);
    let snapshot = supervisor.snapshot(tx, observation)?;
    let plan = S::decide(supervisor.config(), &snapshot);
    Ok(Decided { snapshot, plan, taken, unhandled })
}

/// Checks whether anything is due, without the write lock.
pub fn look<S: Supervisor>(supervisor: &mut S, db: &Database, observation: &S::Observation) -> Result<Look> {
    db.read(|tx| {
        if S::HAS_INBOX && tx.has_deliveries(S::ID)? {
            return Ok(Look::Due);
        }
        let plan = decide(supervisor, tx, observation, 0)?.plan;
        Ok(if plan.actions.is_empty() { Look::NothingDue(plan.look_again_at) } else { Look::Due })
    })
}

/// Runs one pass over everything that is due: consume, act, publish and acknowledge in one transaction. An error rolls
/// it back.
pub fn pass<S: Supervisor>(supervisor: &mut S, db: &Database, observation: &S::Observation) -> Result<PassOutcome> {
    pass_over(supervisor, db, observation, MAX_DELIVERIES)
}

/// Like [`pass`], with at most one delivery, whose try is recorded first. Used after a failed pass or an unclean start,
/// so that a delivery that crashes its consumer is detected and set aside.
pub fn pass_carefully<S: Supervisor>(supervisor: &mut S, db: &Database, observation: &S::Observation) -> Result<PassOutcome> {
    let record_try = |tx: &WriteTx<'_>| {
        if let Some(delivery) = tx.pending_deliveries(S::ID, 1)?.pop() {
            if delivery.tries >= MAX_TRIES {
                let why = format!("handling it failed {} times", delivery.tries);
                set_aside::<S>(tx, &[(delivery, why)])?;
            } else {
                tx.record_try(&delivery)?;
            }
        }
        Ok::<_, coord_db::Error>(())
    };
    if S::HAS_INBOX {
        db.write_quietly(record_try)?;
    }
    pass_over(supervisor, db, observation, 1)
}

fn pass_over<S: Supervisor>(
    supervisor: &mut S,
    db: &Database,
    observation: &S::Observation,
    most: usize,
) -> Result<PassOutcome> {
    let body = |tx: &WriteTx<'_>| {
        let Decided { snapshot, plan, taken, unhandled } = decide(supervisor, tx, observation, most)?;
        for action in &plan.actions {
            supervisor.apply(tx, &snapshot, action)?;
        }
        set_aside::<S>(tx, &unhandled)?;
        let outcome = PassOutcome {
            handled: taken.len() + unhandled.len(),
            actions: plan.actions.len(),
            look_again_at: plan.look_again_at,
        };
        tx.acknowledge(S::ID, &taken)?;
        Ok::<_, coord_db::Error>((snapshot, outcome))
    };
    let (snapshot, outcome) = if S::DURABLE_INTENTS { db.write_durably(body)? } else { db.write(body)? };
    supervisor.committed(&snapshot);
    Ok(outcome)
}

/// Sets deliveries aside that cannot be handled. There is one alert for each source and type of events, with their
/// number, regardless of the subscriber.
fn set_aside<S: Supervisor>(tx: &WriteTx<'_>, unhandled: &[Unhandled]) -> Result<()> {
    let mut groups: BTreeMap<(&str, &str), Vec<&Unhandled>> = BTreeMap::new();
    for item in unhandled {
        let (delivery, why) = item;
        tx.set_aside(S::ID, &delivery.event.id, why)?;
        groups.entry((delivery.event.source.as_str(), &delivery.event.event_type)).or_default().push(item);
    }
    for ((source, event_type), unhandled) in groups {
        let Some((last, why)) = unhandled.last() else { continue };
        tracing::warn!(event = %last.event.id, event_type, source, number = unhandled.len(), why, "deliveries set aside");
        let fingerprint = format!("delivery:{}", json!([event_type, source]));
        let open = tx.open_alert(&fingerprint)?;
        // An event with several subscribers counts once.
        let mut counts = open.and_then(|alert| alert.context.get("events")?.as_object().cloned()).unwrap_or_default();
        let before = counts.get(S::ID).and_then(Value::as_u64).unwrap_or(0);
        counts.insert(S::ID.to_owned(), json!(before + unhandled.len() as u64));
        let events = counts.values().filter_map(Value::as_u64).max().unwrap_or(0);
        let (one, id) = (events == 1, &last.event.id);
        let message = if one {
            format!("event {id} of type {event_type} from {source} cannot be handled: {why}")
        } else {
            format!("{events} events of type {event_type} from {source} cannot be handled, the newest is {id}: {why}")
        };
        tx.raise_alert(&NewAlert {
            fingerprint,
            severity: Severity::Error,
            alert_type: AlertType::Resource,
            source: S::ID.to_owned(),
            message,
            context: json!({
                "kind": "delivery", "event_type": event_type, "event_source": source, "events": counts, "event_id": id, "error": why,
            }),
            event_id: Some(id.clone()),
        })?;
    }
    Ok(())
}
