//! What happens now: what needs a person, the loops as lanes, who waits for whom, the landing train.

use std::collections::BTreeSet;

use coord_db::config::HeartbeatConfig;
use coord_db::{Alert, BatchOutcome, HealthStatus, LandingState, LoopId, LoopStatus, RunOutcome, Severity, Timestamp};
use maud::{Markup, html};
use views::cost::{Spent, left_words};
use views::health::Health;
use views::lanes::Lanes;
use views::overview::{LoopView, Overview};
use views::runs::what;
use views::sentence::{count, short};
use views::train::{Train, totals};

use super::{Address, Part, section};
use crate::html::{at, badge, block_end, line, money, named_test, nothing, number, shares, since, test, until};
use crate::picture::{Arrow, Look, lanes, waits};

/// Runs of checks on works put together that are shown.
pub const BATCHES: usize = 6;
/// Rows of a list before the rest is counted.
const MAX_ROWS: usize = 8;

/// The time that the lanes show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Period {
    seconds: i64,
    is_chosen: bool,
}

const PERIODS: [(&str, i64); 5] = [("15m", 900), ("1h", 3600), ("3h", 10_800), ("8h", 28_800), ("24h", 86_400)];

impl Period {
    /// The period of this name; without one, the shortest that shows everything, of at most three hours.
    #[must_use]
    pub fn of(name: Option<&str>, overview: &Overview) -> Self {
        if let Some((_, seconds)) = PERIODS.iter().find(|(known, _)| Some(*known) == name) {
            return Self { seconds: *seconds, is_chosen: true };
        }
        let oldest = overview.loops.iter().map(|view| view.row.created_at).min().unwrap_or(overview.now);
        let age = overview.now.seconds_since(oldest);
        let seconds = [300, 900, 3600].into_iter().find(|seconds| age <= *seconds).unwrap_or(10_800);
        Self { seconds, is_chosen: false }
    }

    /// True if the reader has chosen it. Otherwise the picture may begin with the work.
    #[must_use]
    pub fn is_chosen(self) -> bool {
        self.is_chosen
    }

    /// Its beginning.
    #[must_use]
    pub fn since(self, now: Timestamp) -> Timestamp {
        self.on_step(Timestamp::from_millis(now.as_millis() - self.seconds * 1000))
    }

    /// Its end, after now. It moves in steps of a few pixels, so that the picture does not change with each heartbeat.
    #[must_use]
    pub fn until(self, now: Timestamp) -> Timestamp {
        self.on_step(now.plus_millis(self.step()))
    }

    fn step(self) -> i64 {
        (self.seconds * 1000 / 300).max(1000)
    }

    fn on_step(self, time: Timestamp) -> Timestamp {
        Timestamp::from_millis(time.as_millis().div_euclid(self.step()) * self.step())
    }
}

/// What the page is drawn from.
#[derive(Debug)]
#[allow(missing_docs)]
pub struct View<'a> {
    pub overview: Overview,
    pub spent: Spent,
    pub lanes: Lanes,
    pub period: Period,
    pub train: Train,
    /// Checks that run, of which loop and since when.
    pub checks: Vec<(LoopId, String, Timestamp)>,
    pub heartbeat: &'a HeartbeatConfig,
    pub read_only: bool,
}

/// The parts of the page.
#[must_use]
pub fn parts(view: &View<'_>, address: &Address) -> Vec<Part> {
    vec![
        Part::new("spent", spent(view)),
        Part::new("needs", needs(view)),
        Part::new("lanes", lane_picture(view, address)),
        Part::new("loops", section("Loops", loop_list(view))),
        Part::new("waits", section("Who waits for whom", wait_graph(view, address))),
        Part::new("train", section("Landing train", landing_train(view))),
        Part::new("watch", section("Supervisors and checks", supervisors(view))),
    ]
}

/// What it has cost, and what is left, on one line.
fn spent(view: &View<'_>) -> Markup {
    let Spent { used, today, resets_at, limits } = &view.spent;
    let warned = |name: &str| view.overview.budgets.iter().any(|used| used.budget == name);
    html! {
        p.spent {
            a href="/cost" {
                "Cost so far: "
                b { @if used.cost_microusd > 0 { (money(used.cost_microusd)) ", " } (number(used.tokens_estimated)) " tokens" }
            }
            @if today.is_empty() { span.quiet { "no budget for a day is set" } }
            @else {
                span {
                    "Left today: "
                    @for (n, budget) in today.iter().enumerate() {
                        @if n > 0 { ", " }
                        b.warn[warned(budget.budget)] { (left_words(budget)) }
                    }
                    span.quiet { ", all again in " (until(*resets_at)) }
                }
            }
            @for hold in limits {
                span.warn {
                    (line(hold.agent().unwrap_or_default())) " is at a limit"
                    @if let Some(time) = hold.until { ", goes on in " (until(time)) }
                }
            }
        }
    }
}

