//! What it costs: tokens, money and time by loop, test, agent, model and hour; rework and who caused it; budgets and limits.

use coord_db::{ReworkCause, Timestamp, UsageLine};
use maud::{Markup, html};
use views::cost::{Cost, budget_words};
use views::when::span;

use super::{Address, Part, section};
use crate::html::{at, line, meter, money, named_test, nothing, number, share, until};

/// Rework that is shown, the newest.
const MAX_REWORK: usize = 30;

/// The time that is added up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Period(&'static str, i64);

const PERIODS: [Period; 4] = [Period("8h", 28_800), Period("24h", 86_400), Period("7d", 604_800), Period("all", 0)];

impl Period {
    /// The period of this name, else a day.
    #[must_use]
    pub fn of(name: Option<&str>) -> Self {
        PERIODS.into_iter().find(|period| Some(period.0) == name).unwrap_or(PERIODS[1])
    }

    /// Its beginning, on the full minute; none for all.
    #[must_use]
    pub fn since(self, now: Timestamp) -> Option<Timestamp> {
        let millis = (now.as_millis() - self.1 * 1000).div_euclid(60_000) * 60_000;
        (self.1 > 0).then_some(Timestamp::from_millis(millis))
    }
}

/// The parts of the page.
#[must_use]
pub fn parts(view: &Cost, period: Period, address: &Address) -> Vec<Part> {
    vec![
        Part::new("total", total(view, period, address)),
        Part::new("limits", section("Budgets and limits", limits(view))),
        Part::new("hours", section("By hour", hours(view, address))),
        Part::new("by-loop", section("By loop", table("loop", &view.by_loop, |key| html! { (line(key)) }))),
        Part::new("rework", section("Rework", rework(view))),
        Part::new("by-agent", section("By agent", table("agent", &view.by_agent, |key| html! { (line(key)) }))),
        Part::new("by-model", section("By model", table("model", &view.by_model, |key| html! { (line(key)) }))),
        Part::new(
            "by-test",
            section(
                "By test",
                html! {
                    (table("test", &view.by_test, named_test))
                    @if view.tests_left_out > 0 { p.quiet { (view.tests_left_out) " cheaper ones: loopctl usage report" } }
                },
            ),
        ),
    ]
}

fn total(view: &Cost, period: Period, address: &Address) -> Markup {
    let all = &view.total;
    html! {
        div.heading {
            h2 { "Cost" }
            p.choices aria-label="Period" {
                @for known in PERIODS {
                    a href=(address.with("since", known.0)) aria-current=[(known == period).then_some("true")] { (known.0) }
                }
            }
        }
        dl.figures {
            div { dt { "money, where known" } dd { (money(all.used.cost_microusd)) } }
            div { dt { "tokens" } dd { (number(all.used.tokens_estimated)) } }
            div { dt { "agents' time" } dd { (span(all.used.duration_seconds)) } }
            div { dt { "verified tests" } dd { (number(all.passed)) } }
            div { dt { "tokens for each" } dd { (all.tokens_per_passed.map_or_else(|| "–".to_owned(), number)) } }
            div { dt { "money for each" } dd { (if all.passed > 0 { money(all.used.cost_microusd / all.passed) } else { "–".to_owned() }) } }
            div { dt { "tokens lost to rework" } dd { (number(view.rework.iter().map(|row| row.tokens_estimated).sum())) } }
        }
    }
}

fn limits(view: &Cost) -> Markup {
    html! {
        @if view.today.is_empty() && view.holds.is_empty() { (nothing("No budget of a day is set, and no agent is at a limit.")) }
        ul.plain.limits {
            @for used in &view.today {
                @let (name, amounts) = budget_words(used);
                li { span.name { (name) } (meter(used.percent)) span.quiet { (amounts) ", begins again in " (until(view.resets_at)) } }
            }
            @for hold in &view.holds {
                li.warn {
                    span.name { (line(&hold.subject)) } span { (hold.kind.as_str()) ": " (line(&hold.reason)) }
                    span.quiet {
                        @match hold.until {
                            Some(time) => { "tried again in " (until(time)) },
                            None => { "until you answer " a href="/questions" { "its question" } },
                        }
                    }
                }
            }
        }
    }
}

