//! How we know: what the gate's checks showed of an attempt, and what has been seen of it since.

use coord_db::{BaseState, CheckOutcome, CheckRun, ProofStage, RunOutcome, short_id};
use views::proofs::{Evidence, Proven, cold_words};
use views::sentence::short;
use views::text::{safe, safe_block};
use views::when::clock;

use crate::context::Context;
use crate::output::Paint;

/// Runs on fresh clones, as lines.
pub(crate) fn cold_lines(cx: &Context, runs: &[CheckRun], indent: &str) -> String {
    let line = |run: &CheckRun| {
        let paint = if run.outcome == RunOutcome::Pass { Paint::Green } else { Paint::Red };
        format!("{indent}{}  {}\n", cx.out.paint(paint, "cold"), safe(&cold_words(run)))
    };
    runs.iter().map(line).collect()
}

/// One proof, as lines.
pub(crate) fn block(cx: &Context, proven: &Proven, indent: &str) -> String {
    let (proof, run) = (&proven.proof, &proven.run);
    let is_before = run.as_ref().is_some_and(|run| run.stage == ProofStage::RedBefore);
    // Before the work it has to fail.
    let paint = if (proof.outcome == CheckOutcome::Pass) != is_before { Paint::Green } else { Paint::Red };
    let kind = run.as_ref().map(|run| run.kind.as_str().replace('_', " ")).filter(|kind| kind != "passed" && kind != "failed");
    let exit = match (proof.exit_code, kind) {
        (Some(code), Some(kind)) => format!("{kind}, exit status {code}"),
        (Some(code), None) => format!("exit status {code}"),
        (None, Some(kind)) => kind,
        (None, None) => "no exit status".to_owned(),
    };
    let stage = run.as_ref().map_or("alone", |run| match run.stage {
        ProofStage::Alone => "alone",
        ProofStage::Base => "base",
        ProofStage::Batch => "together",
        ProofStage::RedBefore => "red before",
    });
    let seconds = proof.duration_ms / 1000;
    let line = format!(
        "{} at {} (tree {}), {stage}, attempt {}, {exit}, {seconds}.{:03}s, output sha256 {}, {}, proof {}",
        proof.check_name,
        short(&proof.commit_hash),
        short(&proof.tree_hash),
        proof.attempt,
        proof.duration_ms % 1000,
        proof.output_sha256,
        clock(proof.created_at),
        short_id(&proof.id)
    );
    let mut text = format!("{indent}{}  {}\n", cx.out.paint(paint, proof.outcome.as_str()), safe(&line));
    let mut more = |line: &str| text.push_str(&format!("{indent}    {}\n", cx.out.paint(Paint::Dim, line)));
    if let Some(from) = run.as_ref().and_then(|run| run.reused_from.as_deref()) {
        let line = match run.as_ref().map(|run| run.stage) {
            Some(ProofStage::Batch) => format!("of batch {}, see loopctl landings", short_id(from)),
            _ => format!("not run again: proof {} covers the same files", short_id(from)),
        };
        more(&safe(&line));
    }
    if let Some(why) = run.as_ref().map(|run| run.why.as_str()).filter(|why| !why.is_empty()) {
        more(&safe(why));
    }
    if run.as_ref().is_some_and(|run| run.let_through) {
        more("ignored: it fails at the base in the same way");
    }
    if let Some(base) = proven.base.as_ref().filter(|_| !is_before) {
        let state = match base.state {
            BaseState::Green => "green",
            BaseState::Red => "red",
            BaseState::Flaky => "flaky",
            BaseState::Skipped => "skipped",
        };
        more(&safe(&format!("base: {state} at {}, {}", short(&base.commit_hash), clock(base.ran_at))));
    }
    for line in safe_block(&proof.output_tail).trim_end().lines() {
        more(line);
    }
    text
}

/// The evidence, as lines.
pub(crate) fn describe(cx: &Context, evidence: &Evidence, indent: &str) -> String {
    let mut text: String = evidence.proofs.iter().map(|proven| block(cx, proven, indent)).collect();
    if let Some(newest) = evidence.baselines.first() {
        let line = format!("last passed at {}, {}", short(&newest.commit_hash), clock(newest.passed_at));
        text.push_str(&format!("{indent}{}  {}\n", cx.out.paint(Paint::Green, "good"), safe(&line)));
    }
    text.push_str(&cold_lines(cx, &evidence.cold, indent));
    for row in &evidence.regressions {
        let blame = row.blamed_loop.as_deref().map_or_else(|| "nobody".to_owned(), str::to_owned);
        let line = format!(
            "check {} fails at {}, blamed: {blame}, {}",
            row.check_name,
            short(&row.bad_commit),
            clock(row.detected_at)
        );
        text.push_str(&format!("{indent}{}  {}\n", cx.out.paint(Paint::Yellow, row.status.as_str()), safe(&line)));
    }
    text
}
