//! `loopctl status`: how everything stands, on one page.

use std::path::Path;

use coord_db::{Alert, Config, Database, HealthStatus, IdOf, LoopProgress, ReadTx};
use views::ids::Short;
use views::overview::{LoopView, Overview, look};
use views::published::{Branch, Seen};
use views::runs::{self, RunView};
use views::sentence::list;
use views::text::{brief, safe};
use views::train;
use views::when::{clock, span};

use super::{decision_block, decision_ids, marked, proofs, severity_paint, test_status};
use crate::context::Context;
use crate::exit::{Failure, Outcome};
use crate::output::Paint;

/// `loopctl status [LOOP|TEST]`
///
/// # Errors
/// Exit 4 if the id is neither a loop nor a test.
pub fn show(cx: &Context, id: Option<&str>) -> Outcome {
    let (db, config) = cx.open_with_config()?;
    let mut seen = Seen::default();
    if cx.out.json {
        cx.out.document(&document(&db, &config, id, &mut seen)?)
    } else {
        cx.out.text(&page(cx, &db, &config, id, &mut seen)?)
    }
}

fn is_loop(tx: &ReadTx<'_>, id: Option<&str>) -> Result<bool, Failure> {
    let Some(id) = id else { return Ok(true) };
    if tx.find_loop(id)?.is_some() {
        return Ok(true);
    }
    if tx.find_test(id)?.is_some() { Ok(false) } else { Err(Failure::not_found("loop or test", id)) }
}

/// The published branch, where everything was asked for. Git is run before the database is read.
fn published(config: &Config, id: Option<&str>, seen: &mut Seen) -> Option<Branch> {
    if id.is_some() { None } else { seen.look(config).cloned() }
}

fn document(db: &Database, config: &Config, id: Option<&str>, seen: &mut Seen) -> Outcome<serde_json::Value> {
    let published = published(config, id, seen);
    let database = db.path().unwrap_or(Path::new("."));
    db.read(|tx| {
        let value = if is_loop(tx, id)? {
            serde_json::to_value(look(tx, database, config, id, published)?)
        } else {
            serde_json::to_value(views::test::look(tx, id.unwrap_or_default())?)
        };
        value.map_err(|error| Failure::No(format!("cannot print the rows as JSON: {error}; run loopctl check")))
    })
}

/// The page as text.
///
/// # Errors
/// As [`show`].
pub fn page(cx: &Context, db: &Database, config: &Config, id: Option<&str>, seen: &mut Seen) -> Outcome<String> {
    let published = published(config, id, seen);
    let database = db.path().unwrap_or(Path::new("."));
    db.read(|tx| {
        if is_loop(tx, id)? {
            let all = look(tx, database, config, id, published)?;
            let ids = decision_ids(tx, &all.decisions)?;
            let ids = ids.and(tx, IdOf::Alert, all.alerts.iter().map(|alert| alert.id.as_str()))?;
            Ok(overview(cx, &all, &ids))
        } else {
            Ok(test_status::page(cx, &views::test::look(tx, id.unwrap_or_default())?))
        }
    })
}

fn overview(cx: &Context, all: &Overview, short_ids: &Short) -> String {
    let mut text = String::new();
    if all.loops.is_empty() {
        text.push_str("no loops; add one with loopctl loop add\n");
    }
    let ids = all.loops.iter().map(|view| view.row.id.as_str().chars().count()).max().unwrap_or(0);
    for view in &all.loops {
        text.push_str(&loop_block(cx, view, all, ids));
        if let Some(tests) = view.tests.as_ref().filter(|tests| !tests.is_empty()) {
            text.push('\n');
            text.push_str(&super::test_table(tests).render(&cx.out));
        }
    }
    if let Some(branch) = &all.published
        && let Some(described) = branch.followed.as_ref().and_then(|followed| followed.describe())
    {
        text.push_str(&format!("\n{}\n", safe(&described)));
    }
    if !all.cold.is_empty() {
        text.push('\n');
        text.push_str(&proofs::cold_lines(cx, &all.cold, ""));
    }
    let train = train::lines(&all.landings, &all.landing_priorities, all.now);
    if !train.is_empty() {
        text.push_str(&heading(cx, "landing train"));
        text.extend(train.iter().map(|line| cx.out.folded("", Paint::Plain, line)));
    }
    text.push_str(&needs_you(cx, all, short_ids));
    text.push_str(&problems(cx, all));
    text.push_str(&hosts(cx, all));
    text.push_str(&supervisors(cx, all));
    text
}

