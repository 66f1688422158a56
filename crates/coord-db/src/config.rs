//! Every setting, with its default. Unknown keys, wrong types and impossible values are refused with file and line.
//!
//! Commands that are run come from here alone, never from the database.

mod place;
mod price;
mod words;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::{Durability, Error, LoopId, Result};

use place::{key_at, line_at, line_of};
pub use price::Price;
pub use words::{Cold, PerTest};
use words::{at_least_0, at_least_1, some_at_least_1};

/// The file that `loopctl init` writes: every setting, commented, with its default.
pub const DEFAULT_TEXT: &str = include_str!("default_config.toml");
/// Its name, beside the database.
pub const FILE: &str = "config.toml";

macro_rules! section {
    ($(#[$meta:meta])* $name:ident { $($(#[$fmeta:meta])* $field:ident : $ty:ty = $default:expr),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct $name { $($(#[$fmeta])* pub $field: $ty),* }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default),* }
            }
        }
    };
}

// After the macro that it uses.
mod agent;
mod notify;
pub use agent::{AgentConfig, AgentKind, AgentOverride, PromptBy, SandboxBy};
pub use notify::{NotifyBy, NotifyConfig, NotifyPart, TimeOfDay};

section! {
    /// The database.
    DatabaseConfig {
        /// What a commit outlives.
        durability: Durability = Durability::Normal,
        /// How long a write waits for others.
        #[serde(deserialize_with = "at_least_1")]
        busy_deadline_seconds: u64 = 5,
        /// Backups kept by `loopctl backup`.
        backup_keep: usize = 7,
    }
}

section! {
    /// The git repository.
    RepositoryConfig {
        /// Relative to the config file.
        path: PathBuf = PathBuf::from(".."),
        /// Where verified work lands in the store, and its copy in the user's repository.
        integration_branch: String = "coding-loops/integration".to_owned(),
        /// Where integration is kept for several machines: an address, or the name of a remote of the user's repository; empty:
        /// in the store alone.
        remote: String = String::new(),
        /// The user's branch whose new commits are brought in; empty: the one that is checked out.
        follow: String = String::new(),
        /// Loops bring them in between tests; else `loopctl sync` does.
        follow_automatically: bool = false,
    }
}

section! {
    /// Where the loops work.
    WorkspaceConfig {
        /// The folder of store and workspaces, relative to the config file; empty: `<repository>-loops` beside the repository.
        root: PathBuf = PathBuf::new(),
        /// Commands (argv) that make a new folder ready; run again when an input has changed.
        setup: Vec<Vec<String>> = Vec::new(),
        /// Files and folders of the repository whose content decides that.
        setup_inputs: Vec<String> = Vec::new(),
        /// How long each command may take.
        #[serde(deserialize_with = "at_least_1")]
        setup_timeout_seconds: u64 = 900,
        /// Ignored files to bring along from the user's checkout, named as in `.gitignore`; those of `.worktreeinclude` too.
        copy: Vec<String> = Vec::new(),
        /// Ignored files and folders that survive between attempts and gate runs, named as in `.gitignore`.
        cache: Vec<String> = Vec::new(),
        /// A folder whose loop is not registered any more is removed after this.
        #[serde(deserialize_with = "at_least_1")]
        keep_days: i64 = 14,
    }
}

section! {
    /// What lands only after the human was asked.
    LandingConfig {
        /// Works that are judged and land together; 1: each alone.
        #[serde(deserialize_with = "at_least_1")]
        batch: usize = 8,
        /// Work that changes more files.
        files: usize = 500,
        /// Larger files.
        file_bytes: u64 = 10_485_760,
        /// What looks like a key or password.
        secrets: bool = true,
        /// Whether landed commits are signed, as git is configured in the user's repository.
        sign: bool = false,
    }
}

section! {
    /// Leases.
    LeaseConfig {
        /// How long a lease lasts unless renewed.
        #[serde(deserialize_with = "at_least_1")]
        ttl_seconds: i64 = 900,
        /// Lease files for the agent as it first changes them.
        automatic: bool = true,
        /// How long what has come free is kept for a waiter that does not ask.
        #[serde(deserialize_with = "at_least_1")]
        silent_waiter_seconds: i64 = 5,
    }
}

/// What one loop has of its own.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LoopConfig {
    /// Its agent; settings that are absent are those of `[agent]`.
    pub agent: AgentOverride,
}

