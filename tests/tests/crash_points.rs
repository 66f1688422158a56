//! Real processes, killed between every two steps of an effect outside the database, and killed again while they recover. After
//! it, every time: the work is verified and landed once, nothing is lost, nothing half-done is left.
//!
//! Each place where a process can be killed is a [`Point`]; one that no scenario reaches fails the test. By default every point
//! is tried once and a few pairs by chance; `CODING_LOOPS_CRASH_PAIRS=200` tries 200 pairs, `CODING_LOOPS_CRASH_PAIRS=all`
//! every occurrence of every point in every variant, and every pair. `CODING_LOOPS_CRASH_ONLY=TEXT` repeats the cases whose
//! description contains this text.

#[path = "crash/world.rs"]
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crash_point::Point;
use world::{Ending, World};

/// Who is there between the killing and the next start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Beside {
    Nobody,
    /// It finds the loop dead and gives its test back.
    Heartbeat,
    /// And another loop works before the dead one comes back, if it ever does.
    AnotherLoop,
}

const VARIANTS: [Beside; 3] = [Beside::Nobody, Beside::Heartbeat, Beside::AnotherLoop];

#[derive(Clone, Debug)]
struct Case {
    kills: Vec<String>,
    beside: Beside,
    /// With each kill certain to happen.
    certain: bool,
}

/// Points that only a start after a kill comes to, and what that kill must be.
const IN_RECOVERY: &[(Point, Point)] =
    &[(Point::CheckpointMade, Point::StartEntryRecovered), (Point::IntegrateMoved, Point::RecoverLanded)];

/// Points after which it matters most whether another loop goes on alone.
const ELSEWHERE: &[Point] = &[
    Point::CheckpointMade,
    Point::PutAwaySaved,
    Point::LandingQueued,
    Point::TrainMarked,
    Point::TrainRecorded,
    Point::IntegrateIntended,
    Point::IntegrateMoved,
];

/// Points of processes that are no loops; see below.
const OF_SUPERVISORS: &[Point] =
    &[Point::EffectIntended, Point::EffectPerformed, Point::EffectRecorded, Point::RegressionRan, Point::RegressionKept];

/// Points of a loop that receives an order while it works; see below.
const OF_ORDERS: &[Point] = &[Point::OrderDone, Point::OrderRecorded];

/// Points of bringing the user's commits in; see below.
const OF_SYNC: &[Point] = &[
    Point::SyncBegun,
    Point::SyncFetched,
    Point::SyncChecked,
    Point::SyncTurn,
    Point::SyncIntended,
    Point::SyncMoved,
    Point::SyncRecorded,
];

fn of_other_tests(point: &Point) -> bool {
    OF_SUPERVISORS.contains(point) || OF_ORDERS.contains(point) || OF_SYNC.contains(point)
}

/// The places that a process came to, each with its number: `integrate.moved:2`.
fn numbered(life: &[String]) -> Vec<String> {
    let mut occurrences: BTreeMap<&str, usize> = BTreeMap::new();
    life.iter()
        .map(|name| {
            let number = occurrences.entry(name).or_default();
            *number += 1;
            format!("{name}:{number}")
        })
        .collect()
}

/// Runs something for each of many, several at once, and gives the outcomes in order; those that fail are reported together.
fn for_each<T: Sync + std::fmt::Debug, O: Send>(cases: &[T], run: impl Fn(&T) -> O + Sync) -> Vec<O> {
    let next = AtomicUsize::new(0);
    let (done, failed) = (Mutex::new(BTreeMap::new()), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(case) = cases.get(at) else { return };
                    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(case))) {
                        Ok(outcome) => drop(done.lock().unwrap().insert(at, outcome)),
                        Err(_) => failed.lock().unwrap().push(format!("{case:?}")),
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "{} of {} cases failed:\n{}", failed.len(), cases.len(), failed.join("\n"));
    done.into_inner().unwrap().into_values().collect()
}

fn name_of(kill: &str) -> &str {
    kill.split_once(':').map_or(kill, |(name, _)| name)
}

