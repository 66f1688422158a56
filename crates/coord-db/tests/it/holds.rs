//! Holds: who waits for what, who finds out whether it is over, and what ends it.

use coord_db::process::ProcessIdentity;
use coord_db::{AgentTrouble, Database, Error, HoldKind, ManualClock, Start};
use test_support::{new_loop, new_test};

use crate::common::{id, running};

struct World {
    clock: ManualClock,
    db: Database,
}

/// Two loops with one agent, and a test for each.
fn world() -> World {
    let (db, clock) = running(["a", "b"].map(new_loop));
    db.write(|tx| {
        for name in ["a", "b"] {
            tx.set_agent(&id(name), "claude")?;
            let test = new_test(&format!("t-{name}"), name);
            assert_eq!(tx.import_tests(&[test])?, []);
        }
        Ok::<_, Error>(())
    })
    .unwrap();
    World { clock, db }
}

impl World {
    fn trouble(&self, of: &str, kind: HoldKind, seconds: Option<i64>) {
        let until = seconds.map(|seconds| self.db.now().plus_seconds(seconds));
        let trouble = AgentTrouble { kind, reason: "trouble".to_owned(), until };
        let test = format!("t-{of}").parse().unwrap();
        self.db.write(|tx| tx.hold_agent("claude", (&id(of), &test), &trouble, 30, false)).unwrap();
    }

    /// `now`, `asked`, or in how many seconds.
    fn start(&self, of: &str) -> String {
        match self.db.write(|tx| tx.start_or_wait(&id(of))).unwrap() {
            Start::Now => "now".to_owned(),
            Start::Asked(_) => "asked".to_owned(),
            Start::At(until, _) => until.seconds_since(self.db.now()).to_string(),
        }
    }

    fn holds(&self) -> usize {
        self.db.read(|tx| tx.all_holds()).unwrap().len()
    }
}

#[test]
fn one_loop_finds_out_and_the_other_waits_for_it_while_it_works() {
    let world = world();
    world.trouble("a", HoldKind::Limit, Some(600));
    assert_eq!((world.start("a"), world.start("b")), ("600".to_owned(), "600".to_owned()));
    world.clock.advance_millis(601_000);
    assert_eq!(world.start("b"), "now");
    assert_eq!(world.start("a"), "60", "the probe is b");
    world.db.write(|tx| tx.claim_next_test(&id("b"), true)).unwrap().unwrap();
    world.clock.advance_millis(61_000);
    assert_eq!(world.start("a"), "60", "b is at work");
    assert_eq!(world.start("b"), "now", "a probe that was started again is the probe still");
    assert_eq!(world.holds(), 1);
    world.clock.advance_millis(600_000);
    assert_eq!(world.start("a"), "now");
    assert_eq!(world.holds(), 0, "trouble would have shown by now");
}

#[test]
fn a_time_that_did_not_hold_is_believed_less_and_a_foreign_one_is_bounded() {
    let world = world();
    let mut waits = Vec::new();
    for _ in 0..4 {
        world.trouble("a", HoldKind::Limit, Some(1));
        waits.push(world.start("a"));
        world.clock.advance_millis(3_600_000);
        assert_eq!(world.start("a"), "now");
    }
    assert_eq!(waits, ["1", "120", "240", "480"]);
    world.trouble("a", HoldKind::Limit, Some(100 * 86_400));
    assert_eq!(world.start("b"), "now", "no limit lasts a hundred days");
}

#[test]
fn what_waits_for_an_answer_waits_whatever_else_happens() {
    let world = world();
    world.trouble("a", HoldKind::Human, None);
    world.trouble("b", HoldKind::Limit, Some(1));
    let began = world.db.now();
    world.clock.advance_millis(10_000);
    world.db.write(|tx| tx.clear_agent_hold("claude", &id("b"), Some(began))).unwrap();
    assert_eq!((world.start("a"), world.start("b")), ("asked".to_owned(), "asked".to_owned()));
    assert_eq!(world.db.read(|tx| tx.decisions(true)).unwrap().len(), 1);
    world.db.write(|tx| tx.lift_hold("agent:claude")).unwrap();
    assert_eq!((world.start("a"), world.holds()), ("now".to_owned(), 0));
}

#[test]
fn a_run_from_before_the_trouble_does_not_end_it() {
    let world = world();
    let before = world.db.now();
    world.clock.advance_millis(5_000);
    world.trouble("a", HoldKind::Outage, None);
    world.db.write(|tx| tx.clear_agent_hold("claude", &id("b"), Some(before))).unwrap();
    assert_eq!(world.holds(), 1);
    let after = world.db.now();
    world.db.write(|tx| tx.clear_agent_hold("claude", &id("b"), Some(after))).unwrap();
    assert_eq!(world.holds(), 0);
}

#[test]
fn what_a_human_has_to_mend_on_a_machine_holds_only_its_loops_and_a_limit_holds_all() {
    let world = world();
    world
        .db
        .write(|tx| {
            for (name, host) in [("a", "build-1/11111111"), ("b", "build-2/22222222")] {
                let process = ProcessIdentity { host: Some(host.to_owned()), ..ProcessIdentity::own() };
                tx.start_component(&name.parse()?, &process, "0")?;
            }
            Ok::<_, Error>(())
        })
        .unwrap();
    let trouble = |kind| {
        let trouble = AgentTrouble { kind, reason: "not logged in".to_owned(), until: None };
        world.db.write(|tx| tx.hold_agent("claude", (&id("a"), &"t-a".parse()?), &trouble, 30, true)).unwrap();
    };
    let start = || (world.start("a"), world.start("b"));
    let (now, asked) = ("now".to_owned(), "asked".to_owned());
    trouble(HoldKind::Human);
    assert_eq!(start(), (asked.clone(), now.clone()));
    let question = world.db.read(|tx| tx.decisions(true)).unwrap().remove(0);
    assert!(question.summary.contains("cannot work on build-1: not logged in"), "{}", question.summary);
    assert_eq!(question.context["loops"], serde_json::json!(["a"]));
    let hold = world.db.read(|tx| tx.all_holds()).unwrap().remove(0);
    assert_eq!((hold.agent(), hold.subject.as_str()), (Some("claude"), "agent:claude on build-1/11111111"));
    // Its next start tries once, and a run of the other one says nothing of it.
    world.db.write(|tx| tx.probe_holds(&id("a"))).unwrap();
    world.db.write(|tx| tx.clear_agent_hold("claude", &id("b"), None)).unwrap();
    assert_eq!(world.holds(), 1);
    assert_eq!(start(), (now.clone(), now.clone()));
    world.db.write(|tx| tx.clear_agent_hold("claude", &id("a"), None)).unwrap();
    assert_eq!(world.holds(), 0);
    trouble(HoldKind::Limit);
    assert_eq!(start(), ("60".to_owned(), "60".to_owned()));
    world.db.write(|tx| tx.lift_hold("agent:claude")).unwrap();
    world.db.write(|tx| tx.hold_set_up((&id("b"), &"t-b".parse()?), "no compiler", true)).unwrap();
    assert_eq!(start(), (now.clone(), asked));
    world.db.write(|tx| tx.probe_holds(&id("b"))).unwrap();
    world.db.write(|tx| tx.clear_set_up_hold(&id("a"))).unwrap();
    assert_eq!(world.holds(), 1);
    world.db.write(|tx| tx.clear_set_up_hold(&id("b"))).unwrap();
    assert_eq!((start(), world.holds()), ((now.clone(), now), 0));
}
