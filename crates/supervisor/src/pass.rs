//! Looking and passing: the same for every supervisor, for daemons, `--once` and the simulation.

use std::collections::BTreeMap;

use coord_db::{AlertType, Database, Delivery, EventId, NewAlert, ReadTx, Result, Severity, Timestamp, WriteTx};
use serde_json::{Value, json};

use crate::{Inbound, Misfit, Plan, Supervisor};

/// How many deliveries one pass takes.
const MOST_DELIVERIES: usize = 100;
/// How often a delivery is tried before it is set aside.
const MOST_TRIES: i64 = 3;

/// What a look says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// There is something to do.
    Due,
    /// There is nothing to do before this time, or before something happens.
    NothingDue(Option<Timestamp>),
}

/// What a pass did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PassOutcome {
    /// How many deliveries it took.
    pub handled: usize,
    /// How many actions it carried out.
    pub actions: usize,
    /// When it wants to be asked again.
    pub look_again_at: Option<Timestamp>,
}

fn sort(deliveries: Vec<Delivery>) -> (Vec<Inbound>, Vec<Misfit>) {
    let (mut inbox, mut misfits) = (Vec::new(), Vec::new());
    for delivery in deliveries {
        match delivery.event.parse() {
            Ok(payload) => inbox.push(Inbound { event: delivery.event, payload }),
            Err(error) => misfits.push((delivery, error.to_string())),
        }
    }
    (inbox, misfits)
}

struct Decided<S: Supervisor> {
    snapshot: S::Snapshot,
    plan: Plan<S::Action>,
    taken: Vec<EventId>,
    misfits: Vec<Misfit>,
}

fn decide<S: Supervisor>(supervisor: &mut S, tx: &ReadTx<'_>, observation: &S::Observation, most: usize) -> Result<Decided<S>> {
    let pending = if S::HAS_INBOX { tx.pending_deliveries(S::ID, most)? } else { Vec::new() };
    let (inbox, misfits) = sort(pending);
    let taken = inbox.iter().map(|inbound| inbound.event.id.clone()).collect();
    supervisor.deliver(inbox);
    let snapshot = supervisor.snapshot(tx, observation)?;
    let plan = S::decide(supervisor.config(), &snapshot);
    Ok(Decided { snapshot, plan, taken, misfits })
}

/// Looks whether anything is due, without the write lock.
///
/// # Errors
/// What the database says.
pub fn look<S: Supervisor>(supervisor: &mut S, db: &Database, observation: &S::Observation) -> Result<Look> {
    db.read(|tx| {
        if S::HAS_INBOX && tx.has_deliveries(S::ID)? {
            return Ok(Look::Due);
        }
        let plan = decide(supervisor, tx, observation, 0)?.plan;
        Ok(if plan.actions.is_empty() { Look::NothingDue(plan.look_again_at) } else { Look::Due })
    })
}

/// One pass over everything that is due: consume, act, publish and acknowledge in one transaction.
///
/// # Errors
/// What the database says; nothing has happened then.
pub fn pass<S: Supervisor>(supervisor: &mut S, db: &Database, observation: &S::Observation) -> Result<PassOutcome> {
    pass_over(supervisor, db, observation, MOST_DELIVERIES)
}

/// As [`pass`], with at most one delivery, whose try is recorded first: after a failed pass or an unclean start, so that a
/// delivery that kills its consumer is found out and set aside.
///
/// # Errors
/// As [`pass`].
pub fn pass_carefully<S: Supervisor>(supervisor: &mut S, db: &Database, observation: &S::Observation) -> Result<PassOutcome> {
    let record_try = |tx: &WriteTx<'_>| {
        if let Some(delivery) = tx.pending_deliveries(S::ID, 1)?.pop() {
            if delivery.tries >= MOST_TRIES {
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
        let Decided { snapshot, plan, taken, misfits } = decide(supervisor, tx, observation, most)?;
        for action in &plan.actions {
            supervisor.apply(tx, &snapshot, action)?;
        }
        set_aside::<S>(tx, &misfits)?;
        let outcome = PassOutcome {
            handled: taken.len() + misfits.len(),
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

/// Takes deliveries that cannot be handled out of the way. There is one alert for each source and type of their events,
/// whoever cannot handle them, with their number.
fn set_aside<S: Supervisor>(tx: &WriteTx<'_>, unhandled: &[Misfit]) -> Result<()> {
    let mut groups: BTreeMap<(&str, &str), Vec<&Misfit>> = BTreeMap::new();
    for misfit in unhandled {
        let (delivery, why) = misfit;
        tx.set_aside(S::ID, &delivery.event.id, why)?;
        groups.entry((delivery.event.source.as_str(), &delivery.event.event_type)).or_default().push(misfit);
    }
    for ((source, event_type), misfits) in groups {
        let Some((last, why)) = misfits.last() else { continue };
        tracing::warn!(event = %last.event.id, event_type, source, number = misfits.len(), why, "setting deliveries aside");
        let fingerprint = format!("delivery:{}", json!([event_type, source]));
        let open = tx.open_alert(&fingerprint)?;
        // An event with several subscribers counts once.
        let mut counts = open.and_then(|alert| alert.context.get("events")?.as_object().cloned()).unwrap_or_default();
        let before = counts.get(S::ID).and_then(Value::as_u64).unwrap_or(0);
        counts.insert(S::ID.to_owned(), json!(before + misfits.len() as u64));
        let events = counts.values().filter_map(Value::as_u64).max().unwrap_or(0);
        let (one, id) = (events == 1, &last.event.id);
        let message = if one {
            format!("an event {event_type} from {source} cannot be handled: {id}: {why}")
        } else {
            format!("{events} events {event_type} from {source} cannot be handled; the newest is {id}: {why}")
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
