//! The laws, each a function with a name. After every step those over its changes; as time passes those with a bound; at
//! the end those of a world that has come to rest.

mod landing;

use std::collections::{BTreeMap, BTreeSet};

use coord_db::payload::CATALOG;
use coord_db::{Decision, LeasePath, LoopId, LoopStatus, Test, TestStatus, Timestamp, WaitEdge};

use landing::{branch_has_passed, clashes_come_back, landed_once, passed_over_at_most, queued_ends, queued_stays, train_holds};

use super::audit::Change;
use super::waiting::{edges_in_cycles, ring_of};
use super::world::World;

/// A law that did not hold.
#[derive(Debug, Clone)]
pub struct Broken {
    /// Which.
    pub law: &'static str,
    /// What was seen.
    pub detail: String,
}

/// How often the laws with a bound are looked at.
const TIMED_EVERY_MILLIS: i64 = 4_000;
/// How long what somebody else has to put right may last while that one runs, in seconds of virtual time: one slow look and
/// one beat, the grace after a suspend, and as much again for looks that came too late.
const SOON: i64 = 120;
/// How long a loop may wait in a queue: every other one before it, with the longest attempt there is, and a deadlock each.
const TURN_SECONDS: i64 = 40 * 60;
/// As [`SOON`], for a deadlock: a full scan, and the victim's grace.
const CYCLE_SECONDS: i64 = 60 + 30 + SOON;

/// Events that an automatic source says of its own accord, because of a state or of the time and not of an event.
const ROOTS: &[(&str, &str)] = &[
    ("*", "component_started"),
    ("*", "component_stopped"),
    // A cycle of waiting is a state; no one event makes it.
    ("deadlock-detector", "force_release"),
    // Nor do tests that wait for each other.
    ("deadlock-detector", "decision_needed"),
    // Silence is no event, nor is the end of a lease's time.
    ("heartbeat", "component_degraded"),
    ("heartbeat", "file_unlocked"),
    // Too little progress, too many files, two hands in one file, too much used: all seen in rows and worktrees.
    ("monitor", "stuck_detected"),
    ("monitor", "digression_detected"),
    ("monitor", "file_conflict"),
    ("monitor", "resource_warning"),
    // Found by running checks on a branch that has moved.
    ("regression-checker", "regression_detected"),
    ("regression-checker", "regression_cleared"),
    // A test that waits too long for another is seen in rows.
    ("pm", "decision_needed"),
];

/// The fields of payloads that say what an event is about.
const SUBJECT: &[&str] = &[
    "loop_id",
    "loop_a",
    "loop_b",
    "test_id",
    "component",
    "file_path",
    "decision_id",
    "decision_type",
    "context",
    "request_id",
    "resource",
    "status",
    // That one attempt does nothing new and that no test passes are two findings with one beginning.
    "reasons",
];

/// What the laws remember from step to step.
#[derive(Debug, Default)]
pub struct Laws {
    top_token: i64,
    settled: BTreeSet<String>,
    acts: BTreeSet<String>,
    regressions: BTreeSet<String>,
    /// The tokens of leases whose time was over when they ended.
    expired: BTreeSet<i64>,
    ages: BTreeMap<&'static str, BTreeMap<String, i64>>,
    timed_at: i64,
}

type StepLaw = fn(&mut Laws, &World, &[Change]) -> Option<String>;
type TimedLaw = fn(&World) -> Vec<Overdue>;

/// Something that must not last.
#[derive(Debug)]
struct Overdue {
    key: String,
    most_seconds: i64,
    /// Who puts it right; its age stands still while that one is down.
    by: &'static str,
}

const STEP_LAWS: &[(&str, StepLaw)] = &[
    ("leases exclude each other", leases_exclude),
    ("fencing tokens grow", tokens_grow),
    ("the train holds the leases of queued work", train_holds),
    ("nobody takes what another holds", holders_keep),
    ("nobody living is declared dead", living_live),
    ("a test in progress is its loop's current test", in_progress_is_current),
    ("who ends an attempt lets everything go", ends_let_go),
    ("tests move as they may", tests_move),
    ("the branch is only at states that have passed", branch_has_passed),
    ("nothing lands twice", landed_once),
    ("queued work stays until its verdict", queued_stays),
    ("only what clashes is given back", clashes_come_back),
    ("nobody is passed over again and again", passed_over_at_most),
    ("passed is verified", passed_is_verified),
    ("attempts count failures", attempts_count),
    ("a delivery is settled once, by its consumer", settled_once),
    ("an event takes effect once", one_effect),
    ("events stand for ever", events_stand),
    ("every act is explained", explained),
    ("one force_release for each deadlock", one_force_release),
    ("the victim is the loop that costs least", victims_are_right),
    ("nothing is said twice for one cause", said_once),
    ("who answers a force_release has let go", answered_is_released),
    ("a regression is reported once, with its author", regressions_are_true),
    ("a pause stands until its asker lifts it", pauses_stand),
    ("a settled decision stays settled", decisions_stay),
    ("what is undone leaves nothing", no_leak),
    ("a due pass changes something", passes_progress),
];

