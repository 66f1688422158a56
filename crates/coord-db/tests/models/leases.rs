//! Leases: exclusion, sets, subtrees, schemes, expiry, fencing, the queue of waiters and the edges that come of it.

mod model;

use std::collections::BTreeSet;

use coord_db::{
    Acquire, AcquireRequest, ActorId, Blocker, Error, EventFilter, Lease, LoopStatus, NewLoop, Timestamp, UnlockCause, Waiting,
};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use crate::support::{START, Story, World, check, death, loop_id};
use model::{Answer, LOOPS, Model, SILENT_SECONDS};
use test_support::{Postgres, acquire_request, new_loop};

/// As somebody writes it, and its normal form.
const PATHS: [(&str, &str); 10] = [
    ("x", "x"),
    ("x/", "x/"),
    ("./x//1", "x/1"),
    ("x/1/", "x/1/"),
    ("x/./1/2", "x/1/2"),
    ("x1", "x1"),
    ("y", "y"),
    ("git:integration", "git:integration"),
    ("db:t/", "db:t/"),
    ("db:t/u", "db:t/u"),
];

#[derive(Debug, Clone)]
enum Op {
    Lock { by: usize, paths: Vec<usize>, ttl: i64 },
    Queue { by: usize, paths: Vec<usize>, ttl: i64, wait: i64 },
    Ask(usize),
    Withdraw(usize),
    Extend(usize, i64),
    Renew { by: usize, grant: usize, ttl: Option<i64> },
    RenewAll { by: usize, ttl: i64 },
    Check { by: usize, path: usize, grant: usize },
    Release { by: usize, paths: Vec<usize>, grant: Option<usize> },
    ReleaseAll { by: usize, grant: Option<usize> },
    Force(usize),
    Revoke(usize),
    Die(usize),
    Status(usize, LoopStatus),
    Priority(usize, i64),
    EndSeen(usize),
    Sweep,
    Pass(i64),
    Suspend(i64),
}

fn op() -> impl Strategy<Value = Op> {
    let by = || 0..LOOPS.len();
    let path = || prop_oneof![3 => 0..3_usize, 2 => 0..PATHS.len()];
    let paths = move || prop_oneof![3 => vec(path(), 1..2), 2 => vec(path(), 2..4)];
    let grant = || prop_oneof![3 => 0..4_usize, 1 => 0..20_usize];
    let ttl = || prop::sample::select(vec![1, 5, 20, 60, 300, 3_600]);
    let wait = || prop::sample::select(vec![0, 5, 30, 600, 600, 3_600]);
    let millis = prop::sample::select(vec![1, 999, 1_000, 4_999, 5_000, 10_000, 29_000, 60_000, 120_000]);
    let status = prop::sample::select(vec![LoopStatus::Running, LoopStatus::Running, LoopStatus::Paused, LoopStatus::Stopped]);
    prop_oneof![
        12 => (by(), paths(), ttl()).prop_map(|(by, paths, ttl)| Op::Lock { by, paths, ttl }),
        16 => (by(), paths(), ttl(), wait()).prop_map(|(by, paths, ttl, wait)| Op::Queue { by, paths, ttl, wait }),
        16 => (0..6_usize).prop_map(Op::Ask),
        2 => (0..6_usize).prop_map(Op::Withdraw),
        2 => (0..6_usize, wait()).prop_map(|(request, wait)| Op::Extend(request, wait)),
        3 => (by(), grant(), option::of(0..90_i64)).prop_map(|(by, grant, ttl)| Op::Renew { by, grant, ttl }),
        2 => (by(), ttl()).prop_map(|(by, ttl)| Op::RenewAll { by, ttl }),
        8 => (by(), path(), grant()).prop_map(|(by, path, grant)| Op::Check { by, path, grant }),
        6 => (by(), paths(), option::of(grant())).prop_map(|(by, paths, grant)| Op::Release { by, paths, grant }),
        4 => (by(), option::of(grant())).prop_map(|(by, grant)| Op::ReleaseAll { by, grant }),
        2 => by().prop_map(Op::Force),
        2 => by().prop_map(Op::Revoke),
        2 => by().prop_map(Op::Die),
        4 => (by(), status).prop_map(|(by, status)| Op::Status(by, status)),
        2 => (by(), 0..9_i64).prop_map(|(by, priority)| Op::Priority(by, priority)),
        2 => (0..12_usize).prop_map(Op::EndSeen),
        3 => Just(Op::Sweep),
        14 => millis.prop_map(Op::Pass),
        2 => prop::sample::select(vec![3_000_i64, 60_000]).prop_map(Op::Suspend),
    ]
}

