//! `loopctl regressions`: the ledger, line by line.

use coord_db::LedgerState;
use views::sentence::short;
use views::when::clock;

use crate::context::Context;
use crate::exit::Outcome;
use crate::output::{Paint, Table, painted, plain};

pub(super) fn paint(state: LedgerState) -> Paint {
    match state {
        LedgerState::Good => Paint::Green,
        LedgerState::Regressed | LedgerState::Unknown => Paint::Red,
        LedgerState::Flaky => Paint::Yellow,
        LedgerState::Cleared => Paint::Plain,
    }
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
