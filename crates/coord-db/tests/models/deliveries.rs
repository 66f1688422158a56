//! Deliveries: who gets which event, in which order, until it is acknowledged or set aside, and exactly once.

use std::collections::{BTreeMap, BTreeSet};

use coord_db::{ActorId, Error, EventId, NewEvent, Payload, error_chain};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use serde_json::json;

use crate::support::{Rows, Story, World, check};
use test_support::Postgres;

/// Who consumes: those that come and go, and some of those that are always there.
const SUBSCRIBERS: [&str; 3] = ["w1", "w2", "w3"];
const READERS: [&str; 6] = ["w1", "w2", "w3", "human", "pm", "loop"];
const SOURCES: [&str; 3] = ["s1", "s2", "loop"];
const TYPES: [&str; 5] = ["custom.a", "custom.b", "custom.a.b", "summary_requested", "pause_requested"];
const WANTED: [&str; 5] = ["custom.a", "custom.b", "custom.*", "summary_requested", "pause_requested"];

#[derive(Debug, Clone)]
enum Op {
    Publish {
        kind: usize,
        source: usize,
        priority: i64,
    },
    /// As another tool inserts it; `done` as one that nobody is to hear.
    Insert {
        kind: usize,
        source: usize,
        priority: i64,
        done: bool,
    },
    Again {
        event: usize,
        replace: bool,
    },
    Read {
        reader: usize,
        limit: usize,
    },
    Take {
        reader: usize,
        limit: usize,
        fails: bool,
    },
    Acknowledge {
        reader: usize,
        event: usize,
    },
    Flag {
        reader: usize,
        event: usize,
    },
    Try {
        reader: usize,
        at: usize,
    },
    SetAside {
        reader: usize,
        event: usize,
    },
    Subscribe {
        by: usize,
        types: Vec<&'static str>,
        sources: Option<Vec<&'static str>>,
    },
    SubscribeWrongly {
        by: usize,
        how: usize,
    },
    Second {
        by: usize,
        types: Vec<&'static str>,
    },
    MostUrgent {
        by: usize,
        priority: Option<i64>,
    },
    Unsubscribe(usize),
}

fn op() -> impl Strategy<Value = Op> {
    let by = || 0..SUBSCRIBERS.len();
    let reader = || prop_oneof![4 => 0..SUBSCRIBERS.len(), 2 => 0..READERS.len()];
    let event = || prop_oneof![8 => 0..8_usize, 1 => 0..60_usize];
    let said = || (0..TYPES.len(), 0..SOURCES.len(), 1..7_i64);
    let types = || subsequence(WANTED.to_vec(), 1..4);
    prop_oneof![
        20 => said().prop_map(|(kind, source, priority)| Op::Publish { kind, source, priority }),
        4 => (said(), prop::bool::weighted(0.2))
            .prop_map(|((kind, source, priority), done)| Op::Insert { kind, source, priority, done }),
        2 => (event(), any::<bool>()).prop_map(|(event, replace)| Op::Again { event, replace }),
        4 => (reader(), 0..4_usize).prop_map(|(reader, limit)| Op::Read { reader, limit }),
        8 => (reader(), 1..4_usize, prop::bool::weighted(0.3))
            .prop_map(|(reader, limit, fails)| Op::Take { reader, limit, fails }),
        12 => (reader(), event()).prop_map(|(reader, event)| Op::Acknowledge { reader, event }),
        5 => (reader(), event()).prop_map(|(reader, event)| Op::Flag { reader, event }),
        5 => (reader(), 0..6_usize).prop_map(|(reader, at)| Op::Try { reader, at }),
        5 => (reader(), event()).prop_map(|(reader, event)| Op::SetAside { reader, event }),
        10 => (by(), types(), option::of(vec(select(SOURCES.to_vec()), 1..3)))
            .prop_map(|(by, types, sources)| Op::Subscribe { by, types, sources }),
        2 => (by(), 0..5_usize).prop_map(|(by, how)| Op::SubscribeWrongly { by, how }),
        2 => (by(), types()).prop_map(|(by, types)| Op::Second { by, types }),
        2 => (by(), option::of(1..6_i64)).prop_map(|(by, priority)| Op::MostUrgent { by, priority }),
        3 => by().prop_map(Op::Unsubscribe),
    ]
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    Taken,
    Aside,
}

#[derive(Debug, Clone)]
struct Delivery {
    state: State,
    tries: i64,
}

