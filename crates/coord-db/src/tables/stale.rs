//! Deliveries that are never handled.

use super::Alert;
use crate::{EventId, ReadTx, Result, SubscriptionId, Timestamp, WriteTx};

/// The stale deliveries of one subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StaleDeliveries {
    /// Whose.
    pub subscription_id: SubscriptionId,
    /// Who should take them; the subscription's id where that was deleted.
    pub subscriber: String,
    /// Their events in the order of commits; at least one.
    pub events: Vec<EventId>,
}

impl ReadTx<'_> {
    /// Open deliveries of events from before a moment, by subscription; at most `limit` deliveries.
    pub fn stale_deliveries(&self, before: Timestamp, limit: usize) -> Result<Vec<StaleDeliveries>> {
        // From the old events, which are few once they are archived, to their deliveries.
        let rows: Vec<(SubscriptionId, EventId, String)> = self.query(
            "SELECT d.subscription_id, d.event_id, coalesce(s.subscriber, d.subscription_id)
             FROM events AS e CROSS JOIN deliveries AS d
             LEFT JOIN subscriptions AS s ON s.id = d.subscription_id
             WHERE d.event_id = e.id AND d.status = 'pending' AND e.timestamp < ?1 ORDER BY e.timestamp, e.rowid LIMIT ?2",
            params![before, i64::try_from(limit).unwrap_or(i64::MAX)],
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
        )?;
        let mut stale: Vec<StaleDeliveries> = Vec::new();
        for (subscription_id, event, subscriber) in rows {
            match stale.iter_mut().find(|known| known.subscription_id == subscription_id) {
                Some(known) => known.events.push(event),
                None => stale.push(StaleDeliveries { subscription_id, subscriber, events: vec![event] }),
            }
        }
        Ok(stale)
    }

    /// The open alerts named `prefix` and a subscription whose subscriber has looked since, or which has ended.
    pub fn alerts_of_returned_subscribers(&self, prefix: &str) -> Result<Vec<Alert>> {
        self.query(
            select!(
                Alert,
                "FROM alerts WHERE closed_at IS NULL AND fingerprint >= ?1 AND fingerprint < ?1 || '\u{10ffff}'
                   AND NOT EXISTS (SELECT 1 FROM subscriptions AS s
                                   WHERE s.id = substr(alerts.fingerprint, length(?1) + 1) AND s.active = 1
                                     AND (s.last_poll_at IS NULL
                                          OR s.last_poll_at <= coalesce(alerts.updated_at, alerts.created_at)))
                 ORDER BY fingerprint"
            ),
            [prefix],
            Alert::from_row,
        )
    }
}

impl WriteTx<'_> {
    /// Sets them aside, also if the subscription was deleted.
    pub fn set_aside_stale(&self, stale: &StaleDeliveries, why: &str) -> Result<()> {
        for event in &stale.events {
            self.execute(
                "UPDATE deliveries SET status = 'set_aside', last_error = ?3, settled_at = ?4
                 WHERE event_id = ?1 AND subscription_id = ?2 AND status = 'pending'",
                params![event, stale.subscription_id, why, self.now()],
            )?;
        }
        Ok(())
    }
}
