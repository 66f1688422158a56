//! Holds: why no attempt starts. An agent whose account has reached its limit, whose service does not answer, or that needs a
//! human holds every loop that runs it; a loop whose runs end again and again without a result holds itself.
//!
//! What a human has to mend on a machine, where several share the database, holds only the loops there: a login, a program that is
//! missing. Limits and outages belong to the account, and hold its loops everywhere.
//!
//! A hold with a time ends by a probe: the first loop that looks after that time starts an attempt, and the others give it
//! [`PROBE_SECONDS`] to run into the same trouble again. A hold without a time ends when its question is answered.

use serde_json::json;

use crate::payload::{AgentAvailable, AgentLimited, DecisionOption};
use crate::process::{host, host_name};
use crate::{ActorId, EventId, HoldKind, LoopId, NewDecision, NewEvent, ReadTx, Result, Run, TestId, Timestamp, WriteTx};

/// How long the other loops wait for the loop that finds out whether a hold is over. Limits and outages show at once.
const PROBE_SECONDS: i64 = 60;
/// A probe that is still at work after this time counts as a success: an agent that cannot work ends sooner.
const PROBE_MAX_SECONDS: i64 = 600;
/// No limit lasts longer.
const MAX_HOLD_SECONDS: i64 = 9 * 86_400;
/// The first pause between two tries where nobody says when the trouble ends; it doubles.
const FIRST_PAUSE_SECONDS: i64 = 60;
/// After this time without an answer from a service, the human is asked.
const OUTAGE_ASKS_AFTER_SECONDS: i64 = 3_600;
/// The type of the question about a claim without a change.
pub const NO_CHANGE_QUESTION: &str = "no_change";
/// The type of the question about a test whose check passes before its work although it has to fail then.
pub const GREEN_BEFORE_QUESTION: &str = "green_before";
/// The type of the question about a hold.
pub const HOLD_QUESTION: &str = "hold";
/// A loop with this number of runs without a result in a row asks before the next one.
const MAX_VAIN_RUNS: i64 = 3;
/// Number of runs of an attempt that a kill of the loop may end. Machines do crash.
const MAX_KILLED_RUNS: i64 = 5;

row! {
    /// Why no attempt starts.
    Hold {
        subject: String, kind: HoldKind, reason: String, since: Timestamp, until: Option<Timestamp>, tries: i64, loop_id: LoopId,
        probe_loop: Option<LoopId>, event_id: Option<EventId>,
    }
}

/// What ended a run of an agent and will end the next one too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentTrouble {
    /// What kind.
    pub kind: HoldKind,
    /// In the agent's words.
    pub reason: String,
    /// When it is over, if the agent says so.
    pub until: Option<Timestamp>,
}

/// Whether a loop may start an attempt.
#[derive(Debug, Clone, PartialEq)]
pub enum Start {
    /// It may.
    Now,
    /// Not before this time.
    At(Timestamp, Hold),
    /// Not before the question about the hold is answered.
    Asked(Hold),
}

/// The subject of holds on all loops that run an agent.
fn of_agent(agent: &str) -> String {
    format!("agent:{agent}")
}

/// The subject of the hold on all loops while set-up fails at the base.
const SET_UP: &str = "setup";
/// The same for all loops of a host.
const SET_UP_THERE: &str = "loop:*";

/// Between a subject and the host whose loops it is about.
const ON_HOST: &str = " on ";

/// The subject of a hold on the loops of one host; on all for none.
fn on_host(subject: &str, host: Option<&str>) -> String {
    host.map_or_else(|| subject.to_owned(), |host| format!("{subject}{ON_HOST}{host}"))
}

/// The words that name a host to a person.
fn words_for(host: Option<&str>) -> String {
    host.map(|host| format!(" on {}", host_name(host))).unwrap_or_default()
}

fn of_loop(loop_id: &LoopId) -> String {
    format!("loop:{loop_id}")
}

impl Hold {
    /// The agent whose loops it holds, everywhere or on one host; none for a hold on one loop.
    #[must_use]
    pub fn agent(&self) -> Option<&str> {
        let agent = self.subject.strip_prefix("agent:")?;
        Some(agent.rsplit_once(ON_HOST).map_or(agent, |(agent, _)| agent))
    }

