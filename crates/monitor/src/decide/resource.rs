//! Budgets, the database and the disk. Each level is reported once: a warning, an alert, and exhaustion, at which pm
//! stops work.

use coord_db::payload::{MICROUSD, ResourceWarning, amount};
use coord_db::process::host_name;
use coord_db::{AlertType, EventId, LoopId, LoopStatus, Severity, TestId, TestStatus, microusd};
use serde_json::{Value, json};

use super::{AlertEvent, Finding, Work};
use crate::observe::Disk;
use crate::snapshot::{LoopView, TestView, prefix};

const MEGABYTE: i64 = 1_000_000;
/// Free space below this is a warning …
const LOW_BYTES: i64 = 500 * MEGABYTE;
/// … and below this an alert; on a small disk a fifth and a twentieth of it.
const CRITICAL_BYTES: i64 = 100 * MEGABYTE;

/// The usage of one resource.
struct Measure<'a> {
    /// Part of the alert's fingerprint.
    key: String,
    /// Name of the resource in the event catalog.
    resource: &'static str,
    /// Name of the resource for the reader.
    of: String,
    current: i64,
    limit: i64,
    level: i64,
    /// An open alert is closed below this percentage.
    close_below_percent: i64,
    whose: Option<(&'a LoopId, &'a TestId)>,
    cause: Option<&'a EventId>,
}

pub(super) fn judge_loop(work: &mut Work<'_>, view: &LoopView) {
    for seen in &view.tests {
        spent(work, view, seen);
        seconds(work, view, seen);
    }
}

pub(super) fn judge_all(work: &mut Work<'_>) {
    let (at, budget) = (work.at, &work.config.budget);
    let day = &at.day;
    let measured = [
        ("tests_per_day", "tests", "tests of the day", at.tests_today, budget.tests_per_day),
        ("tokens_per_day", "tokens", "tokens of the day", at.used_today.tokens, budget.tokens_per_day),
        ("usd_per_day", MICROUSD, "budget of the day", at.used_today.microusd, microusd(budget.usd_per_day)),
    ];
    for (key, resource, of, current, limit) in measured {
        let level = level(work, current, limit);
        report(
            work,
            Measure {
                key: format!("{key}:{day}"),
                resource,
                of: of.to_owned(),
                current,
                limit,
                level,
                close_below_percent: work.config.budget.warn_percent,
                whose: None,
                cause: None,
            },
        );
        if level > 0 {
            work.plan.look_again(at.next_day);
        }
    }
    let limit = budget.database_megabytes.saturating_mul(MEGABYTE);
    report(
        work,
        Measure {
            key: "database".to_owned(),
            resource: "database_bytes",
            of: "bytes of the database".to_owned(),
            current: at.database_bytes,
            limit,
            level: level(work, at.database_bytes, limit),
            close_below_percent: budget.warn_percent - 5,
            whose: None,
            cause: None,
        },
    );
    if let Some(disk) = at.disk {
        report_disk(work, disk);
    }
}

fn percent(current: i64, limit: i64) -> i64 {
    i64::try_from(i128::from(current) * 100 / i128::from(limit.max(1))).unwrap_or(i64::MAX)
}

/// The percentages at which usage is reported.
fn steps(work: &Work<'_>) -> [i64; 3] {
    [work.config.budget.warn_percent, work.config.budget.alert_percent, 100]
}

fn level(work: &Work<'_>, current: i64, limit: i64) -> i64 {
    if limit <= 0 {
        return 0;
    }
    let used = percent(current, limit);
    let reached = steps(work).into_iter().enumerate().rev().find(|(_, step)| used >= *step);
    reached.map_or(0, |(place, _)| [1, 2, 3][place])
}

fn spent(work: &mut Work<'_>, view: &LoopView, seen: &TestView) {
    let budget = &work.config.budget;
    for (key, resource, of, current, limit) in [
        ("tokens_per_test", "tokens", "tokens", seen.spent.tokens, budget.tokens_per_test),
        ("usd_per_test", MICROUSD, "budget", seen.spent.microusd, microusd(budget.usd_per_test)),
    ] {
        report(
            work,
            Measure {
                key: format!("{key}:{}:{}", view.row.id, seen.test.id),
                resource,
                of: format!("{of} for test {}", seen.test.id),
                current,
                limit,
                level: level(work, current, limit),
                close_below_percent: work.config.budget.warn_percent,
                whose: Some((&view.row.id, &seen.test.id)),
                cause: seen.started.as_ref(),
            },
        );
    }
}

