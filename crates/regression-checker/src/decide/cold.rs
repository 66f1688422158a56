//! Decides when the checks run on a fresh clone without caches. Pure.

use coord_db::Config;
use coord_db::config::Cold;
use supervisor::Plan;

use super::Action;
use crate::notes::HeadCheck;
use crate::{RegressionSnapshot, baseline_checks};

const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;
/// Start of the night, as seconds of the day in UTC.
const FROM: i64 = HOUR;
/// End of the night.
const UNTIL: i64 = 5 * HOUR;

/// The next check to run on a fresh clone: once a round is due, all checks run at a head at which none has run.
pub(super) fn due(config: &Config, at: &RegressionSnapshot, head: &str, plan: &mut Plan<Action>) -> Option<Action> {
    let checks = || baseline_checks(config).filter(|check| at.in_use.contains(&check.name));
    let missing = checks().find(|check| !at.cold_ran.contains(&check.name))?;
    let has_begun = checks().any(|check| at.cold_ran.contains(&check.name));
    let due = match config.gate.cold {
        Cold::Never => false,
        _ if has_begun => true,
        Cold::Every(landings) => at.cold_landings >= i64::from(landings),
        Cold::Nightly => is_night(at, plan),
    };
    let steps = HeadCheck { check: missing.name.clone(), commit: head.to_owned(), again: false };
    due.then_some(Action::CheckCold { steps })
}

/// True if it is night and there has been something to run since before it began, or a day has passed since the last
/// round.
fn is_night(at: &RegressionSnapshot, plan: &mut Plan<Action>) -> bool {
    let now = at.now.as_millis().div_euclid(1000);
    let (day, time) = (now.div_euclid(DAY), now.rem_euclid(DAY));
    let begin = day * DAY + FROM;
    // Nothing has landed yet; the first landing wakes the supervisor.
    let Some(since) = at.last_cold_at.or(at.first_landing) else { return false };
    let since = since.as_millis().div_euclid(1000);
    let is_night = (FROM..UNTIL).contains(&time);
    if is_night && since < begin || now - since >= DAY {
        return true;
    }
    let night = if time < FROM { begin } else { begin + DAY };
    plan.look_again(at.now.plus_seconds(night.min(since + DAY) - now));
    false
}

#[cfg(test)]
mod tests {
    use coord_db::Timestamp;

    use super::*;

    fn said(cold: &str, at: &RegressionSnapshot) -> (bool, Option<i64>) {
        let text = format!("[gate]\ncold = \"{cold}\"\n[[gate.check]]\nname = \"unit\"\ncommand = [\"true\"]\n");
        let config = Config::parse(&text, std::path::Path::new("config.toml")).unwrap();
        let mut plan = Plan::default();
        let is_due = due(&config, at, "h", &mut plan).is_some();
        (is_due, plan.look_again_at.map(|again| again.seconds_since(at.now)))
    }

    fn at(day: i64, hour: i64) -> RegressionSnapshot {
        let now = Timestamp::from_millis((day * DAY + hour * HOUR) * 1000);
        RegressionSnapshot {
            in_use: ["unit".to_owned()].into(),
            first_landing: Some(now.plus_seconds(-2 * HOUR)),
            ..RegressionSnapshot::at(now)
        }
    }

    #[test]
    fn at_night_once_and_by_day_after_a_day() {
        assert_eq!(said("nightly", &at(20_000, 2)), (true, None));
        let landed_tonight = RegressionSnapshot { first_landing: Some(at(20_000, 1).now), ..at(20_000, 3) };
        assert_eq!(said("nightly", &landed_tonight), (false, Some(22 * HOUR)));
        assert_eq!(said("nightly", &at(20_000, 12)), (false, Some(13 * HOUR)));
        assert_eq!(said("nightly", &at(20_000, 0)), (false, Some(HOUR)));
        let ran = |hours: i64, at: RegressionSnapshot| RegressionSnapshot {
            last_cold_at: Some(at.now.plus_seconds(-hours * HOUR)),
            ..at
        };
        assert_eq!(said("nightly", &ran(1, at(20_000, 3))), (false, Some(22 * HOUR)));
        assert_eq!(said("nightly", &ran(3, at(20_000, 3))), (true, None));
        assert_eq!(said("nightly", &ran(24, at(20_000, 12))), (true, None));
        assert_eq!(said("never", &ran(24, at(20_000, 2))), (false, None));
    }

    #[test]
    fn each_check_runs_once_at_a_head_after_the_landings() {
        let landed = |landings: i64| RegressionSnapshot { cold_landings: landings, ..at(20_000, 12) };
        assert_eq!(said("every-3", &landed(2)), (false, None));
        assert_eq!(said("every-3", &landed(3)), (true, None));
        let mut ran = landed(3);
        ran.cold_ran.insert("unit".to_owned());
        assert_eq!(said("every-3", &ran), (false, None));
    }
}