/// A request as its asker keeps it.
struct Ticket {
    id: String,
    by: usize,
    request: AcquireRequest,
}

struct Run<'w> {
    world: &'w World,
    model: Model,
    story: Story,
    tickets: Vec<Ticket>,
    tokens: Vec<i64>,
    seen: Vec<Lease>,
    position: i64,
}

fn request(by: usize, paths: &[usize], ttl: i64) -> AcquireRequest {
    let paths: Vec<&str> = paths.iter().map(|path| PATHS[*path].0).collect();
    AcquireRequest { ttl_seconds: ttl, ..acquire_request(LOOPS[by].0, &paths) }
}

fn names(paths: &[usize]) -> Vec<&'static str> {
    paths.iter().map(|path| PATHS[*path].1).collect()
}

fn pairs(blockers: &[Blocker]) -> BTreeSet<(String, String)> {
    blockers.iter().map(|blocker| (blocker.locked_by.clone(), blocker.wanted.to_string())).collect()
}

/// What kind of error, as the model names it.
fn kind(error: &Error) -> &'static str {
    match error {
        Error::LeaseLost { .. } => "lost",
        Error::Refused(_) => "refused",
        Error::Invalid(_) => "invalid",
        Error::IllegalMove { .. } => "illegal",
        _ => "another error",
    }
}

impl<'w> Run<'w> {
    fn new(world: &'w World) -> Self {
        let position = world.db.read(|tx| tx.last_event_position()).unwrap();
        Self {
            world,
            model: Model::default(),
            story: Story::default(),
            tickets: Vec::new(),
            tokens: Vec::new(),
            seen: Vec::new(),
            position,
        }
    }

    fn token(&self, grant: usize) -> i64 {
        // The newest first: an index of nothing is a token that never was.
        self.tokens.iter().rev().nth(grant).copied().unwrap_or(900 + grant as i64)
    }

    fn ticket(&self, at: usize) -> usize {
        at % self.tickets.len().max(1)
    }

