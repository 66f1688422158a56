//! What happened, in sentences, the newest first.

use coord_db::{Event, EventFilter};
use maud::{Markup, html};
use views::sentence::sentence;

use super::{Address, Part};
use crate::html::{at, line, nothing};

/// Events on one page.
pub const MAX_EVENTS: i64 = 150;

/// Types that are offered to filter by; others can be named in the address.
const TYPES: [&str; 18] = [
    "test_started",
    "test_passed",
    "test_failed",
    "test_blocked",
    "landing_queued",
    "batch_judged",
    "regression_detected",
    "regression_cleared",
    "decision_needed",
    "decision_resolved",
    "force_release",
    "file_conflict",
    "stuck_detected",
    "digression_detected",
    "resource_warning",
    "loop_paused",
    "synced",
    "component_degraded",
];

/// What the page is drawn from.
#[derive(Debug)]
#[allow(missing_docs)]
pub struct View<'a> {
    /// Oldest first.
    pub events: Vec<Event>,
    /// The loops.
    pub sources: Vec<String>,
    pub filter: &'a EventFilter,
    /// Why what was archived is not shown.
    pub missing: Option<String>,
}

/// The parts of the page.
#[must_use]
pub fn parts(view: &View<'_>, address: &Address) -> Vec<Part> {
    vec![Part::new("filter", filter(view, address)), Part::new("story", story(view, address))]
}

fn filter(view: &View<'_>, address: &Address) -> Markup {
    let supervisors = coord_db::SUPERVISORS.map(|each| each.id.to_owned());
    let choice = |name: &str, label: &str, options: &[String], chosen: Option<&str>| {
        html! {
            label {
                (label) " "
                select data-option=(name) id={ "f-" (name) } {
                    option value="" { "all" }
                    @for option in options { option value=(option) selected[chosen == Some(option.as_str())] { (line(option)) } }
                    @if let Some(other) = chosen.filter(|chosen| !options.iter().any(|option| option == chosen)) {
                        option value=(other) selected { (line(other)) }
                    }
                }
            }
        }
    };
    let sources: Vec<String> = view.sources.iter().cloned().chain(supervisors).collect();
    html! {
        h2 { "What happened" }
        p.filter {
            (choice("loop", "From", &sources, view.filter.source.as_deref()))
            (choice("type", "Type", &TYPES.map(str::to_owned), view.filter.event_type.as_deref()))
            label { "Test " input type="search" data-option="test" id="f-test" value=[view.filter.test_id.as_deref()] placeholder="id"; }
            @if address.options.keys().any(|name| name != "width") { a href="/story" { "Everything" } }
        }
    }
}

fn story(view: &View<'_>, address: &Address) -> Markup {
    html! {
        @if let Some(missing) = &view.missing { p.warn { "Archived events are not shown: " (line(missing)) } }
        @if view.events.is_empty() { (nothing("No events.")) }
        ol.story {
            @for event in view.events.iter().rev() {
                li class=(urgency(event)) {
                    (at(event.timestamp)) " " span.source { (line(&event.source)) } " "
                    a href={ "/why/" (event.id) } title=(line(&event.event_type)) { (sentence(event)) }
                }
            }
        }
        @if let Some(oldest) = view.events.first().filter(|_| view.events.len() as i64 >= MAX_EVENTS) {
            p { a href=(address.with("until", &oldest.timestamp.as_millis().to_string())) { "Older" } }
        }
    }
}

/// The class of an event: the more urgent, the louder.
#[must_use]
pub fn urgency(event: &Event) -> &'static str {
    match event.priority {
        ..=1 => "urgent",
        2 => "important",
        _ => "",
    }
}
