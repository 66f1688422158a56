//! Counts the LLM tokens of an agent's run from its output.
//!
//! Agents that report usage are believed: JSON lines with a `usage` object (as Claude Code, Codex and the APIs below
//! them print), `tokens used: N`, and `Tokens: 2.1k sent, 350 received`. Cached input does not count. For other agents
//! the number is estimated from the prompt and the output, four bytes a token: too low, because their reading is
//! invisible, but never zero. A budget is only as reliable as the agent's report.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use command_runner::Outcome;
use serde_json::Value;

/// Maximum size of the end of a log that is read.
const MAX_LOG_BYTES: u64 = 256 * 1024;
const BYTES_PER_TOKEN: u64 = 4;

/// The end of a run's output. The log keeps the first bytes; the tail has the last ones with the results.
pub(crate) fn end_of_output(outcome: &Outcome, log: Option<&Path>) -> String {
    let whole = log.filter(|_| !outcome.log_cut).and_then(end_of);
    whole.unwrap_or_else(|| outcome.tail.clone())
}

/// The tokens of one run, from the end of its output.
pub(crate) fn spent(prompt_bytes: usize, outcome: &Outcome, end: &str) -> i64 {
    let estimate = (prompt_bytes as u64).saturating_add(outcome.output_bytes) / BYTES_PER_TOKEN;
    reported(end).unwrap_or_else(|| i64::try_from(estimate).unwrap_or(i64::MAX))
}

fn end_of(log: &Path) -> Option<String> {
    let mut file = File::open(log).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(MAX_LOG_BYTES))).ok()?;
    let mut bytes = Vec::new();
    file.take(MAX_LOG_BYTES).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// The usage reported by the agent, if any.
fn reported(output: &str) -> Option<i64> {
    let mut turns: Option<i64> = None;
    let mut plain: Option<i64> = None;
    let mut sent: Option<i64> = None;
    let mut number_follows = false;
    for line in output.lines().map(str::trim) {
        if line.starts_with('{') {
            let Ok(value) = serde_json::from_str::<Value>(line) else { continue };
            let Some(used) = value.get("usage").and_then(of_usage) else { continue };
            // A result covers the whole run, a turn only a part.
            match value.get("type").and_then(Value::as_str) {
                Some("turn.completed") => turns = Some(turns.unwrap_or(0).saturating_add(used)),
                _ => turns = Some(used),
            }
            continue;
        }
        let lower = line.to_ascii_lowercase();
        if let Some(rest) = lower.strip_prefix("tokens used") {
            plain = amount(rest.trim_start_matches(':').trim()).or(plain);
            number_follows = rest.trim_matches([':', ' ']).is_empty();
        } else if number_follows {
            plain = amount(&lower).or(plain);
            number_follows = false;
        } else if let Some(rest) = lower.strip_prefix("tokens:") {
            sent = sent_and_received(rest).map(|used| sent.unwrap_or(0).saturating_add(used)).or(sent);
        }
    }
    turns.or(plain).or(sent)
}

/// `{"input_tokens": 10, "cached_input_tokens": 4, "output_tokens": 2, …}` or `{"total_tokens": 12}`.
fn of_usage(usage: &Value) -> Option<i64> {
    let field = |name: &str| usage.get(name).and_then(Value::as_i64).map(|count| count.max(0));
    let input = field("input_tokens").or_else(|| field("prompt_tokens"));
    let output = field("output_tokens").or_else(|| field("completion_tokens"));
    if input.is_none() && output.is_none() {
        return field("total_tokens");
    }
    let fresh = input.unwrap_or(0).saturating_sub(field("cached_input_tokens").unwrap_or(0)).max(0);
    Some(fresh.saturating_add(field("cache_creation_input_tokens").unwrap_or(0)).saturating_add(output.unwrap_or(0)))
}

/// ` 2.1k sent, 350 received. Cost: …`
fn sent_and_received(text: &str) -> Option<i64> {
    let words: Vec<&str> = text.split_whitespace().map(|word| word.trim_end_matches([',', '.'])).collect();
    let before = |what: &str| words.iter().position(|word| *word == what).and_then(|at| amount(words.get(at.checked_sub(1)?)?));
    let sent = before("sent")?;
    Some(sent.saturating_add(before("received").unwrap_or(0)))
}

/// `12,345`, `350`, `2.1k`, `1.2m`.
fn amount(text: &str) -> Option<i64> {
    let word = text.split_whitespace().next()?.replace([',', '_'], "");
    let (digits, times) = match word.strip_suffix('k') {
        Some(digits) => (digits, 1_000.0),
        None => word.strip_suffix('m').map_or((word.as_str(), 1.0), |digits| (digits, 1_000_000.0)),
    };
    let number: f64 = digits.parse().ok()?;
    (number.is_finite() && number >= 0.0).then_some((number * times).min(1e15) as i64)
}

#[cfg(test)]
mod tests {
    use super::reported;

    #[test]
    fn what_agents_say_of_their_use_is_read() {
        let cases = [
            ("done\nall is well", None),
            (
                "{\"type\":\"assistant\",\"message\":{}}\n{\"type\":\"result\",\"usage\":{\"input_tokens\":10,\"cache_creation_input_tokens\":100,\"cache_read_input_tokens\":9000,\"output_tokens\":5}}",
                Some(115),
            ),
            (
                "{\"type\":\"turn.completed\",\"usage\":{\"input_tokens\":50,\"cached_input_tokens\":40,\"output_tokens\":3}}\n{\"type\":\"turn.completed\",\"usage\":{\"input_tokens\":7,\"output_tokens\":1}}",
                Some(21),
            ),
            ("{\"usage\":{\"total_tokens\":12}}", Some(12)),
            ("{\"usage\":{\"prompt_tokens\":2,\"completion_tokens\":3,\"total_tokens\":5}}", Some(5)),
            ("tokens used: 12,345", Some(12_345)),
            ("Tokens used\n1,234\n", Some(1_234)),
            ("Tokens: 2.1k sent, 350 received. Cost: $0.01\nok\nTokens: 1k sent, 50 received.", Some(3_500)),
            ("tokens used: many", None),
            ("{\"usage\":\"much\"}", None),
            ("{\"usage\":{\"input_tokens\":-5,\"output_tokens\":9223372036854775807}}", Some(i64::MAX)),
        ];
        for (output, expected) in cases {
            assert_eq!(reported(output), expected, "{output}");
        }
    }
}