    /// What the operation is, in words, and what the model says to it; none if there is nothing for it to act on.
    fn predict(&mut self, op: &Op) -> Option<(String, Answer)> {
        let name = |by: usize| LOOPS[by].0;
        if matches!(op, Op::Ask(_) | Op::Withdraw(_) | Op::Extend(..)) && self.tickets.is_empty() {
            return None;
        }
        let token = |grant: &Option<usize>| grant.map(|grant| self.token(grant));
        Some(match op {
            Op::Lock { by, paths, ttl } => {
                let line = format!("{} locks {:?} for {ttl} s", name(*by), names(paths));
                (line, self.model.lock(*by, &names(paths), *ttl))
            }
            Op::Queue { by, paths, ttl, wait } => {
                let line = format!("{} locks {:?} for {ttl} s, waiting {wait} s", name(*by), names(paths));
                (line, self.model.queue(*by, &names(paths), *ttl, *wait))
            }
            Op::Ask(at) => {
                let number = self.ticket(*at);
                let line = format!("{} asks again (request {number})", name(self.tickets[number].by));
                (line, self.model.ask(number))
            }
            Op::Withdraw(at) => {
                let number = self.ticket(*at);
                let line = format!("{} withdraws request {number}", name(self.tickets[number].by));
                self.model.withdraw(number);
                (line, Answer::Done)
            }
            Op::Extend(at, wait) => {
                let number = self.ticket(*at);
                let line = format!("{} waits {wait} s more for request {number}", name(self.tickets[number].by));
                (line, Answer::Is(self.model.extend(number, *wait)))
            }
            Op::Renew { by, grant, ttl } => {
                let token = self.token(*grant);
                let line = format!("{} renews token {token} for {ttl:?}", name(*by));
                (line, self.model.renew(*by, token, *ttl))
            }
            Op::RenewAll { by, ttl } => {
                self.model.renew_all(*by, *ttl);
                (format!("{} renews everything for {ttl} s", name(*by)), Answer::Done)
            }
            Op::Check { by, path, grant } => {
                let (token, path) = (self.token(*grant), PATHS[*path].1);
                let line = format!("does {} hold {path:?} under token {token}?", name(*by));
                (line, Answer::Is(self.model.holds(*by, path, token)))
            }
            Op::Release { by, paths, grant } => {
                let token = token(grant);
                let line = format!("{} releases {:?} of {token:?}", name(*by), names(paths));
                (line, self.model.release(*by, &names(paths), token))
            }
            Op::ReleaseAll { by, grant } => {
                let token = token(grant);
                (format!("{} releases everything of {token:?}", name(*by)), self.model.release_all(*by, token))
            }
            Op::Force(by) => {
                let answer = self.model.end_everything(*by, "human", "forced", true);
                (format!("human ends what {} holds and waits for", name(*by)), answer)
            }
            Op::Revoke(by) => {
                let answer = self.model.end_everything(*by, "deadlock-detector", "revoked", false);
                (format!("deadlock-detector revokes what {} holds", name(*by)), answer)
            }
            Op::Die(by) => {
                self.model.end_everything(*by, "heartbeat", "owner_died", true);
                self.model.status[*by] = LoopStatus::Error;
                (format!("{} dies", name(*by)), Answer::Done)
            }
            Op::Status(by, status) => (format!("{} is to be {status}", name(*by)), self.model.set_status(*by, *status)),
            Op::Priority(by, priority) => {
                (format!("{} gets priority {priority}", name(*by)), self.model.set_priority(*by, *priority))
            }
            Op::EndSeen(at) => {
                let seen = self.seen.get(at % self.seen.len().max(1))?;
                let expires = seen.expires_at.map_or(0, |at| at.millis_since(START));
                let line = format!("human ends {:?} as it was seen under token {}", seen.file_path, seen.fencing_token);
                (line, Answer::Is(self.model.end_seen(seen.file_path.as_str(), seen.fencing_token, expires)))
            }
            Op::Sweep => {
                self.model.sweep();
                ("heartbeat sweeps".to_owned(), Answer::Done)
            }
            Op::Pass(millis) => {
                self.model.now += millis;
                (format!("{} s pass", *millis as f64 / 1000.0), Answer::Done)
            }
            Op::Suspend(millis) => {
                self.model.now += millis;
                self.model.grace_until = self.model.now + 30_000;
                (format!("the machine sleeps {} s", *millis as f64 / 1000.0), Answer::Done)
            }
        })
    }

    fn waiting(&mut self, answer: Waiting) -> Answer {
        match answer {
            Waiting::Granted(grant) => {
                self.tokens.push(grant.fencing_token);
                Answer::Granted(grant.fencing_token)
            }
            Waiting::Queued(blockers) => Answer::Queued(pairs(&blockers)),
            Waiting::GaveUp(blockers) => Answer::GaveUp(pairs(&blockers)),
        }
    }

