//! An oracle for deadlocks, as plain as can be: reachability over the edges that are live now.

use std::collections::BTreeSet;

use coord_db::{LoopStatus, WaitEdge};

use super::world::World;

/// The live edges that lie on a cycle of running loops.
#[must_use]
pub fn edges_in_cycles(world: &World) -> Vec<WaitEdge> {
    let edges = world.read(|tx| tx.wait_edges());
    if edges.len() < 2 {
        return Vec::new();
    }
    let now = world.now();
    let (leases, loops) = world.read(|tx| Ok((tx.leases(false)?, tx.loops()?)));
    let runs = |id: &str| loops.iter().any(|row| row.id.as_str() == id && row.status == LoopStatus::Running);
    let live = |edge: &WaitEdge| {
        let over = edge.wait_until.is_some_and(|until| until <= now);
        let mut there = leases.iter().filter(|lease| lease.file_path.overlaps(&edge.resource)).peekable();
        // Other tools may write edges about what they lease by other means.
        let trusted = there.peek().is_none();
        let held = there.any(|lease| lease.locked_by == edge.holder && lease.expires_at.is_none_or(|expires| expires > now));
        !over && (trusted || held) && runs(&edge.waiter) && runs(&edge.holder)
    };
    let edges: Vec<WaitEdge> = edges.into_iter().filter(live).collect();
    let reaches = |from: &str, to: &str| {
        let (mut seen, mut next) = (BTreeSet::from([from]), vec![from]);
        while let Some(at) = next.pop() {
            if at == to {
                return true;
            }
            next.extend(
                edges.iter().filter(|edge| edge.waiter == at).map(|edge| edge.holder.as_str()).filter(|id| seen.insert(id)),
            );
        }
        false
    };
    edges.iter().filter(|edge| reaches(&edge.holder, &edge.waiter)).cloned().collect()
}

/// The loops of a cycle in which each waits for exactly one other, so that anyone's giving way would end it; nothing where
/// cycles share loops.
#[must_use]
pub fn ring_of<'a>(edges: &'a [WaitEdge], member: &'a str) -> Option<BTreeSet<&'a str>> {
    let (mut ring, mut at) = (BTreeSet::new(), member);
    while ring.insert(at) {
        let next: BTreeSet<&str> = edges.iter().filter(|edge| edge.waiter == at).map(|edge| edge.holder.as_str()).collect();
        at = (next.len() == 1).then(|| next.into_iter().next()).flatten()?;
    }
    (at == member).then_some(ring)
}