fn needs(view: &View<'_>) -> Markup {
    let all = &view.overview;
    let open: Vec<_> = all.decisions.iter().filter(|question| question.answered.is_none()).collect();
    let answered = all.decisions.len() - open.len();
    let unseen: Vec<&Alert> = all.alerts.iter().filter(|alert| !alert.acknowledged).collect();
    let problems = all.problems();
    let is_quiet = open.is_empty() && unseen.is_empty() && problems.is_empty();
    html! {
        h2 { "Needs you" }
        @if is_quiet { (nothing(if view.overview.is_watched() { "Nothing. The loops go on by themselves." } else { "Nothing. No supervisor runs: start with loopctl up." })) }
        ul.needs {
            @for question in open.iter().take(MAX_ROWS) {
                li {
                    (badge("ask", "question"))
                    a.what href={ "/questions#q-" (question.row.id) } { (line(&question.row.summary)) }
                    span.quiet {
                        @match (&question.row.default_option, question.row.due_at()) {
                            (Some(default), Some(due)) => { (line(default)) " in " (until(due)) },
                            _ => { "waits for you, for " (since(question.row.requested_at)) },
                        }
                    }
                }
            }
            (more(open.len(), "question", Some("/questions")))
            @for alert in unseen.iter().take(MAX_ROWS) {
                li {
                    (badge(severity(alert.severity), alert.severity.as_str()))
                    span.what { (line(&alert.message)) " " span.quiet { "from " (line(&alert.source)) ", " (since(alert.created_at)) " ago" } }
                    @if !view.read_only {
                        button.small data-do="seen" data-body=(serde_json::json!({ "alert": alert.id })) { "Mark as seen" }
                    }
                }
            }
            (more(unseen.len(), "alert", None))
            @for problem in problems.iter().take(MAX_ROWS) { li { (badge("problem", "in the way")) span.what { (line(problem)) } } }
            (more(problems.len(), "problem", None))
        }
        @if answered > 0 { p.quiet { (count(answered as i64, "answer")) " given; pm-agent applies what was chosen" } }
    }
}

fn more(number: usize, what: &str, link: Option<&str>) -> Markup {
    let left = number.saturating_sub(MAX_ROWS);
    html! {
        @if left > 0 {
            li.more {
                @if let Some(link) = link { a href=(link) { (count(left as i64, what)) " more" } }
                @else { (count(left as i64, what)) " more" }
            }
        }
    }
}

fn severity(severity: Severity) -> &'static str {
    match severity {
        Severity::Info => "info",
        Severity::Warning => "warning",
        Severity::Error | Severity::Critical => "bad",
    }
}

fn lane_picture(view: &View<'_>, address: &Address) -> Markup {
    html! {
        div.heading {
            h2 { "Loops over time" }
            p.choices aria-label="Period" {
                @for (name, seconds) in PERIODS {
                    a href=(address.with("since", name)) aria-current=[(view.period.seconds == seconds).then_some("true")] { (name) }
                }
            }
        }
        @if view.lanes.lanes.is_empty() {
            (nothing("No loops yet. Add one with loopctl loop add."))
        } @else {
            div.drawing { (lanes(&view.lanes, Look { width: address.width(), links: true })) }
            p.legend aria-hidden="true" {
                span.key.working { "agent works" }
                span.key.gate { "checks run" }
                span.key.waiting { "waits" }
                span.key.paused { "paused" }
                span { b.landed { "✓" } " landed" }
                span { b.queued { "◇" } " queued" }
                span { b.failed { "✗" } " failed" }
                span { b.regressed { "!" } " broke a test" }
            }
        }
    }
}

fn loop_list(view: &View<'_>) -> Markup {
    let all = &view.overview;
    html! {
        @if all.loops.is_empty() { (nothing("No loops.")) }
        ul.loops {
            @for one in &all.loops { (one_loop(one, all, view.read_only)) }
        }
    }
}

