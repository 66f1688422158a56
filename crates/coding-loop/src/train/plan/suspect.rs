//! A work that fails on a state that passes without it, and the search for the works that it needs to fail.

use super::{Known, State};

/// A work that fails on a state that passes without it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Suspect<W> {
    /// The number of the search in which it was found.
    pub search: u64,
    pub work: W,
    pub head: usize,
    /// The works between the head and it.
    pub before: Vec<W>,
    /// Those without which it passes, as known so far.
    pub clashes: Vec<W>,
    /// The failure needs at least `low` and at most `high` of the works before it, beside the known clashes.
    pub low: usize,
    pub high: usize,
}

impl<W: Clone + Ord> Suspect<W> {
    /// The state of the first `count` works before it, its clashes, and itself.
    fn state(&self, count: usize) -> State<W> {
        let mut works = self.before[..count].to_vec();
        works.extend(self.clashes.iter().cloned());
        works.push(self.work.clone());
        State { head: self.head, works }
    }

    /// The state with which it became suspect.
    pub fn failed(&self) -> State<W> {
        let mut works = self.before.clone();
        works.push(self.work.clone());
        State { head: self.head, works }
    }

    pub fn without(&self) -> State<W> {
        State { head: self.head, works: self.before.clone() }
    }

    /// The state of it and one of the works before it.
    fn pair(&self, at: usize) -> State<W> {
        State { head: self.head, works: vec![self.before[at].clone(), self.work.clone()] }
    }

    pub fn is_narrowed(&self) -> bool {
        self.low == self.high
    }

    /// The state that is judged next: alone first, since most fail with what has landed.
    pub fn point(&self) -> State<W> {
        self.state(if self.low == 0 { 0 } else { self.low.midpoint(self.high) })
    }

    /// States that narrow it down in fewer rounds, if there are runs for them.
    pub fn points(&self, parallel: usize) -> Vec<State<W>> {
        let (low, high) = (self.low.max(1), self.high);
        if high < low || self.is_narrowed() {
            return Vec::new();
        }
        // One of the works from `low - 1` on clashes with it, if it is only one.
        if self.low > 0 && self.clashes.is_empty() && high - low < parallel {
            return (low - 1..high).map(|at| self.pair(at)).collect();
        }
        super::points(low - 1, high, parallel).map(|count| self.state(count)).collect()
    }

    /// Narrows down which of the works before it it needs to fail.
    pub fn narrow(&mut self, known: impl Fn(&State<W>) -> Known) {
        loop {
            for count in self.low..self.high {
                match known(&self.state(count)) {
                    known if known.is_green() => self.low = count + 1,
                    known if known.is_red() => {
                        self.high = count;
                        break;
                    }
                    _ => {}
                }
            }
            // It passes alone and fails with one other: there is nothing more to find.
            if self.low > 0
                && self.clashes.is_empty()
                && let Some(clash) = (0..self.high).find(|at| known(&self.pair(*at)).is_red())
            {
                self.clashes.push(self.before[clash].clone());
                (self.low, self.high) = (0, 0);
            }
            if !self.is_narrowed() {
                return;
            }
            // It fails with the first `high` works and the clashes, and not with one fewer.
            let Some(last) = self.high.checked_sub(1) else { return };
            let clash = self.before[last].clone();
            self.clashes.insert(0, clash);
            (self.low, self.high) = (0, last);
        }
    }
}
