//! A work that fails on a state that passes without it, and the search for the works that it needs to fail.

use super::{Action, CHANCE, Known, State, Train, Wanted};

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

impl<W: Clone + Ord> Train<W> {
    /// Settles what is known of the suspects, and adds the states that they need; none if the head fails.
    pub(super) fn look_at_suspects(&mut self, wanted: &mut Wanted<W>, actions: &mut Vec<Action<W>>) -> Option<()> {
        let mut cleared = Vec::new();
        for at in 0..self.suspects.len() {
            let mut suspect = self.suspects[at].clone();
            let failed = suspect.failed();
            if self.known(&failed).is_green() {
                cleared.push(suspect.work.clone());
                continue;
            }
            let without = self.known(&suspect.without());
            // It has passed before: whatever fails now fails without any of the works.
            if without.is_red() && without.failed >= self.limits.failures {
                return None;
            }
            suspect.narrow(|state| self.known(state));
            // It has failed once more if a failure by chance is more probable: next to none fail, or it seems to need two
            // others to fail. Then only the state counts with which that began.
            let is_rare = suspect.low > 0 && suspect.before.len() as f64 * self.failure_rate < CHANCE;
            let needs_two = suspect.low > 0 && !suspect.clashes.is_empty();
            let failures = if needs_two { self.known(&failed).failed } else { self.failures_of(&suspect) };
            let is_confirmed = failures >= self.limits.failures + usize::from(is_rare || needs_two);
            if !without.is_green() {
                wanted.searches.push((suspect.search, suspect.without()));
            }
            // Most fail with what has landed, and alone.
            if !suspect.is_narrowed() && (is_confirmed || suspect.low == 0) {
                wanted.searches.push((suspect.search, suspect.point()));
            } else if !is_confirmed {
                wanted.searches.push((suspect.search, failed.clone()));
            } else if without.is_green() {
                actions.push(Action::GiveBack {
                    work: suspect.work.clone(),
                    clashes: suspect.clashes.clone(),
                    state: failed.clone(),
                });
            }
            wanted.spare.extend(suspect.points(self.limits.parallel));
            self.suspects[at] = suspect;
        }
        // A failure by chance: the work goes on, first of all.
        self.suspects.retain(|suspect| !cleared.contains(&suspect.work));
        self.pool.splice(0..0, cleared);
        Some(())
    }

    /// Number of failed runs of the suspect with works before it and no others, which might fail by themselves.
    fn failures_of(&self, suspect: &Suspect<W>) -> usize {
        let newest = self.canonical(&suspect.failed()).head;
        let is_about = |state: &State<W>| {
            (state.head == suspect.head || state.head == newest)
                && state.works.last() == Some(&suspect.work)
                && state.works.iter().all(|work| *work == suspect.work || suspect.before.contains(work))
        };
        self.known.iter().filter(|(state, _)| is_about(state)).map(|(_, known)| known.failed).sum()
    }
}
