//! The health of loops and supervisors.

use std::collections::BTreeMap;

use coord_db::process::{Liveness, ProcessIdentity, host_name};
use coord_db::supervisors::{self, Program, SUPERVISORS};
use coord_db::{Component, Config, Error, HealthStatus, ReadTx, Timestamp, supervisor_of};
use serde::Serialize;

use crate::when::span;

/// Number of characters of a host's name that are shown.
const MAX_NAME: usize = 64;

/// The health of a component at this moment.
#[derive(Debug, Clone, Serialize)]
#[allow(missing_docs)]
pub struct Health {
    #[serde(flatten)]
    pub row: Component,
    pub verdict: HealthStatus,
    /// True if it runs on another machine.
    pub is_elsewhere: bool,
}

impl Health {
    /// The health of a component, with what the kernel knows of its process.
    #[must_use]
    pub fn of(row: Component, now: Timestamp, config: &Config) -> Self {
        let limits = &config.heartbeat;
        let mut verdict = row.verdict(now, limits.degraded_seconds, limits.dead_seconds);
        // Nobody may have looked since its end; the kernel knows.
        let gone = row.identity().as_ref().map(ProcessIdentity::liveness) == Some(Liveness::Gone);
        if gone && verdict != HealthStatus::Unknown {
            verdict = HealthStatus::Dead;
        }
        let is_elsewhere = row.identity().is_some_and(|process| process.is_elsewhere());
        Self { row, verdict, is_elsewhere }
    }
}

/// The supervisors by name, with the health of each process that runs or has run as one: of a heartbeat for each host, several.
/// None for one that has never run.
#[must_use]
pub fn supervisors(all: &[Health]) -> Vec<(String, Option<&Health>)> {
    SUPERVISORS
        .iter()
        .flat_map(|Program { id, .. }| {
            let of = all.iter().filter(|health| supervisor_of(&health.row.component) == *id);
            let mut found: Vec<_> = of.map(|health| (health.row.label(), Some(health))).collect();
            if found.is_empty() {
                found.push(((*id).to_owned(), None));
            }
            found
        })
        .collect()
}

/// What runs on one host, for a database that several share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Host {
    /// Its name; with its machine id where another has the same name.
    pub name: String,
    /// The supervisors that run there.
    pub supervisors: Vec<String>,
    /// The loops that run there.
    pub loops: Vec<String>,
    /// When anything there has sent a heartbeat last.
    pub last_heartbeat: Option<Timestamp>,
    /// Whether that is recent: the best verdict on what runs there.
    pub verdict: HealthStatus,
}

impl Host {
    /// `2 loops (a, b); heartbeat, monitor`, or since when it is silent.
    #[must_use]
    pub fn describe(&self, now: Timestamp) -> String {
        let loops = match self.loops.as_slice() {
            [] => "no loop".to_owned(),
            [one] => format!("loop {one}"),
            several => format!("{} loops ({})", several.len(), several.join(", ")),
        };
        let supervisors = if self.supervisors.is_empty() { "no supervisor".to_owned() } else { self.supervisors.join(", ") };
        let silent = self.last_heartbeat.filter(|_| self.verdict != HealthStatus::Healthy);
        let silent = silent.map(|beat| format!("silent for {}; ", span(now.seconds_since(beat)))).unwrap_or_default();
        format!("{silent}{loops}; {supervisors}")
    }
}

/// The hosts on which something runs, by name.
#[must_use]
pub fn hosts(all: &[Health]) -> Vec<Host> {
    let mut by_host: BTreeMap<&str, Vec<&Health>> = BTreeMap::new();
    for health in all.iter().filter(|health| health.verdict != HealthStatus::Unknown) {
        if let Some(host) = health.row.host.as_deref() {
            by_host.entry(host).or_default().push(health);
        }
    }
    let is_unique = |name: &str| by_host.keys().filter(|host| host_name(host) == name).count() == 1;
    let host = |(host, there): (&&str, &Vec<&Health>)| {
        let name = host_name(host);
        let (supervisors, loops) = there
            .iter()
            .map(|health| supervisor_of(&health.row.component).to_owned())
            .partition(|name| supervisors::find(name).is_some());
        let is = |verdict| there.iter().any(|health| health.verdict == verdict);
        let verdicts = [HealthStatus::Healthy, HealthStatus::Degraded];
        Host {
            // Another program may have written anything.
            name: if is_unique(name) { name } else { host }.chars().take(MAX_NAME).collect(),
            supervisors,
            loops,
            last_heartbeat: there.iter().filter_map(|health| health.row.last_heartbeat).max(),
            verdict: verdicts.into_iter().find(|verdict| is(*verdict)).unwrap_or(HealthStatus::Dead),
        }
    };
    by_host.iter().map(host).collect()
}

/// The health of every component.
///
/// # Errors
/// What the database reports.
pub fn healths(tx: &ReadTx<'_>, config: &Config) -> Result<Vec<Health>, Error> {
    Ok(tx.components()?.into_iter().map(|row| Health::of(row, tx.now(), config)).collect())
}