const TIMED_LAWS: &[(&str, TimedLaw)] = &[
    ("every deadlock is broken", cycles_break),
    ("the dead hold nothing", dead_hold_nothing),
    ("expired leases are swept", expired_are_swept),
    ("decisions resolve in time", decisions_resolve),
    ("deliveries are taken", deliveries_are_taken),
    ("nobody starves", nobody_starves),
    ("queued work lands or comes back", queued_ends),
];

/// The names of all laws that are looked at while a world runs.
pub fn names() -> impl Iterator<Item = &'static str> {
    STEP_LAWS.iter().map(|(law, _)| *law).chain(TIMED_LAWS.iter().map(|(law, _)| *law))
}

impl Laws {
    /// Looks at what a step has changed.
    ///
    /// # Errors
    /// The first law that does not hold.
    pub fn after_step(&mut self, world: &World, changes: &[Change]) -> Result<(), Broken> {
        for (law, holds) in STEP_LAWS {
            if let Some(detail) = holds(self, world, changes) {
                return Err(Broken { law, detail });
            }
        }
        let passed = world.elapsed() - self.timed_at;
        if passed >= TIMED_EVERY_MILLIS {
            self.timed_at = world.elapsed();
            for (law, overdue) in TIMED_LAWS {
                let found = overdue(world);
                let ages = self.ages.entry(law).or_default();
                let before = std::mem::take(ages);
                for Overdue { key, most_seconds, by } in found {
                    let age = before.get(&key).copied().unwrap_or_default() + if world.serves(by) { passed } else { 0 };
                    if age > most_seconds * 1000 {
                        return Err(Broken { law, detail: format!("{key} for {} s", age / 1000) });
                    }
                    ages.insert(key, age);
                }
            }
        }
        Ok(())
    }

    /// The clocks were set or the machine slept: every age is counted from now, and what had expired may expire again.
    pub fn clocks_changed(&mut self) {
        self.ages.clear();
        self.acts.clear();
    }
}

fn of<'a>(changes: &'a [Change], what: &'a str) -> impl Iterator<Item = &'a Change> {
    changes.iter().filter(move |change| change.what == what)
}

fn leases_exclude(_: &mut Laws, world: &World, changes: &[Change]) -> Option<String> {
    of(changes, "lease").chain(of(changes, "lease again")).next()?;
    let leases = world.read(|tx| tx.leases(true));
    leases.iter().enumerate().find_map(|(at, lease)| {
        let other = leases[..at]
            .iter()
            .find(|other| other.locked_by != lease.locked_by && other.file_path.overlaps(&lease.file_path))?;
        Some(format!("{} of {} and {} of {}", lease.file_path, lease.locked_by, other.file_path, other.locked_by))
    })
}

fn tokens_grow(laws: &mut Laws, _: &World, changes: &[Change]) -> Option<String> {
    if let Some(back) = of(changes, "counter").find(|counter| counter.number(1) <= counter.number(0)) {
        return Some(format!("the counter {} went from {} to {}", back.key, back.text(0), back.text(1)));
    }
    let mut granted: BTreeMap<i64, &str> = BTreeMap::new();
    for lease in changes.iter().filter(|change| matches!(change.what.as_str(), "lease" | "lease again")) {
        let (holder, token) = (lease.text(0), lease.number(1));
        // Queued work keeps the tokens of its leases.
        if token == 0 || (holder == LoopId::train().as_str() && lease.number(3) == token) {
            continue;
        }
        if token <= laws.top_token {
            return Some(format!("{} of {holder} got token {token} after {}", lease.key, laws.top_token));
        }
        if *granted.entry(token).or_insert(holder) != holder {
            return Some(format!("token {token} was granted to {holder} and to {}", granted[&token]));
        }
    }
    laws.top_token = granted.last_key_value().map_or(laws.top_token, |(token, _)| *token);
    None
}

