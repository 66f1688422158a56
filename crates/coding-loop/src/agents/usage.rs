//! Reads what agents state of their use.

use coord_db::{ModelUse, microusd};
use serde_json::Value;

use super::Report;

/// More tokens than any run has: a larger number is an error of the agent, and would use up every budget.
const MAX_TOKENS: f64 = 1e11;
/// More US dollars than any run costs.
const MAX_DOLLARS: f64 = 1e6;

/// The number of tokens in the first of these fields. Negative numbers are 0.
pub(super) fn number(value: &Value, names: &[&str]) -> Option<i64> {
    tokens(names.iter().find_map(|name| value.get(*name))?.as_f64()?.max(0.0))
}

fn tokens(number: f64) -> Option<i64> {
    (0.0..=MAX_TOKENS).contains(&number).then_some(number as i64)
}

/// An amount of US dollars in a field.
pub(super) fn cost(value: &Value, name: &str) -> Option<i64> {
    value.get(name).and_then(Value::as_f64).and_then(price)
}

fn price(dollars: f64) -> Option<i64> {
    (0.0..=MAX_DOLLARS).contains(&dollars).then(|| microusd(dollars))
}

/// `{"input_tokens": 10, "cache_read_input_tokens": 4, "cache_creation_input_tokens": 3, "output_tokens": 2}` as of Anthropic's
/// messages, whose input is without caches; `{"input_tokens": 14, "cached_input_tokens": 4, …}` as of OpenAI's, whose input
/// includes them; or `{"total_tokens": 12}`.
pub(super) fn of_usage(usage: &Value) -> Option<ModelUse> {
    let input = number(usage, &["input_tokens", "prompt_tokens"]);
    let output = number(usage, &["output_tokens", "completion_tokens"]);
    if input.is_none() && output.is_none() {
        return number(usage, &["total_tokens"]).map(ModelUse::of_tokens);
    }
    let included = number(usage, &["cached_input_tokens"]);
    let cache_read = included.or_else(|| number(usage, &["cache_read_input_tokens"])).unwrap_or(0);
    let written = number(usage, &["cache_write_input_tokens"]);
    let cached = included.unwrap_or(0).saturating_add(written.unwrap_or(0));
    let used = ModelUse {
        input: input.unwrap_or(0).saturating_sub(cached).max(0),
        output: output.unwrap_or(0),
        cache_read,
        cache_write: written.or_else(|| number(usage, &["cache_creation_input_tokens"])).unwrap_or(0),
        ..ModelUse::default()
    };
    Some(used.counted())
}

/// Reads a line of plain text about tokens: `tokens used: 12,345`, that with the number on the next line, or
/// `Tokens: 2.1k sent, 350 received. Cost: $0.01 message, $0.02 session.`
pub(super) fn of_text(line: &str, report: &mut Report) {
    const PLAIN: &str = "tokens used";
    let lower = line.to_ascii_lowercase();
    let mut state = |tokens: Option<i64>| {
        if let Some(tokens) = tokens {
            report.used.insert(PLAIN.to_owned(), ModelUse::of_tokens(tokens));
        }
    };
    if let Some(rest) = lower.strip_prefix(PLAIN) {
        state(amount(rest.trim_start_matches(':').trim()));
        report.number_follows = rest.trim_matches([':', ' ']).is_empty();
        return;
    }
    if std::mem::take(&mut report.number_follows) && is_number(&lower) {
        let tokens = amount(&lower);
        report.used.extend(tokens.map(|tokens| (PLAIN.to_owned(), ModelUse::of_tokens(tokens))));
    } else if let Some(used) = lower.strip_prefix("tokens:").and_then(sent_and_received) {
        let name = format!("sent {}", report.messages.len());
        report.messages.insert(name, used);
    } else {
        report.text(line);
    }
}

fn is_number(line: &str) -> bool {
    !line.is_empty() && line.chars().all(|letter| letter.is_ascii_digit() || ",._".contains(letter))
}

/// ` 2.1k sent, 900 cache write, 1.2k cache hit, 350 received. Cost: $0.01 message, …`
fn sent_and_received(text: &str) -> Option<ModelUse> {
    let words: Vec<&str> = text.split_whitespace().map(|word| word.trim_end_matches([',', '.'])).collect();
    let before = |what: &[&str]| {
        let at = words.windows(what.len()).position(|window| window == what)?;
        amount(words.get(at.checked_sub(1)?)?)
    };
    let sent = before(&["sent"])?;
    // A request that failed.
    let received = before(&["received"]).filter(|received| *received > 0)?;
    let cache_read = before(&["cache", "hit"]).unwrap_or(0);
    let stated = words.iter().position(|word| *word == "message").and_then(|at| words.get(at.checked_sub(1)?));
    let dollars = stated.and_then(|stated| stated.strip_prefix('$')?.parse::<f64>().ok());
    let used = ModelUse {
        input: sent,
        output: received,
        cache_read,
        cache_write: before(&["cache", "write"]).unwrap_or(0),
        cost_microusd: dollars.and_then(price),
        ..ModelUse::default()
    };
    Some(used.counted())
}

/// `12,345`, `350`, `2.1k`, `1.2m`.
fn amount(text: &str) -> Option<i64> {
    let word = text.split_whitespace().next()?.replace([',', '_'], "");
    let (digits, times) = match word.strip_suffix('k') {
        Some(digits) => (digits, 1_000.0),
        None => word.strip_suffix('m').map_or((word.as_str(), 1.0), |digits| (digits, 1_000_000.0)),
    };
    tokens(digits.parse::<f64>().ok()? * times)
}
