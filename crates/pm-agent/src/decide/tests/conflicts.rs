//! Who goes first in a conflict, and when the other goes on.

use super::*;

#[test]
fn the_more_important_loop_goes_first_then_the_further_one_then_the_earlier_one() {
    World::new().busy("a", 5).busy("b", 1).conflict("f", "a", "b").expect(&["conflict f: b before a", "pause a"]);
    let equal = || World::new().busy("a", 5).busy("b", 5);
    equal().progress("a", 1, 9).progress("b", 2, 3).conflict("f", "a", "b").expect(&["conflict f: b before a", "pause a"]);
    // The first loop that the event names came first.
    equal().conflict("f", "b", "a").expect(&["conflict f: b before a", "pause a"]);
    equal().conflict("f", "a", "b").expect(&["conflict f: a before b", "pause b"]);
}

#[test]
fn nobody_is_paused_for_a_conflict_that_is_over_at_once() {
    let idle = || World::new().busy("a", 1).with_loop("b", 5, LoopStatus::Running);
    idle().conflict("f", "a", "b").expect(&["conflict f: over"]);
    let paused = World::new().busy("a", 5).with_loop("b", 1, LoopStatus::Paused);
    paused.conflict("f", "a", "b").expect(&["conflict f: over"]);
    World::new().busy("a", 5).conflict("f", "a", "gone").expect(&["conflict f: over"]);
    World::new().busy("a", 5).conflict("f", "a", "a").expect(&["ignore"]);
}

#[test]
fn a_conflict_that_stands_is_not_opened_twice() {
    let world = World::new().busy("a", 1).busy("b", 5).settled("f", "a", "b");
    world.conflict("f", "b", "a").expect(&["ignore"]);
    let world = World::new().busy("a", 1).busy("b", 5).conflict("f", "a", "b");
    world.conflict("f", "b", "a").expect(&["conflict f: a before b", "pause b", "ignore"]);
}

#[test]
fn a_loser_goes_on_when_the_winners_test_has_ended() {
    World::new().busy("a", 1).busy("b", 5).settled("f", "a", "b").expect(&[]);
    let ended = |status| {
        let world = World::new().busy("a", 1).with_loop("b", 5, LoopStatus::Paused).settled("f", "a", "b");
        world.with_test(test("T-a", "a", status))
    };
    for status in [TestStatus::Passed, TestStatus::Pending, TestStatus::Blocked, TestStatus::Skipped] {
        ended(status).expect(&["c-f: over", "resume b"]);
    }
    for status in [LoopStatus::Paused, LoopStatus::Error, LoopStatus::Stopped] {
        let world = World::new().busy("a", 1).with_loop("a", 1, status).busy("b", 5).settled("f", "a", "b");
        world.expect(&["c-f: over", "resume b"]);
    }
    World::new().busy("b", 5).settled("f", "a", "b").expect(&["c-f: over", "resume b"]);
}

#[test]
fn a_loser_of_two_conflicts_waits_for_both() {
    let world = World::new().busy("a", 1).busy("z", 1).with_loop("b", 5, LoopStatus::Paused);
    let world = world.settled("f", "a", "b").settled("g", "z", "b");
    let world = world.with_test(test("T-a", "a", TestStatus::Passed));
    assert_eq!(world.acts(), ["c-f: over"]);
    world.with_test(test("T-z", "z", TestStatus::Passed)).expect(&["c-f: over", "c-g: over", "resume b"]);
}

#[test]
fn what_the_human_has_resumed_is_left_alone() {
    let mut world = World::new().busy("a", 1).busy("b", 5).settled("f", "a", "b");
    world.at.conflicts[0].resumed_by_human = Some(id("resumed"));
    world.expect(&["c-f: over"]);
}

#[test]
fn waits_never_form_a_cycle() {
    // b waits for a. However important b is, c does not wait for it.
    let world = World::new().busy("a", 1).busy("b", 1).busy("c", 9).settled("f", "a", "b");
    world.conflict("g", "b", "c").expect(&["conflict g: c before b", "pause b"]);
    // A winner may lose to one that waits for nobody.
    let world = World::new().busy("a", 5).busy("b", 5).busy("c", 1).settled("f", "a", "b");
    world.conflict("g", "a", "c").expect(&["conflict g: c before a", "pause a"]);
    // Two that wait already are settled when one of them works again.
    let world = World::new().busy("a", 5).busy("b", 5).busy("c", 1).settled("f", "a", "b").settled("g", "a", "c");
    world.conflict("h", "b", "c").expect(&["conflict h: later"]);
    // All at once: somebody always works.
    let world = World::new().busy("a", 1).busy("b", 2).busy("c", 3);
    let world = world.conflict("f", "b", "c").conflict("g", "c", "a").conflict("h", "a", "b");
    world.expect(&[
        "conflict f: b before c",
        "pause c",
        "conflict g: a before c",
        "pause c",
        "conflict h: a before b",
        "pause b",
    ]);
}

#[test]
fn circles_never_form_whatever_conflicts_come() {
    let names = ["a", "b", "c", "d", "e"];
    let mut random: u64 = 42;
    let mut next = |below: usize| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(random >> 33).unwrap() % below
    };
    for _ in 0..300 {
        let mut world = World::new();
        for name in names {
            world = world.busy(name, i64::try_from(next(3)).unwrap() + 1);
        }
        for round in 0..3 {
            for file in 0..3 {
                let (one, other) = (next(5), next(5));
                if one != other {
                    world = world.conflict(&format!("f{round}{file}"), names[one], names[other]);
                }
            }
            for action in decide(&world.config, &world.at).actions {
                if let Act::OpenConflict { file, verdict: Verdict::Settle(settlement), .. } = action.act {
                    world = world.settled(&file, settlement.winner.as_str(), settlement.loser.as_str());
                }
            }
            world.at.inbox.clear();
            let mut held: BTreeSet<&str> = BTreeSet::new();
            // A loop that waits only for loops that wait for nobody goes on in the end; with a cycle some never would.
            let waits: Vec<(&str, &str)> = world
                .at
                .conflicts
                .iter()
                .map(|open| (open.row.loser.as_ref().unwrap().as_str(), open.row.winner.as_ref().unwrap().as_str()))
                .collect();
            held.extend(waits.iter().map(|(loser, _)| *loser));
            loop {
                let before = held.len();
                held = held
                    .iter()
                    .copied()
                    .filter(|name| waits.iter().any(|(loser, winner)| loser == name && held.contains(winner)))
                    .collect();
                if held.len() == before {
                    break;
                }
            }
            assert!(held.is_empty(), "{waits:?}");
        }
    }
}
