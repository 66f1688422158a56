//! Cycles in a directed graph with numbered nodes. Nothing here recurses: a cycle may have ten thousand members.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// A node of the graph of all waits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Node {
    /// A loop as the holder of leases and of places in queues, which end when it is the victim. External tools may use
    /// any name.
    Loop(String),
    /// A loop that works on tests and grants permissions; waits for these go on when it is the victim.
    Work(String),
    /// A test, with its loop.
    Test {
        /// Id of the test.
        id: String,
        /// The loop whose queue contains it.
        loop_id: String,
    },
}

impl Node {
    /// The loop itself, or the loop of the test.
    #[must_use]
    pub fn loop_id(&self) -> &str {
        match self {
            Self::Loop(id) | Self::Work(id) | Self::Test { loop_id: id, .. } => id,
        }
    }
}

/// The graph of waits. Nodes are numbered in sorted order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Graph {
    /// The nodes, sorted.
    pub names: Vec<Node>,
    /// For each node, the nodes that it waits for, sorted.
    pub next: Vec<Vec<usize>>,
    /// For each node, whether one of the nodes that it waits for suffices to let it continue, instead of all of them.
    pub any: Vec<bool>,
}

impl Graph {
    /// The graph of these (waiter, holder) pairs.
    pub fn new(pairs: impl IntoIterator<Item = (Node, Node)>) -> Self {
        let pairs: BTreeSet<(Node, Node)> = pairs.into_iter().collect();
        let names: BTreeSet<&Node> = pairs.iter().flat_map(|(waiter, holder)| [waiter, holder]).collect();
        let numbers: BTreeMap<&Node, usize> = names.iter().enumerate().map(|(number, name)| (*name, number)).collect();
        let mut next = vec![Vec::new(); names.len()];
        for (waiter, holder) in &pairs {
            next[numbers[waiter]].push(numbers[holder]);
        }
        let any = vec![false; names.len()];
        Self { names: names.into_iter().cloned().collect(), next, any }
    }

    /// The number of a node.
    #[must_use]
    pub fn number(&self, name: &Node) -> Option<usize> {
        self.names.binary_search(name).ok()
    }

    /// The subgraph of these nodes, given in order and renumbered from 0.
    #[must_use]
    pub fn part(&self, nodes: &[usize]) -> Self {
        let inside = |node: &usize| nodes.binary_search(node).ok();
        Self {
            names: nodes.iter().map(|node| self.names[*node].clone()).collect(),
            next: nodes.iter().map(|node| self.next[*node].iter().filter_map(inside).collect()).collect(),
            any: nodes.iter().map(|node| self.any[*node]).collect(),
        }
    }

    /// Marks the nodes in `within` that can never continue if all other nodes are removed: those in a blocking cycle,
    /// and those that wait for one.
    #[must_use]
    pub fn stuck(&self, within: &[bool]) -> Vec<bool> {
        let mut stuck = within.to_vec();
        let mut before = vec![Vec::new(); self.next.len()];
        let mut missing = vec![0_usize; self.next.len()];
        let mut free = Vec::new();
        for node in (0..self.next.len()).filter(|node| within[*node]) {
            let held = self.next[node].iter().filter(|holder| within[**holder]).count();
            missing[node] = if self.any[node] && held == self.next[node].len() { held.min(1) } else { held };
            if missing[node] == 0 || self.any[node] && held < self.next[node].len() {
                free.push(node);
            }
            for &holder in self.next[node].iter().filter(|holder| within[**holder]) {
                before[holder].push(node);
            }
        }
        for &node in &free {
            stuck[node] = false;
        }
        while let Some(node) = free.pop() {
            for &waiter in &before[node] {
                missing[waiter] = missing[waiter].saturating_sub(1);
                if stuck[waiter] && missing[waiter] == 0 {
                    stuck[waiter] = false;
                    free.push(waiter);
                }
            }
        }
        stuck
    }

    /// The strongly connected components with at least two nodes among those in `within`; every cycle lies in one of
    /// them. Each is sorted, and they are ordered by their first nodes. (Tarjan's algorithm with an explicit stack.)
    #[must_use]
    pub fn components(&self, within: &[bool]) -> Vec<Vec<usize>> {
        const UNSEEN: usize = usize::MAX;
        let mut index = vec![UNSEEN; self.next.len()];
        let mut low = vec![0; self.next.len()];
        let mut on_stack = vec![false; self.next.len()];
        let (mut stack, mut path, mut found) = (Vec::new(), Vec::new(), Vec::new());
        let mut count = 0;
        for root in 0..self.next.len() {
            if !within[root] || index[root] != UNSEEN {
                continue;
            }
            path.push((root, 0));
            while let Some((node, at)) = path.pop() {
                if at == 0 {
                    index[node] = count;
                    low[node] = count;
                    count += 1;
                    stack.push(node);
                    on_stack[node] = true;
                } else {
                    let child = self.next[node][at - 1];
                    low[node] = low[node].min(low[child]);
                }
                let mut at = at;
                let mut descend = None;
                while let Some(&child) = self.next[node].get(at) {
                    at += 1;
                    if !within[child] {
                        continue;
                    }
                    if index[child] == UNSEEN {
                        descend = Some(child);
                        break;
                    }
                    if on_stack[child] {
                        low[node] = low[node].min(index[child]);
                    }
                }
                if let Some(child) = descend {
                    path.push((node, at));
                    path.push((child, 0));
                } else if low[node] == index[node] {
                    let mut component = Vec::new();
                    while let Some(member) = stack.pop() {
                        on_stack[member] = false;
                        component.push(member);
                        if member == node {
                            break;
                        }
                    }
                    if component.len() > 1 {
                        component.sort_unstable();
                        found.push(component);
                    }
                }
            }
        }
        found.sort_unstable();
        found
    }

