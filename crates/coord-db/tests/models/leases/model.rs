//! What leases are, in lists and loops: no index, no SQL, nothing of the implementation's.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use coord_db::LoopStatus;

/// The loops and the priorities that they begin with.
pub const LOOPS: [(&str, i64); 4] = [("a", 5), ("b", 5), ("c", 1), ("d", 3)];
/// For how long what has come free is kept for a waiter that does not ask.
pub const SILENT_SECONDS: i64 = 5;

/// How an operation ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Granted(i64),
    /// Who is in the way, on which of the wanted paths.
    Refused(BTreeSet<(String, String)>),
    Queued(BTreeSet<(String, String)>),
    GaveUp(BTreeSet<(String, String)>),
    Paths(BTreeSet<String>),
    At(i64),
    Is(bool),
    Done,
    No(&'static str),
}

impl Answer {
    /// A refusal changes nothing.
    pub fn changes(&self) -> bool {
        !matches!(self, Self::Refused(_) | Self::No(_) | Self::Is(false))
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |who: &BTreeSet<(String, String)>| {
            who.iter().map(|(holder, path)| format!("{holder} on {path}")).collect::<Vec<_>>().join(", ")
        };
        match self {
            Self::Granted(token) => write!(f, "granted under token {token}"),
            Self::Refused(who) => write!(f, "refused because of {}", list(who)),
            Self::Queued(who) => write!(f, "queued behind {}", list(who)),
            Self::GaveUp(who) => write!(f, "gave up [{}]", list(who)),
            Self::Paths(paths) => write!(f, "ended {paths:?}"),
            Self::At(at) => write!(f, "until {} s", *at as f64 / 1000.0),
            Self::Is(yes) => write!(f, "{}", if *yes { "yes" } else { "no" }),
            Self::Done => f.write_str("done"),
            Self::No(kind) => f.write_str(kind),
        }
    }
}

/// Equal names, or one lies in the other's subtree.
pub fn excludes(one: &str, other: &str) -> bool {
    let parts = |path: &str| path.trim_end_matches('/').split('/').map(str::to_owned).collect::<Vec<_>>();
    let (a, b) = (parts(one), parts(other));
    a == b || (one.ends_with('/') && b.starts_with(&a)) || (other.ends_with('/') && a.starts_with(&b))
}

/// The same, or what lies in a subtree.
fn covers(held: &str, path: &str) -> bool {
    held == path || held.trim_end_matches('/') == path || (held.ends_with('/') && path.starts_with(held))
}

fn any_excludes(some: &[String], others: &[String]) -> bool {
    some.iter().any(|one| others.iter().any(|other| excludes(one, other)))
}

#[derive(Debug, Clone)]
struct Lease {
    by: usize,
    token: i64,
    expires: i64,
    ttl: i64,
}

#[derive(Debug, Clone)]
struct Request {
    number: usize,
    by: usize,
    paths: Vec<String>,
    ttl: i64,
    since: i64,
    until: i64,
    /// When a lease on one of its paths ended last.
    freed: i64,
}

/// Times are milliseconds since the beginning.
#[derive(Debug)]
pub struct Model {
    pub now: i64,
    pub grace_until: i64,
    pub last_token: i64,
    pub status: [LoopStatus; LOOPS.len()],
    pub said: Vec<String>,
    priority: [i64; LOOPS.len()],
    leases: BTreeMap<String, Lease>,
    /// What each token was granted for, without what was given back since.
    sets: BTreeMap<i64, BTreeSet<String>>,
    requests: Vec<Request>,
    requests_made: usize,
    /// (waiter, holder, resource), until when.
    edges: BTreeMap<(usize, usize, String), i64>,
}

impl Default for Model {
    fn default() -> Self {
        Self {
            now: 0,
            grace_until: 0,
            last_token: 0,
            status: [LoopStatus::Running; LOOPS.len()],
            said: Vec::new(),
            priority: LOOPS.map(|(_, priority)| priority),
            leases: BTreeMap::new(),
            sets: BTreeMap::new(),
            requests: Vec::new(),
            requests_made: 0,
            edges: BTreeMap::new(),
        }
    }
}

/// In the way: loops, each on a wanted path.
type InTheWay = BTreeSet<(usize, String)>;

fn named(who: &InTheWay) -> BTreeSet<(String, String)> {
    who.iter().map(|(by, path)| (LOOPS[*by].0.to_owned(), path.clone())).collect()
}

fn owned(paths: &[&str]) -> Vec<String> {
    paths.iter().map(|path| (*path).to_owned()).collect()
}

