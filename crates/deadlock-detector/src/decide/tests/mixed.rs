//! Cycles over more than leases.

use coord_db::{Decision, DecisionStatus, Wait, WaitKind, WaitNode};
use test_support::sample_decision;

use super::*;
use crate::test_cycles::Question;

fn node(test: &str) -> WaitNode {
    let (id, loop_id) = test.split_once('@').unwrap();
    WaitNode::Test { id: id.to_owned(), loop_id: loop_id.to_owned() }
}

fn owner(id: &str) -> WaitNode {
    WaitNode::Loop(id.to_owned())
}

impl World {
    /// A world without edges.
    fn bare() -> Self {
        let mut world = Self::new("a>b");
        world.0.edges.clear();
        world
    }

    fn wait(mut self, waiter: WaitNode, holder: WaitNode, kind: WaitKind) -> Self {
        for id in [waiter.loop_id(), holder.loop_id()] {
            self.0.loops.entry(id.to_owned()).or_insert(LoopFacts { priority: Some(5), leases: Vec::new() });
        }
        self.0.waits.push(Wait { waiter, holder, kind, since: NOW.plus_seconds(-100) });
        self
    }

    /// `"t1@a t2@b"`: a's t1 depends on b's t2.
    fn needs(self, test: &str, other: &str) -> Self {
        self.wait(node(test), node(other), WaitKind::Dependency)
    }

    fn current(self, test: &str) -> Self {
        let own = owner(node(test).loop_id());
        self.wait(node(test), own, WaitKind::Turn { after: None })
    }

    fn after(self, test: &str, other: &str) -> Self {
        let own = owner(node(test).loop_id());
        self.wait(node(test), own, WaitKind::Turn { after: Some(other.to_owned()) })
    }

    /// The loop can begin nothing but these.
    fn idle(mut self, tests: &str) -> Self {
        for test in tests.split(' ') {
            let own = owner(node(test).loop_id());
            self = self.wait(own, node(test), WaitKind::Idle);
        }
        self
    }

    fn needs_leave(self, test: &str, of: &str, request: &str) -> Self {
        let kind = WaitKind::Leave { request_id: request.to_owned(), resource: "api".to_owned() };
        self.wait(node(test), owner(of), kind)
    }

    fn questions(&self) -> Vec<Question> {
        let asked = self.plan().actions.into_iter().filter_map(|action| match action {
            Action::Ask(question) => Some(*question),
            _ => None,
        });
        asked.collect()
    }

    fn asked(mut self, fingerprint: &str, status: DecisionStatus, choice: Option<&str>, announced: bool) -> Self {
        let settled = (status != DecisionStatus::Pending).then_some(NOW);
        let decision = Decision {
            decision_type: "dependency_cycle".to_owned(),
            context: if announced { json!({"resolved_event": "e"}) } else { json!({}) },
            status,
            requested_by: Some("deadlock-detector".to_owned()),
            decided_at: settled,
            choice: choice.map(str::to_owned),
            fingerprint: Some(fingerprint.to_owned()),
            ..sample_decision("d")
        };
        self.0.questions.insert(fingerprint.to_owned(), decision);
        self
    }
}

/// e waits for d's lease, and its current test is m1, on which the only test that d could begin depends.
fn lease_and_tests() -> World {
    World::new("e>d:x").lease("x", "d").idle("m2@d").needs("m2@d", "m1@e").current("m1@e")
}

#[test]
fn the_victim_is_the_loop_whose_lease_the_cycle_waits_for() {
    // e has the lower priority, but its release would end nothing: m1 has to be done, and needs x.
    let plan = lease_and_tests().priority("e", 9).plan();
    let [Action::ForceRelease { victim, cycle, locks, reason }] = &plan.actions[..] else { panic!("{plan:?}") };
    assert_eq!((victim.as_str(), &cycle[..], &locks[..]), ("d", &["d".to_owned(), "e".to_owned()][..], &["x".to_owned()][..]));
    assert_eq!(
        reason,
        "deadlock of d and e (d can start no test before test m2 of d, test m2 of d depends on test m1 of e, test m1 of e is the \
         current test of e, e waits for d on x): d has to release its leases because it is the only loop in the cycle whose \
         leases another one waits for; its work is saved, and it continues later"
    );
}

#[test]
fn a_loop_that_could_begin_another_test_is_in_no_cycle() {
    assert_eq!(lease_and_tests().victims(), ["d"]);
    // n depends on nothing that waits: it is ready soon.
    assert_eq!(lease_and_tests().idle("n@d").victims(), Vec::<String>::new());
    assert_eq!(lease_and_tests().idle("n@d").needs("n@d", "m1@e").victims(), ["d"]);
    // Who waits for a lease of somebody who goes on is about something else than its next test.
    let busy = World::new("e>d:x d>f:y").lease("x", "d").lease("y", "f");
    assert_eq!(busy.idle("m2@d").needs("m2@d", "m1@e").current("m1@e").victims(), Vec::<String>::new());
}

#[test]
fn a_test_waits_with_its_loop_for_its_turn() {
    // m1 comes after m0, for which e waits for d.
    let world = World::new("e>d:x").lease("x", "d").idle("m2@d").needs("m2@d", "m1@e").after("m1@e", "m0");
    assert_eq!(world.victims(), ["d"]);
}

