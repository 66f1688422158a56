//! Decides which cycles of live edges are deadlocks, who becomes a victim, and when a victim's leases are revoked.
//! Pure.

use std::collections::{BTreeMap, BTreeSet};

use coord_db::config::DeadlockConfig;
use coord_db::{Deadlock, DeadlockOutcome, Lease, LoopId, Timestamp, WaitEdge};
use supervisor::Plan;

use crate::graph::{Graph, Node};
use crate::snapshot::{DetectorSnapshot, LoopFacts, UNBREAKABLE};
use crate::test_cycles::{MAX_ASKED, Question, is_asked, question, test_cycles};
use crate::victims::{Candidate, victims, why};
use crate::waiting::Waiting;

/// One action of a plan.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Close a deadlock that ended by itself or because its victim has answered.
    Resolve {
        /// Id of the deadlock.
        id: String,
        /// The outcome.
        outcome: DeadlockOutcome,
    },
    /// Revoke the leases of a victim that has not answered in time.
    Revoke {
        /// The deadlock.
        deadlock: Deadlock,
        /// Delete its waits as well: others wait for its place in a queue, for which there is no lease.
        waits_too: bool,
    },
    /// Request that a loop releases its leases.
    ForceRelease {
        /// The loop.
        victim: LoopId,
        /// The cycle, beginning with the victim.
        cycle: Vec<String>,
        /// The paths of its leases.
        locks: Vec<String>,
        /// The reason as text.
        reason: String,
    },
    /// Report a cycle without a possible victim to the human.
    Unbreakable {
        /// Identifies the cycle.
        fingerprint: String,
        /// Its members.
        members: Vec<String>,
    },
    /// Report a cycle to the human that their answer to a change request would end.
    AwaitsPermission {
        /// Identifies the cycle.
        fingerprint: String,
        /// Its loops.
        members: Vec<String>,
        /// The change requests.
        requests: Vec<String>,
        /// The sentence for the reader.
        message: String,
    },
    /// Ask the human about a cycle of tests.
    Ask(Box<Question>),
    /// Close the alert about a cycle that has ended.
    CloseAlert {
        /// Identifies the cycle.
        fingerprint: String,
    },
}

/// True if the edge blocks its waiter at the time of the snapshot.
///
/// The resource may be a subtree in which several loops hold leases. The edge is live if one of the unexpired leases
/// that overlap with the resource belongs to the holder, and also if there is no lease at all, because external tools
/// write edges without leases. It is dead if its time is over, if the holder's leases have expired, or if only others
/// hold leases there (then the holder queues itself). The waiter's own leases below the resource do not count; but a
/// waiter that holds the whole resource waits no longer.
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

/// True if others may take over the lease. In the grace period after a suspend they may not, so the lease still blocks
/// them.
fn is_expired(snapshot: &DetectorSnapshot, lease: &Lease) -> bool {
    !snapshot.in_grace && lease.expires_at.is_some_and(|at| at <= snapshot.now)
}

/// Decides what to do for this snapshot.
#[must_use]
pub fn decide(config: &DeadlockConfig, snapshot: &DetectorSnapshot) -> Plan<Action> {
    let mut plan = Plan::default();
    plan.look_again(snapshot.next_full_scan);
    let live: Vec<&WaitEdge> = snapshot.edges.iter().filter(|edge| is_live(snapshot, edge)).collect();
    let waiting = Waiting::new(&live, &snapshot.waits);
    // Cycles of tests are left to the human, and a notified victim counts as removed.
    let mut within = vec![true; waiting.graph.names.len()];
    ask_about_tests(snapshot, &waiting.graph, &mut within, &mut plan);
    let standing = settle(snapshot, &waiting.graph, &mut within, &mut plan);
    for deadlock in &standing {
        if snapshot.now < deadlock.revoke_at {
            plan.look_again(deadlock.revoke_at);
        } else if snapshot.in_grace {
            // The victim may have been asleep until its deadline.
            plan.look_again(snapshot.grace_until.unwrap_or_else(|| snapshot.now.plus_seconds(1)));
        } else {
            let waits_too = is_in_cycle_without_leases(snapshot, &live, &deadlock.victim);
            plan.act(Action::Revoke { deadlock: (*deadlock).clone(), waits_too });
        }
    }
    if !standing.is_empty() {
        for at in live.iter().flat_map(|edge| ends_of(snapshot, edge)) {
            plan.look_again(at);
        }
    }
    name_victims(config, snapshot, &live, &waiting, within, &mut plan);
    plan
}

