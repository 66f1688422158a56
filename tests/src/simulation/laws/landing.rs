//! The laws of the landing train.

use coord_db::{LoopId, Timestamp};

use super::super::audit::Change;
use super::super::world::World;
use super::{Laws, Overdue, of};

/// Number of landings of others that queued work may wait for: those after which it goes first, and those that are judged while
/// it is found out what it clashes with.
const PASSED_OVER: i64 = 12;
/// How long queued work may wait, in seconds.
const LANDS_SECONDS: i64 = 40 * 60;
pub(super) fn branch_has_passed(_: &mut Laws, world: &World, _: &[Change]) -> Option<String> {
    let head = world.outside.integration.last()?;
    (!world.outside.passed.contains(&head.id))
        .then(|| format!("the branch is at the commit of {}, a state that has not passed", head.test))
}

pub(super) fn landed_once(_: &mut Laws, world: &World, _: &[Change]) -> Option<String> {
    let (last, earlier) = world.outside.integration.split_last()?;
    earlier.iter().any(|commit| commit.landing == last.landing).then(|| format!("the work {} of {}", last.landing, last.test))
}

/// Neither a pause nor a death of its loop ends the wait of queued work, and nobody withdraws what is being judged.
pub(super) fn queued_stays(_: &mut Laws, world: &World, changes: &[Change]) -> Option<String> {
    let acts = |who: &str| world.ledger.acting.contains(who);
    of(changes, "landing").find_map(|landing| {
        let legal = match (landing.text(0), landing.text(1)) {
            ("queued", "queued" | "judging") | ("judging", "judging" | "queued") => true,
            ("queued" | "judging", "landed" | "returned") => acts(LoopId::train().as_str()),
            ("queued", "withdrawn") => acts("human"),
            _ => false,
        };
        let (from, to) = (landing.text(0), landing.text(1));
        (!legal).then(|| format!("the work of {} went from {from} to {to} by {:?}", landing.text(3), world.ledger.acting))
    })
}

pub(super) fn clashes_come_back(_: &mut Laws, world: &World, _: &[Change]) -> Option<String> {
    world.ledger.wronged.clone()
}

pub(super) fn passed_over_at_most(_: &mut Laws, _: &World, changes: &[Change]) -> Option<String> {
    of(changes, "landing")
        .find(|landing| landing.number(2) > PASSED_OVER)
        .map(|landing| format!("the work of {} was passed over {} times", landing.text(3), landing.number(2)))
}

/// Each lease that was handed over with a work that waits, unless its time is over.
pub(super) fn train_holds(laws: &mut Laws, world: &World, changes: &[Change]) -> Option<String> {
    for lease in of(changes, "lease over").filter(|lease| lease.text(2).parse::<Timestamp>().is_ok_and(|at| at <= world.now()))
    {
        laws.expired.insert(lease.number(1));
    }
    of(changes, "lease over").chain(of(changes, "lease again")).next()?;
    let (open, leases) = world.read(|tx| Ok((tx.open_landings()?, tx.leases_of(LoopId::train().as_str())?)));
    open.iter().find_map(|landing| {
        let handed = world.ledger.handed.get(&landing.id)?;
        let (path, token) = handed.iter().find(|(path, token)| {
            let held = leases.iter().any(|lease| lease.file_path == *path && lease.fencing_token == *token);
            !held && !laws.expired.contains(token)
        })?;
        Some(format!("{path} of the queued work of {} is not held under {token}", landing.test_id))
    })
}

/// The heartbeat finds the dead, so that another process may judge.
pub(super) fn queued_ends(world: &World) -> Vec<Overdue> {
    let open = world.read(|tx| tx.open_landings());
    let overdue = |landing: coord_db::Landing| Overdue {
        key: format!("the work {} of {} waits to land", landing.id, landing.test_id),
        most_seconds: LANDS_SECONDS,
        by: "heartbeat",
    };
    open.into_iter().map(overdue).collect()
}
