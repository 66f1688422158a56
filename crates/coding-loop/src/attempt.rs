//! An attempt as a state machine without I/O: from the result of each step it derives the next one.
//!
//! The program and the simulation perform the same commands in their own ways. A step that ends the attempt (a failure,
//! an order, an agent that cannot work) gives [`Input::Ended`]; the caller keeps the reason.

/// The next step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Bring the workspace to the head of integration and create a checkpoint.
    Begin,
    /// Run the agent, or perform what was decided instead.
    Work,
    /// Read the changes, and check whether they may land at all.
    Look,
    /// Ask for permission to change what other loops own.
    AskOwners,
    /// Lease the changed files, or queue for them.
    LeaseFiles,
    /// Wait until all queued leases are granted.
    AwaitLeases,
    /// Wait for a human's approval where it is required.
    Approve,
    /// Apply the work to the head of integration.
    PutOnHead,
    /// Run the checks on the result.
    Gate,
    /// Queue the work for landing.
    Queue,
    /// Record the end of the attempt.
    Close(Close),
}

/// How an attempt ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Close {
    /// The work has passed alone and waits to land together with others.
    Queued,
    /// The agent claims success without a change.
    Unchanged,
    /// With the reason of [`Input::Ended`].
    Ended,
}

/// The result of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// The command succeeded.
    Done,
    /// From [`Command::Look`]: nothing has changed.
    NothingChanged,
    /// The work is not good enough, and the agent can mend it in the same session.
    Red,
    /// The attempt has ended.
    Ended,
}

/// One attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attempt {
    doing: Command,
    /// True if a claim without a change goes to the gate.
    may_be_empty: bool,
    /// The files are leased and approved, so the work may go to the gate.
    cleared: bool,
    /// How often the work may still go back to the agent.
    fix_rounds: u32,
}

impl Attempt {
    /// An attempt of a claimed test.
    #[must_use]
    pub fn new() -> Self {
        Self { doing: Command::Begin, may_be_empty: false, cleared: false, fix_rounds: 0 }
    }

    /// An attempt whose work was done by hand.
    #[must_use]
    pub fn submitted() -> Self {
        Self { doing: Command::Look, ..Self::new() }
    }

    /// Lets work that is not good enough go back to the agent this number of times.
    #[must_use]
    pub fn with_fix_rounds(self, fix_rounds: u32) -> Self {
        Self { fix_rounds, ..self }
    }

    /// Lets a claim without a change go to the gate.
    pub fn allow_no_change(&mut self) {
        self.may_be_empty = true;
    }

    /// True if work that is not good enough may go back to the agent.
    #[must_use]
    pub fn may_fix(&self) -> bool {
        self.fix_rounds > 0
    }

    /// The current command.
    #[must_use]
    pub fn doing(&self) -> Command {
        self.doing
    }

    /// Processes the result of the command and returns the next one. Total: an unexpected input ends the attempt.
    pub fn next(&mut self, input: Input) -> Command {
        self.doing = match (self.doing, input) {
            (Command::Close(close), _) => Command::Close(close),
            (_, Input::Ended) => Command::Close(Close::Ended),
            (Command::Look | Command::PutOnHead | Command::Gate, Input::Red) if self.fix_rounds > 0 => {
                self.fix_rounds -= 1;
                // Other files may change now.
                self.cleared = false;
                Command::Work
            }
            (_, Input::Red) => Command::Close(Close::Ended),
            (Command::Begin, Input::Done) => Command::Work,
            (Command::Work, Input::Done) => Command::Look,
            (Command::Look, Input::NothingChanged) if !self.may_be_empty => Command::Close(Close::Unchanged),
            (Command::Look, Input::Done | Input::NothingChanged) => Command::AskOwners,
            // A path may have become owned while the loop waited, so this is checked again.
            (Command::AskOwners, Input::Done) if self.cleared => Command::Approve,
            (Command::AskOwners, Input::Done) => Command::LeaseFiles,
            (Command::LeaseFiles, Input::Done) => Command::AwaitLeases,
            (Command::AwaitLeases, Input::Done) => {
                self.cleared = true;
                Command::AskOwners
            }
            (Command::Approve, Input::Done) => Command::PutOnHead,
            (Command::PutOnHead, Input::Done) => Command::Gate,
            // Judged alone, on the head as it is now. Whatever lands meanwhile, the train judges them together.
            (Command::Gate, Input::Done) => Command::Queue,
            (Command::Queue, Input::Done) => Command::Close(Close::Queued),
            (_, Input::NothingChanged) => Command::Close(Close::Ended),
        };
        self.doing
    }
}

