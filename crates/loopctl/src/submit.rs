//! For a loop that is driven by hand: where to work, and `submit`, the same gate and integration that every loop goes through.

use std::path::PathBuf;

use coding_loop::SubmitOutcome;
use coord_db::{Config, Database, Error, LoopId, TestId};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::context::Context;
use crate::exit::{Failure, Outcome};

pub(crate) fn failure(error: coding_loop::Error) -> Failure {
    match error {
        coding_loop::Error::Db(error) => error.into(),
        other => Failure::No(coord_db::error_chain(&other)),
    }
}

/// The loop's workspace, ready for an attempt. None, with a word on stderr, where there is no repository to work in.
pub fn workspace_for(db: &Database, config: &Config, loop_id: &LoopId) -> Option<PathBuf> {
    match coding_loop::prepare_workspace(db, config, loop_id) {
        Ok((path, problem)) => {
            if let Some(problem) = problem {
                eprintln!("loopctl: the workspace is not ready: {problem}");
            }
            Some(path)
        }
        Err(error) => {
            eprintln!("loopctl: cannot prepare a workspace: {error}; work in a folder of your choice");
            None
        }
    }
}

/// A runtime on this thread.
pub(crate) fn runtime() -> Outcome<tokio::runtime::Runtime> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| Failure::No(format!("cannot start the async runtime: {error}")))
}

/// Runs what can take long; `stop` turns true when the command is asked to end.
pub(crate) fn until_stopped<T, F: Future<Output = T>>(work: impl FnOnce(watch::Receiver<bool>) -> F) -> Outcome<T> {
    runtime()?.block_on(async {
        let (sender, stop) = watch::channel(false);
        for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
            let mut signal = signal(kind).map_err(|error| Failure::No(format!("cannot listen to signals: {error}")))?;
            let sender = sender.clone();
            tokio::spawn(async move {
                if signal.recv().await.is_some() {
                    sender.send_replace(true);
                }
            });
        }
        Ok(work(stop).await)
    })
}

/// `loopctl submit`: gates, integrates and records.
///
/// # Errors
/// Exit 1 if the gate says no or the test is not in progress, 4 for an unknown test.
pub fn submit(cx: &Context, test: &TestId) -> Outcome {
    let (db, config) = cx.open_with_config()?;
    db.read(|tx| {
        let row = tx.loop_row(&tx.test(test)?.loop_id)?;
        if tx.is_driven(&row)? {
            return Err(Error::Refused(format!("loop {} is driven by its own process, which submits its work itself", row.id)));
        }
        Ok(())
    })?;
    let outcome = {
        let _working = cx.out.working(format!("{test}: leases, the gate's checks, landing"));
        until_stopped(|stop| coding_loop::submit(&db, &config, test, stop))?.map_err(failure)?
    };
    match outcome {
        SubmitOutcome::Passed { commit } if cx.out.json => {
            let proofs = db.read(|tx| views::proofs::of_test(tx, test, None))?;
            cx.out.document(&json!({"test_id": test, "status": "passed", "commit": commit, "proofs": proofs}))
        }
        SubmitOutcome::Passed { commit } => {
            cx.out.text(&format!("{test} passed and landed on {} as {}", config.repository.integration_branch, commit.short()))
        }
        SubmitOutcome::Failed { status, category, message } => Err(Failure::No(format!(
            "{test} did not pass and is {status} ({category}): {message}; the work is kept, see loopctl status {test}"
        ))),
        SubmitOutcome::Queued => {
            Err(Failure::No(format!("{test} is verified and waits to land; another process lands it, see loopctl landings")))
        }
        SubmitOutcome::GivenBack { reason } => Err(Failure::No(format!("{test} was given back: {reason}"))),
    }
}
