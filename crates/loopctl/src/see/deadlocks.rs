//! `loopctl deadlocks`: who waits for whom, which of them can never go on, which victims were chosen, and what became of it.

use std::collections::{BTreeMap, BTreeSet};

use coord_db::{Deadlock, DeadlockOutcome, Decision, DecisionStatus, Error, IdOf, ReadTx, Timestamp, WaitKind, WaitNode};
use deadlock_detector::picture::{Matter, Picture, ShownCycle, ShownWait, picture};
use serde_json::{Value, json};
use views::ids::Short;
use views::sentence::{count, list};
use views::text::{one_line, safe, wrapped};
use views::when::{clock, span};

use super::whole;
use crate::context::Context;
use crate::exit::Outcome;
use crate::output::Paint;

/// How far back what is over is shown without `--all`.
const RECENT_SECONDS: i64 = 24 * 3600;
/// Maximum number of lines that are drawn.
const MAX_LINES: usize = 200;
/// Maximum indentation of a line, in characters.
const MAX_INDENT: usize = 48;
/// Maximum number of steps that are drawn of one cycle.
const MAX_STEPS: usize = 24;
/// What text has beside a branch at least, in characters.
const MIN_ROOM: usize = 24;

/// Questions that nobody waits for: what they are about goes on meanwhile.
const HOLDING_NOBODY: [&str; 3] = ["stuck", "regression", "knowledge"];

/// A question that keeps somebody waiting.
struct Asked {
    decision: Decision,
    waiter: WaitNode,
}

struct Seen {
    picture: Picture,
    asked: Vec<Asked>,
    /// Of the change requests in the picture.
    short: Short,
    now: Timestamp,
}

/// `loopctl deadlocks`
///
/// # Errors
/// What the database reports.
pub fn show(cx: &Context, all: bool) -> Outcome {
    let (db, config) = cx.open_with_config()?;
    let seen = db.read(|tx| {
        let picture = picture(tx, &config.deadlock)?;
        let waits = picture.waits.iter().filter_map(|wait| match &wait.matter {
            Matter::Other(WaitKind::Leave { request_id, .. }) => Some(request_id.as_str()),
            _ => None,
        });
        let named = picture.cycles.iter().flat_map(|circle| &circle.requests).map(String::as_str).chain(waits);
        let short = Short::of(tx, IdOf::ChangeRequest, named)?;
        Ok::<_, Error>(Seen { asked: asked(tx, &picture)?, picture, short, now: tx.now() })
    })?;
    let rows = if all {
        whole(&db, |tx| tx.deadlocks_since(Timestamp::from_millis(0)), |row| row.id.clone())?
    } else {
        db.read(|tx| {
            let mut rows = tx.deadlocks_since(tx.now().plus_seconds(-RECENT_SECONDS))?;
            let open = tx.open_deadlocks()?;
            rows.extend(open.into_iter().filter(|row| row.detected_at < tx.now().plus_seconds(-RECENT_SECONDS)));
            Ok::<_, Error>(rows)
        })?
    };
    let (open, over): (Vec<Deadlock>, Vec<Deadlock>) = rows.into_iter().partition(|row| row.resolved_at.is_none());
    if cx.out.json {
        return cx.out.document(&entries(&seen, &open, &over));
    }
    let nothing = seen.picture.waits.iter().all(|wait| !wait.alive) && seen.asked.is_empty() && open.is_empty();
    if nothing && cx.out.quiet {
        return Ok(());
    }
    let mut text = if nothing { "no waits and no deadlocks\n".to_owned() } else { drawing(cx, &seen, &open) };
    text.push_str(&history(cx, &over, all));
    cx.out.text(&text)
}

