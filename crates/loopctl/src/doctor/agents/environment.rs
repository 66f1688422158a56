//! The variables that an agent gets: what the settings pass on and set, and what its command assigns.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use coord_db::config::AgentConfig;

use crate::programs;

/// Names with their values; none for a value that is known only in a run.
#[derive(Debug)]
pub(super) struct Environment(BTreeMap<String, Option<OsString>>);

impl Environment {
    /// `before` are the words of the command before its program.
    pub(super) fn of(agent: &AgentConfig, before: &[String]) -> Self {
        let mut all: BTreeMap<String, Option<OsString>> =
            agent.passed_on().into_iter().map(|(name, value)| (name, Some(value))).collect();
        for (name, value) in &agent.set {
            let is_literal = !["{port}", "{loop}", "{workspace}"].iter().any(|part| value.contains(part));
            all.insert(name.clone(), is_literal.then(|| value.into()));
        }
        all.extend(programs::assigned(&agent.command).into_iter().map(|name| (name, None)));
        let assigned = before.iter().filter(|word| !word.starts_with('-')).filter_map(|word| word.split_once('='));
        all.extend(assigned.map(|(name, value)| (name.to_owned(), Some(value.into()))));
        Self(all)
    }

    /// The variables for a trial call.
    pub(super) fn values(&self) -> Vec<(String, OsString)> {
        self.0.iter().filter_map(|(name, value)| Some((name.clone(), value.clone()?))).collect()
    }

    /// The names of the variables that are not empty.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        let set = self.0.iter().filter(|(_, value)| value.as_ref().is_none_or(|value| !value.is_empty()));
        set.map(|(name, _)| name.as_str())
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.names().any(|set| set == name)
    }

    /// The folder that a variable names; none if it is not set, none within if its value is not known.
    pub(super) fn folder(&self, name: &str) -> Option<Option<PathBuf>> {
        let value = self.0.get(name).filter(|_| self.has(name))?;
        Some(value.as_ref().map(PathBuf::from))
    }

    /// The home folder; none if its value is not known.
    pub(super) fn home(&self) -> Option<PathBuf> {
        self.folder("HOME").unwrap_or_else(|| {
            let user = nix::unistd::User::from_uid(nix::unistd::geteuid()).ok().flatten();
            user.map(|user| user.dir)
        })
    }

    /// The folder for temporary files.
    pub(super) fn temporary(&self) -> PathBuf {
        self.folder("TMPDIR").flatten().unwrap_or_else(|| Path::new("/tmp").to_owned())
    }
}