/// A lease is released by its holder, expires, ends with its holder's death, or is taken from a victim or by a person.
fn holders_keep(_: &mut Laws, world: &World, changes: &[Change]) -> Option<String> {
    let over = |expires: &str| expires.parse::<Timestamp>().is_ok_and(|at| at <= world.now());
    let may = |who: &str| world.ledger.acting.contains(who);
    let handed = |lease: &Change| lease.text(0) == LoopId::train().as_str() && may(lease.text(2));
    let replaced =
        of(changes, "lease again").find(|lease| lease.text(0) != lease.text(2) && !over(lease.text(4)) && !handed(lease));
    if let Some(lease) = replaced {
        return Some(format!("{} went from {} to {} before its time", lease.key, lease.text(2), lease.text(0)));
    }
    let runs = |holder: &str| world.read(|tx| tx.find_loop(holder)).is_some_and(|row| world.lives(row.pid));
    let died = |holder: &str| of(changes, "loop").any(|row| row.key == holder && row.text(1) == "error");
    let taken = of(changes, "lease over").find(|lease| {
        let holder = lease.text(0);
        let told = may("human") || may("foreign") || may("deadlock-detector");
        // Another process takes the place of a judge that has died.
        let dead_judge = lease.key == LeasePath::integration().as_str() && may(LoopId::train().as_str()) && !runs(holder);
        !(told || may(holder) || over(lease.text(2)) || died(holder) || dead_judge)
    })?;
    Some(format!("{} of {} was taken by {:?}", taken.key, taken.text(0), world.ledger.acting))
}

fn living_live(_: &mut Laws, world: &World, changes: &[Change]) -> Option<String> {
    of(changes, "loop").filter(|row| row.text(1) == "error" && world.lives(Some(row.number(4)))).find_map(|row| {
        let (components, slept) = world.read(|tx| Ok((tx.components()?, tx.clock_changes()?)));
        let beat = components.iter().find(|health| health.component == row.key)?.last_heartbeat?;
        let silent = coord_db::silent_millis(world.now(), beat, &slept);
        (silent < world.config.heartbeat.dead_seconds * 1000)
            .then(|| format!("{} runs, and beat {} s ago", row.key, silent / 1000))
    })
}

fn in_progress_is_current(_: &mut Laws, world: &World, changes: &[Change]) -> Option<String> {
    of(changes, "test").chain(of(changes, "loop")).next()?;
    let loops = world.read(|tx| tx.loops());
    world.read(|tx| tx.tests(None, Some(TestStatus::InProgress))).into_iter().find_map(|test| {
        if world.read(|tx| tx.open_landing(&test.id)).is_some() {
            return None;
        }
        let owner = loops.iter().find(|row| row.id == test.loop_id)?;
        let at_work = matches!(owner.status, LoopStatus::Running | LoopStatus::Paused);
        (!at_work || owner.current_test_id.as_ref() != Some(&test.id)).then(|| {
            format!("{} is in progress; its loop {} is {} at {:?}", test.id, owner.id, owner.status, owner.current_test_id)
        })
    })
}

/// By its own hand, or because it died. Whose test is taken away by others lets go once it notices.
fn ends_let_go(_: &mut Laws, world: &World, changes: &[Change]) -> Option<String> {
    let ended = of(changes, "loop").filter(|row| !row.text(2).is_empty() && row.text(3).is_empty());
    ended.filter(|row| row.text(1) == "error" || world.ledger.acting.contains(&row.key)).find_map(|row| {
        let (leases, requests) = world.read(|tx| Ok((tx.leases_of(&row.key)?, tx.lease_requests()?)));
        let waits = requests.iter().filter(|request| request.loop_id.as_str() == row.key).count();
        // Beside its attempts it may be the judge.
        let judges = |lease: &&coord_db::Lease| lease.file_path == LeasePath::integration();
        let keeps = leases.iter().filter(|lease| lease.fencing_token > 0 && !judges(lease)).count();
        (waits + keeps > 0)
            .then(|| format!("{} is done with {} and has {keeps} leases and {waits} places", row.key, row.text(2)))
    })
}

