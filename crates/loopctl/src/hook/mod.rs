//! `loopctl hook`: answers the hooks of agents before an edit and at the end of their work.
//!
//! Agents take an exit status of 1, a crash and a timeout for a yes. So each way out of here is a verdict: what fails is a
//! refusal, with the reason, and a watchdog refuses before the agent gives up. Agents also edit through their shell; what
//! the workspace shows stays the guard.

mod input;

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use coding_loop::Checked;
use coord_db::{Acquire, Config, Database, Error, LeasePath, LoopId, ReadTx};
use nix::sys::signal::SigSet;
use serde_json::json;
use tokio::sync::watch;

use crate::cli::{HookAgent, HookArgs};
use crate::context::{Context, Global};
use crate::exit::{Failure, Outcome, eprintln_quietly};
use crate::leasing::{self, Refusal, Wanted};
use crate::mcp::{failed, meanwhile};
use crate::submit::{failure, until_stopped};
use crate::wait::Waiter;
use crate::workplace::Workplace;
use input::{Hook, When};

/// The exit status that an agent takes for a no.
const NO: u8 = 2;
/// Seconds after the longest wait, or the checks, after which the watchdog refuses.
const MARGIN: u32 = 10;

/// A no to the agent.
#[derive(Debug)]
enum Verdict {
    Yes,
    /// What the agent reads.
    No(String),
}

/// The whole command.
#[must_use]
pub fn main(global: Global, args: &HookArgs) -> ExitCode {
    // The release build ends a panic by a signal, which agents take for a yes.
    std::panic::set_hook(Box::new(|panic| {
        refuse(&format!("failed: {panic}; report this defect"));
        std::process::exit(i32::from(NO));
    }));
    // Until it is known when the hook runs.
    let limit = Arc::new(AtomicU32::new(args.wait.saturating_add(MARGIN)));
    watch_over(Arc::clone(&limit));
    let verdict = read_input(args.agent).and_then(|hook| {
        if hook.when == When::AtEnd {
            limit.store(args.checks.saturating_add(MARGIN), Ordering::Relaxed);
        }
        match answer(global, args, &hook) {
            // The agent would be sent back for ever.
            Err(why) if hook.is_sent_back => {
                eprintln_quietly(&format!("loopctl hook: cannot check the work: {}", why.sentence()));
                Ok(Verdict::Yes)
            }
            answer => answer,
        }
    });
    match verdict {
        Ok(Verdict::Yes) => ExitCode::SUCCESS,
        Ok(Verdict::No(text)) => say_no(args.agent, &text),
        Err(why) => {
            refuse(&format!("failed, so this is refused: {}", why.sentence()));
            ExitCode::from(NO)
        }
    }
}

/// Refuses after this number of seconds.
fn watch_over(limit: Arc<AtomicU32>) {
    let begun = Instant::now();
    std::thread::spawn(move || {
        // Signals are for the thread that waits.
        let _ = SigSet::all().thread_block();
        loop {
            let limit = Duration::from_secs(u64::from(limit.load(Ordering::Relaxed)));
            let Some(left) = limit.checked_sub(begun.elapsed()) else {
                refuse(&format!("has no answer after {} s, so this is refused; try again", limit.as_secs()));
                std::process::exit(i32::from(NO));
            };
            std::thread::park_timeout(left);
        }
    });
}

fn refuse(text: &str) {
    eprintln_quietly(&format!("loopctl hook {text}"));
}

/// Refuses in the form that the agent expects.
fn say_no(agent: HookAgent, text: &str) -> ExitCode {
    if agent == HookAgent::Gemini {
        let mut out = std::io::stdout().lock();
        if writeln!(out, "{}", json!({ "decision": "deny", "reason": text })).and_then(|()| out.flush()).is_ok() {
            return ExitCode::SUCCESS;
        }
    }
    eprintln_quietly(text);
    ExitCode::from(NO)
}

fn read_input(agent: HookAgent) -> Outcome<Hook> {
    let mut bytes = Vec::new();
    let read = std::io::stdin().lock().read_to_end(&mut bytes);
    read.map_err(|error| Failure::No(format!("cannot read the input of the hook: {error}")))?;
    input::read(agent, &bytes).map_err(Failure::No)
}

fn answer(global: Global, args: &HookArgs, hook: &Hook) -> Outcome<Verdict> {
    match &hook.when {
        When::BeforeEdit(files) => before_edit(&Context::new(global)?, args, files, hook.folder.as_deref()),
        When::AtEnd => at_end(&Context::new(global)?, args, &hook.session),
        When::Other => Ok(Verdict::Yes),
    }
}

// ---- before an edit ----

fn before_edit(cx: &Context, args: &HookArgs, files: &[PathBuf], folder: Option<&Path>) -> Outcome<Verdict> {
    let config = cx.config()?;
    let place = Workplace::of(&config, &args.loop_id);
    if !place.root().is_dir() {
        return Err(Failure::No(format!("loop {} has no workspace at {}", args.loop_id, place.root().display())));
    }
    let folder = folder.unwrap_or(&cx.folder);
    let inside = files.iter().filter_map(|file| place.file(file, folder));
    let mut files: Vec<PathBuf> = inside.filter(|file| coding_loop::is_leased(&config, file)).collect();
    files.sort();
    files.dedup();
    if files.is_empty() {
        return Ok(Verdict::Yes);
    }
    let paths = |files: &[PathBuf]| -> Outcome<Vec<LeasePath>> {
        files.iter().map(|file| coding_loop::lease_path(file).map_err(Failure::No)).collect()
    };
    let wanted = paths(&files)?;
    // git answers while the database is opened.
    let (db, is_held, ignored) = std::thread::scope(|scope| {
        let asking = scope.spawn(|| git::ignored_in(place.root(), &files));
        let db = Database::open(&cx.path, &config.open_options())?;
        let is_held = db.read(|tx| holds_all(tx, &args.loop_id, &wanted))?;
        let ignored = asking.join().map_err(|_| Failure::No("a thread has failed".to_owned()))?;
        Ok::<_, Failure>((db, is_held, ignored))
    })?;
    if is_held {
        return Ok(Verdict::Yes);
    }
    let ignored = ignored.map_err(|error| Failure::No(coord_db::error_chain(&error)))?;
    files.retain(|file| !ignored.contains(file));
    if files.is_empty() {
        return Ok(Verdict::Yes);
    }
    lease(cx, &db, &config, args, paths(&files)?)
}