    /// Applies it to the database.
    fn act(&mut self, op: &Op) -> Result<Answer, Error> {
        let db = &self.world.db;
        let id = |by: usize| loop_id(LOOPS[by].0);
        let done = |()| Answer::Done;
        let paths_of = |paths: Vec<coord_db::LeasePath>| Answer::Paths(paths.iter().map(ToString::to_string).collect());
        let in_seconds = |wait: i64| self.world.now().plus_seconds(wait);
        match op {
            Op::Lock { by, paths, ttl } => match db.write(|tx| tx.acquire(&request(*by, paths, *ttl), SILENT_SECONDS))? {
                Acquire::Granted(grant) => Ok(self.waiting(Waiting::Granted(grant))),
                Acquire::Refused(blockers) => Ok(Answer::Refused(pairs(&blockers))),
            },
            Op::Queue { by, paths, ttl, wait } => {
                let wanted = request(*by, paths, *ttl);
                let (id, answer) = db.write(|tx| tx.acquire_or_queue(&wanted, in_seconds(*wait), SILENT_SECONDS))?;
                self.tickets.extend(id.map(|id| Ticket { id, by: *by, request: wanted }));
                Ok(self.waiting(answer))
            }
            Op::Ask(at) => {
                let ticket = &self.tickets[self.ticket(*at)];
                let answer = db.write(|tx| tx.retry_request(&ticket.id, &ticket.request, SILENT_SECONDS))?;
                Ok(self.waiting(answer))
            }
            Op::Withdraw(at) => db.write(|tx| tx.withdraw_request(&self.tickets[self.ticket(*at)].id)).map(done),
            Op::Extend(at, wait) => {
                let id = &self.tickets[self.ticket(*at)].id;
                db.write(|tx| tx.extend_request(id, in_seconds(*wait))).map(Answer::Is)
            }
            Op::Renew { by, grant, ttl } => {
                let grant = db.write(|tx| tx.renew(&id(*by), self.token(*grant), *ttl))?;
                Ok(Answer::At(grant.expires_at.millis_since(START)))
            }
            Op::RenewAll { by, ttl } => db.write(|tx| tx.renew_all(&id(*by), *ttl)).map(|_| Answer::Done),
            Op::Check { by, path, grant } => {
                db.read(|tx| tx.holds(&id(*by), &PATHS[*path].0.parse()?, self.token(*grant))).map(Answer::Is)
            }
            Op::Release { by, paths, grant } => {
                let token = grant.map(|grant| self.token(grant));
                db.write(|tx| tx.release(&id(*by), &request(*by, paths, 1).paths, token)).map(paths_of)
            }
            Op::ReleaseAll { by, grant } => {
                let token = grant.map(|grant| self.token(grant));
                db.write(|tx| tx.release_all(&id(*by), token)).map(paths_of)
            }
            Op::Force(by) => {
                db.write(|tx| tx.release_everything(LOOPS[*by].0, &ActorId::human(), UnlockCause::Forced, None)).map(paths_of)
            }
            Op::Revoke(by) => {
                let detector: ActorId = "deadlock-detector".parse()?;
                db.write(|tx| tx.revoke_leases(LOOPS[*by].0, &detector, UnlockCause::Revoked, None)).map(paths_of)
            }
            Op::Die(by) => db.write(|tx| tx.clean_up_loop(&id(*by), &death(), None)).map(done),
            Op::Status(by, status) => db.write(|tx| tx.set_loop_status(&id(*by), *status)).map(done),
            Op::Priority(by, priority) => {
                db.write(|tx| tx.set_priority(&id(*by), *priority, "", &ActorId::human(), None)).map(done)
            }
            Op::EndSeen(at) => {
                let seen = &self.seen[at % self.seen.len()];
                db.write(|tx| tx.end_lease(seen, &ActorId::human(), UnlockCause::Expired, None)).map(Answer::Is)
            }
            Op::Sweep => {
                let heartbeat: ActorId = "heartbeat".parse()?;
                db.write(|tx| {
                    for lease in tx.expired_leases()? {
                        tx.end_lease(&lease, &heartbeat, UnlockCause::Expired, None)?;
                    }
                    for request in tx.lease_requests_to_sweep(100)? {
                        tx.withdraw_request(&request.id)?;
                    }
                    for edge in tx.wait_edges_to_sweep(100)? {
                        tx.delete_wait_edge(&edge)?;
                    }
                    Ok(Answer::Done)
                })
            }
            Op::Pass(millis) => {
                self.world.clock.advance_millis(*millis);
                Ok(Answer::Done)
            }
            Op::Suspend(millis) => {
                self.world.clock.suspend_millis(*millis);
                db.write(|tx| tx.observe_clock(30)).map(|_| Answer::Done)
            }
        }
    }

    fn step(&mut self, op: &Op) -> Result<(), String> {
        let Some((line, model)) = self.predict(op) else { return Ok(()) };
        let before = (!model.changes()).then(|| self.world.rows());
        let database = self.act(op).unwrap_or_else(|error| Answer::No(kind(&error)));
        self.story.tell(format!("{line} -> {database}"));
        self.story.agrees(self.world, database, model, before)?;
        self.compare()
    }

