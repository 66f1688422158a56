//! Alerts: raised once for each cause (its fingerprint), updated while it lasts, closed when it ends.

use serde_json::Value;

use crate::{AlertType, Error, EventId, ReadTx, Result, Severity, Timestamp, WriteTx, new_id};

row! {
    /// An alert.
    Alert {
        id: String, severity: Severity, alert_type: AlertType, source: String, message: String, context: Value,
        acknowledged: bool, acknowledged_by: Option<String>, acknowledged_at: Option<Timestamp>, created_at: Timestamp,
        closed_at: Option<Timestamp>, updated_at: Option<Timestamp>, fingerprint: Option<String>, event_id: Option<EventId>,
    }
}

/// An alert to be raised.
#[derive(Debug, Clone, PartialEq)]
pub struct NewAlert {
    /// What names the cause; one alert is open for it at a time.
    pub fingerprint: String,
    /// How bad.
    pub severity: Severity,
    /// What about.
    pub alert_type: AlertType,
    /// Who says so.
    pub source: String,
    /// For people.
    pub message: String,
    /// Details.
    pub context: Value,
    /// The event that says the same.
    pub event_id: Option<EventId>,
}

/// What raising an alert did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AlertRaised {
    /// There was none for this cause.
    New,
    /// An open alert was updated.
    Updated,
    /// It stood already, word for word.
    Unchanged,
}

impl ReadTx<'_> {
    /// Alerts, open ones only or all, oldest first.
    pub fn alerts(&self, open_only: bool) -> Result<Vec<Alert>> {
        self.query(
            select!(Alert, "FROM alerts WHERE ?1 = 0 OR closed_at IS NULL ORDER BY created_at, id"),
            [open_only],
            Alert::from_row,
        )
    }

    /// One alert.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn alert(&self, id: &str) -> Result<Alert> {
        self.query_opt(select!(Alert, "FROM alerts WHERE id = ?1"), [id], Alert::from_row)?
            .ok_or_else(|| Error::not_found("alert", id))
    }

    /// Whether an alert with this cause exists, open or closed.
    pub fn was_alerted(&self, fingerprint: &str) -> Result<bool> {
        self.value("SELECT EXISTS (SELECT 1 FROM alerts WHERE fingerprint = ?1)", [fingerprint])
    }

    /// The open alert for a cause.
    pub fn open_alert(&self, fingerprint: &str) -> Result<Option<Alert>> {
        self.query_opt(
            select!(Alert, "FROM alerts WHERE fingerprint = ?1 AND closed_at IS NULL"),
            [fingerprint],
            Alert::from_row,
        )
    }

    /// Open critical alerts that nobody has acknowledged and for which no journal entry `notify:alert:<id>` stands, oldest first.
    pub fn unnotified_alerts(&self, limit: usize) -> Result<Vec<Alert>> {
        self.query(
            select!(
                Alert,
                "FROM alerts WHERE severity = 'critical' AND closed_at IS NULL AND acknowledged = 0
                   AND NOT EXISTS (SELECT 1 FROM transaction_log AS j WHERE j.id = 'notify:alert:' || alerts.id)
                 ORDER BY created_at, id LIMIT ?1"
            ),
            [limit as i64],
            Alert::from_row,
        )
    }

    /// The open alerts whose causes' names begin with this, by name.
    pub fn open_alerts_with(&self, prefix: &str) -> Result<Vec<Alert>> {
        self.query(
            select!(
                Alert,
                "FROM alerts WHERE fingerprint >= ?1 AND fingerprint < ?1 || '\u{10ffff}' AND closed_at IS NULL
                 ORDER BY fingerprint"
            ),
            [prefix],
            Alert::from_row,
        )
    }

    /// The open alerts of one source.
    pub fn open_alerts_of(&self, source: &str) -> Result<Vec<Alert>> {
        self.query(
            select!(Alert, "FROM alerts WHERE source = ?1 AND closed_at IS NULL ORDER BY created_at, id"),
            [source],
            Alert::from_row,
        )
    }
}

impl WriteTx<'_> {
    /// Raises an alert, or updates the one that is open for the same cause.
    pub fn raise_alert(&self, new: &NewAlert) -> Result<AlertRaised> {
        if let Some(open) = self.open_alert(&new.fingerprint)? {
            if open.severity == new.severity && open.message == new.message && open.context == new.context {
                return Ok(AlertRaised::Unchanged);
            }
            self.execute(
                "UPDATE alerts SET severity = ?2, message = ?3, context = ?4, updated_at = ?5 WHERE id = ?1",
                params![open.id, new.severity, new.message, new.context.to_string(), self.now()],
            )?;
            return Ok(AlertRaised::Updated);
        }
        self.execute(
            "INSERT INTO alerts (id, severity, alert_type, source, message, context, created_at, fingerprint, event_id)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
            params![
                new_id(),
                new.severity,
                new.alert_type,
                new.source,
                new.message,
                new.context.to_string(),
                self.now(),
                new.fingerprint,
                new.event_id
            ],
        )?;
        Ok(AlertRaised::New)
    }

    /// The cause has ended. False if no alert was open for it.
    pub fn close_alert(&self, fingerprint: &str) -> Result<bool> {
        Ok(self.execute(
            "UPDATE alerts SET closed_at = ?2 WHERE fingerprint = ?1 AND closed_at IS NULL",
            params![fingerprint, self.now()],
        )? > 0)
    }

    /// Someone has seen the alert.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::IllegalMove`] for one that is acknowledged already, or closed.
    pub fn acknowledge_alert(&self, id: &str, by: &str) -> Result<()> {
        let alert = self.alert(id)?;
        if alert.closed_at.is_some() {
            return Err(Error::illegal("alert", id, "closed", "be acknowledged: its cause has ended"));
        }
        if alert.acknowledged {
            let state = format!("acknowledged by {} already", alert.acknowledged_by.as_deref().unwrap_or("somebody"));
            return Err(Error::illegal("alert", id, state, "be acknowledged again"));
        }
        self.execute(
            "UPDATE alerts SET acknowledged = 1, acknowledged_by = ?2, acknowledged_at = ?3 WHERE id = ?1",
            params![id, by, self.now()],
        )?;
        Ok(())
    }
}