fn tests_move(_: &mut Laws, _: &World, changes: &[Change]) -> Option<String> {
    of(changes, "test").find_map(|test| {
        let (before, after, most) = (test.number(2), test.number(3), test.number(4));
        let legal = match (test.text(0), test.text(1)) {
            ("pending", "in_progress") => after == before + 1 && after <= most,
            // Failed, or given back.
            ("in_progress", "pending") => after == before || after == before - 1,
            ("in_progress", "passed" | "failed" | "skipped") => after == before,
            // Landed while its loop was gone or a hand had put it elsewhere: verified all the same.
            ("blocked" | "failed" | "skipped", "in_progress") => after == before,
            ("in_progress", "blocked") => after == before && after == most,
            // Put back to its beginning.
            ("pending" | "blocked" | "failed" | "passed" | "skipped", "pending") => after == 0,
            ("pending" | "blocked" | "failed", "skipped") => after == before,
            _ => false,
        };
        (!legal).then(|| {
            format!("{} went from {} to {} with attempts {before} to {after} of {most}", test.key, test.text(0), test.text(1))
        })
    })
}

fn passed_is_verified(_: &mut Laws, world: &World, changes: &[Change]) -> Option<String> {
    of(changes, "test").filter(|test| test.text(1) == "passed").find_map(|change| {
        let id = change.key.parse().ok()?;
        let (row, proofs) = world.read(|tx| Ok((tx.test(&id)?, tx.proofs(&id, None)?)));
        let commit = row.commit_hash.unwrap_or_default();
        if row.verified_at.is_none() {
            return Some(format!("{id} has no verified_at"));
        }
        if world.outside.gated.get(&commit) != Some(&id) || !world.outside.integration.iter().any(|known| known.id == commit) {
            return Some(format!("the gate has never let {commit:?} through for {id}"));
        }
        // Of the state that it landed with.
        let landed = world.outside.place(&commit);
        let proven = proofs.iter().any(|proof| {
            let is_tip = world.outside.passed.contains(&proof.commit_hash) && world.outside.place(&proof.commit_hash) >= landed;
            is_tip && proof.outcome == coord_db::CheckOutcome::Pass
        });
        (!proven).then(|| format!("{id} passed without a proof"))
    })
}

fn attempts_count(_: &mut Laws, world: &World, changes: &[Change]) -> Option<String> {
    of(changes, "test").find_map(|change| {
        let id: coord_db::TestId = change.key.parse().ok()?;
        let row = world.read(|tx| tx.test(&id));
        let failures = world.ledger.failures.get(&id).copied().unwrap_or_default();
        let expected = match row.status {
            TestStatus::InProgress => failures + 1,
            // Adopted after it had been skipped or blocked, it has no attempt of its own.
            TestStatus::Passed if row.attempts == failures => failures,
            TestStatus::Passed => failures + 1,
            TestStatus::Skipped => return None,
            _ => failures,
        };
        (row.attempts != expected || row.attempts > row.max_attempts)
            .then(|| format!("{id} is {} with {} attempts; {failures} have failed", row.status, row.attempts))
    })
}

fn settled_once(laws: &mut Laws, world: &World, changes: &[Change]) -> Option<String> {
    if let Some(gone) = of(changes, "delivery gone").find(|gone| gone.text(0) == "pending") {
        return Some(format!("the open delivery {} was deleted", gone.key));
    }
    of(changes, "delivery").find_map(|delivery| {
        if delivery.text(0) != "pending" || !laws.settled.insert(delivery.key.clone()) {
            return Some(format!("delivery {} was {} and is {} now", delivery.key, delivery.text(0), delivery.text(1)));
        }
        let ended = delivery.text(4) == "subscription ended";
        (!ended && !world.ledger.acting.contains(delivery.text(3)))
            .then(|| format!("{:?} settled a delivery of {}", world.ledger.acting, delivery.text(3)))
    })
}

fn one_effect(_: &mut Laws, world: &World, _: &[Change]) -> Option<String> {
    let ((consumer, event), count) = world.ledger.effects.iter().find(|(_, count)| **count > 1)?;
    let kind = world.read(|tx| tx.event(event)).map(|event| event.event_type).unwrap_or_default();
    Some(format!("{consumer} carried out one {kind} {count} times"))
}

fn events_stand(_: &mut Laws, _: &World, changes: &[Change]) -> Option<String> {
    let change = of(changes, "event changed").chain(of(changes, "event gone")).next()?;
    Some(format!("{} of {}", change.what, change.text(0)))
}