/// One check of the gate.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckConfig {
    /// Its name, unique.
    pub name: String,
    /// argv.
    pub command: Vec<String>,
    /// The categories of tests that it applies to; empty: every one.
    #[serde(default)]
    pub categories: Vec<String>,
    /// How long it may take; by default the gate's timeout.
    #[serde(default, deserialize_with = "some_at_least_1")]
    pub timeout_seconds: Option<u64>,
    /// Whether regression-checker runs it too.
    #[serde(default = "yes")]
    pub baseline: bool,
    /// Whether it runs for each test.
    #[serde(default)]
    pub per_test: PerTest,
    /// Whether it must fail for a test before that test's work, at the base.
    #[serde(default)]
    pub fails_before: bool,
    /// Globs: it runs only if the change touches one of them; empty: always.
    #[serde(default)]
    pub paths: Vec<String>,
    /// What is leased while it runs, as `port:5432`.
    #[serde(default)]
    pub resources: Vec<String>,
}

fn yes() -> bool {
    true
}

section! {
    /// The verification that a claimed pass must survive.
    GateConfig {
        /// Number of batches judged at once.
        #[serde(deserialize_with = "at_least_1")]
        parallel: usize = 4,
        /// How long a check may take.
        #[serde(deserialize_with = "at_least_1")]
        timeout_seconds: u64 = 900,
        /// Globs of files whose change needs a human's approval.
        protected: Vec<String> = Vec::new(),
        /// Globs of migration files: what is added there carries a number that was allocated to the loop.
        migrations: Vec<String> = Vec::new(),
        /// When the checks run on a fresh clone without caches too.
        cold: Cold = Cold::Nightly,
        /// The checks, in order.
        check: Vec<CheckConfig> = Vec::new(),
    }
}

section! {
    /// What monitor calls trouble.
    MonitorConfig {
        /// Between two looks at the workspaces.
        #[serde(deserialize_with = "at_least_1")]
        interval_seconds: u64 = 30,
        /// Failures in a row on one test.
        #[serde(deserialize_with = "at_least_1")]
        stuck_failures: i64 = 3,
        /// An attempt without progress.
        stuck_attempt_minutes: i64 = 30,
        /// No activity of a loop's agent.
        stuck_silence_minutes: i64 = 10,
        /// No test passed although there is work.
        stuck_no_pass_minutes: i64 = 30,
        /// Two changes to one file within this are a conflict.
        conflict_window_minutes: i64 = 5,
        /// Files that may be changed by two.
        conflict_ignore: Vec<String> = [
            "Cargo.lock", "package-lock.json", "pnpm-lock.yaml", "yarn.lock", "uv.lock", "poetry.lock", "go.sum",
        ].map(str::to_owned).to_vec(),
        /// More files than this for one test.
        #[serde(deserialize_with = "at_least_1")]
        digression_files: i64 = 20,
        /// The same error this number of times.
        digression_same_error: i64 = 5,
    }
}

section! {
    /// Limits; 0 means none.
    BudgetConfig {
        /// For one test.
        tokens_per_test: i64 = 500_000,
        /// For one test.
        minutes_per_test: i64 = 120,
        /// For all loops.
        tests_per_day: i64 = 100,
        /// For all loops.
        tokens_per_day: i64 = 5_000_000,
        /// US dollars for one test, if the cost is known.
        #[serde(deserialize_with = "at_least_0")]
        usd_per_test: f64 = 0.0,
        /// US dollars for all loops.
        #[serde(deserialize_with = "at_least_0")]
        usd_per_day: f64 = 0.0,
        /// A warning at this share.
        warn_percent: i64 = 80,
        /// An alert at this share.
        alert_percent: i64 = 95,
        /// The database's size.
        database_megabytes: i64 = 1000,
    }
}

section! {
    /// Deadlocks.
    DeadlockConfig {
        /// How long a victim has to answer.
        grace_seconds: i64 = 30,
        /// Who was a victim within this is spared if another will do.
        spare_recent_minutes: i64 = 10,
        /// How often the whole graph is read.
        #[serde(deserialize_with = "at_least_1")]
        full_scan_seconds: u64 = 60,
    }
}