#[test]
fn leave_that_is_asked_for_counts_and_a_victim_ends_what_it_can() {
    // b, whose leave is needed, waits for the lease that a keeps while it can begin nothing.
    let world = World::new("b>a:x").lease("x", "a").idle("t@a").needs_leave("t@a", "b", "r1");
    assert_eq!(world.victims(), ["a"]);
    // Without a lease in it only an answer helps.
    let world = World::bare().idle("t@a").needs_leave("t@a", "b", "r1").idle("u@b").needs_leave("u@b", "a", "r2");
    let plan = world.plan();
    let [Action::AwaitsPermission { fingerprint, members, requests, message }] = &plan.actions[..] else { panic!("{plan:?}") };
    assert_eq!(fingerprint, "deadlock:unbreakable:leave:r1,r2");
    assert_eq!((&members[..], &requests[..]), (&["a".to_owned(), "b".to_owned()][..], &["r1".to_owned(), "r2".to_owned()][..]));
    assert!(message.contains("loopctl request approve r1, or loopctl request reject r1"), "{message}");
    assert!(message.contains("test t of a needs the permission of b to change api (request r1)"), "{message}");
    // Who could begin another test does not wait.
    let other = World::bare().idle("t@a v@a").needs_leave("t@a", "b", "r1").idle("u@b").needs_leave("u@b", "a", "r2");
    assert_eq!(other.plan().actions, []);
}

#[test]
fn tests_that_depend_on_each_other_are_asked_about_once() {
    let world = || World::bare().needs("t2@b", "t1@a").needs("t1@a", "t2@b").priority("a", 2).priority("b", 1);
    let questions = world().questions();
    let [question] = &questions[..] else { panic!("{questions:?}") };
    assert_eq!((question.fingerprint.as_str(), question.default.as_str()), ("ring:t1", "drop:t2"));
    let options: Vec<&str> = question.options.iter().map(|option| option.id.as_str()).collect();
    assert_eq!(options, ["drop:t2", "drop:t1", "skip:t2", "skip:t1"]);
    assert_eq!(
        question.summary,
        "2 tests depend on each other in a cycle, so none of them can start: t2 of b depends on t1, t1 of a depends on t2. \
         Which one runs first?"
    );
    assert_eq!(
        question.options[0].description,
        "remove the dependency of t2 of b on t1, so that it runs first and the others follow in order (default)"
    );
    assert_eq!(world().victims(), Vec::<String>::new());
    let asked = |status, choice, announced| world().asked("ring:t1", status, choice, announced).questions().len();
    assert_eq!(asked(DecisionStatus::Pending, None, false), 0);
    // Somebody else has answered, and pm has yet to apply it.
    assert_eq!(asked(DecisionStatus::Decided, Some("drop:t1"), false), 0);
    // The answer was applied without lasting effect: the cycle has closed again since.
    assert_eq!(asked(DecisionStatus::Decided, Some("drop:t1"), true), 1);
    assert_eq!(asked(DecisionStatus::Expired, None, true), 1);
}

#[test]
fn a_long_cycle_of_tests_offers_a_few_and_names_the_rest() {
    let mut world = World::bare();
    for at in 0..100 {
        world = world.needs(&format!("t{at:02}@a"), &format!("t{:02}@a", (at + 1) % 100));
    }
    let question = world.questions().remove(0);
    assert_eq!(question.options.len(), 8);
    assert!(question.summary.contains("and so on through 100 tests back to t00"), "{}", question.summary);
    assert_eq!(question.context["tests"].as_array().unwrap().len(), 50);
}

#[test]
fn who_waits_behind_tests_that_the_human_is_asked_about_is_no_victim() {
    // d keeps x and can begin nothing before t1, which is the human's matter.
    let world =
        World::new("e>d:x").lease("x", "d").idle("m@d").needs("m@d", "t1@a").needs("t1@a", "t2@b").needs("t2@b", "t1@a");
    assert_eq!(world.victims(), Vec::<String>::new());
    assert_eq!(world.questions().len(), 1);
}

#[test]
fn a_victim_in_a_mixed_cycle_is_asked_once_and_its_deadlock_ends_with_the_cycle() {
    let told = lease_and_tests().told("d", &["x"], 10);
    assert_eq!(told.plan().actions, []);
    let mut over = lease_and_tests().told("d", &["x"], 10);
    over.0.waits.retain(|wait| wait.kind != WaitKind::Idle);
    assert_eq!(over.plan().actions, [resolved("d", DeadlockOutcome::Dissolved)]);
    let late = lease_and_tests().told("d", &["x"], 30).plan();
    assert!(matches!(&late.actions[..], [only] if revoked("d", false)(only)), "{late:?}");
}

#[test]
fn leases_and_tests_of_three_loops_have_one_victim_where_one_is_enough() {
    // Two cycles through d, one over tests and one over leases.
    let world = World::new("e>d:x f>d:x d>f:y").lease("x", "d").lease("y", "f");
    let world = world.needs("m2@d", "m1@e").current("m1@e").current("m2@d");
    assert_eq!(world.priority("d", 1).victims(), ["f"]);
    let idle = lease_and_tests().needs("k@g", "m1@e").idle("k@g").priority("d", 1);
    assert_eq!(idle.victims(), ["d"]);
}