/// The tests or loops that wait for an open question.
fn asked(tx: &ReadTx<'_>, picture: &Picture) -> Result<Vec<Asked>, Error> {
    let shown: BTreeSet<&str> = picture
        .waits
        .iter()
        .filter_map(|wait| match &wait.matter {
            Matter::Other(WaitKind::Leave { request_id, .. }) => Some(request_id.as_str()),
            _ => None,
        })
        .collect();
    let mut asked = Vec::new();
    for decision in tx.decisions(true)? {
        let text = |key: &str| decision.context.get(key).and_then(Value::as_str);
        if HOLDING_NOBODY.contains(&decision.decision_type.as_str()) {
            continue;
        }
        if text("request_id").is_some_and(|id| shown.contains(id)) {
            continue;
        }
        let test = match text("test_id") {
            Some(id) => {
                tx.find_test(id)?.map(|test| WaitNode::Test { id: test.id.to_string(), loop_id: test.loop_id.to_string() })
            }
            None => None,
        };
        let waiter = test.or_else(|| text("loop_id").or(text("requestor_loop")).map(|id| WaitNode::Loop(id.to_owned())));
        asked.extend(waiter.map(|waiter| Asked { decision, waiter }));
    }
    Ok(asked)
}

/// Everything as one list: open deadlocks, circles, waits, what is over.
fn entries(seen: &Seen, open: &[Deadlock], over: &[Deadlock]) -> Vec<Value> {
    let entry = |kind: &str, mut value: Value| {
        if let Value::Object(fields) = &mut value {
            fields.insert("entry".to_owned(), json!(kind));
        }
        value
    };
    let ends = |name: &str, node: &WaitNode| match node {
        WaitNode::Loop(id) => [(name.to_owned(), json!(id)), (format!("{name}_test"), Value::Null)],
        WaitNode::Test { id, loop_id } => [(name.to_owned(), json!(loop_id)), (format!("{name}_test"), json!(id))],
    };
    let mut all: Vec<Value> = open.iter().map(|row| entry("deadlock", json!(row))).collect();
    all.extend(seen.picture.cycles.iter().enumerate().map(|(at, circle)| {
        let value = json!({
            "circle": at + 1, "loops": circle.loops, "tests": circle.tests, "requests": circle.requests,
            "victims": circle.deadlocks.iter().map(|row| row.victim.as_str()).collect::<Vec<_>>(),
            "deadlock_ids": circle.deadlocks.iter().map(|row| row.id.as_str()).collect::<Vec<_>>(),
            "decision_id": circle.question.as_ref().map(|decision| &decision.id),
        });
        entry("circle", value)
    }));
    all.extend(seen.picture.waits.iter().map(|wait| {
        let mut value = json!({
            "waiting_since": wait.since, "wait_until": wait.until, "alive": wait.alive,
            "circle": wait.cycle.map(|circle| circle + 1),
        });
        let kind = match &wait.matter {
            Matter::Lease(resource) => json!({"kind": "lease", "resource": resource}),
            Matter::Other(kind) => json!(kind),
        };
        if let (Value::Object(fields), Value::Object(kind)) = (&mut value, kind) {
            fields.extend(kind);
            fields.extend(ends("waiter", &wait.waiter));
            fields.extend(ends("holder", &wait.holder));
        }
        entry("wait", value)
    }));
    all.extend(seen.asked.iter().map(|asked| {
        let decision = &asked.decision;
        let mut value = json!({
            "kind": "decision", "decision_id": decision.id, "decision_type": decision.decision_type,
            "waiting_since": decision.requested_at, "wait_until": decision.due_at(), "alive": true, "circle": null,
            "holder": "human", "holder_test": null,
        });
        if let Value::Object(fields) = &mut value {
            fields.extend(ends("waiter", &asked.waiter));
        }
        entry("wait", value)
    }));
    all.extend(over.iter().map(|row| entry("deadlock", json!(row))));
    all
}

fn name(node: &WaitNode) -> String {
    match node {
        WaitNode::Loop(id) => id.clone(),
        WaitNode::Test { id, loop_id } => format!("test {id} of {loop_id}"),
    }
}

