//! Time as an argument: timestamps in the database's and in JSON's form, and the one place that reads a clock.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

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

    /// This moment and so many seconds.
    #[must_use]
    pub const fn plus_seconds(self, seconds: i64) -> Self {
        Self(self.0.saturating_add(seconds.saturating_mul(1000)))
    }

    /// This moment and so many milliseconds.
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
        self.civil(' ', "")
    }

    /// RFC 3339, `YYYY-MM-DDTHH:MM:SS.SSSZ`, as JSON has it.
    #[must_use]
    pub fn to_rfc3339(self) -> String {
        self.civil('T', "Z")
    }

    fn civil(self, separator: char, suffix: &str) -> String {
        // Years outside 0..=9999 have no text form; clamp rather than fail.
        let millis = self.0.clamp(Self::EARLIEST.0, Self::LATEST.0);
        let (day, millis) = (millis.div_euclid(86_400_000), millis.rem_euclid(86_400_000));
        // Years are counted from March, eras of 400 years from the year 0; day 0 is 1970-01-01.
        let (era, day) = ((day + 719_468).div_euclid(146_097), (day + 719_468).rem_euclid(146_097));
        let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
        let day = day - (year * 365 + year / 4 - year / 100);
        let month = (day * 5 + 2) / 153;
        let day = day - (month * 153 + 2) / 5 + 1;
        let (year, month) = (era * 400 + year, month + 3);
        let (year, month) = if month > 12 { (year + 1, month - 12) } else { (year, month) };
        let (hour, minute, second) = (millis / 3_600_000, millis / 60_000 % 60, millis / 1_000 % 60);
        format!("{year:04}-{month:02}-{day:02}{separator}{hour:02}:{minute:02}:{second:02}.{:03}{suffix}", millis % 1_000)
    }
}

/// Text that is no moment in time.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0:?} is not a time like 2026-11-22T00:00:00.000Z or 2026-11-22 00:00:00.000")]
pub struct ParseTimestampError(String);

/// Reads the forms that a column has, `YYYY-MM-DD HH:MM:SS.SSS` and the one without milliseconds: the general parser takes
/// most of a read's time, and ends a day before the year 9999 does. Any other form is none, and the general parser's.
fn from_sql_text(text: &[u8]) -> Option<Timestamp> {
    let form = matches!(text.len(), 19 | 23)
        && [(4, b'-'), (7, b'-'), (10, b' '), (13, b':'), (16, b':'), (19, b'.')]
            .iter()
            .all(|(at, c)| text.get(*at).is_none_or(|found| found == c));
    if !form {
        return None;
    }
    let number = |from: usize, to: usize| {
        text[from..to].iter().try_fold(0_i64, |sum, digit| digit.is_ascii_digit().then(|| sum * 10 + i64::from(digit - b'0')))
    };
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second, millis) =
        (number(11, 13)?, number(14, 16)?, number(17, 19)?, number(20.min(text.len()), text.len())?);
    if !(1..=12).contains(&month) || !(1..=days_in(year, month)).contains(&day) || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    // Days since 1970, counted in years that begin with March.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + (153 * month + 2) / 5 + day - 1;
    let days = era * 146_097 + day_of_era - 719_468;
    Some(Timestamp((((days * 24 + hour) * 60 + minute) * 60 + second) * 1000 + millis))
}

fn days_in(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
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
        let civil: jiff::civil::DateTime = text.parse().map_err(|_| error())?;
        let moment = jiff::tz::Offset::UTC.to_timestamp(civil).map_err(|_| error())?;
        Ok(Self(moment.as_millisecond()))
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
}

/// A clock that stands still until it is moved: for simulations and tests.
#[derive(Debug, Clone)]
pub struct ManualClock {
    wall: Arc<AtomicI64>,
    boot: Arc<AtomicI64>,
    suspended: Arc<AtomicI64>,
}

impl ManualClock {
    /// A clock that shows `start`.
    #[must_use]
    pub fn new(start: Timestamp) -> Self {
        Self {
            wall: Arc::new(AtomicI64::new(start.0)),
            boot: Arc::new(AtomicI64::new(1_000_000)),
            suspended: Arc::new(AtomicI64::new(0)),
        }
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
            let civil = text.parse::<jiff::civil::DateTime>().ok()?;
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