/// Asks about the cycles that tests form by depending on each other. Their members, and nodes that wait for them, are
/// excluded from the search for victims.
fn ask_about_tests(snapshot: &DetectorSnapshot, graph: &Graph, within: &mut [bool], plan: &mut Plan<Action>) {
    let mut room = MAX_ASKED;
    for cycle in test_cycles(&snapshot.waits) {
        for test in &cycle.tests {
            if let Some(node) = graph.number(&Node::Test { id: test.id.clone(), loop_id: test.loop_id.clone() }) {
                within[node] = false;
            }
        }
        if room > 0 && !is_asked(&snapshot.questions, &cycle) {
            room -= 1;
            plan.act(Action::Ask(Box::new(question(&cycle, |id| snapshot.loops.get(id)?.priority))));
        }
    }
}

/// Closes deadlocks that have ended and returns the others, oldest first; their victims are removed from `within`.
///
/// A deadlock is open while a live cycle contains its victim and no other victim; a cycle with two victims belongs to
/// the older deadlock.
fn settle<'a>(
    snapshot: &'a DetectorSnapshot,
    graph: &Graph,
    within: &mut [bool],
    plan: &mut Plan<Action>,
) -> Vec<&'a Deadlock> {
    for deadlock in &snapshot.deadlocks {
        if let Some(node) = graph.number(&Node::Loop(deadlock.victim.clone())) {
            within[node] = false;
        }
    }
    let mut standing: Vec<&Deadlock> = Vec::new();
    for deadlock in snapshot.deadlocks.iter().rev() {
        let is_older_duplicate = standing.iter().any(|other| other.victim == deadlock.victim);
        let held = snapshot.loops.get(&deadlock.victim).map_or(&[][..], |facts| &facts.leases);
        let answered = !deadlock.locks.0.is_empty()
            && !deadlock.locks.0.iter().any(|path| held.iter().any(|lease| lease.file_path.as_str() == path));
        let cycles = graph.number(&Node::Loop(deadlock.victim.clone())).is_some_and(|node| {
            within[node] = true;
            let cycles = graph.blocking_cycle(node, within).is_some();
            // After its answer, a further cycle with this loop is a new deadlock.
            within[node] = !(is_older_duplicate || cycles && !answered);
            cycles
        });
        if cycles && !answered && !is_older_duplicate {
            standing.push(deadlock);
        } else {
            let outcome = if answered { DeadlockOutcome::Released } else { DeadlockOutcome::Dissolved };
            plan.act(Action::Resolve { id: deadlock.id.clone(), outcome });
        }
    }
    standing.reverse();
    standing
}

/// True if the loop is in a cycle even without its leases: others wait for its place in a queue.
fn is_in_cycle_without_leases(snapshot: &DetectorSnapshot, live: &[&WaitEdge], victim: &str) -> bool {
    let on_its_lease = |edge: &WaitEdge| {
        let leases = snapshot.leases.get(edge.resource.as_str());
        edge.holder == victim && leases.is_some_and(|leases| leases.iter().any(|lease| lease.locked_by == victim))
    };
    let rest: Vec<&WaitEdge> = live.iter().copied().filter(|edge| !on_its_lease(edge)).collect();
    let Waiting { graph, .. } = Waiting::new(&rest, &snapshot.waits);
    let all = vec![true; graph.names.len()];
    graph.number(&Node::Loop(victim.to_owned())).is_some_and(|node| graph.blocking_cycle(node, &all).is_some())
}

/// The times at which an edge may end without any commit.
fn ends_of(snapshot: &DetectorSnapshot, edge: &WaitEdge) -> Vec<Timestamp> {
    let leases = snapshot.leases.get(edge.resource.as_str()).map_or(&[][..], Vec::as_slice);
    let expiries = leases.iter().filter(|lease| lease.locked_by == edge.holder).filter_map(|lease| lease.expires_at);
    expiries.chain(edge.wait_until).filter(|at| *at > snapshot.now).collect()
}

