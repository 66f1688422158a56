//! `loopctl doctor`: the machine, the settings and the processes, each with what to do about it. It needs no database.
//!
//! A problem is what keeps work from starting; everything else that is not as it should be is a warning.

mod agents;
mod branch;
mod needs;
mod phone;
pub(crate) mod sandbox;
mod server;
mod trial;
mod workspaces;

use std::path::Path;

use coord_db::file_system::{FileSystem, Reach};
use coord_db::locate::Location;
use coord_db::process::{Liveness, ProcessIdentity};
use coord_db::{ClockChange, Config, Database, HealthStatus, ON_EACH_HOST, SCHEMA_VERSION, SUPERVISORS, supervisor_of};
use serde::Serialize;
use views::health::{Health, healths};
use views::text::safe;

use crate::context::Context;
use crate::exit::{Failure, Outcome};
use crate::output::Paint;
use crate::place::existing;
use crate::programs;
use crate::service;
use git::Repository;

pub(crate) use branch::commits as commits_of_branch;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Grade {
    Ok,
    Warning,
    Problem,
}

#[derive(Debug, Serialize)]
struct Finding {
    check: &'static str,
    grade: Grade,
    detail: String,
    remedy: Option<String>,
    /// What is known of an agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    agent: Option<agents::Facts>,
}

#[derive(Debug, Default)]
struct Report(Vec<Finding>);

impl Report {
    fn add(&mut self, check: &'static str, grade: Grade, detail: impl Into<String>, remedy: Option<String>) {
        self.0.push(Finding { check, grade, detail: detail.into(), remedy, agent: None });
    }

    fn ok(&mut self, check: &'static str, detail: impl Into<String>) {
        self.add(check, Grade::Ok, detail, None);
    }

    fn agent(&mut self, facts: agents::Facts) {
        let detail = facts.sentence();
        self.0.push(Finding { check: "agent", grade: Grade::Ok, detail, remedy: None, agent: Some(facts) });
    }

    fn warning(&mut self, check: &'static str, detail: impl Into<String>, remedy: impl Into<String>) {
        self.add(check, Grade::Warning, detail, Some(remedy.into()));
    }

    fn problem(&mut self, check: &'static str, detail: impl Into<String>, remedy: impl Into<String>) {
        self.add(check, Grade::Problem, detail, Some(remedy.into()));
    }
}

/// `loopctl doctor`
///
/// # Errors
/// Exit 1 if anything is a problem, after the list.
pub fn run(cx: &Context, before_start: bool, run_checks: bool) -> Outcome {
    let mut report = Report::default();
    report.ok("program", format!("loopctl {}, schema version {SCHEMA_VERSION}", env!("CARGO_PKG_VERSION")));
    let config = settings(cx, &mut report);
    let folder = existing(cx.path.parent().unwrap_or(&cx.folder)).to_owned();
    let db = if cx.path.exists() {
        Database::open(&cx.path, &config.open_options())
    } else {
        Err(coord_db::Error::NoDatabase { path: cx.path.clone() })
    };
    let is_on_server = matches!(Location::of(&cx.path), Location::Server(_));
    let registered = db.as_ref().ok().and_then(|db| db.read(|tx| tx.loops()).ok());
    let root = folder.join(config.repository_path());
    git_version(&mut report);
    if repository(&root, &mut report) {
        let made = db.as_ref().ok().and_then(|db| db.read(branch::made_by_loops).ok()).unwrap_or_default();
        branch::examine(&config, &root, registered.as_deref().unwrap_or_default(), &made, &mut report);
        branch::examine_followed(&config, &root, &mut report);
        branch::examine_remote(&config, &root, &mut report);
        let landed = db.as_ref().ok().and_then(|db| db.read(|tx| tx.landed_tests()).ok()).unwrap_or_default();
        workspaces::examine(&config, &root, &cx.path, &landed, &mut report);
        needs::examine(&config, &root, &mut report);
    }
    let has_agent = agents::examine(&config, &root, &cx.path, registered.as_deref(), &mut report);
    checks(&config, &root, has_agent, &mut report);
    phone::examine(&config, &root, &mut report);
    if is_on_server {
        disk("disk", &folder, "free disk space; logs grow", &mut report);
    } else {
        file_system(&folder, &mut report);
    }
    inotify(&mut report);
    if cx.path.exists() {
        permissions(cx, &mut report);
    }
    match db {
        Ok(db) => {
            if let Err(Failure::Database(error)) = database(&db, &config, before_start, &mut report) {
                report.problem("database", error.to_string(), "run loopctl check");
            }
            if !before_start {
                services(&cx.path, &mut report);
                git_clean(&folder, is_on_server, &mut report);
            }
        }
        Err(error @ coord_db::Error::NoDatabase { .. }) if !is_on_server => {
            report.problem("database", error.to_string(), "create one with loopctl init, or name it with --db");
        }
        Err(error) if is_on_server => report.problem("database", error.to_string(), server::remedy(&error)),
        Err(error) => {
            report.problem("database", error.to_string(), "restore a backup with loopctl restore FILE");
        }
    }
    if run_checks {
        trial::run(cx, &config, &root, &mut report)?;
    }
    print(cx, &report.0)?;
    match report.0.iter().filter(|finding| finding.grade == Grade::Problem).count() {
        0 => Ok(()),
        1 => Err(Failure::No("work cannot start: 1 problem; fix it and run loopctl doctor again".to_owned())),
        count => Err(Failure::No(format!("work cannot start: {count} problems; fix them and run loopctl doctor again"))),
    }
}