/// Runs one case. Gives the points at which the process was killed, and what the last start came through.
fn run(case: &Case) -> (Vec<String>, Vec<String>) {
    let world = World::with_clash();
    let mut killed = Vec::new();
    for kill in &case.kills {
        match world.coding_loop("one", Some(kill)) {
            Ending::Killed => killed.push(kill.clone()),
            Ending::Exited(0, _) => {
                assert!(!case.certain, "{case:?}: {kill} is never reached\n{}", world.log());
                break;
            }
            Ending::Exited(code, log) => panic!("{case:?}: {kill}: the loop ended with {code}\n{log}"),
        }
        if case.beside != Beside::Nobody {
            world.heartbeat();
            world.assert_given_back(case);
        }
        if case.beside == Beside::AnotherLoop {
            assert!(matches!(world.coding_loop("two", None), Ending::Exited(0, _)), "{case:?}\n{}", world.log());
            world.assert_settled_for_the_dead(case);
        }
    }
    let Ending::Exited(0, log) = world.coding_loop("one", Some("log")) else { panic!("{case:?}\n{}", world.log()) };
    if case.beside == Beside::AnotherLoop && killed.is_empty() {
        world.coding_loop("two", None);
    }
    world.assert_in_order(case, killed.len());
    (killed, world::points_in(&log))
}

#[test]
fn a_loop_killed_between_every_two_steps_and_again_in_its_recovery() {
    let wish = std::env::var("CODING_LOOPS_CRASH_PAIRS").unwrap_or_default();
    let all = wish == "all";
    // What an undisturbed life comes through, in order.
    let undisturbed = Case { kills: Vec::new(), beside: Beside::Nobody, certain: true };
    let (_, life) = run(&undisturbed);
    let hits = numbered(&life);
    let expected: BTreeSet<&str> = Point::ALL
        .iter()
        .filter(|point| !of_other_tests(point) && !IN_RECOVERY.iter().any(|(_, second)| second == *point))
        .map(|point| point.name())
        .collect();
    let missing: Vec<_> = expected.iter().filter(|name| !life.iter().any(|reached| reached == *name)).collect();
    assert!(missing.is_empty(), "never reached: {missing:?}; the scenario must be widened");

    let mut cases = Vec::new();
    for (at, hit) in hits.iter().enumerate() {
        let last = !hits[at + 1..].iter().any(|later| name_of(later) == name_of(hit));
        for (number, &beside) in VARIANTS.iter().enumerate() {
            // Where a point is passed several times the last one is in the thick of things.
            let elsewhere = ELSEWHERE.iter().any(|point| point.name() == name_of(hit));
            let usual = if elsewhere { beside == Beside::AnotherLoop } else { at % 2 == number };
            if all || (last && usual) {
                cases.push(Case { kills: vec![hit.clone()], beside, certain: true });
            }
        }
    }
    for (number, (first, second)) in IN_RECOVERY.iter().enumerate() {
        let kills = vec![first.name().to_owned(), second.name().to_owned()];
        cases.push(Case { kills, beside: VARIANTS[number % 2], certain: true });
    }
    let seed = fastrand::u64(..);
    eprintln!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    if !all {
        for _ in 0..wish.parse().unwrap_or(3) {
            let kills =
                vec![hits[random.usize(..hits.len())].clone(), Point::ALL[random.usize(..Point::ALL.len())].name().to_owned()];
            cases.push(Case { kills, beside: VARIANTS[random.usize(..3)], certain: false });
        }
    }
    let only = std::env::var("CODING_LOOPS_CRASH_ONLY").ok();
    if let Some(only) = &only {
        cases.retain(|case| format!("{case:?}").contains(only));
    }
    eprintln!("{} cases", cases.len());
    let outcomes = for_each(&cases, run);
    if only.is_some() {
        return;
    }
    let reached: BTreeSet<&str> = outcomes.iter().flat_map(|(killed, _)| killed).map(|kill| name_of(kill)).collect();
    for point in Point::ALL.iter().filter(|point| !of_other_tests(point)) {
        assert!(reached.contains(point.name()), "nobody was killed at {}", point.name());
    }
    if all {
        // Every first kill, and then every place that the life after it comes to.
        let mut pairs = Vec::new();
        for (case, (_, after)) in cases.iter().zip(&outcomes).filter(|(case, _)| case.kills.len() == 1) {
            if case.beside == Beside::Nobody {
                for second in after.iter().collect::<BTreeSet<_>>() {
                    pairs.push(Case {
                        kills: vec![case.kills[0].clone(), second.clone()],
                        beside: VARIANTS[random.usize(..3)],
                        certain: false,
                    });
                }
            }
        }
        eprintln!("{} pairs", pairs.len());
        for_each(&pairs, run);
    }
}

