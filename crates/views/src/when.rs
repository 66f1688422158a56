//! A moment as people give it: so long ago, or a time.

use std::str::FromStr;

use coord_db::{Error, Timestamp};

/// A moment, not yet resolved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// The number of seconds before now.
    Ago(i64),
    /// This one.
    At(Timestamp),
}

impl When {
    /// The moment, as seen from `now`.
    #[must_use]
    pub fn resolve(self, now: Timestamp) -> Timestamp {
        match self {
            Self::Ago(seconds) => now.plus_seconds(-seconds),
            Self::At(time) => time,
        }
    }

    /// The beginning of a period that ends now.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a moment that is still to come.
    pub fn past(self, now: Timestamp) -> Result<Timestamp, Error> {
        let since = self.resolve(now);
        if since > now {
            let (since, now) = (clock(since), clock(now));
            return Err(Error::Invalid(format!("--since {since} is in the future: it is {now}; give a time before that")));
        }
        Ok(since)
    }
}

impl FromStr for When {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let misfit = || format!("{text:?} is not an age like 90s, 30m, 24h or 7d, nor a time like 2026-11-22T10:00:00Z");
        if let Some(unit) = text.chars().next_back()
            && let Some(seconds) = seconds_in(unit)
            && let Ok(count) = text[..text.len() - 1].parse::<u32>()
        {
            return Ok(Self::Ago(i64::from(count) * seconds));
        }
        if let Ok(time) = text.parse() {
            return Ok(Self::At(time));
        }
        format!("{text}T00:00:00Z").parse().map(Self::At).map_err(|_| misfit())
    }
}

fn seconds_in(unit: char) -> Option<i64> {
    Some(match unit {
        's' => 1,
        'm' => 60,
        'h' => 3_600,
        'd' => 86_400,
        'w' => 604_800,
        _ => return None,
    })
}

/// A length of time for people: `42s`, `3m 05s`, `2h 10m`, `4d 3h`.
#[must_use]
pub fn span(seconds: i64) -> String {
    let seconds = seconds.max(0);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m {:02}s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{}h {:02}m", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{}d {}h", seconds / 86_400, seconds % 86_400 / 3_600),
    }
}

/// A moment for people, in UTC and whole seconds.
#[must_use]
pub fn clock(time: Timestamp) -> String {
    let text = time.to_sql_text();
    format!("{}Z", text.split('.').next().unwrap_or(&text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_read_or_refused() {
        assert_eq!("30m".parse(), Ok(When::Ago(1_800)));
        assert_eq!("2d".parse(), Ok(When::Ago(172_800)));
        let at = When::At("2026-11-22T00:00:00Z".parse().unwrap());
        assert_eq!("2026-11-22T00:00:00Z".parse(), Ok(at));
        assert_eq!("2026-11-22 00:00:00".parse(), Ok(at));
        assert_eq!("2026-11-22".parse(), Ok(at));
        for bad in ["", "m", "-5m", "5x", "5", "yesterday", "1.5h", "5ä"] {
            assert!(bad.parse::<When>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_period_begins_in_the_past() {
        let now: Timestamp = "2026-11-22T10:00:00Z".parse().unwrap();
        assert_eq!(When::At(now).past(now).unwrap(), now);
        let error = When::At(now.plus_seconds(1)).past(now).unwrap_err().to_string();
        assert!(error.contains("2026-11-22 10:00:01Z is in the future: it is 2026-11-22 10:00:00Z"), "{error}");
    }

    #[test]
    fn spans_are_short() {
        assert_eq!(span(5), "5s");
        assert_eq!(span(185), "3m 05s");
        assert_eq!(span(7_800), "2h 10m");
        assert_eq!(span(90_000), "1d 1h");
    }
}
