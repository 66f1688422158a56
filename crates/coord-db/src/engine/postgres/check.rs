//! What a server does not notice by itself, or has noticed and reports to nobody who asks for a row.

use crate::engine::Row;
use crate::{ReadTx, Result};

/// Each query lists the things that break its rule.
const RULES: [(&str, &str); 3] = [
    (
        "the server has found no damaged page",
        "SELECT checksum_failures || ' pages failed their checksum; see the log of the server' FROM pg_stat_database
         WHERE datname = current_database() AND checksum_failures > 0",
    ),
    (
        "every index and constraint is valid",
        "SELECT c.relname::text FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid
         WHERE c.relnamespace = current_schema()::regnamespace AND NOT (i.indisvalid AND i.indisready)
         UNION ALL
         SELECT conname::text FROM pg_constraint WHERE connamespace = current_schema()::regnamespace AND NOT convalidated",
    ),
    (
        "every trigger is enabled",
        "SELECT t.tgname || ' of ' || c.relname FROM pg_trigger AS t JOIN pg_class AS c ON c.oid = t.tgrelid
         WHERE c.relnamespace = current_schema()::regnamespace AND t.tgenabled = 'D'",
    ),
];

/// The foreign keys, which a superuser can write past: table, column, table and column that it refers to.
const FOREIGN_KEYS: &str = "SELECT f.relname::text, a.attname::text, t.relname::text, b.attname::text FROM pg_constraint AS c
     JOIN pg_class AS f ON f.oid = c.conrelid JOIN pg_class AS t ON t.oid = c.confrelid
     JOIN pg_attribute AS a ON a.attrelid = f.oid AND a.attnum = c.conkey[1]
     JOIN pg_attribute AS b ON b.attrelid = t.oid AND b.attnum = c.confkey[1]
     WHERE c.contype = 'f' AND c.connamespace = current_schema()::regnamespace ORDER BY 1, 2";

/// Each broken rule, with where.
pub(crate) fn problems(tx: &ReadTx<'_>, no_orphans: &'static str) -> Result<Vec<(&'static str, String)>> {
    let mut found = Vec::new();
    for (rule, sql) in RULES {
        found.extend(tx.query(sql, [], |row| Ok((rule, row.get(0)?)))?);
    }
    let name = |row: &Row<'_>, at| row.get::<String>(at);
    let keys = tx.query(FOREIGN_KEYS, [], |row| Ok([name(row, 0)?, name(row, 1)?, name(row, 2)?, name(row, 3)?]))?;
    for [table, column, other, key] in keys {
        let sql = format!(
            "SELECT {column} FROM {table} WHERE {column} IS NOT NULL AND NOT EXISTS (SELECT 1 FROM {other} WHERE {other}.{key} = {table}.{column})"
        );
        found.extend(tx.query(&sql, [], |row| {
            Ok((no_orphans, format!("{column} {:?} of {table} refers to no row of {other}", row.get::<String>(0)?)))
        })?);
    }
    Ok(found)
}