#[derive(Debug, Clone)]
struct Wish {
    subscriber: String,
    types: Vec<String>,
    sources: Option<Vec<String>>,
    least: i64,
    active: bool,
}

impl Wish {
    fn wants(&self, kind: &str, source: &str, priority: i64) -> bool {
        let by_type = |wanted: &String| wanted == kind || (wanted == "custom.*" && kind.starts_with("custom."));
        let by_source = self.sources.as_ref().is_none_or(|sources| sources.iter().any(|wanted| wanted == source));
        self.active && priority <= self.least && by_source && self.types.iter().any(by_type)
    }
}

struct Said {
    id: String,
    priority: i64,
    /// Whether it counts as acknowledged.
    acknowledged: bool,
    /// Who may be named for it.
    by: BTreeSet<String>,
    takers: BTreeSet<String>,
}

/// Deliveries by event and subscription, each with how it stands.
struct Model {
    wishes: BTreeMap<String, Wish>,
    events: Vec<Said>,
    deliveries: BTreeMap<(usize, String), Delivery>,
}

impl Model {
    fn new(world: &World) -> Self {
        // What the system's own subscriptions ask for is in the reference; here they are taken as they are found.
        let rows = world
            .db
            .query_foreign("SELECT id, subscriber, event_types, max_priority FROM subscriptions WHERE active = 1")
            .unwrap();
        let wishes = rows.into_iter().map(|row| {
            let text = |at: usize| row[at].clone().unwrap();
            let least = row[3].as_deref().map_or(i64::MAX, |text| text.parse().unwrap());
            let types = serde_json::from_str(&text(2)).unwrap();
            (text(0), Wish { subscriber: text(1), types, sources: None, least, active: true })
        });
        Self { wishes: wishes.collect(), events: Vec::new(), deliveries: BTreeMap::new() }
    }

    fn say(&mut self, id: String, kind: &str, source: &str, priority: i64, done: bool) {
        let at = self.events.len();
        for (subscription, _) in self.wishes.iter().filter(|(_, wish)| !done && wish.wants(kind, source, priority)) {
            self.deliveries.insert((at, subscription.clone()), Delivery { state: State::Open, tries: 0 });
        }
        let nobody = BTreeSet::from(["-".to_owned()]);
        self.events.push(Said { id, priority, acknowledged: done, by: nobody, takers: BTreeSet::new() });
    }

    fn is_of(&self, subscription: &str, reader: &str) -> bool {
        self.wishes.get(subscription).is_some_and(|wish| wish.subscriber == reader)
    }

    /// Most urgent first, then as they were said. A subscription that has ended gives nothing.
    fn pending(&self, reader: &str) -> Vec<(usize, String, i64)> {
        let mut open: Vec<_> = self
            .deliveries
            .iter()
            .filter(|((_, subscription), delivery)| {
                delivery.state == State::Open && self.is_of(subscription, reader) && self.wishes[subscription].active
            })
            .map(|((event, subscription), delivery)| (*event, subscription.clone(), delivery.tries))
            .collect();
        open.sort_by_key(|(event, ..)| (self.events[*event].priority, *event));
        open
    }

    /// Settles the reader's open deliveries of an event. False if there is none.
    fn settle(&mut self, reader: &str, event: usize, to: State) -> bool {
        let mine: Vec<String> =
            self.wishes.iter().filter(|(_, wish)| wish.subscriber == reader).map(|(id, _)| id.clone()).collect();
        let mut settled = false;
        for subscription in mine {
            settled |= self.settle_one(&subscription, event, to);
        }
        settled
    }

    fn settle_one(&mut self, subscription: &str, event: usize, to: State) -> bool {
        let Some(delivery) = self.deliveries.get_mut(&(event, subscription.to_owned())) else { return false };
        if delivery.state != State::Open {
            return false;
        }
        delivery.state = to;
        let reader = self.wishes[subscription].subscriber.clone();
        let any_open = self.deliveries.iter().any(|((of, _), delivery)| *of == event && delivery.state == State::Open);
        let said = &mut self.events[event];
        if to == State::Taken {
            said.takers.insert(reader.clone());
        }
        if !any_open && !said.acknowledged && !said.takers.is_empty() {
            said.acknowledged = true;
            // The last one to take it; where the last one open was set aside, one of those that have taken it.
            said.by = if to == State::Taken { BTreeSet::from([reader]) } else { said.takers.clone() };
        }
        true
    }

