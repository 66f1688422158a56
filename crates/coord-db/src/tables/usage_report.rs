//! What the work has cost: by loop, test or day, beside the budgets, for each verified test, with rework charged to the loop
//! that caused it.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{Rework, UsageTotal};
use crate::config::BudgetConfig;
use crate::{ReadTx, Result, Timestamp, microusd};

/// What a report adds up by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UsageKey {
    /// Who spent it.
    Loop,
    /// On what it was spent.
    Test,
    /// When, by the day in UTC.
    Day,
    /// When, by the hour in UTC: `2026-11-23 13`.
    Hour,
    /// By the model.
    Model,
    /// By the agent's program.
    Agent,
}

/// How much of a budget is used. Budgets without a limit are omitted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BudgetUse {
    /// As the settings name it: `tokens_per_day`, `tests_per_day`, `tokens_per_test`, `minutes_per_test`,
    /// `usd_per_day`, `usd_per_test` in millionths of a dollar.
    pub budget: &'static str,
    /// How much is used.
    pub used: i64,
    /// How much may be.
    pub limit: i64,
    /// The one of the other, rounded down.
    pub percent: i64,
}

/// One line of the report.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct UsageLine {
    /// What it has used; the key is empty for what names no loop, test, day, hour, model or agent.
    #[serde(flatten)]
    pub used: UsageTotal,
    /// Verified passes in the same time.
    pub passed: i64,
    /// Of what was spent, what another loop is charged with.
    pub rework_suffered_tokens: i64,
    /// As above, in seconds.
    pub rework_suffered_seconds: i64,
    /// What others have spent because of this loop; 0 by test and by day.
    pub rework_caused_tokens: i64,
    /// As above, in seconds.
    pub rework_caused_seconds: i64,
    /// What it is charged with, `tokens_estimated - rework_suffered_tokens + rework_caused_tokens`, for each pass.
    pub tokens_per_passed: Option<i64>,
    /// As above, in seconds.
    pub seconds_per_passed: Option<i64>,
    /// Budgets that its use counts against. By loop: its own part of what all have for today.
    pub budgets: Vec<BudgetUse>,
}

fn budget(budget: &'static str, used: i64, limit: i64) -> Option<BudgetUse> {
    let percent = i64::try_from(i128::from(used) * 100 / i128::from(limit.max(1))).unwrap_or(i64::MAX);
    (limit > 0).then_some(BudgetUse { budget, used, limit, percent })
}

const DAY_MILLIS: i64 = 86_400_000;

