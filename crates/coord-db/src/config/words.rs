//! Values that a setting may have: numbers from 1, and words of a closed list.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

/// A number that must not be 0 or negative.
pub(super) fn at_least_1<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + PartialOrd + From<u8> + std::fmt::Display,
{
    let value = T::deserialize(deserializer)?;
    if value >= T::from(1) { Ok(value) } else { Err(D::Error::custom(format!("{value} is too small; expected at least 1"))) }
}

pub(super) fn at_least_0<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    let value = f64::deserialize(deserializer)?;
    if value >= 0.0 && value.is_finite() {
        return Ok(value);
    }
    Err(D::Error::custom(format!("{value} is not an amount of money; expected a number of US dollars, at least 0")))
}

pub(super) fn some_at_least_1<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    at_least_1(deserializer).map(Some)
}

/// Whether a check runs for each test: it looks at `TEST_ID`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(try_from = "PerTestValue")]
pub enum PerTest {
    /// It does.
    Yes,
    /// It is the same for all.
    No,
    /// It does if its command, or a script that the command names, mentions `TEST_ID`.
    #[default]
    Auto,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected true, false or \"auto\"")]
enum PerTestValue {
    Said(bool),
    Named(String),
}

impl TryFrom<PerTestValue> for PerTest {
    type Error = String;

    fn try_from(value: PerTestValue) -> Result<Self, String> {
        match value {
            PerTestValue::Said(true) => Ok(Self::Yes),
            PerTestValue::Said(false) => Ok(Self::No),
            PerTestValue::Named(name) if name == "auto" => Ok(Self::Auto),
            PerTestValue::Named(name) => Err(format!("per_test is {name:?}; expected true, false or \"auto\"")),
        }
    }
}

/// When regression-checker runs the checks on a fresh clone without caches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Cold {
    /// Not at all.
    Never,
    /// Once between 01:00 and 05:00 UTC, or when a day has passed since the last time.
    Nightly,
    /// After this number of landings.
    Every(u32),
}

impl TryFrom<String> for Cold {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let every = text.strip_prefix("every-").and_then(|number| number.parse().ok()).filter(|number| *number > 0);
        match (text.as_str(), every) {
            ("never", _) => Ok(Self::Never),
            ("nightly", _) => Ok(Self::Nightly),
            (_, Some(number)) => Ok(Self::Every(number)),
            _ => Err(format!("cold is {text:?}; expected \"nightly\", \"every-N\" with a number of landings, or \"never\"")),
        }
    }
}