#[test]
fn an_init_killed_when_the_store_is_made_is_done_again_or_gone_on_from() {
    for again in [true, false] {
        let world = World::with_clash();
        assert!(matches!(world.loopctl(&["init"], Some(Point::StoreMade.name())), Ending::Killed), "{}", world.log());
        if again {
            assert!(matches!(world.loopctl(&["init"], None), Ending::Exited(0, _)), "{}", world.log());
        }
        let Ending::Exited(0, log) = world.coding_loop("one", Some("log")) else { panic!("{}", world.log()) };
        assert!(!world::points_in(&log).contains(&Point::StoreMade.name().to_owned()), "{log}");
        world.assert_in_order(&again, 0);
    }
}

#[test]
fn a_notification_is_given_at_least_once_and_settled_once() {
    for point in [Point::EffectIntended, Point::EffectPerformed, Point::EffectRecorded] {
        let world = World::new();
        world.ask();
        assert!(matches!(world.supervisor("pm-agent", Some(point.name())), Ending::Killed), "{point:?}\n{}", world.log());
        assert!(matches!(world.supervisor("pm-agent", None), Ending::Exited(0, _)), "{point:?}\n{}", world.log());
        assert!(matches!(world.supervisor("pm-agent", None), Ending::Exited(0, _)), "{point:?}\n{}", world.log());
        let told = std::fs::read_to_string(world.folder().join("notified")).unwrap_or_default();
        let mut lines: Vec<&str> = told.lines().collect();
        // What a human has seen cannot be withdrawn: a try whose outcome is unknown is repeated, under the same name.
        assert_eq!(lines.len(), if point == Point::EffectPerformed { 2 } else { 1 }, "{point:?}: {told}");
        lines.dedup();
        assert_eq!(lines.len(), 1, "{told}");
        world.assert_journal("pm", &[("notify", "committed")]);
    }
}

#[test]
fn a_rollback_killed_between_every_two_steps_goes_back_once_and_loses_nothing() {
    let world = World::with_rollback();
    let Ending::Exited(0, log) = world.coding_loop("one", Some("log")) else { panic!("{}", world.log()) };
    world.assert_rolled_back(&"undisturbed");
    let life = numbered(&world::points_in(&log));
    let begins = life.iter().position(|hit| name_of(hit) == Point::AgentEnded.name()).unwrap();
    let ends = life.iter().position(|hit| name_of(hit) == Point::OrderRecorded.name()).unwrap();
    let hits = &life[begins..=ends];
    for point in [Point::WorkLooked, Point::PutAwaySaved, Point::WorkspaceReset, Point::PutAwaySettled, Point::OrderDone] {
        assert!(hits.iter().any(|hit| name_of(hit) == point.name()), "{point:?} is no step of a rollback: {hits:?}");
    }
    for_each(hits, |hit| {
        let world = World::with_rollback();
        assert!(matches!(world.coding_loop("one", Some(hit)), Ending::Killed), "{hit}\n{}", world.log());
        let heartbeat = hits.iter().position(|each| each == hit).unwrap() % 2 == 0;
        if heartbeat {
            world.heartbeat();
            world.assert_given_back(hit);
        }
        assert!(matches!(world.coding_loop("one", None), Ending::Exited(0, _)), "{hit}\n{}", world.log());
        world.assert_rolled_back(hit);
    });
}

#[test]
fn a_bisection_killed_between_every_two_steps_blames_the_right_commit_once() {
    let broken = || {
        let world = World::new();
        assert!(matches!(world.coding_loop("one", None), Ending::Exited(0, _)), "{}", world.log());
        assert!(matches!(world.supervisor("regression-checker", None), Ending::Exited(0, _)), "{}", world.log());
        let (culprit, head) = world.break_t1(7, 4);
        (world, culprit, head)
    };
    let (world, culprit, head) = broken();
    let Ending::Exited(0, log) = world.supervisor("regression-checker", Some("log")) else { panic!("{}", world.log()) };
    world.assert_blamed(&"undisturbed", &culprit, &head);
    let life = numbered(&world::points_in(&log));
    let all = std::env::var("CODING_LOOPS_CRASH_PAIRS").is_ok_and(|wish| wish == "all");
    // By default the last of each kind, which is in the bisection, and some in between.
    let last = |hit: &String| !life.iter().skip_while(|each| *each != hit).skip(1).any(|later| name_of(later) == name_of(hit));
    let hits: Vec<&String> =
        life.iter().enumerate().filter(|(at, hit)| all || at % 9 == 2 || last(hit)).map(|(_, hit)| hit).collect();
    eprintln!("{} of {} places", hits.len(), life.len());
    for_each(&hits, |hit| {
        let (world, culprit, head) = broken();
        assert!(matches!(world.supervisor("regression-checker", Some(hit)), Ending::Killed), "{hit}\n{}", world.log());
        assert!(matches!(world.supervisor("regression-checker", None), Ending::Exited(0, _)), "{hit}\n{}", world.log());
        world.assert_blamed(hit, &culprit, &head);
    });
}

