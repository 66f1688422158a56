//! Which circles of living edges stand, who gives way, and what becomes of those who were told. Pure.

use std::collections::{BTreeMap, BTreeSet};

use coord_db::config::DeadlockConfig;
use coord_db::{Deadlock, DeadlockOutcome, Lease, LoopId, Timestamp, WaitEdge};
use supervisor::Plan;

use crate::graph::Graph;
use crate::snapshot::{DetectorSnapshot, LoopFacts, UNBREAKABLE};
use crate::victims::{Candidate, victims, why};

/// One thing to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// A deadlock is over by itself, or because its victim has answered.
    Resolve {
        /// Its id.
        id: String,
        /// How it ended.
        outcome: DeadlockOutcome,
    },
    /// A victim has not answered in time: its leases end.
    Revoke {
        /// What it was told.
        deadlock: Deadlock,
        /// Its waits end as well: others wait for its place in a queue, which no lease stands for.
        waits_too: bool,
    },
    /// Tell a loop to give way.
    ForceRelease {
        /// Whom.
        victim: LoopId,
        /// The circle, beginning with the victim.
        cycle: Vec<String>,
        /// What it holds.
        locks: Vec<String>,
        /// Why, for people.
        reason: String,
    },
    /// Tell the human of a circle that nobody can be told to break.
    Unbreakable {
        /// Names the circle.
        fingerprint: String,
        /// Who is in it.
        members: Vec<String>,
    },
    /// Such a circle is gone.
    CloseAlert {
        /// Names the circle.
        fingerprint: String,
    },
}

/// True if the edge's waiter is kept waiting by its holder at the snapshot's moment.
///
/// A resource may be a subtree over which several hold leases. The edge lives if one of the unexpired leases that overlap
/// with the resource is the holder's, and also if there is no lease at all: other tools write edges without. It is dead
/// if its time is over, if the holder's leases have expired, or if only others hold leases there: the holder waits in the
/// queue itself then, and whom it waits for is in the way. What the waiter itself holds below the resource says nothing,
/// since nobody waits for itself; but holding all of the resource it waits no more.
#[must_use]
pub fn is_live(snapshot: &DetectorSnapshot, edge: &WaitEdge) -> bool {
    if edge.wait_until.is_some_and(|until| until <= snapshot.now) {
        return false;
    }
    let below = |lease: &Lease| {
        let (path, resource) = (lease.file_path.as_str(), edge.resource.as_str());
        path != resource && resource.ends_with('/') && path.starts_with(resource)
    };
    let overlapping = snapshot.leases.get(edge.resource.as_str()).map_or(&[][..], Vec::as_slice);
    let mut relevant = overlapping.iter().filter(|lease| lease.locked_by != edge.waiter || !below(lease)).peekable();
    relevant.peek().is_none() || relevant.any(|lease| lease.locked_by == edge.holder && !is_expired(snapshot, lease))
}

/// Free to others. After a suspend nobody takes an expired lease for a while, so that it still stands in the way.
fn is_expired(snapshot: &DetectorSnapshot, lease: &Lease) -> bool {
    !snapshot.in_grace && lease.expires_at.is_some_and(|at| at <= snapshot.now)
}

/// Decides at the snapshot's moment.
#[must_use]
pub fn decide(config: &DeadlockConfig, snapshot: &DetectorSnapshot) -> Plan<Action> {
    let mut plan = Plan::default();
    plan.look_again(snapshot.next_full_scan);
    let live: Vec<&WaitEdge> = snapshot.edges.iter().filter(|edge| is_live(snapshot, edge)).collect();
    let graph = Graph::new(live.iter().map(|edge| (edge.waiter.as_str(), edge.holder.as_str())));
    // Who was told already counts as gone.
    let mut within = vec![true; graph.names.len()];
    let standing = settle(snapshot, &graph, &mut within, &mut plan);
    for deadlock in &standing {
        if snapshot.now < deadlock.revoke_at {
            plan.look_again(deadlock.revoke_at);
        } else if snapshot.in_grace {
            // It may have slept through its time.
            plan.look_again(snapshot.grace_until.unwrap_or_else(|| snapshot.now.plus_seconds(1)));
        } else {
            let waits_too = circles_by_its_place(snapshot, &live, &deadlock.victim);
            plan.act(Action::Revoke { deadlock: (*deadlock).clone(), waits_too });
        }
    }
    if !standing.is_empty() {
        for at in live.iter().flat_map(|edge| ends_of(snapshot, edge)) {
            plan.look_again(at);
        }
    }
    name_victims(config, snapshot, &live, &graph, within, &mut plan);
    plan
}

