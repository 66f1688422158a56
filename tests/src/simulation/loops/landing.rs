//! How an attempt of a simulated loop ends: the gate, the question to the human, landing, and what is recorded.

use coding_loop::attempt::Input;
use coord_db::{
    ActorId, CheckOutcome, Error, ErrorCategory, FailedAttempt, JournalEntry, NewDecision, PassedAttempt, Proof, Result,
    TestId, TestStatus, UnlockCause, new_id, payload,
};
use serde_json::json;

use super::super::engine::Step;
use super::super::world::{Commit, World};
use super::{Fate, INTEGRATE, LoopActor, LoopFault};

impl LoopActor {
    pub(super) fn gate(&mut self, world: &mut World) -> Result<Step> {
        let now = world.elapsed();
        let Some(attempt) = self.attempt.as_mut() else { return Ok(Step::now("")) };
        if attempt.judged.as_ref() == Some(&attempt.head) {
            return self.done(Step::now("has the gate's word already"));
        }
        match attempt.gate_until {
            None => {
                let gate = world.millis(500, 8_000);
                attempt.gate_until = Some(now + gate);
                Ok(Step::after(gate, "runs the gate"))
            }
            Some(until) if now < until => Ok(Step::after(until - now, "runs the gate")),
            Some(_) => {
                attempt.gate_until = None;
                attempt.judged = Some(attempt.head.clone());
                let (test, number) = (attempt.test.clone(), attempt.number);
                match self.fate(world, &test, number) {
                    Fate::Fails(category) if self.fault != LoopFault::PassesWithoutGate => self.record_failure(world, category),
                    _ => self.done(Step::now("passes the gate")),
                }
            }
        }
    }

    pub(super) fn ask(&mut self, world: &mut World) -> Result<Step> {
        let option = |id: &str| payload::DecisionOption { id: id.to_owned(), description: format!("indent by {id}") };
        let question = NewDecision {
            decision_type: "architecture".to_owned(),
            summary: "by what shall the code be indented?".to_owned(),
            options: vec![option("tabs"), option("spaces")],
            default_option: Some("spaces".to_owned()),
            context: json!({}),
            timeout_minutes: Some(1),
            requested_by: self.actor(),
            fingerprint: None,
        };
        let asked = world.write(|tx| tx.ask(&question, None))?;
        if let Some(attempt) = self.attempt.as_mut() {
            attempt.to_ask = false;
            attempt.asked = Some(asked);
        }
        Ok(Step::now("asks the human"))
    }

    /// Writes down the intent, moves the branch, records the pass: a step each.
    pub(super) fn land(&mut self, world: &mut World) -> Result<Step> {
        let Some(attempt) = self.attempt.as_mut() else { return Ok(Step::now("")) };
        let (id, test) = (self.id.clone(), attempt.test.clone());
        let Some(entry) = attempt.landing.clone() else {
            let head = world.outside.integration.last().map(|commit| commit.id.clone());
            if attempt.head != head {
                attempt.machine.next(Input::Overtaken);
                return Ok(Step::now("finds that integration has moved"));
            }
            let commit = world.commit();
            let steps = json!({"test": test, "commit": commit, "seconds": (world.elapsed() - attempt.begun_at) / 1000,
                "files": attempt.held.iter().map(|(path, _)| path.to_string()).collect::<Vec<_>>(), "attempt": attempt.number});
            let begun = world.write(|tx| {
                let row = tx.test(&test)?;
                if row.status != TestStatus::InProgress || row.loop_id != id {
                    return Ok(None);
                }
                let entry = tx.begin_operation(INTEGRATE, id.as_str(), Some(&id), &steps, None)?;
                tx.journal_entry(&entry)
            });
            attempt.landing = begun?;
            return Ok(Step::now(format!("begins to land {test}")));
        };
        let commit = entry.steps.intent["commit"].as_str().unwrap_or_default().to_owned();
        if self.fault != LoopFault::PassesWithoutGate && !world.outside.integration.iter().any(|known| known.id == commit) {
            // Unnoticed by its own gate it may break what was there before; done again it no longer does.
            let again = world.outside.integration.iter().any(|known| known.test == test);
            let breaks = (!again && world.fate((&test, "breaks"), 100) < 15)
                .then(|| world.outside.integration.first().map(|first| first.test.clone()))
                .flatten();
            world.land(Commit { id: commit.clone(), test, loop_id: id.to_string(), breaks });
            return Ok(Step::now("moves the branch"));
        }
        let step = self.record_pass(world, &entry)?;
        if let Some(attempt) = self.attempt.as_mut() {
            attempt.landing = None;
        }
        self.done(step)
    }

