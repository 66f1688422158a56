//! Time as an argument: timestamps in the database's and in JSON's form, and the one place that reads a clock.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use jiff::SignedDuration;
use jiff::civil::DateTime;
use jiff::fmt::temporal::DateTimePrinter;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

const EPOCH: DateTime = DateTime::constant(1970, 1, 1, 0, 0, 0, 0);

/// A lease that ran out while the machine slept is not taken from its holder for so long.
pub(crate) const GRACE_SECONDS: i64 = 30;

/// A moment in UTC, in whole milliseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// From milliseconds since 1970-01-01 UTC.
    #[must_use]
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// Milliseconds since 1970-01-01 UTC.
    #[must_use]
    pub const fn as_millis(self) -> i64 {
        self.0
    }

    /// The first moment that has a text form.
    pub const EARLIEST: Self = Self(-62_167_219_200_000);
    /// The last moment that has a text form.
    pub(crate) const LATEST: Self = Self(253_402_300_799_999);

    /// This moment plus a number of seconds.
    #[must_use]
    pub const fn plus_seconds(self, seconds: i64) -> Self {
        Self(self.0.saturating_add(seconds.saturating_mul(1000)))
    }

    /// This moment plus a number of milliseconds.
    #[must_use]
    pub const fn plus_millis(self, millis: i64) -> Self {
        Self(self.0.saturating_add(millis))
    }

    /// Milliseconds from `earlier` to this moment; negative if it is later.
    #[must_use]
    pub const fn millis_since(self, earlier: Self) -> i64 {
        self.0.saturating_sub(earlier.0)
    }

    /// Whole seconds from `earlier` to this moment.
    #[must_use]
    pub const fn seconds_since(self, earlier: Self) -> i64 {
        self.millis_since(earlier) / 1000
    }

    /// The database's form, `YYYY-MM-DD HH:MM:SS.SSS`, in which text order is time order.
    #[must_use]
    pub fn to_sql_text(self) -> String {
        const FORM: DateTimePrinter = DateTimePrinter::new().separator(b' ').precision(Some(3));
        FORM.datetime_to_string(&self.civil())
    }

    /// RFC 3339, `YYYY-MM-DDTHH:MM:SS.SSSZ`, as JSON has it.
    #[must_use]
    pub fn to_rfc3339(self) -> String {
        const FORM: DateTimePrinter = DateTimePrinter::new().precision(Some(3));
        let mut text = FORM.datetime_to_string(&self.civil());
        text.push('Z');
        text
    }

    /// Years outside 0..=9999 have no text form: the nearest moment that has one stands for them.
    fn civil(self) -> DateTime {
        EPOCH.saturating_add(SignedDuration::from_millis(self.clamp(Self::EARLIEST, Self::LATEST).0))
    }

    /// Not by way of jiff's own timestamp, which ends a day before the year 9999 does.
    fn from_civil(civil: DateTime) -> Self {
        Self(i64::try_from(civil.duration_since(EPOCH).as_millis()).unwrap_or(i64::MAX))
    }
}

/// Text that is not a time.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0:?} is not a time like 2026-11-22T00:00:00.000Z or 2026-11-22 00:00:00.000")]
pub struct ParseTimestampError(String);

/// Reads the forms that a column has, `YYYY-MM-DD HH:MM:SS.SSS` and the one without milliseconds, in a quarter of the time that
/// the general parser takes. None for any other form, which is left to that parser.
fn from_sql_text(text: &[u8]) -> Option<Timestamp> {
    let form = matches!(text.len(), 19 | 23)
        && [(4, b'-'), (7, b'-'), (10, b' '), (13, b':'), (16, b':'), (19, b'.')]
            .iter()
            .all(|(at, c)| text.get(*at).is_none_or(|found| found == c));
    if !form {
        return None;
    }
    let number = |from: usize, to: usize| {
        text[from..to].iter().try_fold(0_i16, |sum, digit| digit.is_ascii_digit().then(|| sum * 10 + i16::from(digit - b'0')))
    };
    let two = |from: usize| number(from, from + 2).and_then(|number| i8::try_from(number).ok());
    let millis = number(20.min(text.len()), text.len())?;
    DateTime::new(number(0, 4)?, two(5)?, two(8)?, two(11)?, two(14)?, two(17)?, i32::from(millis) * 1_000_000)
        .ok()
        .map(Timestamp::from_civil)
}

impl FromStr for Timestamp {
    type Err = ParseTimestampError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ParseTimestampError(text.to_owned());
        if let Some(moment) = from_sql_text(text.as_bytes()) {
            return Ok(moment);
        }
        if let Ok(moment) = text.parse::<jiff::Timestamp>() {
            return Ok(Self(moment.as_millisecond()));
        }
        text.parse().map(Self::from_civil).map_err(|_| error())
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_rfc3339())
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.to_rfc3339())
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// What the machine's clocks say at one instant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClockReading {
    /// The wall clock.
    pub wall: Timestamp,
    /// Milliseconds since boot, time suspended included.
    pub boot_millis: i64,
    /// Milliseconds since boot spent suspended (boot clock minus monotonic clock).
    pub suspended_millis: i64,
    /// Which boot this is.
    pub boot_id: String,
}