impl Model {
    fn holds_others_off(&self, lease: &Lease) -> bool {
        lease.expires > self.now || self.now < self.grace_until
    }

    fn is_live(&self, request: &Request) -> bool {
        request.until > self.now && self.status[request.by] == LoopStatus::Running
    }

    /// Smaller is sooner: priority less minutes waited, then the longest wait, then who came first.
    fn turn(&self, request: &Request) -> (i64, i64, usize) {
        let waited = self.now - request.since;
        (self.priority[request.by] * 60_000 - waited, -waited, request.number)
    }

    /// Since when nobody holds what the request wants; none while somebody does.
    fn free_since(&self, request: &Request) -> Option<i64> {
        let mut since = request.since.max(request.freed);
        for (path, lease) in &self.leases {
            if lease.by != request.by && request.paths.iter().any(|wanted| excludes(wanted, path)) {
                if self.holds_others_off(lease) {
                    return None;
                }
                since = since.max(lease.expires).max(self.grace_until);
            }
        }
        Some(since)
    }

    /// The live waiters, the next one first, without those that had what they want kept for them and did not ask.
    fn queue_of_the_live(&self) -> Vec<&Request> {
        let mut live: Vec<&Request> = self.requests.iter().filter(|request| self.is_live(request)).collect();
        live.sort_by_key(|request| self.turn(request));
        let mut silent_at: BTreeMap<usize, i64> = BTreeMap::new();
        for (at, request) in live.iter().enumerate() {
            let before: Vec<&&Request> = live[..at]
                .iter()
                .filter(|other| other.by != request.by && any_excludes(&other.paths, &request.paths))
                .collect();
            let all_silent = before.iter().all(|other| silent_at.contains_key(&other.number));
            if let (true, Some(free)) = (all_silent, self.free_since(request)) {
                let turn_since = before.iter().map(|other| silent_at[&other.number]).fold(free, i64::max);
                if turn_since + SILENT_SECONDS * 1000 <= self.now {
                    silent_at.insert(request.number, turn_since + SILENT_SECONDS * 1000);
                }
            }
        }
        live.retain(|request| !silent_at.contains_key(&request.number));
        live
    }

    fn in_the_way(&self, by: usize, paths: &[String], own: Option<usize>) -> InTheWay {
        let mut found = InTheWay::new();
        for wanted in paths {
            for (path, lease) in &self.leases {
                if lease.by != by && excludes(path, wanted) && self.holds_others_off(lease) {
                    found.insert((lease.by, wanted.clone()));
                }
            }
        }
        let own = own.and_then(|number| self.requests.iter().find(|request| request.number == number));
        let own_turn = own.filter(|own| self.is_live(own)).map(|own| self.turn(own));
        for other in self.queue_of_the_live() {
            let first = own_turn.is_none_or(|own| self.turn(other) < own);
            if other.by == by || !first {
                continue;
            }
            for wanted in paths {
                // What it has, or what lies within, nobody can have before it.
                let has = self
                    .leases
                    .iter()
                    .any(|(held, lease)| lease.by == by && self.holds_others_off(lease) && covers(held, wanted));
                if !has && other.paths.iter().any(|path| excludes(path, wanted)) {
                    found.insert((other.by, wanted.clone()));
                }
            }
        }
        found
    }

    fn end(&mut self, path: &str, source: &str, cause: &str) {
        let Some(lease) = self.leases.remove(path) else { return };
        let leases = &self.leases;
        self.edges.retain(|(_, holder, resource), _| {
            *holder != lease.by
                || !excludes(resource, path)
                || leases.iter().any(|(other, held)| held.by == lease.by && excludes(other, resource))
        });
        for request in &mut self.requests {
            if request.paths.iter().any(|wanted| excludes(wanted, path)) {
                request.freed = self.now;
            }
        }
        self.said.push(format!("{source}: {path} of {} {cause}", LOOPS[lease.by].0));
    }

    fn grant(&mut self, by: usize, paths: &[String], ttl: i64) -> Answer {
        let expired: Vec<String> = self
            .leases
            .iter()
            .filter(|(path, lease)| lease.by != by && paths.iter().any(|wanted| excludes(wanted, path)))
            .map(|(path, _)| path.clone())
            .collect();
        for path in expired {
            self.end(&path, LOOPS[by].0, "expired");
        }
        self.last_token += 1;
        self.sets.insert(self.last_token, paths.iter().cloned().collect());
        for path in BTreeSet::from_iter(paths) {
            let lease = Lease { by, token: self.last_token, expires: self.now + ttl * 1000, ttl };
            self.leases.insert(path.clone(), lease);
            self.said.push(format!("{}: {path} of {} locked", LOOPS[by].0, LOOPS[by].0));
        }
        Answer::Granted(self.last_token)
    }