fn one_loop(one: &LoopView, all: &Overview, read_only: bool) -> Markup {
    let progress = &one.progress;
    let state = one.state(&all.components);
    let kind = match state {
        "running" | "by hand" => "good",
        "late" | "paused" => "warning",
        "stopped" => "quiet",
        _ => "bad",
    };
    let body = serde_json::json!({ "loop": one.row.id });
    let numbers = [(progress.blocked, "blocked"), (progress.failed, "failed"), (progress.skipped, "skipped")];
    html! {
        li {
            span.name { a href={ "/story?loop=" (one.row.id) } { (one.row.id) } }
            (badge(kind, state))
            span.progress title={ (progress.passed) " of " (progress.total) " passed" } {
                (shares(&[
                    ("passed", progress.passed), ("in-progress", progress.in_progress), ("blocked", progress.blocked + progress.failed),
                    ("skipped", progress.skipped), ("pending", progress.pending),
                ]))
                span.ratio { (progress.passed) "/" (progress.total) }
            }
            span.doing {
                @for (number, what) in numbers { @if number > 0 { span.part { (number) " " (what) } } }
                @if let Some(current) = &one.current_test {
                    span.part {
                        (test(&current.id)) ", attempt " (current.attempts) " of " (current.max_attempts)
                        @if let Some(at) = current.last_attempt_at { ", " (since(at)) }
                    }
                }
                @if let Some(run) = one.run.as_ref().filter(|_| state != "dead") {
                    span.part {
                        (line(&what(&run.run))) ", " (since(run.run.started_at))
                        @if let Some(progress) = &run.run.progress { span.quiet { ": " (line(progress)) } }
                    }
                }
                @if !one.leases.is_empty() {
                    span.part.quiet title=(line(&one.leases.iter().map(|lease| lease.file_path.to_string()).collect::<Vec<_>>().join(", "))) {
                        "holds " (count(one.leases.len() as i64, "path"))
                    }
                }
                @for hold in &one.holds {
                    span.part.warn {
                        "starts no attempt "
                        @match hold.until {
                            Some(time) => { "for " (until(time)) },
                            None => { "until your answer" },
                        }
                        ": " (line(&hold.reason))
                    }
                }
                @for pause in &one.pauses {
                    span.part.warn { "paused by " (line(&pause.requested_by)) ", " (since(pause.since)) ": " (line(&pause.reason)) }
                }
            }
            @if !read_only {
                @if one.pauses.is_empty() && one.row.status != LoopStatus::Paused {
                    button.small data-do="pause" data-body=(body) aria-label={ "Pause " (one.row.id) } { "Pause" }
                } @else {
                    button.small data-do="resume" data-body=(body) aria-label={ "Resume " (one.row.id) } { "Resume" }
                }
            }
        }
    }
}

fn wait_graph(view: &View<'_>, address: &Address) -> Markup {
    let all = &view.overview;
    let edges: Vec<_> = all.loops.iter().flat_map(|one| &one.waits).collect();
    let arrow = |edge: &&coord_db::WaitEdge| Arrow {
        waiter: edge.waiter.clone(),
        holder: edge.holder.clone(),
        on: edge.resource.to_string(),
    };
    let paused: Vec<_> = all.loops.iter().flat_map(|one| &one.pauses).collect();
    let stuck: BTreeSet<String> = all.deadlocks.iter().flat_map(|row| row.cycle.0.iter().cloned()).collect();
    html! {
        @if edges.is_empty() && paused.is_empty() {
            (nothing("Nobody waits for another loop."))
        } @else if !edges.is_empty() {
            div.drawing { (waits(&edges.iter().map(arrow).collect::<Vec<_>>(), &stuck, Look { width: address.width(), links: true })) }
            ul.plain {
                @for edge in edges.iter().take(3 * MAX_ROWS) {
                    li { b { (line(&edge.waiter)) } " waits for " b { (line(&edge.holder)) } " on " code { (line(edge.resource.as_str())) } ", " (since(edge.waiting_since)) }
                }
                (more(edges.len().saturating_sub(2 * MAX_ROWS), "wait", None))
            }
        }
        @if !paused.is_empty() {
            ul.plain {
                @for pause in paused.iter().take(MAX_ROWS) {
                    li { b { (line(pause.loop_id.as_str())) } " is paused by " (line(&pause.requested_by)) ", " (since(pause.since)) ": " (line(&pause.reason)) }
                }
            }
        }
        @for row in &all.deadlocks {
            // What deadlock-detector writes says all of it.
            p.warn {
                @if row.reason.is_empty() {
                    "deadlock of " (line(&row.cycle.0.join(", "))) ": " (line(&row.victim)) " must release " (line(&row.locks.0.join(", ")))
                } @else { (line(&row.reason)) }
            }
        }
    }
}

