//! Parses when a limit ends: `resets 3:45pm (Europe/Berlin)`, `try again in 20s`, `Retry-After: 30`,
//! `limit reached|1764201600`.

use coord_db::Timestamp;
use jiff::Zoned;
use jiff::civil::{Time, time};
use jiff::tz::TimeZone;

/// Times further ahead than this are ignored.
const MAX_DAYS: i64 = 8;
/// Added to the end of a limit, because clocks differ.
const MARGIN_SECONDS: i64 = 15;

/// The time named in a text, if it is after `now`.
pub(super) fn reset_time(text: &str, now: Timestamp) -> Option<Timestamp> {
    let text = text.to_ascii_lowercase();
    let found = duration(&text).map(|seconds| now.plus_seconds(seconds)).or_else(|| epoch(&text)).or_else(|| clock(&text, now));
    found.filter(|at| is_plausible(*at, now)).map(|at| at.plus_seconds(MARGIN_SECONDS))
}

/// True for a time at which a limit may end. With another one, all loops of the account would wait for years.
pub(super) fn is_plausible(at: Timestamp, now: Timestamp) -> bool {
    at > now && at <= now.plus_seconds(MAX_DAYS * 86_400)
}

/// The text after the first of these words.
fn after<'a>(text: &'a str, words: &[&str]) -> Option<&'a str> {
    words.iter().find_map(|word| text.find(word).map(|at| &text[at + word.len()..]))
}

/// `in 20s`, `in 1h 5m`, `in 2 minutes`, `retry after 30 seconds`, `retry-after: 30`.
fn duration(text: &str) -> Option<i64> {
    let rest = after(
        text,
        &[
            "try again in ",
            "retry in ",
            "retrying in ",
            "resets in ",
            "reset in ",
            "retry after ",
            "retry-after: ",
            "retry-after ",
        ],
    )?;
    let mut seconds = 0.0;
    let mut rest = rest.trim_start();
    let mut found = false;
    loop {
        let digits = rest.find(|letter: char| !(letter.is_ascii_digit() || letter == '.')).unwrap_or(rest.len());
        let Ok(number) = rest[..digits].trim_end_matches('.').parse::<f64>() else { break };
        let unit_text = rest[digits..].trim_start();
        let unit: String = unit_text.chars().take_while(char::is_ascii_alphabetic).collect();
        seconds += number
            * match unit.as_str() {
                "ms" | "millisecond" | "milliseconds" => 0.001,
                "m" | "min" | "mins" | "minute" | "minutes" => 60.0,
                "h" | "hr" | "hrs" | "hour" | "hours" => 3_600.0,
                "d" | "day" | "days" => 86_400.0,
                "" | "s" | "sec" | "secs" | "second" | "seconds" => 1.0,
                _ if found => break,
                // A number without a unit means seconds.
                _ => 1.0,
            };
        found = true;
        rest = unit_text[unit.len()..].trim_start_matches([',', ' ']).trim_start_matches("and ");
    }
    (found && seconds.is_finite()).then_some(seconds.ceil().min(1e9) as i64)
}

/// `…|1764201600`, `"resetsat":1764201600`.
fn epoch(text: &str) -> Option<Timestamp> {
    let rest = after(text, &["|", "resetsat\":", "reset_at\":", "resets_at\":"])?;
    let digits: String = rest.trim_start().chars().take_while(char::is_ascii_digit).collect();
    let number: i64 = digits.parse().ok().filter(|_| (10..=13).contains(&digits.len()))?;
    Some(Timestamp::from_millis(if digits.len() > 11 { number } else { number.saturating_mul(1_000) }))
}

/// `resets 3:45pm (Europe/Berlin)`, `resets at 15:45`, `resets 9pm`: the next such time of day in the named zone, else
/// in the local zone. `try again at nov 28th, 2026 12:34 am`, `resets dec 3 at 9am`: on that day.
fn clock(text: &str, now: Timestamp) -> Option<Timestamp> {
    let rest = after(text, &["resets at ", "resets ", "reset at ", "try again at "])?.trim_start();
    let (day, rest) = match day(rest) {
        Some((day, rest)) => (Some(day), rest),
        None => (None, rest),
    };
    let (at, rest) = time_of_day(rest)?;
    let zone = rest.trim_start().strip_prefix('(').and_then(|rest| rest.split(')').next());
    let zone = match zone {
        Some(name) => zone_named(name)?,
        None => TimeZone::system(),
    };
    let here: Zoned = jiff::Timestamp::from_millisecond(now.as_millis()).ok()?.to_zoned(zone);
    let mut moment = here.with().time(at).build().ok()?;
    if let Some((year, month, day)) = day {
        let date = jiff::civil::Date::new(year.unwrap_or(here.year()), month, day).ok()?;
        moment = moment.with().date(date).build().ok()?;
        if year.is_none() && moment <= here {
            moment = moment.with().year(here.year() + 1).build().ok()?;
        }
    } else if moment <= here {
        moment = moment.tomorrow().ok()?;
    }
    Some(Timestamp::from_millis(moment.timestamp().as_millisecond()))
}

