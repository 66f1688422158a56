//! The report at a time of day: which one is due, and its text, which `loopctl report` prints.
//!
//! A report has a journal entry of its day, so that it is sent once, also after a restart. One whose time has passed while pm was
//! not running is sent later.

use std::path::Path;
use std::time::Duration;

use command_runner::CommandSpec;
use coord_db::config::{NotifyPart, TimeOfDay};
use coord_db::{Config, JournalEntry, ReadTx, Result, Timestamp};
use jiff::civil::Date;
use jiff::tz::TimeZone;
use serde_json::{Value, json};

/// What the journal entries of reports begin with; the day follows.
const PREFIX: &str = "notify:report:";
/// Time limit of `loopctl report`.
const LIMIT: Duration = Duration::from_secs(60);
const KILL_AFTER: Duration = Duration::from_secs(2);
/// Bytes of a report that are read.
const MAX_BYTES: usize = 1 << 20;

/// A report of a day.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DailyReport {
    /// Id of its journal entry.
    pub id: String,
    /// Its time, which has passed.
    pub due: Timestamp,
    /// The time of the next one.
    pub next: Timestamp,
    /// True if it was sent, or is being sent.
    pub is_begun: bool,
    /// The end of the last report that was sent; none if there was none.
    pub since: Option<Timestamp>,
}

impl DailyReport {
    /// The intent in the journal.
    #[must_use]
    pub fn intent(&self, since: Timestamp, until: Timestamp) -> Value {
        json!({ "kind": "report", "notification": self.id, "since": since, "until": until })
    }
}

/// The newest report whose time has passed.
pub(crate) fn load(config: &Config, tx: &ReadTx<'_>) -> Result<Option<DailyReport>> {
    let Some(at) = config.notify.report_at.filter(|_| !config.notify.is_silent()) else { return Ok(None) };
    let Some((day, due, next)) = moments(at, tx.now(), &TimeZone::system()) else { return Ok(None) };
    let id = format!("{PREFIX}{day}");
    let is_begun = tx.journal_entry(&id)?.is_some();
    let until = |entry: &JournalEntry| entry.steps.text("until")?.parse::<Timestamp>().ok();
    // One of a day that a wrong clock showed ends in the future.
    let since = tx.sent_reports()?.iter().filter_map(until).filter(|until| *until <= tx.now()).max();
    Ok(Some(DailyReport { id, due, next, is_begun, since }))
}

/// The day of the newest report whose time has passed, that time, and the next one. Where the clocks skip the time, it is
/// as much later; where they show it twice, the first counts.
fn moments(at: TimeOfDay, now: Timestamp, zone: &TimeZone) -> Option<(Date, Timestamp, Timestamp)> {
    let moment = |day: Date| {
        let moment = day.at(at.hour, at.minute, 0, 0).to_zoned(zone.clone()).ok()?;
        Some(Timestamp::from_millis(moment.timestamp().as_millisecond()))
    };
    let today = jiff::Timestamp::from_millisecond(now.as_millis()).ok()?.to_zoned(zone.clone()).date();
    let (yesterday, tomorrow) = (today.yesterday().ok()?, today.tomorrow().ok()?);
    match moment(today)? {
        due if due <= now => Some((today, due, moment(tomorrow)?)),
        next => Some((yesterday, moment(yesterday)?, next)),
    }
}

/// The text of the report of an entry, as Markdown: what `notify.content` allows of it. The paths are absolute.
///
/// # Errors
/// Why there is none, in words.
pub(crate) async fn text(
    config: &Config,
    (database, folder): (&Path, &Path),
    intent: &Value,
) -> std::result::Result<String, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?.with_file_name("loopctl");
    let since = intent["since"].as_str().unwrap_or_default();
    let mut argv = vec![program.into_os_string(), "--db".into(), database.into()];
    argv.extend(["report", "--markdown", "--since", since].map(Into::into));
    let allows = |part| config.notify.content.contains(&part);
    if !allows(NotifyPart::Context) {
        argv.push("--brief".into());
    }
    let names = ["PATH", "HOME", "TZ"];
    let spec = CommandSpec {
        env: names.iter().filter_map(|name| std::env::var_os(name).map(|value| ((*name).to_owned(), value))).collect(),
        timeout: LIMIT,
        kill_after: KILL_AFTER,
        ..CommandSpec::new(argv, folder)
    };
    let (_never, mut cancel) = tokio::sync::watch::channel(false);
    let mut said = Vec::new();
    let keep = |part: &[u8]| said.extend_from_slice(&part[..part.len().min(MAX_BYTES.saturating_sub(said.len()))]);
    let outcome = command_runner::run_reading(&spec, &mut cancel, |_| {}, keep).await;
    if !outcome.success() {
        return Err(format!("loopctl report: {:?}: {}", outcome.end, outcome.tail.trim_end()));
    }
    let mut text = String::from_utf8_lossy(&said).into_owned();
    if !allows(NotifyPart::Summary) {
        // The period and the numbers stand before the first part.
        text.truncate(text.find("\n## ").unwrap_or(text.len()));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(zone: &str, at: (i8, i8), now: &str, expected: (&str, &str, &str)) {
        let zone = TimeZone::posix(zone).unwrap();
        let (day, due, next) =
            moments(TimeOfDay { hour: at.0, minute: at.1 }, now.parse().unwrap(), &zone).expect("two moments");
        let shown = (day.to_string(), due.to_rfc3339(), next.to_rfc3339());
        assert_eq!((shown.0.as_str(), &shown.1[..16], &shown.2[..16]), expected, "at {now}");
    }

    #[test]
    fn a_time_of_day_passes_once_a_day() {
        let berlin = "CET-1CEST,M3.5.0,M10.5.0/3";
        check(berlin, (7, 30), "2026-07-01T05:29:59Z", ("2026-06-30", "2026-06-30T05:30", "2026-07-01T05:30"));
        check(berlin, (7, 30), "2026-07-01T05:30:00Z", ("2026-07-01", "2026-07-01T05:30", "2026-07-02T05:30"));
        // A night that the machine was down.
        check(berlin, (23, 30), "2026-07-01T22:40:00Z", ("2026-07-01", "2026-07-01T21:30", "2026-07-02T21:30"));
        // The clocks go forward: the day has 23 hours, and 02:30 is 03:30.
        check(berlin, (7, 30), "2026-03-28T12:00:00Z", ("2026-03-28", "2026-03-28T06:30", "2026-03-29T05:30"));
        check(berlin, (2, 30), "2026-03-29T00:59:00Z", ("2026-03-28", "2026-03-28T01:30", "2026-03-29T01:30"));
        // They go back: 02:30 comes twice, and the second one is of the same day.
        check(berlin, (2, 30), "2026-10-25T00:30:00Z", ("2026-10-25", "2026-10-25T00:30", "2026-10-26T01:30"));
        check(berlin, (2, 30), "2026-10-25T01:30:00Z", ("2026-10-25", "2026-10-25T00:30", "2026-10-26T01:30"));
    }
}