fn print(cx: &Context, findings: &[Finding]) -> Outcome {
    if cx.out.json {
        return cx.out.document(&findings);
    }
    let mut text = String::new();
    for finding in findings {
        let (paint, word) = match finding.grade {
            Grade::Ok => (Paint::Green, "ok"),
            Grade::Warning => (Paint::Yellow, "warning"),
            Grade::Problem => (Paint::Red, "problem"),
        };
        if cx.out.quiet && finding.grade == Grade::Ok {
            continue;
        }
        let pad = " ".repeat(8 - word.len());
        let detail = match finding.check {
            // The end of an output.
            "run" => finding.detail.lines().map(safe).collect::<Vec<_>>().join(&format!("\n{:21}", "")),
            _ => safe(&finding.detail),
        };
        text.push_str(&format!("{}{pad}{:<12} {detail}\n", cx.out.paint(paint, word), finding.check));
        if let Some(remedy) = &finding.remedy {
            text.push_str(&format!("{:21}{}\n", "", cx.out.paint(Paint::Dim, &format!("→ {}", safe(remedy)))));
        }
    }
    cx.out.text(&text)
}

fn settings(cx: &Context, report: &mut Report) -> Config {
    let file = cx.global.config.clone().unwrap_or_else(|| Config::path_for(&cx.path));
    match Config::load(&cx.path, cx.global.config.as_deref()) {
        Ok(config) if file.exists() => {
            report.ok("settings", file.display().to_string());
            config
        }
        Ok(config) => {
            report.warning(
                "settings",
                format!("{} does not exist; the defaults apply", file.display()),
                "create it with loopctl init",
            );
            config
        }
        Err(error) => {
            report.problem("settings", error.to_string(), "correct that line; the rest of this report uses the defaults");
            let folder = file.parent().map(Path::to_owned).unwrap_or_default();
            Config { folder, ..Config::default() }
        }
    }
}

fn git_version(report: &mut Report) {
    let Ok(text) = git::git_version() else {
        return report.problem("git", "cannot run git", "install git, or add it to the PATH");
    };
    let numbers: Vec<u32> =
        text.split_whitespace().nth(2).unwrap_or_default().split('.').map_while(|part| part.parse().ok()).collect();
    if numbers.as_slice() < [2, 31].as_slice() {
        report.problem("git", text, "install git 2.31 or newer");
    } else {
        report.ok("git", text);
    }
}

