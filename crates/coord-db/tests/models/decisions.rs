//! Decisions: one question for a matter, one answer that counts, and what time does to the rest.

use coord_db::payload::{DecisionOption, Payload};
use coord_db::{ActorId, DecisionId, DecisionStatus, Error, EventFilter, NewDecision, NewEvent, Timestamp};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::json;

use crate::support::{START, Story, World, check};

const CHOICES: [&str; 3] = ["yes", "no", "later"];
const WHO: [&str; 4] = ["human", "alice", "bob", "loop"];

#[derive(Debug, Clone)]
enum Op {
    Ask {
        options: usize,
        default: Option<usize>,
        minutes: Option<i64>,
        matter: Option<usize>,
    },
    Answer {
        who: usize,
        decision: usize,
        choice: usize,
    },
    /// As another tool says it: nobody has looked whether it makes sense.
    Say {
        who: usize,
        decision: usize,
        choice: Option<usize>,
    },
    /// pm takes what it has been told, then what is due.
    Pm,
    /// Settled without the time being over: the question has become idle.
    Close {
        decision: usize,
        choice: Option<usize>,
        by_human: bool,
    },
    /// Settled by another tool, which says nothing.
    Settle {
        decision: usize,
        choice: usize,
    },
    Announce(usize),
    Time(i64),
}

fn op() -> impl Strategy<Value = Op> {
    let decision = || prop_oneof![9 => 0..4_usize, 1 => 0..20_usize];
    let who = || prop_oneof![4 => 0..3_usize, 1 => Just(3)];
    let minutes = option::weighted(0.8, prop_oneof![10 => select(vec![0, 1, 2, 10]), 1 => Just(-1)]);
    prop_oneof![
        8 => (0..4_usize, option::of(0..3_usize), minutes, option::of(0..2_usize))
            .prop_map(|(options, default, minutes, matter)| Op::Ask { options, default, minutes, matter }),
        10 => (who(), decision(), 0..3_usize).prop_map(|(who, decision, choice)| Op::Answer { who, decision, choice }),
        2 => (who(), decision(), option::of(0..3_usize)).prop_map(|(who, decision, choice)| Op::Say { who, decision, choice }),
        6 => Just(Op::Pm),
        3 => (decision(), option::of(0..3_usize), any::<bool>())
            .prop_map(|(decision, choice, by_human)| Op::Close { decision, choice, by_human }),
        1 => (decision(), 0..2_usize).prop_map(|(decision, choice)| Op::Settle { decision, choice }),
        2 => decision().prop_map(Op::Announce),
        6 => select(vec![1, 59, 60, 120, 600]).prop_map(Op::Time),
    ]
}

