use coord_db::{Alert, StringList};
use serde_json::{from_value, json};
use test_support::{NOW, sample_alert, sample_lease};

use super::*;

mod mixed;

/// A snapshot in which loops of one letter wait for each other; each later edge is a second younger.
struct World(DetectorSnapshot);

impl World {
    /// `"a>b:x"`: a waits for b on x; without a resource it is one that nobody leases.
    fn new(edges: &str) -> Self {
        let mut world = Self(DetectorSnapshot {
            now: NOW,
            in_grace: false,
            grace_until: None,
            edges: Vec::new(),
            waits: Vec::new(),
            edges_read: 0,
            leases: BTreeMap::new(),
            loops: BTreeMap::new(),
            deadlocks: Vec::new(),
            recent_victims: BTreeSet::new(),
            unbreakable: Vec::new(),
            questions: BTreeMap::new(),
            next_full_scan: NOW.plus_seconds(60),
        });
        for (at, text) in edges.split(' ').enumerate() {
            let (pair, resource) = text.split_once(':').unwrap_or((text, text));
            let (waiter, holder) = pair.split_once('>').unwrap();
            for id in [waiter, holder] {
                world.0.loops.entry(id.to_owned()).or_insert(LoopFacts { priority: Some(5), leases: Vec::new() });
            }
            world.0.edges.push(WaitEdge {
                waiter: waiter.to_owned(),
                holder: holder.to_owned(),
                resource: from_value(json!(resource.replace('>', "-"))).unwrap(),
                waiting_since: NOW.plus_seconds(at as i64 - 100),
                wait_until: None,
                seq: at as i64,
            });
        }
        world
    }

    fn priority(mut self, id: &str, priority: i64) -> Self {
        self.0.loops.get_mut(id).unwrap().priority = Some(priority);
        self
    }

    fn unregistered(mut self, id: &str) -> Self {
        self.0.loops.get_mut(id).unwrap().priority = None;
        self
    }

    fn recent(mut self, id: &str) -> Self {
        self.0.recent_victims.insert(id.to_owned());
        self
    }

    fn lease(self, path: &str, by: &str) -> Self {
        self.lease_until(path, by, None)
    }

    fn lease_until(mut self, path: &str, by: &str, expires_at: Option<Timestamp>) -> Self {
        let lease = Lease { expires_at, ..sample_lease(path, by) };
        for edge in &self.0.edges {
            let held = self.0.leases.entry(edge.resource.to_string()).or_default();
            if edge.resource.overlaps(&lease.file_path) && !held.contains(&lease) {
                held.push(lease.clone());
            }
        }
        self.0.loops.entry(by.to_owned()).or_default().leases.push(lease);
        self
    }

    /// A victim that was asked `seconds_ago` seconds ago to release these locks.
    fn told(mut self, victim: &str, locks: &[&str], seconds_ago: i64) -> Self {
        let at = NOW.plus_seconds(-seconds_ago);
        self.0.deadlocks.push(Deadlock {
            id: format!("d-{victim}"),
            victim: victim.to_owned(),
            cycle: StringList::default(),
            locks: StringList(locks.iter().map(|path| (*path).to_owned()).collect()),
            reason: String::new(),
            detected_at: at,
            revoke_at: at.plus_seconds(30),
            resolved_at: None,
            outcome: None,
            event_id: "e".parse().unwrap(),
        });
        self.0.loops.entry(victim.to_owned()).or_default();
        self.recent(victim)
    }

    fn plan(&self) -> Plan<Action> {
        decide(&DeadlockConfig::default(), &self.0)
    }

    fn victims(&self) -> Vec<String> {
        let told = self.plan().actions.into_iter().filter_map(|action| match action {
            Action::ForceRelease { victim, .. } => Some(victim.to_string()),
            _ => None,
        });
        told.collect()
    }

    fn live(&self) -> Vec<bool> {
        self.0.edges.iter().map(|edge| is_live(&self.0, edge)).collect()
    }
}

fn resolved(victim: &str, outcome: DeadlockOutcome) -> Action {
    Action::Resolve { id: format!("d-{victim}"), outcome }
}

fn revoked(victim: &str, waits_too: bool) -> impl Fn(&Action) -> bool {
    move |action| matches!(action, Action::Revoke { deadlock, waits_too: both } if deadlock.victim == victim && *both == waits_too)
}

#[test]
fn an_edge_without_a_lease_is_trusted_until_its_time_is_over() {
    let mut world = World::new("a>b:x");
    assert_eq!(world.live(), [true]);
    world.0.edges[0].wait_until = Some(NOW.plus_millis(1));
    assert_eq!(world.live(), [true]);
    world.0.edges[0].wait_until = Some(NOW);
    assert_eq!(world.live(), [false]);
}

