//! `loopctl regressions`: the ledger, line by line.

use std::collections::BTreeSet;

use coord_db::{Error, LedgerEntry, LedgerState, ReadTx, Regression};

use crate::context::Context;
use crate::exit::Outcome;
use crate::output::{Paint, Table, painted, plain};
use crate::sentence::short;
use crate::when::clock;

/// The regressions that say something about how things are: those that are not over, and of tests that are flaky, or have
/// been cleared when they were run last, the newest.
pub(super) fn standing(tx: &ReadTx<'_>) -> Result<Vec<Regression>, Error> {
    let lines = tx.ledger(None)?;
    let named = lines.into_iter().filter(|line| matches!(line.state, LedgerState::Flaky | LedgerState::Cleared));
    let named: BTreeSet<String> = named.filter_map(|line| line.regression_id).collect();
    let mut rows = tx.regressions(false)?;
    rows.retain(|row| row.resolved_at.is_none() || named.contains(&row.id));
    Ok(rows)
}

pub(super) fn paint(state: LedgerState) -> Paint {
    match state {
        LedgerState::Good => Paint::Green,
        LedgerState::Regressed | LedgerState::Unknown => Paint::Red,
        LedgerState::Flaky => Paint::Yellow,
        LedgerState::Cleared => Paint::Plain,
    }
}

/// A line in words, for `loopctl status TEST`.
pub(super) fn words(line: &LedgerEntry) -> String {
    let mut text = format!("{}; passed at {}, {}", line.state.as_str(), short(&line.good_commit), clock(line.passed_at));
    if let (Some(commit), LedgerState::Regressed | LedgerState::Cleared) = (&line.first_bad_commit, line.state) {
        let by = line.blamed_loop.as_ref().map_or_else(String::new, |by| format!(" of {by}"));
        text.push_str(&format!("; broken by {}{by}", short(commit)));
    }
    text
}

/// `loopctl regressions --ledger`
///
/// # Errors
/// What the database reports.
pub fn list(cx: &Context) -> Outcome {
    let rows = cx.open()?.read(|tx| tx.ledger(None))?;
    cx.out.list(&rows, "no test has passed yet", |rows| {
        Table::of(&["TEST", "STATE", "PASSED AT", "WHEN", "CHECK", "FIRST BAD", "BLAMED"], rows, |row| {
            vec![
                plain(&row.test_id),
                painted(paint(row.state), row.state.as_str()),
                plain(short(&row.good_commit)),
                plain(clock(row.passed_at)),
                plain(row.check_name.as_deref().unwrap_or("-")),
                plain(row.first_bad_commit.as_deref().map_or_else(|| "-".to_owned(), short)),
                plain(row.blamed_loop.as_deref().unwrap_or("-")),
            ]
        })
    })
}
