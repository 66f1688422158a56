//! Chooses victims: the smallest set of loops that breaks every cycle, and among those sets the cheapest. Pure.
//!
//! A victim ends the waits for its leases and places, so the candidates of a component are those of its nodes that hold
//! some.
//!
//! - For up to [`EXACT`] candidates in one component the result is optimal: fewest victims, then fewest recent ones, lowest
//!   priority, fewest leases, shortest wait, id.
//! - For more, the candidate that probably lies on the most cycles (number of waiters times number of holders) is taken
//!   repeatedly until the rest is small enough or has no cycles; then victims that turned out unnecessary are removed. So each
//!   victim is in a cycle without any other victim, but the number may not be minimal. One pass chooses at most
//!   [`MAX_VICTIMS`] and those of the last component; the next pass continues.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use coord_db::Timestamp;

use crate::graph::{Graph, Node};

/// Maximum number of candidates in one component for the exact search.
pub(crate) const EXACT: usize = 12;
/// Maximum number of victims chosen in one pass; the next pass continues.
pub(crate) const MAX_VICTIMS: usize = 64;

/// The properties of a loop that decide whether it becomes a victim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Candidate {
    /// It was a victim recently.
    pub recent: bool,
    /// 1 is the most important. An unregistered name reads no events and is therefore the last choice, with 0.
    pub priority: i64,
    /// Number of leases that it holds.
    pub leases: usize,
    /// Start of its wait.
    pub since: Timestamp,
}

/// Smaller is better. With several victims, the most important loop is compared first, then the longest wait.
type Cost = (usize, usize, Vec<Reverse<i64>>, usize, Vec<Reverse<Timestamp>>, Vec<usize>);

fn cost(victims: &[usize], candidates: &[Option<Candidate>]) -> Cost {
    let facts = || victims.iter().filter_map(|node| candidates[*node].as_ref());
    let mut priorities: Vec<i64> = facts().map(|facts| facts.priority).collect();
    priorities.sort_unstable();
    let mut since: Vec<Timestamp> = facts().map(|facts| facts.since).collect();
    since.sort_unstable();
    (
        victims.len(),
        facts().filter(|facts| facts.recent).count(),
        priorities.into_iter().map(Reverse).collect(),
        facts().map(|facts| facts.leases).sum(),
        since.into_iter().map(Reverse).collect(),
        victims.to_vec(),
    )
}

/// The victims that break every blocking cycle among the nodes in `within`, sorted. Cycles without a candidate must not
/// be in `within`.
pub(crate) fn victims(graph: &Graph, within: &[bool], candidates: &[Option<Candidate>]) -> Vec<usize> {
    let mut chosen = Vec::new();
    for component in joined_components(graph, &graph.stuck(within)) {
        if chosen.len() >= MAX_VICTIMS {
            break;
        }
        if is_small(&component, candidates) {
            chosen.extend(exact(graph, &component, candidates));
        } else {
            chosen.extend(greedy(graph, component, candidates));
        }
    }
    chosen.sort_unstable();
    chosen
}

/// The components of the stuck nodes. Components that one victim may free together are joined: a node that needs only
/// one of several others continues with the first of them, in whichever component that one is.
fn joined_components(graph: &Graph, stuck: &[bool]) -> Vec<Vec<usize>> {
    let components = graph.components(stuck);
    let choosing = |component: &&Vec<usize>| component.iter().any(|node| graph.any[*node]);
    if !components.iter().any(|component| choosing(&component)) {
        return components;
    }
    // Nodes reachable from a node that needs only one belong to its group, which is named by its first component.
    let mut group: Vec<Option<usize>> = vec![None; graph.next.len()];
    let mut joined: Vec<usize> = (0..components.len()).collect();
    for (number, component) in components.iter().enumerate() {
        if !choosing(&component) {
            continue;
        }
        let mut next = component.clone();
        while let Some(node) = next.pop() {
            match group[node] {
                None => {
                    group[node] = Some(number);
                    next.extend(graph.next[node].iter().copied().filter(|holder| stuck[*holder]));
                }
                // The nodes reachable from there were visited already.
                Some(other) => {
                    let (one, other) = (root(&joined, number), root(&joined, other));
                    joined[one.max(other)] = one.min(other);
                }
            }
        }
    }
    for (number, component) in components.iter().enumerate() {
        let of = group[component[0]].unwrap_or(number);
        component.iter().for_each(|node| group[*node] = Some(of));
    }
    let mut together: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (node, number) in group.iter().enumerate().filter_map(|(node, number)| Some((node, (*number)?))) {
        together.entry(root(&joined, number)).or_default().push(node);
    }
    together.into_values().collect()
}

fn root(joined: &[usize], mut number: usize) -> usize {
    while joined[number] != number {
        number = joined[number];
    }
    number
}

fn is_small(component: &[usize], candidates: &[Option<Candidate>]) -> bool {
    component.iter().filter(|node| candidates[**node].is_some()).take(EXACT + 1).count() <= EXACT
}

