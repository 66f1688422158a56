//! How an attempt of a simulated loop ends: the gate, the question to the human, the queue of the landing train, failures.

use coord_db::{Error, ErrorCategory, FailedAttempt, LeasePath, NewDecision, NewLanding, PassedAttempt, Result, payload};
use serde_json::json;

use super::super::engine::Step;
use super::super::world::World;
use super::{Fate, LoopActor, LoopFault};

impl LoopActor {
    pub(super) fn gate(&mut self, world: &mut World) -> Result<Step> {
        let now = world.elapsed();
        let Some(attempt) = self.attempt.as_mut() else { return Ok(Step::now("")) };
        match attempt.gate_until {
            None => {
                let gate = world.millis(500, 8_000);
                attempt.gate_until = Some(now + gate);
                Ok(Step::after(gate, "runs the gate"))
            }
            Some(until) if now < until => Ok(Step::after(until - now, "runs the gate")),
            Some(_) => {
                attempt.gate_until = None;
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

    /// Hands the work with the leases on its files to the landing train.
    pub(super) fn queue(&mut self, world: &mut World) -> Result<Step> {
        if self.fault == LoopFault::PassesWithoutGate {
            return self.pass_without_gate(world);
        }
        let Some(attempt) = self.attempt.as_ref() else { return Ok(Step::now("")) };
        let (id, test) = (self.id.clone(), attempt.test.clone());
        let leases: Vec<(LeasePath, i64)> =
            attempt.held.iter().filter(|(path, _)| !path.as_str().contains(':')).cloned().collect();
        let row = format!("landing-{}", world.number());
        let landing = NewLanding {
            id: row.clone(),
            test_id: test.clone(),
            loop_id: id.clone(),
            attempt: attempt.number,
            urgent: world.fate((&test, "urgent"), 10) == 0,
            base_tree: attempt.head.clone(),
            tree: attempt.head.clone(),
            head: attempt.head.clone(),
            commit_hash: world.commit(),
            theirs: None,
            proof: row.clone(),
            checks: vec![("tests".to_owned(), true)],
            seconds: (world.elapsed() - attempt.begun_at) / 1000,
            tokens: Some(100),
            files: leases.iter().map(|(path, _)| path.to_string()).collect(),
        };
        let queued = world.write(|tx| {
            tx.queue_landing(&landing, &leases)?;
            tx.release_work(&id, None)
        });
        match queued {
            Ok(()) => {
                world.ledger.handed.insert(row, leases);
                self.done(Step::now(format!("queues {test} for landing")))
            }
            Err(Error::Refused(_) | Error::LeaseLost { .. }) => {
                world.write(|tx| Self::let_go(tx, &id, "it could not be queued", None))?;
                self.attempt = None;
                Ok(Step::after(1_000, format!("cannot queue {test}")))
            }
            Err(error) => Err(error),
        }
    }

    fn pass_without_gate(&mut self, world: &mut World) -> Result<Step> {
        let Some(attempt) = self.attempt.take() else { return Ok(Step::now("")) };
        let passed = PassedAttempt {
            commit: world.commit(),
            checks: Vec::new(),
            duration_seconds: 0,
            tokens_estimated: None,
            files_modified: Vec::new(),
        };
        let id = self.id.clone();
        let recorded = world.write(|tx| {
            tx.record_passed(&attempt.test, &id, &passed)?;
            tx.release_work(&id, None)
        });
        match recorded {
            Ok(()) => Ok(Step::now(format!("says that {} passed", attempt.test))),
            Err(Error::Refused(_) | Error::IllegalMove { .. }) => {
                world.write(|tx| Self::let_go(tx, &id, "no longer current", None))?;
                Ok(Step::now(format!("no longer works on {}", attempt.test)))
            }
            Err(error) => Err(error),
        }
    }

    pub(super) fn record_failure(&mut self, world: &mut World, category: ErrorCategory) -> Result<Step> {
        let Some(test) = self.attempt.as_ref().map(|attempt| attempt.test.clone()) else { return Ok(Step::now("")) };
        let id = self.id.clone();
        let said = if self.fault == LoopFault::GivesFailuresBack { ErrorCategory::System } else { category };
        let recorded = world.write(|tx| {
            let failed = FailedAttempt::new(said, "the gate refused it");
            let status = tx.record_failed(&test, &id, &failed)?;
            tx.release_work(&id, None)?;
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
                world.write(|tx| Self::let_go(tx, &id, "no longer current", None))?;
                format!("no longer works on {test}")
            }
            Err(error) => return Err(error),
        };
        self.attempt = None;
        Ok(Step::now(what))
    }
}
