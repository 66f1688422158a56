//! An attempt as a state machine without I/O: what is done next, by what came of the step before.
//!
//! The program and the simulation perform the same commands, each in its own way. A step that ends the attempt (a failure,
//! an order, trouble of the agent) is [`Input::Ended`]; its reason stays with whoever performs.

/// How often integration may move under an attempt before it is given back.
pub const MAX_ROUNDS: u32 = 5;

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Put the workspace at the head of integration, and make a checkpoint.
    Begin,
    /// Run the agent, or do what was decided in its place.
    Work,
    /// See what has changed, and whether that may land at all.
    Look,
    /// Ask for leave to change what other loops own.
    AskOwners,
    /// Lease the changed files, or queue for them.
    LeaseFiles,
    /// Wait until every lease that is queued for is granted.
    AwaitLeases,
    /// Have a human approve what only a human may.
    Approve,
    /// Put the work on the head of integration.
    PutOnHead,
    /// Run the checks on that.
    Gate,
    /// Lease, or queue for, the right to move integration.
    LeaseIntegration,
    /// Move integration and record the pass.
    Land,
    /// Record how the attempt ended.
    Close(Close),
}

/// How an attempt ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Close {
    /// It has landed.
    Passed,
    /// The agent claims success and has changed nothing.
    Unchanged,
    /// Integration has moved too often.
    Overtaken,
    /// By the reason that came with [`Input::Ended`].
    Ended,
}

/// What came of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// The command is done.
    Done,
    /// Of [`Command::Look`]: nothing has changed.
    NothingChanged,
    /// Of [`Command::Land`]: integration has moved meanwhile, and nothing was done.
    Overtaken,
    /// The attempt is over.
    Ended,
}

/// One attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attempt {
    doing: Command,
    /// Whether a claim without a change goes to the gate as it stands.
    may_be_empty: bool,
    /// The files are leased and approved, so that the work may be judged.
    cleared: bool,
    /// The right to move integration is held.
    has_turn: bool,
    rounds: u32,
}

impl Attempt {
    /// An attempt of a claimed test.
    #[must_use]
    pub fn new() -> Self {
        Self { doing: Command::Begin, may_be_empty: false, cleared: false, has_turn: false, rounds: 0 }
    }

    /// An attempt whose work is done already, by hand.
    #[must_use]
    pub fn submitted() -> Self {
        Self { doing: Command::Look, ..Self::new() }
    }

    /// From now on a claim without a change goes to the gate.
    pub fn allow_no_change(&mut self) {
        self.may_be_empty = true;
    }

    /// What is being done.
    #[must_use]
    pub fn doing(&self) -> Command {
        self.doing
    }

    /// Takes in what came of the command, and gives the next one. Total: an input that does not fit ends the attempt.
    pub fn next(&mut self, input: Input) -> Command {
        self.doing = match (self.doing, input) {
            (Command::Close(close), _) => Command::Close(close),
            (_, Input::Ended) => Command::Close(Close::Ended),
            (Command::Begin, Input::Done) => Command::Work,
            (Command::Work, Input::Done) => Command::Look,
            (Command::Look, Input::NothingChanged) if !self.may_be_empty => Command::Close(Close::Unchanged),
            (Command::Look, Input::Done | Input::NothingChanged) => Command::AskOwners,
            // Something may have become owned while the loop waited for it, so it is asked again.
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
            // Judged once before its turn, on what has landed so far: a suite that is slow or fails holds nobody up. If
            // nothing lands meanwhile, the proofs stand; else it is judged again with its turn held, so that it cannot be
            // overtaken for ever.
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