/// What keeps loops from starting at the commit that is checked out, and what to do.
#[must_use]
pub(crate) fn unready(path: &Path) -> Option<(String, String)> {
    let shown = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let repository = match Repository::open(path) {
        Ok(repository) => repository,
        Err(git::Error::ForeignOwner { .. }) => {
            let remedy = format!("allow it with git config --global --add safe.directory {}", shown.display());
            return Some((format!("{} belongs to another user, and git refuses to read it", shown.display()), remedy));
        }
        Err(_) => {
            let remedy = "set repository.path in config.toml, relative to that file";
            return Some((format!("{} is not a git repository", shown.display()), remedy.to_owned()));
        }
    };
    let Ok(Some(head)) = repository.resolve("HEAD") else {
        let remedy = "create a first commit; loops start from it";
        return Some((format!("{} has no commit yet", shown.display()), remedy.to_owned()));
    };
    match repository.must_have_files_of(&head) {
        Ok(()) => None,
        Err(git::Error::PartialClone { count, .. }) => Some((
            format!("{} is a partial clone; {count} files of {} are missing", shown.display(), head.short()),
            "fetch them with git fetch --refetch --no-filter".to_owned(),
        )),
        Err(error) => Some((error.to_string(), "run git status in the repository".to_owned())),
    }
}

/// Whether there is one with a commit that loops can start from.
fn repository(path: &Path, report: &mut Report) -> bool {
    if let Some((detail, remedy)) = unready(path) {
        report.problem("repository", detail, remedy);
        return false;
    }
    report.ok("repository", path.canonicalize().unwrap_or_else(|_| path.to_owned()).display().to_string());
    true
}

/// The checks of the gate, without running them.
fn checks(config: &Config, root: &Path, has_agent: bool, report: &mut Report) {
    const NONE: (&str, &str) = ("no check is configured; work cannot be verified", "add a [[gate.check]] to config.toml");
    let checks: Vec<(&str, Option<String>)> =
        config.gate.check.iter().map(|check| (check.name.as_str(), programs::lacks(&check.command, root))).collect();
    for (name, lacks) in checks.iter().filter_map(|(name, lacks)| Some((name, lacks.as_ref()?))) {
        report.problem(
            "gate",
            format!("check {name} cannot pass: {lacks}"),
            "install it on the machine of the loops, or change the check in config.toml",
        );
    }
    match checks.is_empty() {
        // A loop that is driven by hand has more to gain than the gate.
        true if !has_agent => report.warning("gate", NONE.0, NONE.1),
        true => report.problem("gate", NONE.0, NONE.1),
        false if checks.iter().all(|(_, lacks)| lacks.is_none()) => {
            let names: Vec<&str> = checks.iter().map(|(name, _)| *name).collect();
            report.ok("gate", format!("{}: their programs are installed", names.join(", ")));
        }
        false => {}
    }
}

fn file_system(folder: &Path, report: &mut Report) {
    const LOCAL: &str = "move the database to a local file system, and name it with --db or CODING_LOOPS_DB";
    match FileSystem::of(folder) {
        Ok(FileSystem { kind, reach: Reach::Local }) => report.ok("file system", format!("{kind}, local to this machine")),
        Ok(FileSystem { kind, reach: Reach::Network }) => report.problem(
            "file system",
            format!("{kind}: a network file system, on which the locks of SQLite do not work; it is refused"),
            LOCAL,
        ),
        Ok(FileSystem { kind, reach: Reach::Unsure }) => {
            report.warning("file system", format!("{kind}: it may be shared with other machines"), LOCAL);
        }
        Err(error) => report.warning("file system", format!("cannot read its type: {error}"), LOCAL),
    }
    disk("disk", folder, "free disk space; the database grows", report);
}

/// How much room there is where a folder is, or will be.
fn disk(check: &'static str, folder: &Path, remedy: &str, report: &mut Report) {
    const TIGHT_BYTES: u64 = 1 << 30;
    const FULL_BYTES: u64 = 100 << 20;
    let Ok(stat) = rustix::fs::statvfs(existing(folder)) else { return };
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    let detail = format!("{} MB free at {}", free >> 20, folder.display());
    match free {
        0..FULL_BYTES => report.problem(check, detail, format!("{remedy}; writes fail when it is full")),
        FULL_BYTES..TIGHT_BYTES => report.warning(check, detail, remedy),
        _ => report.ok(check, detail),
    }
}