fn automatic(source: &str) -> bool {
    coord_db::supervisors::find(source).is_some()
}

fn explained(_: &mut Laws, world: &World, changes: &[Change]) -> Option<String> {
    of(changes, "event").filter(|event| automatic(event.text(0)) && !world.ledger.acting.contains("foreign")).find_map(
        |event| {
            let (source, kind, cause) = (event.text(0), event.text(1), &event.values[2]);
            let root = ROOTS.iter().any(|(by, root)| (*by == "*" || *by == source) && *root == kind);
            if cause.is_none() && !root && !asked_without_event(world, event) {
                return Some(format!("{source} said {kind} without a cause: {}", event.text(3)));
            }
            if let Some(cause) = cause
                && world.read(|tx| tx.event(cause)).is_none()
            {
                return Some(format!("{source} said {kind} because of an event that is not there"));
            }
            let gives_reasons = CATALOG.iter().any(|(name, fields)| *name == kind && fields.contains(&"reason"));
            let payload: serde_json::Value = serde_json::from_str(event.text(3)).unwrap_or_default();
            let reason = payload.get("reason").and_then(serde_json::Value::as_str).unwrap_or_default();
            (gives_reasons && kind != "file_locked" && reason.is_empty())
                .then(|| format!("{source} said {kind} without a reason"))
        },
    )
}

/// A question that another tool wrote as a bare row has no event that could be the cause of its end.
fn asked_without_event(world: &World, event: &Change) -> bool {
    let payload: serde_json::Value = serde_json::from_str(event.text(3)).unwrap_or_default();
    let decision = payload.get("decision_id").and_then(serde_json::Value::as_str).and_then(|id| id.parse().ok());
    let unasked = |id| world.read(|tx| tx.decision(&id)).event_id.is_none();
    event.text(1) == "decision_resolved" && decision.is_some_and(unasked)
}

/// One source says one thing about one subject because of one event once; without an event, once in one pass.
fn said_once(laws: &mut Laws, world: &World, changes: &[Change]) -> Option<String> {
    let now = world.story.steps().to_string();
    // A conflict that has ended can come again while the change that it names as its cause still stands.
    let said = of(changes, "event").filter(|event| automatic(event.text(0)) && event.text(1) != "file_conflict");
    said.into_iter().find_map(|event| {
        let cause = event.values[2].as_ref().unwrap_or(&now);
        let payload: serde_json::Value = serde_json::from_str(event.text(3)).unwrap_or_default();
        let subject: Vec<String> =
            SUBJECT.iter().map(|field| payload.get(field).map(ToString::to_string).unwrap_or_default()).collect();
        let act = format!("{} {} {} because of {cause}", event.text(0), event.text(1), subject.join(" "));
        (!laws.acts.insert(act.clone())).then_some(act)
    })
}

fn one_force_release(_: &mut Laws, world: &World, changes: &[Change]) -> Option<String> {
    let mut told = of(changes, "event")
        .filter(|event| event.text(0) == "deadlock-detector" && event.text(1) == "force_release")
        .peekable();
    told.peek()?;
    let open = world.read(|tx| tx.open_deadlocks());
    for event in told {
        let rows = open.iter().filter(|deadlock| deadlock.event_id.as_str() == event.key).count();
        if rows != 1 {
            return Some(format!("a force_release has {rows} deadlocks"));
        }
    }
    open.iter().enumerate().find_map(|(at, deadlock)| {
        let same = |other: &&coord_db::Deadlock| {
            let members = |of: &coord_db::Deadlock| BTreeSet::from_iter(of.cycle.0.iter().cloned());
            other.victim == deadlock.victim && members(other) == members(deadlock)
        };
        open[..at].iter().find(same).map(|_| format!("{} is the victim of {:?} twice", deadlock.victim, deadlock.cycle.0))
    })
}

