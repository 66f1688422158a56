//! What the work has cost, and what limits it.

use std::cmp::Reverse;

use coord_db::config::BudgetConfig;
use coord_db::{BudgetUse, Error, Hold, ReadTx, Rework, Timestamp, UsageKey, UsageLine, UsageTotal};
use serde::Serialize;

/// The maximum number of tests: the dearest.
const MAX_TESTS: usize = 40;
/// The maximum number of hours: the newest.
const MAX_HOURS: usize = 48;
const DAY_MILLIS: i64 = 86_400_000;

/// Tokens, money and time of a period.
#[derive(Debug, Serialize)]
#[allow(missing_docs)]
pub struct Cost {
    /// None: since the beginning.
    pub since: Option<Timestamp>,
    pub total: UsageLine,
    pub by_loop: Vec<UsageLine>,
    /// The dearest first, without those of tests that used nothing.
    pub by_test: Vec<UsageLine>,
    pub tests_left_out: usize,
    pub by_agent: Vec<UsageLine>,
    pub by_model: Vec<UsageLine>,
    /// Oldest first.
    pub by_hour: Vec<UsageLine>,
    /// Tokens that were lost because of another loop or test, the newest first.
    pub rework: Vec<Rework>,
    /// What all loops have for today.
    pub today: Vec<BudgetUse>,
    /// When the budgets of a day begin again.
    pub resets_at: Timestamp,
    /// Agents and loops that start no attempt, with the time at which they are tried again.
    pub holds: Vec<Hold>,
    #[serde(rename = "at")]
    pub now: Timestamp,
}

/// Reads what was used since a moment.
///
/// # Errors
/// What the database reports.
pub fn look(tx: &ReadTx<'_>, since: Option<Timestamp>, budgets: &BudgetConfig) -> Result<Cost, Error> {
    let now = tx.now();
    let mut rework = tx.rework(since)?;
    rework.sort_by_key(|row| Reverse(row.recorded_at));
    // The budgets of single tests are not shown, and reading the use of each takes long.
    let no_budgets = BudgetConfig { tokens_per_test: 0, minutes_per_test: 0, usd_per_test: 0.0, ..budgets.clone() };
    let report = |by: UsageKey| tx.usage_report_with(by, since, &no_budgets, &rework);
    let by_loop = report(UsageKey::Loop)?;
    let mut by_test = report(UsageKey::Test)?;
    by_test.retain(|line| !line.used.key.is_empty() && (line.used.tokens_estimated > 0 || line.used.duration_seconds > 0));
    by_test.sort_by_key(|line| Reverse((line.used.cost_microusd, line.used.tokens_estimated)));
    let tests_left_out = by_test.len().saturating_sub(MAX_TESTS);
    by_test.truncate(MAX_TESTS);
    let dearest = |mut lines: Vec<UsageLine>| {
        lines.sort_by_key(|line| Reverse((line.used.cost_microusd, line.used.tokens_estimated)));
        lines
    };
    let mut by_hour = report(UsageKey::Hour)?;
    by_hour.drain(..by_hour.len().saturating_sub(MAX_HOURS));
    let (by_agent, by_model) = (report(UsageKey::Agent)?, report(UsageKey::Model)?);
    Ok(Cost {
        since,
        total: total(&by_loop),
        by_loop: dearest(by_loop),
        by_test,
        tests_left_out,
        by_agent: dearest(by_agent),
        by_model: dearest(by_model),
        by_hour,
        rework,
        today: tx.budgets_today(budgets)?,
        resets_at: resets_at(now),
        holds: tx.all_holds()?,
        now,
    })
}

/// What was used since the beginning, and what there is left for today.
#[derive(Debug)]
#[allow(missing_docs)]
pub struct Spent {
    pub used: UsageTotal,
    pub today: Vec<BudgetUse>,
    /// When the budgets of a day begin again.
    pub resets_at: Timestamp,
    /// Agents that are at a limit.
    pub limits: Vec<Hold>,
}

