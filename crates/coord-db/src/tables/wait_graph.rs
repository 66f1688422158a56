//! Wait edges: who waits for whom on what. Other tools may write edges too.

use std::collections::BTreeMap;

use super::LeaseRequest;
use crate::{LeasePath, LoopId, ReadTx, Result, Timestamp, WriteTx};

row! {
    /// One edge. Another tool's edge may name anything.
    WaitEdge {
        waiter: String, holder: String, resource: LeasePath, waiting_since: Timestamp, wait_until: Option<Timestamp>, seq: i64,
    }
}

/// The edges that a waiter should have, (holder, resource), each with since when and until when it waits.
pub(crate) type WantedEdges = BTreeMap<(String, LeasePath), (Timestamp, Timestamp)>;

impl ReadTx<'_> {
    /// All edges, dead ones included.
    pub fn wait_edges(&self) -> Result<Vec<WaitEdge>> {
        self.query(select!(WaitEdge, "FROM wait_graph ORDER BY waiter, holder, resource"), [], WaitEdge::from_row)
    }

    /// The edges that came after `seq`.
    pub fn wait_edges_after(&self, seq: i64) -> Result<Vec<WaitEdge>> {
        self.query(select!(WaitEdge, "FROM wait_graph WHERE seq > ?1 ORDER BY seq"), [seq], WaitEdge::from_row)
    }

    /// What one waiter waits for.
    pub fn wait_edges_of(&self, waiter: &str) -> Result<Vec<WaitEdge>> {
        self.query(
            select!(WaitEdge, "FROM wait_graph WHERE waiter = ?1 ORDER BY holder, resource"),
            [waiter],
            WaitEdge::from_row,
        )
    }

    /// Edges that have timed out or whose waiter is a dead loop: at most `limit`, oldest first.
    pub fn wait_edges_to_sweep(&self, limit: usize) -> Result<Vec<WaitEdge>> {
        self.query(
            select!(
                WaitEdge,
                "FROM wait_graph WHERE wait_until <= ?1 OR waiter IN (SELECT id FROM loops WHERE status = 'error')
                 ORDER BY seq LIMIT ?2"
            ),
            params![self.now(), limit as i64],
            WaitEdge::from_row,
        )
    }

    /// Lease requests that have timed out or whose loop is dead or not registered. At most `limit`.
    pub fn lease_requests_to_sweep(&self, limit: usize) -> Result<Vec<LeaseRequest>> {
        self.query(
            select!(
                LeaseRequest,
                "FROM lease_requests
                 WHERE wait_until <= ?1 OR loop_id IN (SELECT id FROM loops WHERE status = 'error')
                   OR NOT EXISTS (SELECT 1 FROM loops WHERE id = lease_requests.loop_id)
                 ORDER BY waiting_since, id LIMIT ?2"
            ),
            params![self.now(), limit as i64],
            LeaseRequest::from_row,
        )
    }

    /// The number of the newest edge there ever was.
    pub fn last_wait_edge_seq(&self) -> Result<i64> {
        self.value("SELECT value FROM counters WHERE name = 'wait_edge'", [])
    }

    /// Who waits for one holder.
    pub(crate) fn wait_edges_on(&self, holder: &str) -> Result<Vec<WaitEdge>> {
        self.query(
            select!(WaitEdge, "FROM wait_graph WHERE holder = ?1 ORDER BY waiter, resource"),
            [holder],
            WaitEdge::from_row,
        )
    }
}

impl WriteTx<'_> {
    /// Makes a waiter's edges on some paths exactly these; one that stands already keeps its place.
    pub(crate) fn set_wait_edges(&self, waiter: &LoopId, paths: &[LeasePath], wanted: &WantedEdges) -> Result<()> {
        for edge in self.wait_edges_of(waiter.as_str())? {
            if paths.contains(&edge.resource) && !wanted.contains_key(&(edge.holder.clone(), edge.resource.clone())) {
                self.delete_wait_edge(&edge)?;
            }
        }
        for ((holder, resource), (since, until)) in wanted {
            self.add_wait_edge(waiter.as_str(), holder, resource.as_str(), *since, Some(*until))?;
        }
        Ok(())
    }

    /// Adds an edge, or extends the one that stands.
    pub fn add_wait_edge(
        &self,
        waiter: &str,
        holder: &str,
        resource: &str,
        since: Timestamp,
        until: Option<Timestamp>,
    ) -> Result<()> {
        self.execute(
            "INSERT INTO wait_graph (waiter, holder, resource, waiting_since, wait_until) VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT (waiter, holder, resource) DO UPDATE SET wait_until = excluded.wait_until
               WHERE wait_graph.wait_until IS DISTINCT FROM excluded.wait_until",
            params![waiter, holder, resource, since, until],
        )?;
        Ok(())
    }

    /// Deletes one edge. False if there is none.
    pub fn delete_wait_edge(&self, edge: &WaitEdge) -> Result<bool> {
        Ok(self.execute(
            "DELETE FROM wait_graph WHERE waiter = ?1 AND holder = ?2 AND resource = ?3",
            params![edge.waiter, edge.holder, edge.resource],
        )? > 0)
    }

    /// Deletes the edges of a waiter that has ended.
    pub fn delete_wait_edges_of(&self, waiter: &str) -> Result<usize> {
        self.execute("DELETE FROM wait_graph WHERE waiter = ?1", [waiter])
    }
}