/// Where cycles share loops the fewest victims are sought; that is for the detector's own tests to compare.
fn victims_are_right(_: &mut Laws, world: &World, changes: &[Change]) -> Option<String> {
    let mut told = of(changes, "event")
        .filter(|event| event.text(0) == "deadlock-detector" && event.text(1) == "force_release")
        .peekable();
    told.peek()?;
    let edges = edges_in_cycles(world);
    let spared = world.config.deadlock.spare_recent_minutes.saturating_mul(-60);
    let (open, recent) = world.read(|tx| Ok((tx.open_deadlocks()?, tx.deadlocks_since(tx.now().plus_seconds(spared))?)));
    let now_told: BTreeSet<&str> = of(changes, "event").map(|event| event.key.as_str()).collect();
    let before = |id: &str| recent.iter().any(|other| other.victim == id && !now_told.contains(other.event_id.as_str()));
    told.find_map(|event| {
        let said: coord_db::payload::ForceRelease = serde_json::from_str(event.text(3)).ok()?;
        let ring = ring_of(&edges, said.loop_id.as_str())?;
        let told_before = |id: &str| open.iter().any(|other| other.event_id.as_str() != event.key && other.victim == id);
        if ring.iter().any(|id| told_before(id)) || ring != said.cycle.iter().map(String::as_str).collect() {
            return None;
        }
        let cost = |id: &str| {
            let row = world.read(|tx| tx.loops()).into_iter().find(|row| row.id.as_str() == id)?;
            let leases = world.read(|tx| tx.leases_of(id)).len();
            Some((before(id), std::cmp::Reverse(row.priority), leases))
        };
        let (victim, least) = (cost(said.loop_id.as_str())?, ring.iter().filter_map(|id| cost(id)).min()?);
        (victim > least).then(|| format!("{} is the victim of {ring:?}: {victim:?} and not {least:?}", said.loop_id))
    })
}

fn answered_is_released(_: &mut Laws, world: &World, changes: &[Change]) -> Option<String> {
    of(changes, "delivery").filter(|delivery| delivery.text(1) == "acknowledged").find_map(|delivery| {
        let told = world.read(|tx| tx.event(delivery.text(2)))?;
        let victim = told.payload.get("loop_id").and_then(serde_json::Value::as_str).unwrap_or_default();
        if told.event_type != "force_release" || victim != delivery.text(3) {
            return None;
        }
        let (leases, edges) = world.read(|tx| Ok((tx.leases_of(victim)?, tx.wait_edges_of(victim)?.len())));
        let leases = leases.iter().filter(|lease| lease.file_path != LeasePath::integration()).count();
        (leases + edges > 0).then(|| format!("{victim} took its force_release and has {leases} leases and {edges} edges"))
    })
}

fn regressions_are_true(laws: &mut Laws, world: &World, changes: &[Change]) -> Option<String> {
    of(changes, "event")
        .filter(|event| event.text(0) == "regression-checker" && event.text(1) == "regression_detected")
        .find_map(|event| {
            let said: coord_db::payload::RegressionDetected = serde_json::from_str(event.text(3)).ok()?;
            let commit = said.first_bad_commit?;
            let culprit = world.outside.integration.iter().find(|known| known.id == commit)?;
            if culprit.breaks.as_ref() != Some(&said.test_id)
                || said.blamed_loop.is_none_or(|blamed| blamed.as_str() != culprit.loop_id)
            {
                return Some(format!(
                    "{} is said to be broken by {}, which broke {:?}",
                    said.test_id, culprit.test, culprit.breaks
                ));
            }
            (!laws.regressions.insert(format!("{} {commit}", said.test_id)))
                .then(|| format!("{} by {commit}, again", said.test_id))
        })
}

fn pauses_stand(_: &mut Laws, world: &World, changes: &[Change]) -> Option<String> {
    for lifted in of(changes, "pause lifted") {
        let filter = coord_db::EventFilter { event_type: Some("resume_requested".to_owned()), ..Default::default() };
        let asked = world.read(|tx| tx.events(&filter)).into_iter().any(|event| {
            let field = |name: &str| event.payload.get(name).and_then(serde_json::Value::as_str).unwrap_or_default().to_owned();
            field("loop_id") == lifted.key && [lifted.text(0), "human"].contains(&field("requested_by").as_str())
        });
        if !asked {
            return Some(format!("the pause of {} by {} was lifted, and nobody who may had asked", lifted.key, lifted.text(0)));
        }
    }
    of(changes, "loop").filter(|row| row.text(1) == "running").find_map(|row| {
        let id = row.key.parse().ok()?;
        let pauses = world.read(|tx| tx.pauses(Some(&id)));
        let status = world.read(|tx| tx.loop_row(&id)).status;
        (status == LoopStatus::Running && !pauses.is_empty())
            .then(|| format!("{id} runs although {} has paused it", pauses[0].requested_by))
    })
}