section! {
    /// Life and death.
    HeartbeatConfig {
        /// Between two beats.
        #[serde(deserialize_with = "at_least_1")]
        beat_seconds: u64 = 15,
        /// Without a beat for this: degraded.
        degraded_seconds: i64 = 60,
        /// Without a beat for this: dead.
        dead_seconds: i64 = 300,
        /// Nobody is judged for so long after the machine slept or its clock was set.
        wake_grace_seconds: i64 = 30,
    }
}

section! {
    /// What pm waits for.
    PmConfig {
        /// A dead loop's tests are handed on after this.
        reassign_after_seconds: i64 = 300,
        /// A running loop with more tests waiting than this shares them with loops that have had nothing to do for as long; 0:
        /// never.
        overloaded_tests: i64 = 5,
        /// A question resolves by its default after this.
        decision_timeout_minutes: i64 = 60,
        /// A loop waits so long for a dependency before the human is asked.
        dependency_wait_minutes: i64 = 30,
    }
}

section! {
    /// The standing check.
    RegressionConfig {
        /// A check even if nothing has moved.
        #[serde(deserialize_with = "at_least_1")]
        interval_seconds: u64 = 600,
        /// Runs that must fail again before a failure is believed.
        retries: u32 = 2,
        /// Checks at once, each in a check-out of its own; 0: one per core.
        parallel: usize = 0,
        /// How low its share of the machine is.
        nice: i32 = 10,
        /// Share of the cores for the tests that a change does not seem to touch, once a check fails.
        #[serde(deserialize_with = "at_least_1")]
        share_percent: i64 = 50,
    }
}

section! {
    /// How long things are kept.
    RetentionConfig {
        /// Settled events.
        #[serde(deserialize_with = "at_least_1")]
        events_days: i64 = 30,
        /// Deliveries that are never handled.
        #[serde(deserialize_with = "at_least_1")]
        delivery_days: i64 = 30,
        /// Saved work that has been integrated.
        saved_work_days: i64 = 30,
    }
}

impl RetentionConfig {
    /// What was settled before this moment is old.
    #[must_use]
    pub fn archive_before(&self, now: crate::Timestamp) -> crate::Timestamp {
        now.plus_seconds(self.events_days.saturating_mul(-86_400))
    }
}

/// All settings.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(missing_docs)]
pub struct Config {
    pub database: DatabaseConfig,
    pub repository: RepositoryConfig,
    pub workspace: WorkspaceConfig,
    pub landing: LandingConfig,
    pub lease: LeaseConfig,
    pub agent: AgentConfig,
    pub gate: GateConfig,
    pub monitor: MonitorConfig,
    pub budget: BudgetConfig,
    pub deadlock: DeadlockConfig,
    pub heartbeat: HeartbeatConfig,
    pub pm: PmConfig,
    pub regression: RegressionConfig,
    pub retention: RetentionConfig,
    pub notify: NotifyConfig,
    /// `[price."<model>"]`: what tokens cost where the agent does not say it.
    pub price: BTreeMap<String, Price>,
    /// `[loop.<id>.agent]`
    #[serde(rename = "loop")]
    pub loops: BTreeMap<String, LoopConfig>,
    /// The folder of the config file, which relative paths start from.
    #[serde(skip)]
    pub folder: PathBuf,
}

impl Config {
    /// The file that goes with a database unless another is named.
    #[must_use]
    pub fn path_for(database: &Path) -> PathBuf {
        database.parent().unwrap_or_else(|| Path::new(".")).join(FILE)
    }