    pub fn lock(&mut self, by: usize, paths: &[&str], ttl: i64) -> Answer {
        let paths = owned(paths);
        let blockers = self.in_the_way(by, &paths, None);
        if blockers.is_empty() { self.grant(by, &paths, ttl) } else { Answer::Refused(named(&blockers)) }
    }

    /// The edges of a loop on the paths of one of its requests: what stands in the way of it, and of any other request of
    /// the loop for the same path.
    fn set_edges(&mut self, number: usize) {
        let Some(request) = self.requests.iter().find(|request| request.number == number).cloned() else { return };
        self.edges.retain(|(waiter, _, resource), _| *waiter != request.by || !request.paths.contains(resource));
        let mut edges: Vec<((usize, usize, String), i64)> = Vec::new();
        for other in self.requests.iter().filter(|other| other.by == request.by) {
            for (holder, wanted) in self.in_the_way(other.by, &other.paths, Some(other.number)) {
                if request.paths.contains(&wanted) && (other.number == number || other.until > self.now) {
                    edges.push(((request.by, holder, wanted), other.until));
                }
            }
        }
        for (edge, until) in edges {
            let stands = self.edges.entry(edge).or_insert(until);
            *stands = until.max(*stands);
        }
    }

    pub fn queue(&mut self, by: usize, paths: &[&str], ttl: i64, wait: i64) -> Answer {
        let paths = owned(paths);
        let blockers = self.in_the_way(by, &paths, None);
        if blockers.is_empty() {
            return self.grant(by, &paths, ttl);
        }
        if wait == 0 {
            return Answer::GaveUp(named(&blockers));
        }
        let number = self.requests_made;
        self.requests_made += 1;
        let until = self.now + wait * 1000;
        self.requests.push(Request { number, by, paths, ttl, since: self.now, until, freed: 0 });
        self.set_edges(number);
        Answer::Queued(named(&blockers))
    }

    pub fn ask(&mut self, number: usize) -> Answer {
        let Some(request) = self.requests.iter().find(|request| request.number == number).cloned() else {
            return Answer::GaveUp(BTreeSet::new());
        };
        let blockers = self.in_the_way(request.by, &request.paths, Some(number));
        if blockers.is_empty() {
            let granted = self.grant(request.by, &request.paths, request.ttl);
            self.withdraw(number);
            return granted;
        }
        if request.until <= self.now {
            self.withdraw(number);
            return Answer::GaveUp(named(&blockers));
        }
        self.set_edges(number);
        Answer::Queued(named(&blockers))
    }

    pub fn withdraw(&mut self, number: usize) {
        let Some(at) = self.requests.iter().position(|request| request.number == number) else { return };
        let gone = self.requests.remove(at);
        let requests = &self.requests;
        self.edges.retain(|(waiter, _, resource), _| {
            *waiter != gone.by
                || !gone.paths.contains(resource)
                || requests.iter().any(|other| other.by == gone.by && other.paths.contains(resource))
        });
    }

    pub fn extend(&mut self, number: usize, wait: i64) -> bool {
        let until = self.now + wait * 1000;
        let Some(request) = self.requests.iter_mut().find(|request| request.number == number) else { return false };
        request.until = until;
        for ((waiter, _, resource), stands) in &mut self.edges {
            if *waiter == request.by && request.paths.contains(resource) {
                *stands = until;
            }
        }
        true
    }

    pub fn waits(&self, number: usize) -> bool {
        self.requests.iter().any(|request| request.number == number && request.until > self.now)
    }

    pub fn renew(&mut self, by: usize, token: i64, ttl: Option<i64>) -> Answer {
        if ttl.is_some_and(|ttl| ttl < 1) {
            return Answer::No("invalid");
        }
        let mine = |path: &String| self.leases.get(path).is_some_and(|lease| lease.by == by);
        if self.paths_of(by, Some(token)).is_empty() || !self.sets[&token].iter().all(mine) {
            return Answer::No("lost");
        }
        let mut until = None;
        for lease in self.leases.values_mut().filter(|lease| lease.by == by && lease.token == token) {
            lease.ttl = ttl.unwrap_or(lease.ttl);
            lease.expires = self.now + lease.ttl * 1000;
            until = Some(lease.expires);
        }
        until.map_or(Answer::No("lost"), Answer::At)
    }

