//! Settings of the gate that are one of a few words.

use serde::Deserialize;

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
