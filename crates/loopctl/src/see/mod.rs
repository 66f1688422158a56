//! Seeing: lists of rows, and the views that put them together.

pub mod agents;
pub mod checkpoints;
pub mod deadlocks;
pub mod journal;
pub mod landings;
pub mod ledger;
pub(crate) mod proofs;
pub mod report;
pub mod status;
pub mod summary;
pub mod test_status;
pub mod timeline;
pub mod watch;
pub mod why;
pub mod workspaces;

use coding_loop::shell_word;
use coord_db::{
    Alert, AlertType, Database, DecisionStatus, Error, HealthStatus, IdOf, ReadTx, Severity, TestStatus, Timestamp,
};
use serde_json::json;
use views::health::{healths, supervisors};
use views::ids::Short;
use views::questions::{Question, options, questions};
use views::sentence::{list, short};
use views::text::{brief, one_line, safe};
use views::when::{clock, span};

use crate::cli::TestFilter;
use crate::context::{Context, history};
use crate::exit::Outcome;
use crate::output::{Cell, Paint, Table, id_cell, painted, plain};

/// `loopctl health`
///
/// # Errors
/// What the database reports.
pub fn health(cx: &Context) -> Outcome {
    let (db, config) = cx.open_with_config()?;
    let (rows, now) = db.read(|tx| Ok::<_, Error>((healths(tx, &config)?, tx.now())))?;
    if cx.out.json {
        return cx.out.document(&rows);
    }
    let mut table = Table::new(&["COMPONENT", "HEALTH", "LAST HEARTBEAT", "PID", "VERSION", "SINCE"]);
    for health in &rows {
        let row = &health.row;
        let word = if health.verdict == HealthStatus::Unknown { "stopped" } else { health.verdict.as_str() };
        table.push(vec![
            plain(row.label()),
            painted(health_paint(health.verdict), word),
            plain(
                row.last_heartbeat.map_or_else(|| "never".to_owned(), |beat| format!("{} ago", span(now.seconds_since(beat)))),
            ),
            plain(row.identity().map_or_else(|| "-".to_owned(), |process| process.pid_and_host())),
            plain(row.version.as_deref().unwrap_or("-")),
            plain(row.started_at.map_or_else(|| "-".to_owned(), clock)),
        ]);
    }
    for (missing, _) in supervisors(&rows).iter().filter(|(_, health)| health.is_none()) {
        table.push(vec![
            plain(missing),
            painted(Paint::Dim, "never started"),
            plain("never"),
            plain("-"),
            plain("-"),
            plain("-"),
        ]);
    }
    cx.out.text(&table.render(&cx.out))
}

pub(crate) fn health_paint(verdict: HealthStatus) -> Paint {
    match verdict {
        HealthStatus::Healthy => Paint::Green,
        HealthStatus::Degraded => Paint::Yellow,
        HealthStatus::Dead => Paint::Red,
        HealthStatus::Unknown => Paint::Dim,
    }
}

pub(crate) fn status_paint(status: TestStatus) -> Paint {
    match status {
        TestStatus::Passed => Paint::Green,
        TestStatus::InProgress => Paint::Blue,
        TestStatus::Blocked | TestStatus::Failed => Paint::Red,
        TestStatus::Skipped => Paint::Dim,
        TestStatus::Pending => Paint::Plain,
    }
}

pub(crate) fn test_table(rows: &[coord_db::Test]) -> Table {
    Table::of(&["TEST", "LOOP", "STATUS", "ATTEMPTS", "AFTER", "NOTES"], rows, |row| {
        vec![
            plain(&row.id),
            plain(&row.loop_id),
            painted(status_paint(row.status), row.status.as_str()),
            plain(format!("{}/{}", row.attempts, row.max_attempts)),
            plain(row.depends_on.as_ref().map_or("-", |id| id.as_str())),
            plain(row.notes.as_deref().or(row.spec_content.as_deref()).unwrap_or("").lines().next().unwrap_or("")),
        ]
    })
}

