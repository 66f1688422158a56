//! `loopctl service`: a repository's supervisors and loops as services of systemd.
//!
//! What runs and how stands in the installed template units. This writes what differs from one repository to the next, as
//! drop-ins: where its database is, whose it is, and what of the machine's files is seen. It must never write the units
//! themselves, nor anything that a name or path could turn into another directive.

mod drop_in;

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::{Args, Subcommand};
use coord_db::locate::Location;
use coord_db::process::ProcessIdentity;
use coord_db::supervisors::HEARTBEAT;
use coord_db::{Config, LoopId, SUPERVISORS};
use serde_json::json;

use crate::context::Context;
use crate::exit::{Failure, Outcome, eprintln_quietly};
use drop_in::Place;

/// What to do with the services of a repository.
#[derive(Debug, Subcommand)]
pub enum ServiceCommand {
    /// Start supervisors and loops, now and after each boot
    ///
    /// Loops without an agent are left out. Run it again after loopctl loop add.
    #[command(
        after_help = "Examples:\n  loopctl service enable\n  loopctl service enable --no-start --name shop\n  loopctl service enable --no-start --loops backend"
    )]
    Enable {
        #[command(flatten)]
        #[allow(missing_docs)]
        which: Services,
        /// Write the files and start nothing
        #[arg(long)]
        no_start: bool,
        /// Only these loops, separated by commas; with an empty text none. On each of several machines, those that run there
        #[arg(long, value_name = "NAMES")]
        loops: Option<String>,
    },
    /// Stop and remove the services; the data stays
    #[command(after_help = "Examples:\n  loopctl service enable\n  loopctl service disable")]
    Disable {
        #[command(flatten)]
        #[allow(missing_docs)]
        which: Services,
    },
    /// Rewrite the files of all enabled services for this version
    ///
    /// scripts/install.sh runs this after an upgrade.
    #[command(after_help = "Examples:\n  loopctl service refresh")]
    Refresh {
        /// Use services of the machine instead of your own; for root
        #[arg(long)]
        system: bool,
    },
}

/// Which services are meant.
#[derive(Debug, Clone, Args)]
pub struct Services {
    /// Use services of the machine instead of your own; for root
    #[arg(long)]
    pub system: bool,
    /// The name of the services, as in coding-loops@NAME.target [default: the name of the repository's folder]
    #[arg(long)]
    pub name: Option<ServiceName>,
}

/// What a repository's services are called: a part of the names of units, kept clear of what means something there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceName(String);

impl std::str::FromStr for ServiceName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let starts = text.starts_with(|c: char| c.is_ascii_alphanumeric());
        if starts && text.len() <= 64 && text.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c)) {
            Ok(Self(text.to_owned()))
        } else {
            Err("a name is 1 to 64 letters, digits, dots, dashes and underscores, beginning with a letter or digit".to_owned())
        }
    }
}

impl ServiceName {
    /// The folder's name with what no unit's name may hold replaced.
    fn of_folder(folder: &Path) -> Outcome<Self> {
        let name = folder.file_name().unwrap_or_default().to_string_lossy();
        let kept: String =
            name.chars().map(|c| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' }).take(64).collect();
        kept.trim_start_matches(|c: char| !c.is_ascii_alphanumeric())
            .parse()
            .map_err(|_| Failure::usage(format!("no name can be made of {}; give one with --name", folder.display())))
    }

    fn target(&self) -> String {
        format!("coding-loops@{}.target", self.0)
    }

    fn supervisor(&self, unit: &str) -> String {
        format!("coding-loops-{unit}@{}.service", self.0)
    }

    fn of_loop(&self, id: &LoopId) -> String {
        format!("coding-loops-loop@{}:{id}.service", self.0)
    }
}

/// One service manager, and where its units of the administrator stand.
struct Manager {
    system: bool,
    folder: PathBuf,
}

impl Manager {
    fn new(system: bool) -> Outcome<Self> {
        if system && !rustix::process::geteuid().is_root() {
            return Err(Failure::No("--system is for root; without it the services are your own".to_owned()));
        }
        Self::to_ask(system)
    }

    /// One that only answers questions, which anybody may ask.
    fn to_ask(system: bool) -> Outcome<Self> {
        let folder = if system {
            PathBuf::from("/etc/systemd/system")
        } else {
            let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
            let config = set("XDG_CONFIG_HOME").or_else(|| set("HOME").map(|home| home.join(".config")));
            config.ok_or_else(|| Failure::No("HOME is not set; say whose services are meant".to_owned()))?.join("systemd/user")
        };
        Ok(Self { system, folder })
    }

