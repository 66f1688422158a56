//! Leases (`file_locks`) and the acquires that wait for them (`lease_requests`).
//!
//! A lease is exclusive: nobody else holds it, an ancestor or a descendant. It stands under the fencing token of its grant,
//! which renew, release and landing check. An expired lease is free to others at the moment of asking; its holder may still
//! renew it while its row stands unchanged. How leases are granted: `acquire.rs`.

use std::collections::BTreeSet;

use super::{Grant, StringList};
use crate::model::lease_path::overlap;
use crate::payload::FileUnlocked;
use crate::{ActorId, Error, Event, LeasePath, LoopId, NewEvent, ReadTx, Result, TestId, Timestamp, UnlockCause, WriteTx};

row! {
    /// A lease, live or expired.
    Lease {
        file_path: LeasePath, locked_by: String, locked_at: Timestamp, lock_reason: Option<String>,
        expires_at: Option<Timestamp>, test_id: Option<TestId>, fencing_token: i64, ttl_seconds: Option<i64>, automatic: bool,
    }
}

row! {
    /// An acquire that waits.
    LeaseRequest {
        id: String, loop_id: LoopId, paths: StringList, test_id: Option<TestId>, waiting_since: Timestamp,
        wait_until: Timestamp, freed_at: Option<Timestamp>,
    }
}

impl ReadTx<'_> {
    /// All leases, live ones only or all that have a row, by path.
    pub fn leases(&self, live_only: bool) -> Result<Vec<Lease>> {
        self.query(
            select!(Lease, "FROM file_locks WHERE ?1 = 0 OR expires_at IS NULL OR expires_at > ?2 ORDER BY file_path"),
            params![live_only, self.now()],
            Lease::from_row,
        )
    }

    /// The lease on exactly this path.
    pub fn lease(&self, path: &LeasePath) -> Result<Option<Lease>> {
        self.query_opt(select!(Lease, "FROM file_locks WHERE file_path = ?1"), [path], Lease::from_row)
    }

    /// The leases of one loop, expired ones included.
    pub fn leases_of(&self, loop_id: &str) -> Result<Vec<Lease>> {
        self.query(select!(Lease, "FROM file_locks WHERE locked_by = ?1 ORDER BY file_path"), [loop_id], Lease::from_row)
    }

    /// Every lease, live or expired, that excludes a lease on `path`.
    pub fn leases_overlapping(&self, path: &LeasePath) -> Result<Vec<Lease>> {
        let mut found = Vec::new();
        for candidate in path.equal_or_above() {
            found.extend(self.query_opt(
                select!(Lease, "FROM file_locks WHERE file_path = ?1"),
                [candidate],
                Lease::from_row,
            )?);
        }
        // A file's lease and one on the subtree of that name come up for the bare name; a subtree also has descendants.
        if let Some((low, high)) = path.subtree_range() {
            found.extend(self.query(
                select!(Lease, "FROM file_locks WHERE file_path > ?1 AND file_path < ?2 ORDER BY file_path"),
                [low, high],
                Lease::from_row,
            )?);
        }
        found.retain(|lease| overlap(lease.file_path.as_str(), path.as_str()));
        Ok(found)
    }

    /// The leases whose time is over, oldest first.
    pub fn expired_leases(&self) -> Result<Vec<Lease>> {
        self.query(
            select!(Lease, "FROM file_locks WHERE expires_at IS NOT NULL AND expires_at <= ?1 ORDER BY expires_at, file_path"),
            [self.now()],
            Lease::from_row,
        )
    }

    /// When the next lease expires.
    pub fn next_lease_expiry(&self) -> Result<Option<Timestamp>> {
        self.value("SELECT min(expires_at) FROM file_locks WHERE expires_at > ?1", [self.now()])
    }

    /// All acquires that wait, the longest first.
    pub fn lease_requests(&self) -> Result<Vec<LeaseRequest>> {
        self.query(select!(LeaseRequest, "FROM lease_requests ORDER BY waiting_since, id"), [], LeaseRequest::from_row)
    }

    /// The acquires of one loop that wait, the longest first.
    pub(crate) fn lease_requests_of(&self, loop_id: &LoopId) -> Result<Vec<LeaseRequest>> {
        self.query(
            select!(LeaseRequest, "FROM lease_requests WHERE loop_id = ?1 ORDER BY waiting_since, id"),
            [loop_id],
            LeaseRequest::from_row,
        )
    }

    /// True if the loop has a lease that covers `path` under exactly this token: on the path itself, or on a subtree that it is
    /// in. An expired one counts while nobody has replaced it, as it does for [`WriteTx::renew`].
    pub fn holds(&self, loop_id: &LoopId, path: &LeasePath, token: i64) -> Result<bool> {
        Ok(self
            .leases_overlapping(path)?
            .iter()
            .any(|lease| lease.locked_by == loop_id.as_str() && lease.fencing_token == token && lease.file_path.covers(path)))
    }
}