/// `loopctl loops`
///
/// # Errors
/// What the database reports.
pub fn loops(cx: &Context) -> Outcome {
    let rows = cx.open()?.read(|tx| tx.loops())?;
    cx.out.list(&rows, "no loops; add one with loopctl loop add", |rows| {
        Table::of(&["LOOP", "STATUS", "PRIORITY", "TEST", "PID", "BRANCH", "NAME"], rows, |row| {
            vec![
                plain(&row.id),
                plain(row.status.as_str()),
                plain(row.priority.to_string()),
                plain(row.current_test_id.as_ref().map_or("-", |test| test.as_str())),
                plain(row.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string())),
                plain(row.branch.as_deref().unwrap_or("-")),
                plain(&row.name),
            ]
        })
    })
}

/// `loopctl tests`
///
/// # Errors
/// Exit 4 for an unknown loop.
pub fn tests(cx: &Context, filter: &TestFilter) -> Outcome {
    let db = cx.open()?;
    let rows = db.read(|tx| {
        if let Some(id) = &filter.loop_id {
            tx.loop_row(id)?;
        }
        tx.tests(filter.loop_id.as_ref(), filter.status)
    })?;
    cx.out.list(&rows, "no tests match; add tests with loopctl test add or loopctl test import", test_table)
}

/// `loopctl locks`
///
/// # Errors
/// What the database reports.
pub fn locks(cx: &Context, all: bool) -> Outcome {
    let db = cx.open()?;
    let (rows, edges, now) = db.read(|tx| Ok::<_, Error>((tx.leases(!all)?, tx.wait_edges()?, tx.now())))?;
    cx.out.list(&rows, "no leases", |rows| {
        Table::of(&["PATH", "LOOP", "TOKEN", "EXPIRES", "TEST", "WAITING", "REASON"], rows, |row| {
            let waiting: Vec<String> = edges
                .iter()
                .filter(|edge| edge.holder == row.locked_by && edge.resource.overlaps(&row.file_path))
                .filter(|edge| edge.wait_until.is_none_or(|until| until > now))
                .map(|edge| edge.waiter.clone())
                .collect();
            vec![
                plain(row.file_path.as_str()),
                plain(&row.locked_by),
                plain(row.fencing_token.to_string()),
                ends(row.expires_at, now),
                plain(row.test_id.as_ref().map_or("-", |id| id.as_str())),
                plain(if waiting.is_empty() { "-".to_owned() } else { list(&waiting) }),
                plain(row.lock_reason.as_deref().unwrap_or("")),
            ]
        })
    })
}

fn ends(at: Option<Timestamp>, now: Timestamp) -> Cell {
    match at {
        None => plain("never"),
        Some(at) if at > now => plain(format!("in {}", span(at.seconds_since(now)))),
        Some(at) => painted(Paint::Yellow, format!("expired {} ago", span(now.seconds_since(at)))),
    }
}

