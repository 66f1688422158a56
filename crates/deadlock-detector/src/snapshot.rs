//! The input of the decision, read in one transaction: only nodes that are or may have become part of a cycle.

use std::collections::{BTreeMap, BTreeSet};

use coord_db::config::DeadlockConfig;
use coord_db::{Alert, Deadlock, Decision, Lease, ReadTx, Result, Timestamp, Wait, WaitEdge, WaitKind, WaitNode, Waits};

use crate::graph::{Graph, Node};
use crate::test_cycles::test_cycles;

/// Prefix of the fingerprints of alerts about cycles without a possible victim.
pub const UNBREAKABLE: &str = "deadlock:unbreakable:";

/// A cache of how far the graph has been read, and which nodes were in a cycle.
///
/// Invariant: every existing cycle, over live or dead edges, either has an edge newer than `last_edge`, or a test that
/// started to wait after `last_test_wait`, or only members in `in_cycle`. External changes of an existing edge break it
/// until the next full scan, and so does a loop that becomes idle while it keeps leases.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Memory {
    /// Time of the last full scan; none before the first.
    full_scan_at: Option<Timestamp>,
    /// The newest edge read.
    last_edge: i64,
    /// The last test read that may have started to wait.
    last_test_wait: i64,
    /// The nodes that were in a cycle.
    in_cycle: BTreeSet<WaitNode>,
}

/// Properties of a loop in a cycle, or of a victim.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LoopFacts {
    /// Its priority, if it is registered.
    pub priority: Option<i64>,
    /// Its leases, including expired ones.
    pub leases: Vec<Lease>,
}

/// The input of the decision.
#[derive(Debug, Clone, PartialEq)]
pub struct DetectorSnapshot {
    /// The time of the snapshot.
    pub now: Timestamp,
    /// True in the grace period, in which nobody takes over an expired lease because its holder may have been asleep.
    pub in_grace: bool,
    /// End of the grace period.
    pub grace_until: Option<Timestamp>,
    /// Every edge of every cycle, live or dead.
    pub edges: Vec<WaitEdge>,
    /// Every other wait of every cycle.
    pub waits: Vec<Wait>,
    /// Number of edges and other waits that were read.
    pub edges_read: usize,
    /// By resource of these edges: the leases that overlap with it.
    pub leases: BTreeMap<String, Vec<Lease>>,
    /// All members of cycles, and all victims.
    pub loops: BTreeMap<String, LoopFacts>,
    /// The open deadlocks, oldest first.
    pub deadlocks: Vec<Deadlock>,
    /// The recent victims.
    pub recent_victims: BTreeSet<String>,
    /// The open alerts about cycles without a possible victim.
    pub unbreakable: Vec<Alert>,
    /// The last question about each cycle of tests, by the cycle's fingerprint.
    pub questions: BTreeMap<String, Decision>,
    /// Time of the next full scan.
    pub next_full_scan: Timestamp,
}

pub(crate) fn load(tx: &ReadTx<'_>, config: &DeadlockConfig, memory: &Memory) -> Result<(DetectorSnapshot, Memory)> {
    let now = tx.now();
    let deadlocks = tx.open_deadlocks()?;
    let last_edge = tx.last_wait_edge_seq()?;
    let scan_millis = i64::try_from(config.full_scan_seconds).unwrap_or(i64::MAX).saturating_mul(1000);
    // A number that has decreased shows that a backup was restored.
    let last_test_wait = tx.last_test_wait_seq()?;
    let scanned_at = memory.full_scan_at.filter(|at| {
        (0..scan_millis).contains(&now.millis_since(*at))
            && last_edge >= memory.last_edge
            && last_test_wait >= memory.last_test_wait
    });

    let mut found = match scanned_at {
        None => tx.all_waits()?,
        Some(_) => {
            let mut seeds = memory.in_cycle.clone();
            if last_edge > memory.last_edge {
                seeds.extend(tx.wait_edges_after(memory.last_edge)?.into_iter().map(|edge| WaitNode::Loop(edge.waiter)));
            }
            if last_test_wait > memory.last_test_wait {
                seeds.extend(tx.test_waits_after(memory.last_test_wait)?);
            }
            seeds.extend(deadlocks.iter().map(|deadlock| WaitNode::Loop(deadlock.victim.clone())));
            tx.waits_around(&seeds)?
        }
    };
    let edges_read = found.edges.len() + found.waits.len();
    let in_cycle = keep_cycles(&mut found);
    let Waits { edges, mut waits } = found;
    // A waiter that needs only one of several tests can continue with any of them, whether it is in the cycle or not.
    let idle: BTreeSet<WaitNode> =
        waits.iter().filter(|wait| wait.kind == WaitKind::Idle).map(|wait| wait.waiter.clone()).collect();
    waits.retain(|wait| wait.kind != WaitKind::Idle);
    for waiter in &idle {
        waits.extend(tx.waits_of(waiter)?);
    }

    let full_scan_at = scanned_at.unwrap_or(now);
    let snapshot = fill(tx, config, Waits { edges, waits }, &in_cycle, deadlocks)?;
    let next_full_scan = full_scan_at.plus_millis(scan_millis);
    let snapshot = DetectorSnapshot { edges_read, next_full_scan, ..snapshot };
    Ok((snapshot, Memory { full_scan_at: Some(full_scan_at), last_edge, last_test_wait, in_cycle }))
}

