//! The main loop of a supervisor's process: start, wait, pass, perform effects, send heartbeats, stop.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use coord_db::process::ProcessIdentity;
use coord_db::wake::SLOW_LOOK;
use coord_db::{ComponentId, Config, Database, Error, JournalEntry, Result, Timestamp};
use crash_point::Point;
use process_host::exit::{describe, exit_code_of};
use process_host::{
    BackOff, Reload, Stop, Wakes, fatal, patiently, reload, service, set_up_log, settings_accepted, stop_requested, stop_signal,
};
use tokio::task::JoinSet;

use crate::command_line::{self, CommandLine};
use crate::{Look, Supervisor, Waker, look, pass, pass_carefully};

/// The whole program of a supervisor: command line, log, loop, exit code.
#[must_use]
pub fn main<S: Supervisor>() -> ExitCode {
    let line = command_line::parse(S::PROGRAM);
    set_up_log(line.options.log_format);
    match run::<S>(&line) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            fatal(S::PROGRAM.program, describe(&error));
            ExitCode::from(exit_code_of(&error))
        }
    }
}

/// Runs a supervisor until a stop is requested, or, with `--once`, until nothing is due.
fn run<S: Supervisor>(line: &CommandLine) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| Error::Io { context: "cannot create an async runtime".to_owned(), source })?;
    let tasks = tokio::task::LocalSet::new();
    tasks.block_on(&runtime, async {
        let Some(mut process) = Process::<S>::start(line).await? else { return Ok(()) };
        let result = process.work().await;
        let reason = match &result {
            Ok(()) if line.once => "nothing is due",
            Ok(()) => "stop requested",
            Err(_) => "failed",
        };
        process.stop(reason).await;
        result
    })
}

/// Interval at which a process that stands by looks whether it is needed.
const STAND_BY: Duration = Duration::from_secs(2);
/// After this many intervals without a heartbeat something stood still.
const LATE_BEATS: u32 = 3;
/// Maximum number of consecutive passes without a change: another process may have done the work in between.
const MAX_PASSES_WITHOUT_CHANGE: u32 = 3;

/// Why a wait has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Woken {
    Signal,
    Effect,
    /// By the supervisor's own [`Waker`].
    Outside,
    Commit,
    Timer,
}

struct Process<S: Supervisor> {
    supervisor: S,
    db: Database,
    id: ComponentId,
    path: PathBuf,
    line: CommandLine,
    waker: Waker,
    wakes: Wakes,
    stop: Stop,
    reload: Reload,
    effects: JoinSet<(JournalEntry, S::Outcome)>,
    performing: BTreeSet<String>,
    /// The first heartbeat was sent and readiness was reported.
    ready: bool,
    /// The previous process did not record its shutdown.
    unclean: bool,
    /// Handle one delivery at a time and record each try first.
    careful: bool,
    back_off: BackOff,
    next_beat: Instant,
    beaten_at: Instant,
    /// Passes in a row that changed nothing although something was due.
    passes_without_change: u32,
}

impl<S: Supervisor> Process<S> {
    /// Starts, after all others that run as this supervisor elsewhere. None if a stop was requested meanwhile.
    async fn start(line: &CommandLine) -> Result<Option<Self>> {
        let path = line.options.database();
        let reload = Reload::listen(&path, line.options.config.as_deref())?;
        let config = Arc::new(Config::load(&path, line.options.config.as_deref())?);
        let mut stop = stop_signal()?;
        let has_waited = Cell::new(false);
        let is_temporary = |error: &Error| {
            has_waited.set(has_waited.get() || error.is_temporary());
            error.is_temporary()
        };
        let db = patiently(&mut stop, is_temporary, || Database::open(&path, &config.open_options())).await?;
        let begin = || {
            let own = ProcessIdentity::own();
            db.check_place()?;
            let id = db.read(|tx| tx.supervisor_id(S::ID))?;
            db.claim_component(&id, &own)?;
            let (unclean, silent_seconds) = db.write(|tx| {
                let beat = tx.component(id.as_str())?.and_then(|row| row.last_heartbeat);
                let unclean = tx.start_component(&id, &own, env!("CARGO_PKG_VERSION"))?;
                Ok::<_, Error>((unclean, beat.map_or(0, |beat| tx.now().seconds_since(beat))))
            })?;
            Ok::<_, Error>((id, unclean, unclean && silent_seconds >= config.heartbeat.degraded_seconds))
        };
        let mut stands_by = false;
        let (id, unclean, was_silent) = loop {
            match patiently(&mut stop, is_temporary, begin).await {
                Err(error @ Error::AlreadyRunning { is_elsewhere: true, .. }) if !line.once => {
                    if !std::mem::replace(&mut stands_by, true) {
                        tracing::info!("standing by: {error}");
                    }
                    service::stands_by(&error.to_string());
                    tokio::select! {
                        () = tokio::time::sleep(STAND_BY) => {}
                        () = stop_requested(&mut stop) => return Ok(None),
                    }
                }
                begun => break begun?,
            }
        };
        patiently(&mut stop, is_temporary, || settings_accepted(&db, id.as_str())).await?;
        let waker = Waker::default();
        let wakes = Wakes::new(&path);
        let mut supervisor = S::new(Arc::clone(&config), &path);
        if !line.once {
            supervisor.attach(waker.clone());
        }
        // The others could not send heartbeats either, and some of them have yet to notice that they can. The predecessor may have
        // ended in the same outage.
        if has_waited.get() || was_silent {
            supervisor.stood_still();
        }
        Ok(Some(Self {
            supervisor,
            db,
            id,
            path,
            line: line.clone(),
            waker,
            wakes,
            stop,
            reload,
            effects: JoinSet::new(),
            performing: BTreeSet::new(),
            ready: false,
            unclean,
            careful: unclean,
            back_off: BackOff::default(),
            next_beat: Instant::now(),
            beaten_at: Instant::now(),
            passes_without_change: 0,
        }))
    }

