//! What the tools do. Each call opens the database for itself and may wait; nothing is kept between calls.

use std::time::Duration;

use coding_loop::{BroughtUp, Checked};
use coord_db::payload::DecisionOption;
use coord_db::wake::SLOW_LOOK;
use coord_db::{
    Acquire, ActorId, Config, Database, Decision, DecisionStatus, Error, ErrorCategory, Grant, LoopId, NewDecision,
    NewKnowledge, RequestStatus, RequestType, TestId,
};
use git::shown;
use serde_json::json;
use tokio::sync::watch;
use views::text::{beginning, end, safe_block};
use views::when::clock;

use super::overview::overview;
use super::tools::{Ask, Call, Learn, Lock, Request};
use crate::agents::end_by_hand;
use crate::context::Context;
use crate::exit::{Failure, Outcome};
use crate::leasing::{self, Refusal, Wanted};
use crate::submit::{failure, runtime};
use crate::wait::{Waiter, Woken};
use crate::workplace::Workplace;

/// Maximum size of a patch in an answer, in bytes.
const MAX_PATCH: usize = 6_000;
/// Maximum number of answers to a question: one for each letter.
const MAX_OPTIONS: usize = 26;
/// Maximum size of the output of a check in an answer, in bytes.
const MAX_OUTPUT: usize = 4_000;
/// Maximum size of the reason of an agent that gives up, in bytes. The next attempt is given it.
const MAX_REASON: usize = 2_000;

/// What a call works with.
pub(super) struct Desk<'a> {
    pub(super) cx: &'a Context,
    pub(super) loop_id: &'a LoopId,
    /// Seconds that a call waits if it does not say.
    pub(super) wait: u32,
    pub(super) waiter: Waiter,
    /// True once the call is cancelled.
    pub(super) stop: watch::Receiver<bool>,
    /// Receives what the call waits for.
    pub(super) progress: &'a dyn Fn(String),
}