/// A year if there is one, a month and a day.
type Day = (Option<i16>, i8, i8);

/// `nov 28th, 2026 `, `november 28, `, `dec 3 at `.
fn day(text: &str) -> Option<(Day, &str)> {
    const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
    let month = MONTHS.iter().position(|month| text.starts_with(month))?;
    let rest = text.trim_start_matches(|letter: char| letter.is_ascii_alphabetic()).trim_start_matches(['.', ' ']);
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    let day = rest[..digits].parse().ok()?;
    let rest = rest[digits..].trim_start_matches(|letter: char| letter.is_ascii_alphabetic()).trim_start_matches([',', ' ']);
    let year = rest.get(..4).and_then(|year| year.parse().ok());
    let rest = if year.is_some() { &rest[4..] } else { rest };
    let rest = rest.trim_start_matches([',', ' ']);
    let rest = rest.strip_prefix("at ").unwrap_or(rest);
    Some(((year, i8::try_from(month + 1).ok()?, day), rest))
}

/// Finds a zone regardless of case, because the text is in lower case.
fn zone_named(name: &str) -> Option<TimeZone> {
    if name == "utc" || name == "gmt" {
        return Some(TimeZone::UTC);
    }
    TimeZone::get(name).ok()
}

fn time_of_day(text: &str) -> Option<(Time, &str)> {
    let number = |text: &str| -> Option<(i8, usize)> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        Some((text.get(..digits)?.parse().ok()?, digits))
    };
    let (mut hour, length) = number(text)?;
    let mut rest = &text[length..];
    let mut minute = 0;
    let mut exact = false;
    if let Some(behind) = rest.strip_prefix(':') {
        let (value, length) = number(behind)?;
        (minute, rest, exact) = (value, &behind[length..], true);
    }
    let half = rest.trim_start();
    if let Some(behind) = half.strip_prefix("pm") {
        (hour, rest) = (if hour == 12 { 12 } else { hour + 12 }, behind);
    } else if let Some(behind) = half.strip_prefix("am") {
        (hour, rest) = (if hour == 12 { 0 } else { hour }, behind);
    } else if !exact {
        return None;
    }
    ((0..24).contains(&hour) && (0..60).contains(&minute)).then(|| (time(hour, minute, 0, 0), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reset_times_are_read_in_the_forms_that_agents_print() {
        // 2026-11-26 12:00:00 UTC.
        let now = Timestamp::from_millis(1_795_694_400_000);
        let cases = [
            ("You have hit your limit · resets 9:20pm (UTC)", Some(9 * 3600 + 20 * 60)),
            ("limit reached ∙ resets 11am (UTC)", Some(23 * 3600)),
            // Machines without a database of time zones wait by their own rule.
            ("You've hit your limit · resets 3pm (America/New_York)", TimeZone::get("America/New_York").ok().map(|_| 8 * 3600)),
            ("try again at Nov 28th, 2026 12:34 AM", Some(36 * 3600 + 34 * 60)),
            ("resets Nov 27, 9am (UTC)", Some(21 * 3600)),
            ("resets December 3 at 9:00 (UTC)", Some(7 * 86_400 - 3 * 3600)),
            ("resets Nov 99, 9am (UTC)", None),
            ("resets Nov 26, 9am (UTC)", None),
            ("usage limit reached|1795698000", Some(3600)),
            ("{\"resetsAt\":1795698000000}", Some(3600)),
            ("Rate limit reached. Please try again in 20s.", Some(20)),
            ("try again in 1h 5m", Some(3900)),
            ("try again in 6m0.5s", Some(361)),
            ("Please try again in 2 minutes and 3 seconds", Some(123)),
            ("retry-after: 30", Some(30)),
            ("resets 9:20pm (Nowhere/Land)", None),
            ("usage limit reached|1", None),
            ("resets soon", None),
            ("resets 99:99", None),
            ("try again in 99999999999 days", None),
            ("", None),
        ];
        for (text, seconds) in cases {
            let expected = seconds.map(|seconds| now.plus_seconds(seconds + MARGIN_SECONDS));
            assert_eq!(reset_time(text, now), expected, "{text}");
        }
    }
}
