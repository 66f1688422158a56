use coord_db::ErrorCategory;

use super::*;
use crate::snapshot::Failure;

/// A pending test whose last attempt failed with this category and which was given back this number of times.
fn failed(name: &str, of: &str, category: ErrorCategory, give_backs: i64) -> Failure {
    let test = Test {
        error_category: Some(category),
        last_error: Some("why".to_owned()),
        last_attempt_at: Some(at(-5)),
        give_backs,
        ..test(name, of, TestStatus::Pending)
    };
    Failure { test, event: Some(id("failed")), asked: false, paused: false }
}

#[test]
fn what_the_specification_or_a_human_is_needed_for_is_asked_once_and_waits() {
    for category in [ErrorCategory::Spec, ErrorCategory::Human] {
        let world = |asked| {
            let mut world = World::new().busy("a", 1);
            world.at.failures = vec![Failure { asked, ..failed("t", "a", category, 0) }];
            world
        };
        world(false).expect(&["ask failure test:t", "hold t until 3600"]);
        world(true).expect(&[]);
    }
    let answered = |choice: &str| {
        World::new()
            .with_test(test("t", "a", TestStatus::Pending))
            .decision("d", "failure", &["retry", "skip", "leave"], Some("leave"), json!({"test_id": "t"}))
            .answer("d", choice)
    };
    answered("retry").expect(&["settle d=retry [hold t until 0]"]);
    answered("skip").expect(&["settle d=skip [skip t]"]);
}

#[test]
fn a_loop_that_has_run_out_of_something_pauses_until_it_may_try_again() {
    let world = |paused, until| {
        let mut world = World::new().busy("a", 1);
        let mut failure = failed("t", "a", ErrorCategory::Resource, 1);
        (failure.test.not_before, failure.paused) = (Some(at(until)), paused);
        world.at.failures = vec![failure];
        world
    };
    world(false, 60).expect(&["pause a"]);
    assert_eq!(decide(&world(false, 60).config, &world(false, 60).at).look_again_at, Some(at(60)));
    // While it lasts the pause is neither repeated nor lifted; afterwards it is lifted.
    let own = |mut world: World| {
        let row =
            Pause { loop_id: id("a"), requested_by: "pm".to_owned(), reason: String::new(), event_id: None, since: at(-1) };
        world.at.own_pauses.push(OwnPause { row, lifted: false });
        world
    };
    own(world(true, 60)).expect(&[]);
    own(world(true, -1)).expect(&["resume a"]);
}

#[test]
fn a_dependency_is_waited_for_and_then_asked_about() {
    let world = |give_backs| {
        let mut world = World::new().busy("a", 1);
        world.at.failures = vec![failed("t", "a", ErrorCategory::Dependency, give_backs)];
        world
    };
    world(10).expect(&[]);
    world(13).expect(&["ask failure test:t"]);
}

#[test]
fn an_error_of_the_system_raises_an_alert_and_stops_everyone_once_it_is_shared() {
    let world = |failures: Vec<Failure>| {
        let mut world = World::new().busy("a", 1).busy("b", 2).with_loop("c", 3, LoopStatus::Stopped);
        world.at.failures = failures;
        world
    };
    let hit = |of, give_backs| failed(&format!("t-{of}"), of, ErrorCategory::System, give_backs);
    world(vec![hit("a", 1)]).expect(&["tell of the system"]);
    world(vec![hit("a", 9)]).expect(&["tell of the system"]);
    let mut other = hit("b", 9);
    other.test.last_error = Some("something else".to_owned());
    world(vec![hit("a", 9), other]).expect(&["tell of the system"]);
    world(vec![hit("a", 1), hit("b", 1)]).expect(&["tell of the system", "ask system system", "pause a", "pause b"]);
    let answered = |choice: &str| {
        let mut world = world(vec![]).decision("d", "system", &["go_on", "stop"], Some("go_on"), json!({"loops": ["a", "b"]}));
        let row =
            Pause { loop_id: id("a"), requested_by: "pm".to_owned(), reason: String::new(), event_id: None, since: at(-1) };
        world.at.own_pauses.push(OwnPause { row, lifted: false });
        world.answer("d", choice)
    };
    answered("go_on").expect(&["settle d=go_on []", "resume a"]);
    answered("stop").expect(&["settle d=stop [pause a by human, pause b by human]", "resume a"]);
}

#[test]
fn idle_loops_take_a_share_of_what_nobody_has_begun() {
    let world = || {
        let mut world =
            World::new().busy("full", 1).with_loop("idle", 5, LoopStatus::Running).with_loop("free", 1, LoopStatus::Running);
        let fresh = |n| Test { attempts: 0, last_attempt_at: None, ..test(&format!("Q{n}"), "full", TestStatus::Pending) };
        let mut queue: Vec<Test> = (1..=9).map(fresh).collect();
        queue[8].attempts = 1;
        queue[7].depends_on = Some(id("Q7"));
        world.at.overloaded.insert(id("full"), queue);
        world.at.idle = [id("idle"), id("free")].into_iter().collect();
        world.at.beating = ["full", "idle", "free"].map(id).into_iter().collect();
        world
    };
    // Q9 was tried already, Q8 waits for Q7: those stay.
    world().expect(&["hand on full: Q1>idle Q2>idle Q3>idle Q4>free Q5>free Q6>free"]);
    let mut one = world();
    one.at.idle.remove(&id("free"));
    one.expect(&["hand on full: Q3>idle Q4>idle Q5>idle Q6>idle"]);
    let mut driven_by_nobody = world();
    driven_by_nobody.at.beating.clear();
    driven_by_nobody.expect(&[]);
}

#[test]
fn answers_about_holds_and_claims_without_a_change_are_applied() {
    let held = |choice: &str| {
        let mut world = World::new().busy("a", 1).busy("b", 2).busy("c", 3);
        for (name, agent) in [("a", "claude"), ("b", "codex"), ("c", "claude")] {
            world.at.loops.get_mut(&id(name)).unwrap().agent = Some(agent.to_owned());
        }
        world.at.holds.insert("agent:claude".to_owned());
        let mut world = world.decision("d", "hold", &["try_again", "stop"], None, json!({"hold": "agent:claude"}));
        world.at.decisions[0].requested_by = Some("a".to_owned());
        if choice.is_empty() { world } else { world.answer("d", choice) }
    };
    held("try_again").expect(&["settle d=try_again [lift agent:claude]"]);
    held("stop").expect(&["settle d=stop [pause a by human, pause c by human, lift agent:claude]"]);
    held("").expect(&[]);
    let mut over = held("");
    over.at.holds.clear();
    over.expect(&["settle d=- []"]);

    let unchanged = |choice: &str| {
        let mut world = World::new().with_test(test("t", "a", TestStatus::Pending)).decision(
            "d",
            "no_change",
            &["pass", "retry", "skip"],
            Some("retry"),
            json!({"test_id": "t"}),
        );
        world.at.decisions[0].requested_by = Some("a".to_owned());
        world.answer("d", choice)
    };
    unchanged("pass").expect(&["settle d=pass [accept t]"]);
    unchanged("retry").expect(&["settle d=retry [hold t until 0]"]);
    unchanged("skip").expect(&["settle d=skip [skip t]"]);
}
