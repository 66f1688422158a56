//! Circles in a directed graph whose nodes are numbers. Nothing here recurses: a circle may be ten thousand long.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Who waits for whom. Nodes are numbered in the order of their names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Graph {
    /// The names, in order.
    pub names: Vec<String>,
    /// For each node, whom it waits for, in order.
    pub next: Vec<Vec<usize>>,
}

impl Graph {
    /// The graph of these (waiter, holder) pairs.
    pub fn new<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let pairs: BTreeSet<(&str, &str)> = pairs.into_iter().collect();
        let names: BTreeSet<&str> = pairs.iter().flat_map(|(waiter, holder)| [*waiter, *holder]).collect();
        let numbers: BTreeMap<&str, usize> = names.iter().enumerate().map(|(number, name)| (*name, number)).collect();
        let mut next = vec![Vec::new(); names.len()];
        for (waiter, holder) in pairs {
            next[numbers[waiter]].push(numbers[holder]);
        }
        Self { names: names.into_iter().map(str::to_owned).collect(), next }
    }

    /// The number of a name.
    #[must_use]
    pub fn number(&self, name: &str) -> Option<usize> {
        self.names.binary_search_by(|known| known.as_str().cmp(name)).ok()
    }

    /// The strongly connected components of two nodes and more among the nodes that are `within`: every circle lies in one
    /// of them. Each in order, and ordered by their first nodes. (Tarjan's algorithm with a stack of its own.)
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

    /// The shortest circle through `start` among the nodes that are `within`, beginning with it; of several the first in
    /// order.
    #[must_use]
    pub fn circle_through(&self, start: usize, within: &[bool]) -> Option<Vec<usize>> {
        let mut from: Vec<Option<usize>> = vec![None; self.next.len()];
        let mut queue = VecDeque::from([start]);
        while let Some(node) = queue.pop_front() {
            for &child in self.next[node].iter().filter(|child| within[**child]) {
                if child == start {
                    let mut circle = vec![node];
                    let mut at = node;
                    while at != start {
                        at = from[at]?;
                        circle.push(at);
                    }
                    circle.reverse();
                    return Some(circle);
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

    fn graph(text: &str) -> Graph {
        Graph::new(text.split(' ').filter_map(|pair| pair.split_once('>')))
    }

    fn components(text: &str) -> Vec<String> {
        let graph = graph(text);
        let all = vec![true; graph.names.len()];
        graph.components(&all).iter().map(|found| found.iter().map(|node| graph.names[*node].as_str()).collect()).collect()
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
    fn the_shortest_circle_begins_with_who_was_asked_for() {
        let graph = graph("a>b b>c c>a b>a c>d");
        let all = vec![true; 4];
        assert_eq!(graph.circle_through(0, &all), Some(vec![0, 1]));
        assert_eq!(graph.circle_through(2, &all), Some(vec![2, 0, 1]));
        assert_eq!(graph.circle_through(3, &all), None);
        assert_eq!(graph.circle_through(2, &[true, false, true, true]), None);
    }

    #[test]
    fn a_circle_of_ten_thousand_does_not_overflow() {
        let names: Vec<String> = (0..10_000).map(|number| format!("l{number:05}")).collect();
        let ring = Graph::new((0..10_000).map(|at| (names[at].as_str(), names[(at + 1) % 10_000].as_str())));
        let all = vec![true; 10_000];
        assert_eq!(ring.components(&all)[0].len(), 10_000);
        assert_eq!(ring.circle_through(0, &all).unwrap().len(), 10_000);
    }
}