/// A snapshot with all waits, in a cycle or not.
pub(crate) fn everything(tx: &ReadTx<'_>, config: &DeadlockConfig) -> Result<DetectorSnapshot> {
    let found = tx.all_waits()?;
    let in_cycle = keep_cycles(&mut found.clone());
    fill(tx, config, found, &in_cycle, tx.open_deadlocks()?)
}

fn fill(
    tx: &ReadTx<'_>,
    config: &DeadlockConfig,
    Waits { edges, waits }: Waits,
    in_cycle: &BTreeSet<WaitNode>,
    deadlocks: Vec<Deadlock>,
) -> Result<DetectorSnapshot> {
    let now = tx.now();
    let mut leases = BTreeMap::new();
    for edge in &edges {
        if !leases.contains_key(edge.resource.as_str()) {
            leases.insert(edge.resource.to_string(), tx.leases_overlapping(&edge.resource)?);
        }
    }
    let mut loops = BTreeMap::new();
    for id in in_cycle.iter().map(WaitNode::loop_id).chain(deadlocks.iter().map(|deadlock| deadlock.victim.as_str())) {
        if !loops.contains_key(id) {
            let priority = tx.find_loop(id)?.map(|row| row.priority);
            loops.insert(id.to_owned(), LoopFacts { priority, leases: tx.leases_of(id)? });
        }
    }
    let matters: Vec<String> = test_cycles(&waits).iter().map(|cycle| cycle.fingerprint()).collect();
    let mut questions = BTreeMap::new();
    for decision in tx.last_decisions_about(&matters)? {
        questions.extend(decision.fingerprint.clone().map(|matter| (matter, decision)));
    }
    let recent_victims = if in_cycle.is_empty() {
        BTreeSet::new()
    } else {
        let since = now.plus_seconds(config.spare_recent_minutes.saturating_mul(-60));
        tx.victims_since(since)?
    };
    let unbreakable = tx.open_alerts_with(UNBREAKABLE)?;

    Ok(DetectorSnapshot {
        now,
        in_grace: tx.in_clock_grace()?,
        grace_until: tx.clock_grace_until()?,
        edges_read: edges.len() + waits.len(),
        edges,
        waits,
        leases,
        loops,
        deadlocks,
        recent_victims,
        unbreakable,
        questions,
        next_full_scan: now,
    })
}

fn node(node: &WaitNode) -> Node {
    match node {
        WaitNode::Loop(id) => Node::Loop(id.clone()),
        WaitNode::Test { id, loop_id } => Node::Test { id: id.clone(), loop_id: loop_id.clone() },
    }
}

/// Removes the waits that are not part of a cycle. Returns the members of cycles.
fn keep_cycles(found: &mut Waits) -> BTreeSet<WaitNode> {
    let ends = |edge: &WaitEdge| (Node::Loop(edge.waiter.clone()), Node::Loop(edge.holder.clone()));
    let graph =
        Graph::new(found.edges.iter().map(ends).chain(found.waits.iter().map(|wait| (node(&wait.waiter), node(&wait.holder)))));
    let mut component_of: BTreeMap<&Node, usize> = BTreeMap::new();
    for (number, component) in graph.components(&vec![true; graph.names.len()]).into_iter().enumerate() {
        component_of.extend(component.into_iter().map(|node| (&graph.names[node], number)));
    }
    let cycle = |waiter: &Node, holder: &Node| {
        let waiter = component_of.get(waiter);
        waiter.is_some() && waiter == component_of.get(holder)
    };
    found.edges.retain(|edge| {
        let (waiter, holder) = ends(edge);
        cycle(&waiter, &holder)
    });
    found.waits.retain(|wait| cycle(&node(&wait.waiter), &node(&wait.holder)));
    let who = component_of.into_keys().map(|node| match node {
        Node::Test { id, loop_id } => WaitNode::Test { id: id.clone(), loop_id: loop_id.clone() },
        Node::Loop(id) | Node::Work(id) => WaitNode::Loop(id.clone()),
    });
    who.collect()
}

#[cfg(test)]
mod tests;
