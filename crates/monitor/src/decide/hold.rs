//! Agents that cannot work: their account has reached a limit, their service does not answer, or their key is refused.
//! One alert for each agent, regardless of the number of its loops; it says how long and closes by itself.

use coord_db::{AlertType, Hold, HoldKind, Severity};
use serde_json::json;

use super::{Finding, Work};
use crate::snapshot::prefix;

pub(super) fn judge(work: &mut Work<'_>) {
    let at = work.at;
    for hold in &at.holds {
        // A hold on a single loop has a question of its own.
        let Some(agent) = hold.agent() else { continue };
        let finding = finding(agent, hold);
        match work.open(&finding.fingerprint) {
            None => work.raise(finding, None),
            Some(open) => work.renew(open, finding, &["kind", "until", "reason"]),
        }
    }
}

fn finding(agent: &str, hold: &Hold) -> Finding {
    let what = match hold.kind {
        HoldKind::Limit => "has reached a limit of its account",
        HoldKind::Outage => "gets no answer from its service",
        HoldKind::Human | HoldKind::Repeated => "cannot work",
    };
    let until = hold.until.map_or_else(
        || "its loops start no attempt until the question about it is answered".to_owned(),
        |until| format!("its loops start no attempt before {}", until.to_rfc3339()),
    );
    Finding {
        fingerprint: format!("{}{agent}", prefix::AGENT),
        severity: Severity::Warning,
        alert_type: AlertType::Resource,
        message: format!("agent {agent} {what}; {until}: {}", hold.reason),
        context: json!({"kind": hold.kind, "agent": agent, "until": hold.until, "since": hold.since, "reason": hold.reason}),
    }
}