#[test]
fn a_check_of_the_standing_kind_is_taken_up_where_it_was() {
    for point in OF_SUPERVISORS {
        let world = World::new();
        assert!(matches!(world.coding_loop("one", None), Ending::Exited(0, _)), "{}", world.log());
        assert!(
            matches!(world.supervisor("regression-checker", Some(point.name())), Ending::Killed),
            "{point:?}\n{}",
            world.log()
        );
        assert!(matches!(world.supervisor("regression-checker", None), Ending::Exited(0, _)), "{point:?}\n{}", world.log());
        world.assert_journal("regression-checker", &[("check_head", "committed")]);
        assert_eq!(world.sql("SELECT outcome FROM check_runs"), [["pass"]]);
        assert_eq!(world.sql("SELECT count(*) FROM regressions"), [["0"]]);
        world.assert_nothing_stray(&["one"]);
    }
}

#[test]
fn a_submit_by_hand_killed_again_and_again_lands_once() {
    let kills = [
        Point::WorkPutOn,
        Point::GateCheckedOut,
        Point::GatePassed,
        Point::LandingKept,
        Point::LandingQueued,
        Point::TrainTaken,
        Point::TrainMarked,
        Point::TrainRecorded,
        Point::IntegrateIntended,
        Point::IntegrateMoved,
        Point::PublishBrought,
        Point::PublishMoved,
    ];
    for by_another in [false, true] {
        let world = World::new();
        let workspace = world.take_by_hand();
        std::fs::write(workspace.join("work-t3"), "by hand\n").unwrap();
        for kill in kills {
            assert!(matches!(world.loopctl(&["submit", "t3"], Some(kill.name())), Ending::Killed), "{kill:?}\n{}", world.log());
        }
        if by_another {
            // The process that landed it is proven gone, so the next loop that works records it.
            assert!(matches!(world.coding_loop("two", None), Ending::Exited(0, _)), "{}", world.log());
        } else {
            let Ending::Exited(_, log) = world.loopctl(&["submit", "t3"], None) else { panic!("{}", world.log()) };
            assert!(log.contains("test t3 is passed"), "a former submit has recorded it: {log}");
        }
        world.assert_landed_by_hand();
    }
}

#[test]
fn a_sync_killed_between_every_two_steps_brings_the_commits_in_once() {
    let others = [Point::GateCheckedOut, Point::PublishBrought, Point::PublishMoved];
    let points: Vec<Point> = OF_SYNC.iter().copied().chain(others).collect();
    let cases: Vec<(Point, bool)> =
        points.iter().flat_map(|point| [(*point, false), (*point, true)]).filter(|(point, _)| *point != others[0]).collect();
    for_each(&cases, |(point, by_a_loop)| {
        let world = World::new();
        assert!(matches!(world.coding_loop("two", None), Ending::Exited(0, _)), "{}", world.log());
        world.commit_of_the_user();
        assert!(matches!(world.loopctl(&["sync"], Some(point.name())), Ending::Killed), "{point:?}\n{}", world.log());
        if *by_a_loop {
            // Nobody has to wait for leases of a command that has ended, and what it has landed is recorded by the next loop.
            assert!(matches!(world.coding_loop("one", None), Ending::Exited(0, _)), "{point:?}\n{}", world.log());
        }
        assert!(matches!(world.loopctl(&["sync"], None), Ending::Exited(0, _)), "{point:?}\n{}", world.log());
        world.assert_synced(&(point, by_a_loop), if *by_a_loop { &["one", "two"] } else { &["two"] });
    });
}
