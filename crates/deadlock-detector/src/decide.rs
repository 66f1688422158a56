//! Which cycles of living edges stand, who gives way, and what becomes of those who were told. Pure.

use std::collections::{BTreeMap, BTreeSet};

use coord_db::config::DeadlockConfig;
use coord_db::{Deadlock, DeadlockOutcome, Lease, LoopId, Timestamp, WaitEdge};
use supervisor::Plan;

use crate::graph::{Graph, Node};
use crate::snapshot::{DetectorSnapshot, LoopFacts, UNBREAKABLE};
use crate::test_cycles::{MAX_ASKED, Question, is_asked, question, test_cycles};
use crate::victims::{Candidate, victims, why};
use crate::waiting::Waiting;

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
        /// The cycle, beginning with the victim.
        cycle: Vec<String>,
        /// What it holds.
        locks: Vec<String>,
        /// Why, for people.
        reason: String,
    },
    /// Tell the human of a cycle that nobody can be told to break.
    Unbreakable {
        /// Names the cycle.
        fingerprint: String,
        /// Who is in it.
        members: Vec<String>,
    },
    /// Tell the human of a cycle that their answer to one of some change requests ends.
    AwaitsLeave {
        /// Names the cycle.
        fingerprint: String,
        /// The loops in it.
        members: Vec<String>,
        /// The requests.
        requests: Vec<String>,
        /// For people.
        message: String,
    },
    /// Ask the human about a cycle of tests.
    Ask(Box<Question>),
    /// Such a cycle is gone.
    CloseAlert {
        /// Names the cycle.
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
    let waiting = Waiting::new(&live, &snapshot.waits);
    // Whose turn it is among tests in a cycle the human says, and who was told already counts as gone.
    let mut within = vec![true; waiting.graph.names.len()];
    ask_about_tests(snapshot, &waiting.graph, &mut within, &mut plan);
    let standing = settle(snapshot, &waiting.graph, &mut within, &mut plan);
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
    name_victims(config, snapshot, &live, &waiting, within, &mut plan);
    plan
}

/// Asks about the cycles that tests form by depending on each other. Whoever is in one, or behind one, is no matter of
/// leases any more.
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

/// Resolves what is over, and gives the deadlocks that stand, oldest first; their victims are taken from `within`.
///
/// One stands while a living cycle passes its victim and none of the other victims: a cycle through two of them ends
/// with the older one.
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
        let told_twice = standing.iter().any(|other| other.victim == deadlock.victim);
        let held = snapshot.loops.get(&deadlock.victim).map_or(&[][..], |facts| &facts.leases);
        let answered = !deadlock.locks.0.is_empty()
            && !deadlock.locks.0.iter().any(|path| held.iter().any(|lease| lease.file_path.as_str() == path));
        let cycles = graph.number(&Node::Loop(deadlock.victim.clone())).is_some_and(|node| {
            within[node] = true;
            let cycles = graph.holding_cycle(node, within).is_some();
            // Once it has answered, another cycle that it is in is another deadlock.
            within[node] = !(told_twice || cycles && !answered);
            cycles
        });
        if cycles && !answered && !told_twice {
            standing.push(deadlock);
        } else {
            let outcome = if answered { DeadlockOutcome::Released } else { DeadlockOutcome::Dissolved };
            plan.act(Action::Resolve { id: deadlock.id.clone(), outcome });
        }
    }
    standing.reverse();
    standing
}

/// True if a cycle passes this loop even when it holds no lease: others wait for its place in a queue.
fn circles_by_its_place(snapshot: &DetectorSnapshot, live: &[&WaitEdge], victim: &str) -> bool {
    let on_its_lease = |edge: &WaitEdge| {
        let leases = snapshot.leases.get(edge.resource.as_str());
        edge.holder == victim && leases.is_some_and(|leases| leases.iter().any(|lease| lease.locked_by == victim))
    };
    let rest: Vec<&WaitEdge> = live.iter().copied().filter(|edge| !on_its_lease(edge)).collect();
    let Waiting { graph, .. } = Waiting::new(&rest, &snapshot.waits);
    let all = vec![true; graph.names.len()];
    graph.number(&Node::Loop(victim.to_owned())).is_some_and(|node| graph.holding_cycle(node, &all).is_some())
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
        let nodes = graph.holding_cycle(victim, &within).unwrap_or_else(|| vec![victim]);
        within[victim] = false;
        let cycle = waiting.loops_of(&nodes);
        let held = snapshot.loops.get(id.as_str()).map_or(&[][..], |facts| &facts.leases);
        let reason = format!(
            "{} wait for each other, and none of them can go on ({}); {id} gives way (its work is kept, and it goes on later), \
             because {}",
            enumerate(&cycle),
            waiting.describe_cycle(&nodes, MOST_NAMES),
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

/// Who can be told to give way, as the holder of what others wait for. What is no loop id belongs to someone who hears nothing.
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

/// Cycles that go on whoever gives way are the human's: their answer to a change request ends one, or nobody in it could be
/// told. Who waits for one of them is stuck behind it in any case.
fn unbreakable(
    snapshot: &DetectorSnapshot,
    waiting: &Waiting<'_>,
    within: &mut [bool],
    candidates: &[Option<Candidate>],
    plan: &mut Plan<Action>,
) {
    let graph = &waiting.graph;
    let deaf: Vec<bool> = within.iter().zip(candidates).map(|(within, candidate)| *within && candidate.is_none()).collect();
    let mut found = BTreeSet::new();
    for component in graph.components(&graph.stuck(&deaf)) {
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
                    let cycle = graph.circle_through(start, &deaf).unwrap_or_else(|| component.clone());
                    let message = format!(
                        "{} wait for each other's leave, and none of them can go on ({}); your answer ends it: \
                         loopctl request approve {first}, or reject",
                        enumerate(&members),
                        waiting.describe_cycle(&cycle, MOST_NAMES)
                    );
                    Action::AwaitsLeave { fingerprint, members, requests, message }
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

#[cfg(test)]
mod tests;