fn name_victims(
    config: &DeadlockConfig,
    snapshot: &DetectorSnapshot,
    live: &[&WaitEdge],
    waiting: &Waiting<'_>,
    mut within: Vec<bool>,
    plan: &mut Plan<Action>,
) {
    let graph = &waiting.graph;
    let candidates = candidates(snapshot, live, graph);
    unbreakable(snapshot, waiting, &mut within, &candidates, plan);
    let chosen = victims(graph, &within, &candidates);
    for &victim in &chosen {
        within[victim] = false;
    }
    for &victim in &chosen {
        let Ok(id) = graph.names[victim].loop_id().parse::<LoopId>() else { continue };
        within[victim] = true;
        let nodes = graph.blocking_cycle(victim, &within).unwrap_or_else(|| vec![victim]);
        within[victim] = false;
        let cycle = waiting.loops_of(&nodes);
        let held = snapshot.loops.get(id.as_str()).map_or(&[][..], |facts| &facts.leases);
        let reason = format!(
            "deadlock of {} ({}): {id} has to release its leases because {}; its work is saved, and it continues later",
            enumerate(&cycle),
            waiting.describe_cycle(&nodes, MAX_NAMES),
            why(graph, victim, &nodes, &candidates)
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

/// The possible victims. A name that is not a loop id belongs to a participant that reads no events.
fn candidates(snapshot: &DetectorSnapshot, live: &[&WaitEdge], graph: &Graph) -> Vec<Option<Candidate>> {
    let mut since: BTreeMap<&str, Timestamp> = BTreeMap::new();
    for edge in live {
        let earliest = since.entry(edge.waiter.as_str()).or_insert(edge.waiting_since);
        *earliest = edge.waiting_since.min(*earliest);
    }
    let unknown = LoopFacts::default();
    let candidate = |node: &Node| {
        let Node::Loop(name) = node else { return None };
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

/// Reports the cycles that no victim can break: an answer to a change request would end them, or none of their members
/// is a loop. Nodes that wait for one of these cycles stay blocked in any case.
fn unbreakable(
    snapshot: &DetectorSnapshot,
    waiting: &Waiting<'_>,
    within: &mut [bool],
    candidates: &[Option<Candidate>],
    plan: &mut Plan<Action>,
) {
    let graph = &waiting.graph;
    let unbreakable_nodes: Vec<bool> =
        within.iter().zip(candidates).map(|(within, candidate)| *within && candidate.is_none()).collect();
    let mut found = BTreeSet::new();
    for component in graph.components(&graph.stuck(&unbreakable_nodes)) {
        let members = waiting.loops_of(&component);
        let requests: Vec<String> = waiting.requests_among(&component).into_iter().collect();
        for &node in &component {
            within[node] = false;
        }
        let fingerprint = match &requests[..] {
            [] => format!("{UNBREAKABLE}{}", members.join(",")),
            requests => format!("{UNBREAKABLE}leave:{}", requests.join(",")),
        };
        if !snapshot.unbreakable.iter().any(|alert| alert.fingerprint.as_ref() == Some(&fingerprint)) {
            let fingerprint = fingerprint.clone();
            plan.act(match requests.first() {
                None => Action::Unbreakable { fingerprint, members },
                Some(first) => {
                    let start = component[0];
                    let cycle = graph.cycle_through(start, &unbreakable_nodes).unwrap_or_else(|| component.clone());
                    let message = format!(
                        "deadlock of {} ({}): it ends when you answer a change request: loopctl request approve {first}, \
                         or loopctl request reject {first}",
                        enumerate(&members),
                        waiting.describe_cycle(&cycle, MAX_NAMES)
                    );
                    Action::AwaitsPermission { fingerprint, members, requests, message }
                }
            });
        }
        found.insert(fingerprint);
    }
    for fingerprint in snapshot.unbreakable.iter().filter_map(|alert| alert.fingerprint.clone()) {
        if !found.contains(&fingerprint) {
            plan.act(Action::CloseAlert { fingerprint });
        }
    }
}

/// Maximum number of names listed in a sentence.
const MAX_NAMES: usize = 8;

fn enumerate(names: &[String]) -> String {
    match names {
        [all @ .., last] if !all.is_empty() && names.len() <= MAX_NAMES => format!("{} and {last}", all.join(", ")),
        names if names.len() > MAX_NAMES => {
            format!("{} and {} others", names[..MAX_NAMES].join(", "), names.len() - MAX_NAMES)
        }
        names => names.join(", "),
    }
}

#[cfg(test)]
mod tests;
