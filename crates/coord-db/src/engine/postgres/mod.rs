//! PostgreSQL: one connection to a database on a server.

mod address;
pub(crate) mod check;
mod claim;
mod connection;
mod errors;
pub(crate) mod facts;
pub(crate) mod failover;
pub(crate) mod fill;
mod migrate;
mod thread;
mod values;
pub(crate) mod wake;
mod worker;

use std::time::Duration;

pub(crate) use self::connection::Postgres;
pub(crate) use self::values::Row;
use crate::Result;

/// How long a server may take that is only looked at.
const PEEK_TIMEOUT: Duration = Duration::from_secs(2);

/// Connects to a database of exactly this schema version, to read it.
pub(crate) fn peek(address: &str) -> Result<Postgres> {
    let mut address: address::Address = address.parse()?;
    address.config.connect_timeout(PEEK_TIMEOUT);
    let connection = Postgres::connect(address, false, PEEK_TIMEOUT)?;
    migrate::must_be_newest(&connection)?;
    Ok(connection)
}

/// Connects to a database and brings it to the newest schema; with `create`, also an empty one.
pub(crate) fn open(address: &str, create: bool, durable: bool, patience: Duration) -> Result<Postgres> {
    let address: address::Address = address.parse()?;
    let connection = Postgres::connect(address.clone(), durable, patience)?;
    migrate::check_server(&connection, &Postgres::connect(address, durable, patience)?)?;
    migrate::migrate(&connection, create)?;
    Ok(connection)
}