    async fn work(&mut self) -> Result<()> {
        while !*self.stop.borrow() {
            match self.round() {
                Ok(Some(Look::Due)) => {
                    self.back_off.recovered();
                    // Let signals and finished effects in between two passes.
                    tokio::task::yield_now().await;
                    self.handle_ready_events().await?;
                }
                Ok(Some(Look::NothingDue(again))) => {
                    self.back_off.recovered();
                    if self.line.once && self.effects.is_empty() {
                        return Ok(());
                    }
                    self.wait(self.until(again)).await?;
                }
                Ok(None) => {}
                Err(error) if error.is_temporary() => {
                    let pause = self.back_off.after(&error);
                    self.wait(pause).await?;
                }
                Err(error @ Error::Replaced { .. }) => return Err(error),
                // The database was replaced or removed: the restart opens the present one.
                Err(error) if self.db.check_place().is_err() => return Err(error),
                Err(error) if self.careful && self.back_off.is_at_maximum() => return Err(error),
                Err(error) => {
                    tracing::error!(%error, source = ?std::error::Error::source(&error), "pass failed");
                    self.careful = true;
                    let pause = self.back_off.after(&error);
                    self.wait(pause).await?;
                }
            }
        }
        Ok(())
    }

    /// Sends a heartbeat if one is due, looks, and runs a pass if something is due.
    fn round(&mut self) -> Result<Option<Look>> {
        if Instant::now() >= self.next_beat {
            service::alive();
            self.db.check_place()?;
            self.db.write_quietly(|tx| tx.beat_of(&self.id, &ProcessIdentity::own()))?;
            let interval = service::beat_interval(self.supervisor.config().heartbeat.beat_seconds);
            if self.beaten_at.elapsed() > interval * LATE_BEATS {
                tracing::warn!(
                    seconds = self.beaten_at.elapsed().as_secs(),
                    "no heartbeat could be sent; silence counts against nobody"
                );
                self.supervisor.stood_still();
            }
            self.beaten_at = Instant::now();
            self.next_beat = self.beaten_at + interval;
            self.report_ready();
        }
        self.wakes.looked(&self.db);
        let writing = self.wakes.writing();
        let writing = writing.lock();
        let observation = self.supervisor.observe(&self.db)?;
        let mut looked = look(&mut self.supervisor, &self.db, &observation)?;
        if looked == Look::Due {
            let rows_changed = self.db.rows_changed();
            let outcome = if self.careful {
                pass_carefully(&mut self.supervisor, &self.db, &observation)?
            } else {
                pass(&mut self.supervisor, &self.db, &observation)?
            };
            if self.careful && outcome.handled == 0 {
                self.careful = false;
            }
            tracing::debug!(handled = outcome.handled, actions = outcome.actions, "pass");
            self.passes_without_change =
                if self.db.rows_changed() == rows_changed { self.passes_without_change + 1 } else { 0 };
            // A row that an external tool made unusable would be due forever: continue, but not at full speed.
            if self.passes_without_change >= MAX_PASSES_WITHOUT_CHANGE {
                if self.passes_without_change == MAX_PASSES_WITHOUT_CHANGE {
                    tracing::warn!(
                        actions = outcome.actions,
                        "passes change nothing although something is due; run loopctl check"
                    );
                }
                looked = Look::NothingDue(None);
            }
        } else {
            self.passes_without_change = 0;
        }
        drop(writing);
        self.begin_effects()?;
        if matches!(looked, Look::NothingDue(_)) && self.supervisor.upkeep(&self.db)? {
            return Ok(Some(Look::Due));
        }
        Ok(Some(looked))
    }

    /// Reports readiness once, after the first heartbeat.
    fn report_ready(&mut self) {
        if !std::mem::replace(&mut self.ready, true) {
            let (database, unclean) = (self.db.server().unwrap_or_else(|| self.path.display().to_string()), self.unclean);
            tracing::info!(%database, unclean, "{} {} is ready", S::ID, env!("CARGO_PKG_VERSION"));
            service::ready();
        }
    }

