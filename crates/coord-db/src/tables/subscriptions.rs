//! Subscriptions and their deliveries: who wants to hear what, and what is still to be handled.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Event, json};
use crate::{
    ActorId, DeliveryStatus, Error, EventId, ReadTx, Result, SubscriptionId, Timestamp, WriteTx, is_system_id, payload,
};

/// What a subscription to every custom type names.
const EVERY_CUSTOM_TYPE: &str = "custom.*";

row! {
    /// A consumer's wish for event types.
    Subscription {
        id: SubscriptionId, subscriber: String, event_types: Value, filter_sources: Option<Value>,
        last_poll_at: Option<Timestamp>, active: bool, max_priority: Option<i64>,
    }
}

row! {
    /// The columns of a delivery, without its event.
    DeliveryRow {
        seq: i64, subscription_id: SubscriptionId, event_id: EventId, priority: i64, status: DeliveryStatus, tries: i64,
        last_error: Option<String>,
    }
}

/// One event still to be handled by one subscriber.
#[derive(Debug, Clone, PartialEq)]
pub struct Delivery {
    /// Its event's place in the order of commits.
    pub seq: i64,
    /// How often handling it has been begun.
    pub tries: i64,
    /// Whose subscription.
    pub subscription_id: SubscriptionId,
    /// The event.
    pub event: Event,
}

impl ReadTx<'_> {
    /// True while a delivery of an event to a subscriber is pending.
    pub fn has_delivery(&self, subscriber: &str, event: &EventId) -> Result<bool> {
        self.value(
            "SELECT EXISTS (SELECT 1 FROM deliveries WHERE event_id = ?2 AND status = 'pending'
               AND subscription_id IN (SELECT id FROM subscriptions WHERE subscriber = ?1 AND active = 1))",
            params![subscriber, event],
        )
    }

    /// What a subscriber still has to handle, the most urgent first and then in the order of commits.
    pub fn pending_deliveries(&self, subscriber: &str, limit: usize) -> Result<Vec<Delivery>> {
        let ids: Vec<String> =
            self.query("SELECT id FROM subscriptions WHERE subscriber = ?1 AND active = 1", [subscriber], |row| row.get(0))?;
        // A delivery without its event (written by another client) is ignored.
        let mut pending: Vec<DeliveryRow> = Vec::new();
        for id in ids {
            pending.extend(self.query(
                select!(
                    DeliveryRow,
                    "FROM deliveries WHERE subscription_id = ?1 AND status = 'pending'
                       AND EXISTS (SELECT 1 FROM events WHERE id = event_id) ORDER BY priority, seq LIMIT ?2"
                ),
                params![id, i64::try_from(limit).unwrap_or(i64::MAX)],
                DeliveryRow::from_row,
            )?);
        }
        let place = |row: &DeliveryRow| (row.priority, row.seq);
        // By subscription as well, so that two readings of the same rows agree.
        pending
            .sort_by(|a, b| place(a).cmp(&place(b)).then_with(|| a.subscription_id.as_str().cmp(b.subscription_id.as_str())));
        let mut deliveries: Vec<Delivery> = Vec::new();
        for row in pending {
            if deliveries.len() == limit {
                break;
            }
            if let Some(event) = self.event(row.event_id.as_str())? {
                deliveries.push(Delivery { seq: row.seq, tries: row.tries, subscription_id: row.subscription_id, event });
            }
        }
        Ok(deliveries)
    }

    /// True if the subscriber has anything to handle.
    pub fn has_deliveries(&self, subscriber: &str) -> Result<bool> {
        self.value(
            "SELECT EXISTS (SELECT 1 FROM subscriptions AS s JOIN deliveries AS d
                            ON d.subscription_id = s.id AND d.status = 'pending'
                            JOIN events AS e ON e.id = d.event_id
                            WHERE s.subscriber = ?1 AND s.active = 1)",
            [subscriber],
        )
    }

    /// All subscriptions of one subscriber, or of everyone.
    pub fn subscriptions(&self, subscriber: Option<&str>) -> Result<Vec<Subscription>> {
        self.query(
            select!(Subscription, "FROM subscriptions WHERE subscriber = ?1 OR ?1 IS NULL ORDER BY id"),
            [subscriber],
            Subscription::from_row,
        )
    }
}

