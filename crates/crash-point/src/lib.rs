//! Crash points: named places between two steps of an effect outside the database, at which a test has the process
//! killed.
//!
//! `CODING_LOOPS_CRASH_AT=NAME` makes the process raise SIGKILL on itself when it reaches that place, `NAME:3` when it
//! reaches it for the third time. `CODING_LOOPS_CRASH_AT=log` kills nothing and prints each place to stderr. The
//! variable is read once; agents and checks never see it, because their environment is built explicitly.
//!
//! Builds with debug assertions have the crash points; release builds have them only with the feature `armed`
//! (`cargo build --release --features crash-point/armed`), and [`reach`] is empty in all others.
//!
//! Every place is a [`Point`], so that a test can iterate over [`Point::ALL`] and fail for one that is never reached.
//! It must never be used to decide anything: code behaves the same with and without crash points.

/// The environment variable.
pub const VARIABLE: &str = "CODING_LOOPS_CRASH_AT";

/// Prefix of the name of a place that is only printed.
pub const LOGGED: &str = "crash point: ";

macro_rules! points {
    ($($(#[$meta:meta])* $point:ident = $name:literal,)*) => {
        /// A place between two steps.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Point { $($(#[$meta])* $point,)* }

        impl Point {
            /// Every place.
            pub const ALL: &[Self] = &[$(Self::$point,)*];

            /// Its name.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$point => $name,)* }
            }
        }
    };
}

points! {
    /// A loop has ended processes left by its predecessor, and has settled nothing yet.
    StartLeftoversEnded = "start.leftovers-ended",
    /// It has taken its row, and interrupted landings are settled; its workspace is unchanged.
    StartTaken = "start.taken",
    /// Another journal entry is finished or undone outside the database, and not settled.
    StartEntryRecovered = "start.entry-recovered",
    /// The journal is settled; the workspace is not saved yet.
    StartRecovered = "start.recovered",
    /// The workspace is saved; the first claim is next.
    StartTidied = "start.tidied",
    /// The store exists under its name.
    StoreMade = "store.made",
    /// A workspace exists under its temporary name.
    WorkspaceMade = "workspace.made",
    /// The loop's workspace exists and is intact.
    WorkspaceReady = "workspace.ready",
    /// A workspace's files are reset, its agent's git is not.
    WorkspaceReset = "workspace.reset",
    /// A test is claimed, and nothing was done for it.
    AttemptClaimed = "attempt.claimed",
    /// The intent of the checkpoint is recorded.
    CheckpointIntended = "checkpoint.intended",
    /// Its reference exists.
    CheckpointMade = "checkpoint.made",
    /// Its row exists.
    CheckpointSettled = "checkpoint.settled",
    /// The agent has ended.
    AgentEnded = "agent.ended",
    /// The agent's changes are read; their objects are in the store without a reference.
    WorkLooked = "work.looked",
    /// Files that no commit can contain are moved aside.
    PutAwaySetAside = "put-away.set-aside",
    /// The intent of saving work is recorded.
    PutAwayIntended = "put-away.intended",
    /// The work has its reference, and the workspace is unchanged.
    PutAwaySaved = "put-away.saved",
    /// The reference is recorded.
    PutAwayRecorded = "put-away.recorded",
    /// The workspace is reset.
    PutAwayRestored = "put-away.restored",
    /// The operation is settled.
    PutAwaySettled = "put-away.settled",
    /// An order (a pause, a rollback …) is obeyed outside the database but not acknowledged.
    OrderDone = "order.done",
    /// The order is acknowledged; leases are released and the test is given back.
    OrderRecorded = "order.recorded",
    /// The failure of an attempt is recorded.
    AttemptFailed = "attempt.failed",
    /// The work has passed the gate alone.
    LandingJudged = "landing.judged",
    /// A reference keeps the work; it is not queued.
    LandingKept = "landing.kept",
    /// The work is queued: it belongs to the landing train.
    LandingQueued = "landing.queued",
    /// The process is the judge of the landing train, and has judged nothing.
    TrainTaken = "train.taken",
    /// Works are marked as being judged.
    TrainMarked = "train.marked",
    /// Works put on one another were judged; the result is not stored.
    TrainJudged = "train.judged",
    /// The result is stored; nothing has landed.
    TrainRecorded = "train.recorded",
    /// A work was given back to its loop.
    TrainReturned = "train.returned",
    /// The work is a commit on the head of integration without a reference.
    WorkPutOn = "work.put-on",
    /// The commit is checked out for the checks.
    GateCheckedOut = "gate.checked-out",
    /// A check has run; its proof is not stored.
    GateChecked = "gate.checked",
    /// The gate has passed.
    GatePassed = "gate.passed",
    /// The intent of moving integration is recorded.
    IntegrateIntended = "integrate.intended",
    /// It has moved; the database does not know it.
    IntegrateMoved = "integrate.moved",
    /// The pass is recorded.
    IntegrateRecorded = "integrate.recorded",
    /// The sync lease is acquired, and the start is recorded.
    SyncBegun = "sync.begun",
    /// The user's commits are in the store without a reference.
    SyncFetched = "sync.fetched",
    /// A check has run on them merged with integration.
    SyncChecked = "sync.checked",
    /// The integration branch is leased for them.
    SyncTurn = "sync.turn",
    /// The intent of moving integration is recorded.
    SyncIntended = "sync.intended",
    /// It has moved; the database does not know it.
    SyncMoved = "sync.moved",
    /// The move is recorded.
    SyncRecorded = "sync.recorded",
    /// The objects to publish are in the user's repository; the branch has not moved.
    PublishBrought = "publish.brought",
    /// The branch has moved; the store does not know it.
    PublishMoved = "publish.moved",
    /// A landing of the predecessor or of a dead loop is found on the branch; it is not recorded.
    RecoverLanded = "recover.landed",
    /// The intents of a supervisor's effects are recorded; none is performed.
    EffectIntended = "effect.intended",
    /// An effect is performed; its outcome is not recorded.
    EffectPerformed = "effect.performed",
    /// Its outcome is recorded.
    EffectRecorded = "effect.recorded",
    /// The regression-checker has run a check and has not stored the result.
    RegressionRan = "regression.ran",
    /// It has stored the result.
    RegressionKept = "regression.kept",
}

#[cfg(any(debug_assertions, feature = "armed"))]
mod armed;

/// Marks that the process reaches a place. Does nothing unless the environment requests it, and never in builds without
/// crash points.
#[inline]
pub fn reach(point: Point) {
    #[cfg(any(debug_assertions, feature = "armed"))]
    armed::reach(point);
    #[cfg(not(any(debug_assertions, feature = "armed")))]
    let _ = point;
}