    /// What names the question about it.
    #[must_use]
    pub fn question(&self) -> String {
        format!("hold:{}", self.subject)
    }

    /// True while a loop must not start an attempt.
    fn holds(&self, loop_id: &LoopId, now: Timestamp) -> bool {
        match self.until {
            None => true,
            // A time beyond any limit comes from another client by mistake and must not hold forever.
            Some(until) => {
                until > now && until.seconds_since(now) <= MAX_HOLD_SECONDS && self.probe_loop.as_ref() != Some(loop_id)
            }
        }
    }
}

/// How long to wait before a try, by how many have failed.
fn pause_seconds(tries: i64, max_minutes: i64) -> i64 {
    FIRST_PAUSE_SECONDS.saturating_mul(1 << (tries - 1).clamp(0, 10)).min(max_minutes.max(1).saturating_mul(60))
}

impl ReadTx<'_> {
    /// All holds, by subject.
    pub fn all_holds(&self) -> Result<Vec<Hold>> {
        self.query(select!(Hold, "FROM holds ORDER BY subject"), [], Hold::from_row)
    }

    fn hold(&self, subject: &str) -> Result<Option<Hold>> {
        self.query_opt(select!(Hold, "FROM holds WHERE subject = ?1"), [subject], Hold::from_row)
    }

    /// The host on which a loop runs, or ran last.
    fn host_of(&self, loop_id: &LoopId) -> Result<Option<String>> {
        Ok(self.component(loop_id.as_str())?.and_then(|row| row.host).or_else(|| host().map(str::to_owned)))
    }

    /// The holds on one loop: its own, its agent's, and that of all loops, there and on its host.
    pub fn holds_on(&self, loop_id: &LoopId) -> Result<Vec<Hold>> {
        self.query(
            select!(
                Hold,
                "FROM holds WHERE subject IN ('setup', 'loop:' || ?1, (SELECT 'agent:' || agent FROM loops WHERE id = ?1))
                   OR subject IN (SELECT s.name || ' on ' || c.host FROM component_health AS c
                     JOIN (SELECT 'loop:*' AS name UNION ALL SELECT 'agent:' || agent FROM loops WHERE id = ?1) AS s ON c.component = ?1)
                 ORDER BY subject"
            ),
            [loop_id],
            Hold::from_row,
        )
    }

    /// Whether a loop may start an attempt now.
    pub fn may_start(&self, loop_id: &LoopId) -> Result<Start> {
        let now = self.now();
        let holding = self.holds_on(loop_id)?.into_iter().filter(|hold| hold.holds(loop_id, now));
        // One that waits for an answer comes last of all.
        Ok(holding.max_by_key(|hold| (hold.until.is_none(), hold.until)).map_or(Start::Now, |hold| match hold.until {
            Some(until) => Start::At(until, hold),
            None => Start::Asked(hold),
        }))
    }
}

