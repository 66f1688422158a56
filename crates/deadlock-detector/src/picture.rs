//! All present waits and cycles, for display: also those that the detector does not have to read.

use std::collections::{BTreeMap, BTreeSet};

use coord_db::config::DeadlockConfig;
use coord_db::{Deadlock, Decision, LeasePath, ReadTx, Result, Timestamp, Wait, WaitKind, WaitNode};

use crate::decide::is_live;
use crate::graph::Node;
use crate::snapshot::{DetectorSnapshot, everything};
use crate::test_cycles::{TestCycle, test_cycles};
use crate::waiting::Waiting;

/// The subject of a wait.
#[derive(Debug, Clone, PartialEq)]
pub enum Matter {
    /// A lease, or an earlier place in the queue for it.
    Lease(LeasePath),
    /// Something else.
    Other(WaitKind),
}

/// One wait.
#[derive(Debug, Clone, PartialEq)]
pub struct ShownWait {
    /// The waiter.
    pub waiter: WaitNode,
    /// The node that it waits for.
    pub holder: WaitNode,
    /// The subject.
    pub matter: Matter,
    /// Start of the wait.
    pub since: Timestamp,
    /// When the waiter gives up; none if unknown.
    pub until: Option<Timestamp>,
    /// False for a row that no longer blocks its waiter.
    pub alive: bool,
    /// Index of its cycle.
    pub cycle: Option<usize>,
}

/// A cycle of loops and tests, none of which can continue.
#[derive(Debug, Clone, PartialEq)]
pub struct ShownCycle {
    /// The loops, each once; those of the shortest cycle first, in its order.
    pub loops: Vec<String>,
    /// The tests, sorted.
    pub tests: Vec<String>,
    /// Indices of the waits along one shortest cycle.
    pub shortest: Vec<usize>,
    /// The open deadlocks, one for each victim.
    pub deadlocks: Vec<Deadlock>,
    /// The change requests whose answers would end the cycle.
    pub requests: Vec<String>,
    /// The open question about it.
    pub question: Option<Decision>,
}

/// All waits and cycles.
#[derive(Debug, Clone, PartialEq)]
pub struct Picture {
    /// The waits, those of cycles first.
    pub waits: Vec<ShownWait>,
    /// The cycles.
    pub cycles: Vec<ShownCycle>,
}

/// The possible start and end nodes of a wait.
fn ends(wait: &ShownWait) -> [Vec<Node>; 2] {
    let lease = matches!(wait.matter, Matter::Lease(_));
    let from = match &wait.waiter {
        WaitNode::Loop(id) => vec![Node::Loop(id.clone()), Node::Work(id.clone())],
        WaitNode::Test { id, loop_id } => vec![Node::Test { id: id.clone(), loop_id: loop_id.clone() }],
    };
    let to = match &wait.holder {
        WaitNode::Loop(id) if lease => Node::Loop(id.clone()),
        WaitNode::Loop(id) => Node::Work(id.clone()),
        WaitNode::Test { id, loop_id } => Node::Test { id: id.clone(), loop_id: loop_id.clone() },
    };
    [from, vec![to]]
}

fn shown(snapshot: &DetectorSnapshot) -> Vec<ShownWait> {
    let edges = snapshot.edges.iter().map(|edge| ShownWait {
        waiter: WaitNode::Loop(edge.waiter.clone()),
        holder: WaitNode::Loop(edge.holder.clone()),
        matter: Matter::Lease(edge.resource.clone()),
        since: edge.waiting_since,
        until: edge.wait_until,
        alive: is_live(snapshot, edge),
        cycle: None,
    });
    let other = |wait: &Wait| ShownWait {
        waiter: wait.waiter.clone(),
        holder: wait.holder.clone(),
        matter: Matter::Other(wait.kind.clone()),
        since: wait.since,
        until: None,
        alive: true,
        cycle: None,
    };
    edges.chain(snapshot.waits.iter().map(other)).collect()
}

/// Reads the waits and cycles from the database.
pub fn picture(tx: &ReadTx<'_>, config: &DeadlockConfig) -> Result<Picture> {
    Ok(draw(&everything(tx, config)?))
}

fn draw(snapshot: &DetectorSnapshot) -> Picture {
    let mut waits = shown(snapshot);
    let live: Vec<_> = snapshot.edges.iter().filter(|edge| is_live(snapshot, edge)).collect();
    let waiting = Waiting::new(&live, &snapshot.waits);
    let graph = &waiting.graph;
    let components = graph.components(&graph.stuck(&vec![true; graph.names.len()]));
    let mut component_of: BTreeMap<&Node, usize> = BTreeMap::new();
    for (number, component) in components.iter().enumerate() {
        component_of.extend(component.iter().map(|node| (&graph.names[*node], number)));
    }
    for wait in waits.iter_mut().filter(|wait| wait.alive) {
        let [from, to] = ends(wait);
        let of = |nodes: &[Node]| nodes.iter().find_map(|node| component_of.get(node)).copied();
        wait.cycle = of(&from).filter(|cycle| of(&to) == Some(*cycle));
    }
    waits.sort_by_key(|wait| wait.cycle.unwrap_or(usize::MAX));
    let test_cycles = test_cycles(&snapshot.waits);
    let cycles = components.iter().enumerate().map(|(number, component)| {
        let of = |node: &Node| component_of.get(node) == Some(&number);
        let deadlocks: Vec<Deadlock> =
            snapshot.deadlocks.iter().filter(|deadlock| of(&Node::Loop(deadlock.victim.clone()))).cloned().collect();
        let victim = deadlocks.first().and_then(|deadlock| graph.number(&Node::Loop(deadlock.victim.clone())));
        let mut inside = vec![false; graph.names.len()];
        component.iter().for_each(|node| inside[*node] = true);
        let start = victim.unwrap_or(component[0]);
        let shortest = graph.cycle_through(start, &inside).unwrap_or_else(|| component.clone());
        let mut loops = waiting.loops_of(&shortest);
        for id in waiting.loops_of(component) {
            if !loops.contains(&id) {
                loops.push(id);
            }
        }
        let tests: BTreeSet<String> = component
            .iter()
            .filter_map(|node| match &graph.names[*node] {
                Node::Test { id, .. } => Some(id.clone()),
                _ => None,
            })
            .collect();
        let among = |cycle: &&TestCycle| cycle.tests.iter().any(|test| tests.contains(&test.id));
        let question = test_cycles.iter().find(among).and_then(|cycle| snapshot.questions.get(&cycle.fingerprint()));
        let steps = shortest.iter().zip(shortest.iter().cycle().skip(1));
        let along = steps.filter_map(|(from, to)| {
            let (from, to) = (&graph.names[*from], &graph.names[*to]);
            waits.iter().position(|wait| {
                let [one, other] = ends(wait);
                wait.alive && one.contains(from) && other.contains(to)
            })
        });
        ShownCycle {
            loops,
            shortest: along.collect(),
            deadlocks,
            requests: waiting.requests_among(component).into_iter().collect(),
            question: question.filter(|last| last.status == coord_db::DecisionStatus::Pending).cloned(),
            tests: tests.into_iter().collect(),
        }
    });
    Picture { cycles: cycles.collect(), waits }
}
