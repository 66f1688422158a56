//! `loopctl up` and `loopctl down`: all programs of a repository in a terminal, without services.
//!
//! What runs is started and looked after by `scripts/launch.sh`, which marks its processes with a variable. Down signals only
//! processes with that mark, for this database.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use command_runner::{Process, started_with};
use coord_db::process::{Liveness, ProcessIdentity};
use coord_db::{Database, Error, SUPERVISORS, supervisor_of};
use serde::Serialize;

use crate::context::Context;
use crate::exit::{Failure, Outcome, eprintln_quietly};
use crate::service;

/// The variable that marks a process: the pid of the launcher, and the database.
const MARK: &str = "CODING_LOOPS_LAUNCH";
/// Time that a process has to end after SIGTERM, as in the launcher.
const PATIENCE: Duration = Duration::from_secs(15);

/// `loopctl up`: replaces this program.
///
/// # Errors
/// Exit 1 if services are enabled, or if there is no launcher.
pub fn up(cx: &Context, demo: bool, loops: Option<&str>) -> Outcome {
    if let Some(enabled) = service::enabled(&cx.path).first().filter(|_| !demo) {
        return Err(Failure::No(format!(
            "services run this repository: {} is enabled; start them with systemctl, or remove them first with {}",
            enabled.target,
            enabled.how_to_disable()
        )));
    }
    let programs = std::env::current_exe().ok().and_then(|own| own.parent().map(Path::to_owned)).unwrap_or_default();
    let (launcher, is_installed) = launcher(&programs)?;
    let mut command = Command::new(&launcher);
    if !is_installed && std::env::var_os("CODING_LOOPS_BIN").is_none() {
        command.env("CODING_LOOPS_BIN", &programs);
    }
    if demo {
        command.arg("--demo");
    } else {
        let database = cx.path.exists().then(|| cx.folder.join(&cx.path));
        let config = cx.global.config.as_ref().map(|file| cx.folder.join(file));
        for (option, file) in [("--db", &database), ("--config", &config)] {
            command.args(file.iter().flat_map(|file| [Path::new(option), file]));
        }
        command.args(loops.iter().flat_map(|loops| ["--loops", loops]));
        // The database may lie in another folder than the repository.
        let repository = cx.config()?.repository_path();
        if database.is_some() && repository.is_dir() {
            command.current_dir(repository);
        }
    }
    let error = command.exec();
    Err(Failure::No(format!("cannot run {}: {error}", launcher.display())))
}

/// The launcher beside the programs, or that of the source folder that they were built in.
fn launcher(programs: &Path) -> Outcome<(PathBuf, bool)> {
    let installed = programs.join("coding-loops-launch");
    if installed.is_file() {
        return Ok((installed, true));
    }
    let above = programs.ancestors().skip(1).take(2).map(|folder| folder.join("scripts/launch.sh"));
    let script = above.into_iter().find(|script| script.is_file()).ok_or_else(|| {
        Failure::No(format!(
            "{} is missing; install it with scripts/install.sh, or run scripts/launch.sh in the source folder",
            installed.display()
        ))
    })?;
    Ok((script, false))
}

/// A process by the name of its component.
#[derive(Debug, Serialize)]
struct Named {
    component: String,
    pid: i64,
    /// For people.
    #[serde(skip)]
    process: String,
}

impl Named {
    fn of((component, process): (String, ProcessIdentity)) -> Self {
        Self { component, pid: process.pid, process: process.to_string() }
    }

    /// Loops stop first.
    fn rank(&self) -> usize {
        let started = SUPERVISORS.iter().position(|each| each.id == supervisor_of(&self.component));
        started.map_or(0, |at| SUPERVISORS.len() - at)
    }
}

/// What a launcher has started.
struct Launched {
    processes: Vec<Process>,
    launchers: Vec<Process>,
}

impl Launched {
    fn find(database: &Path) -> Self {
        let (mut processes, mut launchers) = (Vec::new(), Vec::<Process>::new());
        let is_other = |(process, _): &(Process, Vec<u8>)| process.pid != std::process::id();
        for (process, mark) in started_with(MARK).into_iter().filter(is_other) {
            let mark = String::from_utf8_lossy(&mark);
            let Some((pid, _)) = mark.split_once(':').filter(|(_, of)| Path::new(of) == database) else { continue };
            processes.push(process);
            // A parent cannot have been replaced by another process with its pid.
            let parent = pid.parse().ok().filter(|pid| *pid == process.parent).and_then(Process::find);
            launchers.extend(parent.filter(|parent| !launchers.contains(parent)));
        }
        Self { processes, launchers }
    }

    fn is_empty(&self) -> bool {
        self.processes.is_empty() && self.launchers.is_empty()
    }
}

/// True if something runs that `loopctl up` has started for a database.
pub(crate) fn has_launched(database: &Path) -> bool {
    !Launched::find(&database.canonicalize().unwrap_or_else(|_| database.to_owned())).is_empty()
}

