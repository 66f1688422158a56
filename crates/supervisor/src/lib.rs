//! The skeleton that all supervisors share.
//!
//! One iteration is a **pass**: wait (a wake, a deadline, the slow timer) → observe what is outside of the database → look
//! (read only; nothing due: wait again) → one write transaction { load a bounded snapshot with the unread deliveries in it →
//! decide (pure) → write rows, publish, acknowledge } → perform the effects that the transaction wrote down as intent, and
//! record their outcome.
//!
//! Architecture invariant: [`Supervisor::decide`] is a function of its arguments alone. A wake is only a hint: withholding
//! one may delay a decision and can never change it.

mod command_line;
mod daemon;
mod pass;

pub use command_line::{PROGRAMS, command};
pub use daemon::main;
pub use pass::{Look, PassOutcome, look, pass, pass_carefully};

use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;

use coord_db::{Config, Delivery, Event, JournalEntry, Payload, ReadTx, Result, Timestamp, WriteTx};

/// A delivery whose payload fits the catalog.
#[derive(Debug, Clone, PartialEq)]
pub struct Inbound {
    /// The event as it stands.
    pub event: Event,
    /// What it says.
    pub payload: Payload,
}

/// What a supervisor has decided: its actions in order, and when it wants to be asked again.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan<A> {
    /// What to do, in this order, in the transaction of the pass.
    pub actions: Vec<A>,
    /// Ask again at this time even if nothing has happened.
    pub look_again_at: Option<Timestamp>,
}

impl<A> Default for Plan<A> {
    fn default() -> Self {
        Self { actions: Vec::new(), look_again_at: None }
    }
}

impl<A> Plan<A> {
    /// Wants to be asked again at `at`, or earlier if that was wanted already.
    pub fn look_again(&mut self, at: Timestamp) {
        self.look_again_at = Some(self.look_again_at.map_or(at, |earlier| earlier.min(at)));
    }

    /// Adds an action.
    pub fn act(&mut self, action: A) {
        self.actions.push(action);
    }
}

/// Wakes the supervisor's loop from outside of the database: a process has ended, a file has changed.
#[derive(Debug, Clone, Default)]
pub struct Waker(Arc<tokio::sync::Notify>);

impl Waker {
    /// Makes the loop look soon.
    pub fn wake(&self) {
        self.0.notify_one();
    }

    pub(crate) async fn woken(&self) {
        self.0.notified().await;
    }
}

/// A future on the supervisor's own thread.
pub type LocalFuture<T> = Pin<Box<dyn Future<Output = T>>>;

/// One supervisor's judgement, and the few places where it touches the world.
pub trait Supervisor: Sized + 'static {
    /// What is seen outside of the database before a pass: processes, files, branches. Part of the snapshot.
    type Observation;
    /// All that a decision depends on.
    type Snapshot;
    /// One thing to do.
    type Action;
    /// How an effect ended.
    type Outcome;

    /// Its id in the data: as component, as subscriber and as source of events.
    const ID: &'static str;
    /// True if it acts on events and not on rows alone: it is subscribed, and each pass acknowledges what it has taken.
    const HAS_INBOX: bool = false;
    /// True if passes write down effects as intent.
    const HAS_EFFECTS: bool = false;
    /// True if the intents must outlive a power cut; one about processes need not, as those do not either.
    const DURABLE_INTENTS: bool = Self::HAS_EFFECTS;

    /// A supervisor with these settings, for this database.
    fn new(config: Arc<Config>, database: &Path) -> Self;

    /// Takes new settings.
    fn configure(&mut self, config: Arc<Config>);

    /// Takes the means to wake the loop. Only daemons have one.
    fn attach(&mut self, _waker: Waker) {}

    /// Looks at the world outside of the database. `db` says where to look.
    ///
    /// # Errors
    /// What the database says.
    fn observe(&mut self, db: &coord_db::Database) -> Result<Self::Observation>;

    /// Takes the unread deliveries, for the snapshot that is read next and for no other. Only one with an inbox has any.
    fn deliver(&mut self, _inbox: Vec<Inbound>) {}

    /// Reads what a decision depends on. Called for a look and again, under the write lock, for the pass.
    ///
    /// # Errors
    /// If the database cannot be read.
    fn snapshot(&mut self, tx: &ReadTx<'_>, observation: &Self::Observation) -> Result<Self::Snapshot>;

    /// Decides. Pure: no clock, no I/O, no randomness; the time is in the snapshot.
    fn decide(config: &Config, snapshot: &Self::Snapshot) -> Plan<Self::Action>;

    /// Carries out one action on rows and events, inside the transaction of the pass.
    ///
    /// # Errors
    /// What the database says; the whole pass is undone then.
    fn apply(&self, tx: &WriteTx<'_>, snapshot: &Self::Snapshot, action: &Self::Action) -> Result<()>;

    /// The pass has committed: cursors kept in memory may move on.
    fn committed(&mut self, _snapshot: &Self::Snapshot) {}

    /// Does a bounded piece of housekeeping outside of any pass, once nothing is due. True if there is more of it to do now.
    /// It must change nothing that a decision depends on, and be harmless to leave at any moment.
    ///
    /// # Errors
    /// What the database says.
    fn upkeep(&mut self, _db: &coord_db::Database) -> Result<bool> {
        Ok(false)
    }

    /// Performs an effect that was written down as intent. Must be idempotent: it is called again after a crash.
    fn perform(&self, _entry: JournalEntry) -> LocalFuture<Self::Outcome> {
        Box::pin(std::future::pending())
    }

    /// Records how an effect ended, and ends its journal entry.
    ///
    /// # Errors
    /// What the database says.
    fn record(&self, _tx: &WriteTx<'_>, _entry: &JournalEntry, _outcome: &Self::Outcome) -> Result<()> {
        Ok(())
    }

    /// Its settings.
    fn config(&self) -> &Config;
}

/// A delivery that cannot be handled, and why.
pub(crate) type Misfit = (Delivery, String);