/// Where the time comes from: the machine, or a simulation.
pub trait Clock: Send + Sync {
    /// All clocks at once.
    fn read(&self) -> ClockReading;
    /// The wall clock alone.
    fn now(&self) -> Timestamp {
        self.read().wall
    }
    /// Whether the clock of a database server takes precedence over this one: no simulation's does.
    fn yields_to_server(&self) -> bool {
        false
    }
    /// The host whose clocks these are; empty for one without a name.
    fn host(&self) -> &str {
        crate::process::host().unwrap_or_default()
    }
}

/// The machine's clocks.
#[derive(Debug, Default)]
pub struct SystemClock;

fn clock_millis(clock: nix::time::ClockId) -> i64 {
    // These clocks exist on every Linux that can run us; zero would only look like a fresh boot.
    clock.now().map_or(0, |time| time.tv_sec() * 1000 + time.tv_nsec() / 1_000_000)
}

impl Clock for SystemClock {
    fn read(&self) -> ClockReading {
        let boot_millis = clock_millis(nix::time::ClockId::CLOCK_BOOTTIME);
        let monotonic = clock_millis(nix::time::ClockId::CLOCK_MONOTONIC);
        ClockReading {
            wall: self.now(),
            boot_millis,
            suspended_millis: boot_millis - monotonic,
            boot_id: crate::process::boot_id().to_owned(),
        }
    }

    fn now(&self) -> Timestamp {
        Timestamp(clock_millis(nix::time::ClockId::CLOCK_REALTIME))
    }

    fn yields_to_server(&self) -> bool {
        true
    }
}

/// A clock that stands still until it is moved: for simulations and tests.
#[derive(Debug, Clone)]
pub struct ManualClock {
    wall: Arc<AtomicI64>,
    boot: Arc<AtomicI64>,
    suspended: Arc<AtomicI64>,
    host: &'static str,
}

impl ManualClock {
    /// A clock that shows `start`.
    #[must_use]
    pub fn new(start: Timestamp) -> Self {
        Self {
            wall: Arc::new(AtomicI64::new(start.0)),
            boot: Arc::new(AtomicI64::new(1_000_000)),
            suspended: Arc::new(AtomicI64::new(0)),
            host: "simulated",
        }
    }

    /// The clock of a host of this name.
    #[must_use]
    pub fn on_host(self, host: &'static str) -> Self {
        Self { host, ..self }
    }

    /// Time passes, on every clock.
    pub fn advance_millis(&self, millis: i64) {
        self.wall.fetch_add(millis, Ordering::SeqCst);
        self.boot.fetch_add(millis, Ordering::SeqCst);
    }

    /// The wall clock is set forward or back; nothing else moves.
    pub fn jump_millis(&self, millis: i64) {
        self.wall.fetch_add(millis, Ordering::SeqCst);
    }

    /// The machine sleeps: wall and boot clock go on, the monotonic clock stands.
    pub fn suspend_millis(&self, millis: i64) {
        self.advance_millis(millis);
        self.suspended.fetch_add(millis, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn read(&self) -> ClockReading {
        ClockReading {
            wall: Timestamp(self.wall.load(Ordering::SeqCst)),
            boot_millis: self.boot.load(Ordering::SeqCst),
            suspended_millis: self.suspended.load(Ordering::SeqCst),
            boot_id: "simulated".to_owned(),
        }
    }

    fn host(&self) -> &str {
        self.host
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_round_trip() {
        let time: Timestamp = "2026-11-22T00:00:01.005Z".parse().unwrap();
        assert_eq!(time.to_sql_text(), "2026-11-22 00:00:01.005");
        assert_eq!(time.to_rfc3339(), "2026-11-22T00:00:01.005Z");
        assert_eq!("2026-11-22 00:00:01.005".parse::<Timestamp>().unwrap(), time);
        assert_eq!("2026-11-22 00:00:01".parse::<Timestamp>().unwrap(), time.plus_millis(-5));
        assert!("yesterday".parse::<Timestamp>().is_err());
    }

    #[test]
    fn the_short_way_of_reading_a_time_agrees_with_the_long_one() {
        let long = |text: &str| {
            let civil = text.parse::<DateTime>().ok()?;
            jiff::tz::Offset::UTC.to_timestamp(civil).ok().map(|moment| moment.as_millisecond())
        };
        let mut days = Vec::new();
        for year in ["0000", "1600", "1900", "1969", "1970", "2000", "2024", "2026", "2100", "9998"] {
            for month in 0..=13 {
                days.extend((0..=32).map(|day| format!("{year}-{month:02}-{day:02}")));
            }
        }
        for day in days {
            for time in ["00:00:01", "00:00:00.000", "23:59:59.999", "12:34:56.789"] {
                let text = format!("{day} {time}");
                let short = from_sql_text(text.as_bytes());
                assert_eq!(short.map(Timestamp::as_millis), long(&text), "{text}");
                if let Some(moment) = short {
                    assert_eq!(moment.to_sql_text().trim_end_matches(".000"), text.trim_end_matches(".000"));
                }
            }
        }
        for text in ["2026-11-22 24:00:00.000", "2026-11-22 10:60:00.000", "2026-11-22 10:00:0x.000", "2026-11-22T10:00:00.000"]
        {
            assert_eq!(from_sql_text(text.as_bytes()), None, "{text}");
        }
    }
}