    fn begin_effects(&mut self) -> Result<()> {
        if !S::HAS_EFFECTS {
            return Ok(());
        }
        let open = self.db.read(|tx| tx.open_journal(Some(self.id.as_str())))?;
        for entry in open {
            if self.performing.insert(entry.id.clone()) {
                crash_point::reach(Point::EffectIntended);
                let performing = self.supervisor.perform(entry.clone());
                self.effects.spawn_local(async move { (entry, performing.await) });
            }
        }
        Ok(())
    }

    fn until(&self, again: Option<Timestamp>) -> Duration {
        let beat = self.next_beat.saturating_duration_since(Instant::now());
        let asked = again.map_or(Duration::MAX, |at| {
            Duration::from_millis(u64::try_from(at.millis_since(self.db.now())).unwrap_or(0).max(1))
        });
        beat.min(SLOW_LOOK).min(asked)
    }

    async fn handle_ready_events(&mut self) -> Result<()> {
        self.wait(Duration::ZERO).await.map(drop)
    }

    /// Waits for a commit of another connection, a wake, a signal, a finished effect, or the end of the time.
    ///
    /// # Errors
    /// If an effect has no outcome, or its outcome cannot be recorded: only the next start performs the open entry again.
    async fn wait(&mut self, most: Duration) -> Result<Woken> {
        Ok(tokio::select! {
            biased;
            () = stop_requested(&mut self.stop) => Woken::Signal,
            () = self.reload.wanted() => {
                self.reload();
                Woken::Signal
            }
            Some(ended) = self.effects.join_next() => {
                let (entry, outcome) = ended.map_err(|error| Error::Refused(format!("an effect ended without an outcome: {error}")))?;
                self.record(entry, outcome).await?;
                Woken::Effect
            }
            () = self.waker.woken() => {
                tracing::debug!("woken by a change outside the database");
                Woken::Outside
            }
            committed = self.wakes.changed(&self.db, most) => if committed { Woken::Commit } else { Woken::Timer },
        })
    }

    async fn record(&mut self, entry: JournalEntry, outcome: S::Outcome) -> Result<()> {
        crash_point::reach(Point::EffectPerformed);
        loop {
            match self.db.write(|tx| self.supervisor.record(tx, &entry, &outcome)) {
                Ok(()) => break,
                Err(error) if error.is_temporary() => {
                    let pause = self.back_off.after(&error);
                    service::alive();
                    tokio::select! {
                        () = tokio::time::sleep(pause) => {}
                        // The entry stays open, and the next start performs the effect again.
                        () = stop_requested(&mut self.stop) => return Ok(()),
                    }
                }
                Err(error) => {
                    // The commit may have arrived or not; in both cases the next start reads what the journal says.
                    tracing::error!(%error, operation = %entry.operation, "cannot record the outcome of an effect");
                    // Not with an exit status after which a service manager does not start it again.
                    return Err(if error.is_refusal() { Error::Refused(error.to_string()) } else { error });
                }
            }
        }
        crash_point::reach(Point::EffectRecorded);
        self.back_off.recovered();
        self.performing.remove(&entry.id);
        Ok(())
    }

    /// Reloads the settings without a restart. Invalid ones are rejected.
    fn reload(&mut self) {
        self.reload.take();
        let named = self.line.options.config.as_deref();
        let Some(config) = reload(&self.db, &self.path, named, self.id.as_str(), |_| Ok(())) else { return };
        let (old, new) = (self.supervisor.config().open_options(), config.open_options());
        if (old.durability, old.busy_deadline) != (new.durability, new.busy_deadline) {
            match Database::open(&self.path, &new) {
                Ok(db) => {
                    self.db = db;
                    if let Err(error) = self.db.claim_component(&self.id, &ProcessIdentity::own()) {
                        tracing::warn!(%error, "cannot claim the place of the old connection");
                    }
                }
                Err(error) => tracing::warn!(%error, "the changed [database] settings take effect only after a restart"),
            }
        }
        self.supervisor.configure(Arc::new(config));
        self.next_beat = Instant::now();
    }

    async fn stop(mut self, reason: &str) {
        service::stopping();
        // Aborted effects end their commands; their intents stay open for the next start.
        self.effects.abort_all();
        let deadline = Instant::now() + Duration::from_millis(1500);
        while !self.effects.is_empty() && Instant::now() < deadline {
            let _ = tokio::time::timeout_at(deadline.into(), self.effects.join_next()).await;
        }
        let stopped = self.db.write(|tx| {
            tx.check_runs_as(&self.id, &ProcessIdentity::own())?;
            tx.stop_component(&self.id, reason)
        });
        if let Err(error) = stopped {
            tracing::warn!(%error, "cannot record the shutdown");
        }
        tracing::info!(reason, "{} stopped", S::ID);
    }
}

#[cfg(test)]
mod tests;
