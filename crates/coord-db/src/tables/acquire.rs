//! Acquiring leases: a set as a whole or not at all, under one fencing token; at once, or queued behind those who hold it and
//! those who were first.
//!
//! What another loop owns is not to be had by waiting: see the rules of ownership in `resources.rs`.

use std::collections::BTreeSet;

use serde::Serialize;

use super::wait_graph::WantedEdges;
use super::{Lease, LeaseRequest, OwnedByOther, StringList, json};
use crate::payload::FileLocked;
use crate::{ActorId, Error, LeasePath, LoopId, NewEvent, ReadTx, Result, TestId, Timestamp, UnlockCause, WriteTx, new_id};

/// What is to be leased.
#[derive(Debug, Clone)]
pub struct AcquireRequest {
    /// For whom.
    pub loop_id: LoopId,
    /// All of it or none.
    pub paths: Vec<LeasePath>,
    /// How long without a renewal.
    pub ttl_seconds: i64,
    /// Why, for people.
    pub reason: Option<String>,
    /// For which test.
    pub test_id: Option<TestId>,
    /// Taken on behalf of an agent that knows nothing of leases.
    pub automatic: bool,
}

/// What was granted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Grant {
    /// The token of this grant; it is larger than every earlier one.
    pub fencing_token: i64,
    /// When it ends unless renewed.
    pub expires_at: Timestamp,
    /// What it covers.
    pub paths: Vec<LeasePath>,
}

/// Who is in the way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Blocker {
    /// The lease in the way, the wanted path that an earlier waiter is ahead for, or the resource that another loop owns.
    pub file_path: LeasePath,
    /// Its holder, the waiter, or the owner.
    pub locked_by: String,
    /// When the lease ends unless renewed; none for a waiter, a lease without end, or an owner.
    pub expires_at: Option<Timestamp>,
    /// The loop that owns the path, if that is what is in the way: waiting does not end ownership, but the owner can give permission.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owned_by: Option<LoopId>,
    /// What the asker wanted.
    #[serde(skip)]
    pub wanted: LeasePath,
}

/// The answer to an acquire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Acquire {
    /// All of it.
    Granted(Grant),
    /// None of it.
    Refused(Vec<Blocker>),
}

/// The answer to an acquire that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Waiting {
    /// All of it; the request is deleted.
    Granted(Grant),
    /// Not yet.
    Queued(Vec<Blocker>),
    /// The time to wait is over, the request was withdrawn, or another loop owns a path; it is deleted.
    GaveUp(Vec<Blocker>),
}

impl Blocker {
    fn owner(owned: OwnedByOther) -> Self {
        Self {
            file_path: LeasePath::trusted(owned.resource.path),
            locked_by: owned.resource.owner_loop.to_string(),
            expires_at: None,
            owned_by: Some(owned.resource.owner_loop),
            wanted: owned.wanted,
        }
    }
}

/// True if waiting is in vain: another loop owns a path.
fn in_vain(blockers: &[Blocker]) -> bool {
    blockers.iter().any(|blocker| blocker.owned_by.is_some())
}

/// Others' live leases, each with the wanted path that it excludes, and their expired ones.
type InTheWay = (Vec<(Lease, LeasePath)>, Vec<Lease>);

/// A waiter as the queue sees it.
#[derive(Debug, Clone)]
struct Waiter {
    id: String,
    loop_id: LoopId,
    paths: Vec<LeasePath>,
    /// Smallest first: priority minus minutes waited changes equally for everyone, so its order is that of
    /// priority × one minute plus the moment since when it waits.
    rank: (i64, i64, String),
    /// Since when nothing but its silence keeps it from its paths; none while somebody holds one of them.
    free_since: Option<Timestamp>,
}

/// Those of one's paths that the other wants as well.
fn shared<'a>(mine: &'a [LeasePath], theirs: &[LeasePath]) -> impl Iterator<Item = &'a LeasePath> {
    mine.iter().filter(|path| theirs.iter().any(|other| path.overlaps(other)))
}

/// True if the two stand in each other's way; two requests of one loop never do.
fn compete(one: &Waiter, other: &Waiter) -> bool {
    one.loop_id != other.loop_id && shared(&one.paths, &other.paths).next().is_some()
}