    /// Reads the named file, or the one beside the database; without one the defaults hold.
    ///
    /// # Errors
    /// [`Error::Config`] with file, line and what was expected; also if a named file is missing.
    pub fn load(database: &Path, named: Option<&Path>) -> Result<Self> {
        let path = named.map_or_else(|| Self::path_for(database), Path::to_owned);
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or_else(|| Path::new(".")).to_owned();
        match std::fs::read_to_string(&path) {
            Ok(text) => Self::parse(&text, &path).map(|config| Self { folder, ..config }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && named.is_none() => {
                Ok(Self { folder, ..Self::default() })
            }
            Err(error) => Err(Error::Config(format!("cannot read the config {}: {error}", path.display()))),
        }
    }

    /// Reads settings from text; `path` is for messages.
    pub fn parse(text: &str, path: &Path) -> Result<Self> {
        let refused = |line: usize, message: &str| Error::Config(format!("{}:{line}: {message}", path.display()));
        let config: Self = toml::from_str(text).map_err(|error| {
            let start = error.span().map_or(0, |span| span.start);
            let message = match key_at(text, start) {
                Some(key) => format!("{key}: {}", error.message()),
                None => error.message().to_owned(),
            };
            refused(line_at(text, start), &message)
        })?;
        config.validate().map_err(|(at, message)| refused(line_of(text, &at), &message))?;
        Ok(config)
    }

    /// What no single value shows. A refusal names the key.
    fn validate(&self) -> Result<(), (Vec<String>, String)> {
        let at = |section: &str, key: &str| vec![section.to_owned(), key.to_owned()];
        if self.workspace.setup.iter().any(Vec::is_empty) {
            let expected = "workspace.setup holds an empty command; expected a list of commands, each a list of words";
            return Err((at("workspace", "setup"), expected.to_owned()));
        }
        for (key, paths) in [("setup_inputs", &self.workspace.setup_inputs), ("cache", &self.workspace.cache)] {
            let leads_out = |path: &&String| {
                path.is_empty() || key == "setup_inputs" && path.starts_with('/') || path.split('/').any(|part| part == "..")
            };
            if let Some(path) = paths.iter().find(leads_out) {
                let message = format!("workspace.{key}: {path:?}; expected a path in the repository");
                return Err((at("workspace", key), message));
            }
        }
        let in_loop = |id: &String| vec!["loop".to_owned(), id.clone(), "agent".to_owned()];
        let own = self.loops.iter().filter_map(|(id, own)| Some((in_loop(id), own.agent.set.as_ref()?)));
        for (section, set) in std::iter::once((vec!["agent".to_owned()], &self.agent.set)).chain(own) {
            for name in set.keys() {
                let at = || section.iter().cloned().chain(["set".to_owned(), name.clone()]).collect();
                let section = section.join(".");
                if name.is_empty() || name.contains(['=', '\0']) {
                    return Err((at(), format!("{section}.set: {name:?} is not a valid variable name")));
                }
                if OWN_VARIABLES.contains(&name.as_str()) {
                    return Err((at(), format!("{section}.set: {name} is set by coding-loops itself")));
                }
            }
        }
        if self.heartbeat.degraded_seconds <= i64::try_from(self.heartbeat.beat_seconds).unwrap_or(i64::MAX) {
            return Err((
                at("heartbeat", "degraded_seconds"),
                "heartbeat.degraded_seconds must be more than beat_seconds".to_owned(),
            ));
        }
        if self.heartbeat.dead_seconds <= self.heartbeat.degraded_seconds {
            return Err((
                at("heartbeat", "dead_seconds"),
                "heartbeat.dead_seconds must be more than degraded_seconds".to_owned(),
            ));
        }
        if self.deadlock.grace_seconds < 0 {
            return Err((at("deadlock", "grace_seconds"), "deadlock.grace_seconds must not be negative".to_owned()));
        }
        for (name, globs) in [("protected", &self.gate.protected), ("migrations", &self.gate.migrations)] {
            for glob in globs {
                globset::Glob::new(glob)
                    .map_err(|error| (at("gate", name), format!("gate.{name}: {glob:?} is not a glob: {error}")))?;
            }
        }
        for glob in self.monitor.conflict_ignore.iter() {
            globset::Glob::new(glob).map_err(|error| {
                (at("monitor", "conflict_ignore"), format!("monitor.conflict_ignore: {glob:?} is not a glob: {error}"))
            })?;
        }
        let mut names = std::collections::BTreeSet::new();
        for (number, check) in self.gate.check.iter().enumerate() {
            let at = |key: &str| ["gate", "check", &number.to_string(), key].map(str::to_owned).to_vec();
            if check.name.is_empty() || !names.insert(&check.name) {
                return Err((at("name"), format!("check {:?} has no name, or the name of another check", check.name)));
            }
            if check.command.is_empty() {
                return Err((at("command"), format!("check {:?} has no command", check.name)));
            }
            if crate::strip_cold_suffix(&check.name).is_some() {
                let message = format!("check {:?} ends like the names of cold runs; choose another name", check.name);
                return Err((at("name"), message));
            }
            if check.fails_before && check.per_test == PerTest::No {
                let message = format!("check {:?} has fails_before, which needs per_test = true or \"auto\"", check.name);
                return Err((at("fails_before"), message));
            }
            for glob in &check.paths {
                globset::Glob::new(glob).map_err(|error| {
                    (at("paths"), format!("paths of check {:?}: {glob:?} is not a glob: {error}", check.name))
                })?;
            }
            for resource in &check.resources {
                // A file is leased by who changes it.
                if resource.parse::<crate::LeasePath>().is_err() || !resource.contains(':') {
                    let message = format!(
                        "resources of check {:?}: {resource:?} is not a resource; name it like \"port:5432\"",
                        check.name
                    );
                    return Err((at("resources"), message));
                }
            }
        }
        for id in self.loops.keys() {
            id.parse::<LoopId>().map_err(|error| (at("loop", id), error.to_string()))?;
        }
        if self.repository.integration_branch.is_empty() || self.repository.integration_branch.starts_with('-') {
            return Err((
                at("repository", "integration_branch"),
                "repository.integration_branch is not a branch name".to_owned(),
            ));
        }
        self.notify.validate().map_err(|(key, message)| (at("notify", key), message))?;
        let repository = &self.repository;
        if repository.follow.starts_with('-') || repository.follow == repository.integration_branch {
            let text = "repository.follow must name a branch with your own commits".to_owned();
            return Err((at("repository", "follow"), text));
        }
        if repository.follow_automatically && repository.follow.is_empty() {
            let text = "repository.follow_automatically needs repository.follow: name the branch to bring in".to_owned();
            return Err((at("repository", "follow_automatically"), text));
        }
        Ok(())
    }

    /// The agent of one loop: its own settings over those of `[agent]`.
    #[must_use]
    pub fn agent_of(&self, id: &LoopId) -> AgentConfig {
        match self.loops.get(id.as_str()) {
            Some(own) => own.agent.clone().over(self.agent.clone()),
            None => self.agent.clone(),
        }
    }

    /// The folder of store and workspaces.
    #[must_use]
    pub fn workspace_root(&self) -> PathBuf {
        if !self.workspace.root.as_os_str().is_empty() {
            return self.folder.join(&self.workspace.root);
        }
        let repository = self.repository_path();
        let repository = repository.canonicalize().unwrap_or(repository);
        let name = repository.file_name().unwrap_or_default().to_string_lossy();
        // Tools treat folders whose name begins with a dot in ways of their own.
        repository.with_file_name(format!("{}-loops", name.trim_start_matches('.')))
    }

    /// Where the repository is.
    #[must_use]
    pub fn repository_path(&self) -> PathBuf {
        self.folder.join(&self.repository.path)
    }

    /// How to open the database with these settings.
    #[must_use]
    pub fn open_options(&self) -> crate::OpenOptions {
        crate::OpenOptions {
            durability: self.database.durability,
            busy_deadline: std::time::Duration::from_secs(self.database.busy_deadline_seconds),
            silent_seconds: self.heartbeat.degraded_seconds,
            ..crate::OpenOptions::default()
        }
    }
}

/// Variables that every agent gets.
const OWN_VARIABLES: [&str; 6] = [crate::locate::VARIABLE, "LOOP_ID", "TEST_ID", "ATTEMPT", "TEST_SPEC_FILE", "KNOWLEDGE_FILE"];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn refused(text: &str) -> String {
        Config::parse(text, Path::new("config.toml")).unwrap_err().to_string()
    }

