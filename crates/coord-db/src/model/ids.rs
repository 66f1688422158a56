//! Every id is a type of its own.
//!
//! Ids of loops, tests and components follow one grammar: `[A-Za-z0-9][A-Za-z0-9._-]{0,63}`. Text that another tool wrote
//! into the database is taken as it is, so that an orphan row can be read and reported.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize};

use crate::Error;
use crate::model::supervisors::SUPERVISORS;

/// Ids that no loop may have, beside those of the supervisors.
const OTHERS: [&str; 2] = ["human", "all"];

/// The holder of the leases of queued work. Its slots, which hold what checks need, have this prefix.
const TRAIN: &str = "landing-train";

/// True if no loop may have this id.
#[must_use]
pub fn is_reserved(id: &str) -> bool {
    is_system_id(supervisor_of(id)) || id.strip_prefix(TRAIN).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
}

/// True for an id or program of a supervisor, for the human, and for the name that means everybody.
#[must_use]
pub fn is_system_id(id: &str) -> bool {
    OTHERS.contains(&id) || SUPERVISORS.iter().any(|each| each.id == id || each.program == id)
}

/// Of this supervisor each host that shares a database has one. Their ids have its name, a dot, and the host's.
pub const ON_EACH_HOST: &str = "heartbeat";

/// The supervisor that a component is: its id, or that without the host's name.
#[must_use]
pub fn supervisor_of(id: &str) -> &str {
    match id.strip_prefix(ON_EACH_HOST) {
        Some(host) if host.starts_with('.') => ON_EACH_HOST,
        _ => id,
    }
}

fn fits_grammar(text: &str) -> bool {
    let bytes = text.as_bytes();
    (1..=64).contains(&bytes.len())
        && bytes[0].is_ascii_alphanumeric()
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
}