    /// Everything that can be seen is as the model has it.
    fn compare(&mut self) -> Result<(), String> {
        let db = &self.world.db;
        let relative = |at: Timestamp| at.millis_since(START);
        let (leases, requests, edges) = db
            .read(|tx| Ok::<_, Error>((tx.leases(false)?, tx.lease_requests()?, tx.wait_edges()?)))
            .map_err(|error| self.story.wrong(&error.to_string()))?;
        for one in &leases {
            for other in leases.iter().filter(|other| other.locked_by != one.locked_by) {
                let apart = !model::excludes(one.file_path.as_str(), other.file_path.as_str());
                self.story.holds(&format!("two loops hold {} and {}", one.file_path, other.file_path), apart)?;
            }
        }
        let found: Vec<_> = leases
            .iter()
            .map(|lease| {
                let expires = lease.expires_at.map_or(0, relative);
                (lease.file_path.to_string(), lease.locked_by.clone(), lease.fencing_token, expires)
            })
            .collect();
        self.story.same("the leases", found, self.model.lease_rows())?;
        let mut found: Vec<_> = requests
            .iter()
            .map(|row| (row.loop_id.to_string(), row.paths.0.clone(), relative(row.waiting_since), relative(row.wait_until)))
            .collect();
        found.sort();
        self.story.same("the requests", found, self.model.request_rows())?;
        let found: Vec<_> = edges
            .iter()
            .map(|edge| {
                let until = edge.wait_until.map_or(0, relative);
                (edge.waiter.clone(), edge.holder.clone(), edge.resource.to_string(), until)
            })
            .collect();
        self.story.same("the wait edges", found, self.model.edge_rows())?;
        let token = &db.query_foreign("SELECT value FROM counters WHERE name = 'fencing_token'").unwrap()[0][0];
        self.story.same("the newest token", token, &Some(self.model.last_token.to_string()))?;
        let filter = EventFilter { after_position: Some(self.position), ..EventFilter::default() };
        let (events, position) = db.read(|tx| Ok::<_, Error>((tx.events(&filter)?, tx.last_event_position()?))).unwrap();
        let text = |event: &coord_db::Event, field: &str| event.payload[field].as_str().unwrap_or_default().to_owned();
        let mut said: Vec<_> = events
            .iter()
            .filter(|event| event.event_type.starts_with("file_"))
            .map(|event| {
                let what = if event.event_type == "file_locked" { "locked".to_owned() } else { text(event, "cause") };
                format!("{}: {} of {} {what}", event.source, text(event, "file_path"), text(event, "loop_id"))
            })
            .collect();
        said.sort();
        let mut expected = std::mem::take(&mut self.model.said);
        expected.sort();
        self.story.same("what was said", said, expected)?;
        self.position = position;
        for lease in leases {
            if !self.seen.contains(&lease) {
                self.seen.push(lease);
            }
        }
        Ok(())
    }

    /// Once nobody holds anything, everyone who still waits is served, in as many rounds as there are requests.
    fn drain(&mut self) -> Result<(), String> {
        for by in 0..LOOPS.len() {
            self.step(&Op::Status(by, LoopStatus::Running))?;
            self.step(&Op::Revoke(by))?;
        }
        for _ in 0..self.tickets.len() {
            for number in 0..self.tickets.len() {
                if self.model.waits(number) {
                    self.step(&Op::Ask(number))?;
                    if !self.model.waits(number) {
                        self.step(&Op::Revoke(self.tickets[number].by))?;
                    }
                }
            }
        }
        let left: Vec<usize> = (0..self.tickets.len()).filter(|number| self.model.waits(*number)).collect();
        self.story.holds(&format!("requests {left:?} are never served"), left.is_empty())
    }
}

fn world(server: Option<&'static Postgres>) -> World {
    let world = World::new(server);
    world
        .db
        .write(|tx| {
            tx.observe_clock(30)?;
            for (name, priority) in LOOPS {
                tx.add_loop(&NewLoop { priority, ..new_loop(name) })?;
                tx.set_loop_status(&loop_id(name), LoopStatus::Running)?;
            }
            Ok::<_, Error>(())
        })
        .unwrap();
    world
}

fn run(world: &World, ops: &[Op]) -> Result<(), String> {
    let mut run = Run::new(world);
    for op in ops {
        run.step(op)?;
        world.note();
    }
    run.drain()
}

#[test]
fn leases_are_as_the_model_has_them() {
    check(350, op(), 1..40, world, run);
}
