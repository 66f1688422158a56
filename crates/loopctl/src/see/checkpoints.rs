//! `loopctl checkpoints`: the refs to go back to, and those under which work is kept.

use std::collections::BTreeSet;

use coord_db::{Checkpoint, CheckpointType, Error, IdOf, LoopId, TestStatus, Timestamp};
use serde::Serialize;
use views::ids::Short;
use views::sentence::short;
use views::text::safe_block;
use views::when::clock;

use crate::context::Context;
use crate::exit::Outcome;
use crate::output::{Paint, Table, id_cell, painted, plain};
use crate::workspaces;

#[derive(Debug, Serialize)]
struct Kept {
    #[serde(flatten)]
    row: Checkpoint,
    /// From when on it may go, if its test has passed; none while it stays.
    kept_until: Option<Timestamp>,
    /// Whether the store has its ref; none if it was deleted, or if there is no store yet.
    in_store: Option<bool>,
}

/// `loopctl checkpoints`
///
/// # Errors
/// Exit 4 for an unknown loop.
pub fn show(cx: &Context, loop_id: Option<&LoopId>, all: bool) -> Outcome {
    let (db, config) = cx.open_with_config()?;
    let store = workspaces::open_store(&config)?;
    let refs: Option<BTreeSet<String>> = match &store {
        Some(store) => {
            let refs = store.repository().list_refs("refs").map_err(|error| workspaces::failure(&error))?;
            Some(refs.into_iter().map(|(name, _)| name).collect())
        }
        None => None,
    };
    let seconds = config.retention.saved_work_days.max(0).saturating_mul(24 * 3600);
    let (rows, short_ids) = db.read(|tx| {
        if let Some(id) = loop_id {
            tx.loop_row(id)?;
        }
        let rows = tx.checkpoints(loop_id, all)?;
        let short_ids = Short::of(tx, IdOf::Checkpoint, rows.iter().map(|row| row.id.as_str()))?;
        let rows = rows
            .into_iter()
            .map(|row| {
                let test = row.test_id.as_ref().map(|id| tx.find_test(id.as_str())).transpose()?.flatten();
                let passed = test.is_some_and(|test| test.status == TestStatus::Passed);
                let kept_until = (passed && row.deleted_at.is_none()).then(|| row.created_at.plus_seconds(seconds));
                let in_store = refs.as_ref().filter(|_| row.deleted_at.is_none()).map(|refs| refs.contains(&row.git_ref));
                Ok::<_, Error>(Kept { row, kept_until, in_store })
            })
            .collect::<Result<Vec<_>, _>>()?;
        Ok::<_, Error>((rows, short_ids))
    })?;
    cx.out.list(&rows, "no checkpoints", |rows| {
        Table::of(&["ID", "CREATED", "LOOP", "TEST", "KIND", "COMMIT", "KEPT", "REF", "REASON"], rows, |kept| {
            let row = &kept.row;
            let what = match row.checkpoint_type {
                CheckpointType::Stash => painted(Paint::Yellow, "saved work"),
                other => plain(if other == CheckpointType::Branch { "checkpoint" } else { other.as_str() }),
            };
            let until = match (row.deleted_at, kept.kept_until) {
                (Some(at), _) => plain(format!("deleted {}", clock(at))),
                _ if kept.in_store == Some(false) => painted(Paint::Red, "lost: missing in the store"),
                (None, Some(until)) => plain(format!("until {}", clock(until))),
                (None, None) => plain("until its test lands"),
            };
            vec![
                id_cell(&short_ids, &row.id),
                plain(clock(row.created_at)),
                plain(row.loop_id.as_str()),
                plain(row.test_id.as_ref().map_or("-", |id| id.as_str())),
                what,
                plain(row.commit_hash.as_deref().map_or_else(|| "-".to_owned(), short)),
                until,
                plain(&row.git_ref),
                plain(row.reason.as_deref().unwrap_or("-")),
            ]
        })
    })?;
    if cx.out.json || cx.out.quiet || rows.is_empty() {
        return Ok(());
    }
    let (place, shown) = match &store {
        Some(store) => ("the refs are in the store", store.path().to_owned()),
        None => ("the refs are in the repository until the store is created", config.repository_path()),
    };
    let shown = shown.canonicalize().unwrap_or(shown);
    cx.out.text(&safe_block(&format!("\n{place}; show one with git -C {:?} show REF", shown.display().to_string())))
}
