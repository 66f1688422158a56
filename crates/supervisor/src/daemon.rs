//! The loop of a supervisor's process: starts, waits, passes, performs, beats, stops.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use coord_db::process::ProcessIdentity;
use coord_db::wake::{BLIND_LOOK, Ladder, SLOW_LOOK, Wake, Watcher};
use coord_db::{ComponentId, Config, Database, Error, HealthStatus, JournalEntry, Result, Timestamp};
use crash_point::Point;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;

use crate::{CommandLine, ConfigFile, Look, Supervisor, Waker, look, pass, pass_carefully, reload, service, settings_hold};

/// Runs a supervisor until it is told to stop, or, with `--once`, until nothing is due.
pub(crate) fn run<S: Supervisor>(line: &CommandLine) -> Result<()> {
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

/// What the watching thread saw, merged.
#[derive(Debug, Default)]
struct Seen {
    /// Not the supervisor's own waker: what wakes from outside must not be taken for a commit that was looked at already.
    notify: tokio::sync::Notify,
    bell: AtomicBool,
    wal: AtomicBool,
    /// Held while a pass writes. The watching thread waits for it after each wake, so that what this process writes itself
    /// wakes that thread once and not for every page.
    writing: Mutex<()>,
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    reload: Signal,
}

impl Signals {
    fn new() -> Result<Self> {
        let take = |kind| signal(kind).map_err(|source| Error::Io { context: "cannot take signals".to_owned(), source });
        Ok(Self {
            terminate: take(SignalKind::terminate())?,
            interrupt: take(SignalKind::interrupt())?,
            reload: take(SignalKind::hangup())?,
        })
    }
}

/// So many passes that change nothing may follow each other: others may have done what was due in between.
const MOST_VAIN_PASSES: u32 = 3;

struct Process<S: Supervisor> {
    supervisor: S,
    db: Database,
    id: ComponentId,
    path: PathBuf,
    line: CommandLine,
    waker: Waker,
    seen: Arc<Seen>,
    watcher: Option<Watcher>,
    ladder: Ladder,
    signals: Signals,
    config_changed: Arc<tokio::sync::Notify>,
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
    /// The database's data version at the last look.
    version: i64,
    stopping: bool,
}

/// Waits between tries while the database cannot be used.
#[derive(Debug, Default)]
struct BackOff {
    failures: u32,
}

impl BackOff {
    fn after(&mut self, error: &Error) -> Duration {
        if self.failures == 0 {
            tracing::warn!(%error, "holding still until the database can be used again");
        }
        self.failures = (self.failures + 1).min(7);
        Duration::from_millis(50 << self.failures) + Duration::from_millis(fastrand::u64(0..50))
    }

    fn recovered(&mut self) {
        if self.failures > 0 {
            tracing::info!("the database can be used again");
        }
        self.failures = 0;
    }
}

impl<S: Supervisor> Process<S> {
    async fn start(line: &CommandLine) -> Result<Self> {
        let here = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("."));
        let path = coord_db::locate::database(line.db.as_deref(), &here);
        let config_file = ConfigFile::note(&path, line.config.as_deref());
        let config = Arc::new(Config::load(&path, line.config.as_deref())?);
        let mut signals = Signals::new()?;
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
                        _ = signals.terminate.recv() => return Err(error),
                        _ = signals.interrupt.recv() => return Err(error),
                    }
                }
                Err(error) => return Err(error),
            }
        };
        let waker = Waker::default();
        let seen = Arc::new(Seen::default());
        let watcher = if line.once { None } else { watch(&path, &seen) };
        let mut supervisor = S::new(Arc::clone(&config), &path);
        let config_changed = Arc::new(tokio::sync::Notify::new());
        if !line.once {
            supervisor.attach(waker.clone());
            let changed = Arc::clone(&config_changed);
            config_file.follow(move || changed.notify_one());
        }
        Ok(Self {
            supervisor,
            db,
            id,
            path,
            line: line.clone(),
            waker,
            seen,
            watcher,
            ladder: Ladder::default(),
            signals,
            config_changed,
            effects: JoinSet::new(),
            performing: BTreeSet::new(),
            ready: false,
            unclean,
            careful: unclean,
            back_off,
            next_beat: Instant::now(),
            vain_passes: 0,
            version: 0,
            stopping: false,
        })
    }

    async fn work(&mut self) -> Result<()> {
        while !self.stopping {
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
                Err(error) if self.careful && self.back_off.failures >= 7 => return Err(error),
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
            if let Some(watcher) = &mut self.watcher {
                watcher.refresh();
            } else if !self.line.once {
                self.watcher = watch(&self.path, &self.seen);
            }
        }
        self.version = self.db.data_version()?;
        let seen = Arc::clone(&self.seen);
        let writing = seen.writing.lock();
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
        let open = self.db.read(|tx| tx.open_journal(S::ID))?;
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
        let slow = if self.watcher.is_some() || self.line.once { SLOW_LOOK } else { BLIND_LOOK };
        let asked = again.map_or(Duration::MAX, |at| {
            Duration::from_millis(u64::try_from(at.millis_since(self.db.clock().now())).unwrap_or(0).max(1))
        });
        beat.min(slow).min(asked)
    }

    async fn take_what_is_there(&mut self) {
        self.wait(Duration::ZERO).await;
    }

    /// Waits for a commit of somebody else, a wake from outside, a signal, a finished effect, or until the time is over.
    async fn wait(&mut self, most: Duration) {
        let deadline = Instant::now() + most.min(Duration::from_secs(3600));
        loop {
            let pause = self.ladder.timeout(deadline.saturating_duration_since(Instant::now()));
            tokio::select! {
                biased;
                _ = self.signals.terminate.recv() => self.stopping = true,
                _ = self.signals.interrupt.recv() => self.stopping = true,
                _ = self.signals.reload.recv() => self.reload(),
                () = self.config_changed.notified() => self.reload(),
                Some(ended) = self.effects.join_next() => match ended {
                    Ok((entry, outcome)) => self.record(entry, outcome).await,
                    Err(error) => tracing::error!(%error, "an effect ended without an outcome; it is tried again on the next start"),
                },
                () = self.waker.woken() => {}
                () = self.seen.notify.notified() => {
                    if self.seen.wal.swap(false, Ordering::Relaxed) {
                        self.ladder.woken(Wake::Wal);
                    }
                    if self.seen.bell.swap(false, Ordering::Relaxed) {
                        self.ladder.woken(Wake::Bell);
                    }
                    if !self.others_have_committed() {
                        continue;
                    }
                }
                () = tokio::time::sleep(pause) => {
                    if Instant::now() < deadline && !self.others_have_committed() {
                        continue;
                    }
                }
            }
            return;
        }
    }

    /// True if another connection has committed since the last look. Our own commits do not count; nor does what is still
    /// being written.
    fn others_have_committed(&self) -> bool {
        self.db.data_version().map_or(true, |version| version != self.version)
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
                        _ = self.signals.terminate.recv() => { self.stopping = true; return; }
                        _ = self.signals.interrupt.recv() => { self.stopping = true; return; }
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
        let Some(config) = reload(&self.db, &self.path, self.line.config.as_deref(), S::ID, |_| Ok(())) else { return };
        let (old, new) = (self.supervisor.config().open_options(), config.open_options());
        if (old.durability, old.busy_deadline) != (new.durability, new.busy_deadline) {
            match Database::open(&self.path, &new) {
                Ok(db) => (self.db, self.version) = (db, 0),
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

fn watch(path: &std::path::Path, seen: &Arc<Seen>) -> Option<Watcher> {
    let seen = Arc::clone(seen);
    Watcher::new(path, move |wake| {
        let flag = if wake == Wake::Wal { &seen.wal } else { &seen.bell };
        flag.store(true, Ordering::Relaxed);
        seen.notify.notify_one();
        drop(seen.writing.lock());
    })
    .inspect_err(|error| tracing::warn!(%error, "no wake-ups; looking at short intervals instead"))
    .ok()
}

#[cfg(test)]
mod tests;