/// Choice, by whom, at which second.
type Given = (usize, &'static str, i64);

#[derive(Debug, Clone)]
struct Question {
    options: usize,
    default: Option<usize>,
    due: Option<i64>,
    matter: Option<usize>,
    status: DecisionStatus,
    /// How it was settled: the choice, what the row says of who chose, who really did if that is known, when.
    settled: Option<(Option<usize>, &'static str, &'static str, i64)>,
    /// Whether it was said how.
    said: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum No {
    NotFound,
    Invalid,
    Refused,
    /// Status, choice, by whom, at which second.
    Settled(DecisionStatus, Option<String>, String, i64),
    Other,
}

type Answer = Result<String, No>;

#[derive(Default)]
struct Model {
    now: i64,
    questions: Vec<Question>,
    /// What pm has been told and has not looked at, in order: who, which question, which choice.
    told: Vec<(usize, usize, Option<usize>, i64)>,
    asked: usize,
    announced: Vec<(usize, DecisionStatus)>,
}

impl Model {
    /// The first answer that fits of those that pm has not looked at.
    fn waiting(&self, decision: usize) -> Option<Given> {
        let options = self.questions[decision].options;
        self.told.iter().find_map(|(who, about, choice, at)| {
            let choice = choice.filter(|choice| *choice < options)?;
            (*about == decision && WHO[*who] != "loop").then_some((choice, WHO[*who], *at))
        })
    }

    fn open(&self, decision: usize) -> Result<&Question, No> {
        let question = self.questions.get(decision).ok_or(No::NotFound)?;
        match &question.settled {
            None => Ok(question),
            Some((choice, _, who, at)) => {
                let choice = choice.map(|choice| CHOICES[choice].to_owned());
                Err(No::Settled(question.status, choice, (*who).to_owned(), *at))
            }
        }
    }

    fn ask(&mut self, options: usize, default: Option<usize>, minutes: Option<i64>, matter: Option<usize>) -> Answer {
        if options < 2 || default.is_some_and(|default| default >= options) || minutes.is_some_and(|minutes| minutes < 0) {
            return Err(No::Invalid);
        }
        let stands = |question: &Question| question.status == DecisionStatus::Pending && question.matter == matter;
        if let (Some(_), Some(at)) = (matter, self.questions.iter().position(stands)) {
            return Ok(format!("question {at} stands"));
        }
        let due = minutes.map(|minutes| self.now + minutes * 60);
        self.questions.push(Question {
            options,
            default,
            due,
            matter,
            status: DecisionStatus::Pending,
            settled: None,
            said: false,
        });
        self.asked += 1;
        Ok(format!("question {}", self.questions.len() - 1))
    }

    fn already(given: Given) -> No {
        No::Settled(DecisionStatus::Pending, Some(CHOICES[given.0].to_owned()), given.1.to_owned(), given.2)
    }

    fn answer(&mut self, who: usize, decision: usize, choice: usize) -> Answer {
        if choice >= self.open(decision)?.options {
            return Err(No::Invalid);
        }
        if WHO[who] == "loop" {
            return Err(No::Refused);
        }
        if let Some(given) = self.waiting(decision) {
            return Err(Self::already(given));
        }
        self.told.push((who, decision, Some(choice), self.now));
        Ok("said".to_owned())
    }

    fn resolve(&mut self, decision: usize, choice: Option<usize>, by: Option<&'static str>) -> Answer {
        let options = self.open(decision)?.options;
        // Time does not overrule what somebody has answered.
        if let (None, Some(given)) = (by, self.waiting(decision)) {
            return Err(Self::already(given));
        }
        if choice.is_some_and(|choice| choice >= options) {
            return Err(No::Invalid);
        }
        let now = self.now;
        let question = &mut self.questions[decision];
        question.status = match (choice, by) {
            (None, _) => DecisionStatus::Expired,
            (Some(_), Some(_)) => DecisionStatus::Decided,
            (Some(_), None) => DecisionStatus::AutoResolved,
        };
        let row = if by.is_some() { "human" } else { "auto" };
        question.settled = Some((choice, row, by.unwrap_or("auto"), now));
        question.said = true;
        self.announced.push((decision, question.status));
        Ok("settled".to_owned())
    }

    fn pm(&mut self) {
        for (who, decision, choice, _) in std::mem::take(&mut self.told) {
            if let (Some(choice), true) = (choice, WHO[who] != "loop") {
                // What is late or no option is not applied.
                let _ = self.resolve(decision, Some(choice), Some(WHO[who]));
            }
        }
        for decision in 0..self.questions.len() {
            let question = &self.questions[decision];
            if question.due.is_some_and(|due| due <= self.now) {
                let _ = self.resolve(decision, question.default, None);
            }
        }
    }

    fn settle(&mut self, decision: usize, choice: usize) {
        let now = self.now;
        if let Some(question) = self.questions.get_mut(decision).filter(|question| question.settled.is_none()) {
            question.status = DecisionStatus::Decided;
            question.settled = Some((Some(choice), "human", "human", now));
        }
    }

    fn announce(&mut self, decision: usize) -> Answer {
        let question = self.questions.get_mut(decision).ok_or(No::NotFound)?;
        if question.status == DecisionStatus::Pending || question.said {
            return Err(No::Refused);
        }
        question.said = true;
        self.announced.push((decision, question.status));
        Ok("said".to_owned())
    }
}

struct Run<'w> {
    world: &'w World,
    model: Model,
    story: Story,
    ids: Vec<DecisionId>,
    position: i64,
}

fn relative(at: Timestamp) -> i64 {
    at.seconds_since(START)
}

fn no(error: Error) -> No {
    match error {
        Error::NotFound { .. } => No::NotFound,
        Error::Invalid(_) => No::Invalid,
        Error::Refused(_) => No::Refused,
        Error::Settled { status, choice, by, at, .. } => No::Settled(status, choice, by, relative(at)),
        _ => No::Other,
    }
}

fn actor(id: &str) -> ActorId {
    id.parse().unwrap()
}

impl Run<'_> {
    fn id(&self, decision: usize) -> DecisionId {
        self.ids.get(decision).cloned().unwrap_or_else(|| format!("no-decision-{decision}").parse().unwrap())
    }

    fn line(op: &Op) -> String {
        let choice = |choice: &Option<usize>| choice.map_or("nothing", |choice| CHOICES[choice]);
        match op {
            Op::Ask { options, default, minutes, matter } => {
                let limit = minutes.map_or_else(|| "for ever".to_owned(), |minutes| format!("{minutes} min"));
                let about = matter.map(|matter| format!(" about matter {matter}")).unwrap_or_default();
                format!("pm asks{about}: {:?}, by default {}, {limit}", &CHOICES[..*options.min(&3)], choice(default))
            }
            Op::Answer { who, decision, choice } => {
                format!("{} answers question {decision} with {}", WHO[*who], CHOICES[*choice])
            }
            Op::Say { who, decision, choice: said } => {
                format!("another tool has {} say {} to question {decision}", WHO[*who], choice(said))
            }
            Op::Pm => "pm looks".to_owned(),
            Op::Close { decision, choice: said, by_human } => {
                let by = if *by_human { "for the human" } else { "by itself" };
                format!("question {decision} is closed {by} with {}", choice(said))
            }
            Op::Settle { decision, choice } => format!("another tool settles question {decision} with {}", CHOICES[*choice]),
            Op::Announce(decision) => format!("pm announces question {decision}"),
            Op::Time(seconds) => format!("{seconds} s pass"),
        }
    }

    fn predict(&mut self, op: &Op) -> Answer {
        let done = Ok("done".to_owned());
        match op {
            Op::Ask { options, default, minutes, matter } => self.model.ask((*options).min(3), *default, *minutes, *matter),
            Op::Answer { who, decision, choice } => self.model.answer(*who, *decision, *choice),
            Op::Say { who, decision, choice } => {
                // What names no question is nobody's answer, also once there are more of them.
                if *decision < self.model.questions.len() {
                    self.model.told.push((*who, *decision, *choice, self.model.now));
                }
                done
            }
            Op::Pm => {
                self.model.pm();
                done
            }
            Op::Close { decision, choice, by_human } => self.model.resolve(*decision, *choice, by_human.then_some("human")),
            Op::Settle { decision, choice } => {
                self.model.settle(*decision, *choice);
                done
            }
            Op::Announce(decision) => self.model.announce(*decision),
            Op::Time(seconds) => {
                self.model.now += seconds;
                done
            }
        }
    }

    fn act(&mut self, op: &Op) -> Result<String, Error> {
        let db = &self.world.db;
        let done = Ok("done".to_owned());
        match op {
            Op::Ask { options, default, minutes, matter } => {
                let option = |id: &&str| DecisionOption { id: (*id).to_owned(), description: String::new() };
                let new = NewDecision {
                    decision_type: "question".to_owned(),
                    summary: "which?".to_owned(),
                    options: CHOICES[..(*options).min(3)].iter().map(option).collect(),
                    default_option: default.map(|default| CHOICES[default].to_owned()),
                    context: json!({}),
                    timeout_minutes: *minutes,
                    requested_by: actor("pm"),
                    fingerprint: matter.map(|matter| format!("matter:{matter}")),
                };
                let id = db.write(|tx| tx.ask(&new, None))?;
                if let Some(at) = self.ids.iter().position(|known| *known == id) {
                    return Ok(format!("question {at} stands"));
                }
                self.ids.push(id);
                Ok(format!("question {}", self.ids.len() - 1))
            }
            Op::Answer { who, decision, choice } => {
                let id = self.id(*decision);
                db.write(|tx| tx.answer(&id, CHOICES[*choice], None, &actor(WHO[*who]), "cli")).map(|_| "said".to_owned())
            }
            Op::Say { who, decision, choice } => {
                let payload = json!({
                    "message_type": "decision_response", "decision_id": self.id(*decision),
                    "choice": choice.map(|choice| CHOICES[choice]), "source": "another tool"
                });
                db.publish(&NewEvent::from_json(actor(WHO[*who]), "human_message", payload)?)?;
                done
            }
            Op::Pm => {
                db.write(pm)?;
                done
            }
            Op::Close { decision, choice, by_human } => {
                let (id, choice) = (self.id(*decision), choice.map(|choice| CHOICES[choice]));
                db.write(|tx| tx.resolve_decision(&id, choice, *by_human, None, None)).map(|_| "settled".to_owned())
            }
            Op::Settle { decision, choice } => {
                let (id, now) = (self.id(*decision), self.world.now().to_sql_text());
                db.execute_foreign(&format!(
                    "UPDATE decisions SET status = 'decided', choice = '{}', decided_by = 'human', decided_at = '{now}'
                     WHERE id = '{id}' AND status = 'pending'",
                    CHOICES[*choice]
                ))?;
                done
            }
            Op::Announce(decision) => {
                let id = self.id(*decision);
                db.write(|tx| tx.announce_decision(&id)).map(|_| "said".to_owned())
            }
            Op::Time(seconds) => {
                self.world.clock.advance_millis(seconds * 1000);
                done
            }
        }
    }

    fn step(&mut self, op: &Op) -> Result<(), String> {
        let model = self.predict(op);
        let stands = model.as_ref().is_ok_and(|text| text.ends_with("stands"));
        let before = (model.is_err() || stands).then(|| self.world.rows());
        let database = self.act(op).map_err(no);
        self.story.tell(match &database {
            Ok(text) => format!("{} -> {text}", Self::line(op)),
            Err(no) => format!("{} -> {no:?}", Self::line(op)),
        });
        self.story.agrees(self.world, database, model, before)?;
        self.compare()
    }

    fn compare(&mut self) -> Result<(), String> {
        let db = &self.world.db;
        let filter = EventFilter { after_position: Some(self.position), ..EventFilter::default() };
        let (decisions, open, events, position) = db
            .read(|tx| {
                Ok::<_, Error>((tx.decisions(false)?, tx.decisions(true)?, tx.events(&filter)?, tx.last_event_position()?))
            })
            .map_err(|error| self.story.wrong(&error.to_string()))?;
        self.position = position;
        for (at, (id, question)) in self.ids.iter().zip(&self.model.questions).enumerate() {
            let Some(row) = decisions.iter().find(|row| row.id == *id) else {
                return Err(self.story.wrong(&format!("question {at} is missing")));
            };
            let found = (row.status, row.choice.as_deref(), row.decided_by.as_deref(), row.decided_at.map(relative));
            let expected = match &question.settled {
                Some((choice, row, _, when)) => {
                    (question.status, choice.map(|choice| CHOICES[choice]), Some(*row), Some(*when))
                }
                None => (DecisionStatus::Pending, None, None, None),
            };
            self.story.same(&format!("question {at}"), found, expected)?;
            self.story.same(&format!("when question {at} is due"), row.due_at().map(relative), question.due)?;
        }
        self.story.same("how many questions there are", decisions.len(), self.model.questions.len())?;
        let pending = self.model.questions.iter().filter(|question| question.status == DecisionStatus::Pending).count();
        self.story.same("how many are open", open.len(), pending)?;
        let asked = events.iter().filter(|event| event.event_type == "decision_needed").count();
        self.story.same("how many questions were said", asked, std::mem::take(&mut self.model.asked))?;
        let mut said: Vec<(usize, String)> = events
            .iter()
            .filter(|event| event.event_type == "decision_resolved")
            .map(|event| {
                let id = event.payload["decision_id"].as_str().unwrap_or_default();
                let at = self.ids.iter().position(|known| known.as_str() == id).unwrap_or(usize::MAX);
                (at, event.payload["status"].as_str().unwrap_or_default().to_owned())
            })
            .collect();
        said.sort();
        let announced = std::mem::take(&mut self.model.announced);
        let mut expected: Vec<_> = announced.into_iter().map(|(at, status)| (at, status.to_string())).collect();
        expected.sort();
        self.story.same("what was said to be settled", said, expected)
    }
}

