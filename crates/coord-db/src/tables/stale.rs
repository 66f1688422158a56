//! Deliveries that nobody takes.

use super::Alert;
use crate::{EventId, ReadTx, Result, SubscriptionId, Timestamp};

/// What one subscription leaves lying.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StaleDeliveries {
    /// Whose.
    pub subscription_id: SubscriptionId,
    /// Who should take them; the subscription's id where that is gone.
    pub subscriber: String,
    /// Their places in the order of commits, rising.
    pub seqs: Vec<i64>,
    /// The event of the last of them.
    pub last_event: EventId,
}

impl ReadTx<'_> {
    /// Open deliveries of events from before a moment, by subscription; at most so many deliveries.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn stale_deliveries(&self, before: Timestamp, most: usize) -> Result<Vec<StaleDeliveries>> {
        // From the old events, which are few once they are archived, to their deliveries.
        let rows = self.query(
            "SELECT d.seq, d.subscription_id, d.event_id, coalesce(s.subscriber, d.subscription_id)
             FROM events AS e CROSS JOIN deliveries AS d ON d.event_id = e.id AND d.status = 'pending'
             LEFT JOIN subscriptions AS s ON s.id = d.subscription_id
             WHERE e.timestamp < ?1 LIMIT ?2",
            rusqlite::params![before, i64::try_from(most).unwrap_or(i64::MAX)],
            |row| Ok((row.get::<_, i64>(0)?, row.get(1)?, row.get(2)?, row.get(3)?)),
        )?;
        let mut stale: Vec<StaleDeliveries> = Vec::new();
        let mut rows: Vec<(i64, SubscriptionId, EventId, String)> = rows;
        rows.sort_by_key(|(seq, ..)| *seq);
        for (seq, subscription_id, last_event, subscriber) in rows {
            match stale.iter_mut().find(|known| known.subscription_id == subscription_id) {
                Some(known) => {
                    known.seqs.push(seq);
                    known.last_event = last_event;
                }
                None => stale.push(StaleDeliveries { subscription_id, subscriber, seqs: vec![seq], last_event }),
            }
        }
        Ok(stale)
    }

    /// The open alerts named `prefix` and a subscription whose subscriber has looked since, or which has ended.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn alerts_of_subscribers_back(&self, prefix: &str) -> Result<Vec<Alert>> {
        self.query(
            select!(
                Alert,
                "FROM alerts WHERE closed_at IS NULL AND fingerprint >= ?1 AND fingerprint < ?1 || char(0x10FFFF)
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
