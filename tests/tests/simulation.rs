//! The deterministic simulation: worlds from seeds, and proof that the laws catch what they are for.
//!
//! `SIM_SEED=…` runs one seed, `SIM_SEEDS=N` N of them; else as many as fit into a test run.

use std::collections::BTreeSet;

use coord_db::SUPERVISORS;
use system_tests::simulation::supervisors::Tampering;
use system_tests::simulation::{LoopFault, Scenario, Summary, TrainFault, Wakes, join, laws, run};

/// How many worlds of chaos a test run sees, always the same ones. Each law that is broken on purpose is found in the first 40;
/// `--long` sees 1,200.
const SEEDS: u64 = 48;
/// The worlds are divided among this number of tests, which run side by side.
const PARTS: u64 = 4;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is {text:?}; expected a number")))
}

fn seeds(part: u64, parts: u64, of: u64) -> Vec<u64> {
    match number("SIM_SEED") {
        Some(seed) => vec![seed],
        None => (0..of).filter(|seed| seed % parts == part).collect(),
    }
}

fn settles(scenario: &Scenario) -> Summary {
    run(scenario).unwrap_or_else(|failure| panic!("{failure}"))
}

fn chaos(name: &'static str, part: u64) {
    let mut failures = Vec::new();
    for seed in seeds(part, PARTS, number("SIM_SEEDS").unwrap_or(SEEDS)) {
        if let Err(failure) = run(&Scenario::chaos(name, seed)) {
            failures.push(failure);
        }
    }
    // All that fail are named; the first one tells its story.
    let all: Vec<String> =
        failures.iter().map(|failure| format!("{}: {} ({})", failure.seed, failure.law, failure.detail)).collect();
    assert!(failures.is_empty(), "{}\n\n{}", all.join("\n"), failures[0]);
}

#[test]
fn every_supervisor_takes_part() {
    let mut joined = BTreeSet::new();
    join(&mut |id, _| assert!(joined.insert(id)));
    assert_eq!(joined, SUPERVISORS.map(|each| each.id).into());
}

#[test]
fn chaos_1() {
    chaos("chaos_1", 0);
}

#[test]
fn chaos_2() {
    chaos("chaos_2", 1);
}

#[test]
fn chaos_3() {
    chaos("chaos_3", 2);
}

#[test]
fn chaos_4() {
    chaos("chaos_4", 3);
}

#[test]
fn a_seed_tells_the_same_story_twice() {
    for seed in seeds(0, 1, 2) {
        let scenario = Scenario::chaos("a_seed_tells_the_same_story_twice", seed);
        assert_eq!(settles(&scenario), settles(&scenario));
    }
}

/// A wake is only a hint: with all of them withheld the tests end as they do with all of them heard.
#[test]
fn withheld_wakes_change_nothing() {
    for seed in seeds(0, 1, 6) {
        let heard = Scenario::fair("withheld_wakes_change_nothing", seed);
        let withheld = Scenario { wakes: Wakes::None, ..heard.clone() };
        assert_eq!(settles(&heard).tests, settles(&withheld).tests, "seed {seed}");
    }
}

/// The worlds are not empty: what the laws are about happens in them.
#[test]
fn much_happens() {
    let mut events = std::collections::BTreeMap::<String, usize>::new();
    let mut refused = 0;
    for seed in 100..116 {
        let summary = settles(&Scenario::chaos("much_happens", seed));
        refused += summary.refused;
        for (kind, count) in summary.events {
            *events.entry(kind).or_default() += count;
        }
    }
    assert!(refused > 0, "no disk was ever full");
    for kind in "test_passed test_failed test_blocked file_locked file_unlocked file_conflict force_release pause_requested \
                 resume_requested loop_paused loop_resumed digression_detected rollback_done restart_requested component_degraded component_recovered \
                 stuck_detected decision_needed decision_resolved human_message regression_detected regression_cleared landing_queued batch_judged"
        .split_whitespace()
    {
        assert!(events.contains_key(kind), "{kind}: {events:?}");
    }
}

/// The first seeds in whose worlds these laws fired when last seen. The search begins there, which only saves time.
const SEEN_AT: &[(&str, u64)] = &[
    ("who answers a force_release has let go", 22),
    ("every deadlock is broken", 6),
    ("one force_release for each deadlock", 13),
    ("what is undone leaves nothing", 7),
    ("the victim is the loop that costs least", 6),
    ("the dead hold nothing", 10),
    ("a regression is reported once, with its author", 2),
    ("nothing lands twice", 10),
];

