//! Named places between two steps of an effect outside the database, where a test has the real process killed.
//!
//! `CODING_LOOPS_CRASH_AT=NAME` makes the process raise SIGKILL on itself when it comes to that place, `NAME:3` when it comes
//! there for the third time. `CODING_LOOPS_CRASH_AT=log` kills nothing and names each place on stderr. The variable is read
//! once; agents and checks never see it, because their environment is built explicitly.
//!
//! Builds with debug assertions have the places; release builds have them only with the feature `armed`
//! (`cargo build --release --features crash-point/armed`), and [`reach`] is empty in all others.
//!
//! Every place is a [`Point`], so that a test can go through [`Point::ALL`] and fail at one that is never reached. It must
//! never be used to decide anything: code behaves the same with and without its points.

/// The environment variable.
pub const VARIABLE: &str = "CODING_LOOPS_CRASH_AT";

/// What stands before the name of a place where nothing is killed.
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
    /// A loop has ended what a former self had left running, and has settled nothing yet.
    StartLeftoversEnded = "start.leftovers-ended",
    /// It has its row again, and interrupted landings are settled; its workspace is as it was.
    StartTaken = "start.taken",
    /// One more entry of the journal is finished or undone outside of the database, and not settled.
    StartEntryRecovered = "start.entry-recovered",
    /// The journal is settled; the workspace is about to be put away.
    StartRecovered = "start.recovered",
    /// The workspace is put away; the first claim is next.
    StartTidied = "start.tidied",
    /// The store is there under its own name.
    StoreMade = "store.made",
    /// A workspace is laid out beside its place.
    WorkspaceMade = "workspace.made",
    /// The loop's workspace is there and in order.
    WorkspaceReady = "workspace.ready",
    /// A workspace's files are reset, its agent's git is not.
    WorkspaceReset = "workspace.reset",
    /// A test is claimed, nothing is done for it.
    AttemptClaimed = "attempt.claimed",
    /// The checkpoint is written down.
    CheckpointIntended = "checkpoint.intended",
    /// Its ref is there.
    CheckpointMade = "checkpoint.made",
    /// Its row is there.
    CheckpointSettled = "checkpoint.settled",
    /// The agent has ended.
    AgentEnded = "agent.ended",
    /// What the agent has left is looked at; its objects are in the store, and no ref names them.
    WorkLooked = "work.looked",
    /// What no commit can hold of the work is moved aside.
    PutAwaySetAside = "put-away.set-aside",
    /// Putting work away is written down.
    PutAwayIntended = "put-away.intended",
    /// The work is under its ref, the workspace as it was.
    PutAwaySaved = "put-away.saved",
    /// The ref is known.
    PutAwayRecorded = "put-away.recorded",
    /// The workspace is put back.
    PutAwayRestored = "put-away.restored",
    /// It is known that it is.
    PutAwaySettled = "put-away.settled",
    /// What was asked for (a pause, a rollback …) is done outside of the database; the order is not acknowledged.
    OrderDone = "order.done",
    /// The order is acknowledged, leases and test are given back.
    OrderRecorded = "order.recorded",
    /// How an attempt failed is recorded.
    AttemptFailed = "attempt.failed",
    /// The work has passed the gate before its turn; the integration branch is not leased yet.
    LandingJudged = "landing.judged",
    /// The files that will land are leased, the integration branch too.
    LandingLeased = "landing.leased",
    /// The work is a commit on the head of integration, and no ref names it.
    WorkPutOn = "work.put-on",
    /// The commit is checked out for the checks.
    GateCheckedOut = "gate.checked-out",
    /// A check has run, its proof is not kept.
    GateChecked = "gate.checked",
    /// The gate has said yes.
    GatePassed = "gate.passed",
    /// Moving the integration branch is written down.
    IntegrateIntended = "integrate.intended",
    /// It has moved; the database does not know.
    IntegrateMoved = "integrate.moved",
    /// The pass is recorded.
    IntegrateRecorded = "integrate.recorded",
    /// The lease of whoever brings the user's commits in is taken, and that is written down.
    SyncBegun = "sync.begun",
    /// The user's commits are in the store; no ref names them.
    SyncFetched = "sync.fetched",
    /// A check has run on them together with what has landed.
    SyncChecked = "sync.checked",
    /// The integration branch is leased for them.
    SyncTurn = "sync.turn",
    /// Where it moves is written down.
    SyncIntended = "sync.intended",
    /// It has moved; the database does not know.
    SyncMoved = "sync.moved",
    /// That it has is recorded.
    SyncRecorded = "sync.recorded",
    /// The objects of what is published are in the user's repository, the branch has not moved.
    PublishBrought = "publish.brought",
    /// The branch has moved, and the store does not know.
    PublishMoved = "publish.moved",
    /// A landing of a former self, or of a loop that is gone, is found on the branch; it is not recorded.
    RecoverLanded = "recover.landed",
    /// A supervisor's effects are written down; none is performed.
    EffectIntended = "effect.intended",
    /// One is performed, its outcome not recorded.
    EffectPerformed = "effect.performed",
    /// Its outcome is recorded.
    EffectRecorded = "effect.recorded",
    /// The regression-checker has run a check and has not kept what it showed.
    RegressionRan = "regression.ran",
    /// It has kept it.
    RegressionKept = "regression.kept",
}

#[cfg(any(debug_assertions, feature = "armed"))]
mod armed;

/// The process comes to a place. Nothing happens unless the environment asks for it, and nothing ever in builds that are not
/// armed.
#[inline]
pub fn reach(point: Point) {
    #[cfg(any(debug_assertions, feature = "armed"))]
    armed::reach(point);
    #[cfg(not(any(debug_assertions, feature = "armed")))]
    let _ = point;
}
