//! The loop of a supervisor's process: starts, waits, passes, performs, beats, stops.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use coord_db::process::ProcessIdentity;
use coord_db::wake::SLOW_LOOK;
use coord_db::{ComponentId, Config, Database, Error, HealthStatus, JournalEntry, Result, Timestamp};
use crash_point::Point;
use process_host::exit::{describe, exit_code_of};
use process_host::{
    BackOff, Reload, Stop, Wakes, fatal, reload, service, set_up_log, settings_hold, stop_signal, told_to_stop,
};
use tokio::task::JoinSet;

use crate::command_line::{self, CommandLine};
use crate::{Look, Supervisor, Waker, look, pass, pass_carefully};

/// The whole program of a supervisor: command line, log, loop, exit code.
#[must_use]
pub fn main<S: Supervisor>(name: &'static str) -> ExitCode {
    let line = command_line::parse(name);
    set_up_log(line.options.log_format);
    match run::<S>(&line) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            fatal(name, describe(&error));
            ExitCode::from(exit_code_of(&error))
        }
    }
}

/// Runs a supervisor until it is told to stop, or, with `--once`, until nothing is due.
fn run<S: Supervisor>(line: &CommandLine) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| Error::Io { context: "cannot make a runtime".to_owned(), source })?;
    let tasks = tokio::task::LocalSet::new();
    tasks.block_on(&runtime, async {
        let mut process = Process::<S>::start(line).await?;
        let result = process.work().await;
        let reason = match &result {
            Ok(()) if line.once => "nothing is due any more",
            Ok(()) => "told to stop",
            Err(_) => "failed",
        };
        process.stop(reason).await;
        result
    })
}

/// So many passes that change nothing may follow each other: others may have done what was due in between.
const MOST_VAIN_PASSES: u32 = 3;

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
    /// It has beaten, and said that it is ready.
    ready: bool,
    /// Its former self did not say goodbye.
    unclean: bool,
    /// One delivery at a time, each try recorded first.
    careful: bool,
    back_off: BackOff,
    next_beat: Instant,
    /// Passes in a row that changed nothing although something was due.
    vain_passes: u32,
}

impl<S: Supervisor> Process<S> {
    async fn start(line: &CommandLine) -> Result<Self> {
        let path = line.options.database();
        let reload = Reload::listen(&path, line.options.config.as_deref())?;
        let config = Arc::new(Config::load(&path, line.options.config.as_deref())?);
        let mut stop = stop_signal()?;
        let id: ComponentId = S::ID.parse()?;
        let mut back_off = BackOff::default();
        let (db, unclean) = loop {
            let started = Database::open(&path, &config.open_options()).and_then(|db| {
                let unclean = db.write(|tx| tx.start_component(&id, &ProcessIdentity::own(), env!("CARGO_PKG_VERSION")))?;
                settings_hold(&db, S::ID)?;
                Ok((db, unclean))
            });
            match started {
                Ok(started) => break started,
                Err(error) if error.is_temporary() => {
                    let wait = back_off.after(&error);
                    service::still_starting(&error.to_string());
                    tokio::select! {
                        () = tokio::time::sleep(wait) => {}
                        () = told_to_stop(&mut stop) => return Err(error),
                    }
                }
                Err(error) => return Err(error),
            }
        };
        let waker = Waker::default();
        let wakes = Wakes::new(&path);
        let mut supervisor = S::new(Arc::clone(&config), &path);
        if !line.once {
            supervisor.attach(waker.clone());
        }
        Ok(Self {
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
            back_off,
            next_beat: Instant::now(),
            vain_passes: 0,
        })
    }

    async fn work(&mut self) -> Result<()> {
        while !*self.stop.borrow() {
            match self.round() {
                Ok(Some(Look::Due)) => {
                    self.back_off.recovered();
                    // Let signals and finished effects in between two passes.
                    tokio::task::yield_now().await;
                    self.take_what_is_there().await;
                }
                Ok(Some(Look::NothingDue(again))) => {
                    self.back_off.recovered();
                    if self.line.once && self.effects.is_empty() {
                        return Ok(());
                    }
                    self.wait(self.until(again)).await;
                }
                Ok(None) => {}
                Err(error) if error.is_temporary() => {
                    let pause = self.back_off.after(&error);
                    self.wait(pause).await;
                }
                // Whoever starts it anew starts it on what is there then.
                Err(error) if self.db.check_place().is_err() => return Err(error),
                Err(error) if self.careful && self.back_off.is_at_maximum() => return Err(error),
                Err(error) => {
                    tracing::error!(%error, source = ?std::error::Error::source(&error), "a pass failed");
                    self.careful = true;
                    let pause = self.back_off.after(&error);
                    self.wait(pause).await;
                }
            }
        }
        Ok(())
    }

