//! Decisions: exactly one answer counts, and the time limit settles what nobody has answered.

use coord_db::payload::DecisionOption;
use coord_db::{Database, DecisionId, Error, NewDecision, NewLoop, Timestamp};
use proptest::prelude::*;
use serde_json::json;

use crate::{Answer, Story, column, config, room};

const OPTIONS: [&str; 3] = ["yes", "no", "later"];

#[derive(Debug, Clone)]
enum Step {
    Ask {
        matter: Option<usize>,
        options: usize,
        default: Option<usize>,
        minutes: Option<i64>,
    },
    Answer {
        which: usize,
        choice: usize,
        by_loop: bool,
    },
    /// pm takes the human's answer up.
    Apply {
        which: usize,
    },
    /// pm finds its time over.
    TimeIsUp {
        which: usize,
    },
    Pass {
        minutes: i64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (prop::option::of(0..2_usize), 1..4_usize, prop::option::of(0..4_usize), prop::option::of(-1..10_i64))
            .prop_map(|(matter, options, default, minutes)| Step::Ask { matter, options, default, minutes }),
        4 => (0..4_usize, 0..4_usize, prop::bool::weighted(0.1))
            .prop_map(|(which, choice, by_loop)| Step::Answer { which, choice, by_loop }),
        3 => (0..4_usize).prop_map(|which| Step::Apply { which }),
        3 => (0..4_usize).prop_map(|which| Step::TimeIsUp { which }),
        2 => (1..8_i64).prop_map(|minutes| Step::Pass { minutes }),
    ]
}

struct Asked {
    id: DecisionId,
    matter: Option<usize>,
    options: usize,
    default: Option<usize>,
    due: Option<Timestamp>,
    answered: Option<usize>,
    /// Its status, choice and by whom, once it is settled.
    settled: Option<(&'static str, Option<usize>, &'static str)>,
}

fn name(option: usize) -> &'static str {
    OPTIONS.get(option).copied().unwrap_or("nonsense")
}

fn run(steps: &[Step]) -> Result<(), TestCaseError> {
    let (db, clock) = room();
    db.write(|tx| tx.add_loop(&NewLoop { id: "a".parse()?, name: String::new(), priority: 5, branch: None })).unwrap();
    let (mut asked, mut story) = (Vec::<Asked>::new(), Story::default());
    let mut now = crate::START;
    for step in steps {
        if let Step::Pass { minutes } = step {
            clock.advance_millis(minutes * 60_000);
            now = now.plus_seconds(minutes * 60);
        }
        let (seen, expected) = apply(&db, &mut asked, now, step);
        story.expect(step, &seen, &expected)?;
        let rows = column(
            &db,
            "SELECT id || ' ' || status || ' ' || coalesce(choice, '-') || ' ' || coalesce(decided_by, '-') || ' '
               || coalesce(strftime('%s', expires_at), '-') || ' '
               || (SELECT count(*) FROM events WHERE event_type = 'decision_needed'
                   AND json_extract(payload, '$.decision_id') = decisions.id) || ' '
               || (SELECT count(*) FROM events WHERE event_type = 'decision_resolved'
                   AND json_extract(payload, '$.decision_id') = decisions.id)
             FROM decisions ORDER BY rowid",
        );
        let wanted: Vec<String> = asked
            .iter()
            .map(|asked| {
                let (status, choice, by) = asked.settled.unwrap_or(("pending", None, "-"));
                let due = asked.due.map_or("-".to_owned(), |due| (due.as_millis() / 1000).to_string());
                let said = u8::from(asked.settled.is_some());
                format!("{} {status} {} {by} {due} 1 {said}", asked.id, choice.map_or("-", name))
            })
            .collect();
        story.holds(&rows, &wanted)?;
    }
    story.holds(&db.check().unwrap(), &Vec::new())
}