impl Desk<'_> {
    /// Carries out a call; returns what the agent reads.
    ///
    /// # Errors
    /// What the agent reads instead.
    pub(super) fn run(mut self, call: Call) -> Outcome<String> {
        let (db, config) = self.cx.open_with_config()?;
        let place = Workplace::of(&config, self.loop_id);
        match call {
            Call::Context => overview(&db, &config, self.loop_id, &place),
            Call::Lock(lock) => self.lock(&db, &config, &place, lock),
            Call::Unlock(unlock) => {
                let paths = unlock.paths.iter().map(|path| place.lease(path)).collect::<Outcome<Vec<_>>>()?;
                let released = db.write(|tx| tx.release(self.loop_id, &paths, None))?;
                let released: Vec<&str> = released.iter().map(|path| path.as_str()).collect();
                Ok(format!("released: {}", released.join(", ")))
            }
            Call::Ask(ask) => self.ask(&db, &config, ask),
            Call::Learn(learn) => self.learn(&db, &place, learn),
            Call::Request(request) => self.request(&db, &place, &request),
            Call::Check => self.check(&db, &config),
            Call::GiveUp(give_up) => self.give_up(&db, &give_up.reason),
        }
    }

    fn current_test(&self, db: &Database) -> Outcome<Option<TestId>> {
        Ok(db.read(|tx| tx.loop_row(self.loop_id))?.current_test_id)
    }

    fn seconds(&self, given: Option<u32>) -> i64 {
        i64::from(given.unwrap_or(self.wait))
    }

    fn lock(&mut self, db: &Database, config: &Config, place: &Workplace, lock: Lock) -> Outcome<String> {
        let paths = lock.paths.iter().map(|path| place.lease(path)).collect::<Outcome<Vec<_>>>()?;
        if paths.is_empty() {
            return Err(Failure::usage("name at least one path"));
        }
        let wanted = Wanted { paths, reason: lock.reason, ..Wanted::default() };
        let request = leasing::request(db, config, self.loop_id, wanted)?;
        let seconds = self.seconds(lock.wait_seconds);
        let mut answer = leasing::at_once(db, config, &request)?;
        if let Acquire::Refused(blockers) = &answer
            && seconds > 0
            && Refusal::of(self.loop_id, blockers).owned.is_none()
        {
            let on_wait = |blockers: &[_]| (self.progress)(format!("waiting: {}", Refusal::of(self.loop_id, blockers).why));
            answer = leasing::queue(db, config, &request, seconds, &mut self.waiter, on_wait)?;
        }
        match answer {
            Acquire::Granted(grant) => {
                let brought = coding_loop::bring_up_to_date(db, config, self.loop_id, &grant.paths, grant.fencing_token);
                Ok(granted(&grant, brought))
            }
            Acquire::Refused(blockers) => {
                let Refusal { why, owned } = Refusal::of(self.loop_id, &blockers);
                let advice = match owned {
                    Some(path) => format!("ask for permission with the tool request, path {path}"),
                    None => "go on with other files and call lock again later, or wait longer with wait_seconds".to_owned(),
                };
                Err(Failure::No(format!("nothing is leased: {why}; {advice}")))
            }
        }
    }

    fn ask(&mut self, db: &Database, config: &Config, ask: Ask) -> Outcome<String> {
        if ask.options.len() > MAX_OPTIONS {
            return Err(Failure::usage(format!("a question has at most {MAX_OPTIONS} options")));
        }
        let options: Vec<DecisionOption> = ask.options.iter().zip('A'..='Z').map(option_of).collect();
        let default = match ask.default.as_deref().map(str::trim) {
            None => None,
            Some(default) => Some(chosen(&options, default).ok_or_else(|| {
                Failure::usage(format!("the default {default:?} is not one of the options; repeat one of them"))
            })?),
        };
        let test = self.current_test(db)?;
        let about = test.as_ref().map_or("none", TestId::as_str);
        let new = NewDecision {
            decision_type: "question".to_owned(),
            summary: ask.question.clone(),
            options: options.clone(),
            timeout_minutes: default.as_ref().map(|_| config.pm.decision_timeout_minutes),
            default_option: default,
            context: json!({ "loop_id": self.loop_id, "test_id": test }),
            requested_by: ActorId::from(self.loop_id),
            // The same question again is the same question: its answer may have come meanwhile.
            fingerprint: Some(format!("agent:{}:{about}:{}", self.loop_id, ask.question.trim())),
        };
        let settled = db.read(|tx| match &new.fingerprint {
            Some(fingerprint) => tx.last_decisions_about(std::slice::from_ref(fingerprint)),
            None => Ok(Vec::new()),
        })?;
        let id = match settled.into_iter().find(|row| row.status != DecisionStatus::Pending && row.choice.is_some()) {
            Some(row) => row.id,
            None => db.write(|tx| tx.ask(&new, None))?,
        };
        let over = db.now().plus_seconds(self.seconds(ask.wait_seconds));
        loop {
            let version = db.data_version()?;
            let (row, answer) = db.read(|tx| {
                let row = tx.decision(&id)?;
                let given = match row.status {
                    DecisionStatus::Pending => tx.waiting_answer(&row)?,
                    _ => None,
                };
                let said = match given.as_ref().and_then(|given| given.event.as_ref()) {
                    Some(event) => {
                        tx.event(event.as_str())?.and_then(|event| Some(event.payload["comment"].as_str()?.to_owned()))
                    }
                    None => row.comment.clone(),
                };
                Ok::<_, Error>((row, (given.and_then(|given| given.choice), said)))
            })?;
            if let Some(answer) = answer_of(&row, answer) {
                return Ok(answer);
            }
            let left = over.millis_since(db.now());
            if left <= 0 {
                return Ok(format!(
                    "no answer yet; the question stays open as {id}. Call ask again with the same question to wait on, or go on \
                     with what does not depend on it"
                ));
            }
            (self.progress)("waiting for the human to answer".to_owned());
            self.wait(db, version, Duration::from_millis(left.unsigned_abs()))?;
        }
    }

    /// Waits until another process has committed, or for a while.
    fn wait(&mut self, db: &Database, version: i64, most: Duration) -> Outcome {
        let until = db.now().plus_millis(i64::try_from(most.min(SLOW_LOOK).as_millis()).unwrap_or(0));
        loop {
            let left = until.millis_since(db.now());
            if left <= 0 || db.data_version()? != version {
                return Ok(());
            }
            if self.waiter.wait(Duration::from_millis(left.unsigned_abs())) == Woken::Interrupted {
                return Err(Failure::No("cancelled; the question stays open".to_owned()));
            }
        }
    }

    fn learn(&self, db: &Database, place: &Workplace, learn: Learn) -> Outcome<String> {
        let new = NewKnowledge {
            loop_id: Some(self.loop_id.clone()),
            item_type: learn.item_type,
            topic: learn.topic,
            content: learn.content,
            confidence: 1.0,
            evidence: None,
            affected_areas: learn.areas.iter().map(|area| place.relative(area)).collect(),
            supersedes: Vec::new(),
        };
        let id = db.write(|tx| tx.add_knowledge(&new, &ActorId::from(self.loop_id)))?;
        Ok(format!("recorded as {id}; agents whose tests touch it read it"))
    }

    fn request(&self, db: &Database, place: &Workplace, request: &Request) -> Outcome<String> {
        let row = db.write(|tx| {
            let path = match tx.resource(&request.path)? {
                Some(resource) => resource.path,
                None => place.lease(&request.path)?.to_string(),
            };
            let id = tx.request_change(&path, self.loop_id, RequestType::Modify, &request.description)?;
            Ok::<_, Failure>(tx.change_request(&id)?)
        })?;
        Ok(match row.status {
            RequestStatus::Approved => format!("approved: you may change {}", row.resource_path),
            status => format!(
                "request {} to {} for {} is {status}. Until it is approved, changes there do not land; go on with other files, \
                 or call request again later to see the answer",
                row.id, row.owner_loop, row.resource_path
            ),
        })
    }

    fn check(&self, db: &Database, config: &Config) -> Outcome<String> {
        let running = |name: &str| (self.progress)(format!("running check {name}"));
        let checked = runtime()?.block_on(coding_loop::check_work(db, config, self.loop_id, None, self.stop.clone(), running));
        match checked.map_err(failure)? {
            Checked::Unchanged => Ok("nothing has changed in the workspace since the attempt began".to_owned()),
            Checked::Passed(names) => Ok(format!("these checks pass: {}", names.join(", "))),
            Checked::Stopped => Err(Failure::No("the checks were stopped".to_owned())),
            Checked::Failed { check, why, output, not_run } => {
                Err(Failure::No(failed(config, self.loop_id, check, &why, &output, &not_run)))
            }
        }
    }

    fn give_up(&self, db: &Database, reason: &str) -> Outcome<String> {
        let reason = beginning(reason.trim(), MAX_REASON);
        if reason.is_empty() {
            return Err(Failure::usage("give the reason"));
        }
        let test = self.current_test(db)?;
        let test = test.ok_or_else(|| Failure::No(format!("loop {} works on no test", self.loop_id)))?;
        db.write(|tx| {
            tx.give_up(&test, &reason)?;
            // Nobody else would end the attempt.
            if !tx.is_driven(&tx.loop_row(self.loop_id)?)? {
                end_by_hand(tx, &test, self.loop_id, ErrorCategory::Spec, format!("the agent gave up: {reason}"))?;
            }
            Ok::<_, Error>(())
        })?;
        Ok(format!("recorded: test {test} is given up. Your work so far is saved. Stop now, without further changes"))
    }
}