/// What runs where, if there is more than one machine.
fn hosts(cx: &Context, all: &Overview) -> String {
    if all.hosts.len() < 2 {
        return String::new();
    }
    let width = all.hosts.iter().map(|host| host.name.chars().count()).max().unwrap_or(0);
    let lines = all.hosts.iter().map(|host| {
        cx.out.folded(&format!("{:width$}  ", host.name), super::health_paint(host.verdict), &brief(&host.describe(all.now)))
    });
    heading(cx, "machines") + &lines.collect::<String>()
}

fn state_paint(state: &str) -> Paint {
    match state {
        "running" | "by hand" => Paint::Green,
        "late" | "paused" => Paint::Yellow,
        "stopped" => Paint::Dim,
        _ => Paint::Red,
    }
}

fn loop_block(cx: &Context, view: &LoopView, all: &Overview, ids: usize) -> String {
    let (out, now) = (&cx.out, all.now);
    let p = &view.progress;
    let id = safe(view.row.id.as_str());
    let word = view.state(&all.components);
    let pad = " ".repeat(ids.saturating_sub(id.chars().count()));
    let bar_cells = out.width.map_or(20, |width| width.saturating_sub(ids + 40).clamp(6, 30));
    let mut counts = format!("{}/{}", p.passed, p.total);
    let mut marks = String::new();
    for (number, what, paint) in
        [(p.blocked, "blocked", Paint::Red), (p.failed, "failed", Paint::Red), (p.skipped, "skipped", Paint::Dim)]
    {
        if number > 0 {
            marks.push_str(&format!("  {}", out.paint(paint, &format!("{number} {what}"))));
        }
    }
    counts = format!("{counts:>7}");
    let mut text = format!(
        "{}{pad}  {}{}  {}{counts}{marks}\n",
        out.paint(Paint::Bold, &id),
        out.paint(state_paint(word), word),
        " ".repeat(7 - word.len()),
        bar(cx, p, bar_cells)
    );
    let indent = " ".repeat(ids + 2);
    let mut line = |paint: Paint, content: String| text.push_str(&out.folded(&indent, paint, &brief(&content)));
    if let Some(test) = &view.current_test {
        let age = test.last_attempt_at.map(|at| format!(", for {}", span(now.seconds_since(at)))).unwrap_or_default();
        let notes = test.notes.as_deref().map(|notes| format!(": {notes}")).unwrap_or_default();
        line(Paint::Plain, format!("works on {}, attempt {} of {}{age}{notes}", test.id, test.attempts, test.max_attempts));
    }
    // What a dead loop had running says nothing.
    if let (Some(RunView { run, .. }), true) = (&view.run, word != "dead") {
        let doing = run.progress.as_deref().map(|doing| format!(", {}", safe(doing))).unwrap_or_default();
        let what = runs::what(run);
        line(Paint::Plain, format!("{what}, for {}{doing}", span(now.seconds_since(run.started_at))));
    }
    if !view.leases.is_empty() {
        line(Paint::Plain, format!("holds {}", some(view.leases.iter().map(|lease| lease.file_path.to_string()).collect())));
    }
    for edge in &view.waits {
        let since = span(now.seconds_since(edge.waiting_since));
        line(Paint::Yellow, format!("waits for {} on {}, for {since}", edge.holder, edge.resource));
    }
    for hold in &view.holds {
        let until = hold.until.map_or_else(|| "your answer".to_owned(), clock);
        line(Paint::Yellow, format!("starts no attempt until {until}: {}", hold.reason));
    }
    for pause in &view.pauses {
        line(
            Paint::Yellow,
            format!("paused by {} for {}: {}", pause.requested_by, span(now.seconds_since(pause.since)), pause.reason),
        );
    }
    text
}

/// The first few of a list, and how many more there are.
fn some(items: Vec<String>) -> String {
    const SHOWN: usize = 6;
    match items.len() {
        0..=SHOWN => list(&items),
        all => format!("{} and {} more", items[..SHOWN].join(", "), all - SHOWN),
    }
}

