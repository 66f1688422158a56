//! What a decision depends on, read in one transaction: only what is in a circle or may have become part of one.

use std::collections::{BTreeMap, BTreeSet};

use coord_db::config::DeadlockConfig;
use coord_db::{Alert, Deadlock, Lease, ReadTx, Result, Timestamp, WaitEdge};

use crate::graph::Graph;

/// What the alerts about circles that nobody can break begin with.
pub const UNBREAKABLE: &str = "deadlock:unbreakable:";

/// How far the graph has been read, and who was in a circle then.
///
/// Invariant: every circle that stands, its edges living or dead, either has an edge that is newer than `last_edge`, or
/// only members that are in `circling`. Only foreign hands that change an edge in place can break it, until the next
/// full scan.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Memory {
    /// When everything was read last; none before the first time.
    full_scan_at: Option<Timestamp>,
    /// The newest edge that has been read.
    last_edge: i64,
    /// Who was in a circle.
    circling: BTreeSet<String>,
}

/// What is known of one loop in a circle, or of a victim.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LoopFacts {
    /// Its priority, if it is registered.
    pub priority: Option<i64>,
    /// What it holds, expired leases included.
    pub leases: Vec<Lease>,
}

/// All that a decision depends on.
#[derive(Debug, Clone, PartialEq)]
pub struct DetectorSnapshot {
    /// The moment.
    pub now: Timestamp,
    /// True while nobody takes an expired lease, because its holder may have slept.
    pub in_grace: bool,
    /// Until when.
    pub grace_until: Option<Timestamp>,
    /// Every edge of every circle, whether the edges are alive or dead.
    pub edges: Vec<WaitEdge>,
    /// How many edges were read to find these.
    pub edges_read: usize,
    /// For each resource of these edges the leases that overlap with it.
    pub leases: BTreeMap<String, Vec<Lease>>,
    /// Everyone in a circle, and every victim.
    pub loops: BTreeMap<String, LoopFacts>,
    /// The deadlocks that are not resolved, oldest first.
    pub deadlocks: Vec<Deadlock>,
    /// Who was a victim a short while ago.
    pub recent_victims: BTreeSet<String>,
    /// The open alerts about circles that nobody can break.
    pub unbreakable: Vec<Alert>,
    /// When everything is read again.
    pub next_full_scan: Timestamp,
}

pub(crate) fn load(tx: &ReadTx<'_>, config: &DeadlockConfig, memory: &Memory) -> Result<(DetectorSnapshot, Memory)> {
    let now = tx.now();
    let deadlocks = tx.open_deadlocks()?;
    let last_edge = tx.last_wait_edge_seq()?;
    let scan_millis = i64::try_from(config.full_scan_seconds).unwrap_or(i64::MAX).saturating_mul(1000);
    // A number that has gone back is another history: a backup was restored.
    let scanned_at =
        memory.full_scan_at.filter(|at| (0..scan_millis).contains(&now.millis_since(*at)) && last_edge >= memory.last_edge);

    let mut edges = match scanned_at {
        None => tx.wait_edges()?,
        Some(_) => {
            let mut seeds = memory.circling.clone();
            if last_edge > memory.last_edge {
                seeds.extend(tx.wait_edges_after(memory.last_edge)?.into_iter().map(|edge| edge.waiter));
            }
            seeds.extend(deadlocks.iter().map(|deadlock| deadlock.victim.clone()));
            tx.wait_edges_around(&seeds)?
        }
    };
    let edges_read = edges.len();
    let circling = keep_circles(&mut edges);

    let mut leases = BTreeMap::new();
    for edge in &edges {
        if !leases.contains_key(edge.resource.as_str()) {
            leases.insert(edge.resource.to_string(), tx.leases_overlapping(&edge.resource)?);
        }
    }
    let mut loops = BTreeMap::new();
    for id in circling.iter().chain(deadlocks.iter().map(|deadlock| &deadlock.victim)) {
        if !loops.contains_key(id) {
            let priority = tx.find_loop(id)?.map(|row| row.priority);
            loops.insert(id.clone(), LoopFacts { priority, leases: tx.leases_of(id)? });
        }
    }
    let recent_victims = if circling.is_empty() {
        BTreeSet::new()
    } else {
        let since = now.plus_seconds(config.spare_recent_minutes.saturating_mul(-60));
        tx.victims_since(since)?
    };
    let unbreakable = tx.open_alerts_with(UNBREAKABLE)?;

    let full_scan_at = scanned_at.unwrap_or(now);
    let snapshot = DetectorSnapshot {
        now,
        in_grace: tx.in_clock_grace()?,
        grace_until: tx.clock_grace_until()?,
        edges,
        edges_read,
        leases,
        loops,
        deadlocks,
        recent_victims,
        unbreakable,
        next_full_scan: full_scan_at.plus_millis(scan_millis),
    };
    Ok((snapshot, Memory { full_scan_at: Some(full_scan_at), last_edge, circling }))
}

/// Keeps the edges that are part of a circle, and says who is in one.
fn keep_circles(edges: &mut Vec<WaitEdge>) -> BTreeSet<String> {
    let graph = Graph::new(edges.iter().map(|edge| (edge.waiter.as_str(), edge.holder.as_str())));
    let mut component_of: BTreeMap<&str, usize> = BTreeMap::new();
    for (number, component) in graph.components(&vec![true; graph.names.len()]).into_iter().enumerate() {
        component_of.extend(component.into_iter().map(|node| (graph.names[node].as_str(), number)));
    }
    edges.retain(|edge| {
        let waiter = component_of.get(edge.waiter.as_str());
        waiter.is_some() && waiter == component_of.get(edge.holder.as_str())
    });
    component_of.into_keys().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests;
