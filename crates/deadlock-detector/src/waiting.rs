//! The graph of all present waits, and a description of its edges.
//!
//! The nodes of a loop show which waits end if it becomes a victim: those for its leases and places ([`Node::Loop`]),
//! but not those for its work or its permission ([`Node::Work`]) or for its tests.

use std::collections::{BTreeMap, BTreeSet};

use coord_db::{Wait, WaitEdge, WaitKind, WaitNode};

use crate::graph::{Graph, Node};

/// Why one node waits for the next.
#[derive(Debug, Clone, Copy)]
enum Step<'a> {
    Lease(&'a WaitEdge),
    Other(&'a Wait),
}

/// The graph of live waits for leases and of the other waits.
#[derive(Debug)]
pub struct Waiting<'a> {
    /// The graph.
    pub graph: Graph,
    steps: BTreeMap<(Node, Node), Step<'a>>,
}

fn test(node: &WaitNode) -> Node {
    match node {
        WaitNode::Loop(id) => Node::Work(id.clone()),
        WaitNode::Test { id, loop_id } => Node::Test { id: id.clone(), loop_id: loop_id.clone() },
    }
}

impl<'a> Waiting<'a> {
    /// Builds the graph.
    #[must_use]
    pub fn new(live: &[&'a WaitEdge], waits: &'a [Wait]) -> Self {
        let at_work: BTreeSet<&str> = waits
            .iter()
            .filter_map(|wait| match &wait.holder {
                WaitNode::Loop(id) => Some(id.as_str()),
                WaitNode::Test { .. } => None,
            })
            .collect();
        // Both nodes of a loop wait for what the loop waits for.
        let parts = |id: &str| {
            let work = at_work.contains(id).then(|| Node::Work(id.to_owned()));
            [Some(Node::Loop(id.to_owned())), work].into_iter().flatten()
        };
        let mut steps: BTreeMap<(Node, Node), Step<'a>> = BTreeMap::new();
        let mut any: BTreeSet<Node> = BTreeSet::new();
        let waits_for_leases: BTreeSet<&str> = live.iter().map(|edge| edge.waiter.as_str()).collect();
        for &edge in live {
            for part in parts(&edge.waiter) {
                steps.entry((part, Node::Loop(edge.holder.clone()))).or_insert(Step::Lease(edge));
            }
        }
        for wait in waits {
            match &wait.waiter {
                // A loop that waits for a lease has a current test.
                WaitNode::Loop(id) if !waits_for_leases.contains(id.as_str()) => {
                    for part in parts(id) {
                        any.insert(part.clone());
                        steps.entry((part, test(&wait.holder))).or_insert(Step::Other(wait));
                    }
                }
                WaitNode::Loop(_) => {}
                WaitNode::Test { .. } => {
                    steps.entry((test(&wait.waiter), test(&wait.holder))).or_insert(Step::Other(wait));
                }
            }
        }
        let mut graph = Graph::new(steps.keys().cloned());
        graph.any = graph.names.iter().map(|name| any.contains(name)).collect();
        Self { graph, steps }
    }

    /// The loops of a cycle in order, each once.
    #[must_use]
    pub fn loops_of(&self, cycle: &[usize]) -> Vec<String> {
        let mut loops: Vec<String> = Vec::new();
        for node in cycle {
            let id = self.graph.names[*node].loop_id();
            if !loops.iter().any(|known| known == id) {
                loops.push(id.to_owned());
            }
        }
        loops
    }

    /// The change requests between these nodes, whose answers would end a cycle.
    #[must_use]
    pub fn requests_among(&self, nodes: &[usize]) -> BTreeSet<String> {
        let inside: BTreeSet<&Node> = nodes.iter().map(|node| &self.graph.names[*node]).collect();
        let step = |(ends, step): (&(Node, Node), &Step<'_>)| match step {
            Step::Other(Wait { kind: WaitKind::Leave { request_id, .. }, .. })
                if inside.contains(&ends.0) && inside.contains(&ends.1) =>
            {
                Some(request_id.clone())
            }
            _ => None,
        };
        self.steps.iter().filter_map(step).collect()
    }

    /// Describes one edge of a cycle.
    fn describe(&self, from: usize, to: usize) -> String {
        let (from, to) = (&self.graph.names[from], &self.graph.names[to]);
        match self.steps.get(&(from.clone(), to.clone())) {
            Some(Step::Lease(edge)) => format!("{} waits for {} on {}", edge.waiter, edge.holder, edge.resource),
            Some(Step::Other(wait)) => sentence(wait),
            None => format!("{} waits for {}", from.loop_id(), to.loop_id()),
        }
    }

    /// Describes the edges of a cycle, at most `most` of them.
    #[must_use]
    pub fn describe_cycle(&self, cycle: &[usize], most: usize) -> String {
        let ends = cycle.iter().zip(cycle.iter().cycle().skip(1)).take(most);
        let mut steps: Vec<String> = ends.map(|(from, to)| self.describe(*from, *to)).collect();
        if cycle.len() > most {
            steps.push("and so on".to_owned());
        }
        steps.join(", ")
    }
}

/// Describes a wait that is not for a lease.
#[must_use]
pub fn sentence(wait: &Wait) -> String {
    let (waiter, holder) = (&wait.waiter, &wait.holder);
    let test = |node: &WaitNode| match node {
        WaitNode::Loop(id) => id.clone(),
        WaitNode::Test { id, loop_id } => format!("test {id} of {loop_id}"),
    };
    match &wait.kind {
        WaitKind::Dependency => format!("{} depends on {}", test(waiter), test(holder)),
        WaitKind::Leave { request_id, resource } => {
            format!("{} needs the permission of {} to change {resource} (request {request_id})", test(waiter), holder.loop_id())
        }
        WaitKind::Turn { after: Some(after) } => {
            format!("{} is queued behind test {after}, on which {} works", test(waiter), holder.loop_id())
        }
        WaitKind::Turn { after: None } => format!("{} is the current test of {}", test(waiter), holder.loop_id()),
        WaitKind::Landing => format!("the work of {} waits to land", test(waiter)),
        WaitKind::Idle => format!("{} can start no test before {}", test(waiter), test(holder)),
    }
}