fn seconds(work: &mut Work<'_>, view: &LoopView, seen: &TestView) {
    let at = work.at;
    let limit = work.config.budget.minutes_per_test.saturating_mul(60);
    let key = format!("minutes_per_test:{}:{}", view.row.id, seen.test.id);
    if super::rests(at, view) {
        work.keep(&format!("{}{key}", prefix::RESOURCE));
        return;
    }
    let runs = view.row.status == LoopStatus::Running && seen.test.status == TestStatus::InProgress;
    let since = seen.attempt_since.filter(|_| runs).map(|since| view.excused_at.map_or(since, |rest| rest.max(since)));
    // The seconds recorded by the attempt are part of its elapsed time.
    let elapsed = since.map_or(0, |since| at.now.seconds_since(since).max(0)).max(seen.seconds_in_attempt);
    let current = seen.seconds.saturating_sub(seen.seconds_in_attempt).saturating_add(elapsed);
    if limit > 0 && since.is_some() {
        for step in steps(work) {
            let left = i128::from(limit) * i128::from(step) / 100 - i128::from(current);
            if left > 0 {
                work.plan.look_again(at.now.plus_seconds(i64::try_from(left).unwrap_or(i64::MAX).saturating_add(1)));
            }
        }
    }
    report(
        work,
        Measure {
            key,
            resource: "seconds",
            of: format!("seconds for test {}", seen.test.id),
            current,
            limit,
            level: level(work, current, limit),
            // An idle period can lower the value; that is not worth a report.
            close_below_percent: work.config.budget.warn_percent / 2,
            whose: Some((&view.row.id, &seen.test.id)),
            cause: seen.started.as_ref(),
        },
    );
}

fn report_disk(work: &mut Work<'_>, disk: Disk) {
    let low = LOW_BYTES.min(disk.total_bytes / 5);
    let level = match disk.free_bytes {
        free if free < CRITICAL_BYTES.min(disk.total_bytes / 20) => 2,
        free if free < low => 1,
        _ => 0,
    };
    let host = work.at.host.as_deref();
    let whose = host.map_or_else(String::new, |host| format!(" of {}", host_name(host)));
    let is_over = disk.free_bytes >= low.saturating_add(low / 5);
    report(
        work,
        Measure {
            key: host.map_or_else(|| "disk".to_owned(), |host| format!("disk:{host}")),
            resource: "disk_bytes",
            of: format!("bytes of the disk{whose} ({} MB free)", disk.free_bytes / MEGABYTE),
            current: disk.total_bytes.saturating_sub(disk.free_bytes),
            limit: disk.total_bytes,
            level,
            close_below_percent: if is_over { i64::MAX } else { 0 },
            whose: None,
            cause: None,
        },
    );
}

fn report(work: &mut Work<'_>, measure: Measure<'_>) {
    let fingerprint = format!("{}{}", prefix::RESOURCE, measure.key);
    let open = work.open(&fingerprint);
    let reported = open.and_then(|alert| alert.context.get("level")?.as_i64()).unwrap_or(0);
    let used = percent(measure.current, measure.limit);
    if measure.limit <= 0 || (measure.level == 0 && used < measure.close_below_percent) {
        return;
    }
    if measure.level == 0 {
        work.keep(&fingerprint);
        return;
    }
    let (loop_id, test_id) = measure.whose.unzip();
    // A reported level stays while usage falls below its percentage, so that it is not reported again.
    let level = measure.level.max(reported);
    let who = loop_id.map_or_else(String::new, |id| format!("{id}: "));
    let finding = Finding {
        fingerprint: fingerprint.clone(),
        severity: if level == 1 { Severity::Warning } else { Severity::Error },
        alert_type: AlertType::Resource,
        message: format!(
            "{who}{used} % of the {} are used ({} of {})",
            measure.of,
            amount(measure.resource, measure.current),
            amount(measure.resource, measure.limit)
        ),
        context: json!({
            "kind": "budget", "resource": measure.resource, "level": level, "current": measure.current,
            "limit": measure.limit, "percentage": used, "loop_id": loop_id, "test_id": test_id,
        }),
    };
    if let Some(alert) = open.filter(|_| level == reported) {
        work.renew(alert, finding, &["percentage", "limit"]);
        return;
    }
    let payload = ResourceWarning {
        loop_id: loop_id.cloned(),
        resource: measure.resource.to_owned(),
        current: measure.current,
        limit: measure.limit,
        percentage: used,
    };
    // The event of the next level is caused by the event of the level before.
    let before = open.and_then(|alert| alert.context.get("event_id")?.as_str()?.parse().ok());
    let event = AlertEvent::new(payload, before.or_else(|| measure.cause.cloned()));
    let event = match test_id {
        Some(test) => event.with("test_id", Value::String(test.to_string())),
        None => event,
    };
    work.keep(&fingerprint);
    work.plan.act(match open {
        Some(_) => super::Action::Escalate(finding, event),
        None => super::Action::Raise(finding, Some(event)),
    });
}
