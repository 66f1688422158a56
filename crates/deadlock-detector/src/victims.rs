//! Who gives way: the fewest whose leaving breaks every cycle, and among those the least missed. Pure.
//!
//! A victim ends what waits for its leases and places; so a component's victims are those of its nodes that are candidates.
//!
//! - Up to [`EXACT`] candidates that are entangled, the victims are the best there are: fewest victims, fewest recent ones,
//!   lowest priority, fewest leases, youngest wait, id.
//! - Beyond, the one that most cycles are likely to pass (waiters on it times whom it waits for) is taken until what remains
//!   is small enough or free of cycles, and whoever turns out not to be needed is let off. So nobody is named in vain: each
//!   victim is in a cycle that no other victim is in, but the number may not be the smallest. At most [`MOST_VICTIMS`] and
//!   the last component's are named in one pass, each at a cost that grows with the edges; the next pass goes on.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use coord_db::Timestamp;

use crate::graph::{Graph, Node};

/// The most candidates in one entanglement that are searched exactly.
pub(crate) const EXACT: usize = 12;
/// So many victims are named in one pass; the next one goes on.
pub(crate) const MOST_VICTIMS: usize = 64;

/// What speaks for and against a loop as a victim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Candidate {
    /// It was one a short while ago.
    pub recent: bool,
    /// 1 is the most important. Who is not registered hears nothing, and so comes after all others with 0.
    pub priority: i64,
    /// How many leases it holds.
    pub leases: usize,
    /// Since when it waits.
    pub since: Timestamp,
}

/// Smaller is better. Of several victims the most important one counts first, then the one that has waited longest.
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

/// The victims that break every cycle that holds among the nodes that are `within`, in order. Cycles of nobody but nodes
/// that are no candidates must not be within.
pub(crate) fn victims(graph: &Graph, within: &[bool], candidates: &[Option<Candidate>]) -> Vec<usize> {
    let mut chosen = Vec::new();
    for component in entanglements(graph, &graph.stuck(within)) {
        if chosen.len() >= MOST_VICTIMS {
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

/// The components among the nodes that are stuck, those together that a victim in one may end as well: a node that needs
/// only one of several goes on with the first of them, in whichever component that one is.
fn entanglements(graph: &Graph, stuck: &[bool]) -> Vec<Vec<usize>> {
    let components = graph.components(stuck);
    let choosing = |component: &&Vec<usize>| component.iter().any(|node| graph.any[*node]);
    if !components.iter().any(|component| choosing(&component)) {
        return components;
    }
    // Whoever is reached from a node that may choose belongs to its group, named by the group's first component.
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
                // What is reached from there has been walked already.
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

/// Every set of candidates is tried, the small ones first: at most 2 to the power of [`EXACT`].
fn exact(graph: &Graph, component: &[usize], candidates: &[Option<Candidate>]) -> Vec<usize> {
    let part = graph.part(component);
    let able: Vec<usize> = (0..component.len()).filter(|at| candidates[component[*at]].is_some()).collect();
    let sets = 1_u32 << able.len();
    for size in 1..=able.len() {
        let mut best: Option<Cost> = None;
        for set in (1..sets).filter(|set| set.count_ones() as usize == size) {
            let members = || able.iter().enumerate().filter(move |(bit, _)| set & 1 << bit != 0).map(|(_, at)| *at);
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
    let able: Vec<Option<Candidate>> = component.iter().map(|node| candidates[*node].clone()).collect();
    let mut chosen = Vec::new();
    let mut open: Vec<Vec<usize>> = vec![(0..component.len()).collect()];
    let mut inside = vec![false; component.len()];
    while let Some(members) = open.pop() {
        if chosen.len() >= MOST_VICTIMS {
            break;
        }
        if is_small(&members, &able) {
            chosen.extend(exact(&part, &members, &able));
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
            .filter(|node| able[*node].is_some())
            .min_by_key(|node| (Reverse(through(*node)), cost(&[*node], &able)));
        let Some(best) = best else { continue };
        chosen.push(best);
        inside[best] = false;
        open.extend(part.components(&part.stuck(&inside)));
    }
    let mut within = vec![true; component.len()];
    chosen.iter().for_each(|node| within[*node] = false);
    // Later choices may have made earlier ones needless.
    let mut needed = Vec::new();
    for node in chosen {
        within[node] = true;
        if part.holding_cycle(node, &within).is_some() {
            within[node] = false;
            needed.push(component[node]);
        }
    }
    needed
}

/// Why this loop of the cycle, for people.
pub(crate) fn why(graph: &Graph, victim: usize, cycle: &[usize], candidates: &[Option<Candidate>]) -> String {
    let others: Vec<&Candidate> =
        cycle.iter().filter(|node| **node != victim).filter_map(|node| candidates[*node].as_ref()).collect();
    let Some(own) = &candidates[victim] else { return String::new() };
    if others.is_empty() {
        let tests = cycle.iter().any(|node| !matches!(graph.names[*node], Node::Loop(_)));
        let why =
            if tests { "it is the only one whose leases anybody in it waits for" } else { "nobody else in it can be told" };
        return why.to_owned();
    }
    let least = cycle
        .iter()
        .copied()
        .filter(|node| candidates[*node].is_some())
        .min_by_key(|node| cost(&[*node], candidates))
        .unwrap_or(victim);
    if least != victim {
        return "more cycles than this one end with it".to_owned();
    }
    let mut rivals: Vec<&Candidate> = others.iter().copied().filter(|other| !other.recent || own.recent).collect();
    if rivals.is_empty() {
        return "the others gave way a short while ago".to_owned();
    }
    rivals.retain(|other| other.priority == own.priority);
    if rivals.is_empty() {
        return format!("it counts least (priority {})", own.priority);
    }
    rivals.retain(|other| other.leases == own.leases);
    if rivals.is_empty() {
        return format!("it holds the fewest leases ({})", own.leases);
    }
    if rivals.iter().all(|other| other.since < own.since) {
        return "it has waited the shortest".to_owned();
    }
    format!("all else is equal and {:?} comes first", graph.names[victim].loop_id())
}

#[cfg(test)]
mod tests;
