//! `loopctl landings`: the landing train. What waits to land, what was judged together, and the results.

use coord_db::BatchOutcome;
use views::text::safe;
use views::train::{Train, judged, look, queued, totals};
use views::when::clock;

use crate::context::Context;
use crate::exit::Outcome;
use crate::output::Paint;

/// Number of judgements and of ended landings shown without `--all`.
const RECENT: usize = 10;
/// Maximum number with `--all`.
const MAX_ROWS: usize = 1_000;
/// `loopctl landings`
///
/// # Errors
/// What the database reports.
pub fn show(cx: &Context, all: bool) -> Outcome {
    let db = cx.open()?;
    let train = db.read(|tx| look(tx, if all { MAX_ROWS } else { RECENT }))?;
    if cx.out.json {
        return cx.out.document(&train);
    }
    cx.out.text(&page(cx, &train))
}

fn page(cx: &Context, train: &Train) -> String {
    let out = &cx.out;
    let mut text = match train.queue.len() {
        0 => "no work waits to land\n".to_owned(),
        works => format!("waiting to land: {works}\n"),
    };
    for landing in &train.queue {
        text.push_str(&out.folded("  ", Paint::Plain, &queued(landing, train.now)));
    }
    if !train.batches.is_empty() {
        text.push_str(&format!("\n{}\n", out.paint(Paint::Bold, "judged together")));
    }
    for batch in &train.batches {
        let paint = match batch.outcome {
            BatchOutcome::Passed => Paint::Green,
            BatchOutcome::Failed => Paint::Red,
            BatchOutcome::Flaky => Paint::Yellow,
        };
        text.push_str(&out.folded("  ", paint, &judged(batch)));
    }
    if !train.returned.is_empty() {
        text.push_str(&format!("\n{}\n", out.paint(Paint::Bold, "given back")));
    }
    for landing in &train.returned {
        let when = landing.ended_at.map(clock).unwrap_or_default();
        let reason = landing.reason.as_deref().unwrap_or("no reason is recorded");
        text.push_str(&out.folded(
            "  ",
            Paint::Plain,
            &format!("{when}  {} of {}: {reason}", landing.test_id, landing.loop_id),
        ));
    }
    if train.totals.landed > 0 {
        text.push_str(&format!("\n{}\n", safe(&totals(&train.totals))));
    }
    text
}