    /// The reference's one flag, set by another tool.
    fn flag(&mut self, reader: &str, event: usize) {
        let was = self.events[event].acknowledged;
        if !was {
            self.settle(reader, event, State::Taken);
        }
        let any_open = self.deliveries.iter().any(|((of, _), delivery)| *of == event && delivery.state == State::Open);
        let said = &mut self.events[event];
        if was || !any_open {
            said.acknowledged = true;
            said.by = BTreeSet::from([reader.to_owned()]);
        }
    }

    fn end(&mut self, subscriber: &str) -> Option<&'static str> {
        let ids: Vec<String> =
            self.wishes.iter().filter(|(_, wish)| wish.subscriber == subscriber).map(|(id, _)| id.clone()).collect();
        if ids.is_empty() {
            return Some("not found");
        }
        if ids.iter().all(|id| !self.wishes[id].active) {
            return Some("illegal");
        }
        for id in ids {
            for event in 0..self.events.len() {
                self.settle_one(&id, event, State::Aside);
            }
            self.wishes.get_mut(&id)?.active = false;
        }
        None
    }
}

struct Run<'w> {
    world: &'w World,
    model: Model,
    story: Story,
    /// What acting on an event has led to, for each reader and event.
    effects: BTreeMap<(String, usize), usize>,
}

fn actor(id: &str) -> ActorId {
    id.parse().unwrap()
}

fn event(kind: &str, source: &str, priority: i64) -> NewEvent {
    let payload = Payload::Custom { event_type: kind.to_owned(), value: json!({}) };
    NewEvent::new(actor(source), payload).priority(priority)
}

fn kind<T>(result: &Result<T, Error>) -> &'static str {
    match result {
        Ok(_) => "done",
        Err(Error::NotFound { .. }) => "not found",
        Err(Error::Refused(_)) => "refused",
        Err(Error::Invalid(_)) => "invalid",
        Err(Error::IllegalMove { .. }) => "illegal",
        Err(Error::Exists { .. }) => "exists",
        Err(Error::Statement(_)) => "the database refuses",
        Err(_) => "another error",
    }
}

