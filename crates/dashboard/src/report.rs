//! The morning report: one file that needs nothing else, with the picture of the period.

use coord_db::{dollars, short_id};
use maud::{DOCTYPE, Markup, PreEscaped, html};
use views::broke::Broke;
use views::questions::options;
use views::report::{Landed, Report};
use views::sentence::{list, short};
use views::when::{clock, span};

use crate::html::{badge, line, number};
use crate::picture::{self, Look};

const STYLE: &str = include_str!("report.css");
/// The width of the picture; it scrolls on a narrow screen.
const WIDTH: u32 = 1080;

/// The report as a document. What comes from the database stands in it as text.
#[must_use]
pub fn report(report: &Report, repository: &str) -> String {
    let period = format!("{} to {}", clock(report.since), clock(report.until));
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                // A reader's browser loads and runs nothing, whatever the rows say.
                meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'";
                meta name="referrer" content="no-referrer";
                title { (line(repository)) ": " (period) }
                style { (PreEscaped(picture::STYLE)) (PreEscaped(STYLE)) }
            }
            body {
                header {
                    h1 { (line(repository)) }
                    p.quiet { (period) " (" (span(report.until.seconds_since(report.since))) ")" }
                }
                main {
                    (figures(report))
                    (waiting(report))
                    section {
                        h2 { "What each loop did" }
                        div.drawing { (picture::lanes(&report.lanes, Look { width: WIDTH, links: false })) }
                    }
                    (landed(&report.landed))
                    (broke(&report.broke))
                    (cost(report))
                    (odd(report))
                }
            }
        }
    }
    .into_string()
}

fn figures(report: &Report) -> Markup {
    let (tests, again) = report.landed_tests();
    let used = &report.cost.total.used;
    let waiting = &report.waiting;
    html! {
        dl.figures {
            div { dt { "tests landed" } dd.good { (tests) @if again > 0 { small { " +" (again) " again" } } } }
            div { dt { "waits for you" } dd.ask[waiting.questions.len() + waiting.alerts.len() > 0] { (waiting.questions.len() + waiting.alerts.len()) } }
            div { dt { "blocked" } dd.bad[!waiting.blocked.is_empty()] { (waiting.blocked.len()) } }
            div { dt { "broke" } dd.bad[!report.broke.is_empty()] { (report.broke.len()) } }
            div { dt { "tokens" } dd { (number(used.tokens_estimated)) } }
            @if used.cost_microusd > 0 { div { dt { "cost" } dd { (dollars(used.cost_microusd)) } } }
        }
    }
}

fn waiting(report: &Report) -> Markup {
    let waiting = &report.waiting;
    let is_quiet =
        waiting.questions.is_empty() && waiting.alerts.is_empty() && waiting.blocked.is_empty() && waiting.holds.is_empty();
    html! {
        section {
            h2 { "Waits for you" }
            @if is_quiet { p.quiet { "Nothing." } }
            ul {
                @for question in &waiting.questions {
                    li {
                        (badge("ask", "question")) " " b { (line(&question.row.summary)) }
                        p.quiet { (line(&question.state(report.until))) }
                        ul {
                            @for (id, what) in options(&question.row) {
                                li { code { "loopctl decide " (line(short_id(question.row.id.as_str()))) " " (line(&id)) } " " (line(&what)) }
                            }
                        }
                    }
                }
                @for alert in &waiting.alerts {
                    li { (badge("problem", alert.severity.as_str())) " " (line(&alert.message)) }
                }
                @for test in &waiting.blocked {
                    li {
                        (badge("bad", test.status.as_str())) " " b { (line(test.id.as_str())) } " of " (line(test.loop_id.as_str()))
                        @if let Some(error) = &test.last_error { ": " (line(error)) }
                    }
                }
                @for hold in &waiting.holds {
                    li {
                        (badge("warning", "on hold")) " " (line(&hold.subject)) " starts no attempt until "
                        (hold.until.map_or_else(|| "your answer".to_owned(), clock)) ": " (line(&hold.reason))
                    }
                }
            }
        }
    }
}