fn apply(db: &Database, asked: &mut Vec<Asked>, now: Timestamp, step: &Step) -> (Answer, Answer) {
    let unknown: DecisionId = "unknown".parse().unwrap();
    match step {
        Step::Pass { .. } => (Answer::Done, Answer::Done),
        Step::Ask { matter, options, default, minutes } => {
            let new = NewDecision {
                decision_type: "x".to_owned(),
                summary: "which?".to_owned(),
                options: (0..*options)
                    .map(|at| DecisionOption { id: name(at).to_owned(), description: String::new() })
                    .collect(),
                default_option: default.map(|at| name(at).to_owned()),
                context: json!({}),
                timeout_minutes: *minutes,
                requested_by: "pm".parse().unwrap(),
                fingerprint: matter.map(|matter| format!("matter-{matter}")),
            };
            let result = db.write(|tx| tx.ask(&new, None));
            if *options < 2 || default.is_some_and(|default| default >= *options) || minutes.is_some_and(|minutes| minutes < 0)
            {
                return (Answer::of(&result), Answer::Invalid);
            }
            let open = asked.iter().find(|asked| asked.settled.is_none() && matter.is_some() && asked.matter == *matter);
            match open {
                // The same question is asked once.
                Some(open) => assert_eq!(result.as_ref().ok(), Some(&open.id)),
                None => asked.push(Asked {
                    id: result.as_ref().unwrap().clone(),
                    matter: *matter,
                    options: *options,
                    default: *default,
                    due: minutes.map(|minutes| now.plus_seconds(minutes * 60)),
                    answered: None,
                    settled: None,
                }),
            }
            (Answer::of(&result), Answer::Done)
        }
        Step::Answer { which, choice, by_loop } => {
            let by = if *by_loop { "a" } else { "human" }.parse().unwrap();
            let id = asked.get(*which).map_or(&unknown, |asked| &asked.id).clone();
            let result = db.write(|tx| tx.answer(&id, name(*choice), None, &by, "cli"));
            let expected = match asked.get_mut(*which) {
                None => Answer::NotFound,
                Some(asked) if asked.settled.is_some() => Answer::Settled,
                Some(asked) if *choice >= asked.options => Answer::Invalid,
                Some(_) if *by_loop => Answer::Refused,
                Some(asked) if asked.answered.is_some() => Answer::Settled,
                Some(asked) => {
                    asked.answered = Some(*choice);
                    Answer::Done
                }
            };
            (Answer::of(&result), expected)
        }
        Step::Apply { which } => {
            let Some(asked) = asked.get_mut(*which) else { return (Answer::Done, Answer::Done) };
            let Some(choice) = asked.answered else { return (Answer::Done, Answer::Done) };
            let result = db.write(|tx| tx.resolve_decision(&asked.id, Some(name(choice)), true, None, None));
            if asked.settled.is_some() {
                return (Answer::of(&result), Answer::Settled);
            }
            asked.settled = Some(("decided", Some(choice), "human"));
            (Answer::of(&result), Answer::Done)
        }
        Step::TimeIsUp { which } => {
            let Some(asked) = asked.get_mut(*which) else { return (Answer::Done, Answer::Done) };
            let due = db.read(|tx| Ok::<_, Error>(tx.decision(&asked.id)?.due_at())).unwrap();
            assert_eq!(due, asked.due);
            if due.is_none_or(|due| due > now) {
                return (Answer::Done, Answer::Done);
            }
            let result = db.write(|tx| tx.resolve_decision(&asked.id, asked.default.map(name), false, None, None));
            if asked.settled.is_some() || asked.answered.is_some() {
                return (Answer::of(&result), Answer::Settled);
            }
            let status = if asked.default.is_some() { "auto_resolved" } else { "expired" };
            asked.settled = Some((status, asked.default, "auto"));
            (Answer::of(&result), Answer::Done)
        }
    }
}

proptest! {
    #![proptest_config(config(300))]
    #[test]
    fn decisions_do_what_the_model_does(steps in prop::collection::vec(step(), 1..30)) {
        run(&steps)?;
    }
}
