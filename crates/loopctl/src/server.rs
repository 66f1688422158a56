//! A database on a PostgreSQL server: how one gets there, and what it needs after a failover.

use serde_json::json;
use views::text::safe;

use crate::context::Context;
use crate::exit::{Outcome, eprintln_quietly};
use crate::service;

/// `loopctl move-database`
///
/// # Errors
/// Exit 1 while a process runs, if the server's database is not empty, or if the two differ. The file is then in use as before.
pub fn move_database(cx: &Context, address: &str, dry_run: bool) -> Outcome {
    let db = cx.open()?;
    let working = cx.out.working("copying every row, then comparing both databases");
    let moved = db.move_to_server(address, dry_run, &mut |_| ())?;
    drop(working);
    let rows: u64 = moved.tables.values().sum();
    let tables = moved.tables.len();
    let server = safe(&moved.server);
    let mut text = match (dry_run, tables) {
        (true, _) => format!("{rows} rows of {tables} tables can be moved to {server}; nothing was changed"),
        (false, 0) => format!("the database is at {server}; an earlier move had copied it"),
        (false, _) => format!("moved {rows} rows of {tables} tables to {server}, and compared them"),
    };
    if moved.replaced_texts > 0 {
        let (count, what) = (moved.replaced_texts, if dry_run { "would be replaced" } else { "were replaced" });
        text.push_str(&format!("\ntexts with a NUL or invalid UTF-8, which {what} by U+FFFD: {count}"));
    }
    if let Some(kept) = &moved.kept {
        text.push_str(&format!("\nthe old file is kept as {}", safe(&kept.display().to_string())));
    }
    if let Some(archive) = &moved.archive {
        text.push_str(&format!(
            "\n{} stays an SQLite file; timeline and why no longer show its rows",
            safe(&archive.display().to_string())
        ));
    }
    if !dry_run {
        text.push_str(
            "\nnext:\n  loopctl doctor\n  loopctl up    (on another machine: loopctl init --database ADDRESS in a clone)",
        );
    }
    cx.out.done(&json!({ "dry_run": dry_run, "rows": rows, "moved": moved }), &text)?;
    if !dry_run && !service::enabled(&cx.path).is_empty() {
        eprintln_quietly(
            "loopctl: the services were made for a file; run loopctl service enable again, so that they reach the server",
        );
    }
    Ok(())
}

/// `loopctl after-failover`
///
/// # Errors
/// Exit 1 for a file.
pub fn after_failover(cx: &Context) -> Outcome {
    let (db, config) = cx.open_with_config()?;
    let done = db.continue_after_failover(config.heartbeat.wake_grace_seconds)?;
    let text = format!(
        "fencing tokens continue after {}, migration numbers after {}\n\
         no lease that has expired is taken from its holder before {}\n\
         running programs continue; nothing has to be restarted\n\
         next:\n  loopctl check\n  loopctl why {}",
        done.fencing_token,
        done.migration_number,
        done.grace_until.to_rfc3339(),
        done.event_id
    );
    cx.out.done(&json!(done), &text)
}