fn inotify(report: &mut Report) {
    const FEWEST_WATCHES: u64 = 8_192;
    const FEWEST_INSTANCES: u64 = 64;
    let limit = |name: &str| {
        std::fs::read_to_string(format!("/proc/sys/fs/inotify/{name}")).ok().and_then(|text| text.trim().parse::<u64>().ok())
    };
    match (limit("max_user_watches"), limit("max_user_instances")) {
        (Some(watches), Some(instances)) if watches >= FEWEST_WATCHES && instances >= FEWEST_INSTANCES => {
            report.ok("inotify", format!("{watches} watches, {instances} instances"));
        }
        (Some(watches), Some(instances)) => report.warning(
            "inotify",
            format!("only {watches} watches and {instances} instances; beyond them, changes are polled"),
            "sysctl fs.inotify.max_user_watches=65536 fs.inotify.max_user_instances=256",
        ),
        _ => report.warning("inotify", "cannot read its limits", "nothing to do: without inotify, changes are polled"),
    }
}

fn permissions(cx: &Context, report: &mut Report) {
    use std::os::unix::fs::MetadataExt;
    let own = rustix::process::geteuid().as_raw();
    for path in [Some(cx.path.as_path()), cx.path.parent()].into_iter().flatten() {
        let Ok(meta) = std::fs::metadata(path) else { continue };
        if meta.uid() != own {
            report.warning(
                "permissions",
                format!("{} belongs to another user", path.display()),
                "run everything as the user that owns the database",
            );
            return;
        }
        if meta.mode() & 0o077 != 0 {
            report.warning(
                "permissions",
                format!("others can read {} (mode {:o})", path.display(), meta.mode() & 0o777),
                format!("chmod go= {}", path.display()),
            );
            return;
        }
    }
    report.ok("permissions", "only you can read it");
}

fn database(db: &Database, config: &Config, before_start: bool, report: &mut Report) -> Outcome {
    if !server::examine(db, config, report)? {
        database_file(db, config, report)?;
    }
    db.read(|tx| {
        if !before_start {
            processes(tx, config, report)?;
        }
        clock(tx, report)
    })?;
    Ok(())
}

fn database_file(db: &Database, config: &Config, report: &mut Report) -> Outcome {
    let facts = db.facts()?;
    let detail = format!(
        "schema {}, {} KB, {} KB in the -wal, journal mode {}, SQLite {}",
        facts.schema_version,
        facts.bytes >> 10,
        facts.wal_bytes >> 10,
        facts.journal_mode,
        facts.sqlite_version
    );
    let limit = config.budget.database_megabytes;
    if facts.journal_mode != "wal" {
        report.problem("database", detail, "move it to a local file system, where SQLite can use a WAL");
    } else if limit > 0 && facts.bytes >> 20 >= limit {
        report.warning("database", detail, format!("it exceeds budget.database_megabytes = {limit}; run loopctl archive"));
    } else {
        report.ok("database", detail);
    }
    Ok(())
}

fn processes(tx: &coord_db::ReadTx<'_>, config: &Config, report: &mut Report) -> coord_db::Result<()> {
    let rows = healths(tx, config)?;
    let alive = |id: &str| {
        rows.iter().filter(|health| supervisor_of(&health.row.component) == id).any(|health| {
            health.verdict != HealthStatus::Unknown
                && health.row.identity().as_ref().map(ProcessIdentity::liveness) != Some(Liveness::Gone)
        })
    };
    let (run, off): (Vec<&str>, Vec<&str>) = SUPERVISORS.iter().map(|each| each.id).partition(|id| alive(id));
    if off.is_empty() {
        report.ok("supervisors", "all are running");
    } else {
        let shown = if run.is_empty() {
            "none is running".to_owned()
        } else {
            format!("running: {}; not running: {}", run.join(", "), off.join(", "))
        };
        report.warning("supervisors", shown, "start them with loopctl up, or loopctl service enable");
    }
    let heartbeat = tx.supervisor_id(ON_EACH_HOST)?;
    let runs_here =
        |health: &&Health| !health.is_elsewhere && matches!(health.verdict, HealthStatus::Healthy | HealthStatus::Degraded);
    let mut here = rows.iter().filter(runs_here).map(|health| health.row.component.as_str()).peekable();
    if heartbeat.as_str() != ON_EACH_HOST && here.peek().is_some() && !here.any(|id| id == heartbeat.as_str()) {
        report.warning(
            "heartbeat",
            "none runs on this machine: processes that end here are noticed only by their silence",
            "start one with loopctl up, or loopctl service enable",
        );
    }
    let own = env!("CARGO_PKG_VERSION");
    let other = rows.iter().filter(|health| alive(&health.row.component));
    let other: Vec<String> = other
        .filter_map(|health| Some((&health.row.component, health.row.version.as_deref()?)))
        .filter(|(_, version)| *version != own)
        .map(|(component, version)| format!("{component} {version}"))
        .collect();
    if !other.is_empty() {
        report.warning(
            "versions",
            format!("{} differ from loopctl {own}", other.join(", ")),
            "restart them with scripts/install.sh",
        );
    }
    for row in tx.loops()?.iter().filter(|row| row.pid.is_some()) {
        if !alive(row.id.as_str()) {
            report.warning(
                "loops",
                format!("loop {} is recorded as running, but its process {} has ended", row.id, row.pid.unwrap_or_default()),
                format!("clean up with heartbeat --once; start it again with coding-loop {}", row.id),
            );
        }
    }
    Ok(())
}