    /// Beats if it is time, looks, and passes if something is due.
    fn round(&mut self) -> Result<Option<Look>> {
        if Instant::now() >= self.next_beat {
            service::alive();
            self.db.check_place()?;
            self.db.write_quietly(|tx| tx.beat(&self.id, HealthStatus::Healthy, None))?;
            self.next_beat = Instant::now() + service::beat_interval(self.supervisor.config().heartbeat.beat_seconds);
            self.say_ready();
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
            self.vain_passes = if self.db.rows_changed() == rows_changed { self.vain_passes + 1 } else { 0 };
            // A row that cannot be got at, by a foreign hand, would be due for ever: look again, but not at full speed.
            if self.vain_passes >= MOST_VAIN_PASSES {
                if self.vain_passes == MOST_VAIN_PASSES {
                    tracing::warn!(actions = outcome.actions, "something is due that a pass cannot change; see loopctl check");
                }
                looked = Look::NothingDue(None);
            }
        } else {
            self.vain_passes = 0;
        }
        drop(writing);
        self.begin_effects()?;
        if matches!(looked, Look::NothingDue(_)) && self.supervisor.upkeep(&self.db)? {
            return Ok(Some(Look::Due));
        }
        Ok(Some(looked))
    }

    /// Once: it is subscribed, listens, and has beaten.
    fn say_ready(&mut self) {
        if !std::mem::replace(&mut self.ready, true) {
            let (database, unclean) = (self.path.display(), self.unclean);
            tracing::info!(%database, unclean, "{} {} is ready", S::ID, env!("CARGO_PKG_VERSION"));
            service::ready();
        }
    }

    fn begin_effects(&mut self) -> Result<()> {
        if !S::HAS_EFFECTS {
            return Ok(());
        }
        let open = self.db.read(|tx| tx.open_journal(Some(S::ID)))?;
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
            Duration::from_millis(u64::try_from(at.millis_since(self.db.clock().now())).unwrap_or(0).max(1))
        });
        beat.min(SLOW_LOOK).min(asked)
    }

    async fn take_what_is_there(&mut self) {
        self.wait(Duration::ZERO).await;
    }

    /// Waits for a commit of somebody else, a wake from outside, a signal, a finished effect, or until the time is over.
    async fn wait(&mut self, most: Duration) -> Woken {
        tokio::select! {
            biased;
            () = told_to_stop(&mut self.stop) => Woken::Signal,
            () = self.reload.wanted() => {
                self.reload();
                Woken::Signal
            }
            Some(ended) = self.effects.join_next() => {
                match ended {
                    Ok((entry, outcome)) => self.record(entry, outcome).await,
                    Err(error) => tracing::error!(%error, "an effect ended without an outcome; it is tried again on the next start"),
                }
                Woken::Effect
            }
            () = self.waker.woken() => {
                tracing::debug!("woken by a change outside the database");
                Woken::Outside
            }
            committed = self.wakes.changed(&self.db, most) => if committed { Woken::Commit } else { Woken::Timer },
        }
    }

    async fn record(&mut self, entry: JournalEntry, outcome: S::Outcome) {
        crash_point::reach(Point::EffectPerformed);
        loop {
            match self.db.write(|tx| self.supervisor.record(tx, &entry, &outcome)) {
                Ok(()) => break,
                Err(error) if error.is_temporary() => {
                    let pause = self.back_off.after(&error);
                    tokio::select! {
                        () = tokio::time::sleep(pause) => {}
                        // The entry stays open: the next start performs it again.
                        () = told_to_stop(&mut self.stop) => return,
                    }
                }
                Err(error) => {
                    tracing::error!(%error, operation = %entry.operation, "cannot record how an effect ended");
                    return;
                }
            }
        }
        crash_point::reach(Point::EffectRecorded);
        self.back_off.recovered();
        self.performing.remove(&entry.id);
    }

    /// Takes new settings without a restart. Broken ones are refused, and the old ones stay.
    fn reload(&mut self) {
        self.reload.take();
        let named = self.line.options.config.as_deref();
        let Some(config) = reload(&self.db, &self.path, named, S::ID, |_| Ok(())) else { return };
        let (old, new) = (self.supervisor.config().open_options(), config.open_options());
        if (old.durability, old.busy_deadline) != (new.durability, new.busy_deadline) {
            match Database::open(&self.path, &new) {
                Ok(db) => self.db = db,
                Err(error) => tracing::warn!(%error, "the settings of [database] hold only after a restart"),
            }
        }
        self.supervisor.configure(Arc::new(config));
        self.next_beat = Instant::now();
    }

    async fn stop(mut self, reason: &str) {
        service::stopping();
        // Dropped effects end their commands; their intents stay and are taken up again on the next start.
        self.effects.abort_all();
        let deadline = Instant::now() + Duration::from_millis(1500);
        while !self.effects.is_empty() && Instant::now() < deadline {
            let _ = tokio::time::timeout_at(deadline.into(), self.effects.join_next()).await;
        }
        if let Err(error) = self.db.write(|tx| tx.stop_component(&self.id, reason)) {
            tracing::warn!(%error, "cannot say goodbye");
        }
        tracing::info!(reason, "{} has stopped", S::ID);
    }
}

#[cfg(test)]
mod tests;