/// Resolves what is over, and gives the deadlocks that stand, oldest first; their victims are taken from `within`.
///
/// One stands while a living circle passes its victim and none of the other victims: a circle through two of them ends
/// with the older one.
fn settle<'a>(
    snapshot: &'a DetectorSnapshot,
    graph: &Graph,
    within: &mut [bool],
    plan: &mut Plan<Action>,
) -> Vec<&'a Deadlock> {
    for deadlock in &snapshot.deadlocks {
        if let Some(node) = graph.number(&deadlock.victim) {
            within[node] = false;
        }
    }
    let mut standing: Vec<&Deadlock> = Vec::new();
    for deadlock in snapshot.deadlocks.iter().rev() {
        let told_twice = standing.iter().any(|other| other.victim == deadlock.victim);
        let held = snapshot.loops.get(&deadlock.victim).map_or(&[][..], |facts| &facts.leases);
        let answered = !deadlock.locks.0.is_empty()
            && !deadlock.locks.0.iter().any(|path| held.iter().any(|lease| lease.file_path.as_str() == path));
        let circles = graph.number(&deadlock.victim).is_some_and(|node| {
            within[node] = true;
            let circles = graph.circle_through(node, within).is_some();
            // Once it has answered, another circle that it is in is another deadlock.
            within[node] = !(told_twice || circles && !answered);
            circles
        });
        if circles && !answered && !told_twice {
            standing.push(deadlock);
        } else {
            let outcome = if answered { DeadlockOutcome::Released } else { DeadlockOutcome::Dissolved };
            plan.act(Action::Resolve { id: deadlock.id.clone(), outcome });
        }
    }
    standing.reverse();
    standing
}

/// True if a circle passes this loop even when it holds no lease: others wait for its place in a queue.
fn circles_by_its_place(snapshot: &DetectorSnapshot, live: &[&WaitEdge], victim: &str) -> bool {
    let on_its_lease = |edge: &WaitEdge| {
        let leases = snapshot.leases.get(edge.resource.as_str());
        edge.holder == victim && leases.is_some_and(|leases| leases.iter().any(|lease| lease.locked_by == victim))
    };
    let rest = live.iter().filter(|edge| !on_its_lease(edge)).map(|edge| (edge.waiter.as_str(), edge.holder.as_str()));
    let graph = Graph::new(rest);
    let all = vec![true; graph.names.len()];
    graph.number(victim).is_some_and(|node| graph.circle_through(node, &all).is_some())
}

/// When time alone may end an edge.
fn ends_of(snapshot: &DetectorSnapshot, edge: &WaitEdge) -> Vec<Timestamp> {
    let leases = snapshot.leases.get(edge.resource.as_str()).map_or(&[][..], Vec::as_slice);
    let expiries = leases.iter().filter(|lease| lease.locked_by == edge.holder).filter_map(|lease| lease.expires_at);
    expiries.chain(edge.wait_until).filter(|at| *at > snapshot.now).collect()
}

fn name_victims(
    config: &DeadlockConfig,
    snapshot: &DetectorSnapshot,
    live: &[&WaitEdge],
    graph: &Graph,
    mut within: Vec<bool>,
    plan: &mut Plan<Action>,
) {
    let candidates = candidates(snapshot, live, graph);
    unbreakable(snapshot, graph, &mut within, &candidates, plan);
    let chosen = victims(graph, &within, &candidates);
    for &victim in &chosen {
        within[victim] = false;
    }
    for &victim in &chosen {
        let Ok(id) = graph.names[victim].parse::<LoopId>() else { continue };
        within[victim] = true;
        let circle = graph.circle_through(victim, &within).unwrap_or_else(|| vec![victim]);
        within[victim] = false;
        let cycle: Vec<String> = circle.iter().map(|node| graph.names[*node].clone()).collect();
        let held = snapshot.loops.get(id.as_str()).map_or(&[][..], |facts| &facts.leases);
        let reason = format!(
            "{} wait for each other ({}); {id} gives way, because {}",
            enumerate(&cycle),
            describe(live, &cycle),
            why(graph, victim, &circle, &candidates)
        );
        plan.act(Action::ForceRelease {
            victim: id,
            cycle,
            locks: held.iter().map(|lease| lease.file_path.to_string()).collect(),
            reason,
        });
        plan.look_again(snapshot.now.plus_seconds(config.grace_seconds));
    }
}