fn granted(grant: &Grant, brought: coding_loop::Result<BroughtUp>) -> String {
    let paths: Vec<&str> = grant.paths.iter().map(|path| path.as_str()).collect();
    let mut text = format!("leased: {} (until {}; renewed while your attempt runs)", paths.join(", "), clock(grant.expires_at));
    match brought {
        Ok(brought) => text.push_str(&meanwhile(&brought)),
        Err(error) => text.push_str(&format!(
            ". The files may be older than what others have landed, because they could not be updated: {}",
            coord_db::error_chain(&error)
        )),
    }
    text
}

/// What others have landed in leased files, for the agent.
pub(crate) fn meanwhile(brought: &BroughtUp) -> String {
    let names = |files: &[std::path::PathBuf]| files.iter().map(|file| shown(file)).collect::<Vec<_>>().join(", ");
    let mut text = String::new();
    if !brought.updated.is_empty() {
        let files = names(&brought.updated);
        text.push_str(&format!("\nUpdated to what others have landed meanwhile: {files}. Read it again before you edit it."));
    }
    if !brought.kept.is_empty() {
        text.push_str(&format!(
            "\nThe base has moved: others have landed changes in {}, which you have changed too. Your version is unchanged. Include \
             their changes, or your work may conflict.",
            names(&brought.kept)
        ));
    }
    if !brought.patch.is_empty() {
        text.push_str(&format!("\nWhat changed:\n{}", beginning(&safe_block(&brought.patch), MAX_PATCH)));
    }
    text
}

