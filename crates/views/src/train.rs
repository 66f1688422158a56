//! The landing train: what waits to land, what was judged together, and the results.

use std::collections::BTreeMap;

use coord_db::{Batch, Error, Landing, LandingState, LandingTotals, LoopId, ReadTx, Timestamp, short_id};
use serde::Serialize;

use crate::sentence::{count, short};
use crate::text::one_line;
use crate::when::{clock, span};

/// Maximum number of tests named on a line.
const MAX_NAMED: usize = 8;

/// The train.
#[derive(Debug, Serialize)]
#[allow(missing_docs)]
pub struct Train {
    /// What waits, the oldest first.
    pub queue: Vec<Landing>,
    /// What was judged, the newest first.
    pub batches: Vec<Batch>,
    /// What was given back or withdrawn, the newest first.
    pub returned: Vec<Landing>,
    pub totals: LandingTotals,
    #[serde(rename = "at")]
    pub now: Timestamp,
}

/// Reads the train with this number of judgements and of ended landings.
///
/// # Errors
/// What the database reports.
pub fn look(tx: &ReadTx<'_>, limit: usize) -> Result<Train, Error> {
    let ended = tx.ended_landings(limit)?;
    Ok(Train {
        queue: tx.open_landings()?,
        batches: tx.batches(limit)?,
        returned: ended.into_iter().filter(|landing| landing.state != LandingState::Landed).collect(),
        totals: tx.landing_totals()?,
        now: tx.now(),
    })
}

/// The newest landing of a test, without its name.
#[must_use]
pub fn of_test(landing: &Landing, now: Timestamp) -> String {
    let batch = landing.batch.as_deref().map(|batch| format!(" with batch {}", short_id(batch))).unwrap_or_default();
    match landing.state {
        LandingState::Queued => format!("verified alone, waits to land, for {}", span(now.seconds_since(landing.queued_at))),
        LandingState::Judging => {
            format!("verified alone, judged together with others, for {}", span(now.seconds_since(landing.queued_at)))
        }
        LandingState::Landed => format!("landed{batch}"),
        LandingState::Returned | LandingState::Withdrawn => {
            format!("{}{batch}: {}", landing.state, landing.reason.as_deref().unwrap_or("no reason is recorded"))
        }
    }
}

/// A work in the queue, in words.
#[must_use]
pub fn queued(landing: &Landing, now: Timestamp) -> String {
    let doing = if landing.state == LandingState::Judging { "is judged" } else { "waits" };
    let age = span(now.seconds_since(landing.queued_at));
    let urgent = if landing.urgent { ", goes first" } else { "" };
    let over = match landing.passed_over {
        0 => String::new(),
        1 => ", 1 batch landed before it".to_owned(),
        times => format!(", {times} batches landed before it"),
    };
    format!("{} of {} {doing}, for {age}{urgent}{over}", landing.test_id, landing.loop_id)
}

/// A judgement, in words.
#[must_use]
pub fn judged(batch: &Batch) -> String {
    let named = batch.tests.0.iter().take(MAX_NAMED).cloned().collect::<Vec<_>>().join(", ");
    let more = match batch.tests.0.len().saturating_sub(MAX_NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let works = if batch.tests.0.is_empty() { "the head of integration".to_owned() } else { format!("{named}{more}") };
    let time = if batch.reused { "the checks had passed on the same files".to_owned() } else { span(batch.duration_ms / 1000) };
    let failed = match &batch.check_name {
        Some(check) => format!(": {check}: {}", one_line(&batch.why)),
        None => String::new(),
    };
    let landed = if batch.landed_at.is_some() { format!(", landed as {}", short(&batch.commit_hash)) } else { String::new() };
    format!("{}  {}  {works} ({time}{landed}){failed}", clock(batch.judged_at), batch.outcome)
}

/// What the train has done, in words.
#[must_use]
pub fn totals(totals: &LandingTotals) -> String {
    let saved = match totals.saved {
        0 => String::new(),
        saved => format!(
            "; {} not needed, because the checks had passed on the same files ({} saved)",
            count(saved, "run"),
            span(totals.saved_ms / 1000)
        ),
    };
    format!(
        "{} landed after {} of the checks; {} given back{saved}",
        count(totals.landed, "work"),
        count(totals.judged, "run"),
        totals.returned
    )
}

/// The train on the page of `status`: what is judged, and what waits. Empty if nothing does.
#[must_use]
pub fn lines(queue: &[Landing], priorities: &BTreeMap<LoopId, i64>, now: Timestamp) -> Vec<String> {
    let mut lines = Vec::new();
    for (state, what) in [(LandingState::Judging, "judged together"), (LandingState::Queued, "waiting to land")] {
        let mut works: Vec<&Landing> = queue.iter().filter(|landing| landing.state == state).collect();
        works.sort_by_key(|landing| (!landing.urgent, priorities.get(&landing.loop_id).copied(), landing.queued_at));
        let Some(oldest) = works.iter().map(|landing| landing.queued_at).min() else { continue };
        let named: Vec<String> =
            works.iter().take(MAX_NAMED).map(|landing| format!("{} of {}", landing.test_id, landing.loop_id)).collect();
        let more = match works.len().saturating_sub(MAX_NAMED) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        lines.push(format!("{what}, for {}: {}{more}", span(now.seconds_since(oldest)), named.join(", ")));
    }
    lines
}