/// `loopctl down`
///
/// # Errors
/// Exit 1 if only something else runs, or if a process does not end; 3 without a database.
pub fn down(cx: &Context) -> Outcome {
    let database = cx.path.canonicalize().unwrap_or_else(|_| cx.path.clone());
    let launched = Launched::find(&database);
    // What runs on a damaged database can be stopped too.
    let running = match running(cx) {
        Err(failure) if launched.is_empty() => return Err(failure),
        running => running.unwrap_or_default(),
    };
    let is_ours = |process: &ProcessIdentity| {
        let of = |own: &Process| (i64::from(own.pid), i64::try_from(own.start_time).ok());
        process.liveness() == Liveness::Alive
            && launched.processes.iter().map(of).any(|own| own == (process.pid, process.pid_start_time))
    };
    let (ours, others): (Vec<_>, Vec<_>) = running.into_iter().partition(|(_, process)| is_ours(process));
    let [mut ours, others] = [ours, others].map(|found| found.into_iter().map(Named::of).collect::<Vec<_>>());
    ours.sort_by_key(Named::rank);
    let how = || match service::enabled(&database).first() {
        Some(enabled) => format!("stop the services with {}", enabled.how_to_disable()),
        None => "stop it where it was started".to_owned(),
    };
    if let (true, Some(other)) = (launched.is_empty(), others.first()) {
        let Named { component, process, .. } = other;
        return Err(Failure::No(format!("loopctl up has started nothing here, but {component} runs as {process}; {}", how())));
    }
    let is_stopping = !launched.is_empty();
    stop(&database, launched, &ours)?;
    for Named { component, process, .. } in &others {
        eprintln_quietly(&format!("{component} still runs as {process}, which loopctl up has not started; {}", how()));
    }
    let names: Vec<&str> = ours.iter().map(|one| one.component.as_str()).collect();
    let text = match (names.is_empty(), is_stopping) {
        (false, _) => format!("stopped: {}", names.join(", ")),
        (true, true) => "stopped before anything ran".to_owned(),
        (true, false) => "nothing runs".to_owned(),
    };
    cx.out.done(&serde_json::json!({ "stopped": ours, "others": others }), &text)
}

/// `loopctl reload`: checks the settings, and sends SIGHUP to what runs.
///
/// # Errors
/// Exit 2 for invalid settings; nothing is signalled then.
pub fn reload(cx: &Context) -> Outcome {
    cx.open_with_config()?;
    let (mut reloaded, mut others): (Vec<Named>, Vec<Named>) = (Vec::new(), Vec::new());
    for (component, process) in running(cx)? {
        if process.liveness() != Liveness::Alive {
            others.push(Named::of((component, process)));
            continue;
        }
        let Some(found) = u32::try_from(process.pid).ok().and_then(Process::find) else { continue };
        match found.reload() {
            Ok(true) => reloaded.push(Named::of((component, process))),
            Ok(false) => {}
            Err(error) => return Err(Failure::No(format!("cannot signal {component}, pid {}: {error}", process.pid))),
        }
    }
    reloaded.sort_by_key(Named::rank);
    let names: Vec<&str> = reloaded.iter().map(|one| one.component.as_str()).collect();
    for Named { component, process, .. } in &others {
        eprintln_quietly(&format!("{component} runs as {process}, which cannot be signalled from here; reload it there"));
    }
    let text = if names.is_empty() {
        format!("nothing runs{}; the settings are valid", if others.is_empty() { "" } else { " here" })
    } else {
        format!("asked to read the settings again: {}", names.join(", "))
    };
    cx.out.done(&serde_json::json!({ "reloaded": reloaded, "others": others }), &text)
}

/// The processes that the database names; the settings need not be readable.
fn running(cx: &Context) -> Outcome<Vec<(String, ProcessIdentity)>> {
    if !cx.path.exists() {
        return Err(Error::NoDatabase { path: cx.path.clone() }.into());
    }
    let db = Database::open(&cx.path, &cx.config().unwrap_or_default().open_options())?;
    Ok(db.read(|tx| tx.running_components(&ProcessIdentity::own()))?)
}

/// Stops the launcher, which stops the rest; then what has lost its launcher, in the same order.
fn stop(database: &Path, launched: Launched, ours: &[Named]) -> Outcome {
    let count = u32::try_from(launched.processes.len()).unwrap_or(u32::MAX).saturating_add(1);
    end(&launched.launchers, PATIENCE.saturating_mul(count))?;
    let rest = Launched::find(database).processes;
    // Their helpers, as git, end with them.
    let is_helper = |process: &Process| rest.iter().any(|other| other.pid == process.parent);
    let rank = |process: &Process| ours.iter().find(|one| one.pid == i64::from(process.pid)).map_or(0, Named::rank);
    for at in 0..=SUPERVISORS.len() {
        let of_rank = rest.iter().copied().filter(|process| !is_helper(process) && rank(process) == at);
        end(&of_rank.collect::<Vec<_>>(), PATIENCE)?;
    }
    end(&Launched::find(database).processes, PATIENCE)
}

/// Asks processes to end, and kills those that have not after this time.
fn end(processes: &[Process], patience: Duration) -> Outcome {
    signal(processes, Process::terminate)?;
    if !have_ended(processes, patience) {
        signal(processes, Process::kill)?;
    }
    if have_ended(processes, PATIENCE) {
        return Ok(());
    }
    let left = processes.iter().find(|process| process.is_running()).map_or(0, |process| process.pid);
    Err(Failure::No(format!("pid {left} does not end, although it was killed")))
}

fn signal(processes: &[Process], send: fn(Process) -> std::io::Result<bool>) -> Outcome {
    for process in processes.iter().filter(|process| process.is_running()) {
        send(*process).map_err(|error| Failure::No(format!("cannot stop pid {}: {error}", process.pid)))?;
    }
    Ok(())
}

fn have_ended(processes: &[Process], patience: Duration) -> bool {
    let until = Instant::now() + patience;
    processes.iter().all(|process| process.ends_within(until.saturating_duration_since(Instant::now())))
}
