//! What tokens cost.

use serde::Deserialize;

use crate::ModelUse;

use super::words::at_least_0;

/// Prices of a model, in US dollars for a million tokens.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(missing_docs)]
pub struct Price {
    #[serde(deserialize_with = "at_least_0")]
    pub input: f64,
    #[serde(deserialize_with = "at_least_0")]
    pub output: f64,
    #[serde(deserialize_with = "at_least_0")]
    pub cache_read: f64,
    #[serde(deserialize_with = "at_least_0")]
    pub cache_write: f64,
}

impl Price {
    /// The cost of this use in millionths of a dollar.
    #[must_use]
    pub fn of(&self, used: &ModelUse) -> i64 {
        let part = |tokens: i64, price: f64| tokens as f64 * price;
        let parts = part(used.input, self.input)
            + part(used.output, self.output)
            + part(used.cache_read, self.cache_read)
            + part(used.cache_write, self.cache_write);
        parts.round() as i64
    }
}
