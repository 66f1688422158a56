//! What a server is like, for `loopctl doctor`.

use std::time::Instant;

use crate::engine::Engine;
use crate::{Database, Result};

/// Number of round trips whose median is given.
const TRIPS: usize = 7;
/// Settings without which a power cut damages a database, not only its last transactions.
const SAFE_SETTINGS: [&str; 2] = ["fsync", "full_page_writes"];

/// What a server is like.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct ServerFacts {
    /// Its address, without a password.
    pub address: String,
    /// The engine's version.
    pub version: String,
    /// The database's size.
    pub bytes: i64,
    /// How long a question and its answer take.
    pub round_trip_micros: i64,
    /// How far the server's clock is ahead of this host's.
    pub clock_ahead_millis: i64,
    /// How far the last change is ahead of the server's clock.
    pub last_change_ahead_millis: i64,
    /// The number of connections that an ordinary user can have there, for all of its databases.
    pub max_connections: i64,
    /// Connections of others, to any of its databases.
    pub other_connections: i64,
    /// It takes no changes.
    pub is_standby: bool,
    /// It was promoted, or restored from a backup, since `loopctl after-failover` ran last.
    pub has_failed_over: bool,
    /// Settings that are off and should not be.
    pub unsafe_settings: Vec<String>,
    /// Tables that the user may not read and change.
    pub denied_tables: i64,
    /// Tables that belong to another user, so that a newer version cannot change them.
    pub foreign_tables: i64,
    /// The user.
    pub user: String,
}

impl Database {
    /// What the server is like; none for a file.
    #[allow(clippy::disallowed_methods)]
    pub fn server_facts(&self) -> Result<Option<ServerFacts>> {
        let Engine::Postgres(server) = self.engine() else { return Ok(None) };
        let row = |sql: &str| -> Result<Vec<String>> {
            let row = server.batch(sql)?.into_iter().next().unwrap_or_default();
            Ok(row.into_iter().map(Option::unwrap_or_default).collect())
        };
        let (mut trips, mut ahead) = (Vec::new(), Vec::new());
        for _ in 0..TRIPS {
            let (asked, at) = (Instant::now(), self.clock().now().as_millis());
            let there = row("SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)")?;
            let micros = i64::try_from(asked.elapsed().as_micros()).unwrap_or(i64::MAX);
            trips.push(micros);
            ahead.push(number(&there, 0) - at - micros / 2_000);
        }
        trips.sort_unstable();
        ahead.sort_unstable();
        let about = row(
            "SELECT current_setting('server_version'), pg_database_size(current_database()), pg_is_in_recovery()::int, current_user,
               (SELECT last_value FROM moment) - floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint,
               (SELECT count(*) FROM coding_loops_schema WHERE timeline <> server_timeline() AND server_timeline() > 0)",
        )?;
        let connections = row(
            "SELECT least(current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int,
                 (SELECT nullif(rolconnlimit, -1) FROM pg_roles WHERE rolname = current_user),
                 (SELECT nullif(datconnlimit, -1) FROM pg_database WHERE datname = current_database())),
               (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'
                  AND datname IS DISTINCT FROM current_database())",
        )?;
        let tables =
            row("SELECT count(*) FILTER (WHERE NOT (has_table_privilege(oid, 'SELECT') AND has_table_privilege(oid, 'INSERT')
                 AND has_table_privilege(oid, 'UPDATE') AND has_table_privilege(oid, 'DELETE'))),
               count(*) FILTER (WHERE NOT pg_has_role(relowner, 'USAGE'))
             FROM pg_class WHERE relkind = 'r' AND relnamespace = current_schema()::regnamespace")?;
        let mut unsafe_settings = Vec::new();
        for setting in SAFE_SETTINGS {
            if row(&format!("SHOW {setting}"))? == ["off"] {
                unsafe_settings.push(setting.to_owned());
            }
        }
        let text = |at: usize| about.get(at).cloned().unwrap_or_default();
        Ok(Some(ServerFacts {
            address: server.address().to_string(),
            version: text(0),
            bytes: number(&about, 1),
            round_trip_micros: trips[TRIPS / 2],
            clock_ahead_millis: ahead[TRIPS / 2],
            last_change_ahead_millis: number(&about, 4),
            max_connections: number(&connections, 0),
            other_connections: number(&connections, 1),
            is_standby: number(&about, 2) > 0,
            has_failed_over: number(&about, 5) > 0,
            unsafe_settings,
            denied_tables: number(&tables, 0),
            foreign_tables: number(&tables, 1),
            user: text(3),
        }))
    }
}

fn number(row: &[String], at: usize) -> i64 {
    row.get(at).and_then(|text| text.parse().ok()).unwrap_or_default()
}