impl WriteTx<'_> {
    /// Writes down which agent a loop runs.
    pub fn set_agent(&self, loop_id: &LoopId, agent: &str) -> Result<()> {
        self.execute("UPDATE loops SET agent = ?2 WHERE id = ?1 AND agent IS DISTINCT FROM ?2", params![loop_id, agent])?;
        Ok(())
    }

    /// As [`ReadTx::may_start`], by a loop that is about to start an attempt: of a hold whose time is over it becomes the probe,
    /// and one whose probe has not failed within its time ends.
    pub fn start_or_wait(&self, loop_id: &LoopId) -> Result<Start> {
        let start = self.may_start(loop_id)?;
        if start != Start::Now {
            return Ok(start);
        }
        let again = self.now().plus_seconds(PROBE_SECONDS);
        for hold in self.holds_on(loop_id)? {
            if let Some(probe) = hold.probe_loop.as_ref().filter(|probe| *probe != loop_id) {
                if self.is_young_attempt(probe)? {
                    self.execute("UPDATE holds SET until = ?2 WHERE subject = ?1", params![hold.subject, again])?;
                    return Ok(Start::At(again, hold));
                }
                self.end_hold(&hold, loop_id, "the last attempt met no trouble")?;
            } else {
                self.execute(
                    "UPDATE holds SET probe_loop = ?2, until = ?3 WHERE subject = ?1",
                    params![hold.subject, loop_id, again],
                )?;
            }
        }
        Ok(start)
    }

    /// Whether a loop is at work on an attempt that began within [`PROBE_MAX_SECONDS`].
    fn is_young_attempt(&self, loop_id: &LoopId) -> Result<bool> {
        self.value(
            "SELECT EXISTS (SELECT 1 FROM tests WHERE loop_id = ?1 AND status = 'in_progress' AND last_attempt_at > ?2)",
            params![loop_id, self.now().plus_seconds(-PROBE_MAX_SECONDS)],
        )
    }

    /// A run of the agent ended in trouble that the next run of any loop with this agent would meet too: they wait, until the
    /// agent's own time if it gave one, else longer after each try, at most `max_minutes`; or until a question is answered. With
    /// `by_host`, what needs a human holds only the loops of this one's host.
    pub fn hold_agent(
        &self,
        agent: &str,
        (loop_id, test): (&LoopId, &TestId),
        trouble: &AgentTrouble,
        max_minutes: i64,
        by_host: bool,
    ) -> Result<()> {
        let now = self.now();
        let host = if by_host && trouble.kind == HoldKind::Human { self.host_of(loop_id)? } else { None };
        let subject = on_host(&of_agent(agent), host.as_deref());
        let before = self.hold(&subject)?;
        // What waits for an answer goes on waiting for it.
        if trouble.kind != HoldKind::Human && before.as_ref().is_some_and(|hold| hold.until.is_none()) {
            return Ok(());
        }
        // Loops that were at work at the same time meet the same trouble: one try.
        let stands = before.as_ref().is_some_and(|hold| {
            hold.kind == trouble.kind && hold.probe_loop.is_none() && hold.until.is_none_or(|until| until > now)
        });
        let tries = before.as_ref().map_or(1, |hold| if stands { hold.tries } else { hold.tries + 1 });
        let since = before.as_ref().map_or(now, |hold| hold.since);
        let until = match trouble.kind {
            HoldKind::Human | HoldKind::Repeated => None,
            HoldKind::Limit | HoldKind::Outage => {
                let pause = now.plus_seconds(pause_seconds(tries, max_minutes));
                let until = match trouble.until.filter(|until| *until > now) {
                    // A time that did not hold last time is believed less each time.
                    Some(until) if tries > 1 => until.max(pause),
                    Some(until) => until,
                    None => pause,
                };
                Some(before.as_ref().filter(|_| stands).and_then(|hold| hold.until).map_or(until, |known| known.max(until)))
            }
        };
        let event = match before.as_ref().and_then(|hold| hold.event_id.clone()).filter(|_| stands) {
            Some(event) => event,
            None => {
                let (agent, reason) = (agent.to_owned(), trouble.reason.clone());
                let limited = AgentLimited { agent, account: None, loop_id: loop_id.clone(), until, reason };
                self.publish(&NewEvent::new(ActorId::from(loop_id), limited).of_attempt(self.newest_attempt(test)?))?
            }
        };
        self.execute(
            "INSERT INTO holds (subject, kind, reason, since, until, tries, loop_id, event_id) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
             ON CONFLICT (subject) DO UPDATE SET kind = excluded.kind, reason = excluded.reason, until = excluded.until,
               tries = excluded.tries, loop_id = excluded.loop_id, event_id = excluded.event_id, probe_loop = NULL",
            params![subject, trouble.kind, trouble.reason, since, until, tries, loop_id, event],
        )?;
        let lasts = now.seconds_since(since) >= OUTAGE_ASKS_AFTER_SECONDS;
        if trouble.kind == HoldKind::Human {
            let there = words_for(host.as_deref());
            let summary = format!(
                "agent {agent} of loop {loop_id} cannot work{there}: {}; fix it (login, key, [agent] in config.toml), then answer. \
                     No loop with this agent starts an attempt{there} until then",
                trouble.reason
            );
            self.ask_about(&subject, loop_id, summary)?;
        } else if trouble.kind == HoldKind::Outage && lasts {
            let summary = format!(
                "the service of {agent} has not answered for {} minutes: {}. Its loops retry at intervals",
                now.seconds_since(since) / 60,
                trouble.reason
            );
            self.ask_about(&subject, loop_id, summary)?;
        }
        Ok(())
    }

    /// Set-up fails at the base, as it does for every loop, or with `by_host` for every loop of its host: none starts an attempt
    /// before the human has answered.
    pub fn hold_set_up(&self, (loop_id, test): (&LoopId, &TestId), reason: &str, by_host: bool) -> Result<()> {
        let host = if by_host { self.host_of(loop_id)? } else { None };
        let (subject, there) = (
            host.as_deref().map_or_else(|| SET_UP.to_owned(), |host| on_host(SET_UP_THERE, Some(host))),
            words_for(host.as_deref()),
        );
        let started = self.attempt_started(test)?.map(|event| event.id);
        self.execute(
            "INSERT INTO holds (subject, kind, reason, since, loop_id, event_id) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
             ON CONFLICT (subject) DO UPDATE SET reason = excluded.reason, tries = holds.tries + 1, until = NULL, probe_loop = NULL",
            params![subject, HoldKind::Human, reason, self.now(), loop_id, started],
        )?;
        let summary = format!(
            "the set-up fails{there} before any agent has changed anything: {reason}; fix it (setup in [workspace] of config.toml, \
             or its requirements), then answer. No loop starts an attempt{there} until then"
        );
        self.ask_about(&subject, loop_id, summary)
    }

    /// Ends the hold on all loops, or all of this one's host, after set-up has succeeded at the base.
    pub fn clear_set_up_hold(&self, loop_id: &LoopId) -> Result<()> {
        for hold in self.holds_with((SET_UP, SET_UP_THERE), loop_id)?.iter().filter(|hold| hold.until.is_some()) {
            self.end_hold(hold, loop_id, "the set-up has succeeded")?;
        }
        Ok(())
    }

    /// The holds with a subject: that on all, and that on a loop's host.
    fn holds_with(&self, (everywhere, there): (&str, &str), loop_id: &LoopId) -> Result<Vec<Hold>> {
        let host = self.host_of(loop_id)?;
        let there = host.map(|host| self.hold(&on_host(there, Some(&host)))).transpose()?.flatten();
        Ok(self.hold(everywhere)?.into_iter().chain(there).collect())
    }

    /// Ends the hold on an agent after a run that `began` then ended without such trouble.
    pub fn clear_agent_hold(&self, agent: &str, loop_id: &LoopId, began: Option<Timestamp>) -> Result<()> {
        // One that waits for an answer ends by the answer; a run that began before the trouble says nothing of it.
        let is_over = |hold: &&Hold| hold.until.is_some() && began.is_none_or(|began| began >= hold.since);
        for hold in self.holds_with((&of_agent(agent), &of_agent(agent)), loop_id)?.iter().filter(is_over) {
            self.end_hold(hold, loop_id, "an attempt has worked again")?;
        }
        Ok(())
    }

    /// Counts a run without a result. At `MAX_VAIN_RUNS` in a row the loop holds, and asks.
    pub fn count_vain_run(&self, loop_id: &LoopId, test: &TestId, reason: &str) -> Result<()> {
        self.execute("UPDATE loops SET vain_runs = vain_runs + 1 WHERE id = ?1", [loop_id])?;
        let runs = self.loop_row(loop_id)?.vain_runs;
        if runs < MAX_VAIN_RUNS {
            return Ok(());
        }
        self.hold_repeated(loop_id, test, runs, reason)
    }

    /// Counts the runs in a row for an attempt during which their loop was killed. At `MAX_KILLED_RUNS` the loop holds, and
    /// asks: an agent that ends its own loop would be started for ever.
    pub(crate) fn count_killed_runs(&self, run: &Run) -> Result<()> {
        let Some(test) = &run.test_id else { return Ok(()) };
        let runs = self.killed_runs(&run.loop_id, test, run.attempt)?;
        if runs < MAX_KILLED_RUNS {
            return Ok(());
        }
        self.hold_repeated(&run.loop_id, test, runs, "the loop was killed while its agent ran")
    }

    fn hold_repeated(&self, loop_id: &LoopId, test: &TestId, runs: i64, reason: &str) -> Result<()> {
        let started = self.attempt_started(test)?.map(|event| event.id);
        self.execute(
            "INSERT INTO holds (subject, kind, reason, since, tries, loop_id, event_id) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
             ON CONFLICT (subject) DO UPDATE SET reason = excluded.reason, tries = excluded.tries, until = NULL, probe_loop = NULL",
            params![of_loop(loop_id), HoldKind::Repeated, reason, self.now(), runs, loop_id, started],
        )?;
        let summary = format!("{runs} attempts in a row of loop {loop_id} had no result, the last one because {reason}");
        self.ask_about(&of_loop(loop_id), loop_id, summary)
    }

    /// A run came to something.
    pub fn forget_vain_runs(&self, loop_id: &LoopId) -> Result<()> {
        self.execute("UPDATE loops SET vain_runs = 0 WHERE id = ?1 AND vain_runs > 0", [loop_id])?;
        self.execute("DELETE FROM holds WHERE subject = ?1", [of_loop(loop_id)])?;
        Ok(())
    }

    /// Lets one attempt find out whether the cause of a hold is fixed.
    pub fn probe_holds(&self, loop_id: &LoopId) -> Result<()> {
        for hold in self.holds_on(loop_id)?.iter().filter(|hold| hold.until.is_none()) {
            self.execute(
                "UPDATE holds SET until = ?2, probe_loop = NULL WHERE subject = ?1",
                params![hold.subject, self.now()],
            )?;
        }
        Ok(())
    }

    /// Ends a hold whose question is answered.
    pub fn lift_hold(&self, subject: &str) -> Result<()> {
        let Some(hold) = self.hold(subject)? else { return Ok(()) };
        self.end_hold(&hold, &hold.loop_id, "the human has answered")?;
        self.execute("UPDATE loops SET vain_runs = 0 WHERE 'loop:' || id = ?1", [subject])?;
        Ok(())
    }

    fn end_hold(&self, hold: &Hold, by: &LoopId, reason: &str) -> Result<()> {
        self.execute("DELETE FROM holds WHERE subject = ?1", [&hold.subject])?;
        if let Some(agent) = hold.agent() {
            let available =
                AgentAvailable { agent: agent.to_owned(), account: None, loop_id: by.clone(), reason: reason.to_owned() };
            self.publish(&NewEvent::new(ActorId::from(by), available).caused_by_id(hold.event_id.clone()))?;
        }
        Ok(())
    }

    /// The loops that a subject stands for.
    fn held_loops(&self, subject: &str) -> Result<Vec<LoopId>> {
        self.query(
            "SELECT l.id FROM loops AS l LEFT JOIN component_health AS c ON c.component = l.id
             WHERE ?1 IN ('setup', 'loop:' || l.id, 'agent:' || l.agent, 'loop:* on ' || c.host, 'agent:' || l.agent || ' on ' || c.host)
             ORDER BY l.id",
            [subject],
            |row| row.get(0),
        )
    }

    /// One question about a hold, however many loops meet it. Nobody answers it but the human: an agent that is paid for must
    /// not run again and again while everybody sleeps.
    fn ask_about(&self, subject: &str, loop_id: &LoopId, summary: String) -> Result<()> {
        let Some(hold) = self.hold(subject)? else { return Ok(()) };
        let option = |id: &str, description: &str| DecisionOption { id: id.to_owned(), description: description.to_owned() };
        let question = NewDecision {
            decision_type: HOLD_QUESTION.to_owned(),
            summary,
            options: vec![
                option("try_again", "the cause is fixed: start attempts again"),
                option("stop", "pause the loops until loopctl resume"),
            ],
            default_option: None,
            context: json!({
                "hold": subject, "loop_id": loop_id, "loops": self.held_loops(subject)?, "kind": hold.kind, "reason": hold.reason,
            }),
            timeout_minutes: None,
            requested_by: ActorId::from(loop_id),
            fingerprint: Some(hold.question()),
        };
        let cause = match &hold.event_id {
            Some(event) => self.event(event.as_str())?,
            None => None,
        };
        self.ask(&question, cause.as_ref())?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::pause_seconds;

    #[test]
    fn pauses_double_up_to_the_longest() {
        let pauses: Vec<i64> = (1..=7).map(|tries| pause_seconds(tries, 30)).collect();
        assert_eq!(pauses, [60, 120, 240, 480, 960, 1800, 1800]);
        assert_eq!(pause_seconds(i64::MAX, i64::MAX), 60 * 1024);
        assert_eq!(pause_seconds(1, 0), 60);
    }
}
