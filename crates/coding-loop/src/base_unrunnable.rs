//! Checks that cannot run on this machine: their program is missing, they are killed. Where several machines share the database,
//! that says nothing about the files, and is not recorded for all: another machine proves the base, and this one tries again
//! later. One alert for each machine and check has the time of the next try, and is closed when the check runs there.

use coord_db::BaseRun;
use coord_db::process::{host, host_name};
use git::check::CheckEnd;
use serde_json::json;

use crate::Result;
use crate::base::BaseCheck;
use crate::context::Context;
use crate::retry_alert::{self, next_try, time_left};

/// Beginning of the fingerprints of the alerts, before host and check.
const UNRUNNABLE: &str = "base_unrunnable:";
/// A machine whose next try is overdue by this has ended, or has no need of the check any more.
const OVERDUE_SECONDS: i64 = 86_400;

/// True if a run says something about the files: it was not killed, and its program is there.
pub(crate) fn has_result(end: CheckEnd) -> bool {
    matches!(end, CheckEnd::Passed | CheckEnd::Failed | CheckEnd::TimedOut | CheckEnd::ChangedFiles)
}

fn of_host() -> String {
    format!("{UNRUNNABLE}{}:", host().unwrap_or_default())
}

fn fingerprint(check: &str) -> String {
    format!("{}{check}", of_host())
}

impl Context<'_> {
    /// True if the result of a check at the base holds for all machines. If not, the alert is raised.
    pub(crate) fn is_result_for_all(&self, run: &BaseRun, end: CheckEnd) -> Result<bool> {
        if has_result(end) || self.store.remote().is_none() {
            return Ok(true);
        }
        let (name, fingerprint) = (&run.check_name, fingerprint(&run.check_name));
        let machine = host().map_or("this machine", host_name);
        tracing::warn!(check = name, why = run.why, "the check cannot run on this machine; it is tried again later");
        let message = format!("check {name} cannot run on {machine}: {}; {machine} tries again by itself", run.why);
        let context = json!({ "kind": "base_unrunnable", "check": name, "host": host() });
        self.db.write(|tx| retry_alert::raise(tx, &fingerprint, message, context))?;
        Ok(false)
    }

    /// Closes the alert about a check that runs on this machine.
    pub(crate) fn note_that_it_runs(&self, check: &str, end: CheckEnd) -> Result<()> {
        if has_result(end) && self.store.remote().is_some() && self.db.read(|tx| tx.open_alert(&fingerprint(check)))?.is_some()
        {
            tracing::info!(check, "the check runs on this machine again");
            self.db.write(|tx| tx.close_alert(&fingerprint(check)))?;
        }
        Ok(())
    }

    /// Why the checks are not tried on this machine now; none if they are.
    pub(crate) fn unrunnable_for_now(&self, checks: &[&BaseCheck<'_>]) -> Result<Option<String>> {
        if self.store.remote().is_none() {
            return Ok(None);
        }
        self.db
            .read(|tx| {
                for check in checks {
                    let alert = tx.open_alert(&fingerprint(&check.config.name))?;
                    if let Some(alert) = alert.filter(|alert| time_left(alert, tx.now()).is_some()) {
                        return Ok(Some(alert.message));
                    }
                }
                Ok::<_, coord_db::Error>(None)
            })
            .map_err(Into::into)
    }

    /// Closes the alerts that nothing else would close: about checks that are configured no longer, and of machines that have gone.
    pub(crate) fn close_unrunnable_alerts(&self, all: &[BaseCheck<'_>]) -> Result<()> {
        let (alerts, now) = self.db.read(|tx| Ok::<_, coord_db::Error>((tx.open_alerts_with(UNRUNNABLE)?, tx.now())))?;
        for alert in alerts {
            let Some(fingerprint) = &alert.fingerprint else { continue };
            let own = fingerprint.strip_prefix(&of_host());
            let is_unknown = own.is_some_and(|name| all.iter().all(|check| check.config.name != name));
            if is_unknown || now.seconds_since(next_try(&alert)) > OVERDUE_SECONDS {
                self.db.write(|tx| tx.close_alert(fingerprint))?;
            }
        }
        Ok(())
    }
}
