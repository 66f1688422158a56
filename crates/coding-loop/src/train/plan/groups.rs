//! Groups of works that are judged beside the chain: those that fail together, until it is known which one does, and new ones if
//! many fail.

use super::suspect::Suspect;
use super::{State, Train, Wanted, points};

/// Works that are searched for one that fails.
#[derive(Debug, Clone)]
pub(super) struct Group<W> {
    /// The number of the search: older ones go first.
    pub(super) search: u64,
    pub(super) state: State<W>,
}

impl<W: Clone> Group<W> {
    fn prefix(&self, length: usize) -> State<W> {
        State { head: self.state.head, works: self.state.works[..length].to_vec() }
    }
}

/// The number of works in a group of which about half pass, so that its result says most.
pub(super) fn group_size(failure_rate: f64) -> usize {
    let size = 0.5_f64.ln() / (1.0 - failure_rate).ln();
    if size.is_finite() { (size.round() as usize).max(1) } else { usize::MAX }
}

impl<W: Clone + Ord> Train<W> {
    /// The lengths of the longest prefix of a group that passes, and of the shortest longer one that fails.
    fn bounds(&self, group: &Group<W>) -> (usize, Option<usize>) {
        let known = |length: usize| self.known(&group.prefix(length));
        let count = group.state.works.len();
        let green = (1..=count).rev().find(|length| known(*length).is_green()).unwrap_or(0);
        (green, (green + 1..=count).find(|length| known(*length).is_red()))
    }

    /// Ends the groups of which all is known.
    pub(super) fn settle_groups(&mut self) {
        for mut group in std::mem::take(&mut self.groups) {
            let (green, red) = self.bounds(&group);
            if green < group.state.works.len() && red != Some(green + 1) {
                self.groups.push(group);
                continue;
            }
            let mut rest = group.state.works.split_off(green);
            if !rest.is_empty() {
                let (work, before) = (rest.remove(0), group.state.works.clone());
                let (search, head, high) = (group.search, group.state.head, before.len());
                self.suspects.push(Suspect { search, work, head, before, clashes: Vec::new(), low: 0, high });
            }
            if !rest.is_empty() || red.is_some() {
                for work in group.state.works.iter().chain(&rest) {
                    *self.searches.entry(work.clone()).or_default() += 1;
                }
            }
            self.pool.splice(0..0, rest);
            self.pass(&group.state);
        }
    }

    /// Begins a search of works that fail together, or of new ones.
    pub(super) fn search(&mut self, state: State<W>) {
        self.groups.push(Group { search: self.next_search, state });
        self.next_search += 1;
    }

    /// The states that the groups need.
    pub(super) fn look_at_groups(&self, wanted: &mut Wanted<W>) {
        for group in &self.groups {
            let (green, red) = self.bounds(group);
            let Some(red) = red else {
                wanted.searches.push((group.search, group.state.clone()));
                continue;
            };
            let prefix = |length: usize| group.prefix(length);
            let running: Vec<State<W>> = (green + 1..red).map(prefix).filter(|state| self.is_running(state)).collect();
            if running.is_empty() {
                wanted.searches.push((group.search, prefix(green.midpoint(red))));
            }
            wanted.searches.extend(running.into_iter().map(|state| (group.search, state)));
            wanted.spare.extend(points(green, red, self.limits.parallel).map(prefix));
        }
    }
}
