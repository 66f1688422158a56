//! Questions to the human: what happened, the output, the difference, the options with what follows from them.

use coord_db::Decision;
use maud::{Markup, html};
use serde_json::Value;
use views::questions::{Question, options};

use super::{Part, section};
use crate::html::{at, badge, block, block_end, line, named_test, nothing, since, until};

/// Settled questions that are shown.
pub const MAX_SETTLED: usize = 20;
/// Files and other items of a list in the context.
const MAX_ITEMS: usize = 20;

/// What the page is drawn from.
#[derive(Debug)]
#[allow(missing_docs)]
pub struct View {
    pub open: Vec<Question>,
    pub settled: Vec<Question>,
    pub read_only: bool,
}

/// The parts of the page.
#[must_use]
pub fn parts(view: &View) -> Vec<Part> {
    vec![
        Part::new(
            "open",
            html! {
                h2 { "Open questions" }
                @if view.open.is_empty() { (nothing("No open questions. The loops ask here when they need a decision.")) }
                @if view.open.len() > 1 && !view.read_only {
                    div.several hidden {
                        p { b #chosen {} " chosen: " span #common {} }
                    }
                    p.quiet { "Choose several with the boxes to answer them at once." }
                }
                @for question in &view.open { (card(question, view)) }
            },
        ),
        Part::new("settled", section("Settled", settled(view))),
    ]
}

fn card(question: &Question, view: &View) -> Markup {
    let row = &question.row;
    let is_open = question.answered.is_none();
    let several = is_open && view.open.len() > 1 && !view.read_only;
    html! {
        article.question id={ "q-" (row.id) } {
            div.top {
                @if several {
                    input type="checkbox" id={ "c-" (row.id) } data-choose=(row.id) data-default=[row.default_option.as_deref()]
                        data-options=(Value::from(row.option_ids())) aria-label={ "Choose: " (line(&row.summary)) };
                }
                h3 { (line(&row.summary)) }
            }
            p.quiet {
                (line(&row.decision_type.replace('_', " "))) ", asked by " (line(row.requested_by.as_deref().unwrap_or("unknown"))) " "
                (since(row.requested_at)) " ago. "
                @if let Some(choice) = &question.answered {
                    b { "Answered with " (line(choice)) "; pm-agent applies it when it runs." }
                } @else {
                    (resolves(row))
                }
            }
            (context(row))
            @if is_open {
                ul.options {
                    @for (id, description) in options(row) {
                        @let is_default = row.default_option.as_deref() == Some(id.as_str());
                        li {
                            @if view.read_only { b { (line(&id)) } }
                            @else {
                                button.option data-answer=(row.id) data-option=(id) { (line(&id)) }
                            }
                            span { (line(&description)) @if is_default { " " (badge("quiet", "default")) } }
                        }
                    }
                }
                @if !view.read_only {
                    details id={ "n-" (row.id) } {
                        summary { "Add a comment" }
                        label { "Comment, sent with your answer" textarea id={ "t-" (row.id) } data-comment=(row.id) maxlength="2000" rows="2" {} }
                    }
                }
            }
        }
    }
}

fn resolves(row: &Decision) -> Markup {
    html! {
        @match (row.default_option.as_deref(), row.due_at()) {
            (Some(default), Some(due)) => { "Without an answer, " b { (line(default)) } " in " (until(due)) "." },
            (None, Some(due)) => { "Ends without a choice in " (until(due)) "." },
            (Some(default), None) => { "The default is " b { (line(default)) } "; it waits for your answer." },
            (None, None) => { "Waits for your answer." },
        }
    }
}

/// What is known about the matter. Keys that nobody has named here are shown as well: another tool can ask.
fn context(row: &Decision) -> Markup {
    let empty = serde_json::Map::new();
    let fields = row.context.as_object().unwrap_or(&empty);
    let text = |key: &str| fields.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
    let outputs: Vec<(String, String)> = match fields.get("output") {
        Some(Value::String(output)) => vec![(text("check").unwrap_or("output").to_owned(), output.clone())],
        Some(Value::Array(checks)) => checks.iter().map(output_of_check).collect(),
        _ => Vec::new(),
    };
    // What a person cannot use, or what is shown in another way.
    const LEFT_OUT: [&str; 16] = [
        "output",
        "check",
        "last_words",
        "tree",
        "base",
        "theirs",
        "ours",
        "resolved_event",
        "category",
        "check_hash",
        "hold",
        "fingerprint",
        "kind",
        "found",
        "last",
        "test_id",
    ];
    let others = fields.iter().filter(|(key, value)| !LEFT_OUT.contains(&key.as_str()) && !is_empty(value));
    html! {
        dl.facts {
            @if let Some(test) = text("test_id") { dt { "test" } dd { (named_test(test)) } }
            @for (key, value) in others.take(MAX_ITEMS) { dt { (line(&key.trim_end_matches("_id").replace('_', " "))) } dd { (fact(value)) } }
        }
        @if let Some(words) = text("last_words") { p.quiet { "The agent's last words" } pre { (block(words)) } }
        @for (name, output) in &outputs {
            p.quiet { "Output of " (line(name)) }
            pre tabindex="0" { (lines_that_matter(output)) }
        }
        @if super::fetched_difference(row).is_some() {
            details.lazy id={ "d-" (row.id) } data-src={ "/part/question/" (row.id) } { summary { "The difference" } div {} }
        }
    }
}

fn output_of_check(check: &Value) -> (String, String) {
    let text = |key: &str| check.get(key).and_then(Value::as_str).unwrap_or_default();
    let name = [text("check"), text("why")].into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>().join(": ");
    (name, text("tail").to_owned())
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

fn fact(value: &Value) -> Markup {
    match value {
        Value::String(text) => html! { (line(text)) },
        Value::Array(items) => {
            let shown = items.iter().take(MAX_ITEMS).map(|item| item.as_str().map_or_else(|| item.to_string(), str::to_owned));
            let more = items.len().saturating_sub(MAX_ITEMS);
            html! { (line(&shown.collect::<Vec<_>>().join(", "))) @if more > 0 { " and " (more) " more" } }
        }
        other => html! { (line(&other.to_string())) },
    }
}

/// The end of an output; lines that speak of a failure stand out.
fn lines_that_matter(output: &str) -> Markup {
    const SIGNS: [&str; 7] = ["error", "fail", "panic", "assert", "expected", "traceback", "not ok"];
    let text = block_end(output);
    let matters = |line: &str| {
        let line = line.to_ascii_lowercase();
        SIGNS.iter().any(|sign| line.contains(sign))
    };
    html! { @for line in text.lines() { @if matters(line) { mark { (line) } } @else { (line) } "\n" } }
}

fn settled(view: &View) -> Markup {
    html! {
        @if view.settled.is_empty() { (nothing("None yet.")) }
        ul.plain {
            @for Question { row, .. } in &view.settled {
                li {
                    (line(&row.summary)) " → " b { (line(row.choice.as_deref().unwrap_or("no choice"))) } " "
                    span.quiet {
                        (row.status.as_str().replace('_', " "))
                        @if let Some(by) = &row.decided_by { ", " (line(by)) }
                        @if let Some(time) = row.decided_at { ", " (at(time)) }
                        @if let Some(comment) = &row.comment { ": " (line(comment)) }
                    }
                }
            }
        }
    }
}