    #[test]
    fn the_written_default_is_the_default() {
        assert_eq!(Config::parse(DEFAULT_TEXT, Path::new("x")).unwrap(), Config::default());
    }

    /// What a section may contain, as the refusal of a key that is none of it says.
    fn settings_of(section: Option<&str>) -> BTreeSet<String> {
        let text = section.map_or_else(|| "no_setting = 1".to_owned(), |section| format!("[{section}]\nno_setting = 1"));
        refused(&text).split('`').skip(1).step_by(2).skip(1).map(str::to_owned).collect()
    }

    #[test]
    fn every_setting_is_in_the_written_default() {
        let written: toml::Table = DEFAULT_TEXT.parse().unwrap();
        let mut missing = Vec::new();
        for section in settings_of(None) {
            match written.get(&section) {
                Some(keys) => {
                    let absent = settings_of(Some(&section)).into_iter().filter(|key| keys.get(key).is_none());
                    missing.extend(absent.map(|key| format!("{section}.{key}")));
                }
                None => missing.push(section),
            }
        }
        assert_eq!(missing, ["gate.check", "loop"], "all but these, which name what each project has of its own");
        for example in ["# [[gate.check]]", "# [loop."] {
            assert!(DEFAULT_TEXT.lines().any(|line| line.starts_with(example)), "{example}");
        }
    }