/// The waiters that are ahead of an asker, each with every path of the asker's that they want as well. What has come free is
/// kept for a silent waiter only so long. `own_rank` is none for a newcomer, which never overtakes a live waiter.
fn ahead<'a>(
    waiters: &'a [Waiter],
    loop_id: &LoopId,
    paths: &[LeasePath],
    own_rank: Option<&(i64, i64, String)>,
    now: Timestamp,
    silent_seconds: i64,
) -> Vec<(&'a Waiter, LeasePath)> {
    let mut silent: Vec<(&Waiter, Timestamp)> = Vec::new();
    let mut ahead = Vec::new();
    for waiter in waiters {
        // Its own silence counts from when the last one before it fell silent.
        let blocked = waiters
            .iter()
            .take_while(|other| other.id != waiter.id)
            .any(|other| compete(other, waiter) && !silent.iter().any(|(quiet, _)| quiet.id == other.id));
        let since = waiter.free_since.filter(|_| !blocked).map(|since| {
            silent.iter().filter(|(other, _)| compete(other, waiter)).fold(since, |latest, (_, at)| latest.max(*at))
        });
        if let Some(silent_at) = since.map(|since| since.plus_seconds(silent_seconds))
            && now >= silent_at
        {
            silent.push((waiter, silent_at));
            continue;
        }
        if waiter.loop_id != *loop_id && own_rank.is_none_or(|own| waiter.rank < *own) {
            ahead.extend(shared(paths, &waiter.paths).map(|path| (waiter, path.clone())));
        }
    }
    ahead
}

impl ReadTx<'_> {
    /// Others' leases in the way of `paths`: (live, expired).
    fn others_in_the_way(&self, loop_id: &LoopId, paths: &[LeasePath]) -> Result<InTheWay> {
        let grace = self.in_clock_grace()?;
        let (mut live, mut expired) = (Vec::new(), Vec::<Lease>::new());
        for path in paths {
            for lease in self.leases_overlapping(path)? {
                if lease.locked_by == loop_id.as_str() {
                    continue;
                }
                if !grace && lease.expires_at.is_some_and(|expires| expires <= self.now()) {
                    if !expired.iter().any(|known| known.file_path == lease.file_path) {
                        expired.push(lease);
                    }
                } else {
                    live.push((lease, path.clone()));
                }
            }
        }
        Ok((live, expired))
    }

    /// The live waiters, the next one first. A waiter is live while its time is ahead and its loop is at work. The human and the landing train are as
    /// important as a loop can be.
    fn waiters(&self) -> Result<Vec<Waiter>> {
        let rows = self.query(
            "SELECT r.id, r.loop_id, r.paths, r.waiting_since, r.freed_at, coalesce(l.priority, 1)
             FROM lease_requests AS r LEFT JOIN loops AS l ON l.id = r.loop_id
             WHERE r.wait_until > ?1 AND (l.status = 'running' OR r.loop_id = 'human' OR r.loop_id LIKE 'landing-train%')",
            [self.now()],
            |row| {
                Ok((
                    row.get::<String>(0)?,
                    row.get::<LoopId>(1)?,
                    row.get::<StringList>(2)?,
                    row.get::<Timestamp>(3)?,
                    row.get::<Option<Timestamp>>(4)?,
                    row.get::<i64>(5)?,
                ))
            },
        )?;
        let grace_end = self.last_grace_end()?;
        let mut waiters = Vec::new();
        for (id, loop_id, paths, since, freed, priority) in rows {
            let paths: Vec<LeasePath> = paths.0.into_iter().map(LeasePath::trusted).collect();
            let (live, expired) = self.others_in_the_way(&loop_id, &paths)?;
            // What expired in a grace, or before it, has come free when that was over.
            let last_expiry = expired.iter().filter_map(|lease| lease.expires_at.max(grace_end)).max();
            let free_since = live.is_empty().then(|| [Some(since), freed, last_expiry].into_iter().flatten().max()).flatten();
            let rank = (priority.saturating_mul(60_000).saturating_add(since.as_millis()), since.as_millis(), id.clone());
            waiters.push(Waiter { id, loop_id, paths, rank, free_since });
        }
        waiters.sort_by(|a, b| a.rank.cmp(&b.rank));
        Ok(waiters)
    }

    /// Holders and waiters in the way of an asker, and the expired leases that it may replace. `own` is its request, if it has one.
    fn blockers(
        &self,
        loop_id: &LoopId,
        paths: &[LeasePath],
        own: Option<&str>,
        silent_seconds: i64,
    ) -> Result<(Vec<Blocker>, Vec<Lease>)> {
        let (live, expired) = self.others_in_the_way(loop_id, paths)?;
        let mut blockers: Vec<Blocker> = live
            .into_iter()
            .map(|(lease, wanted)| Blocker {
                file_path: lease.file_path,
                locked_by: lease.locked_by,
                expires_at: lease.expires_at,
                owned_by: None,
                wanted,
            })
            .collect();
        let anyone_waits: bool =
            self.value("SELECT EXISTS (SELECT 1 FROM lease_requests WHERE id IS DISTINCT FROM ?1)", [own])?;
        if anyone_waits {
            let waiters = self.waiters()?;
            let own_rank = own.and_then(|own| waiters.iter().find(|waiter| waiter.id == own)).map(|waiter| waiter.rank.clone());
            // Who waits for what the asker holds is behind it anyway: it need not wait for itself.
            let grace = self.in_clock_grace()?;
            let mut held = self.leases_of(loop_id.as_str())?;
            held.retain(|lease| grace || lease.expires_at.is_none_or(|expires| expires > self.now()));
            let new: Vec<LeasePath> =
                paths.iter().filter(|path| !held.iter().any(|lease| lease.file_path.covers(path))).cloned().collect();
            for (waiter, path) in ahead(&waiters, loop_id, &new, own_rank.as_ref(), self.now(), silent_seconds) {
                blockers.push(Blocker {
                    file_path: path.clone(),
                    locked_by: waiter.loop_id.to_string(),
                    expires_at: None,
                    owned_by: None,
                    wanted: path,
                });
            }
        }
        Ok((blockers, expired))
    }
}

