//! The queue for leases: who is next when something comes free, that nobody overtakes, and that nobody starves.

use std::collections::BTreeSet;

use coord_db::{AcquireRequest, Database, Error, LeasePath, LoopId, LoopStatus, NewLoop, Timestamp, Waiting};
use proptest::prelude::*;

use crate::leases::excludes;
use crate::{START, Story, config, room};

/// Loops and how much they count; 1 is the most.
const LOOPS: [(&str, i64); 4] = [("w", 1), ("x", 3), ("y", 5), ("z", 5)];
const PATHS: [&str; 6] = ["a", "a/", "a/b", "d", "e", "port:1"];
/// Longer than any sequence: in these, nobody is silent so long that its turn goes.
const SILENT_SECONDS: i64 = 1_000_000;

#[derive(Debug, Clone)]
enum Step {
    /// Takes a set or queues for it, unless it waits already.
    Ask {
        by: usize,
        paths: Vec<usize>,
        patience_seconds: i64,
    },
    ReleaseAll {
        by: usize,
    },
    GiveUp {
        by: usize,
    },
    Set {
        which: usize,
        paused: bool,
    },
    Wait {
        seconds: i64,
    },
    /// All who wait ask again, in an order of their own.
    AllAskAgain {
        order: [usize; 4],
    },
}

fn step() -> impl Strategy<Value = Step> {
    let by = || 0..LOOPS.len();
    prop_oneof![
        6 => (by(), prop::collection::vec(0..PATHS.len(), 1..4), 30..4_000_i64)
            .prop_map(|(by, paths, patience_seconds)| Step::Ask { by, paths, patience_seconds }),
        3 => by().prop_map(|by| Step::ReleaseAll { by }),
        1 => by().prop_map(|by| Step::GiveUp { by }),
        1 => (by(), any::<bool>()).prop_map(|(which, paused)| Step::Set { which, paused }),
        2 => (1..400_i64).prop_map(|seconds| Step::Wait { seconds }),
        4 => Just([0, 1, 2, 3]).prop_shuffle().prop_map(|order| Step::AllAskAgain { order }),
    ]
}

struct Waiter {
    by: usize,
    id: String,
    paths: Vec<&'static str>,
    since: Timestamp,
    until: Timestamp,
}

struct Model {
    held: BTreeSet<(usize, &'static str)>,
    waiters: Vec<Waiter>,
    paused: [bool; 4],
    now: Timestamp,
}

fn meet(one: &[&str], other: &[&str]) -> bool {
    one.iter().any(|a| other.iter().any(|b| excludes(a, b)))
}

impl Model {
    fn held_by_others(&self, by: usize, paths: &[&str]) -> bool {
        self.held.iter().any(|(holder, path)| *holder != by && paths.iter().any(|wanted| excludes(path, wanted)))
    }

    fn live(&self, waiter: &Waiter) -> bool {
        waiter.until > self.now && !self.paused[waiter.by]
    }

    /// The smaller goes first: its priority less the minutes that it has waited, then who has waited longer.
    fn rank(&self, waiter: &Waiter) -> (i64, i64, String) {
        let waited = self.now.as_millis() - waiter.since.as_millis();
        (LOOPS[waiter.by].1 * 60_000 - waited, -waited, waiter.id.clone())
    }