/// Runs broken worlds until a law fires: it must be the one that is there for this. A world that only never comes to rest
/// says nothing about the others.
fn caught(expected: &str, broken: impl Fn(Scenario) -> Scenario) {
    let first = SEEN_AT.iter().find(|(law, _)| *law == expected).map_or(0, |(_, seed)| *seed);
    for seed in (first..40).chain(0..first) {
        let scenario = Scenario { settles_seconds: 300, ..Scenario::chaos("every_law_is_seen_to_fire", seed) };
        match run(&broken(scenario)) {
            Err(failure) if failure.law == expected => return,
            Err(failure) => assert_eq!(failure.law, "everything settles", "expected {expected:?}; {failure}"),
            Ok(_) => {}
        }
    }
    panic!("the law {expected:?} did not fire");
}

fn loops(fault: LoopFault) -> impl Fn(Scenario) -> Scenario {
    move |scenario| Scenario { loop_fault: fault, ..scenario }
}

fn train(fault: TrainFault) -> impl Fn(Scenario) -> Scenario {
    move |scenario| Scenario { train_fault: fault, ..scenario }
}

fn supervisor(id: &'static str, how: Tampering) -> impl Fn(Scenario) -> Scenario {
    move |scenario| Scenario { tampered: vec![(id, how)], ..scenario }
}

fn rogue(sql: &'static str) -> impl Fn(Scenario) -> Scenario {
    move |scenario| Scenario { rogue: Some(sql), ..scenario }
}

fn fair(scenario: Scenario) -> Scenario {
    Scenario { faults: false, hands: false, ..scenario }
}

type Break = Box<dyn Fn(Scenario) -> Scenario>;