impl WriteTx<'_> {
    /// Puts off the end of every lease under a token: of the whole set that it was granted for, or of nothing. What is left of
    /// a set of which a path is lost stays as it is, until it expires, is released, or is acquired again under a new token.
    ///
    /// # Errors
    /// [`Error::LeaseLost`] if the token holds nothing any more, or if a path of its set is lost: ended by another tool, or
    /// replaced.
    pub fn renew(&self, loop_id: &LoopId, token: i64, ttl_seconds: Option<i64>) -> Result<Grant> {
        if ttl_seconds.is_some_and(|ttl| ttl < 1) {
            return Err(Error::Invalid("a lease shorter than 1 s is not allowed".to_owned()));
        }
        let leases = self.under_token(loop_id, token)?;
        let Some(first) = leases.first() else {
            self.loop_row(loop_id)?;
            return Err(Error::LeaseLost { loop_id: loop_id.to_string(), token, paths: Vec::new() });
        };
        let paths = self.lost_of_set(loop_id, token)?;
        if !paths.is_empty() {
            return Err(Error::LeaseLost { loop_id: loop_id.to_string(), token, paths });
        }
        let ttl = ttl_seconds.or(first.ttl_seconds).unwrap_or(900);
        let expires_at = self.now().plus_seconds(ttl);
        self.execute(
            "UPDATE file_locks SET expires_at = ?3, ttl_seconds = ?4 WHERE locked_by = ?1 AND fencing_token = ?2",
            params![loop_id, token, expires_at, ttl],
        )?;
        Ok(Grant { fencing_token: token, expires_at, paths: leases.into_iter().map(|lease| lease.file_path).collect() })
    }

    /// Puts off the end of everything the loop holds, as its own process does while it lives. Gives the tokens.
    pub fn renew_all(&self, loop_id: &LoopId, ttl_seconds: i64) -> Result<usize> {
        self.execute(
            "UPDATE file_locks SET expires_at = ?2 WHERE locked_by = ?1 AND expires_at IS NOT NULL",
            params![loop_id, self.now().plus_seconds(ttl_seconds)],
        )
    }

    /// Remembers what a token was granted for. One path alone needs no memory: without its row the token holds nothing.
    pub(super) fn note_set(&self, token: i64, paths: &[LeasePath]) -> Result<()> {
        if paths.len() < 2 {
            return Ok(());
        }
        self.execute("DELETE FROM lease_sets WHERE fencing_token NOT IN (SELECT fencing_token FROM file_locks)", [])?;
        for path in paths {
            self.execute("INSERT INTO lease_sets (fencing_token, file_path) VALUES (?1, ?2)", params![token, path])?;
        }
        Ok(())
    }

    /// The paths of a token's set that its loop no longer holds, under whatever token.
    fn lost_of_set(&self, loop_id: &LoopId, token: i64) -> Result<Vec<String>> {
        self.query(
            "SELECT file_path FROM lease_sets AS s WHERE fencing_token = ?2
               AND NOT EXISTS (SELECT 1 FROM file_locks AS l WHERE l.file_path = s.file_path AND l.locked_by = ?1)
             ORDER BY file_path",
            params![loop_id, token],
            |row| row.get(0),
        )
    }

    /// The holder gives a lease back: it is no part of its set any more.
    fn release_lease(&self, loop_id: &LoopId, lease: &Lease) -> Result<()> {
        self.execute(
            "DELETE FROM lease_sets WHERE fencing_token = ?1 AND file_path = ?2",
            params![lease.fencing_token, lease.file_path],
        )?;
        self.end_lease(lease, &ActorId::from(loop_id), UnlockCause::Released, None)?;
        Ok(())
    }

    fn under_token(&self, loop_id: &LoopId, token: i64) -> Result<Vec<Lease>> {
        self.query(
            select!(Lease, "FROM file_locks WHERE locked_by = ?1 AND fencing_token = ?2 ORDER BY file_path"),
            params![loop_id, token],
            Lease::from_row,
        )
    }

    /// Gives leases back: all of the named ones or none. A token, if given, must be the one they stand under.
    ///
    /// # Errors
    /// [`Error::LeaseLost`] if a path is not held (under that token) any more.
    pub fn release(&self, loop_id: &LoopId, paths: &[LeasePath], token: Option<i64>) -> Result<Vec<LeasePath>> {
        let mut ending = Vec::new();
        for path in BTreeSet::from_iter(paths) {
            let lease = self
                .lease(path)?
                .filter(|lease| lease.locked_by == loop_id.as_str() && token.is_none_or(|token| lease.fencing_token == token));
            match lease {
                Some(lease) => ending.push(lease),
                None => {
                    self.loop_row(loop_id)?;
                    return Err(match token {
                        Some(token) => Error::LeaseLost { loop_id: loop_id.to_string(), token, paths: vec![path.to_string()] },
                        None => Error::Refused(format!("loop {loop_id} does not hold {:?}; see loopctl locks", path.as_str())),
                    });
                }
            }
        }
        for lease in &ending {
            self.release_lease(loop_id, lease)?;
        }
        Ok(ending.into_iter().map(|lease| lease.file_path).collect())
    }

    /// Gives back everything that the loop holds, or everything under one token.
    ///
    /// # Errors
    /// [`Error::LeaseLost`] if a token was given that holds nothing any more.
    pub fn release_all(&self, loop_id: &LoopId, token: Option<i64>) -> Result<Vec<LeasePath>> {
        self.loop_row(loop_id)?;
        let leases = match token {
            Some(token) => self.under_token(loop_id, token)?,
            None => self.leases_of(loop_id.as_str())?,
        };
        if let (Some(token), true) = (token, leases.is_empty()) {
            return Err(Error::LeaseLost { loop_id: loop_id.to_string(), token, paths: Vec::new() });
        }
        for lease in &leases {
            self.release_lease(loop_id, lease)?;
        }
        Ok(leases.into_iter().map(|lease| lease.file_path).collect())
    }

    /// Ends whatever a loop holds and waits for, by another's hand. Gives what it held.
    pub fn release_everything(
        &self,
        loop_id: &str,
        by: &ActorId,
        cause: UnlockCause,
        event: Option<&Event>,
    ) -> Result<Vec<LeasePath>> {
        self.withdraw_all(loop_id)?;
        self.revoke_leases(loop_id, by, cause, event)
    }

    /// Ends whatever a loop waits for.
    fn withdraw_all(&self, loop_id: &str) -> Result<()> {
        let requests: Vec<String> =
            self.query("SELECT id FROM lease_requests WHERE loop_id = ?1", [loop_id], |row| row.get(0))?;
        for id in requests {
            self.withdraw_request(&id)?;
        }
        self.delete_wait_edges_of(loop_id).map(drop)
    }

    /// A loop has ended its work on a test: releases what it holds and waits for, except the lease on integration, which it
    /// holds as the judge of the landing train.
    pub fn release_work(&self, loop_id: &LoopId, cause: Option<&Event>) -> Result<()> {
        let judging = self.lease(&LeasePath::integration())?.filter(|lease| lease.locked_by == loop_id.as_str());
        self.withdraw_all(loop_id.as_str())?;
        for lease in self.leases_of(loop_id.as_str())?.iter().filter(|lease| Some(*lease) != judging.as_ref()) {
            self.end_lease(lease, &ActorId::from(loop_id), UnlockCause::Released, cause)?;
        }
        Ok(())
    }

    /// Ends whatever a loop holds, by another's hand; what it waits for stays. Gives what it held.
    pub fn revoke_leases(
        &self,
        loop_id: &str,
        by: &ActorId,
        cause: UnlockCause,
        event: Option<&Event>,
    ) -> Result<Vec<LeasePath>> {
        let leases = self.leases_of(loop_id)?;
        for lease in &leases {
            self.end_lease(lease, by, cause, event)?;
        }
        Ok(leases.into_iter().map(|lease| lease.file_path).collect())
    }

    /// Starts the clock of the waiters that `path` has come free for. A trigger does so for foreign deletions; here the
    /// time is the transaction's.
    fn mark_freed(&self, path: &LeasePath) -> Result<()> {
        for request in self.lease_requests()? {
            if request.paths.0.iter().any(|wanted| overlap(wanted, path.as_str())) {
                self.execute("UPDATE lease_requests SET freed_at = ?2 WHERE id = ?1", params![request.id, self.now()])?;
            }
        }
        Ok(())
    }

    /// Ends one lease as it was seen. False if it has changed since: renewed, replaced or gone.
    pub fn end_lease(&self, lease: &Lease, by: &ActorId, cause: UnlockCause, event: Option<&Event>) -> Result<bool> {
        self.end_lease_of(&lease.locked_by, lease, by, cause, event)
    }

    /// As [`Self::end_lease`], of a lease that was granted to `loop_id`.
    pub(super) fn end_lease_of(
        &self,
        loop_id: &str,
        lease: &Lease,
        by: &ActorId,
        cause: UnlockCause,
        event: Option<&Event>,
    ) -> Result<bool> {
        let gone = self.execute(
            "DELETE FROM file_locks WHERE file_path = ?1 AND locked_by = ?2 AND fencing_token = ?3 AND expires_at IS NOT DISTINCT FROM ?4",
            params![lease.file_path, lease.locked_by, lease.fencing_token, lease.expires_at.map(Timestamp::to_sql_text)],
        )?;
        // A time written without milliseconds, or in a year before 0, reads as the same moment but is another text.
        let gone = gone > 0
            || self.execute(
                "DELETE FROM file_locks WHERE file_path = ?1 AND locked_by = ?2 AND fencing_token = ?3
                   AND (strftime('%Y-%m-%d %H:%M:%f', expires_at) IS NOT DISTINCT FROM ?4 OR expires_at LIKE '-%')",
                params![lease.file_path, lease.locked_by, lease.fencing_token, lease.expires_at.map(Timestamp::to_sql_text)],
            )? > 0;
        if gone {
            self.mark_freed(&lease.file_path)?;
            if lease.file_path.is_base() {
                return Ok(gone);
            }
            let payload = FileUnlocked {
                file_path: lease.file_path.to_string(),
                loop_id: loop_id.to_owned(),
                held_for_seconds: self.now().seconds_since(lease.locked_at).max(0),
                cause,
            };
            let attempt = match &lease.test_id {
                Some(test) => self.newest_attempt(test)?,
                None => None,
            };
            self.publish(&NewEvent::new(by.clone(), payload).caused_by_opt(event).of_attempt(attempt))?;
        }
        Ok(gone)
    }
}
