//! What agents use: tokens and money.

use serde::{Deserialize, Serialize};

/// Millionths of a US dollar.
#[must_use]
pub fn microusd(dollars: f64) -> i64 {
    (dollars * 1e6).round() as i64
}

/// An amount in US dollars, as `$1.25` or, below a dollar, `$0.0125`.
#[must_use]
pub fn dollars(microusd: i64) -> String {
    let dollars = microusd as f64 / 1e6;
    if microusd.abs() >= 1_000_000 || microusd == 0 { format!("${dollars:.2}") } else { format!("${dollars:.4}") }
}

/// What one model has used in a run of an agent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelUse {
    /// The kind of agent, if known.
    pub agent: Option<String>,
    /// The model, if the agent names it.
    pub model: Option<String>,
    /// Tokens that count against budgets.
    pub tokens: i64,
    /// Input tokens that no cache had.
    pub input: i64,
    /// Output tokens.
    pub output: i64,
    /// Input tokens read from a cache.
    pub cache_read: i64,
    /// Input tokens written to a cache.
    pub cache_write: i64,
    /// Millionths of a US dollar; none if unknown.
    pub cost_microusd: Option<i64>,
}

impl ModelUse {
    /// Use of which only the number of tokens is known.
    #[must_use]
    pub fn of_tokens(tokens: i64) -> Self {
        Self { tokens: tokens.max(0), ..Self::default() }
    }

    /// Sets `tokens` from the kinds of token.
    #[must_use]
    pub fn counted(self) -> Self {
        let tokens = self.input.saturating_add(self.cache_write).saturating_add(self.output);
        Self { tokens, ..self }
    }

    /// What is more than `before`, of the same model.
    #[must_use]
    pub fn less(&self, before: &Self) -> Self {
        let rest = |all: i64, before: i64| all.saturating_sub(before).max(0);
        let cost = self.cost_microusd.map(|cost| rest(cost, before.cost_microusd.unwrap_or(0)));
        Self {
            tokens: rest(self.tokens, before.tokens),
            input: rest(self.input, before.input),
            output: rest(self.output, before.output),
            cache_read: rest(self.cache_read, before.cache_read),
            cache_write: rest(self.cache_write, before.cache_write),
            cost_microusd: cost,
            ..self.clone()
        }
    }

    /// Adds the use of the same model.
    pub fn add(&mut self, other: &Self) {
        for (sum, more) in [
            (&mut self.tokens, other.tokens),
            (&mut self.input, other.input),
            (&mut self.output, other.output),
            (&mut self.cache_read, other.cache_read),
            (&mut self.cache_write, other.cache_write),
        ] {
            *sum = sum.saturating_add(more);
        }
        self.cost_microusd = match (self.cost_microusd, other.cost_microusd) {
            (Some(one), Some(more)) => Some(one.saturating_add(more)),
            (one, more) => one.or(more),
        };
    }
}
