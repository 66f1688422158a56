//! `loopctl journal`: effects outside the database, begun and settled, and settling by hand what nobody comes back for.

use coord_db::process::{Liveness, ProcessIdentity};
use coord_db::{Error, IdOf, JournalEntry, JournalStatus};
use serde_json::Value;
use views::ids::Short;
use views::when::{clock, span};

use crate::cli::JournalArgs;
use crate::context::Context;
use crate::exit::{Failure, Outcome};
use crate::ids;
use crate::output::{Paint, Table, id_cell, painted, plain};

/// What tells one entry from another of its kind.
const TELLING: [&str; 8] = ["test", "check", "regression", "branch", "commit", "git_ref", "notification", "path"];

fn about(entry: &JournalEntry) -> String {
    let text = |key: &&str| entry.steps.intent.get(*key).and_then(Value::as_str).map(str::to_owned);
    let words: Vec<String> = TELLING.iter().filter_map(text).map(|word| word.chars().take(40).collect()).take(2).collect();
    words.join(" ")
}

fn got_to(entry: &JournalEntry) -> String {
    entry.steps.done.last().map_or_else(|| "recorded".to_owned(), |step| step.step.clone())
}

/// Lists entries: those that are open, or the newest of all.
///
/// # Errors
/// What the database reports; for `--settle` exit 1 while the entry's owner lives or if it is settled, exit 4 for an unknown one.
pub fn run(cx: &Context, args: &JournalArgs) -> Outcome {
    if let Some(id) = &args.settle {
        return settle(cx, id, args.done);
    }
    let db = cx.open()?;
    let component = args.of.as_deref();
    let (rows, short, now) = db.read(|tx| {
        let rows = match component {
            component if args.all => tx.journal(component, args.limit)?,
            component => tx.open_journal(component)?,
        };
        let short = Short::of(tx, IdOf::JournalEntry, rows.iter().map(|row| row.id.as_str()))?;
        Ok::<_, Error>((rows, short, tx.now()))
    })?;
    let empty = if args.all { "the journal is empty" } else { "no open entries; --all includes settled ones" };
    cx.out.list(&rows, empty, |rows| {
        Table::of(&["STARTED", "OPERATION", "OWNER", "STATE", "LAST STEP", "SUBJECT", "ID"], rows, |row| {
            let state = match row.status {
                JournalStatus::InProgress => {
                    painted(Paint::Yellow, format!("open for {}", span(now.seconds_since(row.started_at))))
                }
                JournalStatus::Committed => painted(Paint::Green, "done"),
                JournalStatus::RolledBack => painted(Paint::Dim, "undone"),
            };
            vec![
                plain(clock(row.started_at)),
                plain(&row.operation),
                plain(row.component.as_deref().unwrap_or("-")),
                state,
                plain(got_to(row)),
                plain(about(row)),
                id_cell(&short, &row.id),
            ]
        })
    })
}

fn settle(cx: &Context, id: &str, done: bool) -> Outcome {
    let db = cx.open()?;
    let (row, short) = db.write(|tx| {
        let id = ids::find(tx, IdOf::JournalEntry, id)?;
        let short = views::ids::short(tx, IdOf::JournalEntry, &id)?;
        let entry = tx.journal_entry(&id)?.ok_or_else(|| Failure::not_found(IdOf::JournalEntry.name(), &id))?;
        let own = ProcessIdentity::own();
        let running = match &entry.component {
            Some(component) => tx.running_process(component, &own)?,
            None => None,
        };
        // A command of another host or namespace, of which nobody can tell whether it runs, is for the human to judge.
        let acting = entry.steps.owner().filter(|owner| *owner != own && owner.liveness() == Liveness::Alive);
        if let (Some(process), JournalStatus::InProgress) = (running.or(acting), entry.status) {
            let by = entry.component.as_deref().unwrap_or("its owner");
            return Err(Failure::No(format!("{by} runs as {process} and settles entry {short} itself")));
        }
        if !tx.end_operation(&id, done)? {
            return Err(Failure::No(format!("journal entry {short} is {} already", entry.status)));
        }
        Ok::<_, Failure>((tx.journal_entry(&id)?, short))
    })?;
    let status = if done { JournalStatus::Committed } else { JournalStatus::RolledBack };
    cx.out.done(&row, &format!("journal entry {short} is {status}"))
}
