//! The skeleton of all supervisors.
//!
//! One iteration is a **pass**: wait (for a wake, a deadline, or the slow timer) → observe what is outside the database
//! → look (read only; if nothing is due, wait again) → one write transaction { load a bounded snapshot with the unread
//! deliveries → decide (pure) → write rows, publish, acknowledge } → perform the effects whose intents the transaction
//! recorded, and record their outcome.
//!
//! Architecture invariant: [`Supervisor::decide`] is a function of its arguments alone. A wake is only a hint: withholding
//! one may delay a decision and can never change it.

mod command_line;
mod daemon;
mod pass;

pub use command_line::command;
pub use daemon::main;
pub use pass::{Look, PassOutcome, look, pass, pass_carefully};

use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;

use coord_db::supervisors::Program;
use coord_db::{Config, Delivery, Event, JournalEntry, Payload, ReadTx, Result, Timestamp, WriteTx};
use process_host::BackOff;

/// A delivery with a valid payload.
#[derive(Debug, Clone, PartialEq)]
pub struct Inbound {
    /// The event.
    pub event: Event,
    /// Its parsed payload.
    pub payload: Payload,
}

/// The decision of a supervisor: its actions in order, and when the next pass is due.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan<A> {
    /// The actions, in the order in which the transaction of the pass applies them.
    pub actions: Vec<A>,
    /// When the next pass is due even if nothing happens.
    pub look_again_at: Option<Timestamp>,
}

impl<A> Default for Plan<A> {
    fn default() -> Self {
        Self { actions: Vec::new(), look_again_at: None }
    }
}

impl<A> Plan<A> {
    /// Requests the next pass at `at`, or at the earlier time that was already requested.
    pub fn look_again(&mut self, at: Timestamp) {
        self.look_again_at = Some(self.look_again_at.map_or(at, |earlier| earlier.min(at)));
    }

    /// Adds an action.
    pub fn act(&mut self, action: A) {
        self.actions.push(action);
    }
}

/// Wakes the supervisor for events outside the database: a process has ended, a file has changed.
#[derive(Debug, Clone, Default)]
pub struct Waker(Arc<tokio::sync::Notify>);

impl Waker {
    /// Makes the supervisor look soon.
    pub fn wake(&self) {
        self.0.notify_one();
    }

    pub(crate) async fn woken(&self) {
        self.0.notified().await;
    }
}

/// Repeats what an effect does with the database for as long as that is temporarily unavailable: an outage is no outcome. An effect
/// ends with its process, and this with the effect.
///
/// # Errors
/// Any error that waiting does not help against.
pub async fn when_available<T>(mut body: impl FnMut() -> Result<T>) -> Result<T> {
    let mut back_off = BackOff::default();
    loop {
        match body() {
            Err(error) if error.is_temporary() => tokio::time::sleep(back_off.after(&error)).await,
            Err(error) => return Err(error),
            Ok(value) => {
                back_off.recovered();
                return Ok(value);
            }
        }
    }
}

/// A future on the supervisor's own thread.
pub type LocalFuture<T> = Pin<Box<dyn Future<Output = T>>>;

/// One supervisor: its decision, and the functions with effects outside the database.
pub trait Supervisor: Sized + 'static {
    /// The state outside the database: processes, files, branches. Part of the snapshot's input.
    type Observation;
    /// The input of the decision.
    type Snapshot;
    /// One action of a plan.
    type Action;
    /// The result of an effect.
    type Outcome;

    /// Its entry in the list of supervisors.
    const PROGRAM: &'static Program;
    /// Id of the supervisor as component, as subscriber and as source of events.
    const ID: &'static str = Self::PROGRAM.id;
    /// True if it acts on events and not only on rows: it has subscriptions, and each pass acknowledges its deliveries.
    const HAS_INBOX: bool = false;
    /// True if passes record intents of effects.
    const HAS_EFFECTS: bool = false;
    /// True if the intents must survive a power failure. Intents about processes need not, because the processes do not
    /// either.
    const DURABLE_INTENTS: bool = Self::HAS_EFFECTS;

    /// Creates a supervisor with these settings for this database.
    fn new(config: Arc<Config>, database: &Path) -> Self;

    /// Replaces the settings.
    fn configure(&mut self, config: Arc<Config>);

    /// Receives the means to wake the supervisor. Called only in a daemon.
    fn attach(&mut self, _waker: Waker) {}

    /// Observes the state outside the database.
    fn observe(&mut self, db: &coord_db::Database) -> Result<Self::Observation>;

    /// Called after a heartbeat that is late by much, and after a start that had to wait for the database or comes long after the
    /// predecessor's last heartbeat: the process or the database stood still, and so did the others' heartbeats.
    fn stood_still(&mut self) {}

    /// Receives the unread deliveries for the next snapshot. Only called with an inbox.
    fn deliver(&mut self, _inbox: Vec<Inbound>) {}

    /// Reads the input of the decision. Called to look, and again under the write lock for the pass.
    fn snapshot(&mut self, tx: &ReadTx<'_>, observation: &Self::Observation) -> Result<Self::Snapshot>;

    /// Decides. Pure: no clock, no I/O, no randomness; the time is part of the snapshot.
    fn decide(config: &Config, snapshot: &Self::Snapshot) -> Plan<Self::Action>;

    /// Writes the rows and events of one action, in the transaction of the pass. An error rolls the pass back.
    fn apply(&self, tx: &WriteTx<'_>, snapshot: &Self::Snapshot, action: &Self::Action) -> Result<()>;

    /// Called after the commit of a pass, to advance cursors in memory.
    fn committed(&mut self, _snapshot: &Self::Snapshot) {}

    /// Does a bounded amount of housekeeping outside any pass, when nothing is due. True if there is more to do now. It
    /// must change nothing that a decision depends on, and may be interrupted at any time.
    fn upkeep(&mut self, _db: &coord_db::Database) -> Result<bool> {
        Ok(false)
    }

    /// Performs an effect whose intent is recorded. Must be idempotent: it is called again after a crash.
    fn perform(&self, _entry: JournalEntry) -> LocalFuture<Self::Outcome> {
        Box::pin(std::future::pending())
    }

    /// Records the outcome of an effect and completes its journal entry.
    fn record(&self, _tx: &WriteTx<'_>, _entry: &JournalEntry, _outcome: &Self::Outcome) -> Result<()> {
        Ok(())
    }

    /// The settings.
    fn config(&self) -> &Config;
}

/// A delivery that cannot be handled, and why.
pub(crate) type Unhandled = (Delivery, String);
