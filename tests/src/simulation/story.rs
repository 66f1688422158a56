//! What happened in a run, kept short: the last steps in full, the whole as a digest.

use std::collections::VecDeque;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};

/// How many steps a failure shows, unless `SIM_STEPS` says otherwise.
const KEPT: usize = 60;

/// One step.
#[derive(Debug, Clone)]
struct Entry {
    number: u64,
    millis: i64,
    actor: String,
    what: String,
}

/// The steps of a run.
#[derive(Debug)]
pub struct Story {
    last: VecDeque<Entry>,
    kept: usize,
    steps: u64,
    digest: DefaultHasher,
}

impl Default for Story {
    fn default() -> Self {
        let kept = std::env::var("SIM_STEPS").ok().and_then(|text| text.parse().ok()).unwrap_or(KEPT);
        Self { last: VecDeque::new(), kept, steps: 0, digest: DefaultHasher::new() }
    }
}

impl Story {
    /// Adds a step. `what` must not contain ids that differ from run to run.
    pub fn tell(&mut self, millis: i64, actor: &str, what: &str) {
        self.steps += 1;
        (millis, actor, what).hash(&mut self.digest);
        if self.last.len() >= self.kept {
            self.last.pop_front();
        }
        self.last.push_back(Entry { number: self.steps, millis, actor: actor.to_owned(), what: what.to_owned() });
    }

    /// How many steps there were.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// A number that two runs share exactly if they went the same way.
    #[must_use]
    pub fn digest(&self) -> u64 {
        self.digest.finish()
    }

    /// The last steps, one a line.
    #[must_use]
    pub fn tail(&self) -> String {
        let line = |entry: &Entry| {
            let seconds = entry.millis / 1000;
            format!(
                "{:>6}  {:02}:{:02}:{:02}.{:03}  {:<20} {}\n",
                entry.number,
                seconds / 3600,
                seconds / 60 % 60,
                seconds % 60,
                entry.millis % 1000,
                entry.actor,
                entry.what
            )
        };
        self.last.iter().map(line).collect()
    }
}

/// A law that did not hold, and how it came to that.
#[derive(Debug, Clone)]
pub struct Failure {
    /// What leads there again.
    pub seed: u64,
    /// The world that it was drawn for.
    pub scenario: &'static str,
    /// The law's name.
    pub law: &'static str,
    /// What was seen.
    pub detail: String,
    /// The last steps.
    pub story: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "seed {} of world {:?} broke the law {:?}: {}\n\n{}\nagain: SIM_SEED={} cargo test -p system-tests --test simulation -- {}\n",
            self.seed, self.scenario, self.law, self.detail, self.story, self.seed, self.scenario
        )
    }
}