impl WriteTx<'_> {
    /// The supervisors', the human's and the loops' subscriptions are the system's: replacing or ending one would make its
    /// owner deaf.
    fn not_the_systems(&self, subscriber: &ActorId) -> Result<()> {
        if is_system_id(subscriber.as_str()) || self.find_loop(subscriber.as_str())?.is_some() {
            return Err(Error::Refused(format!(
                "the subscription of {subscriber} cannot be changed; subscribe under another name, for example {subscriber}.watch"
            )));
        }
        Ok(())
    }

    /// Ends a subscriber's subscription; what was still to be delivered to it is set aside. It may subscribe again.
    ///
    /// # Errors
    /// [`Error::NotFound`] for one that has never subscribed; [`Error::IllegalMove`] for one whose subscription has ended;
    /// [`Error::Refused`] for the system's own.
    pub fn unsubscribe(&self, subscriber: &ActorId) -> Result<()> {
        self.not_the_systems(subscriber)?;
        let rows = self.subscriptions(Some(subscriber.as_str()))?;
        if rows.is_empty() {
            return Err(Error::not_found("subscriber", subscriber));
        }
        if rows.iter().all(|row| !row.active) {
            return Err(Error::illegal("subscription", subscriber, "ended", "end again"));
        }
        self.execute("UPDATE subscriptions SET active = 0 WHERE subscriber = ?1 AND active = 1", [subscriber])?;
        Ok(())
    }

    /// Subscribes, or replaces the subscriber's subscription. Events from now on are delivered to it.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a type that is neither in the catalog nor custom, for none at all, for no source, or for one
    /// without a name; [`Error::Refused`] for the system's own subscriptions.
    pub fn subscribe(&self, subscriber: &ActorId, types: &[String], sources: Option<&[String]>) -> Result<SubscriptionId> {
        self.not_the_systems(subscriber)?;
        if types.is_empty() {
            return Err(Error::Invalid(format!("{subscriber} subscribes to no event type; name at least one")));
        }
        for event_type in types {
            let known = payload::CATALOG.iter().any(|(name, _)| name == event_type);
            if !known && !event_type.starts_with(payload::CUSTOM_PREFIX) {
                return Err(Error::Invalid(format!(
                    "{event_type:?} is not an event type of the catalog; your own types begin with \"custom.\""
                )));
            }
        }
        if sources.is_some_and(<[String]>::is_empty) {
            return Err(Error::Invalid(format!(
                "{subscriber} has an empty list of sources; name sources, or omit the list to receive events of all"
            )));
        }
        if sources.is_some_and(|sources| sources.iter().any(String::is_empty)) {
            return Err(Error::Invalid(format!(
                "{subscriber} has a source without a name; name it, or omit the list to receive events of all"
            )));
        }
        // What is asked for twice would be delivered twice, and an event that cannot be delivered cannot be said.
        let every_custom = types.iter().any(|wanted| wanted == EVERY_CUSTOM_TYPE);
        let covered = |wanted: &str| every_custom && wanted != EVERY_CUSTOM_TYPE && wanted.starts_with(payload::CUSTOM_PREFIX);
        let types: BTreeSet<&String> = types.iter().filter(|wanted| !covered(wanted)).collect();
        let sources: Option<BTreeSet<&String>> = sources.map(|sources| sources.iter().collect());
        self.execute(
            "INSERT INTO subscriptions (id, subscriber, event_types, filter_sources) VALUES (?1, ?1, ?2, ?3)
             ON CONFLICT (id) DO UPDATE SET event_types = excluded.event_types, filter_sources = excluded.filter_sources,
               active = 1",
            params![subscriber, json(&types), sources.map(|sources| json(&sources))],
        )?;
        Ok(SubscriptionId::trusted(subscriber.as_str()))
    }

    /// Marks events as handled by a subscriber. What it has settled already stays as it is.
    pub fn acknowledge<'e>(&self, subscriber: &str, events: impl IntoIterator<Item = &'e EventId>) -> Result<()> {
        for event in events {
            self.settle(subscriber, event.as_str())?;
        }
        Ok(())
    }

    /// Marks one event as handled by a subscriber. False if nothing of it was open.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such event.
    pub fn acknowledge_event(&self, subscriber: &str, event_id: &str) -> Result<bool> {
        let settled = self.settle(subscriber, event_id)?;
        if !settled && self.event(event_id)?.is_none() {
            return Err(Error::not_found("event", event_id));
        }
        Ok(settled)
    }

    fn settle(&self, subscriber: &str, event_id: &str) -> Result<bool> {
        Ok(self.execute(
            "UPDATE deliveries SET status = 'acknowledged', settled_at = ?3
             WHERE event_id = ?2 AND status = 'pending'
               AND subscription_id IN (SELECT id FROM subscriptions WHERE subscriber = ?1)",
            params![subscriber, event_id, self.now()],
        )? > 0)
    }

    /// Records that handling a delivery is about to be tried.
    pub fn record_try(&self, delivery: &Delivery) -> Result<()> {
        self.execute(
            "UPDATE deliveries SET tries = tries + 1 WHERE event_id = ?1 AND subscription_id = ?2 AND status = 'pending'",
            params![delivery.event.id, delivery.subscription_id],
        )?;
        Ok(())
    }

    /// Takes an event out of a subscriber's way; it blocks nothing any more.
    pub fn set_aside(&self, subscriber: &str, event: &EventId, why: &str) -> Result<()> {
        self.execute(
            "UPDATE deliveries SET status = 'set_aside', last_error = ?3, settled_at = ?4
             WHERE event_id = ?2 AND status = 'pending'
               AND subscription_id IN (SELECT id FROM subscriptions WHERE subscriber = ?1)",
            params![subscriber, event, why, self.now()],
        )?;
        Ok(())
    }

    /// Records that a subscriber has looked.
    pub fn record_poll(&self, subscriber: &str) -> Result<()> {
        self.execute("UPDATE subscriptions SET last_poll_at = ?2 WHERE subscriber = ?1", params![subscriber, self.now()])?;
        Ok(())
    }
}