impl Run<'_> {
    /// The id of an event, or one that no event has.
    fn id(&self, event: usize) -> String {
        self.model.events.get(event).map_or_else(|| format!("no-event-{event}"), |said| said.id.clone())
    }

    fn event_id(&self, event: usize) -> EventId {
        self.id(event).parse().unwrap()
    }

    fn fails(&self, error: &Error) -> String {
        self.story.wrong(&format!("the next operation fails: {}", error_chain(error)))
    }

    fn name(&self, id: &str) -> usize {
        self.model.events.iter().position(|said| said.id == id).unwrap_or(usize::MAX)
    }

    /// How it ended, as the database and as the model has it; what is refused changes nothing.
    fn told(&mut self, line: String, database: &str, model: &str, before: &Rows) -> Result<(), String> {
        self.story.tell(format!("{line} -> {database}"));
        self.story.same("the answer", database, model)?;
        if !matches!(model, "done" | "yes") {
            self.story.holds("it was refused, and something has changed", *self.world.rows() == *before)?;
        }
        Ok(())
    }

    fn pending(&self, reader: &str, limit: usize) -> Result<Vec<(usize, String, i64)>, String> {
        let found = self.world.db.read(|tx| tx.pending_deliveries(reader, limit)).map_err(|error: Error| self.fails(&error))?;
        let name = |delivery: coord_db::Delivery| {
            (self.name(delivery.event.id.as_str()), delivery.subscription_id.to_string(), delivery.tries)
        };
        Ok(found.into_iter().map(name).collect())
    }

    fn step(&mut self, op: &Op) -> Result<(), String> {
        let db = &self.world.db;
        self.world.clock.advance_millis(1_000);
        match op {
            Op::Publish { kind, source, priority } => {
                let (kind, source) = (TYPES[*kind], SOURCES[*source]);
                let said = event(kind, source, *priority);
                // One way to say it is as good as another.
                let id = match priority % 3 {
                    0 => db.publish(&said),
                    1 => db.write(|tx| tx.publish(&said)),
                    _ => db.write(|tx| Ok(tx.publish_all(std::slice::from_ref(&said))?.swap_remove(0))),
                };
                let id = id.map_err(|error: Error| self.fails(&error))?;
                self.model.say(id.to_string(), kind, source, *priority, false);
                self.story
                    .tell(format!("{source} says {kind} with priority {priority} (event {})", self.model.events.len() - 1));
            }
            Op::Insert { kind, source, priority, done } => {
                let (kind, source, id) = (TYPES[*kind], SOURCES[*source], format!("foreign-{}", self.model.events.len()));
                db.execute_foreign(&format!(
                    "INSERT INTO events (id, source, event_type, priority, acknowledged) VALUES ('{id}', '{source}', '{kind}', {priority}, {})",
                    i64::from(*done)
                ))
                .map_err(|error| self.fails(&error))?;
                self.model.say(id, kind, source, *priority, *done);
                let number = self.model.events.len() - 1;
                let note = if *done { ", acknowledged at once" } else { "" };
                self.story
                    .tell(format!("another tool says {kind} of {source} with priority {priority}{note} (event {number})"));
            }
            Op::Again { event: at, replace } => {
                let (id, before) = (self.event_id(*at), self.world.rows());
                if *at >= self.model.events.len() {
                    return Ok(());
                }
                if *replace {
                    let or_replace = if Postgres::under_test().is_some() { "" } else { "OR REPLACE" };
                    let result = db.execute_foreign(&format!(
                        "INSERT {or_replace} INTO events (id, source, event_type) VALUES ('{id}', 's1', 'custom.a')"
                    ));
                    self.told(format!("another tool replaces event {at}"), kind(&result), "the database refuses", &before)?;
                } else {
                    let result = db.write(|tx| tx.publish_as(&id, &event("custom.a", "s1", 5)));
                    self.told(format!("s1 says event {at} again"), kind(&result), "exists", &before)?;
                }
            }
            Op::Read { reader, limit } => {
                let reader = READERS[*reader];
                let mut expected = self.model.pending(reader);
                expected.truncate(*limit);
                let found = self.pending(reader, *limit)?;
                self.story.tell(format!("{reader} reads at most {limit} -> {found:?}"));
                self.story.same("what it reads", found, expected)?;
            }
            Op::Take { reader, limit, fails } => self.take(READERS[*reader], *limit, *fails)?,
            Op::Acknowledge { reader, event } => {
                let (reader, id, before) = (READERS[*reader], self.id(*event), self.world.rows());
                let database = match db.write(|tx| tx.acknowledge_event(reader, &id)) {
                    Ok(true) => "yes",
                    Ok(false) => "nothing of it was open",
                    error => kind(&error),
                };
                let model = if *event >= self.model.events.len() {
                    "not found"
                } else if self.model.settle(reader, *event, State::Taken) {
                    *self.effects.entry((reader.to_owned(), *event)).or_default() += 1;
                    "yes"
                } else {
                    "nothing of it was open"
                };
                self.told(format!("{reader} acknowledges event {event}"), database, model, &before)?;
            }
            Op::Flag { reader, event } => {
                let (reader, id) = (READERS[*reader], self.id(*event));
                db.execute_foreign(&format!(
                    "UPDATE events SET acknowledged = 1, acknowledged_by = '{reader}' WHERE id = '{id}'"
                ))
                .map_err(|error| self.fails(&error))?;
                if *event < self.model.events.len() {
                    self.model.flag(reader, *event);
                }
                self.story.tell(format!("another tool flags event {event} as acknowledged by {reader}"));
            }
            Op::Try { reader, at } => {
                let reader = READERS[*reader];
                let result = db.write(|tx| {
                    let Some(delivery) = tx.pending_deliveries(reader, 10)?.into_iter().nth(*at) else { return Ok(()) };
                    tx.record_try(&delivery)?;
                    // One that it has settled in between is tried no more.
                    tx.acknowledge(reader, [&delivery.event.id])?;
                    tx.record_try(&delivery)?;
                    Err(Error::Refused(String::new()))
                });
                let tried = matches!(result, Err(Error::Refused(_)));
                let open = self.model.pending(reader).into_iter().nth(*at);
                self.story.tell(format!("{reader} tries delivery {at} of its own and dies -> {tried}"));
                self.story.same("the answer", tried, open.is_some())?;
                if let Some((event, subscription, _)) = open {
                    db.write(|tx| tx.record_try(&tx.pending_deliveries(reader, 10)?[*at]))
                        .map_err(|error: Error| self.fails(&error))?;
                    self.model.deliveries.get_mut(&(event, subscription)).unwrap().tries += 1;
                }
            }
            Op::SetAside { reader, event } => {
                let (reader, id) = (READERS[*reader], self.event_id(*event));
                db.write(|tx| tx.set_aside(reader, &id, "it fails")).map_err(|error: Error| self.fails(&error))?;
                if *event < self.model.events.len() {
                    self.model.settle(reader, *event, State::Aside);
                }
                self.story.tell(format!("event {event} is set aside for {reader}"));
            }
            Op::Subscribe { by, types, sources } => {
                let by = SUBSCRIBERS[*by];
                let types: Vec<String> = types.iter().map(|wanted| (*wanted).to_owned()).collect();
                let sources: Option<Vec<String>> =
                    sources.as_ref().map(|all| all.iter().map(|one| (*one).to_owned()).collect());
                let result = db.write(|tx| tx.subscribe(&actor(by), &types, sources.as_deref()));
                self.story.tell(format!("{by} subscribes to {types:?} of {sources:?} -> {}", kind(&result)));
                let least = self.model.wishes.get(by).map_or(i64::MAX, |wish| wish.least);
                let wish = Wish { subscriber: by.to_owned(), types, sources, least, active: true };
                self.model.wishes.insert(by.to_owned(), wish);
                self.story.same("the answer", kind(&result), "done")?;
            }
            Op::SubscribeWrongly { by, how } => {
                let before = self.world.rows();
                let (by, wanted, model) = match how {
                    0 => (SUBSCRIBERS[*by], vec![], "invalid"),
                    1 => (SUBSCRIBERS[*by], vec!["custom.a".to_owned(), "no_such_type".to_owned()], "invalid"),
                    2 => ("pm", vec!["custom.a".to_owned()], "refused"),
                    3 => (SUBSCRIBERS[*by], vec!["custom".to_owned()], "invalid"),
                    _ => ("loop", vec!["custom.a".to_owned()], "refused"),
                };
                let result = db.write(|tx| tx.subscribe(&actor(by), &wanted, None));
                self.told(format!("{by} subscribes to {wanted:?}"), kind(&result), model, &before)?;
                for nobody in [vec![String::new()], Vec::new()] {
                    let result = db.write(|tx| tx.subscribe(&actor("w1"), &["custom.a".to_owned()], Some(&nobody)));
                    self.told("w1 subscribes to events of nobody".to_owned(), kind(&result), "invalid", &before)?;
                }
            }
            Op::Second { by, types } => {
                let (by, id) = (SUBSCRIBERS[*by], format!("{}-second", SUBSCRIBERS[*by]));
                if self.model.wishes.contains_key(&id) {
                    return Ok(());
                }
                db.execute_foreign(&format!(
                    "INSERT INTO subscriptions (id, subscriber, event_types) VALUES ('{id}', '{by}', '{}')",
                    json!(types)
                ))
                .map_err(|error| self.fails(&error))?;
                let wanted = types.iter().map(|wanted| (*wanted).to_owned()).collect();
                let wish = Wish { subscriber: by.to_owned(), types: wanted, sources: None, least: i64::MAX, active: true };
                self.model.wishes.insert(id, wish);
                self.story.tell(format!("another tool subscribes {by} a second time, to {types:?}"));
            }
            Op::MostUrgent { by, priority } => {
                let by = SUBSCRIBERS[*by];
                let value = priority.map_or_else(|| "NULL".to_owned(), |priority| priority.to_string());
                db.execute_foreign(&format!("UPDATE subscriptions SET max_priority = {value} WHERE id = '{by}'"))
                    .map_err(|error| self.fails(&error))?;
                if let Some(wish) = self.model.wishes.get_mut(by) {
                    wish.least = priority.unwrap_or(i64::MAX);
                }
                self.story.tell(format!("another tool has {by} hear only what has priority {value} or is more urgent"));
            }
            Op::Unsubscribe(by) => {
                let (by, before) = (SUBSCRIBERS[*by], self.world.rows());
                let result = db.write(|tx| tx.unsubscribe(&actor(by)));
                let model = self.model.end(by).unwrap_or("done");
                self.told(format!("{by} unsubscribes"), kind(&result), model, &before)?;
            }
        }
        self.compare()
    }

    /// Reads, acts and acknowledges in one transaction, which fails at its end or does not.
    fn take(&mut self, reader: &str, limit: usize, fails: bool) -> Result<(), String> {
        let mut expected = self.model.pending(reader);
        expected.truncate(limit);
        let (before, mut taken) = (self.world.rows(), Vec::new());
        let result = self.world.db.write(|tx| {
            let deliveries = tx.pending_deliveries(reader, limit)?;
            for delivery in &deliveries {
                taken.push((delivery.event.id.to_string(), delivery.subscription_id.to_string()));
                tx.record_try(delivery)?;
                // What acting on it leads to; a type that nobody here listens to.
                let effect = Payload::Custom { event_type: "effect".to_owned(), value: json!({ "by": reader }) };
                tx.publish(&NewEvent::new(actor(reader), effect).caused_by(&delivery.event))?;
            }
            tx.acknowledge(reader, deliveries.iter().map(|delivery| &delivery.event.id))?;
            if fails { Err(Error::Refused("killed".to_owned())) } else { Ok(()) }
        });
        let taken: Vec<usize> = taken.iter().map(|(id, _)| self.name(id)).collect();
        let line = format!("{reader} acts on at most {limit} {taken:?}");
        if fails {
            self.told(format!("{line} and is killed"), kind(&result), "refused", &before)?;
        } else {
            self.story.tell(line);
            for (event, subscription, _) in &expected {
                self.model.deliveries.get_mut(&(*event, subscription.clone())).unwrap().tries += 1;
            }
            for (event, ..) in &expected {
                if self.model.settle(reader, *event, State::Taken) {
                    *self.effects.entry((reader.to_owned(), *event)).or_default() += 1;
                }
            }
        }
        self.story.same("what it acts on", taken, expected.into_iter().map(|(event, ..)| event).collect())
    }

    /// Everything that can be seen is as the model has it.
    fn compare(&self) -> Result<(), String> {
        for reader in READERS {
            let expected = self.model.pending(reader);
            let has = self.world.db.read(|tx| tx.has_deliveries(reader)).map_err(|error: Error| self.fails(&error))?;
            self.story.same(&format!("whether {reader} has anything to handle"), has, !expected.is_empty())?;
            if has {
                self.story.same(&format!("what {reader} has to handle"), self.pending(reader, 1000)?, expected)?;
            }
        }
        let rows = self.world.db.query_foreign("SELECT event_id, subscription_id, status, tries FROM deliveries").unwrap();
        let mut found: Vec<_> = rows
            .into_iter()
            .map(|row| row.into_iter().flatten().collect::<Vec<String>>())
            .map(|row| (self.name(&row[0]), row[1].clone(), row[2].clone(), row[3].clone()))
            .collect();
        found.sort();
        let state = |state: State| match state {
            State::Open => "pending",
            State::Taken => "acknowledged",
            State::Aside => "set_aside",
        };
        let expected: Vec<_> = self
            .model
            .deliveries
            .iter()
            .map(|((event, subscription), delivery)| {
                (*event, subscription.clone(), state(delivery.state).to_owned(), delivery.tries.to_string())
            })
            .collect();
        self.story.same("the deliveries", found, expected)?;
        let rows =
            self.world.query("SELECT acknowledged, acknowledged_by FROM events WHERE event_type <> 'effect' ORDER BY rowid");
        for (at, (row, said)) in rows.iter().zip(&self.model.events).enumerate() {
            let fits = said.by.iter().any(|by| *row == format!("{} {by}", i32::from(said.acknowledged)));
            let expected = (said.acknowledged, &said.by);
            self.story
                .holds(&format!("event {at} is {row}, and should be acknowledged or not by one of {expected:?}"), fits)?;
        }
        self.story.same("the number of events", rows.len(), self.model.events.len())
    }

    /// In the end everyone acts on what is left; then each delivery has been acted on once, or was set aside.
    fn drain(&mut self) -> Result<(), String> {
        for reader in READERS {
            while !self.model.pending(reader).is_empty() {
                self.take(reader, 2, false)?;
            }
        }
        self.compare()?;
        for ((reader, event), times) in &self.effects {
            self.story.holds(&format!("{reader} has taken event {event} {times} times"), *times == 1)?;
        }
        let open = self.model.deliveries.values().filter(|delivery| delivery.state == State::Open).count();
        self.story.same(
            "what is open in the end",
            self.world.query("SELECT 1 FROM deliveries WHERE status = 'pending'").len(),
            open,
        )?;
        self.story.same("what is open in the end", open, 0)
    }
}

fn run(world: &World, ops: &[Op]) -> Result<(), String> {
    let mut run = Run { world, model: Model::new(world), story: Story::default(), effects: BTreeMap::new() };
    for op in ops {
        run.step(op)?;
        world.note();
    }
    run.drain()
}

#[test]
fn deliveries_are_as_the_model_has_them() {
    check(400, op(), 1..30, World::with_loop, run);
}
