//! All tests as a grid: one cell for each, with a sign and a colour for its state.

use maud::{Markup, html};
use views::grid::{Cell, Grid, State};

use super::{Address, Part};
use crate::html::{line, nothing, shares};

/// The parts of the page; with a state, only tests in it.
#[must_use]
pub fn parts(view: &Grid, only: Option<State>, address: &Address) -> Vec<Part> {
    vec![Part::new("totals", totals(view, only, address)), Part::new("grid", grid(view, only))]
}

fn totals(view: &Grid, only: Option<State>, address: &Address) -> Markup {
    let all: usize = view.totals.values().sum();
    html! {
        div.heading {
            h2 { "Tests" }
            label.search { span.hidden { "Find a test" } input type="search" id="find" data-find="#part-grid" placeholder="Find a test"; }
        }
        p.choices.states aria-label="States" {
            a href=(address.with("state", "")) aria-current=[only.is_none().then_some("true")] { "all " (all) }
            @for state in State::ALL {
                @if let Some(number) = view.totals.get(&state) {
                    a href=(address.with("state", state.word())) aria-current=[(only == Some(state)).then_some("true")] {
                        span class={ "cell " (class(state)) } aria-hidden="true" { (sign(state)) } " " (state.word()) " " (number)
                    }
                }
            }
        }
    }
}

fn grid(view: &Grid, only: Option<State>) -> Markup {
    let shown = |cell: &&Cell| only.is_none_or(|state| cell.state == state);
    let is_empty = !view.loops.iter().any(|(_, cells)| cells.iter().any(|cell| shown(&cell)));
    html! {
        @if is_empty { (nothing("No tests here.")) }
        @for (loop_id, cells) in &view.loops {
            @let number = |state| cells.iter().filter(|cell| cell.state == state).count() as i64;
            @if cells.iter().any(|cell| shown(&cell)) {
                section.of-loop {
                    h3 {
                        a href={ "/story?loop=" (loop_id) } { (loop_id) }
                        span.quiet { " " (number(State::Passed)) "/" (cells.len()) }
                        (shares(&State::ALL.map(|state| (class(state), number(state)))))
                    }
                    ul.grid {
                        @for cell in cells.iter().filter(shown) {
                            li {
                                a href={ "/tests/" (cell.id) } title={ (cell.id) ": " (cell.state.word()) ", attempt " (cell.attempts) " of " (cell.max_attempts) (cell.notes.as_deref().map(|notes| format!("\n{}", line(notes))).unwrap_or_default()) } {
                                    span class={ "cell " (class(cell.state)) } { span aria-hidden="true" { (sign(cell.state)) } span.hidden { (cell.state.word()) } }
                                    span.id { (cell.id.as_str().strip_prefix(&format!("{loop_id}-")).unwrap_or(cell.id.as_str())) }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// The class of a state in the style sheet.
#[must_use]
pub fn class(state: State) -> &'static str {
    match state {
        State::Regressed => "regressed",
        State::Blocked => "blocked",
        State::Failed => "failed",
        State::Flaky => "flaky",
        State::Unknown => "unknown",
        State::InProgress => "in-progress",
        State::Queued => "queued",
        State::Pending => "pending",
        State::Passed => "passed",
        State::Skipped => "skipped",
    }
}

/// The sign of a state, so that it reads without colour.
#[must_use]
pub fn sign(state: State) -> &'static str {
    match state {
        State::Regressed => "!",
        State::Blocked => "■",
        State::Failed => "✗",
        State::Flaky => "~",
        State::Unknown => "?",
        State::InProgress => "▶",
        State::Queued => "◇",
        State::Pending => "·",
        State::Passed => "✓",
        State::Skipped => "–",
    }
}
