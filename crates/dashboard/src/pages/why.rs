//! Why something happened: the causes up to the root, the evidence, and everything that followed, as a tree.

use coord_db::{Event, short_id};
use maud::{Markup, html};
use views::sentence::{sentence, short};
use views::story::Story;

use super::story::urgency;
use super::{Part, section};
use crate::html::{at, badge, line, short_id as shown_id};

/// However deep a story is, it stays on the page.
const DEEPEST: usize = 12;
/// Effects that are shown.
const MAX_EFFECTS: usize = 400;

/// The parts of the page.
#[must_use]
pub fn parts(story: &Story) -> Vec<Part> {
    let mut parts = vec![Part::new("why", section("Why", tree(story)))];
    if story.evidence.is_some() {
        parts.push(Part::new("evidence", section("Evidence", evidence(story))));
    }
    parts
}

fn tree(story: &Story) -> Markup {
    let above = story.causes.len();
    let left_out = story.effects.len().saturating_sub(MAX_EFFECTS);
    html! {
        @if let Some(id) = &story.lost_cause { p.quiet { "Caused by " (short_id(id.as_str())) ", which is no longer in the database." } }
        ol.tree {
            @for (depth, cause) in story.causes.iter().enumerate() { (leaf(story, depth, cause)) }
            (leaf(story, above, &story.event))
            @for (depth, effect) in story.effects.iter().take(MAX_EFFECTS) { (leaf(story, above + depth, effect)) }
        }
        @if left_out > 0 { p.quiet { (left_out) " more: loopctl why " (line(story.short.get(story.event.id.as_str()))) } }
        @if let Some(id) = &story.event.correlation_id {
            p { a href={ "/story?story=" (line(id)) } { "The whole story, by time" } }
        }
    }
}

fn leaf(story: &Story, depth: usize, event: &Event) -> Markup {
    let is_it = event.id == story.event.id;
    html! {
        li class={ "depth-" (depth.min(DEEPEST)) " " (urgency(event)) } aria-current=[is_it.then_some("true")] {
            @if is_it { "▶ " }
            span.type { (line(&event.event_type)) } " "
            a href={ "/why/" (event.id) } { (sentence(event)) } " "
            span.quiet { "by " (line(&event.source)) ", " (at(event.timestamp)) ", " (shown_id(&story.short, event.id.as_str())) }
        }
    }
}

fn evidence(story: &Story) -> Markup {
    let Some(evidence) = &story.evidence else { return html! {} };
    html! {
        ul.plain.proofs {
            @for proven in &evidence.proofs { li { (super::test::one_proof(proven)) } }
            @if let Some(newest) = evidence.baselines.first() {
                li { (badge("good", "good")) " Last passed at " span.id { (short(&newest.commit_hash)) } ", " (at(newest.passed_at)) }
            }
            @for run in &evidence.cold { li { (badge("quiet", "cold")) " " (line(&views::proofs::cold_words(run))) } }
            @for row in &evidence.regressions {
                li {
                    (badge("warning", row.status.as_str())) " Check " (line(&row.check_name)) " fails at " span.id { (short(&row.bad_commit)) }
                    ", blamed: " (line(row.blamed_loop.as_deref().unwrap_or("nobody"))) ", " (at(row.detected_at))
                }
            }
        }
        @if let Some(hash) = story.event.payload["commit"].as_str() {
            details.lazy id="difference" data-src={ "/part/commit/" (line(hash)) } { summary { "The difference" } div {} }
        }
    }
}