/// Passed, in progress, blocked, failed, skipped, pending: each that there is has a cell at least.
fn bar(cx: &Context, p: &LoopProgress, cells: usize) -> String {
    let parts = [p.passed, p.in_progress, p.blocked, p.failed, p.skipped, p.pending];
    let looks =
        [('█', Paint::Green), ('▓', Paint::Blue), ('x', Paint::Red), ('!', Paint::Red), ('-', Paint::Dim), ('░', Paint::Dim)];
    apportion(parts, cells)
        .into_iter()
        .zip(looks)
        .map(|(cells, (mark, paint))| cx.out.paint(paint, &mark.to_string().repeat(cells)))
        .collect()
}

fn apportion(parts: [i64; 6], cells: usize) -> [usize; 6] {
    let parts = parts.map(|part| usize::try_from(part).unwrap_or(0));
    let total: usize = parts.iter().sum();
    if total == 0 {
        return [0, 0, 0, 0, 0, cells];
    }
    let mut shares = parts.map(|part| if part == 0 { 0 } else { (part * cells / total).max(1) });
    loop {
        let sum: usize = shares.iter().sum();
        if sum == cells {
            return shares;
        }
        // The largest part gives or takes the difference; it is seen least there.
        let (at, _) = shares.iter().enumerate().max_by_key(|(at, share)| (**share, parts[*at])).unwrap_or((0, &0));
        if sum > cells && shares[at] <= 1 {
            return shares;
        }
        if sum > cells { shares[at] -= 1 } else { shares[at] += 1 }
    }
}

fn heading(cx: &Context, text: &str) -> String {
    format!("\n{}\n", cx.out.paint(Paint::Bold, text))
}

fn needs_you(cx: &Context, all: &Overview, short_ids: &Short) -> String {
    let unseen: Vec<&Alert> = all.alerts.iter().filter(|alert| !alert.acknowledged).collect();
    if all.decisions.is_empty() && unseen.is_empty() {
        return String::new();
    }
    let mut text = heading(cx, "needs you");
    for row in &all.decisions {
        text.push_str(&decision_block(cx, row, short_ids, all.now));
    }
    for alert in unseen {
        let age = span(all.now.seconds_since(alert.created_at));
        text.push_str(&marked(
            cx,
            severity_paint(alert.severity),
            '!',
            &alert.message,
            &format!("({}, {age} ago)", alert.severity),
            "loopctl alerts --json",
        ));
        let command = safe(&format!("loopctl ack-alert {}", short_ids.get(&alert.id)));
        text.push_str(&format!("    {}\n", cx.out.paint(Paint::Blue, &command)));
    }
    text
}

fn problems(cx: &Context, all: &Overview) -> String {
    let lines = all.problems();
    if lines.is_empty() {
        return String::new();
    }
    let mut text = heading(cx, "problems");
    text.extend(lines.iter().map(|line| cx.out.folded("", Paint::Red, &brief(line))));
    text
}

fn supervisors(cx: &Context, all: &Overview) -> String {
    let mut text = String::from("\n");
    let mut used = 0;
    for (id, health) in views::health::supervisors(&all.components) {
        let (paint, word) = match health {
            Some(health) => {
                let age = health.row.last_heartbeat.map(|beat| span(all.now.seconds_since(beat))).unwrap_or_default();
                let word = match health.verdict {
                    HealthStatus::Healthy => "ok".to_owned(),
                    HealthStatus::Degraded => format!("late ({age})"),
                    HealthStatus::Dead => "dead".to_owned(),
                    HealthStatus::Unknown => "off".to_owned(),
                };
                (super::health_paint(health.verdict), word)
            }
            None => (Paint::Dim, "off".to_owned()),
        };
        let length = id.len() + 1 + word.chars().count();
        let before = match (used, cx.out.width) {
            (0, _) => "",
            (used, Some(width)) if used + 2 + length > width => {
                text.push('\n');
                ""
            }
            _ => "  ",
        };
        used = if before.is_empty() { length } else { used + 2 + length };
        text.push_str(&format!("{before}{id} {}", cx.out.paint(paint, &word)));
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::apportion;

    #[test]
    fn bars_are_full_and_show_every_part() {
        assert_eq!(apportion([0; 6], 20), [0, 0, 0, 0, 0, 20]);
        assert_eq!(apportion([10, 0, 0, 0, 0, 10], 20), [10, 0, 0, 0, 0, 10]);
        assert_eq!(apportion([1, 1, 1, 1, 1, 995], 20), [1, 1, 1, 1, 1, 15]);
        assert_eq!(apportion([1, 0, 0, 0, 0, 2], 20).iter().sum::<usize>(), 20);
        assert_eq!(apportion([5, 5, 5, 5, 5, 5], 6), [1; 6]);
    }
}
