//! `loopctl status TEST`: everything that is known of one test, and how we know.

use coord_db::Timestamp;
use views::sentence::{list, sentence, short, spent};
use views::test::TestView;
use views::text::{safe, safe_block};
use views::when::{clock, span};

use super::{proofs, status_paint};
use crate::context::Context;
use crate::output::Paint;

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
    field("landing", view.landings.last().map(|landing| views::train::of_test(landing, view.now)).unwrap_or_default());
    let category = test.error_category.map(|category| format!(" ({category})")).unwrap_or_default();
    field("last error", test.last_error.as_deref().map(|error| format!("{error}{category}")).unwrap_or_default());
    field("leases", list(&view.leases.iter().map(|lease| lease.file_path.to_string()).collect::<Vec<_>>()));
    if view.tokens_estimated > 0 || view.duration_seconds > 0 {
        field("cost", format!("{}, {}", spent(view.tokens_estimated, view.cost_microusd), span(view.duration_seconds)));
    }
    field("ledger", view.ledger.as_ref().map(views::ledger::words).unwrap_or_default());
    for row in view.regressions.iter().map(|broke| &broke.row) {
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