/// Tries every set of candidates, smallest first: at most 2 to the power of [`EXACT`] sets.
fn exact(graph: &Graph, component: &[usize], candidates: &[Option<Candidate>]) -> Vec<usize> {
    let part = graph.part(component);
    let candidate_nodes: Vec<usize> = (0..component.len()).filter(|at| candidates[component[*at]].is_some()).collect();
    let sets = 1_u32 << candidate_nodes.len();
    for size in 1..=candidate_nodes.len() {
        let mut best: Option<Cost> = None;
        for set in (1..sets).filter(|set| set.count_ones() as usize == size) {
            let members = || candidate_nodes.iter().enumerate().filter(move |(bit, _)| set & 1 << bit != 0).map(|(_, at)| *at);
            let mut within = vec![true; component.len()];
            members().for_each(|at| within[at] = false);
            if part.stuck(&within).contains(&true) {
                continue;
            }
            let named: Vec<usize> = members().map(|at| component[at]).collect();
            let cost = cost(&named, candidates);
            if best.as_ref().is_none_or(|best| cost < *best) {
                best = Some(cost);
            }
        }
        if let Some(best) = best {
            return best.5;
        }
    }
    Vec::new()
}

fn greedy(graph: &Graph, component: Vec<usize>, candidates: &[Option<Candidate>]) -> Vec<usize> {
    let part = graph.part(&component);
    let candidate_nodes: Vec<Option<Candidate>> = component.iter().map(|node| candidates[*node].clone()).collect();
    let mut chosen = Vec::new();
    let mut open: Vec<Vec<usize>> = vec![(0..component.len()).collect()];
    let mut inside = vec![false; component.len()];
    while let Some(members) = open.pop() {
        if chosen.len() >= MAX_VICTIMS {
            break;
        }
        if is_small(&members, &candidate_nodes) {
            chosen.extend(exact(&part, &members, &candidate_nodes));
            continue;
        }
        inside.fill(false);
        members.iter().for_each(|node| inside[*node] = true);
        let mut waiters = vec![0_usize; component.len()];
        for &node in &members {
            for &holder in part.next[node].iter().filter(|holder| inside[**holder]) {
                waiters[holder] += 1;
            }
        }
        let through = |node: usize| waiters[node] * part.next[node].iter().filter(|holder| inside[**holder]).count();
        let best = members
            .iter()
            .copied()
            .filter(|node| candidate_nodes[*node].is_some())
            .min_by_key(|node| (Reverse(through(*node)), cost(&[*node], &candidate_nodes)));
        let Some(best) = best else { continue };
        chosen.push(best);
        inside[best] = false;
        open.extend(part.components(&part.stuck(&inside)));
    }
    let mut within = vec![true; component.len()];
    chosen.iter().for_each(|node| within[*node] = false);
    // Later choices may have made earlier ones unnecessary.
    let mut needed = Vec::new();
    for node in chosen {
        within[node] = true;
        if part.blocking_cycle(node, &within).is_some() {
            within[node] = false;
            needed.push(component[node]);
        }
    }
    needed
}

/// The reason for choosing this loop of the cycle, as text.
pub(crate) fn why(graph: &Graph, victim: usize, cycle: &[usize], candidates: &[Option<Candidate>]) -> String {
    let others: Vec<&Candidate> =
        cycle.iter().filter(|node| **node != victim).filter_map(|node| candidates[*node].as_ref()).collect();
    let Some(own) = &candidates[victim] else { return String::new() };
    if others.is_empty() {
        let tests = cycle.iter().any(|node| !matches!(graph.names[*node], Node::Loop(_)));
        let why = if tests {
            "it is the only loop in the cycle whose leases another one waits for"
        } else {
            "no other member of the cycle is a loop"
        };
        return why.to_owned();
    }
    let least = cycle
        .iter()
        .copied()
        .filter(|node| candidates[*node].is_some())
        .min_by_key(|node| cost(&[*node], candidates))
        .unwrap_or(victim);
    if least != victim {
        return "it is part of further cycles".to_owned();
    }
    let mut rivals: Vec<&Candidate> = others.iter().copied().filter(|other| !other.recent || own.recent).collect();
    if rivals.is_empty() {
        return "the others were victims recently".to_owned();
    }
    rivals.retain(|other| other.priority == own.priority);
    if rivals.is_empty() {
        return format!("it has the lowest priority ({})", own.priority);
    }
    rivals.retain(|other| other.leases == own.leases);
    if rivals.is_empty() {
        return format!("it holds the fewest leases ({})", own.leases);
    }
    if rivals.iter().all(|other| other.since < own.since) {
        return "it has waited for the shortest time".to_owned();
    }
    format!("all else is equal and its id {:?} sorts first", graph.names[victim].loop_id())
}

#[cfg(test)]
mod tests;