    pub fn renew_all(&mut self, by: usize, ttl: i64) {
        for lease in self.leases.values_mut().filter(|lease| lease.by == by) {
            lease.expires = self.now + ttl * 1000;
        }
    }

    /// A lease covers its own path, and a subtree's all that is in it.
    pub fn holds(&self, by: usize, path: &str, token: i64) -> bool {
        self.leases.iter().any(|(held, lease)| lease.by == by && lease.token == token && covers(held, path))
    }

    pub fn release(&mut self, by: usize, paths: &[&str], token: Option<i64>) -> Answer {
        let held = |path: &&str| {
            self.leases.get(*path).is_some_and(|lease| lease.by == by && token.is_none_or(|token| lease.token == token))
        };
        if !paths.iter().all(held) {
            return Answer::No(if token.is_some() { "lost" } else { "refused" });
        }
        for path in paths {
            self.give_back(by, path);
        }
        Answer::Paths(paths.iter().map(|path| (*path).to_owned()).collect())
    }

    fn give_back(&mut self, by: usize, path: &str) {
        if let Some(lease) = self.leases.get(path) {
            self.sets.entry(lease.token).or_default().remove(path);
        }
        self.end(path, LOOPS[by].0, "released");
    }

    fn paths_of(&self, by: usize, token: Option<i64>) -> BTreeSet<String> {
        let fits = |lease: &Lease| lease.by == by && token.is_none_or(|token| lease.token == token);
        self.leases.iter().filter(|(_, lease)| fits(lease)).map(|(path, _)| path.clone()).collect()
    }

    pub fn release_all(&mut self, by: usize, token: Option<i64>) -> Answer {
        let paths = self.paths_of(by, token);
        if token.is_some() && paths.is_empty() {
            return Answer::No("lost");
        }
        for path in &paths {
            self.give_back(by, path);
        }
        Answer::Paths(paths)
    }

    pub fn end_everything(&mut self, by: usize, source: &str, cause: &str, waits_too: bool) -> Answer {
        if waits_too {
            self.requests.retain(|request| request.by != by);
            self.edges.retain(|(waiter, ..), _| *waiter != by);
        }
        let paths = self.paths_of(by, None);
        for path in &paths {
            self.end(path, source, cause);
        }
        Answer::Paths(paths)
    }

    pub fn end_seen(&mut self, path: &str, token: i64, expires: i64) -> bool {
        let unchanged = self.leases.get(path).is_some_and(|lease| lease.token == token && lease.expires == expires);
        if unchanged {
            self.end(path, "human", "expired");
        }
        unchanged
    }

    pub fn sweep(&mut self) {
        let expired: Vec<String> =
            self.leases.iter().filter(|(_, lease)| lease.expires <= self.now).map(|(path, _)| path.clone()).collect();
        for path in expired {
            self.end(&path, "heartbeat", "expired");
        }
        let dead = |by: usize| self.status[by] == LoopStatus::Error;
        let over: Vec<usize> = self
            .requests
            .iter()
            .filter(|request| request.until <= self.now || dead(request.by))
            .map(|request| request.number)
            .collect();
        self.edges.retain(|(waiter, ..), until| *until > self.now && self.status[*waiter] != LoopStatus::Error);
        for number in over {
            self.withdraw(number);
        }
    }

    pub fn set_status(&mut self, by: usize, status: LoopStatus) -> Answer {
        if self.status[by] == LoopStatus::Error && status == LoopStatus::Stopped {
            return Answer::No("illegal");
        }
        self.status[by] = status;
        Answer::Done
    }

    pub fn set_priority(&mut self, by: usize, priority: i64) -> Answer {
        if priority < 1 {
            return Answer::No("invalid");
        }
        self.priority[by] = priority;
        Answer::Done
    }

    pub fn lease_rows(&self) -> Vec<(String, String, i64, i64)> {
        self.leases
            .iter()
            .map(|(path, lease)| (path.clone(), LOOPS[lease.by].0.to_owned(), lease.token, lease.expires))
            .collect()
    }

    pub fn request_rows(&self) -> Vec<(String, Vec<String>, i64, i64)> {
        let mut rows: Vec<_> = self
            .requests
            .iter()
            .map(|request| (LOOPS[request.by].0.to_owned(), request.paths.clone(), request.since, request.until))
            .collect();
        rows.sort();
        rows
    }

    pub fn edge_rows(&self) -> Vec<(String, String, String, i64)> {
        let name = |by: &usize| LOOPS[*by].0.to_owned();
        self.edges
            .iter()
            .map(|((waiter, holder, resource), until)| (name(waiter), name(holder), resource.clone(), *until))
            .collect()
    }
}