fn decisions_stay(_: &mut Laws, _: &World, changes: &[Change]) -> Option<String> {
    of(changes, "decision")
        .find(|decision| decision.text(0) != "pending")
        .map(|decision| format!("a decision went from {} to {}", decision.text(0), decision.text(1)))
}

fn no_leak(_: &mut Laws, world: &World, _: &[Change]) -> Option<String> {
    world.ledger.leak.clone()
}

fn passes_progress(_: &mut Laws, world: &World, _: &[Change]) -> Option<String> {
    let (id, passes) = world.ledger.idle_passes.iter().find(|(_, passes)| **passes >= 20)?;
    Some(format!("{id} found something due {passes} times in a row and changed nothing"))
}

fn cycles_break(world: &World) -> Vec<Overdue> {
    let text = |edge: &WaitEdge| format!("{} waits for {} on {} (edge {})", edge.waiter, edge.holder, edge.resource, edge.seq);
    let overdue = |edge| Overdue { key: text(edge), most_seconds: CYCLE_SECONDS, by: "deadlock-detector" };
    edges_in_cycles(world).iter().map(overdue).collect()
}

fn dead_hold_nothing(world: &World) -> Vec<Overdue> {
    let (loops, components, slept) = world.read(|tx| Ok((tx.loops()?, tx.components()?, tx.clock_changes()?)));
    let mut overdue = Vec::new();
    for row in loops {
        let Some(pid) = row.pid else { continue };
        let beat =
            components.iter().find(|health| health.component == row.id.as_str()).and_then(|health| health.last_heartbeat);
        let dead = world.config.heartbeat.dead_seconds;
        // Time that the machine slept counts against nobody.
        let silent = beat.is_some_and(|beat| coord_db::silent_millis(world.now(), beat, &slept) > dead * 1000);
        if world.lives(Some(pid)) && !silent {
            continue;
        }
        let holds = world.read(|tx| {
            let leases = tx.leases_of(row.id.as_str())?.len();
            let edges = tx.wait_edges_of(row.id.as_str())?.len();
            let requests = tx.lease_requests()?.iter().filter(|request| request.loop_id == row.id).count();
            let tests = tx.tests(Some(&row.id), Some(TestStatus::InProgress))?.len();
            Ok((leases + edges + requests + tests > 0).then(|| format!("{leases} leases, {edges} edges, {tests} tests")))
        });
        // Also its row: nobody may go on believing that it runs.
        let key = format!("{} (pid {pid}, dead) holds {}", row.id, holds.unwrap_or_else(|| "its row".to_owned()));
        overdue.push(Overdue { key, most_seconds: SOON, by: "heartbeat" });
    }
    overdue
}

fn expired_are_swept(world: &World) -> Vec<Overdue> {
    let expired = world.read(|tx| tx.expired_leases());
    let key = |lease: &coord_db::Lease| format!("{} of {} under {}", lease.file_path, lease.locked_by, lease.fencing_token);
    expired.iter().map(|lease| Overdue { key: key(lease), most_seconds: SOON, by: "heartbeat" }).collect()
}

fn decisions_resolve(world: &World) -> Vec<Overdue> {
    let overdue = |decision: &Decision| decision.due_at().is_some_and(|due| due < world.now());
    let open = world.read(|tx| tx.decisions(true)).into_iter().filter(overdue);
    open.map(|decision| Overdue {
        key: format!("the question {:?} ({})", decision.summary, decision.id),
        most_seconds: SOON,
        by: "pm",
    })
    .collect()
}

fn deliveries_are_taken(world: &World) -> Vec<Overdue> {
    let mut overdue = Vec::new();
    for id in &world.up {
        if let Some(first) = world.read(|tx| tx.pending_deliveries(id, 1)).first() {
            let key = format!("{id} leaves delivery {} ({}) untaken", first.seq, first.event.event_type);
            overdue.push(Overdue { key, most_seconds: SOON, by: id });
        }
    }
    overdue
}

/// Waiting is not starving while the clock stands or the holder of the lease may go on; but a turn comes to everyone.
fn nobody_starves(world: &World) -> Vec<Overdue> {
    let waiting = world.read(|tx| tx.lease_requests()).into_iter().filter(|request| request.wait_until > world.now());
    let key = |request: &coord_db::LeaseRequest| format!("{} waits for its turn ({})", request.loop_id, request.id);
    // The detector, the sweeper and who settles conflicts all have a part in it; without one of them it may take longer.
    let by = ["pm", "deadlock-detector", "heartbeat"].into_iter().find(|id| !world.serves(id)).unwrap_or("heartbeat");
    waiting.map(|request| Overdue { key: key(&request), most_seconds: TURN_SECONDS, by }).collect()
}