impl WriteTx<'_> {
    /// Acquires all paths or none. A refusal leaves nothing behind. What another loop owns is refused as what it holds is,
    /// with [`Blocker::owned_by`].
    ///
    /// # Errors
    /// [`Error::NotFound`] for an unknown loop, [`Error::Invalid`] for an empty set or a TTL below one second.
    pub fn acquire(&self, request: &AcquireRequest, silent_seconds: i64) -> Result<Acquire> {
        self.validate(request)?;
        match self.try_acquire(request, None, silent_seconds)? {
            Ok(grant) => Ok(Acquire::Granted(grant)),
            Err(blockers) => Ok(Acquire::Refused(blockers)),
        }
    }

    /// Acquires all paths, or queues for every one of them: with edges to those who hold them and to the live waiters that
    /// are ahead. The caller asks again with [`WriteTx::retry_request`] when something has changed. Nobody queues for what
    /// another loop owns: that gives up at once.
    pub fn acquire_or_queue(
        &self,
        request: &AcquireRequest,
        wait_until: Timestamp,
        silent_seconds: i64,
    ) -> Result<(Option<String>, Waiting)> {
        self.validate(request)?;
        match self.try_acquire(request, None, silent_seconds)? {
            Ok(grant) => Ok((None, Waiting::Granted(grant))),
            Err(blockers) if wait_until <= self.now() || in_vain(&blockers) => Ok((None, Waiting::GaveUp(blockers))),
            Err(blockers) => {
                let id = new_id();
                self.execute(
                    "INSERT INTO lease_requests (id, loop_id, paths, test_id, waiting_since, wait_until)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                    params![id, request.loop_id, json(&request.paths), request.test_id, self.now(), wait_until],
                )?;
                for path in BTreeSet::from_iter(&request.paths) {
                    self.execute("INSERT INTO lease_request_paths (request_id, file_path) VALUES (?1, ?2)", params![id, path])?;
                }
                // In the queue it is not a newcomer any more: an edge to a waiter that is behind it would close a cycle.
                self.wait_for(&id, None, silent_seconds)?;
                Ok((Some(id), Waiting::Queued(blockers)))
            }
        }
    }

    /// A queued acquire asks again.
    pub fn retry_request(&self, id: &str, request: &AcquireRequest, silent_seconds: i64) -> Result<Waiting> {
        let Some(row) =
            self.query_opt(select!(LeaseRequest, "FROM lease_requests WHERE id = ?1"), [id], LeaseRequest::from_row)?
        else {
            return Ok(Waiting::GaveUp(Vec::new()));
        };
        match self.try_acquire(request, Some(id), silent_seconds)? {
            Ok(grant) => {
                self.withdraw_request(id)?;
                Ok(Waiting::Granted(grant))
            }
            Err(blockers) if row.wait_until <= self.now() || in_vain(&blockers) => {
                self.withdraw_request(id)?;
                Ok(Waiting::GaveUp(blockers))
            }
            Err(blockers) => {
                self.wait_for(id, Some(&blockers), silent_seconds)?;
                Ok(Waiting::Queued(blockers))
            }
        }
    }

    /// Puts off the moment at which a queued acquire gives up. False if it does not exist.
    pub fn extend_request(&self, id: &str, wait_until: Timestamp) -> Result<bool> {
        self.execute(
            "UPDATE wait_graph SET wait_until = ?2 WHERE wait_until IS NOT NULL AND waiter = (SELECT loop_id FROM lease_requests WHERE id = ?1)
               AND resource IN (SELECT file_path FROM lease_request_paths WHERE request_id = ?1)",
            params![id, wait_until],
        )?;
        Ok(self.execute("UPDATE lease_requests SET wait_until = ?2 WHERE id = ?1", params![id, wait_until])? > 0)
    }

    /// Ends a queued acquire and its edges.
    pub fn withdraw_request(&self, id: &str) -> Result<()> {
        self.execute(
            "DELETE FROM wait_graph WHERE waiter = (SELECT loop_id FROM lease_requests WHERE id = ?1)
               AND resource IN (SELECT file_path FROM lease_request_paths WHERE request_id = ?1)
               AND NOT EXISTS (SELECT 1 FROM lease_request_paths AS p JOIN lease_requests AS r ON r.id = p.request_id
                               WHERE r.loop_id = wait_graph.waiter AND r.id <> ?1 AND p.file_path = wait_graph.resource)",
            [id],
        )?;
        self.execute("DELETE FROM lease_request_paths WHERE request_id = ?1", [id])?;
        self.execute("DELETE FROM lease_requests WHERE id = ?1", [id])?;
        Ok(())
    }

    /// Makes the edges on a request's paths those to what is in its way, and in that of the loop's other requests for the
    /// same paths: an edge names the loop, not the request. `known` is what is in the request's own way, if
    /// that has just been found.
    fn wait_for(&self, id: &str, known: Option<&[Blocker]>, silent_seconds: i64) -> Result<()> {
        let Some(own) =
            self.query_opt(select!(LeaseRequest, "FROM lease_requests WHERE id = ?1"), [id], LeaseRequest::from_row)?
        else {
            return Ok(());
        };
        let mut edges = WantedEdges::new();
        for request in self.lease_requests_of(&own.loop_id)? {
            let shares = request.paths.0.iter().any(|path| own.paths.0.contains(path));
            if request.id != id && (!shares || request.wait_until <= self.now()) {
                continue;
            }
            let paths: Vec<LeasePath> = request.paths.0.iter().map(LeasePath::trusted).collect();
            let blockers = match known {
                Some(known) if request.id == id => known.to_vec(),
                _ => self.blockers(&own.loop_id, &paths, Some(&request.id), silent_seconds)?.0,
            };
            for blocker in blockers {
                if own.paths.0.iter().any(|path| path == blocker.wanted.as_str()) {
                    let edge =
                        edges.entry((blocker.locked_by, blocker.wanted)).or_insert((request.waiting_since, request.wait_until));
                    *edge = (edge.0.min(request.waiting_since), edge.1.max(request.wait_until));
                }
            }
        }
        let paths: Vec<LeasePath> = own.paths.0.into_iter().map(LeasePath::trusted).collect();
        self.set_wait_edges(&own.loop_id, &paths, &edges)
    }

    fn validate(&self, request: &AcquireRequest) -> Result<()> {
        if !request.loop_id.is_no_loop() {
            self.loop_row(&request.loop_id)?;
        }
        if request.paths.is_empty() {
            return Err(Error::Invalid("no path to lease was given".to_owned()));
        }
        if request.ttl_seconds < 1 {
            return Err(Error::Invalid(format!("a lease of {} s is not allowed; give at least 1", request.ttl_seconds)));
        }
        Ok(())
    }

    fn try_acquire(
        &self,
        request: &AcquireRequest,
        own: Option<&str>,
        silent_seconds: i64,
    ) -> Result<Result<Grant, Vec<Blocker>>> {
        let owned = self.owned_by_others(&request.loop_id, &request.paths)?;
        let (in_the_way, expired) = self.blockers(&request.loop_id, &request.paths, own, silent_seconds)?;
        let mut blockers: Vec<Blocker> = owned.into_iter().map(Blocker::owner).collect();
        blockers.extend(in_the_way);
        if !blockers.is_empty() {
            return Ok(Err(blockers));
        }
        for lease in &expired {
            self.end_lease(lease, &ActorId::from(&request.loop_id), UnlockCause::Expired, None)?;
        }
        self.grant(request).map(Ok)
    }

    fn grant(&self, request: &AcquireRequest) -> Result<Grant> {
        let fencing_token: i64 =
            self.value("UPDATE counters SET value = value + 1 WHERE name = 'fencing_token' RETURNING value", [])?;
        let expires_at = self.now().plus_seconds(request.ttl_seconds);
        let paths: Vec<LeasePath> = BTreeSet::from_iter(request.paths.iter().cloned()).into_iter().collect();
        for path in &paths {
            self.execute(
                "INSERT INTO file_locks (file_path, locked_by, locked_at, lock_reason, expires_at, test_id, fencing_token,
                   ttl_seconds, automatic) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)
                 ON CONFLICT (file_path) DO UPDATE SET expires_at = excluded.expires_at, lock_reason = excluded.lock_reason,
                   test_id = excluded.test_id, fencing_token = excluded.fencing_token, ttl_seconds = excluded.ttl_seconds,
                   automatic = excluded.automatic",
                params![
                    path,
                    request.loop_id,
                    self.now(),
                    request.reason,
                    expires_at,
                    request.test_id,
                    fencing_token,
                    request.ttl_seconds,
                    request.automatic
                ],
            )?;
        }
        self.note_set(fencing_token, &paths)?;
        let said = |path: &LeasePath| FileLocked {
            file_path: path.to_string(),
            loop_id: ActorId::from(&request.loop_id),
            test_id: request.test_id.clone(),
            reason: request.reason.clone(),
            ttl_seconds: Some(request.ttl_seconds),
        };
        let attempt = match &request.test_id {
            Some(test) => self.running_attempt(test)?,
            None => None,
        };
        let event = |path| NewEvent::new(ActorId::from(&request.loop_id), said(path)).of_attempt(attempt.clone());
        let events: Vec<NewEvent> = paths.iter().filter(|path| !path.is_base()).map(event).collect();
        self.publish_all(&events)?;
        Ok(Grant { fencing_token, expires_at, paths })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiter(id: &str, loop_id: &str, path: &str, rank: i64, free_since: Option<i64>) -> Waiter {
        Waiter {
            id: id.to_owned(),
            loop_id: loop_id.parse().unwrap(),
            paths: vec![path.parse().unwrap()],
            rank: (rank, rank, id.to_owned()),
            free_since: free_since.map(Timestamp::from_millis),
        }
    }

    fn names(ahead: &[(&Waiter, LeasePath)]) -> Vec<String> {
        ahead.iter().map(|(waiter, _)| waiter.id.clone()).collect()
    }

    #[test]
    fn a_newcomer_is_behind_every_live_waiter_and_a_queued_one_behind_those_ranked_before_it() {
        let waiters = [waiter("a", "l1", "f", 1, None), waiter("b", "l2", "f", 5, None), waiter("c", "l3", "g", 0, None)];
        let (me, f) = ("me".parse().unwrap(), ["f".parse().unwrap()]);
        let now = Timestamp::from_millis(0);
        assert_eq!(names(&ahead(&waiters, &me, &f, None, now, 5)), ["a", "b"]);
        assert_eq!(names(&ahead(&waiters, &me, &f, Some(&(3, 3, "x".into())), now, 5)), ["a"]);
    }

    #[test]
    fn silent_waiters_lose_their_turn_one_after_the_other() {
        let waiters = [waiter("a", "l1", "f", 1, Some(0)), waiter("b", "l2", "f", 5, Some(0))];
        let (me, f) = ("me".parse().unwrap(), ["f".parse().unwrap()]);
        let at = |millis| names(&ahead(&waiters, &me, &f, None, Timestamp::from_millis(millis), 5));
        assert_eq!(at(4_999), ["a", "b"]);
        assert_eq!(at(5_000), ["b"]);
        assert_eq!(at(9_999), ["b"]);
        assert_eq!(at(10_000), Vec::<String>::new());
    }
}