    fn command(&self) -> Command {
        let mut command = Command::new("systemctl");
        command.args((!self.system).then_some("--user")).arg("--no-pager").stdin(Stdio::null());
        command
    }

    /// What systemctl prints; if it fails, why.
    fn run(&self, arguments: &[&str]) -> Result<String, String> {
        let output = self.command().args(arguments).output().map_err(|error| format!("systemctl cannot be run: {error}"))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(views::text::safe(said.trim().lines().next().unwrap_or("systemctl gives no reason")))
    }

    fn ask(&self, arguments: &[&str]) -> Outcome {
        let shown = format!("systemctl {}{}", if self.system { "" } else { "--user " }, arguments.join(" "));
        self.run(arguments)
            .map(drop)
            .map_err(|why| Failure::No(format!("{shown}: {why}; look closer with systemctl status and journalctl")))
    }

    /// Refuses where services cannot run: no manager answers, or it does not know the unit.
    fn must_know(&self, target: &str) -> Outcome {
        let (whose, linger) = if self.system {
            ("service", "")
        } else {
            ("user", ", or run loginctl enable-linger, log in again and repeat this")
        };
        let state = self.run(&["show", "--property", "LoadState", "--value", target]).map_err(|why| {
            Failure::No(format!(
                "no systemd {whose} manager answers ({why}), and nothing was enabled; \
                 run everything without systemd with loopctl up{linger}"
            ))
        })?;
        if state == "not-found" {
            let system = if self.system { " --system" } else { "" };
            return Err(Failure::No(format!(
                "systemd does not find the unit of {target}, and nothing was enabled; \
                 install the units with scripts/install.sh{system}, or link them as it says after an installation with --prefix"
            )));
        }
        Ok(())
    }

    /// Where the drop-ins of a unit stand.
    fn drop_ins(&self, unit: &str) -> PathBuf {
        self.folder.join(format!("{unit}.d"))
    }

    /// The drop-in of a unit, if it has one of ours.
    fn text(&self, unit: &str) -> Option<String> {
        std::fs::read_to_string(self.drop_ins(unit).join(drop_in::FILE)).ok()
    }

    /// The names of all repositories that have services.
    fn all_names(&self) -> Vec<ServiceName> {
        let entries = std::fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        let prefix = format!("coding-loops-{}@", HEARTBEAT.program);
        names.filter_map(|unit| unit.strip_prefix(&prefix)?.strip_suffix(".service.d")?.parse::<ServiceName>().ok()).collect()
    }

    /// The names under which a database has services.
    fn names(&self, database: &Path) -> Vec<ServiceName> {
        let line = drop_in::database_line(database);
        let is_its = |text: String| text.lines().any(|its| its == line);
        let names = self.all_names().into_iter();
        names.filter(|name| self.text(&name.supervisor(HEARTBEAT.program)).is_some_and(is_its)).collect()
    }

    /// Every unit of a repository that has a drop-in of ours, with its text.
    fn texts(&self, name: &ServiceName) -> BTreeMap<String, String> {
        let fixed = SUPERVISORS.iter().map(|each| name.supervisor(each.program)).chain([name.target()]);
        let units = fixed.chain(self.loops(name));
        units.filter_map(|unit| Some((unit.clone(), self.text(&unit)?))).collect()
    }

    /// Brings the drop-ins of a repository back to what they were before a change that failed.
    fn take_back(&self, name: &ServiceName, before: &BTreeMap<String, String>) {
        for unit in self.texts(name).into_keys().filter(|unit| !before.contains_key(unit)) {
            forget(&self.drop_ins(&unit));
        }
        for (unit, text) in before {
            let _ = write(&self.drop_ins(unit), text);
        }
        if before.is_empty() {
            let _ = self.run(&["disable", "--now", &name.target()]);
        }
        let _ = self.run(&["daemon-reload"]);
    }

    /// Removes the links by which a target starts after a boot.
    fn unlink(&self, target: &str) {
        for entry in std::fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            let wants = entry.path();
            let is_link = wants.join(target).symlink_metadata().is_ok_and(|meta| meta.is_symlink());
            if is_link && wants.extension().is_some_and(|extension| extension == "wants") {
                let _ = std::fs::remove_file(wants.join(target));
                let _ = std::fs::remove_dir(wants);
            }
        }
    }

    /// How each unit is, as `active`, `failed`, `inactive`; none where no manager answers.
    fn states(&self, units: &[String]) -> Option<Vec<String>> {
        let output = self.command().arg("is-active").args(units).output().ok()?;
        let states: Vec<String> = String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect();
        (states.len() == units.len()).then_some(states)
    }