#[test]
fn an_edge_lives_with_its_holders_lease_and_not_with_anothers() {
    for (resource, lease, by, live) in [
        ("src/x", "src/x", "b", true),
        ("src/x", "src/", "b", true),
        ("src/", "src/x", "b", true),
        ("src/x", "src/x", "c", false),
        ("src/x", "src/", "c", false),
        ("src/", "src/x", "c", false),
        ("src/x", "src/y", "c", true),
        // It has got what it waited for.
        ("src/x", "src/x", "a", false),
        ("src/x", "src/", "a", false),
        // A part of what it waits for is its own; the rest is not.
        ("src/", "src/x", "a", true),
    ] {
        assert_eq!(World::new(&format!("a>b:{resource}")).lease(lease, by).live(), [live], "{resource} {lease} {by}");
    }
}

#[test]
fn of_several_leases_over_a_subtree_one_of_the_holders_is_enough() {
    let both = World::new("a>b:src/ a>c:src/ a>d:src/").lease("src/x", "b").lease("src/y", "c");
    assert_eq!(both.live(), [true, true, false]);
}

#[test]
fn an_edge_dies_when_the_lease_expires_but_not_right_after_a_suspend() {
    let mut world = World::new("a>b:x").lease_until("x", "b", Some(NOW.plus_millis(1)));
    assert_eq!(world.live(), [true]);
    world = World::new("a>b:x").lease_until("x", "b", Some(NOW));
    assert_eq!(world.live(), [false]);
    world.0.in_grace = true;
    assert_eq!(world.live(), [true]);
}

#[test]
fn a_cycle_has_a_victim_and_a_chain_has_none() {
    assert_eq!(World::new("a>b b>c").victims(), Vec::<String>::new());
    assert_eq!(World::new("a>b b>c c>a").victims(), ["c"]);
    assert_eq!(World::new("a>b b>a c>d d>c").victims(), ["b", "d"]);
    assert_eq!(World::new("a>b:x b>a:y").lease("x", "c").victims(), Vec::<String>::new());
}

#[test]
fn victims_are_the_fewest_then_by_history_priority_leases_and_time() {
    // Two cycles through b, although it counts most.
    assert_eq!(World::new("a>b b>a b>c c>b").priority("b", 1).victims(), ["b"]);
    // Not again who was a victim, although it counts least.
    assert_eq!(World::new("a>b b>a").recent("b").priority("b", 9).victims(), ["a"]);
    assert_eq!(World::new("a>b b>a").recent("b").recent("a").priority("a", 9).victims(), ["a"]);
    assert_eq!(World::new("a>b b>a").priority("a", 6).lease("z", "a").victims(), ["a"]);
    assert_eq!(World::new("a>b b>a").lease("z", "b").victims(), ["a"]);
    assert_eq!(World::new("a>b b>a").victims(), ["b"]);
    let mut world = World::new("a>b b>a");
    world.0.edges[1].waiting_since = world.0.edges[0].waiting_since;
    assert_eq!(world.victims(), ["a"]);
    // Who is not registered hears nothing.
    assert_eq!(World::new("a>b b>a").unregistered("b").victims(), ["a"]);
    assert_eq!(World::new("a>b b>a").unregistered("b").unregistered("a").victims(), ["b"]);
}

#[test]
fn a_victim_receives_the_reason() {
    let plan = World::new("a>b:x b>a:y").lease("x", "b").lease("y", "a").priority("b", 7).plan();
    assert_eq!(
        plan.actions,
        [Action::ForceRelease {
            victim: "b".parse().unwrap(),
            cycle: vec!["b".to_owned(), "a".to_owned()],
            locks: vec!["x".to_owned()],
            reason:
                "deadlock of b and a (b waits for a on y, a waits for b on x): b has to release its leases because it has the lowest \
                 priority (7); its work is saved, and it continues later"
                    .to_owned(),
        }]
    );
    assert_eq!(plan.look_again_at, Some(NOW.plus_seconds(30)));
}

#[test]
fn the_reason_names_what_decided() {
    for (world, expected) in [
        (World::new("a>b b>a").recent("a"), "the others were victims recently"),
        (World::new("a>b b>a").lease("z", "a"), "it holds the fewest leases (0)"),
        (World::new("a>b b>a"), "it has waited for the shortest time"),
        (World::new("a>b b>a b>c c>b").priority("b", 1), "it is part of further cycles"),
        (World::new("a>human human>a"), "no other member of the cycle is a loop"),
    ] {
        let plan = world.plan();
        let Some(Action::ForceRelease { reason, .. }) = plan.actions.last() else { panic!("{plan:?}") };
        assert!(reason.contains(&format!("because {expected};")), "{reason}");
    }
}

#[test]
fn a_victim_is_asked_once_and_nobody_else_is_asked() {
    let plan = World::new("a>b:x b>a:y").lease("x", "b").lease("y", "a").told("b", &["x"], 10).plan();
    assert_eq!((plan.actions, plan.look_again_at), (vec![], Some(NOW.plus_seconds(20))));
    // Another cycle that does not pass the victim is another deadlock.
    assert_eq!(World::new("a>b:x b>a:y a>c c>a").lease("x", "b").told("b", &["x"], 10).victims(), ["c"]);
}