/// True if the loop holds a lease on each path or on a folder above it.
fn holds_all(tx: &ReadTx<'_>, loop_id: &LoopId, paths: &[LeasePath]) -> Result<bool, Error> {
    for path in paths {
        let own = tx.leases_overlapping(path)?.into_iter().any(|lease| {
            lease.locked_by == loop_id.as_str()
                && lease.file_path.covers(path)
                && lease.expires_at.is_none_or(|expires| expires > tx.now())
        });
        if !own {
            return Ok(false);
        }
    }
    Ok(true)
}

fn lease(cx: &Context, db: &Database, config: &Config, args: &HookArgs, paths: Vec<LeasePath>) -> Outcome<Verdict> {
    let loop_id = &args.loop_id;
    let wanted = Wanted { paths, reason: Some("its agent is about to change it".to_owned()), ..Wanted::default() };
    let request = leasing::request(db, config, loop_id, wanted)?;
    let mut answer = leasing::at_once(db, config, &request)?;
    if let Acquire::Refused(blockers) = &answer
        && args.wait > 0
        && Refusal::of(loop_id, blockers).owned.is_none()
    {
        let mut waiter = Waiter::new(&cx.path);
        answer = leasing::queue(db, config, &request, i64::from(args.wait), &mut waiter, |_| {})?;
    }
    let grant = match answer {
        Acquire::Granted(grant) => grant,
        Acquire::Refused(blockers) => {
            let Refusal { why, owned } = Refusal::of(loop_id, &blockers);
            let advice = match owned {
                Some(path) => format!(
                    "Leave it unchanged, or ask for permission: loopctl request create {path} --loop {loop_id} (or the MCP tool request)."
                ),
                None => format!(
                    "Go on with other files and try this edit again later, or wait for it: loopctl lock {} --loop {loop_id} \
                     --wait 600 (or the MCP tool lock).",
                    request.paths.iter().map(LeasePath::as_str).collect::<Vec<_>>().join(" ")
                ),
            };
            return Ok(Verdict::No(format!("This edit is refused, because {why}. {advice}")));
        }
    };
    let brought = coding_loop::bring_up_to_date(db, config, loop_id, &grant.paths, grant.fencing_token).map_err(failure)?;
    Ok(match brought.updated.is_empty() {
        true => Verdict::Yes,
        // The agent has read an older version.
        false => Verdict::No(format!(
            "This edit is not applied yet: the file is leased for you now, and others have changed it since you read it.{}\nThen \
             make your edit again.",
            meanwhile(&brought)
        )),
    })
}

// ---- at the end ----

fn at_end(cx: &Context, args: &HookArgs, session: &str) -> Outcome<Verdict> {
    if args.checks == 0 || args.rounds == 0 {
        return Ok(Verdict::Yes);
    }
    let (db, config) = cx.open_with_config()?;
    let sent_back = db.read(|tx| {
        let Some(test) = tx.loop_row(&args.loop_id)?.current_test_id else { return Ok(None) };
        if tx.gave_up(&test)?.is_some() {
            return Ok(None);
        }
        let checks = tx.work_checks(&test)?;
        Ok::<_, Error>(Some(checks.iter().filter(|checked| checked.session.as_deref() == Some(session)).count()))
    })?;
    let round = match sent_back {
        Some(count) if count < args.rounds as usize => count + 1,
        _ => return Ok(Verdict::Yes),
    };
    let checked = until_stopped(|stop| check(&db, &config, args, session, stop))?;
    Ok(match checked {
        Ok(Checked::Unchanged | Checked::Passed(_) | Checked::Stopped) => Verdict::Yes,
        Ok(Checked::Failed { check, why, output, not_run }) => Verdict::No(format!(
            "Your work does not pass yet (round {round} of {}): {}\nMend it, then end again. If it cannot be done as it is specified, \
             say why and stop (MCP tool give_up).",
            args.rounds,
            failed(&config, &args.loop_id, check, &why, &output, &not_run)
        )),
        // Its own checks are running, so nobody has to run them again.
        Err(coding_loop::Error::Waiting(_)) => Verdict::Yes,
        Err(error) => return Err(failure(error)),
    })
}

/// Runs the checks until the time is over.
async fn check(
    db: &Database,
    config: &Config,
    args: &HookArgs,
    session: &str,
    mut stop: watch::Receiver<bool>,
) -> coding_loop::Result<Checked> {
    let (cancel, cancelled) = watch::channel(false);
    let mut checking = std::pin::pin!(coding_loop::check_work(db, config, &args.loop_id, Some(session), cancelled, |_| {}));
    let over = async {
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs(u64::from(args.checks))) => {}
            _ = stop.wait_for(|stop| *stop) => {}
        }
    };
    tokio::select! {
        checked = &mut checking => return checked,
        () = over => drop(cancel.send_replace(true)),
    }
    checking.await
}