/// What the wait is for, so that it can follow the name of who waits.
fn reason(wait: &ShownWait, short: &Short) -> String {
    let holder = name(&wait.holder);
    match &wait.matter {
        Matter::Lease(resource) => format!("waits for {holder} to release {resource}"),
        Matter::Other(WaitKind::Dependency) => format!("depends on {holder}"),
        Matter::Other(WaitKind::Leave { request_id, resource }) => {
            format!("needs the permission of {holder} to change {resource} (request {})", short.get(request_id))
        }
        Matter::Other(WaitKind::Turn { after: Some(after) }) => format!("is queued behind test {after} of {holder}"),
        Matter::Other(WaitKind::Turn { after: None }) => format!("is being worked on by {holder}"),
        Matter::Other(WaitKind::Landing) => "has finished work that waits to land".to_owned(),
        Matter::Other(WaitKind::Idle) => format!("can start no test before {holder}"),
    }
}

fn how_long(since: Timestamp, until: Option<Timestamp>, now: Timestamp) -> String {
    let most = until.filter(|until| *until > now).map(|until| format!(", for at most {} more", span(until.seconds_since(now))));
    format!("{}{}", span(now.seconds_since(since).max(0)), most.unwrap_or_default())
}

fn drawing(cx: &Context, seen: &Seen, open: &[Deadlock]) -> String {
    let Seen { picture, asked, short, now } = seen;
    let mut lines: Vec<String> = Vec::new();
    for (at, circle) in picture.cycles.iter().enumerate() {
        draw_circle(cx, seen, at, circle, &mut lines);
    }
    // A victim that is no longer in a cycle is released in a moment.
    let in_circles: BTreeSet<&str> =
        picture.cycles.iter().flat_map(|circle| &circle.deadlocks).map(|row| row.id.as_str()).collect();
    for row in open.iter().filter(|row| !in_circles.contains(row.id.as_str())) {
        lines.push(victim_line(cx, row, *now).trim_start().to_owned());
    }
    let mut waiting = draw_waits(cx, picture, asked, short, *now);
    if !waiting.is_empty() {
        if !lines.is_empty() {
            lines.push(String::new());
        }
        lines.push(cx.out.paint(Paint::Bold, "waits"));
        lines.append(&mut waiting);
    }
    if lines.len() > MAX_LINES {
        lines.truncate(MAX_LINES);
        lines.push("… more lines; --json shows all".to_owned());
    }
    lines.into_iter().map(|line| line + "\n").collect()
}

/// One line of the drawing: what must be seen in colour, then the rest. What does not fit goes on below the branch.
fn line(cx: &Context, before: &str, paint: Paint, text: &str, dim: &str) -> String {
    let room = cx.out.width.map_or(usize::MAX, |width| width.saturating_sub(before.chars().count()).max(MIN_ROOM));
    let continued: String = before.chars().map(|mark| if "├│┌".contains(mark) { '│' } else { ' ' }).collect();
    let mut lines = wrapped(&one_line(text), room);
    let last = lines.last().map_or(0, |line| line.chars().count());
    let beside = dim.is_empty() || last + 2 + dim.chars().count() <= room;
    for line in &mut lines {
        *line = cx.out.paint(paint, line);
    }
    let dim = cx.out.paint(Paint::Dim, &safe(dim));
    match lines.last_mut().filter(|_| beside) {
        Some(last) if !dim.is_empty() => *last = format!("{last}  {dim}"),
        Some(_) => {}
        None => lines.push(dim),
    }
    format!("{before}{}", lines.join(&format!("\n{continued}")))
}

