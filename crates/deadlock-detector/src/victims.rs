//! Who gives way: the fewest whose leaving breaks every circle, and among those the least missed. Pure.
//!
//! Up to [`EXACT`] loops that are entangled are searched exactly. Beyond, the one that most circles are likely to pass
//! (waiters on it times whom it waits for) is taken until what remains is small enough or free of circles, and whoever
//! turns out not to be needed is let off: so nobody is named in vain, but the number may not be the smallest.

use std::cmp::Reverse;

use coord_db::Timestamp;

use crate::graph::Graph;

/// The most loops in one entanglement that are searched exactly.
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

/// The victims that break every circle among the nodes that are `within`, in order. Circles of nobody but nodes that are
/// no candidates must not be within.
pub(crate) fn victims(graph: &Graph, within: &[bool], candidates: &[Option<Candidate>]) -> Vec<usize> {
    let mut chosen = Vec::new();
    for component in graph.components(within) {
        if chosen.len() >= MOST_VICTIMS {
            break;
        }
        if component.len() <= EXACT {
            chosen.extend(exact(graph, &component, candidates));
        } else {
            chosen.extend(greedy(graph, component, candidates));
        }
    }
    chosen.sort_unstable();
    chosen
}

fn exact(graph: &Graph, component: &[usize], candidates: &[Option<Candidate>]) -> Vec<usize> {
    let bit = |node: &usize| component.binary_search(node).map_or(0, |at| 1_u32 << at);
    let next: Vec<u32> = component.iter().map(|node| graph.next[*node].iter().map(bit).sum()).collect();
    let all = (1_u32 << component.len()) - 1;
    let allowed: u32 = component.iter().filter(|node| candidates[**node].is_some()).map(bit).sum();
    let mut best: Option<Cost> = None;
    for set in 1..=all {
        let few_enough = best.as_ref().is_none_or(|best| set.count_ones() as usize <= best.0);
        if set & !allowed == 0 && few_enough && is_free_of_circles(&next, all & !set) {
            let members: Vec<usize> = component.iter().copied().filter(|node| set & bit(node) != 0).collect();
            let cost = cost(&members, candidates);
            if best.as_ref().is_none_or(|best| cost < *best) {
                best = Some(cost);
            }
        }
    }
    best.map(|best| best.5).unwrap_or_default()
}

fn is_free_of_circles(next: &[u32], mut rest: u32) -> bool {
    while rest != 0 {
        let ends: u32 = (0..next.len()).filter(|at| rest & 1 << at != 0 && next[*at] & rest == 0).map(|at| 1 << at).sum();
        if ends == 0 {
            return false;
        }
        rest &= !ends;
    }
    true
}

fn greedy(graph: &Graph, component: Vec<usize>, candidates: &[Option<Candidate>]) -> Vec<usize> {
    let mut within = vec![false; graph.next.len()];
    for &node in &component {
        within[node] = true;
    }
    let mut chosen = Vec::new();
    let mut open = vec![component];
    while let Some(component) = open.pop() {
        if chosen.len() >= MOST_VICTIMS {
            break;
        }
        if component.len() <= EXACT {
            chosen.extend(exact(graph, &component, candidates));
            continue;
        }
        let mut inside = vec![false; graph.next.len()];
        for &node in &component {
            inside[node] = true;
        }
        let mut waiters = vec![0_usize; graph.next.len()];
        for &node in &component {
            for &holder in graph.next[node].iter().filter(|holder| inside[**holder]) {
                waiters[holder] += 1;
            }
        }
        let through = |node: usize| waiters[node] * graph.next[node].iter().filter(|holder| inside[**holder]).count();
        let best = component
            .iter()
            .copied()
            .filter(|node| candidates[*node].is_some())
            .min_by_key(|node| (Reverse(through(*node)), cost(&[*node], candidates)));
        let Some(best) = best else { continue };
        chosen.push(best);
        inside[best] = false;
        open.extend(graph.components(&inside));
    }
    for &node in &chosen {
        within[node] = false;
    }
    // Later choices may have made earlier ones needless.
    let mut needed = Vec::new();
    for node in chosen {
        within[node] = true;
        if graph.circle_through(node, &within).is_some() {
            within[node] = false;
            needed.push(node);
        }
    }
    needed
}

/// Why this loop of the circle, for people.
pub(crate) fn why(graph: &Graph, victim: usize, circle: &[usize], candidates: &[Option<Candidate>]) -> String {
    let others: Vec<&Candidate> =
        circle.iter().filter(|node| **node != victim).filter_map(|node| candidates[*node].as_ref()).collect();
    let Some(own) = &candidates[victim] else { return String::new() };
    if others.is_empty() {
        return "nobody else in it can be told".to_owned();
    }
    let least = circle
        .iter()
        .copied()
        .filter(|node| candidates[*node].is_some())
        .min_by_key(|node| cost(&[*node], candidates))
        .unwrap_or(victim);
    if least != victim {
        return "more circles than this one end with it".to_owned();
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
    format!("all else is equal and {:?} comes first", graph.names[victim])
}

#[cfg(test)]
mod tests;
