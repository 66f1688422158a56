//! The ledger: what is known of each test that has passed.

use std::collections::BTreeSet;

use coord_db::{Error, LedgerEntry, LedgerState, ReadTx, Regression};

use crate::sentence::short;
use crate::when::clock;

/// The regressions that say something about how things are: those that are not over, and of tests that are flaky, or have
/// been cleared when they were run last, the newest.
pub fn standing(tx: &ReadTx<'_>) -> Result<Vec<Regression>, Error> {
    let lines = tx.ledger(None)?;
    let named = lines.into_iter().filter(|line| matches!(line.state, LedgerState::Flaky | LedgerState::Cleared));
    let named: BTreeSet<String> = named.filter_map(|line| line.regression_id).collect();
    let mut rows = tx.regressions(false)?;
    rows.retain(|row| row.resolved_at.is_none() || named.contains(&row.id));
    Ok(rows)
}

/// A line in words, for `loopctl status TEST`.
pub fn words(line: &LedgerEntry) -> String {
    let mut text = format!("{}; passed at {}, {}", line.state.as_str(), short(&line.good_commit), clock(line.passed_at));
    if let (Some(commit), LedgerState::Regressed | LedgerState::Cleared) = (&line.first_bad_commit, line.state) {
        let by = line.blamed_loop.as_ref().map_or_else(String::new, |by| format!(" of {by}"));
        text.push_str(&format!("; broken by {}{by}", short(commit)));
    }
    text
}