    /// Whether it gets its set now: nobody else holds any of it, and no live waiter that goes first wants any of it.
    fn is_next(&self, by: usize, paths: &[&str], own: Option<&Waiter>) -> bool {
        // Who is not at work has no place in the queue to ask from.
        let own = own.filter(|own| self.live(own));
        // What it has, or what lies within, nobody can have before it.
        let has = |path: &str| {
            let within = |held: &str| {
                held == path || held.strip_suffix('/') == Some(path) || (held.ends_with('/') && path.starts_with(held))
            };
            self.held.iter().any(|(holder, held)| *holder == by && within(held))
        };
        let new: Vec<&str> = paths.iter().copied().filter(|path| !has(path)).collect();
        let ahead = |other: &&Waiter| {
            other.by != by
                && self.live(other)
                && own.is_none_or(|own| self.rank(other) < self.rank(own))
                && meet(&other.paths, &new)
        };
        !self.held_by_others(by, paths) && !self.waiters.iter().any(|other| ahead(&other))
    }
}

#[derive(Debug, PartialEq)]
enum Got {
    Granted,
    Queued,
    GaveUp,
    Nothing,
}

impl From<&Waiting> for Got {
    fn from(waiting: &Waiting) -> Self {
        match waiting {
            Waiting::Granted(_) => Self::Granted,
            Waiting::Queued(_) => Self::Queued,
            Waiting::GaveUp(_) => Self::GaveUp,
        }
    }
}

fn request(by: usize, paths: &[&'static str]) -> AcquireRequest {
    AcquireRequest {
        loop_id: LOOPS[by].0.parse().unwrap(),
        paths: paths.iter().map(|path| path.parse::<LeasePath>().unwrap()).collect(),
        ttl_seconds: 1_000_000,
        reason: None,
        test_id: None,
        automatic: false,
    }
}

fn edges(db: &Database) -> BTreeSet<(String, String)> {
    db.read(|tx| tx.wait_edges()).unwrap().into_iter().map(|edge| (edge.waiter, edge.holder)).collect()
}

/// Whoever has just asked in vain is seen to wait for each holder in its way: no deadlock among them goes unnoticed.
fn is_seen(db: &Database, model: &Model, story: &Story, by: usize) -> Result<(), TestCaseError> {
    let edges = edges(db);
    for waiter in model.waiters.iter().filter(|waiter| waiter.by == by) {
        for (holder, path) in &model.held {
            if *holder != by && waiter.paths.iter().any(|wanted| excludes(path, wanted)) {
                story.holds(&edges.contains(&(LOOPS[by].0.to_owned(), LOOPS[*holder].0.to_owned())), &true)?;
            }
        }
    }
    Ok(())
}

fn ask_again(db: &Database, model: &mut Model, by: usize) -> (Got, Got) {
    let Some(at) = model.waiters.iter().position(|waiter| waiter.by == by) else { return (Got::Nothing, Got::Nothing) };
    let waiter = model.waiters.swap_remove(at);
    let seen = db.write(|tx| tx.ask_again(&waiter.id, &request(by, &waiter.paths), SILENT_SECONDS)).unwrap();
    let expected = if model.is_next(by, &waiter.paths, Some(&waiter)) {
        model.held.extend(waiter.paths.iter().map(|path| (by, *path)));
        Got::Granted
    } else if waiter.until <= model.now {
        Got::GaveUp
    } else {
        model.waiters.push(waiter);
        Got::Queued
    };
    (Got::from(&seen), expected)
}

fn apply(db: &Database, model: &mut Model, story: &mut Story, step: &Step) -> Result<(), TestCaseError> {
    let loop_id = |at: usize| -> LoopId { LOOPS[at].0.parse().unwrap() };
    match step {
        Step::Wait { .. } => story.expect(step, &Got::Nothing, &Got::Nothing),
        Step::Ask { by, paths, patience_seconds } => {
            if model.waiters.iter().any(|waiter| waiter.by == *by) {
                return Ok(());
            }
            let mut paths: Vec<&'static str> = paths.iter().map(|at| PATHS[*at]).collect();
            paths.sort_unstable();
            paths.dedup();
            let until = model.now.plus_seconds(*patience_seconds);
            let (id, seen) = db.write(|tx| tx.acquire_or_queue(&request(*by, &paths), until, SILENT_SECONDS)).unwrap();
            let expected = if model.is_next(*by, &paths, None) {
                model.held.extend(paths.iter().map(|path| (*by, *path)));
                Got::Granted
            } else {
                Got::Queued
            };
            story.expect(step, &Got::from(&seen), &expected)?;
            if let Some(id) = id {
                model.waiters.push(Waiter { by: *by, id, paths, since: model.now, until });
            }
            is_seen(db, model, story, *by)
        }
        Step::ReleaseAll { by } => {
            let given = db.write(|tx| tx.release_all(&loop_id(*by), None)).unwrap().len();
            let had = model.held.iter().filter(|(holder, _)| holder == by).count();
            model.held.retain(|(holder, _)| holder != by);
            story.expect(step, &given, &had)
        }
        Step::GiveUp { by } => {
            if let Some(at) = model.waiters.iter().position(|waiter| waiter.by == *by) {
                let waiter = model.waiters.swap_remove(at);
                db.write(|tx| tx.withdraw_request(&waiter.id)).unwrap();
            }
            story.expect(step, &Got::Nothing, &Got::Nothing)
        }
        Step::Set { which, paused } => {
            let status = if *paused { LoopStatus::Paused } else { LoopStatus::Running };
            db.write(|tx| tx.set_loop_status(&loop_id(*which), status)).unwrap();
            model.paused[*which] = *paused;
            story.expect(step, &Got::Nothing, &Got::Nothing)
        }
        Step::AllAskAgain { order } => {
            for by in order {
                let (seen, expected) = ask_again(db, model, *by);
                story.expect(&(step, LOOPS[*by].0), &seen, &expected)?;
                is_seen(db, model, story, *by)?;
            }
            Ok(())
        }
    }
}

/// What stands is what the model has: leases, waiters, and an edge for each pair of those who wait and those who hold.
fn compare(db: &Database, model: &Model, story: &Story) -> Result<(), TestCaseError> {
    let mut held: Vec<(String, String)> = db
        .read(|tx| tx.leases(false))
        .unwrap()
        .into_iter()
        .map(|lease| (lease.locked_by.clone(), lease.file_path.to_string()))
        .collect();
    held.sort();
    let mut wanted: Vec<_> = model.held.iter().map(|(by, path)| (LOOPS[*by].0.to_owned(), (*path).to_owned())).collect();
    wanted.sort();
    story.holds(&held, &wanted)?;
    let mut waiting: Vec<String> =
        db.read(|tx| tx.lease_requests()).unwrap().into_iter().map(|row| row.loop_id.to_string()).collect();
    waiting.sort();
    let mut wanted: Vec<String> = model.waiters.iter().map(|waiter| LOOPS[waiter.by].0.to_owned()).collect();
    wanted.sort();
    story.holds(&waiting, &wanted)?;
    let edges = edges(db);
    let idle: Vec<_> =
        edges.iter().filter(|(from, _)| !model.waiters.iter().any(|waiter| LOOPS[waiter.by].0 == from)).collect();
    story.holds(&idle, &Vec::new())
}

fn run(steps: &[Step]) -> Result<(), TestCaseError> {
    let (db, clock) = room();
    db.write(|tx| {
        for (id, priority) in LOOPS {
            tx.add_loop(&NewLoop { id: id.parse()?, name: String::new(), priority, branch: None })?;
            tx.set_loop_status(&id.parse()?, LoopStatus::Running)?;
        }
        Ok::<_, Error>(())
    })
    .unwrap();
    let mut model = Model { held: BTreeSet::new(), waiters: Vec::new(), paused: [false; 4], now: START };
    let mut story = Story::default();
    for step in steps {
        if let Step::Wait { seconds } = step {
            clock.advance_millis(seconds * 1_000);
            model.now = model.now.plus_seconds(*seconds);
        }
        apply(&db, &mut model, &mut story, step)?;
        compare(&db, &model, &story)?;
    }
    // Nobody starves: as long as holders give back what they have, everyone who waits long enough gets its turn.
    for by in 0..LOOPS.len() {
        apply(&db, &mut model, &mut story, &Step::Set { which: by, paused: false })?;
    }
    for _ in 0..LOOPS.len() {
        for by in 0..LOOPS.len() {
            apply(&db, &mut model, &mut story, &Step::ReleaseAll { by })?;
        }
        apply(&db, &mut model, &mut story, &Step::AllAskAgain { order: [3, 2, 1, 0] })?;
    }
    compare(&db, &model, &story)?;
    story.holds(&model.waiters.len(), &0)?;
    story.holds(&db.check().unwrap(), &Vec::new())
}

proptest! {
    #![proptest_config(config(300))]
    #[test]
    fn the_queue_does_what_the_model_does(steps in prop::collection::vec(step(), 1..40)) {
        run(&steps)?;
    }
}