/// What systemd runs for this database.
fn services(database: &Path, report: &mut Report) {
    let enabled = service::enabled(database);
    if enabled.is_empty() {
        report.ok("services", "none enabled for this repository; see loopctl service enable");
    }
    for one in enabled {
        let user = if one.system { "" } else { "--user " };
        let Some(states) = one.states else {
            report.warning(
                "services",
                format!("{} is enabled, but systemd does not respond", one.target),
                format!("run systemctl {user}status; without systemd, use loopctl up"),
            );
            continue;
        };
        let of = |wanted: &[&str]| -> Vec<&str> {
            states.iter().filter(|(_, state)| wanted.contains(&state.as_str())).map(|(unit, _)| unit.as_str()).collect()
        };
        let (failed, active) = (of(&["failed"]), of(&["active", "activating", "reloading"]));
        if !failed.is_empty() {
            report.warning(
                "services",
                format!("{} of {} failed", failed.join(", "), one.target),
                format!(
                    "see journalctl {user}-u {}; then run systemctl {user}reset-failed and systemctl {user}start {}",
                    failed[0], one.target
                ),
            );
        } else if active.len() < states.len() {
            let off = states.iter().filter(|(unit, _)| !active.contains(&unit.as_str())).map(|(unit, _)| unit.as_str());
            report.warning(
                "services",
                format!("{} of {} are not running", off.collect::<Vec<_>>().join(", "), one.target),
                format!("start them with systemctl {user}start {}; a loop without an agent ends at once", one.target),
            );
        } else {
            report.ok("services", format!("{}: all {} are running", one.target, states.len()));
        }
    }
}

fn clock(tx: &coord_db::ReadTx<'_>, report: &mut Report) -> coord_db::Result<()> {
    let newest = tx.events(&coord_db::EventFilter { limit: Some(1), ..coord_db::EventFilter::default() })?.pop();
    let ahead = newest.map_or(0, |event| event.timestamp.seconds_since(tx.now()));
    if ahead > 60 {
        report.problem(
            "clock",
            format!("the newest event is {ahead} s in the future"),
            "correct the system clock; leases and timeouts depend on it",
        );
        return Ok(());
    }
    match tx.clock_change()? {
        ClockChange::Jumped(millis) => report.warning(
            "clock",
            format!("it was set by {} s since the last pass of a supervisor", millis / 1000),
            "nothing to do: leases and heartbeats get a grace period",
        ),
        ClockChange::Suspended(millis) => {
            report.ok("clock", format!("the machine was suspended for {} s; timeouts do not count it", millis / 1000));
        }
        ClockChange::None | ClockChange::Rebooted => report.ok("clock", format!("{} UTC", tx.now().to_sql_text())),
    }
    Ok(())
}

/// The folder is ignored by git, so only `-x` reaches it; a word of warning is all that can be done.
fn git_clean(folder: &Path, is_on_server: bool, report: &mut Report) {
    let Ok(Some(ignored)) = git::is_ignored(&folder.join("config.toml")) else { return };
    if ignored {
        report.warning(
            "git clean",
            format!("git clean -fdx in the repository would delete {}", folder.display()),
            match is_on_server {
                true => "use git clean -fdx -e coding-loops; the database is on its server",
                false => "use git clean -fdx -e coding-loops, and keep backups elsewhere with loopctl backup FILE",
            },
        );
    } else {
        report.warning(
            "git clean",
            format!("git does not ignore {}: git add would add it and git clean -fd delete it", folder.display()),
            "create its .gitignore with loopctl init",
        );
    }
}
