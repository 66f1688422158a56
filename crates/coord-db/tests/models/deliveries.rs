//! Deliveries: who is told what, in which order, once.

use std::collections::BTreeMap;

use coord_db::{Database, Error, EventId, NewEvent, Payload};
use proptest::prelude::*;
use serde_json::json;

use crate::{Answer, Story, column, config, room};

const READERS: [&str; 3] = ["ann", "bob", "cy"];
const TYPES: [&str; 3] = ["custom.a", "custom.b", "custom.*"];
const SOURCES: [&str; 2] = ["left", "right"];

#[derive(Debug, Clone)]
enum Step {
    Subscribe { who: usize, types: Vec<usize>, sources: Option<Vec<usize>> },
    Limit { who: usize, most: Option<i64> },
    End { who: usize },
    Publish { of: usize, from: usize, priority: i64, how: How },
    Take { who: usize, most: usize, mask: u8 },
    Acknowledge { who: usize, event: usize },
    SetAside { who: usize, event: usize },
    Try { who: usize },
    ForeignFlag { who: usize, event: usize },
    TakeAndFail { who: usize },
}

#[derive(Debug, Clone, Copy)]
enum How {
    Alone,
    InTransaction,
    Twice,
    ByTheShell,
}

fn step() -> impl Strategy<Value = Step> {
    let who = || 0..READERS.len();
    let some = |count: usize| prop::collection::vec(0..count, 0..3);
    let how = prop_oneof![Just(How::Alone), Just(How::InTransaction), Just(How::Twice), Just(How::ByTheShell)];
    prop_oneof![
        3 => (who(), some(TYPES.len()), prop::option::of(some(SOURCES.len())))
            .prop_map(|(who, types, sources)| Step::Subscribe { who, types, sources }),
        1 => (who(), prop::option::of(1..5_i64)).prop_map(|(who, most)| Step::Limit { who, most }),
        1 => who().prop_map(|who| Step::End { who }),
        6 => (0..2_usize, 0..SOURCES.len(), 1..6_i64, how)
            .prop_map(|(of, from, priority, how)| Step::Publish { of, from, priority, how }),
        4 => (who(), 0..4_usize, any::<u8>()).prop_map(|(who, most, mask)| Step::Take { who, most, mask }),
        2 => (who(), 0..12_usize).prop_map(|(who, event)| Step::Acknowledge { who, event }),
        1 => (who(), 0..12_usize).prop_map(|(who, event)| Step::SetAside { who, event }),
        1 => who().prop_map(|who| Step::Try { who }),
        1 => (who(), 0..12_usize).prop_map(|(who, event)| Step::ForeignFlag { who, event }),
        1 => who().prop_map(|who| Step::TakeAndFail { who }),
    ]
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Is {
    Open { tries: i64 },
    Taken,
    Aside,
}

#[derive(Debug, Default, Clone)]
struct Wish {
    active: bool,
    types: Vec<usize>,
    sources: Option<Vec<usize>>,
    most: Option<i64>,
}

struct Said {
    id: EventId,
    priority: i64,
    to: BTreeMap<usize, Is>,
}

#[derive(Default)]
struct Model {
    wishes: BTreeMap<usize, Wish>,
    said: Vec<Said>,
}

impl Model {
    fn publish(&mut self, id: EventId, of: usize, from: usize, priority: i64) {
        let hears = |wish: &&Wish| {
            wish.active
                && wish.types.iter().any(|wanted| *wanted == of || *wanted == 2)
                && wish.sources.as_ref().is_none_or(|sources| sources.contains(&from))
                && wish.most.is_none_or(|most| priority <= most)
        };
        let to = self.wishes.iter().filter(|(_, wish)| hears(wish)).map(|(who, _)| (*who, Is::Open { tries: 0 })).collect();
        self.said.push(Said { id, priority, to });
    }

    /// Places in `said`, the most urgent first, then the order of commits.
    fn open(&self, who: usize) -> Vec<usize> {
        let mut open: Vec<usize> =
            (0..self.said.len()).filter(|at| matches!(self.said[*at].to.get(&who), Some(Is::Open { .. }))).collect();
        open.sort_by_key(|at| (self.said[*at].priority, *at));
        open
    }

    fn settle(&mut self, who: usize, at: usize, is: Is) {
        if let Some(known @ Is::Open { .. }) = self.said[at].to.get_mut(&who) {
            *known = is;
        }
    }
}

fn names(all: &[&str], chosen: &[usize]) -> Vec<String> {
    chosen.iter().map(|at| all[*at].to_owned()).collect()
}

fn take(db: &Database, who: usize, most: usize) -> Vec<(EventId, i64)> {
    let open = db.read(|tx| tx.pending_deliveries(READERS[who], most)).unwrap();
    open.into_iter().map(|delivery| (delivery.event.id, delivery.tries)).collect()
}

fn run(steps: &[Step]) -> Result<(), TestCaseError> {
    let (db, _clock) = room();
    db.execute_foreign("DELETE FROM subscriptions").unwrap();
    let (mut model, mut story) = (Model::default(), Story::default());
    for step in steps {
        let (seen, expected) = apply(&db, &mut model, step);
        story.expect(step, &seen, &expected)?;
        for (who, reader) in READERS.iter().enumerate() {
            let open: Vec<(EventId, i64)> = model
                .open(who)
                .into_iter()
                .map(|at| {
                    let Some(Is::Open { tries }) = model.said[at].to.get(&who) else { unreachable!() };
                    (model.said[at].id.clone(), *tries)
                })
                .collect();
            story.holds(&take(&db, who, 1_000), &open)?;
            story.holds(&db.read(|tx| tx.has_deliveries(reader)).unwrap(), &!open.is_empty())?;
        }
        // The seed's flag: everyone who was to hear has settled it, and somebody has taken it.
        let flags = column(&db, "SELECT acknowledged FROM events WHERE event_type GLOB 'custom.*' ORDER BY rowid");
        let wanted: Vec<String> = model
            .said
            .iter()
            .map(|said| {
                let open = said.to.values().any(|is| matches!(is, Is::Open { .. }));
                let taken = said.to.values().any(|is| *is == Is::Taken);
                i64::from(!open && taken).to_string()
            })
            .collect();
        story.holds(&flags, &wanted)?;
    }
    story.holds(&db.check().unwrap(), &Vec::new())
}

fn apply(db: &Database, model: &mut Model, step: &Step) -> (Answer, Answer) {
    let reader = |who: usize| READERS[who].parse().unwrap();
    match step {
        Step::Subscribe { who, types, sources } => {
            let sources_named = sources.as_ref().map(|sources| names(&SOURCES, sources));
            let result = db.write(|tx| tx.subscribe(&reader(*who), &names(&TYPES, types), sources_named.as_deref()));
            if types.is_empty() || sources.as_ref().is_some_and(Vec::is_empty) {
                return (Answer::of(&result), Answer::Invalid);
            }
            let wish = model.wishes.entry(*who).or_default();
            (wish.active, wish.types, wish.sources) = (true, types.clone(), sources.clone());
            (Answer::of(&result), Answer::Done)
        }
        Step::Limit { who, most } => {
            let most_text = most.map_or("NULL".to_owned(), |most| most.to_string());
            db.execute_foreign(&format!("UPDATE subscriptions SET max_priority = {most_text} WHERE id = '{}'", READERS[*who]))
                .unwrap();
            if let Some(wish) = model.wishes.get_mut(who) {
                wish.most = *most;
            }
            (Answer::Done, Answer::Done)
        }
        Step::End { who } => {
            let result = db.write(|tx| tx.unsubscribe(&reader(*who)));
            let expected = match model.wishes.get_mut(who) {
                None => Answer::NotFound,
                Some(wish) if !wish.active => Answer::Illegal,
                Some(wish) => {
                    wish.active = false;
                    for at in model.open(*who) {
                        model.settle(*who, at, Is::Aside);
                    }
                    Answer::Done
                }
            };
            (Answer::of(&result), expected)
        }
        Step::Publish { of, from, priority, how } => {
            let payload = Payload::Custom { event_type: TYPES[*of].to_owned(), value: json!({}) };
            let event = NewEvent::new(SOURCES[*from].parse().unwrap(), payload).priority(*priority);
            let ids = match how {
                How::Alone => vec![db.publish(&event).unwrap()],
                How::InTransaction => vec![db.write(|tx| tx.publish(&event)).unwrap()],
                How::Twice => db.write(|tx| tx.publish_all(&[event.clone(), event])).unwrap(),
                How::ByTheShell => {
                    let id = format!("shell-{}", model.said.len());
                    db.execute_foreign(&format!(
                        "INSERT INTO events (id, source, event_type, priority) VALUES ('{id}', '{}', '{}', {priority})",
                        SOURCES[*from], TYPES[*of]
                    ))
                    .unwrap();
                    vec![id.parse().unwrap()]
                }
            };
            for id in ids {
                model.publish(id, *of, *from, *priority);
            }
            (Answer::Done, Answer::Done)
        }
        Step::Take { who, most, mask } => {
            let taken: Vec<usize> = model
                .open(*who)
                .into_iter()
                .take(*most)
                .enumerate()
                .filter(|(n, _)| mask & (1 << n) != 0)
                .map(|(_, at)| at)
                .collect();
            let result: Result<(), Error> = db.write(|tx| {
                let open = tx.pending_deliveries(READERS[*who], *most)?;
                let chosen = open.iter().enumerate().filter(|(n, _)| mask & (1 << n) != 0);
                tx.acknowledge(READERS[*who], chosen.map(|(_, delivery)| &delivery.event.id))
            });
            for at in taken {
                model.settle(*who, at, Is::Taken);
            }
            (Answer::of(&result), Answer::Done)
        }
        Step::Acknowledge { who, event } => {
            let id = model.said.get(*event).map_or_else(|| "unknown".parse().unwrap(), |said| said.id.clone());
            let result = db.write(|tx| tx.acknowledge(READERS[*who], [&id]));
            if *event < model.said.len() {
                model.settle(*who, *event, Is::Taken);
            }
            (Answer::of(&result), Answer::Done)
        }
        Step::SetAside { who, event } => {
            let id = model.said.get(*event).map_or_else(|| "unknown".parse().unwrap(), |said| said.id.clone());
            let result = db.write(|tx| tx.set_aside(READERS[*who], &id, "tired of it"));
            if *event < model.said.len() {
                model.settle(*who, *event, Is::Aside);
            }
            (Answer::of(&result), Answer::Done)
        }
        Step::Try { who } => {
            let result: Result<(), Error> = db.write(|tx| match tx.pending_deliveries(READERS[*who], 1)?.first() {
                Some(delivery) => tx.record_try(delivery),
                None => Ok(()),
            });
            if let Some(at) = model.open(*who).first()
                && let Some(Is::Open { tries }) = model.said[*at].to.get_mut(who)
            {
                *tries += 1;
            }
            (Answer::of(&result), Answer::Done)
        }
        Step::ForeignFlag { who, event } => {
            if let Some(said) = model.said.get(*event) {
                // The flag of one who was not asked, or of an event that has it already, says nothing.
                let open = matches!(said.to.get(who), Some(Is::Open { .. }));
                if open {
                    db.execute_foreign(&format!(
                        "UPDATE events SET acknowledged = 1, acknowledged_by = '{}' WHERE id = '{}'",
                        READERS[*who], said.id
                    ))
                    .unwrap();
                    model.settle(*who, *event, Is::Taken);
                }
            }
            (Answer::Done, Answer::Done)
        }
        Step::TakeAndFail { who } => {
            let result: Result<(), Error> = db.write(|tx| {
                for delivery in tx.pending_deliveries(READERS[*who], 3)? {
                    tx.record_try(&delivery)?;
                    tx.acknowledge(READERS[*who], [&delivery.event.id])?;
                    let payload = Payload::Custom { event_type: TYPES[0].to_owned(), value: json!({}) };
                    tx.publish(&NewEvent::new(SOURCES[0].parse()?, payload))?;
                }
                Err(Error::Refused("changed my mind".to_owned()))
            });
            (Answer::of(&result), Answer::Refused)
        }
    }
}

proptest! {
    #![proptest_config(config(300))]
    #[test]
    fn deliveries_do_what_the_model_does(steps in prop::collection::vec(step(), 1..40)) {
        run(&steps)?;
    }
}
