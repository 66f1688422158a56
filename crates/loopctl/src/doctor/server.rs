//! A database on a PostgreSQL server, or one that cannot be opened there.

use coord_db::{Config, Database, Error, SUPERVISORS, ServerFacts};

use super::Report;
use crate::exit::Outcome;

/// Connections of each program: one to work, one to listen.
const PER_PROGRAM: i64 = 2;
/// Connections for commands that are run beside the programs.
const FOR_COMMANDS: i64 = 5;
/// A transaction has four round trips: with this one, fifty in a second.
const SLOW_MICROS: i64 = 5_000;
/// A clock that differs by less gives nobody less or more time than was meant.
const CLOCK_MILLIS: i64 = 2_000;

/// Adds what is to be known of the server. False for a file.
pub(super) fn examine(db: &Database, config: &Config, report: &mut Report) -> Outcome<bool> {
    let Some(facts) = db.server_facts()? else { return Ok(false) };
    database(&facts, config, report);
    if facts.is_standby {
        report.problem(
            "server",
            "it is a standby and takes no changes",
            "write the primary's address to coordination.db, or promote this server",
        );
    }
    if facts.has_failed_over {
        report.warning(
            "server",
            "it was promoted or restored since its numbers were last known to be complete",
            "run loopctl after-failover once",
        );
    }
    let programs = db.read(|tx| {
        let mut hosts: Vec<String> = tx.components()?.into_iter().filter_map(|row| row.host).collect();
        hosts.sort();
        hosts.dedup();
        Ok::<_, Error>((SUPERVISORS.len() * hosts.len().max(1)) as i64 + tx.loops()?.len() as i64)
    })?;
    connections(&facts, programs, report);
    clock(&facts, report);
    for setting in &facts.unsafe_settings {
        report.warning(
            "server",
            format!("{setting} is off; a power cut can destroy the database"),
            format!("set {setting} = on in postgresql.conf, and restart the server"),
        );
    }
    rights(&facts, report);
    Ok(true)
}

fn database(facts: &ServerFacts, config: &Config, report: &mut Report) {
    let trip = facts.round_trip_micros;
    let detail = format!(
        "PostgreSQL {}, {}, {} KB, round trip {}.{:01} ms",
        facts.version,
        facts.address,
        facts.bytes >> 10,
        trip / 1_000,
        trip % 1_000 / 100
    );
    let limit = config.budget.database_megabytes;
    if trip > SLOW_MICROS {
        report.warning(
            "database",
            detail,
            "use a server that is nearer: at 5 ms, all loops together have about 25 changes per second",
        );
    } else if limit > 0 && facts.bytes >> 20 >= limit {
        report.warning("database", detail, format!("it exceeds budget.database_megabytes = {limit}; raise that limit"));
    } else {
        report.ok("database", detail);
    }
}

fn connections(facts: &ServerFacts, programs: i64, report: &mut Report) {
    let needed = programs * PER_PROGRAM + FOR_COMMANDS;
    let free = facts.max_connections - facts.other_connections;
    let detail = format!(
        "{needed} of {} are needed by {programs} programs and by commands; others use {}",
        facts.max_connections, facts.other_connections
    );
    if needed > free {
        report.warning(
            "connections",
            detail,
            "raise max_connections of the server, and the limits of the user and the database",
        );
    } else {
        report.ok("connections", detail);
    }
}

fn clock(facts: &ServerFacts, report: &mut Report) {
    let seconds = |millis: i64| format!("{}.{:01} s", millis.abs() / 1_000, millis.abs() % 1_000 / 100);
    let ahead = facts.clock_ahead_millis;
    if ahead.abs() > CLOCK_MILLIS {
        let side = if ahead > 0 { "ahead of" } else { "behind" };
        report.warning(
            "server clock",
            format!("{} {side} the clock of this host", seconds(ahead)),
            "synchronise both with NTP; leases and timeouts go by the server's clock",
        );
    } else {
        report.ok("server clock", format!("within {} of this host's", seconds(CLOCK_MILLIS)));
    }
    if facts.last_change_ahead_millis > CLOCK_MILLIS {
        report.warning(
            "server clock",
            format!("{} behind the last change", seconds(facts.last_change_ahead_millis)),
            "correct the clock of the server; with the next change, time restarts from it and leases get a grace period",
        );
    }
}

fn rights(facts: &ServerFacts, report: &mut Report) {
    if facts.denied_tables > 0 {
        report.problem(
            "rights",
            format!("{} may not read and change {} tables", facts.user, facts.denied_tables),
            format!("grant them: REASSIGN OWNED BY the other user TO {}", facts.user),
        );
    } else if facts.foreign_tables > 0 {
        report.warning(
            "rights",
            format!(
                "{} tables belong to another user than {}; a newer version cannot migrate them",
                facts.foreign_tables, facts.user
            ),
            format!("let {} own them: REASSIGN OWNED BY the other user TO {0}", facts.user),
        );
    }
}

/// What to do about a database on a server that cannot be opened.
pub(super) fn remedy(error: &Error) -> &'static str {
    match error {
        Error::Unreachable { .. } => {
            "start the server or correct the address in coordination.db; psql with that address shows more"
        }
        Error::NoDatabase { .. } => "create it with createdb and restore a dump, or correct the address in coordination.db",
        Error::NotOurs { .. } => "correct the address in coordination.db, or restore a dump to an empty database",
        Error::Newer { .. } => "use the version that wrote it, or a newer one",
        _ => "see the log of the server",
    }
}
