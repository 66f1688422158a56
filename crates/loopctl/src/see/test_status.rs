//! `loopctl status TEST`: everything that is known of one test, and how we know.

use coord_db::{CheckRun, Error, Event, EventFilter, Landing, Lease, LedgerEntry, ReadTx, Regression, Test, TestId, Timestamp};
use serde::Serialize;

use super::proofs::Proven;
use super::{proofs, status_paint};
use crate::context::Context;
use crate::output::Paint;
use crate::sentence::{json_events, list, sentence, short, spent};
use crate::text::{safe, safe_block};
use crate::when::{clock, span};

#[derive(Debug, Serialize)]
pub(super) struct TestView {
    test: Test,
    proofs: Vec<Proven>,
    cold: Vec<CheckRun>,
    dependents: Vec<Test>,
    leases: Vec<Lease>,
    /// Its work in the landing train, the oldest first.
    landings: Vec<Landing>,
    regressions: Vec<Regression>,
    ledger: Option<LedgerEntry>,
    tokens_estimated: i64,
    cost_microusd: i64,
    duration_seconds: i64,
    #[serde(serialize_with = "as_told")]
    events: Vec<Event>,
    #[serde(rename = "at")]
    now: Timestamp,
}

pub(super) fn as_told<S: serde::Serializer>(events: &[Event], serializer: S) -> Result<S::Ok, S::Error> {
    json_events(events).serialize(serializer)
}

pub(super) fn look(tx: &ReadTx<'_>, id: &str) -> Result<TestView, Error> {
    let id: TestId = id.parse()?;
    let used = tx.usage_of_test(&id)?;
    let test = tx.test(&id)?;
    let proofs = proofs::of_test(tx, &id, None)?;
    let cold = match test.verified_at {
        Some(landed) => proofs::cold_of(tx, &proofs, landed)?,
        None => Vec::new(),
    };
    let filter = EventFilter { test_id: Some(id.to_string()), ..EventFilter::default() };
    Ok(TestView {
        test,
        proofs,
        cold,
        dependents: tx.dependents(&id)?,
        leases: tx.leases(true)?.into_iter().filter(|lease| lease.test_id.as_ref() == Some(&id)).collect(),
        landings: tx.landings_of(&id)?,
        ledger: tx.ledger(Some(&id))?.pop(),
        regressions: tx.regressions(false)?.into_iter().filter(|row| row.test_id == id).collect(),
        tokens_estimated: used.tokens_estimated,
        cost_microusd: used.cost_microusd,
        duration_seconds: used.duration_seconds,
        events: tx.events(&filter)?,
        now: tx.now(),
    })
}

pub(super) fn page(cx: &Context, view: &TestView) -> String {
    let out = &cx.out;
    let test = &view.test;
    let mut text = format!(
        "{}  {}  of {}\n",
        out.paint(Paint::Bold, &safe(test.id.as_str())),
        out.paint(status_paint(test.status), test.status.as_str()),
        safe(test.loop_id.as_str())
    );
    let mut field = |name: &str, value: String| {
        if !value.is_empty() {
            let lines: Vec<String> = value.lines().map(safe).collect();
            let value = lines.join(&format!("\n{}", " ".repeat(16)));
            text.push_str(&format!("  {} {value}\n", out.paint(Paint::Dim, &format!("{name:<13}"))));
        }
    };
    field("category", test.category.clone());
    field("attempts", format!("{} of {}", test.attempts, test.max_attempts));
    field("given back", if test.give_backs > 0 { format!("{} times", test.give_backs) } else { String::new() });
    field("automatable", if test.automatable { String::new() } else { "no, left to a person".to_owned() });
    field("depends on", test.depends_on.as_ref().map(ToString::to_string).unwrap_or_default());
    field("dependents", list(&view.dependents.iter().map(|test| test.id.to_string()).collect::<Vec<_>>()));
    field("scope", test.scope.0.join(", "));
    field("created", clock(test.created_at));
    field("last attempt", test.last_attempt_at.map(|at| ago(at, view.now)).unwrap_or_default());
    field("not before", test.not_before.filter(|at| *at > view.now).map(clock).unwrap_or_default());
    field("verified", test.verified_at.map(|at| ago(at, view.now)).unwrap_or_default());
    field("commit", test.commit_hash.clone().unwrap_or_default());
    field("landing", view.landings.last().map(|landing| super::landings::of_test(landing, view.now)).unwrap_or_default());
    let category = test.error_category.map(|category| format!(" ({category})")).unwrap_or_default();
    field("last error", test.last_error.as_deref().map(|error| format!("{error}{category}")).unwrap_or_default());
    field("leases", list(&view.leases.iter().map(|lease| lease.file_path.to_string()).collect::<Vec<_>>()));
    if view.tokens_estimated > 0 || view.duration_seconds > 0 {
        field("cost", format!("{}, {}", spent(view.tokens_estimated, view.cost_microusd), span(view.duration_seconds)));
    }
    field("ledger", view.ledger.as_ref().map(super::ledger::words).unwrap_or_default());
    for row in &view.regressions {
        field("regression", format!("{} at {}, check {}", row.status, short(&row.bad_commit), row.check_name));
    }
    for (name, block) in [("notes", &test.notes), ("specification", &test.spec_content)] {
        if let Some(block) = block {
            text.push_str(&format!("\n{}\n{}\n", out.paint(Paint::Bold, name), indented(block)));
        }
    }
    if !view.proofs.is_empty() {
        text.push_str(&format!("\n{}\n", out.paint(Paint::Bold, "proofs")));
    }
    for proof in &view.proofs {
        text.push_str(&proofs::block(cx, proof, "  "));
    }
    text.push_str(&proofs::cold_lines(cx, &view.cold, "  "));
    if !view.events.is_empty() {
        text.push_str(&format!("\n{}\n", out.paint(Paint::Bold, "events")));
    }
    for event in &view.events {
        text.push_str(&format!("  {}  {}\n", out.paint(Paint::Dim, &clock(event.timestamp)), sentence(event)));
    }
    text
}

fn ago(at: Timestamp, now: Timestamp) -> String {
    format!("{} ({} ago)", clock(at), span(now.seconds_since(at)))
}

fn indented(block: &str) -> String {
    safe_block(block).trim_end().lines().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n")
}