/// Who can be told to give way. What is no loop id belongs to someone who hears nothing.
fn candidates(snapshot: &DetectorSnapshot, live: &[&WaitEdge], graph: &Graph) -> Vec<Option<Candidate>> {
    let mut since: BTreeMap<&str, Timestamp> = BTreeMap::new();
    for edge in live {
        let earliest = since.entry(edge.waiter.as_str()).or_insert(edge.waiting_since);
        *earliest = edge.waiting_since.min(*earliest);
    }
    let unknown = LoopFacts::default();
    let candidate = |name: &String| {
        name.parse::<LoopId>().ok()?;
        let facts = snapshot.loops.get(name).unwrap_or(&unknown);
        Some(Candidate {
            recent: snapshot.recent_victims.contains(name),
            priority: facts.priority.unwrap_or(0),
            leases: facts.leases.len(),
            since: since.get(name.as_str()).copied().unwrap_or(snapshot.now),
        })
    };
    graph.names.iter().map(candidate).collect()
}

/// Circles without anybody who could be told are the human's. Who waits for one of them is stuck behind it in any case.
fn unbreakable(
    snapshot: &DetectorSnapshot,
    graph: &Graph,
    within: &mut [bool],
    candidates: &[Option<Candidate>],
    plan: &mut Plan<Action>,
) {
    let deaf: Vec<bool> = within.iter().zip(candidates).map(|(within, candidate)| *within && candidate.is_none()).collect();
    let mut found = BTreeSet::new();
    for component in graph.components(&deaf) {
        let members: Vec<String> = component.iter().map(|node| graph.names[*node].clone()).collect();
        for node in component {
            within[node] = false;
        }
        let fingerprint = format!("{UNBREAKABLE}{}", members.join(","));
        if !snapshot.unbreakable.iter().any(|alert| alert.fingerprint.as_ref() == Some(&fingerprint)) {
            plan.act(Action::Unbreakable { fingerprint: fingerprint.clone(), members });
        }
        found.insert(fingerprint);
    }
    for fingerprint in snapshot.unbreakable.iter().filter_map(|alert| alert.fingerprint.clone()) {
        if !found.contains(&fingerprint) {
            plan.act(Action::CloseAlert { fingerprint });
        }
    }
}

/// So many names are spelled out in a sentence.
const MOST_NAMES: usize = 8;

fn enumerate(names: &[String]) -> String {
    match names {
        [all @ .., last] if !all.is_empty() && names.len() <= MOST_NAMES => format!("{} and {last}", all.join(", ")),
        names if names.len() > MOST_NAMES => {
            format!("{} and {} others", names[..MOST_NAMES].join(", "), names.len() - MOST_NAMES)
        }
        names => names.join(", "),
    }
}

/// Who waits for whom on what, along the circle.
fn describe(live: &[&WaitEdge], cycle: &[String]) -> String {
    let mut steps: Vec<String> = cycle
        .iter()
        .zip(cycle.iter().cycle().skip(1))
        .take(MOST_NAMES)
        .map(|(waiter, holder)| {
            let edge = live.iter().find(|edge| edge.waiter == *waiter && edge.holder == *holder);
            let resource = edge.map_or("?", |edge| edge.resource.as_str());
            format!("{waiter} for {holder} on {resource}")
        })
        .collect();
    if cycle.len() > MOST_NAMES {
        steps.push("and so on".to_owned());
    }
    steps.join(", ")
}

#[cfg(test)]
mod tests;
