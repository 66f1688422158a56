//! What a person changes on the page: the same operations as those of `loopctl`.

use coord_db::process::ProcessIdentity;
use coord_db::{ActorId, Database, DecisionId, Error, LoopId, Steered, TestId, TestStatus};
use serde::Deserialize;

/// The component that applies answers.
const PM: &str = "pm";
/// Where an answer came from, as its event says.
const SOURCE: &str = "web";
/// The maximum length of a comment, in bytes.
const MAX_COMMENT: usize = 4_000;

/// An answer to a question.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Answer {
    id: DecisionId,
    option: String,
    #[serde(default)]
    comment: String,
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Answer questions: all of them, or none.
    Answer(Vec<Answer>),
    /// Pause a loop.
    Pause(LoopId),
    /// Continue a paused loop.
    Resume(LoopId),
    /// Leave a test out.
    Skip(TestId),
    /// Put a test back on the queue.
    Reset(TestId),
    /// Mark an alert as seen.
    Seen(String),
}

#[derive(Deserialize)]
struct Answers {
    answers: Vec<Answer>,
}

#[derive(Deserialize)]
struct OfLoop {
    #[serde(rename = "loop")]
    id: LoopId,
}

#[derive(Deserialize)]
struct OfTest {
    test: TestId,
}

#[derive(Deserialize)]
struct OfAlert {
    alert: String,
}

impl Action {
    /// The action of this name with what was sent; none if there is none, or something is missing.
    #[must_use]
    pub fn parse(name: &str, body: &[u8]) -> Option<Self> {
        fn read<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Option<T> {
            serde_json::from_slice(body).ok()
        }
        Some(match name {
            "answer" => Self::Answer(read::<Answers>(body)?.answers).filter_empty()?,
            "pause" => Self::Pause(read::<OfLoop>(body)?.id),
            "resume" => Self::Resume(read::<OfLoop>(body)?.id),
            "skip" => Self::Skip(read::<OfTest>(body)?.test),
            "reset" => Self::Reset(read::<OfTest>(body)?.test),
            "seen" => Self::Seen(read::<OfAlert>(body)?.alert),
            _ => return None,
        })
    }

    fn filter_empty(self) -> Option<Self> {
        if self == Self::Answer(Vec::new()) { None } else { Some(self) }
    }
}

/// Performs an action; what it did, in words.
///
/// # Errors
/// Why nothing was changed.
pub fn perform(db: &Database, actor: &ActorId, action: &Action) -> Result<String, Error> {
    match action {
        Action::Answer(answers) => answer(db, actor, answers),
        Action::Pause(id) => {
            let steered = db.write(|tx| tx.request_pause(&tx.loop_row(id)?, None, actor))?;
            Ok(steered_words(&steered, "is asked to pause and saves its work first", "is paused"))
        }
        Action::Resume(id) => {
            let steered = db.write(|tx| tx.request_resume(&tx.loop_row(id)?, None, actor))?;
            Ok(steered_words(&steered, "is asked to resume", "is not paused"))
        }
        Action::Skip(test) => {
            db.write(|tx| tx.skip_and_release(test, None))?;
            Ok(format!("test {test} is skipped"))
        }
        Action::Reset(test) => {
            db.write(|tx| {
                if tx.test(test)?.status == TestStatus::Passed {
                    return Err(Error::Refused(format!(
                        "test {test} has passed, and its commit stays; to verify it again: loopctl reset --force {test}"
                    )));
                }
                tx.reset_test(test)
            })?;
            Ok(format!("test {test} is pending again; its attempts are cleared"))
        }
        Action::Seen(alert) => {
            db.write(|tx| tx.acknowledge_alert(alert, actor.as_str()))?;
            Ok("the alert is marked as seen".to_owned())
        }
    }
}

fn steered_words(steered: &Steered, driven: &str, applied: &str) -> String {
    let test = steered.gave_back.as_ref().map(|test| format!("; test {test} is pending again")).unwrap_or_default();
    format!("{} {}{test}", steered.loop_id, if steered.driven { driven } else { applied })
}

fn answer(db: &Database, actor: &ActorId, answers: &[Answer]) -> Result<String, Error> {
    let (has_pm, is_of_base) = db.write(|tx| {
        let mut is_of_base = true;
        for answer in answers {
            let comment = answer.comment.trim();
            let comment = (!comment.is_empty()).then(|| views::text::beginning(comment, MAX_COMMENT));
            tx.answer(&answer.id, &answer.option, comment.as_deref(), actor, SOURCE)?;
            is_of_base &= tx.decision(&answer.id)?.is_of_base();
        }
        Ok::<_, Error>((tx.running_process(PM, &ProcessIdentity::own())?.is_some(), is_of_base))
    })?;
    let applied = match (has_pm, is_of_base) {
        (true, _) => "",
        (false, true) => "; pm-agent is not running, and the next loop that starts an attempt applies it",
        (false, false) => "; pm-agent is not running: apply it now with pm-agent --once",
    };
    Ok(match answers {
        [one] => format!("answered with {}{applied}", one.option),
        many => format!("{} questions are answered{applied}", many.len()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn actions_are_read_or_refused() {
        let parse = |name: &str, body: &str| Action::parse(name, body.as_bytes());
        assert_eq!(parse("pause", r#"{"loop": "a"}"#), Some(Action::Pause("a".parse().unwrap())));
        assert!(
            matches!(parse("answer", r#"{"answers": [{"id": "d1", "option": "x"}]}"#), Some(Action::Answer(all)) if all.len() == 1)
        );
        for (name, body) in [
            ("pause", "{}"),
            ("pause", r#"{"loop": "../x"}"#),
            ("answer", r#"{"answers": []}"#),
            ("answer", ""),
            ("drop", "{}"),
            ("skip", r#"{"test": 5}"#),
            ("", "{}"),
        ] {
            assert_eq!(parse(name, body), None, "{name} {body}");
        }
    }
}