impl ReadTx<'_> {
    /// Use since a moment, added up.
    pub fn usage_report(&self, by: UsageKey, since: Option<Timestamp>, budgets: &BudgetConfig) -> Result<Vec<UsageLine>> {
        let rework = match by {
            UsageKey::Loop | UsageKey::Test | UsageKey::Day => self.rework(since)?,
            // No event says which model's or agent's tokens were lost.
            UsageKey::Hour | UsageKey::Model | UsageKey::Agent => Vec::new(),
        };
        self.usage_report_with(by, since, budgets, &rework)
    }

    /// As [`ReadTx::usage_report`], with rework that is known already: to find it takes longer than all else.
    pub fn usage_report_with(
        &self,
        by: UsageKey,
        since: Option<Timestamp>,
        budgets: &BudgetConfig,
        rework: &[Rework],
    ) -> Result<Vec<UsageLine>> {
        let mut lines: BTreeMap<String, UsageLine> = BTreeMap::new();
        let line = |lines: &mut BTreeMap<String, UsageLine>, key: &str, change: &dyn Fn(&mut UsageLine)| {
            let used = || UsageTotal { key: key.to_owned(), ..UsageTotal::default() };
            let new = || UsageLine { used: used(), ..UsageLine::default() };
            change(lines.entry(key.to_owned()).or_insert_with(new));
        };
        for total in self.usage_totals(by, since)? {
            lines.insert(total.key.clone(), UsageLine { used: total, ..UsageLine::default() });
        }
        for (key, passed) in self.passes(by, since)? {
            line(&mut lines, &key, &|line| line.passed = passed);
        }
        for row in rework {
            // What a loop breaks and mends itself is in its own use.
            if row.loop_id.as_ref() == Some(&row.charged_to) {
                continue;
            }
            let payer = match by {
                UsageKey::Loop => row.loop_id.as_ref().map(ToString::to_string).unwrap_or_default(),
                UsageKey::Test => row.test_id.to_string(),
                UsageKey::Day => row.recorded_at.to_rfc3339()[..10].to_owned(),
                UsageKey::Hour | UsageKey::Model | UsageKey::Agent => continue,
            };
            line(&mut lines, &payer, &|line| suffer(line, row));
            if by == UsageKey::Loop {
                line(&mut lines, row.charged_to.as_str(), &|line| {
                    add(&mut line.rework_caused_tokens, row.tokens_estimated);
                    add(&mut line.rework_caused_seconds, row.duration_seconds);
                });
            }
        }
        let midnight = self.midnight();
        let today = if by == UsageKey::Loop { self.usage_totals(UsageKey::Loop, Some(midnight))? } else { Vec::new() };
        let mut report: Vec<UsageLine> = lines.into_values().collect();
        for line in &mut report {
            if line.passed > 0 {
                let charged =
                    |used: i64, suffered, caused: i64| used.saturating_sub(suffered).saturating_add(caused) / line.passed;
                let (tokens, seconds) = (line.used.tokens_estimated, line.used.duration_seconds);
                line.tokens_per_passed = Some(charged(tokens, line.rework_suffered_tokens, line.rework_caused_tokens));
                line.seconds_per_passed = Some(charged(seconds, line.rework_suffered_seconds, line.rework_caused_seconds));
            }
            line.budgets = self.budgets_of(by, line, &today, budgets)?;
        }
        Ok(report)
    }

    /// The beginning of this day, in UTC.
    fn midnight(&self) -> Timestamp {
        Timestamp::from_millis(self.now().as_millis().div_euclid(DAY_MILLIS) * DAY_MILLIS)
    }

    /// How much of the budgets of a day all loops have used today.
    pub fn budgets_today(&self, budgets: &BudgetConfig) -> Result<Vec<BudgetUse>> {
        let used = self.usage_totals(UsageKey::Day, Some(self.midnight()))?.pop().unwrap_or_default();
        let used = [
            budget("tokens_per_day", used.tokens_estimated, budgets.tokens_per_day),
            budget("usd_per_day", used.cost_microusd, microusd(budgets.usd_per_day)),
            budget("tests_per_day", self.tests_tried_since(self.midnight())?, budgets.tests_per_day),
        ];
        Ok(used.into_iter().flatten().collect())
    }

    fn budgets_of(
        &self,
        by: UsageKey,
        line: &UsageLine,
        today: &[UsageTotal],
        budgets: &BudgetConfig,
    ) -> Result<Vec<BudgetUse>> {
        let used = match by {
            UsageKey::Loop => {
                let used = today.iter().find(|total| total.key == line.used.key).cloned().unwrap_or_default();
                vec![
                    budget("tokens_per_day", used.tokens_estimated, budgets.tokens_per_day),
                    budget("usd_per_day", used.cost_microusd, microusd(budgets.usd_per_day)),
                ]
            }
            UsageKey::Test if budgets.tokens_per_test == 0 && budgets.minutes_per_test == 0 && budgets.usd_per_test == 0.0 => {
                Vec::new()
            }
            // A budget counts from the test's beginning, whatever time the report is about.
            UsageKey::Test => match line.used.key.parse() {
                Ok(test) => {
                    let used = self.usage_of_test(&test)?;
                    vec![
                        budget("tokens_per_test", used.tokens_estimated, budgets.tokens_per_test),
                        budget("minutes_per_test", used.duration_seconds / 60, budgets.minutes_per_test),
                        budget("usd_per_test", used.cost_microusd, microusd(budgets.usd_per_test)),
                    ]
                }
                Err(_) => Vec::new(),
            },
            UsageKey::Day => {
                let mut used = vec![
                    budget("tokens_per_day", line.used.tokens_estimated, budgets.tokens_per_day),
                    budget("usd_per_day", line.used.cost_microusd, microusd(budgets.usd_per_day)),
                ];
                // How many were tried is known of the day that is, not of one that is over.
                if self.now().to_rfc3339().starts_with(&line.used.key) && !line.used.key.is_empty() {
                    used.push(budget("tests_per_day", self.tests_tried_since(self.midnight())?, budgets.tests_per_day));
                }
                used
            }
            UsageKey::Hour | UsageKey::Model | UsageKey::Agent => Vec::new(),
        };
        Ok(used.into_iter().flatten().collect())
    }

    fn passes(&self, by: UsageKey, since: Option<Timestamp>) -> Result<Vec<(String, i64)>> {
        let key = match by {
            UsageKey::Loop => "json_extract(payload, '$.loop_id')",
            UsageKey::Test => "json_extract(payload, '$.test_id')",
            UsageKey::Day => "substr(timestamp, 1, 10)",
            UsageKey::Hour => "substr(timestamp, 1, 13)",
            UsageKey::Model | UsageKey::Agent => return Ok(Vec::new()),
        };
        self.query(
            &format!(
                "SELECT coalesce({key}, '') AS key, count(*) FROM events
                 WHERE event_type = 'test_passed' AND timestamp >= coalesce(?1, '') GROUP BY key"
            ),
            [since],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
    }
}

fn suffer(line: &mut UsageLine, row: &Rework) {
    add(&mut line.rework_suffered_tokens, row.tokens_estimated);
    add(&mut line.rework_suffered_seconds, row.duration_seconds);
}

/// Foreign records may be of any size.
fn add(sum: &mut i64, more: i64) {
    *sum = sum.saturating_add(more);
}
