//! How well each detector does over all traces, as a table.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use super::Trace;
use super::run::{Outcome, run};

/// One detector.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Line {
    /// How often it had to tell something, and did in time: how long after the cause, in milliseconds.
    pub told: Vec<i64>,
    /// How often it had to and did not.
    pub missed: usize,
    /// How often it told what is not so.
    pub false_alarms: usize,
}

/// All of them.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Traces in which all is well, and others.
    pub traces: (usize, usize),
    /// By detector.
    pub lines: BTreeMap<String, Line>,
    /// What went wrong, in sentences.
    pub mistakes: Vec<String>,
}

fn share(part: usize, whole: usize) -> String {
    // What was never asked for is never wrong.
    if whole == 0 {
        "–".to_owned()
    } else {
        format!("{:.2}", f64::from(u32::try_from(part).unwrap_or(0)) / f64::from(u32::try_from(whole).unwrap_or(1)))
    }
}

fn clock(millis: i64) -> String {
    match millis / 1000 {
        seconds if seconds < 60 => format!("{seconds} s"),
        seconds if seconds % 60 == 0 => format!("{} min", seconds / 60),
        seconds => format!("{} min {} s", seconds / 60, seconds % 60),
    }
}

impl Report {
    /// Runs all traces, on every core.
    ///
    /// # Errors
    /// What is wrong with a trace itself.
    pub fn of(traces: &[Trace]) -> Result<Self, String> {
        let next = AtomicUsize::new(0);
        let outcomes = Mutex::new(BTreeMap::new());
        let cores = std::thread::available_parallelism().map_or(2, usize::from).min(traces.len().max(1));
        std::thread::scope(|scope| {
            for _ in 0..cores {
                scope.spawn(|| {
                    while let Some(trace) = traces.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let outcome = run(trace);
                        outcomes.lock().unwrap_or_else(PoisonError::into_inner).insert(trace.name.clone(), outcome);
                    }
                });
            }
        });
        let outcomes = outcomes.into_inner().unwrap_or_else(PoisonError::into_inner);
        let mut report = Self::default();
        for outcome in outcomes.into_values() {
            report.add(outcome?);
        }
        Ok(report)
    }

    fn add(&mut self, outcome: Outcome) {
        if outcome.healthy {
            self.traces.0 += 1;
        } else {
            self.traces.1 += 1;
        }
        for (detector, told) in outcome.expected {
            let line = self.lines.entry(detector).or_default();
            match told {
                Some(after) => line.told.push(after),
                None => line.missed += 1,
            }
        }
        for (detector, _) in outcome.false_alarms {
            self.lines.entry(detector).or_default().false_alarms += 1;
        }
        self.mistakes.extend(outcome.mistakes);
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| detector | cases | recall | precision | from cause to alert: median | longest |")?;
        writeln!(f, "| --- | --- | --- | --- | --- | --- |")?;
        for (detector, line) in &self.lines {
            let told = line.told.len();
            let mut after = line.told.clone();
            after.sort_unstable();
            let time = |millis: Option<&i64>| millis.map_or_else(|| "–".to_owned(), |millis| clock(*millis));
            writeln!(
                f,
                "| {detector} | {} | {} | {} | {} | {} |",
                told + line.missed,
                share(told, told + line.missed),
                share(told, told + line.false_alarms),
                time(after.get(told.saturating_sub(1) / 2)),
                time(after.last()),
            )?;
        }
        Ok(())
    }
}