/// As pm does it: first what it has been told, in order, then what is due.
fn pm(tx: &coord_db::WriteTx<'_>) -> Result<(), Error> {
    for delivery in tx.pending_deliveries("pm", usize::MAX)? {
        if let Ok(Payload::HumanMessage(said)) = delivery.event.parse()
            && let (Some(id), Some(choice)) = (said.decision_id, said.choice)
            && tx.find_loop(&delivery.event.source)?.is_none()
        {
            match tx.resolve_decision(&id, Some(&choice), true, None, Some(&delivery.event)) {
                Err(error) if !error.is_refusal() => return Err(error),
                _ => {}
            }
        }
        tx.acknowledge("pm", [&delivery.event.id])?;
    }
    for decision in tx.decisions(true)? {
        if decision.due_at().is_some_and(|due| due <= tx.now()) {
            tx.resolve_decision(&decision.id, decision.default_option.as_deref(), false, None, None)?;
        }
    }
    Ok(())
}

fn run(world: &World, ops: &[Op]) -> Result<(), String> {
    let position = world.db.read(|tx| tx.last_event_position()).map_err(|error: Error| error.to_string())?;
    let mut run = Run { world, model: Model::default(), story: Story::default(), ids: Vec::new(), position };
    for op in ops {
        run.step(op)?;
        world.note();
    }
    // Whatever has a time limit is settled once it is over.
    run.step(&Op::Time(600))?;
    run.step(&Op::Pm)?;
    let left = run.model.questions.iter().any(|question| question.due.is_some() && question.settled.is_none());
    run.story.holds("an expired question is open", !left)
}

#[test]
fn decisions_are_as_the_model_has_them() {
    check(400, op(), 1..30, World::with_loop, run);
}
