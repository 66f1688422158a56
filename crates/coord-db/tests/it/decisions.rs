//! Decisions: what may be asked, and that exactly one answer counts, whatever its author and time.

use std::sync::Arc;

use coord_db::payload::DecisionOption;
use coord_db::{
    ActorId, Database, Decision, DecisionId, DecisionStatus, Error, EventFilter, ManualClock, NewDecision, Timestamp,
};
use serde_json::json;
use test_support::new_loop;

struct World {
    db: Database,
    clock: Arc<ManualClock>,
}

fn question(options: &[&str], default: Option<&str>, timeout_minutes: Option<i64>) -> NewDecision {
    NewDecision {
        decision_type: "question".to_owned(),
        summary: "which?".to_owned(),
        options: options.iter().map(|id| DecisionOption { id: (*id).to_owned(), description: String::new() }).collect(),
        default_option: default.map(str::to_owned),
        context: json!({}),
        timeout_minutes,
        requested_by: ActorId::human(),
        fingerprint: None,
    }
}

impl World {
    fn new() -> Self {
        let clock = Arc::new(ManualClock::new("2026-11-22 10:00:00.000".parse::<Timestamp>().unwrap()));
        let db = test_support::in_memory(clock.clone());
        let new = new_loop("a");
        db.write(|tx| tx.add_loop(&new)).unwrap();
        Self { db, clock }
    }

    fn ask(&self, new: &NewDecision) -> Result<DecisionId, Error> {
        self.db.write(|tx| tx.ask(new, None))
    }

    fn answer(&self, id: &DecisionId, choice: &str, by: &str) -> Result<(), Error> {
        self.db.write(|tx| tx.answer(id, choice, None, &by.parse()?, "cli")).map(drop)
    }

    /// As pm does it: with the answer that it has received, or when time is up.
    fn resolve(&self, id: &DecisionId, choice: Option<&str>, by_human: bool) -> Result<(), Error> {
        self.db.write(|tx| {
            let answer =
                tx.pending_deliveries("pm", 10)?.into_iter().find(|delivery| delivery.event.event_type == "human_message");
            let cause = answer.as_ref().filter(|_| by_human).map(|delivery| &delivery.event);
            tx.resolve_decision(id, choice, by_human, None, cause)?;
            tx.acknowledge("pm", answer.filter(|_| by_human).iter().map(|delivery| &delivery.event.id))
        })
    }

    fn decision(&self, id: &DecisionId) -> Decision {
        self.db.read(|tx| tx.decision(id)).unwrap()
    }
}

