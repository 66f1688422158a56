//! One test: what it asks, its attempts with their output, its proofs, its commit, what broke it and what mended it.

use std::collections::BTreeMap;

use coord_db::{CheckOutcome, ProofStage, Run, RunOutcome, TestStatus};
use maud::{Markup, html};
use views::broke::Broke;
use views::proofs::Proven;
use views::runs::what;
use views::sentence::{sentence, short};
use views::test::{TestView, Unlanded};
use views::when::span;

use super::tests::{class, sign};
use super::{Part, section};
use crate::html::{at, badge, block, block_end, line, money, nothing, number, since, test};

/// Events that are shown, the newest.
pub const MAX_EVENTS: usize = 60;
/// Proofs that are shown, the newest.
const MAX_PROOFS: usize = 40;

/// The parts of the page. `live` is the end of the output of what runs.
#[must_use]
pub fn parts(view: &TestView, runs: &[Run], live: Option<&str>, read_only: bool) -> Vec<Part> {
    let mut parts = vec![Part::new("test", facts(view, read_only))];
    if let Some(live) = live {
        parts
            .push(Part::new("live", section("Output now", html! { pre.live #live-output tabindex="0" { (block_end(live)) } })));
    }
    if !view.regressions.is_empty() {
        parts.push(Part::new("broken", section("What broke it, and what mended it", broken(view))));
    }
    parts.push(Part::new("attempts", section("Attempts", attempts(runs))));
    parts.push(Part::new("proofs", section("Proofs", proofs(view))));
    if let Some(work) = &view.unlanded {
        parts.push(Part::new("work", section("Work that has not landed", unlanded(work))));
    }
    if view.test.commit_hash.is_some() {
        parts.push(Part::new("commit", section("Commit", commit(view))));
    }
    parts.push(Part::new("events", section("What happened", events(view))));
    parts
}

fn facts(view: &TestView, read_only: bool) -> Markup {
    let row = &view.test;
    let queued = view.landings.last().is_some_and(|landing| landing.ended_at.is_none());
    let state = views::grid::state(row, view.ledger.as_ref().map(|line| line.state), queued);
    let body = serde_json::json!({ "test": row.id });
    html! {
        div.heading {
            h2 { span class={ "cell " (class(state)) } aria-hidden="true" { (sign(state)) } " " (row.id) }
            span.state { (state.word()) }
            @if !read_only {
                @if !matches!(row.status, TestStatus::Passed | TestStatus::Skipped) {
                    button.small data-do="skip" data-body=(body) data-confirm={ "Skip " (row.id) "? It is left out until it is reset." } { "Skip" }
                }
                @if matches!(row.status, TestStatus::Blocked | TestStatus::Failed | TestStatus::Skipped) || (row.status == TestStatus::Pending && row.attempts > 0) {
                    button.small data-do="reset" data-body=(body) data-confirm={ "Reset " (row.id) "? Its attempts are cleared." } { "Reset" }
                }
            }
        }
        @if let Some(notes) = &row.notes { p { (line(notes)) } }
        dl.facts {
            dt { "loop" } dd { a href={ "/story?loop=" (row.loop_id) } { (row.loop_id) } }
            dt { "attempts" } dd { (row.attempts) " of " (row.max_attempts) @if row.give_backs > 0 { ", given back " (row.give_backs) " times" } }
            @if let Some(on) = &row.depends_on { dt { "depends on" } dd { (test(on)) } }
            @if !view.dependents.is_empty() {
                dt { "needed by" } dd { @for (n, other) in view.dependents.iter().take(20).enumerate() { @if n > 0 { ", " } (test(&other.id)) } }
            }
            @if !row.category.is_empty() { dt { "category" } dd { (line(&row.category)) } }
            @if !row.scope.0.is_empty() { dt { "scope" } dd { (line(&row.scope.0.join(", "))) } }
            @if let Some(time) = row.verified_at { dt { "verified" } dd { (at(time)) } }
            @if let Some(landing) = view.landings.last() { dt { "landing" } dd { (line(&views::train::of_test(landing, view.now))) } }
            @if let Some(ledger) = &view.ledger { dt { "since" } dd { (line(&views::ledger::words(ledger))) } }
            @if view.tokens_estimated > 0 || view.duration_seconds > 0 {
                dt { "cost" } dd { (number(view.tokens_estimated)) " tokens, " (money(view.cost_microusd)) ", " (span(view.duration_seconds)) }
            }
            @if !view.leases.is_empty() {
                dt { "leases" } dd { (line(&view.leases.iter().map(|lease| lease.file_path.to_string()).collect::<Vec<_>>().join(", "))) }
            }
        }
        @if let Some(error) = row.last_error.as_deref().filter(|_| row.status != TestStatus::Passed) {
            p.quiet { "Last error" @if let Some(category) = row.error_category { " (" (category.as_str()) ")" } }
            pre tabindex="0" { (block_end(error)) }
        }
        @if let Some(specification) = &row.spec_content {
            details open id="specification" { summary { "Specification" } pre.prose tabindex="0" { (block(specification)) } }
        }
    }
}

fn broken(view: &TestView) -> Markup {
    html! {
        ul.plain.broken {
            @for broke in view.regressions.iter().rev().take(10) { li { (one_break(broke)) } }
        }
    }
}

fn one_break(broke: &Broke) -> Markup {
    let row = &broke.row;
    let commit = row.first_bad_commit.as_deref().unwrap_or(&row.bad_commit);
    let link = |hash: &str| html! { a.id href={ "/why/" (line(hash)) } { (short(hash)) } };
    html! {
        p {
            (badge(if row.resolved_at.is_some() { "quiet" } else { "bad" }, row.status.as_str())) " "
            @match (&row.blamed_loop, &row.blamed_test) {
                (Some(by), Some(other)) => { "Broken by " b { (line(by)) } " with " (crate::html::named_test(other)) },
                (Some(by), None) => { "Broken by " b { (line(by)) } },
                _ => { "Broken; nobody is blamed" },
            }
            " at " (link(commit)) ": check " (line(&row.check_name)) " fails, " (at(row.detected_at)) ". "
            @match row.resolved_at {
                None => { "It still fails." },
                Some(time) => {
                    @match (&broke.mended_with, &broke.passes_again_at) {
                        (Some(hash), _) => {
                            "Mended" @if let Some(by) = &broke.mended_by { " by " b { (by) } }
                            @if let Some(id) = &broke.mended_test { " with " (test(id)) }
                            " at " (link(hash)) ", seen " (at(time)) "."
                        },
                        (None, Some(hash)) => { "Passes again at " (link(hash)) ", " (at(time)) "." },
                        (None, None) => { "Settled " (at(time)) "." },
                    }
                },
            }
        }
        @if !row.output_tail.is_empty() { details id={ "o-" (row.id) } { summary { "Output" } pre { (block_end(&row.output_tail)) } } }
        details.lazy id={ "b-" (row.id) } data-src={ "/part/commit/" (commit) } { summary { "The commit that broke it" } div {} }
    }
}

fn attempts(runs: &[Run]) -> Markup {
    let mut by_attempt: BTreeMap<i64, Vec<&Run>> = BTreeMap::new();
    for run in runs {
        by_attempt.entry(run.attempt).or_default().push(run);
    }
    html! {
        @if by_attempt.is_empty() { (nothing("No attempt yet.")) }
        @for (attempt, runs) in by_attempt.iter().rev() {
            h3 { "Attempt " (attempt) }
            ul.plain.runs {
                @for run in runs { li { (one_run(run)) } }
            }
        }
    }
}

fn one_run(run: &Run) -> Markup {
    let heading = html! {
        b { (line(&what(run))) } " "
        @match (run.ended_at, run.outcome.as_deref()) {
            (Some(ended), outcome) => {
                (badge(match outcome { Some("passed" | "succeeded" | "exited" | "ok") => "good", Some("failed") => "bad", _ => "quiet" }, &line(outcome.unwrap_or("ended"))))
                " " span.quiet { (at(run.started_at)) ", " (span(ended.seconds_since(run.started_at))) }
            },
            (None, _) => { (badge("working", "runs")) " " span.quiet { (since(run.started_at)) } },
        }
        @if let Some(progress) = &run.progress { " " span.quiet { (line(progress)) } }
    };
    html! {
        @if run.ended_at.is_some() {
            details.lazy id={ "r-" (run.id) } data-src={ "/part/log/" (run.id) } { summary { (heading) } div {} }
        } @else {
            p { (heading) }
        }
    }
}

fn proofs(view: &TestView) -> Markup {
    let left_out = view.proofs.len().saturating_sub(MAX_PROOFS);
    html! {
        @if view.proofs.is_empty() { (nothing("None: no check has judged this test yet.")) }
        ul.plain.proofs {
            @for proven in view.proofs.iter().rev().take(MAX_PROOFS) { li { (one_proof(proven)) } }
            @for run in &view.cold {
                li { (badge(if run.outcome == RunOutcome::Pass { "good" } else { "bad" }, "cold")) " " (line(&views::proofs::cold_words(run))) }
            }
        }
        @if left_out > 0 { p.quiet { (left_out) " older ones: loopctl status " (view.test.id) } }
    }
}

/// One proof: what was run on what, and what it showed.
#[must_use]
pub fn one_proof(proven: &Proven) -> Markup {
    let (proof, run) = (&proven.proof, proven.run.as_ref());
    let is_before = run.is_some_and(|run| run.stage == ProofStage::RedBefore);
    let stage = run.map_or("alone", |run| match run.stage {
        ProofStage::Alone => "alone",
        ProofStage::Base => "at the base",
        ProofStage::Batch => "together with others",
        ProofStage::RedBefore => "before the work, where it has to fail",
    });
    let is_good = (proof.outcome == CheckOutcome::Pass) != is_before;
    let heading = html! {
        (badge(if is_good { "good" } else { "bad" }, proof.outcome.as_str())) " "
        b { (line(&proof.check_name)) } " at " span.id { (short(&proof.commit_hash)) } ", " (stage) ", attempt " (proof.attempt) " "
        span.quiet {
            @if let Some(code) = proof.exit_code { "exit " (code) ", " }
            (proof.duration_ms / 1000) "." (format!("{:03}", proof.duration_ms % 1000)) "s, " (at(proof.created_at))
        }
    };
    html! {
        details id={ "p-" (proof.id) } {
            summary { (heading) }
            @if let Some(why) = run.map(|run| run.why.as_str()).filter(|why| !why.is_empty()) { p { (line(why)) } }
            @if run.is_some_and(|run| run.let_through) { p.quiet { "Ignored: it fails at the base in the same way." } }
            @if let Some(from) = run.and_then(|run| run.reused_from.as_deref()) { p.quiet { "Not run again: the same files were judged in " (line(from)) "." } }
            dl.facts {
                dt { "tree" } dd.id { (line(&proof.tree_hash)) }
                dt { "output" } dd.id { "sha256 " (line(&proof.output_sha256)) }
                dt { "proof" } dd.id { (line(&proof.id)) }
            }
            pre { (block_end(&proof.output_tail)) }
        }
    }
}

fn commit(view: &TestView) -> Markup {
    let hash = view.test.commit_hash.as_deref().unwrap_or_default();
    html! {
        p { a.id href={ "/why/" (hash) } { (short(hash)) } " " span.quiet { "why it landed" } }
        details.lazy id="difference" data-src={ "/part/commit/" (hash) } { summary { "The difference" } div {} }
    }
}

fn unlanded(work: &Unlanded) -> Markup {
    html! {
        p {
            span.id { (short(&work.commit)) } " "
            span.quiet {
                @match &work.reason {
                    None => { "in the landing train, " (since(work.since)) },
                    Some(reason) => { "saved " (at(work.since)) ": " (line(reason)) },
                }
            }
        }
        details.lazy id="unlanded" data-src={ "/part/work/" (line(&work.commit)) } { summary { "The difference" } div {} }
    }
}

fn events(view: &TestView) -> Markup {
    let left_out = view.events.len().saturating_sub(MAX_EVENTS);
    html! {
        @if view.events.is_empty() { (nothing("Nothing yet.")) }
        ol.story {
            @for event in view.events.iter().rev().take(MAX_EVENTS) {
                li { (at(event.timestamp)) " " a href={ "/why/" (event.id) } { (sentence(event)) } }
            }
        }
        @if left_out > 0 { p.quiet { a href={ "/story?test=" (view.test.id) } { "Older ones" } } }
    }
}