fn draw_circle(cx: &Context, seen: &Seen, at: usize, circle: &ShownCycle, lines: &mut Vec<String>) {
    let Seen { picture, short, now, .. } = seen;
    let now = *now;
    if at > 0 {
        lines.push(String::new());
    }
    let who = match (circle.loops.len(), circle.tests.len()) {
        (0..=1, tests) if tests > 1 => format!("{tests} tests of {}", list(&circle.loops)),
        (loops, _) if loops > 8 => format!("{loops} loops"),
        _ => list(&circle.loops),
    };
    let head = format!("cycle {}: {who} wait for each other and cannot proceed", at + 1);
    lines.push(line(cx, "", Paint::Red, &head, ""));
    let steps = circle.shortest.len();
    for (place, wait) in circle.shortest.iter().take(MAX_STEPS).map(|at| &picture.waits[*at]).enumerate() {
        let before = if place == 0 { "  ┌▶ " } else { "  │  " };
        let is_victim = circle.deadlocks.iter().any(|row| WaitNode::Loop(row.victim.clone()) == wait.waiter);
        let paint = if is_victim { Paint::Yellow } else { Paint::Plain };
        let text = format!("{} {}", name(&wait.waiter), reason(wait, short));
        lines.push(line(cx, before, paint, &text, &how_long(wait.since, wait.until, now)));
    }
    if steps > MAX_STEPS {
        lines.push(format!("  │  … and {} more steps", steps - MAX_STEPS));
    }
    lines.push("  └──┘".to_owned());
    let inside = |(place, wait): &(usize, &ShownWait)| wait.cycle == Some(at) && !circle.shortest.contains(place);
    for (_, wait) in picture.waits.iter().enumerate().filter(inside) {
        let text = format!("{} {}", name(&wait.waiter), reason(wait, short));
        lines.push(line(cx, "     also ", Paint::Plain, &text, &how_long(wait.since, wait.until, now)));
    }
    for row in &circle.deadlocks {
        lines.push(victim_line(cx, row, now));
    }
    if let Some(decision) = &circle.question {
        let due = decision.due_at().map(|due| format!("; in {} the default is", span(due.seconds_since(now).max(0))));
        let default = decision.default_option.as_deref().unwrap_or("nothing");
        let text =
            format!("a question is open which one goes first, see loopctl decisions{} {default}", due.unwrap_or_default());
        lines.push(line(cx, "  ? ", Paint::Yellow, &text, ""));
    }
    if let Some(request) = circle.requests.first() {
        let text = format!("resolve it with loopctl request approve {}, or reject", short.get(request));
        lines.push(line(cx, "  ? ", Paint::Yellow, &text, ""));
    }
    if circle.deadlocks.is_empty() && circle.question.is_none() && circle.requests.is_empty() {
        let text = "no victim is chosen yet; check with loopctl health that deadlock-detector runs";
        lines.push(line(cx, "  ! ", Paint::Yellow, text, ""));
    }
}

/// The victim, and how long it has to release.
fn victim_line(cx: &Context, row: &Deadlock, now: Timestamp) -> String {
    let what = if row.locks.0.is_empty() { "its queued requests".to_owned() } else { list(&row.locks.0) };
    let left = row.revoke_at.seconds_since(now);
    let grace =
        if left > 0 { format!("within {}; then it is revoked", span(left)) } else { "now; its time is over".to_owned() };
    let text = format!(
        "victim {}: asked {} ago to release {what} {grace}",
        row.victim,
        span(now.seconds_since(row.detected_at).max(0))
    );
    line(cx, "  ! ", Paint::Yellow, &text, "")
}