    pub(super) fn record_pass(&mut self, world: &mut World, entry: &JournalEntry) -> Result<Step> {
        let id = self.id.clone();
        let text = |key: &str| entry.steps.intent[key].as_str().unwrap_or_default().to_owned();
        let (test, commit): (TestId, String) = (text("test").parse().expect("a test"), text("commit"));
        let files =
            entry.steps.intent["files"].as_array().into_iter().flatten().filter_map(|file| file.as_str().map(str::to_owned));
        let passed = PassedAttempt {
            commit: commit.clone(),
            checks: vec![("tests".to_owned(), true)],
            duration_seconds: entry.steps.intent["seconds"].as_i64().unwrap_or_default(),
            tokens_estimated: Some(100),
            files_modified: files.collect(),
        };
        let recorded = world.write(|tx| {
            let proof = Proof {
                id: new_id(),
                test_id: test.clone(),
                attempt: entry.steps.intent["attempt"].as_i64().unwrap_or_default(),
                commit_hash: commit.clone(),
                tree_hash: format!("tree-{commit}"),
                check_name: "tests".to_owned(),
                outcome: CheckOutcome::Pass,
                exit_code: Some(0),
                duration_ms: 1,
                output_sha256: String::new(),
                output_tail: String::new(),
                created_at: tx.now(),
            };
            tx.add_proof(&proof, None)?;
            tx.adopt_landed(&test, &id, &passed)?;
            tx.end_operation(&entry.id, true)?;
            tx.release_everything(id.as_str(), &ActorId::from(&id), UnlockCause::Released, None)
        });
        match recorded {
            Ok(_) => Ok(Step::now(format!("records that {test} passed"))),
            Err(Error::Refused(_) | Error::IllegalMove { .. }) => {
                // Another loop has it by now; it will find the commit on the branch.
                world.write(|tx| tx.end_operation(&entry.id, false))?;
                Ok(Step::now(format!("cannot record {test} any more")))
            }
            Err(error) => Err(error),
        }
    }

    /// Settles what its former self had begun to land, by what is on the branch.
    pub(super) fn recover(&mut self, world: &mut World) -> Result<Step> {
        let open = world.read(|tx| tx.open_journal(Some(self.id.as_str())));
        let Some(entry) = open.first() else {
            self.recovered = true;
            return Ok(Step::now("has nothing to settle"));
        };
        let commit = entry.steps.intent["commit"].as_str().unwrap_or_default();
        if world.outside.integration.iter().any(|known| known.id == commit) {
            return self.record_pass(world, entry);
        }
        world.write(|tx| tx.end_operation(&entry.id, false))?;
        Ok(Step::now("settles that a commit has not landed"))
    }

    pub(super) fn record_failure(&mut self, world: &mut World, category: ErrorCategory) -> Result<Step> {
        let Some(test) = self.attempt.as_ref().map(|attempt| attempt.test.clone()) else { return Ok(Step::now("")) };
        let id = self.id.clone();
        let said = if self.fault == LoopFault::GivesFailuresBack { ErrorCategory::System } else { category };
        let recorded = world.write(|tx| {
            let failed = FailedAttempt::new(said, "the gate refused it");
            let status = tx.record_failed(&test, &id, &failed)?;
            tx.release_everything(id.as_str(), &ActorId::from(&id), UnlockCause::Released, None)?;
            Ok(status)
        });
        let what = match recorded {
            Ok(status) => {
                if category.gives_attempt_back() {
                    *world.outside.transients.entry(test.clone()).or_default() += 1;
                } else {
                    *world.ledger.failures.entry(test.clone()).or_default() += 1;
                }
                format!("fails {test} ({category}): {status}")
            }
            Err(Error::Refused(_) | Error::IllegalMove { .. }) => {
                world.write(|tx| Self::let_go(tx, &id, "not in hand", None))?;
                format!("no longer has {test} in hand")
            }
            Err(error) => return Err(error),
        };
        self.attempt = None;
        Ok(Step::now(what))
    }
}