macro_rules! text_id {
    ($(#[$meta:meta])* $name:ident, $what:literal, $check:expr) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// The id as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// Takes text that is already in the database, whatever it is.
            #[allow(dead_code)]
            pub(crate) fn trusted(text: impl Into<String>) -> Self {
                Self(text.into())
            }
        }

        impl FromStr for $name {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self, Error> {
                let check: fn(&str) -> Result<(), String> = $check;
                check(text).map_err(|why| Error::Invalid(format!("{text:?} is not a valid {}: {why}", $what)))?;
                Ok(Self(text.to_owned()))
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl PartialEq<str> for $name {
            fn eq(&self, other: &str) -> bool {
                self.0 == other
            }
        }

        impl crate::engine::ToParameter for $name {
            fn to_parameter(&self) -> crate::engine::Parameter<'_> {
                self.0.to_parameter()
            }
        }

        impl crate::engine::Column for $name {
            fn take(value: crate::engine::ValueRef<'_>) -> Result<Self, crate::engine::Unreadable> {
                <String as crate::engine::Column>::take(value).map(Self)
            }
        }
    };
}

fn grammar(text: &str) -> Result<(), String> {
    if fits_grammar(text) {
        Ok(())
    } else {
        Err("use 1 to 64 letters, digits, '.', '_' or '-', beginning with a letter or digit".to_owned())
    }
}

fn not_empty(text: &str) -> Result<(), String> {
    if text.is_empty() || text.contains('\0') { Err("it must not be empty or contain NUL".to_owned()) } else { Ok(()) }
}

text_id!(
    /// A loop: one coding agent run over and over on its own branch.
    LoopId, "loop id", |text| {
        if is_reserved(text) {
            return Err("it is reserved for the system".to_owned());
        }
        grammar(text)
    }
);
text_id!(
    /// A test: one goal on a loop's queue.
    TestId, "test id", grammar
);
text_id!(
    /// A component with a heartbeat: a supervisor or a loop.
    ComponentId, "component id", grammar
);
text_id!(
    /// A publisher or consumer of events: a loop, a supervisor, `human`, or another tool.
    ActorId, "id", grammar
);
text_id!(
    /// An event. Any unique text is legal; ours are UUIDv7.
    EventId, "event id", not_empty
);
text_id!(
    /// A subscription.
    SubscriptionId, "subscription id", not_empty
);
text_id!(
    /// A decision put to the human.
    DecisionId, "decision id", not_empty
);

/// Branches and saved work are refs that are named after loops and tests.
///
/// # Errors
/// [`Error::Invalid`] for an id that git takes in no ref's name.
fn allow_in_a_ref(what: &str, id: &str) -> Result<(), Error> {
    let why = if id.contains("..") {
        "it contains \"..\""
    } else if id.ends_with('.') {
        "it ends with \".\""
    } else if id.ends_with(".lock") {
        "it ends with \".lock\""
    } else {
        return Ok(());
    };
    Err(Error::Invalid(format!(
        "{id:?} cannot be a {what} id: {why}, which git refuses in the name of a branch; choose another id"
    )))
}

impl LoopId {
    /// The human as a holder of leases, in a command that lands something itself. No loop has this id.
    #[must_use]
    pub fn human() -> Self {
        Self::trusted("human")
    }

    /// The landing train, which holds the leases of queued work.
    #[must_use]
    pub fn train() -> Self {
        Self::trusted(TRAIN)
    }

    /// A slot of the landing train, in which one state at a time is judged; from 1.
    #[must_use]
    pub fn train_slot(number: usize) -> Self {
        Self::trusted(format!("{TRAIN}-{number}"))
    }

    /// The number of the slot of the landing train that has this id.
    #[must_use]
    pub fn slot_of_train(id: &str) -> Option<usize> {
        id.strip_prefix(TRAIN)?.strip_prefix('-')?.parse().ok()
    }

    /// True for the human, the landing train and its slots: none of them is a loop.
    #[must_use]
    pub fn is_no_loop(&self) -> bool {
        self.0 == "human" || is_reserved(&self.0)
    }

    /// Whether a new loop may have this id. One that is there already is read whatever its id is.
    ///
    /// # Errors
    /// [`Error::Invalid`] for one that git refuses as a part of a branch's name, and for `integration`.
    pub fn allow_as_new(&self) -> Result<(), Error> {
        if self.0 == "integration" {
            return Err(Error::Invalid(
                "\"integration\" cannot be a loop id: coding-loops/integration is the branch for verified work; \
                 choose another id"
                    .to_owned(),
            ));
        }
        allow_in_a_ref("loop", &self.0)
    }
}

impl TestId {
    /// Whether a new test may have this id. One that is there already is read whatever its id is.
    ///
    /// # Errors
    /// [`Error::Invalid`] for one that git refuses as a part of a ref's name.
    pub fn allow_as_new(&self) -> Result<(), Error> {
        allow_in_a_ref("test", &self.0)
    }
}

impl EventId {
    /// A new time-ordered id.
    #[must_use]
    pub fn generate() -> Self {
        Self(new_id())
    }
}

impl DecisionId {
    /// A new time-ordered id.
    #[must_use]
    pub fn generate() -> Self {
        Self(new_id())
    }
}

impl From<&LoopId> for ActorId {
    fn from(id: &LoopId) -> Self {
        Self(id.0.clone())
    }
}

impl From<&LoopId> for ComponentId {
    fn from(id: &LoopId) -> Self {
        Self(id.0.clone())
    }
}

impl ActorId {
    /// The person.
    #[must_use]
    pub fn human() -> Self {
        Self("human".to_owned())
    }
}

/// A new time-ordered unique text, for rows whose id has no meaning of its own.
#[must_use]
pub fn new_id() -> String {
    uuid::Uuid::now_v7().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grammar_is_kept() {
        for good in ["loop-1", "a", "CP-UFS-001", "9.x_y", &"a".repeat(64)] {
            assert!(good.parse::<TestId>().is_ok(), "{good}");
        }
        for bad in ["", "-a", ".a", "a b", "a/b", "ä", "a\n", &"a".repeat(65)] {
            assert!(bad.parse::<TestId>().is_err(), "{bad:?}");
        }
        for refused in ["a..b", "a.", "x.lock"] {
            let (test, of_loop): (TestId, LoopId) = (refused.parse().unwrap(), refused.parse().unwrap());
            assert!(test.allow_as_new().is_err() && of_loop.allow_as_new().is_err(), "{refused}");
        }
        assert!("integration".parse::<TestId>().unwrap().allow_as_new().is_ok());
        for reserved in ["monitor", "deadlock-detector", "regression-checker", "pm-agent", "pm", "heartbeat", "human", "all"] {
            assert!(reserved.parse::<LoopId>().is_err(), "{reserved}");
        }
    }
}
