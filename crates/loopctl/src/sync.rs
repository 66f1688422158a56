//! `loopctl sync`: brings the user's new commits in.

use coding_loop::SyncOutcome;
use coord_db::IdOf;
use serde_json::json;
use views::sentence::count;
use views::text::safe;

use crate::context::Context;
use crate::exit::{Failure, Outcome};
use crate::submit::{failure, until_stopped};

/// `loopctl sync`
///
/// # Errors
/// Exit 1 if the commits cannot be brought in as they are.
pub fn sync(cx: &Context) -> Outcome {
    let (db, config) = cx.open_with_config()?;
    let outcome = {
        let _working = cx.out.working("your new commits: merging, the gate's checks, landing".to_owned());
        until_stopped(|stop| coding_loop::sync(&db, &config, stop))?.map_err(failure)?
    };
    let integration = &config.repository.integration_branch;
    match outcome {
        SyncOutcome::UpToDate { branch, theirs } => cx.out.done(
            &json!({"status": "up_to_date", "branch": branch, "theirs": theirs}),
            &format!("up to date: {integration} contains {} at {}", safe(&branch), theirs.short()),
        ),
        SyncOutcome::NotStarted { branch } => cx.out.done(
            &json!({"status": "not_started", "branch": branch}),
            "no loop has worked yet; the first one starts from the commit that is checked out",
        ),
        SyncOutcome::Landed { branch, theirs, commit, commits } => {
            let behind = i64::try_from(commits).unwrap_or(i64::MAX);
            cx.out.done(
                &json!({"status": "landed", "branch": branch, "theirs": theirs, "commit": commit, "behind": behind}),
                &format!(
                    "{} of {} (up to {}) landed on {integration} as {}",
                    count(behind, "commit"),
                    safe(&branch),
                    theirs.short(),
                    commit.short()
                ),
            )
        }
        SyncOutcome::Asked { decision, summary } => {
            let decision = db.read(|tx| views::ids::short(tx, IdOf::Decision, decision.as_str()))?;
            Err(Failure::No(format!(
                "{summary}; nothing is changed; answer with loopctl decide {decision} OPTION, as loopctl decisions lists them"
            )))
        }
        SyncOutcome::Queued { test } => {
            Err(Failure::No(format!("test {test} will merge these commits; cancel it with loopctl skip {test}")))
        }
        SyncOutcome::Left => {
            Err(Failure::No("these commits are not merged, as you decided; see loopctl decisions --all".to_owned()))
        }
    }
}