#[test]
fn every_law_is_seen_to_fire() {
    let broken: Vec<(&str, Break)> = vec![
        ("passed is verified", Box::new(loops(LoopFault::PassesWithoutGate))),
        ("who answers a force_release has let go", Box::new(|scenario| fair(loops(LoopFault::ReleasesNothing)(scenario)))),
        ("an event takes effect once", Box::new(loops(LoopFault::AcknowledgesLater))),
        ("a pause stands until its asker lifts it", Box::new(loops(LoopFault::RunsWhilePaused))),
        ("attempts count failures", Box::new(loops(LoopFault::GivesFailuresBack))),
        ("a due pass changes something", Box::new(supervisor("heartbeat", Tampering::Forgets))),
        (
            "every deadlock is broken",
            // With the monitor awake pm would let one of two go first before it comes to a deadlock.
            Box::new(|scenario| {
                let tampered = vec![("deadlock-detector", Tampering::Sleeps), ("monitor", Tampering::Nods)];
                fair(Scenario { tampered, ..scenario })
            }),
        ),
        ("one force_release for each deadlock", Box::new(supervisor("deadlock-detector", Tampering::Doubles))),
        ("every act is explained", Box::new(supervisor("pm", Tampering::Babbles))),
        ("nothing is said twice for one cause", Box::new(supervisor("heartbeat", Tampering::Doubles))),
        ("what is undone leaves nothing", Box::new(supervisor("heartbeat", Tampering::Leaks))),
        ("deliveries are taken", Box::new(|scenario| fair(supervisor("pm", Tampering::Sleeps)(scenario)))),
        (
            "nobody takes what another holds",
            // After a heartbeat has been recorded since: it is hardly the holder's own step.
            Box::new(rogue(
                "DELETE FROM file_locks WHERE locked_by GLOB 'loop*'
                 AND locked_at < (SELECT max(last_heartbeat) FROM component_health WHERE component = 'monitor')",
            )),
        ),
        (
            "who ends an attempt lets everything go",
            // In the step that ended it.
            Box::new(rogue(
                "INSERT INTO lease_requests (id, loop_id, paths, waiting_since, wait_until)
                 SELECT 'left', loop_id, '[\"x\"]', queued_at, '2099-01-01 00:00:00' FROM landings WHERE ended_at IS NULL LIMIT 1",
            )),
        ),
        (
            "the victim is the loop that costs least",
            // In the step that named a victim: now it was the wrong one.
            Box::new(rogue("UPDATE loops SET priority = 10 - priority WHERE EXISTS (SELECT 1 FROM deadlocks)")),
        ),
        (
            "nobody living is declared dead",
            Box::new(rogue("UPDATE loops SET status = 'error' WHERE status = 'running' AND current_test_id IS NULL")),
        ),
        (
            "nobody starves",
            Box::new(|scenario| {
                // It never ends, and nobody may take it away.
                let sql = "INSERT OR IGNORE INTO file_locks (file_path, locked_by) VALUES ('Cargo.toml', 'ghost')";
                Scenario { settles_seconds: 4 * 3600, ..rogue(sql)(fair(scenario)) }
            }),
        ),
        ("decisions resolve in time", Box::new(supervisor("pm", Tampering::Nods))),
        (
            "the dead hold nothing",
            Box::new(|scenario| Scenario { hands: false, ..supervisor("heartbeat", Tampering::Nods)(scenario) }),
        ),
        (
            "expired leases are swept",
            Box::new(|scenario| {
                let sql =
                    "INSERT INTO file_locks (file_path, locked_by, expires_at) VALUES ('x', 'ghost', '2033-05-18 03:34:00')";
                rogue(sql)(fair(supervisor("heartbeat", Tampering::Nods)(scenario)))
            }),
        ),
        (
            "passed is verified",
            Box::new(rogue("UPDATE tests SET status = 'passed', verified_at = last_attempt_at WHERE status = 'in_progress'")),
        ),
        ("fencing tokens grow", Box::new(rogue("UPDATE counters SET value = 1 WHERE name = 'fencing_token' AND value > 5"))),
        ("a delivery is settled once, by its consumer", Box::new(rogue("DELETE FROM deliveries WHERE status = 'pending'"))),
        (
            "a delivery is settled once, by its consumer",
            Box::new(rogue("UPDATE deliveries SET status = 'pending', settled_at = NULL WHERE status = 'acknowledged'")),
        ),
        (
            "leases exclude each other",
            Box::new(rogue(
                "INSERT INTO file_locks (file_path, locked_by) SELECT file_path || 'c', 'ghost' FROM file_locks WHERE file_path = 'src/'",
            )),
        ),
        (
            "a test in progress is its loop's current test",
            Box::new(rogue("UPDATE loops SET current_test_id = NULL WHERE current_test_id IS NOT NULL")),
        ),
        ("tests move as they may", Box::new(rogue("UPDATE tests SET attempts = attempts + 2 WHERE status = 'in_progress'"))),
        ("a pause stands until its asker lifts it", Box::new(rogue("DELETE FROM pauses"))),
        (
            "a settled decision stays settled",
            Box::new(rogue("UPDATE decisions SET status = 'pending', decided_at = NULL WHERE status <> 'pending'")),
        ),
        (
            "a regression is reported once, with its author",
            Box::new(rogue(
                "INSERT INTO events (id, source, event_type, payload) SELECT 'again', source, event_type, payload FROM events
                 WHERE event_type = 'regression_detected' AND json_extract(payload, '$.first_bad_commit') IS NOT NULL LIMIT 1",
            )),
        ),
        ("the branch is only at states that have passed", Box::new(train(TrainFault::LandsUnjudged))),
        ("nothing lands twice", Box::new(train(TrainFault::LandsAgain))),
        ("only what clashes is given back", Box::new(train(TrainFault::GivesAnyoneBack))),
        ("queued work stays until its verdict", Box::new(train(TrainFault::Withdraws))),
        (
            "queued work lands or comes back",
            Box::new(|scenario| Scenario { settles_seconds: 4 * 3600, ..fair(train(TrainFault::Sleeps)(scenario)) }),
        ),
        ("nobody is passed over again and again", Box::new(rogue("UPDATE landings SET passed_over = 99 WHERE ended_at IS NULL"))),
        (
            "the train holds the leases of queued work",
            Box::new(rogue("DELETE FROM file_locks WHERE locked_by = 'landing-train'")),
        ),
        (
            "events stand for ever",
            Box::new(rogue(
                "DROP TRIGGER IF EXISTS events_refuse_change; UPDATE events SET payload = '{}' WHERE event_type = 'test_passed'",
            )),
        ),
    ];
    let mut unseen: BTreeSet<&str> = laws::names().collect();
    for (law, how) in broken {
        caught(law, how);
        unseen.remove(law);
    }
    assert!(unseen.is_empty(), "nothing shows that these laws can fire: {unseen:?}");
}