/// Reads what was used, and what is left.
///
/// # Errors
/// What the database reports.
pub fn spent(tx: &ReadTx<'_>, budgets: &BudgetConfig) -> Result<Spent, Error> {
    let lines = tx.usage_totals(UsageKey::Model, None)?.into_iter().map(|used| UsageLine { used, ..UsageLine::default() });
    let mut limits = tx.all_holds()?;
    limits.retain(|hold| hold.agent().is_some());
    Ok(Spent {
        used: total(&lines.collect::<Vec<_>>()).used,
        today: tx.budgets_today(budgets)?,
        resets_at: resets_at(tx.now()),
        limits,
    })
}

/// The moment at which the budgets of the day began: midnight in UTC.
#[must_use]
pub fn midnight(now: Timestamp) -> Timestamp {
    Timestamp::from_millis(now.as_millis().div_euclid(DAY_MILLIS) * DAY_MILLIS)
}

/// The moment at which they begin again.
#[must_use]
pub fn resets_at(now: Timestamp) -> Timestamp {
    midnight(now).plus_millis(DAY_MILLIS)
}

fn total(lines: &[UsageLine]) -> UsageLine {
    // A foreign row may have any number.
    let add = |sum: &mut i64, part: i64| *sum = sum.saturating_add(part);
    let mut total = UsageLine::default();
    for line in lines {
        add(&mut total.used.records, line.used.records);
        add(&mut total.used.tokens_estimated, line.used.tokens_estimated);
        add(&mut total.used.duration_seconds, line.used.duration_seconds);
        add(&mut total.used.input_tokens, line.used.input_tokens);
        add(&mut total.used.output_tokens, line.used.output_tokens);
        add(&mut total.used.cache_read_tokens, line.used.cache_read_tokens);
        add(&mut total.used.cache_write_tokens, line.used.cache_write_tokens);
        add(&mut total.used.cost_microusd, line.used.cost_microusd);
        add(&mut total.passed, line.passed);
        add(&mut total.rework_suffered_tokens, line.rework_suffered_tokens);
        add(&mut total.rework_suffered_seconds, line.rework_suffered_seconds);
    }
    // What one loop loses another is charged with: together it is what was used.
    total.tokens_per_passed = (total.passed > 0).then(|| total.used.tokens_estimated / total.passed);
    total.seconds_per_passed = (total.passed > 0).then(|| total.used.duration_seconds / total.passed);
    total
}

/// A budget in words, and its amounts.
#[must_use]
pub fn budget_words(used: &BudgetUse) -> (String, String) {
    let name = used.budget.replace("usd", "US dollars").replace('_', " ");
    (name, format!("{} of {}", amount(used, used.used), amount(used, used.limit)))
}

/// What a budget of a day still allows: `3 800 of 5 000 tokens`.
#[must_use]
pub fn left_words(used: &BudgetUse) -> String {
    let left = used.limit.saturating_sub(used.used).max(0);
    let what = match used.budget.trim_end_matches("_per_day") {
        // The amounts name the currency.
        "usd" => String::new(),
        what => format!(" {what}"),
    };
    format!("{} of {}{what}", amount(used, left), amount(used, used.limit))
}

fn amount(used: &BudgetUse, value: i64) -> String {
    if used.budget.starts_with("usd") { coord_db::dollars(value) } else { crate::text::grouped(value) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_of_a_budget_is_never_less_than_nothing() {
        let of = |budget, used, limit| left_words(&BudgetUse { budget, used, limit, percent: 0 });
        assert_eq!(of("tokens_per_day", 1_200, 5_000), "3\u{202f}800 of 5\u{202f}000 tokens");
        assert_eq!(of("tests_per_day", 9, 4), "0 of 4 tests");
        let dollars = of("usd_per_day", 1_200_000, 5_000_000);
        assert_eq!(dollars, format!("{} of {}", coord_db::dollars(3_800_000), coord_db::dollars(5_000_000)));
    }
}