#[track_caller]
fn settled(result: Result<(), Error>) -> (DecisionStatus, Option<String>, String, String) {
    match result {
        Err(Error::Settled { status, choice, by, at, .. }) => (status, choice, by, at.to_sql_text()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_question_that_cannot_be_answered_is_not_asked() {
    let world = World::new();
    for (options, default, minutes) in [
        (&[][..], None, None),
        (&["only"], None, None),
        (&["a", "a"], None, None),
        (&["a", ""], None, None),
        (&["a", " b"], None, None),
        (&["a", "b\n"], None, None),
        (&["a", "b"], Some("c"), None),
        (&["a", "b"], None, Some(-1)),
    ] {
        let asked = world.ask(&question(options, default, minutes));
        assert!(matches!(asked, Err(Error::Invalid(_))), "{options:?} {default:?} {minutes:?}: {asked:?}");
    }
    assert!(matches!(
        world.ask(&NewDecision { summary: " ".into(), ..question(&["a", "b"], None, None) }),
        Err(Error::Invalid(_))
    ));
    assert_eq!(world.db.read(|tx| tx.decisions(false)).unwrap(), []);
    assert_eq!(
        world
            .db
            .read(|tx| tx.events(&EventFilter { event_type: Some("decision_needed".into()), ..Default::default() }))
            .unwrap(),
        []
    );
    world.ask(&question(&["a", "b"], Some("b"), Some(0))).unwrap();
}

#[test]
fn the_first_answer_counts_and_the_others_return_what_was_decided_when_and_by_whom() {
    let world = World::new();
    let id = world.ask(&question(&["A", "B"], Some("A"), Some(10))).unwrap();
    let nobody: DecisionId = "nothing".parse().unwrap();
    assert!(matches!(world.answer(&nobody, "A", "human"), Err(Error::NotFound { .. })));
    assert!(matches!(world.answer(&id, "C", "human"), Err(Error::Invalid(text)) if text.contains("choose A, B")));
    assert!(matches!(world.answer(&id, "A", "a"), Err(Error::Refused(text)) if text.contains("the human must")));
    world.answer(&id, "B", "alice").unwrap();
    world.clock.advance_millis(5_000);
    let given = (Some("B".to_owned()), "alice".to_owned(), "2026-11-22 10:00:00.000".to_owned());
    let (status, choice, by, at) = settled(world.answer(&id, "A", "human"));
    assert_eq!((status, (choice, by, at)), (DecisionStatus::Pending, given));
    world.resolve(&id, Some("B"), true).unwrap();
    let (status, choice, by, at) = settled(world.answer(&id, "A", "human"));
    assert_eq!((status, choice.as_deref(), &*by), (DecisionStatus::Decided, Some("B"), "alice"));
    assert_eq!(at, "2026-11-22 10:00:05.000");
    let text = world.answer(&id, "B", "human").unwrap_err().to_string();
    assert_eq!(text, format!("decision {id} was decided: \"B\", by alice at 2026-11-22T10:00:05.000Z"));
    assert_eq!(settled(world.resolve(&id, Some("A"), false)).0, DecisionStatus::Decided);
}

#[test]
fn late_is_late() {
    let world = World::new();
    let by_default = world.ask(&question(&["A", "B"], Some("A"), Some(1))).unwrap();
    let without = world.ask(&question(&["A", "B"], None, Some(1))).unwrap();
    world.clock.advance_millis(61_000);
    world.resolve(&by_default, Some("A"), false).unwrap();
    world.resolve(&without, None, false).unwrap();
    assert_eq!(
        (world.decision(&by_default).status, world.decision(&without).status),
        (DecisionStatus::AutoResolved, DecisionStatus::Expired)
    );
    let (status, choice, by, _) = settled(world.answer(&by_default, "B", "human"));
    assert_eq!((status, choice.as_deref(), &*by), (DecisionStatus::AutoResolved, Some("A"), "auto"));
    let (status, choice, ..) = settled(world.answer(&without, "B", "human"));
    assert_eq!((status, choice), (DecisionStatus::Expired, None));
    // An answer to what no longer stands leaves no trace.
    assert_eq!(
        world.db.read(|tx| tx.events(&EventFilter { event_type: Some("human_message".into()), ..Default::default() })).unwrap(),
        []
    );
}

#[test]
fn time_does_not_overrule_an_answer_that_pm_has_yet_to_apply() {
    let world = World::new();
    let id = world.ask(&question(&["A", "B"], Some("A"), Some(1))).unwrap();
    // What is no answer holds nothing up: a loop's, one that names no option, one to another question.
    let other = world.ask(&question(&["A", "C"], None, None)).unwrap();
    world.answer(&other, "C", "human").unwrap();
    for (at, (source, choice)) in
        [("a", "\"B\""), ("human", "\"C\""), ("human", "null"), ("human", "7")].into_iter().enumerate()
    {
        world
            .db
            .execute_foreign(&format!(
                r#"INSERT INTO events (id, source, event_type, payload) VALUES ('foreign-{at}', '{source}', 'human_message',
                   '{{"message_type": "decision_response", "decision_id": "{id}", "choice": {choice}, "source": "x"}}')"#
            ))
            .unwrap();
    }
    world.clock.advance_millis(120_000);
    world.answer(&id, "B", "human").unwrap();
    assert_eq!(settled(world.resolve(&id, Some("A"), false)).1.as_deref(), Some("B"));
    assert_eq!(settled(world.resolve(&id, None, false)).1.as_deref(), Some("B"));
    world.resolve(&id, Some("B"), true).unwrap();
    let decision = world.decision(&id);
    assert_eq!((decision.status, decision.choice.as_deref()), (DecisionStatus::Decided, Some("B")));
}

#[test]
fn how_it_was_settled_is_said_once() {
    let world = World::new();
    let id = world.ask(&question(&["A", "B"], None, None)).unwrap();
    world.answer(&id, "A", "alice").unwrap();
    world.resolve(&id, Some("A"), true).unwrap();
    assert!(matches!(world.db.write(|tx| tx.announce_decision(&id)), Err(Error::Refused(_))));
    // So it is still known who has answered.
    assert_eq!(settled(world.answer(&id, "B", "human")).2, "alice");
}
