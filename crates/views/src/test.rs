//! Everything that is known of one test, and how we know.

use coord_db::{
    CheckRun, Checkpoint, CheckpointType, Error, Event, EventFilter, Landing, Lease, LedgerEntry, ReadTx, Test, TestId,
    TestStatus, Timestamp,
};
use serde::Serialize;

use crate::broke::Broke;
use crate::proofs::{self, Proven};
use crate::sentence::as_told;

/// One test.
#[derive(Debug, Serialize)]
#[allow(missing_docs)]
pub struct TestView {
    pub test: Test,
    pub proofs: Vec<Proven>,
    pub cold: Vec<CheckRun>,
    pub dependents: Vec<Test>,
    pub leases: Vec<Lease>,
    /// Its work in the landing train, the oldest first.
    pub landings: Vec<Landing>,
    pub regressions: Vec<Broke>,
    /// Work that has not landed: in the landing train, or saved after an attempt.
    pub unlanded: Option<Unlanded>,
    pub ledger: Option<LedgerEntry>,
    pub tokens_estimated: i64,
    pub cost_microusd: i64,
    pub duration_seconds: i64,
    #[serde(serialize_with = "as_told")]
    pub events: Vec<Event>,
    #[serde(rename = "at")]
    pub now: Timestamp,
}

/// The newest work of a test that has not landed.
#[derive(Debug, Serialize)]
#[allow(missing_docs)]
pub struct Unlanded {
    pub commit: String,
    /// When it was made.
    pub since: Timestamp,
    /// Why it is kept; none for work in the landing train.
    pub reason: Option<String>,
}

/// Reads one test with all of its events.
///
/// # Errors
/// [`Error::NotFound`].
pub fn look(tx: &ReadTx<'_>, id: &str) -> Result<TestView, Error> {
    let filter = EventFilter { test_id: Some(id.to_owned()), ..EventFilter::default() };
    read(tx, &id.parse()?, |tx, _| tx.events(&filter))
}

/// Reads one test with its newest events, at most `limit`: in a time that does not grow with all events.
///
/// # Errors
/// [`Error::NotFound`].
pub fn look_at_newest(tx: &ReadTx<'_>, id: &TestId, limit: usize) -> Result<TestView, Error> {
    read(tx, id, |tx, id| tx.events_of_test(id, limit))
}

fn read(
    tx: &ReadTx<'_>,
    id: &TestId,
    events: impl Fn(&ReadTx<'_>, &TestId) -> Result<Vec<Event>, Error>,
) -> Result<TestView, Error> {
    let used = tx.usage_of_test(id)?;
    let test = tx.test(id)?;
    let proofs = proofs::of_test(tx, id, None)?;
    let cold = match test.verified_at {
        Some(landed) => proofs::cold_of(tx, &proofs, landed)?,
        None => Vec::new(),
    };
    let landings = tx.landings_of(id)?;
    Ok(TestView {
        unlanded: unlanded(tx, &test, landings.last())?,
        test,
        proofs,
        cold,
        dependents: tx.dependents(id)?,
        leases: tx.leases(true)?.into_iter().filter(|lease| lease.test_id.as_ref() == Some(id)).collect(),
        landings,
        ledger: tx.ledger(Some(id))?.pop(),
        regressions: Broke::of_test(tx, id)?,
        tokens_estimated: used.tokens_estimated,
        cost_microusd: used.cost_microusd,
        duration_seconds: used.duration_seconds,
        events: events(tx, id)?,
        now: tx.now(),
    })
}

fn unlanded(tx: &ReadTx<'_>, test: &Test, newest: Option<&Landing>) -> Result<Option<Unlanded>, Error> {
    if let Some(landing) = newest.filter(|landing| landing.ended_at.is_none()) {
        let (commit, since) = (landing.commit_hash.clone(), landing.queued_at);
        return Ok(Some(Unlanded { commit, since, reason: None }));
    }
    if test.status == TestStatus::Passed {
        return Ok(None);
    }
    let is_its = |row: &Checkpoint| {
        row.test_id.as_ref() == Some(&test.id) && row.checkpoint_type == CheckpointType::Stash && row.commit_hash.is_some()
    };
    let saved = tx.checkpoints(Some(&test.loop_id), false)?.into_iter().find(is_its);
    Ok(saved.map(|row| Unlanded { commit: row.commit_hash.unwrap_or_default(), since: row.created_at, reason: row.reason }))
}