    /// The units of loops that have a drop-in of ours.
    fn loops(&self, name: &ServiceName) -> Vec<String> {
        let prefix = format!("coding-loops-loop@{}:", name.0);
        let entries = std::fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        let ours = names.filter(|unit| self.folder.join(unit).join(drop_in::FILE).is_file());
        let mut units: Vec<String> = ours
            .filter(|unit| unit.starts_with(&prefix))
            .filter_map(|unit| Some(unit.strip_suffix(".d")?.to_owned()))
            .collect();
        units.sort();
        units
    }
}

/// `loopctl service …`
///
/// # Errors
/// Exit 1 where no manager answers, without the installed units, or where the name is another repository's; 3 without a
/// database. After a failed `enable` the services are as they were before it.
pub fn run(cx: &Context, command: ServiceCommand) -> Outcome {
    match command {
        ServiceCommand::Enable { which, no_start, loops } => enable(cx, &which, !no_start, loops.as_deref()),
        ServiceCommand::Disable { which } => disable(cx, &which),
        ServiceCommand::Refresh { system } => refresh(cx, system),
    }
}

/// The services of one repository, as systemd knows them.
pub(crate) struct Enabled {
    /// Their target.
    pub(crate) target: String,
    /// Whether they are the machine's, and not the user's own.
    pub(crate) system: bool,
    /// Each unit with its state; none where the manager does not answer.
    pub(crate) states: Option<Vec<(String, String)>>,
}

impl Enabled {
    /// The command that stops and removes them.
    pub(crate) fn how_to_disable(&self) -> String {
        let name = self.target.trim_start_matches("coding-loops@").trim_end_matches(".target");
        format!("loopctl service disable{} --name {name}", if self.system { " --system" } else { "" })
    }
}

/// What is enabled for a database, with either manager.
pub(crate) fn enabled(database: &Path) -> Vec<Enabled> {
    let Ok(database) = database.canonicalize() else { return Vec::new() };
    let mut found = Vec::new();
    for manager in [false, true].into_iter().filter_map(|system| Manager::to_ask(system).ok()) {
        for name in manager.names(&database) {
            let mut units: Vec<String> = SUPERVISORS.iter().map(|each| name.supervisor(each.program)).collect();
            units.extend(manager.loops(&name));
            let states = manager.states(&units).map(|states| units.into_iter().zip(states).collect());
            found.push(Enabled { target: name.target(), system: manager.system, states });
        }
    }
    found
}

fn name_of(which: &Services, config: &Config) -> Outcome<ServiceName> {
    match &which.name {
        Some(name) => Ok(name.clone()),
        None => ServiceName::of_folder(&config.repository_path().canonicalize().unwrap_or_else(|_| config.repository_path())),
    }
}

fn io(what: &Path) -> impl FnOnce(std::io::Error) -> Failure {
    let context = format!("cannot write {}", what.display());
    move |source| coord_db::Error::Io { context, source }.into()
}

fn enable(cx: &Context, which: &Services, start: bool, loops: Option<&str>) -> Outcome {
    if cx.global.config.is_some() {
        return Err(Failure::usage("services read the config.toml beside the database; put the settings there"));
    }
    let (db, config) = cx.open_with_config()?;
    let manager = Manager::new(which.system)?;
    let name = name_of(which, &config)?;
    if start {
        manager.must_know(&name.target())?;
    }
    let place = place(&cx.path, &config, which.system)?;
    free(&manager, &name, &place)?;
    let rows = db.read(|tx| tx.loops())?;
    let named: Option<Vec<&str>> = loops.map(|names| names.split(',').filter(|name| !name.is_empty()).collect());
    if let Some(unknown) = named.iter().flatten().find(|name| !rows.iter().any(|row| row.id.as_str() == **name)) {
        return Err(Failure::not_found("loop", unknown));
    }
    let runs_here = |id: &&LoopId| named.as_ref().is_none_or(|named| named.contains(&id.as_str()));
    let driven = |id: &LoopId| !config.agent_of(id).command.is_empty();
    let here = rows.iter().map(|row| &row.id).filter(runs_here);
    let (with, by_hand): (Vec<&LoopId>, Vec<&LoopId>) = here.partition(|id| driven(id));

    let (target, before) = (name.target(), manager.texts(&name));
    let units = write_all(&manager, &name, &place, &config, &with).and_then(|units| {
        let gone = before.keys().filter(|unit| unit.starts_with("coding-loops-loop@") && !units.contains(unit));
        for gone in gone {
            if start {
                manager.ask(&["stop", gone])?;
            }
            forget(&manager.drop_ins(gone));
        }
        if start {
            manager.ask(&["daemon-reload"])?;
            manager.ask(&["enable", "--now", &target])?;
        }
        Ok(units)
    });
    let units = units.inspect_err(|_| manager.take_back(&name, &before))?;
    for id in &by_hand {
        eprintln!("loop {id} has no agent; it is driven by hand (loopctl next --loop {id})");
    }
    if place.on_server && std::env::var_os("PGPASSWORD").is_some() {
        eprintln!(
            "services do not get PGPASSWORD; write the password in the address in coordination.db, which only you can read"
        );
    }
    let user = if which.system { "" } else { "--user " };
    let mut text = format!("{target} {}", if start { "runs, also after the next boot" } else { "is written" });
    text.push_str(&format!("\nnext:\n  systemctl {user}status 'coding-loops*@{}*'\n  loopctl status", name.0));
    if !which.system {
        text.push_str("\n  loginctl enable-linger    (without it your services run only while you are logged in)");
    }
    let document = json!({ "target": target, "loops": units, "by_hand": by_hand, "started": start });
    match (cx.out.json, cx.out.quiet) {
        (true, _) => cx.out.document(&document),
        (false, true) => Ok(()),
        (false, false) => cx.out.text(&format!("{text}\n")),
    }
}