#[test]
fn a_deadlock_is_resolved_when_no_living_cycle_passes_its_victim() {
    let over = World::new("a>b:x").lease("y", "a");
    assert_eq!(over.told("b", &["x"], 10).plan().actions, [resolved("b", DeadlockOutcome::Released)]);
    let other_gave_up = World::new("a>b:x").lease("x", "b").told("b", &["x"], 10);
    assert_eq!(other_gave_up.plan().actions, [resolved("b", DeadlockOutcome::Dissolved)]);
    let mut wait_is_over = World::new("a>b:x b>a:y").lease("x", "b").told("b", &["x"], 10);
    wait_is_over.0.edges[0].wait_until = Some(NOW);
    assert_eq!(wait_is_over.plan().actions, [resolved("b", DeadlockOutcome::Dissolved)]);
}

#[test]
fn a_victim_that_has_answered_and_cycles_again_is_in_another_deadlock() {
    let again = World::new("a>b:z b>a:y").lease("z", "b").lease("y", "a").told("b", &["x"], 10);
    assert_eq!(again.plan().actions[0], resolved("b", DeadlockOutcome::Released));
    assert_eq!(again.victims(), ["a"]);
}

#[test]
fn of_two_victims_in_one_remaining_cycle_the_older_one_stays() {
    let world = World::new("a>b:x b>a:y").lease("x", "b").lease("y", "a").told("a", &["y"], 20).told("b", &["x"], 10);
    assert_eq!(world.plan().actions, [resolved("b", DeadlockOutcome::Dissolved)]);
}

#[test]
fn leases_are_revoked_exactly_when_the_time_is_over() {
    let world = |seconds| World::new("a>b:x b>a:y").lease("x", "b").lease("y", "a").told("b", &["x"], seconds);
    assert_eq!(world(29).plan().actions, []);
    let actions = world(30).plan().actions;
    assert!(matches!(&actions[..], [only] if revoked("b", false)(only)), "{actions:?}");
    let mut asleep = world(300);
    asleep.0.in_grace = true;
    asleep.0.grace_until = Some(NOW.plus_seconds(9));
    let plan = asleep.plan();
    assert_eq!((plan.actions, plan.look_again_at), (vec![], Some(NOW.plus_seconds(9))));
}

#[test]
fn who_keeps_a_place_in_a_queue_loses_its_waits_too() {
    let actions = World::new("a>b b>a:y").lease("y", "a").told("b", &[], 30).plan().actions;
    assert!(matches!(&actions[..], [only] if revoked("b", true)(only)), "{actions:?}");
    // A place that no cycle passes does not count.
    let world = World::new("a>b:x b>a:y c>b").lease("x", "b").lease("y", "a").told("b", &["x"], 30);
    assert!(revoked("b", false)(&world.plan().actions[0]));
}

#[test]
fn a_cycle_that_stands_is_looked_at_when_time_may_end_it() {
    let mut world = World::new("a>b:x b>a:y").lease_until("x", "b", Some(NOW.plus_seconds(7))).told("b", &["x"], 10);
    assert_eq!(world.plan().look_again_at, Some(NOW.plus_seconds(7)));
    world.0.edges[1].wait_until = Some(NOW.plus_seconds(3));
    assert_eq!(world.plan().look_again_at, Some(NOW.plus_seconds(3)));
}

#[test]
fn only_loops_are_victims_and_a_cycle_without_one_raises_an_alert() {
    assert_eq!(World::new("a>monitor monitor>a").priority("a", 1).victims(), ["a"]);
    let mut world = World::new("human>monitor monitor>human a>human monitor>a");
    let fingerprint = "deadlock:unbreakable:human,monitor".to_owned();
    let members = vec!["human".to_owned(), "monitor".to_owned()];
    assert_eq!(world.plan().actions, [Action::Unbreakable { fingerprint: fingerprint.clone(), members }]);
    world.0.unbreakable = vec![Alert { fingerprint: Some(fingerprint.clone()), ..sample_alert("a") }];
    assert_eq!(world.plan().actions, []);
    world.0.edges.clear();
    assert_eq!(world.plan().actions, [Action::CloseAlert { fingerprint }]);
}

#[test]
fn a_cycle_of_ten_thousand_has_one_victim() {
    let cycle: Vec<String> = (0..10_000).map(|at| format!("l{at}>l{}", (at + 1) % 10_000)).collect();
    let world = World::new(&cycle.join(" ")).priority("l77", 9);
    assert_eq!(world.victims(), ["l77"]);
}

#[test]
fn a_decision_is_the_same_whatever_the_order_of_rows() {
    let mut world = World::new("a>b b>c c>a b>d d>b e>f f>e");
    let plan = world.plan();
    world.0.edges.reverse();
    assert_eq!(world.plan().actions, plan.actions);
}