    #[test]
    fn mistakes_are_refused_with_their_line() {
        assert!(refused("[database]\nspeed = 1\n").starts_with("config.toml:2: unknown field `speed`"));
        assert!(refused("[lease]\n\nttl_seconds = \"long\"\n").starts_with("config.toml:3:"));
        assert!(
            refused("[lease]\nttl_seconds = 0\n")
                .starts_with("config.toml:2: lease.ttl_seconds: 0 is too small; expected at least 1")
        );
        assert!(refused("[heartbeat]\ndead_seconds = 10\n").starts_with("config.toml:2: heartbeat.dead_seconds"));
        assert!(refused("lease = { ttl_seconds = -1 }").starts_with("config.toml:1: lease.ttl_seconds: -1 is too small"));
        assert!(
            refused("[loop.a.agent]\n\"timeout_seconds\" = 0\n").starts_with("config.toml:2: loop.a.agent.timeout_seconds: 0")
        );
        assert!(refused("[loop.\"a b\"]\n").starts_with("config.toml:1:"));
        assert!(refused("nonsense").starts_with("config.toml:1:"));
        assert!(refused("[workspace]\nsetup = [\"npm ci\"]\n").starts_with("config.toml:2:"));
        assert!(refused("[workspace]\nsetup = [[]]\n").starts_with("config.toml:2: workspace.setup holds an empty command"));
        assert!(refused("[workspace]\nsetup_inputs = [\"../x\"]\n").contains("expected a path in the repository"));
        assert!(refused("[agent]\nset = { TEST_ID = \"x\" }\n").contains("agent.set: TEST_ID is set by coding-loops"));
        assert!(
            refused("[loop.a.agent]\nset = { \"\" = \"x\" }\n").contains("loop.a.agent.set: \"\" is not a valid variable name")
        );
        let second = "[[gate.check]]\nname = \"a\"\ncommand = [\"a\"]\n[[gate.check]]\nname = \"b\"\ncommand = []\n";
        assert!(refused(second).starts_with("config.toml:6: check \"b\" has no command"), "{}", refused(second));
        let check = |more: &str| refused(&format!("[[gate.check]]\nname = \"a\"\ncommand = [\"a\"]\n{more}\n"));
        assert!(check("per_test = \"always\"").contains("expected true, false or \"auto\""));
        assert!(check("per_test = 3").contains("expected true, false or \"auto\""));
        assert!(check("per_test = false\nfails_before = true").starts_with("config.toml:5: check \"a\" has fails_before"));
        assert!(check("paths = [\"[\"]").contains("is not a glob"));
        assert!(check("resources = [\"5432\"]").contains("name it like \"port:5432\""));
        let time = |text: &str| refused(&format!("[notify]\ncommand = [\"x\"]\nreport_at = {text}\n"));
        for text in ["\"7:30\"", "\"24:00\"", "\"07:60\"", "\"+1:30\"", "\"0730\"", "\"07:30:00\""] {
            assert!(
                time(text).starts_with(&format!("config.toml:3: notify.report_at: {text}; expected a time of day")),
                "{}",
                time(text)
            );
        }
        assert!(time("730").starts_with("config.toml:3: notify.report_at: "), "{}", time("730"));
        assert!(
            refused("[notify]\nreport_at = \"07:30\"\n").starts_with("config.toml:2: notify.report_at is set; set notify.")
        );
        assert!(refused("[notify]\nanswer_token_file = \"x\"\n").contains("only for preset = \"ntfy\""));
    }

    #[test]
    fn a_loop_overrides_the_agent() {
        let text = "[agent]\ncommand = [\"a\"]\ntimeout_seconds = 9\n[loop.one.agent]\ncommand = [\"b\"]\n";
        let config = Config::parse(text, Path::new("x")).unwrap();
        assert_eq!(config.agent_of(&"one".parse().unwrap()).command, ["b"]);
        assert_eq!(config.agent_of(&"one".parse().unwrap()).timeout_seconds, 9);
        assert_eq!(config.agent_of(&"two".parse().unwrap()).command, ["a"]);
    }
}