/// The failure of unfinished work, for the agent.
pub(crate) fn failed(
    config: &Config,
    loop_id: &LoopId,
    check: Option<String>,
    why: &str,
    output: &str,
    not_run: &[String],
) -> String {
    let mut text = match &check {
        Some(_) => why.to_owned(),
        None => format!("the work would not land: {why}"),
    };
    if !output.trim().is_empty() {
        text.push_str(&format!("\n{}", end(&safe_block(output.trim_end()), MAX_OUTPUT)));
    }
    if !not_run.is_empty() {
        text.push_str(&format!("\nnot run: {}", not_run.join(", ")));
    }
    // Those that are passed on by default are on no machine all set.
    let (agent, default) = (config.agent_of(loop_id), Config::default().agent.environment);
    let is_unset = |name: &&str| std::env::var_os(name).is_none() && !default.iter().any(|common| common == name);
    let unset: Vec<&str> = agent.environment.iter().map(String::as_str).filter(is_unset).collect();
    if check.is_some() && !unset.is_empty() {
        text.push_str(&format!("\nnot set in this run, but in the final one if your loop has it: {}", unset.join(", ")));
    }
    text
}

/// `id=text` or a text, which is named by a letter.
fn option_of((text, letter): (&String, char)) -> DecisionOption {
    let is_id = |id: &&str| {
        !id.is_empty() && id.len() <= 20 && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    match text.split_once('=').map(|(id, text)| (id.trim(), text.trim())).filter(|(id, _)| is_id(id)) {
        Some((id, description)) => DecisionOption { id: id.to_owned(), description: description.to_owned() },
        None => DecisionOption { id: letter.to_string(), description: text.trim().to_owned() },
    }
}

/// The id of the option that is meant: by its id, its text or both.
fn chosen(options: &[DecisionOption], given: &str) -> Option<String> {
    let is_meant = |option: &&DecisionOption| {
        option.id == given || option.description == given || given.split_once('=').is_some_and(|(id, _)| id.trim() == option.id)
    };
    options.iter().find(is_meant).map(|option| option.id.clone())
}

/// The answer to a question, if there is one.
fn answer_of(row: &Decision, (given, comment): (Option<String>, Option<String>)) -> Option<String> {
    let choice = match row.status {
        DecisionStatus::Pending => given?,
        _ => match &row.choice {
            Some(choice) => choice.clone(),
            None => return Some(format!("nobody has answered in time (decision {}); decide yourself", row.id)),
        },
    };
    let options = row.options.as_array().into_iter().flatten();
    let text = options.filter(|option| option["id"] == choice.as_str()).find_map(|option| option["description"].as_str());
    let by = match row.status {
        DecisionStatus::AutoResolved => "nobody has answered in time, so the default counts",
        _ => "the human has decided",
    };
    let comment =
        comment.filter(|comment| !comment.trim().is_empty()).map(|comment| format!("\n{comment}")).unwrap_or_default();
    Some(format!(
        "{by}: {choice}{}{comment}",
        text.filter(|text| *text != choice).map(|text| format!(" ({text})")).unwrap_or_default()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_have_ids_that_can_be_typed() {
        let given = ["iso=2026-11-27", "a b = c", "US style", "x=="].map(str::to_owned);
        let options: Vec<DecisionOption> = given.iter().zip('A'..='Z').map(option_of).collect();
        let ids: Vec<&str> = options.iter().map(|option| option.id.as_str()).collect();
        assert_eq!(ids, ["iso", "B", "C", "x"]);
        for (named, id) in [("iso", "iso"), ("2026-11-27", "iso"), ("iso=2026-11-27", "iso"), ("US style", "C"), ("B", "B")] {
            assert_eq!(chosen(&options, named).as_deref(), Some(id), "{named}");
        }
        assert_eq!(chosen(&options, "other"), None);
    }
}
