//! `loopctl checkpoints`: the refs to go back to, and those under which work is kept.

use coord_db::{Checkpoint, CheckpointType, Error, LoopId, TestStatus, Timestamp};
use serde::Serialize;

use crate::context::Context;
use crate::exit::Outcome;
use crate::output::{Paint, Table, painted, plain};
use crate::sentence::short;
use crate::when::clock;

#[derive(Debug, Serialize)]
struct Kept {
    #[serde(flatten)]
    row: Checkpoint,
    /// From when on it may go, if its test has passed; none while it stays.
    kept_until: Option<Timestamp>,
}

/// `loopctl checkpoints`
///
/// # Errors
/// Exit 4 for an unknown loop.
pub fn show(cx: &Context, loop_id: Option<&LoopId>, all: bool) -> Outcome {
    let (db, config) = cx.open_with_config()?;
    let seconds = config.retention.saved_work_days.max(0).saturating_mul(24 * 3600);
    let rows = db.read(|tx| {
        if let Some(id) = loop_id {
            tx.loop_row(id)?;
        }
        let rows = if all { tx.checkpoints_of_all_time(loop_id)? } else { tx.checkpoints(loop_id)? };
        rows.into_iter()
            .map(|row| {
                let test = row.test_id.as_ref().map(|id| tx.find_test(id.as_str())).transpose()?.flatten();
                let passed = test.is_some_and(|test| test.status == TestStatus::Passed);
                let kept_until = (passed && row.deleted_at.is_none()).then(|| row.created_at.plus_seconds(seconds));
                Ok::<_, Error>(Kept { row, kept_until })
            })
            .collect::<Result<Vec<_>, _>>()
    })?;
    cx.out.list(&rows, "no checkpoints", |rows| {
        Table::of(&["ID", "MADE", "LOOP", "TEST", "WHAT", "COMMIT", "KEPT", "REF", "WHY"], rows, |kept| {
            let row = &kept.row;
            let what = match row.checkpoint_type {
                CheckpointType::Stash => painted(Paint::Yellow, "saved work"),
                other => plain(if other == CheckpointType::Branch { "to go back to" } else { other.as_str() }),
            };
            let until = match (row.deleted_at, kept.kept_until) {
                (Some(at), _) => format!("deleted {}", clock(at)),
                (None, Some(until)) => format!("until {}", clock(until)),
                (None, None) => "until its test has landed".to_owned(),
            };
            vec![
                plain(&row.id),
                plain(clock(row.created_at)),
                plain(row.loop_id.as_str()),
                plain(row.test_id.as_ref().map_or("-", |id| id.as_str())),
                what,
                plain(row.commit_hash.as_deref().map_or_else(|| "-".to_owned(), short)),
                plain(until),
                plain(&row.git_ref),
                plain(row.reason.as_deref().unwrap_or("-")),
            ]
        })
    })
}