fn landing_train(view: &View<'_>) -> Markup {
    let judged: Vec<_> = view.train.queue.iter().filter(|landing| landing.state == LandingState::Judging).collect();
    let queued: Vec<_> = view.train.queue.iter().filter(|landing| landing.state != LandingState::Judging).collect();
    let works = |list: &[&coord_db::Landing]| {
        html! {
            @for landing in list.iter().take(2 * MAX_ROWS) {
                li {
                    (test(&landing.test_id)) " " span.quiet { "of " (landing.loop_id) ", " (since(landing.queued_at)) }
                    @if landing.urgent { " " (badge("warning", "first")) }
                }
            }
            (more(list.len().saturating_sub(MAX_ROWS), "work", None))
        }
    };
    html! {
        p.quiet.hint {
            "Work whose checks pass waits here. The checks run once more on several works put together; if they pass, all of these land."
        }
        @if view.train.queue.is_empty() && view.train.batches.is_empty() { (nothing("Nothing has landed yet.")) }
        @if !view.train.queue.is_empty() || !view.checks.is_empty() {
            div.train {
                section {
                    h3 { "Waiting" span.quiet { " " (queued.len()) } }
                    @if queued.is_empty() { (nothing("none")) }
                    ul.plain { (works(&queued)) }
                }
                section.judged {
                    h3 { "Checked together" span.quiet { " " (judged.len()) } }
                    @if judged.is_empty() { (nothing("none")) }
                    ul.plain { (works(&judged)) }
                }
                section {
                    h3 { "Checks that run" span.quiet { " " (view.checks.len()) } }
                    @if view.checks.is_empty() { (nothing("none")) }
                    ul.plain {
                        @for (loop_id, name, at) in view.checks.iter().take(2 * MAX_ROWS) {
                            li { b { (line(name)) } " " span.quiet { "for " (loop_id) ", " (since(*at)) } }
                        }
                    }
                }
            }
        }
        @if !view.train.batches.is_empty() {
            div.scroll tabindex="0" {
                table {
                    caption.hidden { "The last runs of the checks on works put together" }
                    thead { tr { th { "Checked" } th { "Outcome" } th { "Works" } th.right { "Took" } th { "Landed as" } } }
                    tbody {
                        @for batch in &view.train.batches {
                            tr {
                                td { (at(batch.judged_at)) }
                                td {
                                    (badge(match batch.outcome { BatchOutcome::Passed => "good", BatchOutcome::Failed => "bad", BatchOutcome::Flaky => "warning" }, batch.outcome.as_str()))
                                }
                                td.wide {
                                    @if batch.tests.0.is_empty() { "the head of integration" }
                                    @for (n, id) in batch.tests.0.iter().take(MAX_ROWS).enumerate() { @if n > 0 { ", " } (named_test(id)) }
                                    @if batch.tests.0.len() > MAX_ROWS { " and " (batch.tests.0.len() - MAX_ROWS) " more" }
                                    @if let Some(check) = &batch.check_name {
                                        details { summary { (line(check)) ": " (line(&batch.why)) } pre { (block_end(&batch.output_tail)) } }
                                    }
                                }
                                td.right { @if batch.reused { span.quiet title="The checks had passed on the same files before, so they were not run again." { "passed before" } } @else { (views::when::span(batch.duration_ms / 1000)) } }
                                td { @if batch.landed_at.is_some() { a.id href={ "/why/" (batch.commit_hash) } { (short(&batch.commit_hash)) } } @else { "–" } }
                            }
                        }
                    }
                }
            }
            p.quiet.hint { (line(&totals(&view.train.totals))) }
        }
    }
}

fn supervisors(view: &View<'_>) -> Markup {
    let all = &view.overview;
    html! {
        ul.inline {
            @for (name, there) in views::health::supervisors(&all.components) { li { (name) " " (health(there, view.heartbeat)) } }
        }
        @if all.hosts.len() > 1 {
            ul.plain {
                @for host in &all.hosts { li { (line(&host.name)) ": " (line(&host.describe(all.now))) } }
            }
        }
        @if !all.cold.is_empty() {
            ul.plain {
                @for run in &all.cold {
                    li { (badge(if run.outcome == RunOutcome::Pass { "good" } else { "bad" }, "cold")) " " (line(&views::proofs::cold_words(run))) }
                }
            }
        }
        @if let Some(words) = all.published.as_ref().and_then(|branch| branch.followed.as_ref()?.describe()) { p.quiet { (line(&words)) } }
    }
}

/// The health of a component. The browser notices by itself when heartbeats stay away: nobody may be left to write that down.
fn health(health: Option<&Health>, limits: &HeartbeatConfig) -> Markup {
    let Some(health) = health else { return badge("quiet", "not started") };
    let (kind, word) = match health.verdict {
        HealthStatus::Healthy => ("good", "ok"),
        HealthStatus::Degraded => ("warning", "late"),
        HealthStatus::Dead => ("bad", "dead"),
        HealthStatus::Unknown => ("quiet", "unknown"),
    };
    let is_alive = matches!(health.verdict, HealthStatus::Healthy | HealthStatus::Degraded);
    let last = health.row.last_heartbeat.filter(|_| is_alive).map(Timestamp::as_millis);
    html! {
        span class={ "badge " (kind) } data-beat=[last] data-late=(limits.degraded_seconds) data-dead=(limits.dead_seconds) { (word) }
    }
}