impl Default for Attempt {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INPUTS: [Input; 4] = [Input::Done, Input::NothingChanged, Input::Red, Input::Ended];

    fn way(mut attempt: Attempt, inputs: impl Fn(Command, usize) -> Input) -> Vec<Command> {
        let mut way = vec![attempt.doing()];
        while !matches!(way.last(), Some(Command::Close(_))) {
            let command = attempt.doing();
            let before = way.iter().filter(|each| **each == command).count();
            way.push(attempt.next(inputs(command, before)));
            assert!(way.len() < 100, "it comes to no end: {way:?}");
        }
        way
    }

    #[test]
    fn undisturbed_work_is_queued_after_the_gate() {
        use Command::*;
        let expected = [
            Begin,
            Work,
            Look,
            AskOwners,
            LeaseFiles,
            AwaitLeases,
            AskOwners,
            Approve,
            PutOnHead,
            Gate,
            Queue,
            Close(super::Close::Queued),
        ];
        assert_eq!(way(Attempt::new(), |_, _| Input::Done), expected);
        assert_eq!(way(Attempt::submitted(), |_, _| Input::Done), expected[2..]);
    }

    #[test]
    fn a_claim_without_a_change_is_asked_about_unless_it_is_allowed() {
        let nothing = |command, _| if command == Command::Look { Input::NothingChanged } else { Input::Done };
        assert_eq!(way(Attempt::new(), nothing).last(), Some(&Command::Close(Close::Unchanged)));
        let mut allowed = Attempt::new();
        allowed.allow_no_change();
        assert_eq!(way(allowed, nothing).last(), Some(&Command::Close(Close::Queued)));
    }

    #[test]
    fn a_red_gate_goes_back_to_the_agent_a_limited_number_of_times() {
        let red = |command, _| if command == Command::Gate { Input::Red } else { Input::Done };
        let way = way(Attempt::new().with_fix_rounds(2), red);
        let count = |wanted| way.iter().filter(|command| **command == wanted).count();
        assert_eq!((count(Command::Work), count(Command::Gate), count(Command::LeaseFiles)), (3, 3, 3));
        assert_eq!(way.last(), Some(&Command::Close(Close::Ended)));
    }

    #[test]
    fn every_way_ends_and_queues_only_what_is_leased_approved_and_judged() {
        fn walk(attempt: Attempt, way: &mut Vec<Command>, ways: &mut u32) {
            way.push(attempt.doing());
            if let Command::Close(close) = attempt.doing() {
                *ways += 1;
                if close == Close::Queued {
                    let last = |wanted| way.iter().rposition(|command| *command == wanted);
                    let queue = last(Command::Queue).unwrap();
                    assert_eq!(way[queue - 2..queue], [Command::PutOnHead, Command::Gate], "judged as it is queued: {way:?}");
                    for before in [Command::Look, Command::LeaseFiles, Command::AwaitLeases, Command::Approve] {
                        assert!(last(before).unwrap() < queue, "{before:?} first: {way:?}");
                    }
                }
            } else {
                for input in INPUTS {
                    let mut next = attempt;
                    next.next(input);
                    walk(next, way, ways);
                }
            }
            way.pop();
        }
        let mut ways = 0;
        walk(Attempt::new().with_fix_rounds(2), &mut Vec::new(), &mut ways);
        assert!(ways > 10, "{ways}");
    }
}