/// Writes the drop-ins of a repository; gives the units of its loops.
fn write_all(manager: &Manager, name: &ServiceName, place: &Place, config: &Config, loops: &[&LoopId]) -> Outcome<Vec<String>> {
    write_supervisors(manager, name, place, config)?;
    let mut units = Vec::new();
    for id in loops {
        let unit = name.of_loop(id);
        write(&manager.drop_ins(&unit), &place.of_loop(&name.target(), id))?;
        units.push(unit);
    }
    write(&manager.drop_ins(&name.target()), &drop_in::target(&units))?;
    Ok(units)
}

fn write_supervisors(manager: &Manager, name: &ServiceName, place: &Place, config: &Config) -> Outcome {
    for unit in SUPERVISORS.map(|each| each.program) {
        let text = place.supervisor(unit, config.notify.is_silent());
        write(&manager.drop_ins(&name.supervisor(unit)), &text)?;
    }
    Ok(())
}

/// Writes the drop-ins that are there again; the same services, with the same PATH.
fn refresh(cx: &Context, system: bool) -> Outcome {
    let manager = Manager::new(system)?;
    let mut refreshed = Vec::new();
    for name in manager.all_names() {
        let target = name.target();
        match refresh_one(&manager, &name) {
            Ok(true) => refreshed.push(target),
            Ok(false) => {}
            Err(failure) => {
                eprintln_quietly(&format!("loopctl: the files of {target} stay as they are: {}", failure.sentence()))
            }
        }
    }
    cx.out.done(&json!({ "targets": refreshed }), &format!("{} repositories have current service files", refreshed.len()))
}

/// False if the services are not ours.
fn refresh_one(manager: &Manager, name: &ServiceName) -> Outcome<bool> {
    let first = manager.text(&name.supervisor(HEARTBEAT.program)).unwrap_or_default();
    let Some(database) = drop_in::variable(&first, "CODING_LOOPS_DB") else { return Ok(false) };
    let config = Config::load(Path::new(&database), None)?;
    let mut place = place(Path::new(&database), &config, manager.system)?;
    let checker = manager.text(&name.supervisor("regression-checker"));
    if let Some(path) = checker.and_then(|text| drop_in::variable(&text, "PATH")) {
        place.path = path;
    }
    write_supervisors(manager, name, &place, &config)?;
    for unit in manager.loops(name) {
        let id = manager.text(&unit).and_then(|text| drop_in::variable(&text, "CODING_LOOPS_LOOP"));
        if let Some(id) = id.and_then(|id| id.parse::<LoopId>().ok()) {
            write(&manager.drop_ins(&unit), &place.of_loop(&name.target(), &id))?;
        }
    }
    Ok(true)
}