/// The whole database, checked by its own means. What an external tool left without a registered loop is for the checks to
/// report and breaks no law.
///
/// # Errors
/// What is wrong.
pub fn check(world: &World) -> Result<(), Broken> {
    let problems = world.db.check().map_err(|error| Broken { law: "the database is sound", detail: error.to_string() })?;
    match problems.into_iter().find(|problem| !problem.detail.contains("ghost")) {
        Some(problem) => Err(Broken { law: "the database is sound", detail: format!("{}: {}", problem.rule, problem.detail) }),
        None => Ok(()),
    }
}

/// True for a pending test whose chain of dependencies ends at one that will not pass, if the human knows of it: of the
/// last pending one in the chain, or of the one that it ends at.
fn waits_for_the_human(tests: &[Test], test: &Test, asked: &dyn Fn(&Test) -> bool) -> bool {
    let dependency = test.depends_on.as_ref().and_then(|id| tests.iter().find(|other| other.id == *id));
    match dependency.map(|other| other.status) {
        None | Some(TestStatus::Passed | TestStatus::InProgress) => false,
        Some(TestStatus::Failed | TestStatus::Blocked | TestStatus::Skipped) => asked(test),
        Some(TestStatus::Pending) => dependency.is_some_and(|other| waits_for_the_human(tests, other, asked)),
    }
}

/// Why the world has not come to rest yet; nothing once it has.
#[must_use]
pub fn unrest(world: &World) -> Option<String> {
    let (loops, tests, decisions) = world.read(|tx| Ok((tx.loops()?, tx.tests(None, None)?, tx.decisions(false)?)));
    let pm = world.up.contains("pm");
    let asked = |test: &Test| {
        !pm || decisions.iter().any(|decision| {
            decision.context.to_string().contains(test.id.as_str()) || decision.summary.contains(test.id.as_str())
        })
    };
    for test in &tests {
        let rests = match test.status {
            TestStatus::Passed | TestStatus::Skipped => true,
            TestStatus::Failed | TestStatus::Blocked => asked(test),
            TestStatus::Pending => waits_for_the_human(&tests, test, &asked),
            TestStatus::InProgress => false,
        };
        if !rests {
            return Some(format!("test {} of {} is {} ({} attempts)", test.id, test.loop_id, test.status, test.attempts));
        }
    }
    if let Some(decision) = decisions.iter().find(|decision| decision.status == coord_db::DecisionStatus::Pending) {
        return pm.then(|| format!("the question {:?} is open", decision.summary));
    }
    let left = world.read(|tx| {
        let requests = tx.lease_requests()?.len();
        let edges = tx.wait_edges()?;
        let leases = tx.leases(false)?;
        let deadlocks = tx.open_deadlocks()?.len();
        Ok(match (requests, edges.first(), leases.first(), deadlocks) {
            (0, None, None, 0) => None,
            (0, None, Some(lease), _) => Some(format!("{} still holds {}", lease.locked_by, lease.file_path)),
            (_, Some(edge), ..) => Some(format!("{} still waits for {} on {}", edge.waiter, edge.holder, edge.resource)),
            _ => Some(format!("{requests} requests and {deadlocks} deadlocks are open")),
        })
    });
    if left.is_some() {
        return left;
    }
    let suspicion = |row: &coord_db::Regression| {
        use coord_db::RegressionStatus::{Bisecting, Suspected};
        matches!(row.status, Suspected | Bisecting)
    };
    if world.up.contains("regression-checker") && world.read(|tx| tx.regressions(true)).iter().any(suspicion) {
        return Some("a regression is neither confirmed nor refuted".to_owned());
    }
    let consumers = world.up.iter().map(|id| (*id).to_owned()).chain(loops.iter().map(|row| row.id.to_string()));
    for consumer in consumers {
        if let Some(first) = world.read(|tx| tx.pending_deliveries(&consumer, 1)).first() {
            return Some(format!("{consumer} has not taken a {} yet", first.event.event_type));
        }
    }
    loops.iter().find(|row| row.status == LoopStatus::Paused).map(|row| format!("{} is still paused", row.id))
}