/// Rows with those that have been archived before them.
fn whole<T, I: Eq + std::hash::Hash>(
    db: &Database,
    read: impl Fn(&ReadTx<'_>) -> Result<Vec<T>, Error>,
    id: impl Fn(&T) -> I,
) -> Result<Vec<T>, Error> {
    let live = db.read(|tx| read(tx))?;
    history(db).list(live, read, id)
}

/// `loopctl conflicts`
///
/// # Errors
/// What the database reports.
pub fn conflicts(cx: &Context, all: bool) -> Outcome {
    let db = cx.open()?;
    let rows =
        if all { whole(&db, |tx| tx.conflicts(false), |row| row.id.clone())? } else { db.read(|tx| tx.conflicts(true))? };
    cx.out.list(&rows, "no conflicts", |rows| {
        Table::of(&["DETECTED", "FILE", "LOOPS", "GOES FIRST", "STATE"], rows, |row| {
            vec![
                plain(clock(row.detected_at)),
                plain(&row.file_path),
                plain(format!("{} and {}", row.loop_a, row.loop_b)),
                plain(row.winner.as_ref().map_or("-", |id| id.as_str())),
                plain(row.resolution.as_deref().unwrap_or("open")),
            ]
        })
    })
}

/// `loopctl regressions`
///
/// # Errors
/// What the database reports.
pub fn regressions(cx: &Context, all: bool) -> Outcome {
    let db = cx.open()?;
    let rows =
        if all { whole(&db, |tx| tx.regressions(false), |row| row.id.clone())? } else { db.read(views::ledger::standing)? };
    cx.out.list(&rows, "no regressions", |rows| {
        Table::of(&["DETECTED", "TEST", "CHECK", "STATE", "GOOD", "BAD", "FIRST BAD", "BLAMED"], rows, |row| {
            vec![
                plain(clock(row.detected_at)),
                plain(&row.test_id),
                plain(&row.check_name),
                plain(row.status.as_str()),
                plain(short(&row.last_good_commit)),
                plain(short(&row.bad_commit)),
                plain(row.first_bad_commit.as_deref().map_or_else(|| "unknown".to_owned(), short)),
                plain(row.blamed_loop.as_deref().unwrap_or("-")),
            ]
        })
    })
}

pub(crate) fn severity_paint(severity: Severity) -> Paint {
    match severity {
        Severity::Critical | Severity::Error => Paint::Red,
        Severity::Warning => Paint::Yellow,
        Severity::Info => Paint::Plain,
    }
}

fn alert_ids(tx: &ReadTx<'_>, rows: &[Alert]) -> Result<Short, Error> {
    Short::of(tx, IdOf::Alert, rows.iter().map(|row| row.id.as_str()))
}

fn alert_table(rows: &[Alert], short: &Short) -> Table {
    Table::of(&["ID", "SINCE", "SEVERITY", "TYPE", "STATE", "MESSAGE"], rows, |row| {
        let state = match (row.closed_at, row.acknowledged) {
            (Some(_), _) => "closed",
            (None, true) => "seen",
            (None, false) => "open",
        };
        vec![
            id_cell(short, &row.id),
            plain(clock(row.created_at)),
            painted(severity_paint(row.severity), row.severity.as_str()),
            plain(row.alert_type.as_str()),
            plain(state),
            plain(&row.message),
        ]
    })
}

/// `loopctl alerts`
///
/// # Errors
/// What the database reports.
pub fn alerts(cx: &Context, all: bool) -> Outcome {
    let db = cx.open()?;
    let rows = if all { whole(&db, |tx| tx.alerts(false), |row| row.id.clone())? } else { db.read(|tx| tx.alerts(true))? };
    let short = db.read(|tx| alert_ids(tx, &rows))?;
    cx.out.list(&rows, "no alerts", |rows| alert_table(rows, &short))
}

/// `loopctl stuck`: open alerts about loops without progress, and tests that no loop will take again by itself.
///
/// # Errors
/// What the database reports.
pub fn stuck(cx: &Context) -> Outcome {
    let db = cx.open()?;
    let (alerts, short, tests) = db.read(|tx| {
        let alerts: Vec<Alert> = tx.alerts(true)?.into_iter().filter(|alert| alert.alert_type == AlertType::Stuck).collect();
        let mut tests = tx.tests(None, Some(TestStatus::Blocked))?;
        tests.extend(tx.tests(None, Some(TestStatus::Failed))?);
        let short = alert_ids(tx, &alerts)?;
        Ok::<_, Error>((alerts, short, tests))
    })?;
    if cx.out.json {
        return cx.out.document(&json!({ "alerts": alerts, "tests": tests }));
    }
    if alerts.is_empty() && tests.is_empty() {
        return if cx.out.quiet { Ok(()) } else { cx.out.text("no loop is stuck and no test is blocked") };
    }
    let mut text = String::new();
    if !alerts.is_empty() {
        text.push_str(&alert_table(&alerts, &short).render(&cx.out));
    }
    if !tests.is_empty() {
        if !text.is_empty() {
            text.push('\n');
        }
        let table = Table::of(&["TEST", "LOOP", "STATUS", "ATTEMPTS", "CATEGORY", "LAST ERROR"], &tests, |row| {
            vec![
                plain(&row.id),
                plain(&row.loop_id),
                painted(status_paint(row.status), row.status.as_str()),
                plain(format!("{}/{}", row.attempts, row.max_attempts)),
                plain(row.error_category.map_or("-", |category| category.as_str())),
                plain(row.last_error.as_deref().unwrap_or("")),
            ]
        });
        text.push_str(&table.render(&cx.out));
        text.push_str("retry with loopctl reset TEST, or remove it with loopctl skip TEST\n");
    }
    cx.out.text(&text)
}

pub(crate) fn decision_ids(tx: &ReadTx<'_>, rows: &[Question]) -> Result<Short, Error> {
    Short::of(tx, IdOf::Decision, rows.iter().map(|question| question.row.id.as_str()))
}

/// `loopctl decisions`
///
/// # Errors
/// What the database reports.
pub fn decisions(cx: &Context, all: bool) -> Outcome {
    let db = cx.open()?;
    let rows =
        if all { whole(&db, |tx| tx.decisions(false), |row| row.id.clone())? } else { db.read(|tx| tx.decisions(true))? };
    let (rows, short) = db.read(|tx| {
        let rows = questions(tx, rows)?;
        let short = decision_ids(tx, &rows)?;
        Ok::<_, Error>((rows, short))
    })?;
    let now = db.now();
    if cx.out.json || rows.is_empty() {
        return cx.out.list(&rows, "no open questions", |_| Table::new(&[]));
    }
    let mut text = String::new();
    for question in &rows {
        text.push_str(&decision_block(cx, question, &short, now));
    }
    cx.out.text(&text)
}

/// A question with its answers, each with the command that gives it.
pub(crate) fn decision_block(cx: &Context, question: &Question, short: &Short, now: Timestamp) -> String {
    let row = &question.row;
    let state = question.state(now);
    let by = row.requested_by.as_deref().unwrap_or("unknown");
    let out = &cx.out;
    let mut text = marked(
        cx,
        Paint::Yellow,
        '?',
        &row.summary,
        &format!("({}, asked by {by}, {state})", row.decision_type),
        "loopctl decisions --json",
    );
    if row.status == DecisionStatus::Pending {
        for (id, description) in options(row) {
            let command = safe(&format!("loopctl decide {} {}", shell_word(short.get(row.id.as_str())), shell_word(&id)));
            let description = brief(&description);
            let line = format!("    {command}  {description}");
            if out.width.is_none_or(|width| line.chars().count() <= width) {
                text.push_str(&format!("    {}  {description}\n", out.paint(Paint::Blue, &command)));
            } else {
                text.push_str(&format!("    {}\n", out.paint(Paint::Blue, &command)));
                text.push_str(&out.folded("      ", Paint::Plain, &description));
            }
        }
    }
    text
}

/// What needs the human, behind a mark, and a remark; on one line if they fit. What is too long names the command that shows all.
pub(crate) fn marked(cx: &Context, paint: Paint, mark: char, what: &str, remark: &str, whole: &str) -> String {
    let out = &cx.out;
    let is_cut = brief(what).len() < one_line(what).len();
    let more = if is_cut { format!("; all of it: {whole}") } else { String::new() };
    let (mark, what, remark) = (out.paint(paint, &mark.to_string()), brief(what), format!("{}{more}", brief(remark)));
    if out.width.is_none_or(|width| what.chars().count() + remark.chars().count() + 4 <= width) {
        return format!("{mark} {}  {}\n", out.paint(Paint::Bold, &what), out.paint(Paint::Dim, &remark));
    }
    let what = out.folded("  ", Paint::Bold, &what);
    format!("{mark} {}{}", what.get(2..).unwrap_or_default(), out.folded("  ", Paint::Dim, &remark))
}