/// Whom others wait for, each with those who wait for it below it, and so on. What is drawn as a circle is not drawn again.
fn draw_waits(cx: &Context, picture: &Picture, asked: &[Asked], short: &Short, now: Timestamp) -> Vec<String> {
    // A queue behind a current test is no news.
    let is_drawn = |wait: &&ShownWait| {
        let quiet = matches!(&wait.matter, Matter::Other(WaitKind::Idle | WaitKind::Turn { after: Some(_) }));
        wait.alive && wait.cycle.is_none() && !quiet
    };
    let mut behind: BTreeMap<&WaitNode, Vec<&ShownWait>> = BTreeMap::new();
    let mut waits_itself: BTreeSet<&WaitNode> = BTreeSet::new();
    for wait in picture.waits.iter().filter(is_drawn) {
        behind.entry(&wait.holder).or_default().push(wait);
        waits_itself.insert(&wait.waiter);
    }
    let mut lines = Vec::new();
    let mut drawn: BTreeSet<&WaitNode> = BTreeSet::new();
    for root in behind.keys().filter(|node| !waits_itself.contains(*node)) {
        lines.push(line(cx, "  ", Paint::Plain, &name(root), ""));
        // Each with what stands before it and whether it is the last of its row; nothing recurses.
        let mut next: Vec<(String, &ShownWait, bool)> = children(root, &behind, "  ");
        while let Some((before, wait, last)) = next.pop() {
            let again = !drawn.insert(&wait.waiter) && behind.contains_key(&wait.waiter);
            let note = if again { " (see above)" } else { "" };
            let text = format!("{} {}{note}", name(&wait.waiter), reason(wait, short));
            let branch = format!("{before}{}", if last { "└─ " } else { "├─ " });
            lines.push(line(cx, &branch, Paint::Plain, &text, &how_long(wait.since, wait.until, now)));
            if !again && lines.len() < MAX_LINES {
                let deeper = match (before.chars().count() < MAX_INDENT, last) {
                    (false, _) => before,
                    (true, true) => format!("{before}   "),
                    (true, false) => format!("{before}│  "),
                };
                next.extend(children(&wait.waiter, &behind, &deeper));
            }
        }
    }
    if !asked.is_empty() {
        lines.push("  you".to_owned());
    }
    for (at, Asked { decision, waiter }) in asked.iter().enumerate() {
        let branch = if at + 1 == asked.len() { "  └─ " } else { "  ├─ " };
        let text = format!("{} waits for your answer: {}", name(waiter), decision.summary);
        let due = match (decision.status, decision.due_at()) {
            (DecisionStatus::Pending, Some(due)) => format!(", {} left", span(due.seconds_since(now).max(0))),
            _ => String::new(),
        };
        let dim = format!("{}{due}", span(now.seconds_since(decision.requested_at).max(0)));
        lines.push(line(cx, branch, Paint::Plain, &text, &dim));
    }
    let dead = picture.waits.iter().filter(|wait| !wait.alive).count();
    if dead > 0 {
        let text = format!("{} not shown: no longer blocking", count(i64::try_from(dead).unwrap_or(i64::MAX), "edge"));
        lines.push(line(cx, "  ", Paint::Dim, &text, ""));
    }
    lines
}

fn children<'a>(
    holder: &WaitNode,
    behind: &BTreeMap<&'a WaitNode, Vec<&'a ShownWait>>,
    before: &str,
) -> Vec<(String, &'a ShownWait, bool)> {
    let waits = behind.get(holder).map_or(&[][..], Vec::as_slice);
    // The last one pushed is drawn first.
    waits.iter().enumerate().rev().map(|(at, wait)| (before.to_owned(), *wait, at + 1 == waits.len())).collect()
}

/// What is over, the newest last.
fn history(cx: &Context, over: &[Deadlock], all: bool) -> String {
    if over.is_empty() {
        return String::new();
    }
    let title = if all { "resolved" } else { "resolved in the last 24 hours" };
    let mut text = format!("\n{}\n", cx.out.paint(Paint::Bold, title));
    for row in over {
        let took = row.resolved_at.map_or(0, |at| at.seconds_since(row.detected_at).max(0));
        let how = match row.outcome {
            Some(DeadlockOutcome::Released) => format!("{} released its leases after {}", row.victim, span(took)),
            Some(DeadlockOutcome::Revoked) => {
                format!("{} did not respond; its leases were revoked after {}", row.victim, span(took))
            }
            Some(DeadlockOutcome::Dissolved) | None => {
                format!("the cycle dissolved after {}; {} was the victim", span(took), row.victim)
            }
        };
        let text_of = format!("{}  {}: {how}", clock(row.detected_at), list(&row.cycle.0));
        text.push_str(&line(cx, "  ", Paint::Plain, &text_of, &row.reason));
        text.push('\n');
    }
    text
}