/// Tokens of each hour as bars.
fn hours(view: &Cost, address: &Address) -> Markup {
    const HEIGHT: f64 = 90.0;
    let most = view.by_hour.iter().map(|line| line.used.tokens_estimated).max().unwrap_or(0).max(1) as f64;
    let width = f64::from(address.width());
    let step = (width / view.by_hour.len().max(1) as f64).min(60.0);
    html! {
        @if view.by_hour.is_empty() { (nothing("Nothing was used.")) }
        @else {
            div.drawing {
                svg.picture.hours role="img" width=(address.width()) height="122" viewBox={ "0 0 " (address.width()) " 122" } {
                    title { "Tokens by hour" }
                    @for (n, line) in view.by_hour.iter().enumerate() {
                        @let height = (line.used.tokens_estimated as f64 / most * HEIGHT).max(1.0);
                        @let x = n as f64 * step;
                        rect.used x=(format!("{:.1}", x + 1.0)) y=(format!("{:.1}", 14.0 + HEIGHT - height)) width=(format!("{:.1}", (step - 2.0).max(1.0))) height=(format!("{height:.1}")) {
                            title { (line.used.key) ":00Z: " (number(line.used.tokens_estimated)) " tokens, " (money(line.used.cost_microusd)) ", " (line.passed) " verified" }
                        }
                        @if step > 34.0 || n % 6 == 0 {
                            text x=(format!("{:.1}", x + 2.0)) y="118" { (line.used.key.get(11..13).unwrap_or_default()) "h" }
                        }
                        @if line.passed > 0 && step > 26.0 {
                            text.passed x=(format!("{:.1}", x + 2.0)) y=(format!("{:.1}", 10.0 + HEIGHT - height)) { "✓" (line.passed) }
                        }
                    }
                }
            }
        }
    }
}

fn table(what: &str, lines: &[UsageLine], name: impl Fn(&str) -> Markup) -> Markup {
    let of_all = lines.iter().map(|line| line.used.tokens_estimated).sum::<i64>().max(1);
    let has_passes = lines.iter().any(|line| line.passed > 0) && what != "test";
    let has_rework = lines.iter().any(|line| line.rework_caused_tokens > 0 || line.rework_suffered_tokens > 0);
    html! {
        @if lines.is_empty() { (nothing("Nothing was used.")) }
        @else {
            div.scroll tabindex="0" {
                table {
                    thead {
                        tr {
                            th { (what) } th.right { "money" } th.right { "tokens" } th {} th.right { "time" }
                            @if has_passes { th.right { "verified" } th.right { "tokens each" } }
                            @if has_rework { th.right { "lost to others" } th.right { "caused" } }
                            th.right { "in" } th.right { "out" } th.right { "from cache" }
                        }
                    }
                    tbody {
                        @for line in lines {
                            tr {
                                th scope="row" { @if line.used.key.is_empty() { span.quiet { "not named" } } @else { (name(&line.used.key)) } }
                                td.right { (money(line.used.cost_microusd)) }
                                td.right { (number(line.used.tokens_estimated)) }
                                td.share { (share(line.used.tokens_estimated * 100 / of_all)) }
                                td.right { (span(line.used.duration_seconds)) }
                                @if has_passes { td.right { (line.passed) } td.right { (line.tokens_per_passed.map_or_else(|| "–".to_owned(), number)) } }
                                @if has_rework { td.right { (number(line.rework_suffered_tokens)) } td.right { (number(line.rework_caused_tokens)) } }
                                td.right { (number(line.used.input_tokens)) } td.right { (number(line.used.output_tokens)) } td.right { (number(line.used.cache_read_tokens)) }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn rework(view: &Cost) -> Markup {
    let cause = |cause: ReworkCause| format!("{cause:?}").to_lowercase();
    html! {
        @if view.rework.is_empty() { (nothing("None: no work was done again because of another.")) }
        @else {
            div.scroll tabindex="0" {
                table {
                    thead { tr { th { "test" } th { "of" } th { "because of" } th { "cause" } th.right { "tokens" } th.right { "time" } th { "when" } } }
                    tbody {
                        @for row in view.rework.iter().take(MAX_REWORK) {
                            tr {
                                th scope="row" { (crate::html::test(&row.test_id)) }
                                td { @if let Some(id) = &row.loop_id { (id) } @else { "–" } }
                                td { b { (row.charged_to) } }
                                td { a href={ "/why/" (row.event_id) } { (cause(row.cause)) } }
                                td.right { (number(row.tokens_estimated)) } td.right { (span(row.duration_seconds)) } td { (at(row.recorded_at)) }
                            }
                        }
                    }
                }
            }
        }
    }
}