    /// Like [`Graph::cycle_through`], restricted to blocking cycles: those whose nodes can never continue.
    #[must_use]
    pub fn blocking_cycle(&self, start: usize, within: &[bool]) -> Option<Vec<usize>> {
        // If every node needs all nodes that it waits for, every cycle blocks.
        if self.any.contains(&true) {
            self.cycle_through(start, &self.stuck(within))
        } else {
            self.cycle_through(start, within)
        }
    }

    /// The shortest cycle through `start` among the nodes in `within`, beginning with `start`; of several the first in
    /// order.
    #[must_use]
    pub fn cycle_through(&self, start: usize, within: &[bool]) -> Option<Vec<usize>> {
        let mut from: Vec<Option<usize>> = vec![None; self.next.len()];
        let mut queue = VecDeque::from([start]);
        while let Some(node) = queue.pop_front() {
            for &child in self.next[node].iter().filter(|child| within[**child]) {
                if child == start {
                    let mut cycle = vec![node];
                    let mut at = node;
                    while at != start {
                        at = from[at]?;
                        cycle.push(at);
                    }
                    cycle.reverse();
                    return Some(cycle);
                }
                if from[child].is_none() {
                    from[child] = Some(node);
                    queue.push_back(child);
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str) -> Node {
        Node::Loop(name.to_owned())
    }

    fn graph(text: &str) -> Graph {
        Graph::new(text.split(' ').filter_map(|pair| pair.split_once('>')).map(|(from, to)| (node(from), node(to))))
    }

    fn names(graph: &Graph, nodes: impl IntoIterator<Item = usize>) -> String {
        nodes.into_iter().map(|node| graph.names[node].loop_id()).collect()
    }

    fn components(text: &str) -> Vec<String> {
        let graph = graph(text);
        let all = vec![true; graph.names.len()];
        graph.components(&all).into_iter().map(|found| names(&graph, found)).collect()
    }

    /// The stuck nodes if the nodes in `any` need only one of their holders and the nodes in `gone` are removed.
    fn stuck(text: &str, any: &str, gone: &str) -> String {
        let mut graph = graph(text);
        graph.any = graph.names.iter().map(|name| any.contains(name.loop_id())).collect();
        let within: Vec<bool> = graph.names.iter().map(|name| !gone.contains(name.loop_id())).collect();
        let stuck = graph.stuck(&within);
        names(&graph, (0..stuck.len()).filter(|node| stuck[*node]))
    }

    #[test]
    fn circles_are_found_and_paths_are_not() {
        assert_eq!(components("a>b b>c"), Vec::<String>::new());
        assert_eq!(components("a>b b>a"), ["ab"]);
        assert_eq!(components("a>b b>c c>a c>d d>e e>d x>a"), ["abc", "de"]);
        assert_eq!(components("a>b a>c b>d c>d"), Vec::<String>::new());
        assert_eq!(components("a>b b>c c>b c>d d>a"), ["abcd"]);
    }

    #[test]
    fn who_is_in_a_cycle_or_behind_one_is_stuck() {
        assert_eq!(stuck("a>b b>c", "", ""), "");
        assert_eq!(stuck("a>b b>a c>a c>d d>e", "", ""), "abc");
        assert_eq!(stuck("a>b b>a c>a", "", "a"), "");
        assert_eq!(stuck("a>b b>a b>c", "", "c"), "ab");
    }

    #[test]
    fn who_needs_only_one_of_several_is_stuck_when_all_of_them_are() {
        // d can go on, and so can a with it.
        assert_eq!(stuck("a>b b>a a>d", "a", ""), "");
        assert_eq!(stuck("a>b b>a a>d d>e e>d", "a", ""), "abde");
        assert_eq!(stuck("a>b b>a a>d d>e e>d", "a", "e"), "");
        assert_eq!(stuck("a>b b>a a>d", "a", "d"), "");
    }

    #[test]
    fn the_shortest_cycle_begins_with_who_was_asked_for() {
        let graph = graph("a>b b>c c>a b>a c>d");
        let all = vec![true; 4];
        assert_eq!(graph.cycle_through(0, &all), Some(vec![0, 1]));
        assert_eq!(graph.cycle_through(2, &all), Some(vec![2, 0, 1]));
        assert_eq!(graph.cycle_through(3, &all), None);
        assert_eq!(graph.cycle_through(2, &[true, false, true, true]), None);
    }

    #[test]
    fn a_cycle_of_ten_thousand_does_not_overflow() {
        let name = |number: usize| node(&format!("l{:05}", number % 10_000));
        let cycle = Graph::new((0..10_000).map(|at| (name(at), name(at + 1))));
        let all = vec![true; 10_000];
        assert_eq!(cycle.components(&cycle.stuck(&all))[0].len(), 10_000);
        assert_eq!(cycle.cycle_through(0, &all).unwrap().len(), 10_000);
    }
}
