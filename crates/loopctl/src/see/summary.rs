//! `loopctl summary`: what a stretch of time has brought.

use coord_db::{Conflict, Deadlock, DecisionStatus, Regression, Test, UsageTotal};
use views::questions::Question;
use views::sentence::{count, sentence, short, spent};
use views::summary::{Summary, look};
use views::text::one_line;
use views::when::{When, clock, span};

use crate::context::Context;
use crate::exit::Outcome;
use crate::output::Paint;

/// `loopctl summary`
///
/// # Errors
/// What the database reports.
pub fn show(cx: &Context, since: When) -> Outcome {
    let db = cx.open()?;
    let summary = db.read(|tx| look(tx, since.past(tx.now())?))?;
    if cx.out.json { cx.out.document(&summary) } else { cx.out.text(&page(cx, &summary)) }
}

/// Lines of one kind that are shown; the rest is counted.
const SHOWN: usize = 20;

fn page(cx: &Context, s: &Summary) -> String {
    let mut text = format!("{} ({})\n", clock(s.since), span(s.until.seconds_since(s.since)));
    let mut part = |name: &str, paint: Paint, lines: Vec<String>| {
        let number = lines.len().to_string();
        let shown = if lines.is_empty() { number } else { cx.out.paint(paint, &number) };
        text.push_str(&format!("{name:<16} {shown}\n"));
        for line in lines.iter().take(SHOWN) {
            text.push_str(&format!("  {}\n", one_line(line)));
        }
        if lines.len() > SHOWN {
            text.push_str(&format!("  … and {} more\n", lines.len() - SHOWN));
        }
    };
    let passed = |test: &Test| {
        let commit = test.commit_hash.as_deref().map(|commit| format!(" at {}", short(commit))).unwrap_or_default();
        format!("{} of {}{commit}, {}", test.id, test.loop_id, count(test.attempts, "attempt"))
    };
    part("passed", Paint::Green, s.passed.iter().map(passed).collect());
    part("failed attempts", Paint::Yellow, s.failed_attempts.iter().map(sentence).collect());
    part("blocked", Paint::Red, s.blocked.iter().map(sentence).collect());
    let deadlock = |row: &Deadlock| {
        let outcome = row.outcome.map_or("open", |outcome| outcome.as_str());
        format!("{}: victim {} ({outcome})", row.cycle.0.join(", "), row.victim)
    };
    part("deadlocks", Paint::Yellow, s.deadlocks.iter().map(deadlock).collect());
    let conflict = |row: &Conflict| {
        let state = row.resolution.as_deref().unwrap_or("open");
        format!("{}: {} and {} ({state})", row.file_path, row.loop_a, row.loop_b)
    };
    part("conflicts", Paint::Yellow, s.conflicts.iter().map(conflict).collect());
    let regression = |row: &Regression| {
        let blame = row.blamed_loop.as_deref().map(|id| format!(", broken by {id}")).unwrap_or_default();
        format!("{}, {} at {}{blame}", row.test_id, row.status, short(&row.bad_commit))
    };
    part("regressions", Paint::Red, s.regressions.iter().map(regression).collect());
    let decision = |Question { row, .. }: &Question| match row.status {
        DecisionStatus::Pending => format!("{} (open)", row.summary),
        status => format!("{} ({status}: {})", row.summary, row.choice.as_deref().unwrap_or("no choice")),
    };
    part("decisions", Paint::Blue, s.decisions.iter().map(decision).collect());
    part("dead components", Paint::Red, s.deaths.iter().map(sentence).collect());
    let usage = |row: &UsageTotal| {
        let whose = if row.key.is_empty() { "no loop" } else { &row.key };
        format!("{whose}: {}, {}", spent(row.tokens_estimated, row.cost_microusd), span(row.duration_seconds))
    };
    part("usage by loop", Paint::Plain, s.usage.iter().map(usage).collect());
    text
}
