//! Closed lists of values, in the spelling of the database.

macro_rules! text_enum {
    ($(#[$meta:meta])* $name:ident { $($(#[$vmeta:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
        pub enum $name { $($(#[$vmeta])* #[serde(rename = $text)] #[doc = concat!("`", $text, "`")] $variant),+ }

        impl $name {
            /// Every value, in order.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The value as it is in the database.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
        }

        impl std::str::FromStr for $name {
            type Err = crate::Error;
            fn from_str(text: &str) -> Result<Self, crate::Error> {
                match text {
                    $($text => Ok(Self::$variant),)+
                    _ => Err(crate::Error::Invalid(format!("{text:?} is none of {}", [$($text),+].join(", ")))),
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl crate::engine::ToParameter for $name {
            fn to_parameter(&self) -> crate::engine::Parameter<'_> {
                self.as_str().to_parameter()
            }
        }

        impl crate::engine::Column for $name {
            fn take(value: crate::engine::ValueRef<'_>) -> Result<Self, crate::engine::Unreadable> {
                value.parse()
            }
        }
    };
}

text_enum!(
    /// What a loop is doing.
    LoopStatus { Running = "running", Stopped = "stopped", Paused = "paused", Error = "error" }
);
text_enum!(
    /// How far a test is.
    TestStatus {
        Pending = "pending", InProgress = "in_progress", Passed = "passed",
        Failed = "failed", Blocked = "blocked", Skipped = "skipped",
    }
);
text_enum!(
    /// How a test's last attempt ended.
    LastResult { Pass = "pass", Fail = "fail", Blocked = "blocked" }
);
text_enum!(
    /// Whose fault an error is, and so what is done about it.
    ErrorCategory {
        Transient = "transient", Permanent = "permanent", System = "system", Code = "code", Spec = "spec",
        Resource = "resource", Dependency = "dependency", Human = "human", Conflict = "conflict",
    }
);
text_enum!(
    /// What runs for a loop.
    RunOf { Agent = "agent", Check = "check" }
);
text_enum!(
    /// Why no attempt starts: the account has reached a limit, its service does not answer, a human has to fix something, or
    /// runs fail again and again without a result.
    HoldKind { Limit = "limit", Outage = "outage", Human = "human", Repeated = "repeated" }
);
text_enum!(
    /// What a claim without a change comes to: the human is asked, the test allows it, or the human has accepted it.
    NoChange { Ask = "ask", Allowed = "allowed", Accepted = "accepted" }
);
text_enum!(
    /// Why a lease ended.
    UnlockCause {
        Released = "released", Expired = "expired", Revoked = "revoked", OwnerDied = "owner_died", Forced = "forced",
    }
);
text_enum!(
    /// A component's health as it is written down.
    HealthStatus { Healthy = "healthy", Degraded = "degraded", Dead = "dead", Unknown = "unknown" }
);
text_enum!(
    /// How bad an alert is.
    Severity { Info = "info", Warning = "warning", Error = "error", Critical = "critical" }
);
text_enum!(
    /// What an alert is about.
    AlertType {
        Stuck = "stuck", Conflict = "conflict", Digression = "digression", Resource = "resource", Regression = "regression",
    }
);
text_enum!(
    /// How far a decision is.
    DecisionStatus { Pending = "pending", Decided = "decided", AutoResolved = "auto_resolved", Expired = "expired" }
);
text_enum!(
    /// How far a delivery is.
    DeliveryStatus { Pending = "pending", Acknowledged = "acknowledged", SetAside = "set_aside" }
);
text_enum!(
    /// How far a journalled effect is.
    JournalStatus { InProgress = "in_progress", Committed = "committed", RolledBack = "rolled_back" }
);
text_enum!(
    /// How one run of a check ended.
    CheckOutcome { Pass = "pass", Fail = "fail", Error = "error" }
);
text_enum!(
    /// How the run behind a proof ended, in more words than its outcome. `passed` is a pass; `failed`, `timed_out` and
    /// `changed_files` are fails; all others are errors, neither the one nor the other.
    RunKind {
        Passed = "passed", Failed = "failed", TimedOut = "timed_out", ChangedFiles = "changed_files", Missing = "missing",
        NotExecutable = "not_executable", NotStarted = "not_started", Signaled = "signaled", Lost = "lost",
        Cancelled = "cancelled",
    }
);
text_enum!(
    /// What a check showed at the base: passed, failed again and again, failed and then passed, or was not waited for.
    BaseState { Green = "green", Red = "red", Flaky = "flaky", Skipped = "skipped" }
);
text_enum!(
    /// What a proof is of: the work alone; its result as the base of others; the test at the base, where it has to fail; the work
    /// together with others.
    ProofStage { Alone = "alone", Base = "base", RedBefore = "red_before", Batch = "batch" }
);
text_enum!(
    /// State of finished work in the landing train: it waits, is judged together with others, has landed, was given back to its
    /// loop, or was withdrawn.
    LandingState {
        Queued = "queued", Judging = "judging", Landed = "landed", Returned = "returned", Withdrawn = "withdrawn",
    }
);
text_enum!(
    /// Result of judging a batch. `flaky`: it failed first and then passed on the same files.
    BatchOutcome { Passed = "passed", Failed = "failed", Flaky = "flaky" }
);
text_enum!(
    /// How a deadlock ended.
    DeadlockOutcome { Released = "released", Revoked = "revoked", Dissolved = "dissolved" }
);
text_enum!(
    /// What is known of a test that once passed and now fails.
    RegressionStatus {
        Suspected = "suspected", Bisecting = "bisecting", Regressed = "regressed",
        Unknown = "unknown", Flaky = "flaky", Cleared = "cleared",
    }
);
text_enum!(
    /// How a check fared at a commit of the integration branch.
    RunOutcome { Pass = "pass", Fail = "fail", Flaky = "flaky", Error = "error" }
);
text_enum!(
    /// What an item of knowledge is.
    KnowledgeType { Fact = "fact", Decision = "decision", Pattern = "pattern", Warning = "warning" }
);
text_enum!(
    /// What an owned resource is.
    ResourceType { File = "file", Type = "type", Interface = "interface", Endpoint = "endpoint", Migration = "migration" }
);
text_enum!(
    /// What a change request asks for.
    RequestType { Modify = "modify", Extend = "extend", Delete = "delete" }
);
text_enum!(
    /// How far a change request is.
    RequestStatus { Pending = "pending", Approved = "approved", Rejected = "rejected", Applied = "applied" }
);
text_enum!(
    /// How far a migration of the users' own database is.
    MigrationStatus { Pending = "pending", Applied = "applied", Failed = "failed" }
);
text_enum!(
    /// What kind of git object a checkpoint's ref names.
    CheckpointType { Branch = "branch", Stash = "stash", Tag = "tag" }
);

impl ErrorCategory {
    /// True for an error that is not the agent's: the attempt is given back.
    #[must_use]
    pub const fn gives_attempt_back(self) -> bool {
        matches!(self, Self::Transient | Self::System | Self::Resource | Self::Dependency)
    }
}