fn landed(rows: &[Landed]) -> Markup {
    html! {
        section {
            h2 { "Landed" }
            @if rows.is_empty() { p.quiet { "Nothing." } } @else {
                div.table { table.cards {
                    thead { tr { th { "test" } th { "what" } th { "loop" } th { "verified by" } th.right { "attempt" } th.right { "tokens" } th.right { "cost" } th { "proof" } } }
                    tbody {
                        @for row in rows {
                            tr {
                                th scope="row" { (line(row.test_id.as_str())) }
                                td { (line(&row.title)) }
                                td data-label="loop" { (line(row.loop_id.as_str())) }
                                td data-label="verified by" { (line(&list(&row.checks))) }
                                td.right data-label="attempt" { (row.attempt) }
                                td.right data-label="tokens" { @if row.is_last { (number(row.tokens_estimated)) } @else { span.quiet { "landed again later" } } }
                                td.right data-label="cost" { @if row.cost_microusd > 0 { (dollars(row.cost_microusd)) } @else { "–" } }
                                td data-label="proof" { code { "loopctl why " (short(&row.commit)) } }
                            }
                        }
                    }
                } }
            }
        }
    }
}

fn broke(rows: &[Broke]) -> Markup {
    html! {
        @if !rows.is_empty() {
            section {
                h2 { "Broke" }
                ul {
                    @for Broke { row, passes_again_at, mended_by, mended_with, .. } in rows {
                        li {
                            b { (line(row.test_id.as_str())) } " fails check " (line(&row.check_name))
                            @if let Some(by) = &row.blamed_loop { ", broken by " b { (line(by)) } }
                            @if let Some(commit) = &row.first_bad_commit { " with " code { (short(commit)) } }
                            "; "
                            @match (mended_by, mended_with, passes_again_at) {
                                (Some(by), Some(commit), _) => { (badge("good", "mended")) " by " b { (line(by.as_str())) } " with " code { (short(commit)) } },
                                (_, _, Some(commit)) => { (badge("good", "passes again")) " at " code { (short(commit)) } },
                                _ => { (badge("bad", row.status.as_str())) },
                            }
                        }
                    }
                }
            }
        }
    }
}

fn cost(report: &Report) -> Markup {
    let groups = [("loop", &report.cost.by_loop), ("model", &report.cost.by_model)];
    let total = &report.cost.total;
    html! {
        section {
            h2 { "Cost" }
            @if let Some(each) = total.tokens_per_passed {
                p { "For each verified test " (number(each)) " tokens"
                    @if total.used.cost_microusd > 0 { " and " (dollars(total.used.cost_microusd / total.passed.max(1))) } "." }
            }
            @for (what, lines) in groups {
                @if lines.iter().any(|line| !line.used.key.is_empty()) {
                    div.table { table.cards {
                        thead { tr { th { (what) } th.right { "cost" } th.right { "tokens" } th.right { "time" } th.right { "verified" } th.right { "lost to others" } th.right { "cost others" } } }
                        tbody {
                            @for row in lines {
                                tr {
                                    th scope="row" { @if row.used.key.is_empty() { "–" } @else { (line(&row.used.key)) } }
                                    td.right data-label="cost" { @if row.used.cost_microusd > 0 { (dollars(row.used.cost_microusd)) } @else { "–" } }
                                    td.right data-label="tokens" { (number(row.used.tokens_estimated)) }
                                    td.right data-label="time" { (span(row.used.duration_seconds)) }
                                    td.right data-label="verified" { (row.passed) }
                                    td.right data-label="lost to others" { (number(row.rework_suffered_tokens)) }
                                    td.right data-label="cost others" { (number(row.rework_caused_tokens)) }
                                }
                            }
                        }
                    } }
                }
            }
        }
    }
}

fn odd(report: &Report) -> Markup {
    html! {
        @if !report.odd.is_empty() {
            section {
                h2 { "Unusual" }
                ul.story {
                    @for odd in &report.odd {
                        li { span.quiet { (clock(odd.at)) } " " (line(&odd.sentence)) }
                    }
                }
            }
        }
    }
}
