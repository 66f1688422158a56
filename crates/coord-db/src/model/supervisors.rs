//! The supervisors: the programs that watch the database.
//!
//! This is the only list of them in the programs. A test compares it with the units, the scripts and the schema.

/// A program that watches the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Program {
    /// The name of its program and of its unit.
    pub program: &'static str,
    /// Its id in the data: the source of its events, its component, the subscriber of its subscriptions.
    pub id: &'static str,
    /// What it does, in one line of its help.
    pub about: &'static str,
    /// What does not happen while it does not run, and how to start it.
    pub without: &'static str,
}

/// `heartbeat`.
pub const HEARTBEAT: Program = Program {
    program: "heartbeat",
    id: "heartbeat",
    about: "Judge the health of loops and supervisors, clean up after dead ones, and expire leases",
    without: "processes that end on its host are only noticed by their silence; start heartbeat there",
};

/// `deadlock-detector`.
pub const DEADLOCK_DETECTOR: Program = Program {
    program: "deadlock-detector",
    id: "deadlock-detector",
    about: "Find loops that wait for each other in a cycle, choose a victim, and revoke its leases if it does not respond",
    without: "loops in a deadlock wait until their leases expire; start it with deadlock-detector",
};

/// `monitor`.
pub const MONITOR: Program = Program {
    program: "monitor",
    id: "monitor",
    about: "Find loops that are stuck, digress, conflict or exceed a budget, and raise alerts",
    without: "stuck, digressing or conflicting loops are not detected, and loops pause between two tests; start it with monitor",
};

/// `regression-checker`.
pub const REGRESSION_CHECKER: Program = Program {
    program: "regression-checker",
    id: "regression-checker",
    about: "Re-run passed tests when the integration branch moves, confirm failures, and bisect for the cause",
    without: "regressions are not detected; start it with regression-checker",
};

/// `pm-agent`.
pub const PM_AGENT: Program = Program {
    program: "pm-agent",
    id: "pm",
    about: "Resolve conflicts, dependencies and lost loops, ask the human, and apply the answers",
    without: "conflicts are not settled and answers are not applied; of two loops in conflict one pauses itself; start it with pm-agent",
};

/// All supervisors, in the order in which they start. They stop in the reverse order.
pub const SUPERVISORS: [Program; 5] = [HEARTBEAT, DEADLOCK_DETECTOR, MONITOR, REGRESSION_CHECKER, PM_AGENT];

/// The supervisor with this id in the data.
#[must_use]
pub fn find(id: &str) -> Option<&'static Program> {
    SUPERVISORS.iter().find(|each| each.id == id)
}
