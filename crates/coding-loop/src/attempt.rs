//! An attempt as a state machine without I/O: from the result of each step it derives the next one.
//!
//! The program and the simulation perform the same commands in their own ways. A step that ends the attempt (a failure,
//! an order, an agent that cannot work) gives [`Input::Ended`]; the caller keeps the reason.

/// Maximum number of moves of integration during an attempt before the attempt is given back.
pub const MAX_ROUNDS: u32 = 5;

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
    /// Acquire the lease for moving integration, or queue for it.
    LeaseIntegration,
    /// Move integration and record the pass.
    Land,
    /// Record the end of the attempt.
    Close(Close),
}

/// How an attempt ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Close {
    /// The work has landed.
    Passed,
    /// The agent claims success without a change.
    Unchanged,
    /// Integration has moved too often.
    Overtaken,
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
    /// From [`Command::Land`]: integration has moved meanwhile, and nothing was done.
    Overtaken,
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
    /// The lease for moving integration is held.
    has_turn: bool,
    rounds: u32,
}

impl Attempt {
    /// An attempt of a claimed test.
    #[must_use]
    pub fn new() -> Self {
        Self { doing: Command::Begin, may_be_empty: false, cleared: false, has_turn: false, rounds: 0 }
    }

    /// An attempt whose work was done by hand.
    #[must_use]
    pub fn submitted() -> Self {
        Self { doing: Command::Look, ..Self::new() }
    }

    /// Lets a claim without a change go to the gate.
    pub fn allow_no_change(&mut self) {
        self.may_be_empty = true;
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
            (Command::Begin, Input::Done) => Command::Work,
            (Command::Work, Input::Done) => Command::Look,
            (Command::Look, Input::NothingChanged) if !self.may_be_empty => Command::Close(Close::Unchanged),
            (Command::Look, Input::Done | Input::NothingChanged) => Command::AskOwners,
            // A path may have become owned while the loop waited, so this is checked again.
            (Command::AskOwners, Input::Done) if self.cleared => Command::Approve,
            (Command::AskOwners, Input::Done) => Command::LeaseFiles,
            (Command::LeaseFiles | Command::LeaseIntegration, Input::Done) => Command::AwaitLeases,
            (Command::AwaitLeases, Input::Done) if self.cleared => {
                self.has_turn = true;
                Command::PutOnHead
            }
            (Command::AwaitLeases, Input::Done) => {
                self.cleared = true;
                Command::AskOwners
            }
            (Command::Approve, Input::Done) => Command::PutOnHead,
            (Command::PutOnHead, Input::Done) => Command::Gate,
            // First judged without the lease for moving integration, so that a slow or failing suite delays no other
            // loop. If nothing lands meanwhile, the proofs stay valid; otherwise it is judged again while holding the
            // lease, so that it cannot be overtaken forever.
            (Command::Gate, Input::Done) if self.has_turn => Command::Land,
            (Command::Gate, Input::Done) => Command::LeaseIntegration,
            (Command::Land, Input::Done) => Command::Close(Close::Passed),
            (Command::Land, Input::Overtaken) if self.rounds + 1 < MAX_ROUNDS => {
                self.rounds += 1;
                Command::PutOnHead
            }
            (Command::Land, Input::Overtaken) => Command::Close(Close::Overtaken),
            (_, Input::NothingChanged | Input::Overtaken) => Command::Close(Close::Ended),
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

    const INPUTS: [Input; 4] = [Input::Done, Input::NothingChanged, Input::Overtaken, Input::Ended];

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
    fn what_nothing_stops_lands_after_two_looks_of_the_gate() {
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
            LeaseIntegration,
            AwaitLeases,
            PutOnHead,
            Gate,
            Land,
            Close(super::Close::Passed),
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
        assert_eq!(way(allowed, nothing).last(), Some(&Command::Close(Close::Passed)));
    }

    #[test]
    fn one_that_is_overtaken_is_judged_again_and_given_back_in_the_end() {
        let overtaken = |times: usize| {
            way(
                Attempt::new(),
                move |command, before| {
                    if command == Command::Land && before <= times { Input::Overtaken } else { Input::Done }
                },
            )
        };
        let twice = overtaken(2);
        assert_eq!(twice.last(), Some(&Command::Close(Close::Passed)));
        assert_eq!(twice.iter().filter(|command| **command == Command::Gate).count(), 4);
        assert_eq!(overtaken(MAX_ROUNDS as usize).last(), Some(&Command::Close(Close::Overtaken)));
    }

    #[test]
    fn every_way_comes_to_an_end_and_lands_only_what_is_leased_approved_and_judged() {
        fn walk(attempt: Attempt, way: &mut Vec<Command>, ways: &mut u32) {
            way.push(attempt.doing());
            if let Command::Close(close) = attempt.doing() {
                *ways += 1;
                if close == Close::Passed {
                    let last = |wanted| way.iter().rposition(|command| *command == wanted);
                    let land = last(Command::Land).unwrap();
                    assert_eq!(way[land - 2..land], [Command::PutOnHead, Command::Gate], "judged as it lands: {way:?}");
                    for before in [Command::Look, Command::LeaseFiles, Command::Approve, Command::LeaseIntegration] {
                        assert!(last(before).unwrap() < land, "{before:?} first: {way:?}");
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
        walk(Attempt::new(), &mut Vec::new(), &mut ways);
        assert!(ways > 50, "{ways}");
    }
}