fn disable(cx: &Context, which: &Services) -> Outcome {
    let manager = Manager::new(which.system)?;
    let name = name_of(which, &cx.config()?)?;
    let target = name.target();
    let mut units: Vec<String> = SUPERVISORS.iter().map(|each| name.supervisor(each.program)).collect();
    units.extend(manager.loops(&name));
    if !manager.drop_ins(&name.supervisor(HEARTBEAT.program)).join(drop_in::FILE).is_file() {
        return Err(Failure::No(format!("there are no services called {target}; name them with --name")));
    }
    let has_manager = manager.run(&["show", "--property", "Version"]);
    match &has_manager {
        Ok(_) => {
            manager.ask(&["disable", &target])?;
            // Stopping the target alone would not wait for its services.
            let stopped: Vec<&str> = ["stop", &target].into_iter().chain(units.iter().map(String::as_str)).collect();
            manager.ask(&stopped)?;
        }
        Err(why) => {
            must_be_at_rest(cx, &format!("no systemd manager answers ({why}) that could stop {target}"))?;
            manager.unlink(&target);
        }
    }
    for unit in units.iter().chain([&target]) {
        forget(&manager.drop_ins(unit));
    }
    if has_manager.is_ok() {
        manager.ask(&["daemon-reload"])?;
    }
    cx.out.done(&json!({ "target": target, "stopped": units }), &format!("{target} is stopped and gone; the data stays"))
}

/// Refuses while something runs on the database.
fn must_be_at_rest(cx: &Context, why: &str) -> Outcome {
    if !cx.path.exists() {
        return Ok(());
    }
    let running = cx.open()?.read(|tx| tx.running_components(&ProcessIdentity::own()))?;
    match running.first() {
        None => Ok(()),
        Some((component, process)) => Err(Failure::No(format!("{why}, and {component} runs as {process}; stop it first"))),
    }
}

/// What the drop-ins say, from the settings and the owner of the database.
fn place(database: &Path, config: &Config, system: bool) -> Outcome<Place> {
    let absolute =
        |path: &Path| path.canonicalize().map_err(|error| Failure::No(format!("{} cannot be used: {error}", path.display())));
    let database = absolute(database)?;
    let folder = database.parent().map(Path::to_owned).unwrap_or_default();
    let repository = absolute(&config.repository_path())?;
    let owner = std::fs::metadata(&database).map(|meta| meta.uid()).unwrap_or_default();
    let user = nix::unistd::User::from_uid(owner.into()).ok().flatten();
    let user = user.ok_or_else(|| Failure::No(format!("{} belongs to nobody who has a name here", database.display())))?;
    if !system && owner != rustix::process::geteuid().as_raw() {
        return Err(Failure::No(format!("{} belongs to {}; only {} can run it", database.display(), user.name, user.name)));
    }
    let workspaces = make_for(&config.workspace_root(), owner)?;
    let programs = std::env::current_exe().ok().and_then(|own| own.parent().map(Path::to_owned)).unwrap_or_default();
    let path = std::env::var("PATH").unwrap_or_default();
    let on_server = matches!(Location::of(&database), Location::Server(_));
    let place =
        Place { database, folder, repository, workspaces, user: user.name, home: user.dir, programs, path, system, on_server };
    place.check().map_err(Failure::No)?;
    Ok(place)
}

/// The folder of store and workspaces, made for its owner where it is missing: a unit cannot start without it.
fn make_for(folder: &Path, owner: u32) -> Outcome<PathBuf> {
    let cannot = |error| Failure::No(format!("{} cannot be used: {error}; set root in [workspace]", folder.display()));
    if !folder.exists() {
        std::fs::create_dir_all(folder).map_err(cannot)?;
        if rustix::process::geteuid().as_raw() != owner {
            std::os::unix::fs::chown(folder, Some(owner), None).map_err(cannot)?;
        }
    }
    folder.canonicalize().map_err(cannot)
}

/// A name is free, or this database's already.
fn free(manager: &Manager, name: &ServiceName, place: &Place) -> Outcome {
    let file = manager.drop_ins(&name.supervisor(HEARTBEAT.program)).join(drop_in::FILE);
    let Ok(text) = std::fs::read_to_string(file) else { return Ok(()) };
    if text.lines().any(|line| line == place.database_line()) {
        return Ok(());
    }
    Err(Failure::No(format!("{} are another repository's services; choose another name with --name", name.target())))
}

/// Whole or not at all: a manager may read it at any moment.
fn write(folder: &Path, text: &str) -> Outcome {
    let file = folder.join(drop_in::FILE);
    std::fs::create_dir_all(folder).map_err(io(folder))?;
    let fresh = folder.join(format!(".{}", drop_in::FILE));
    std::fs::write(&fresh, text).and_then(|()| std::fs::rename(&fresh, &file)).map_err(io(&file))
}

/// Our drop-in, and the folder if nothing else is in it: others' drop-ins stay.
fn forget(folder: &Path) {
    let _ = std::fs::remove_file(folder.join(drop_in::FILE));
    let _ = std::fs::remove_dir(folder);
}
