//! PostgreSQL: one connection to a database on a server.

mod address;
mod claim;
mod connection;
mod errors;
pub(crate) mod facts;
pub(crate) mod failover;
pub(crate) mod fill;
mod migrate;
mod values;
pub(crate) mod wake;
mod worker;

use std::time::Duration;

pub(crate) use self::connection::Postgres;
pub(crate) use self::values::Row;
use crate::Result;

/// Connects to a database and brings it to the newest schema; with `create`, also an empty one.
pub(crate) fn open(address: &str, create: bool, durable: bool, patience: Duration) -> Result<Postgres> {
    let address: address::Address = address.parse()?;
    let connection = Postgres::connect(address.clone(), durable, patience)?;
    migrate::check_server(&connection, &Postgres::connect(address, durable, patience)?)?;
    migrate::migrate(&connection, create)?;
    Ok(connection)
}
