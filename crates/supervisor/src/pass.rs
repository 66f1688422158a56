//! Looking and passing: the same for every supervisor, for daemons, `--once` and the simulation.

use coord_db::{AlertType, Database, Delivery, EventId, NewAlert, ReadTx, Result, Severity, Timestamp, WriteTx};
use serde_json::json;

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
    let (inbox, misfits) = sort(tx.pending_deliveries(S::ID, most)?);
    let taken = inbox.iter().map(|inbound| inbound.event.id.clone()).collect();
    let snapshot = supervisor.snapshot(tx, observation, inbox)?;
    let plan = S::decide(supervisor.config(), &snapshot);
    Ok(Decided { snapshot, plan, taken, misfits })
}

/// Looks whether anything is due, without the write lock.
///
/// # Errors
/// What the database says.
pub fn look<S: Supervisor>(supervisor: &mut S, db: &Database, observation: &S::Observation) -> Result<Look> {
    db.read(|tx| {
        if tx.has_deliveries(S::ID)? {
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
    db.write_quietly(|tx| {
        if let Some(delivery) = tx.pending_deliveries(S::ID, 1)?.pop() {
            if delivery.tries >= MOST_TRIES {
                set_aside::<S>(tx, &delivery, &format!("handling it failed {} times", delivery.tries))?;
            } else {
                tx.record_try(&delivery)?;
            }
        }
        Ok::<_, coord_db::Error>(())
    })?;
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
        for (delivery, why) in &misfits {
            set_aside::<S>(tx, delivery, why)?;
        }
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

fn set_aside<S: Supervisor>(tx: &WriteTx<'_>, delivery: &Delivery, why: &str) -> Result<()> {
    tracing::warn!(event = %delivery.event.id, event_type = %delivery.event.event_type, why, "setting a delivery aside");
    tx.set_aside(S::ID, &delivery.event.id, why)?;
    tx.raise_alert(&NewAlert {
        fingerprint: format!("delivery:{}:{}", delivery.subscription_id, delivery.event.id),
        severity: Severity::Error,
        alert_type: AlertType::Resource,
        source: S::ID.to_owned(),
        message: format!("{} cannot handle event {} ({}): {why}", S::ID, delivery.event.id, delivery.event.event_type),
        context: json!({"kind": "delivery", "event_id": delivery.event.id, "subscriber": S::ID, "error": why}),
        event_id: Some(delivery.event.id.clone()),
    })?;
    Ok(())
}
