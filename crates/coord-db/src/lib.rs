//! The database of coding-loops, which holds all state, and its operations.
//!
//! This crate is the only one that knows the database's engine (`engine/`). Its public API speaks the domain: [`Database::write`] opens one
//! transaction and hands out a [`WriteTx`], whose methods are the named operations of each table (`claim_next_test`,
//! `acquire`, `publish`, …). What commits in one closure commits together or not at all, and the bell is rung after it.
//!
//! Architecture invariant: nothing read from the database is ever executed, and no state lives outside of it.

#[macro_use]
mod engine;
mod database;
mod error;
mod model;
mod tables;

pub mod config;
pub mod file_system;
pub mod locate;
pub mod process;
pub mod time;
pub mod wake;

pub use config::Config;
pub use database::{Database, Durability, OpenOptions, ReadTx, WriteTx};
pub use engine::postgres::facts::ServerFacts;
pub use engine::postgres::failover::{AfterFailover, JUMP as FAILOVER_JUMP};
pub use engine::sqlite::archive::{Archive, Archived, Archiver, archive_path};
pub use engine::sqlite::keep::{DatabaseFacts, bundle_of};
pub use engine::sqlite::migrate::{APPLICATION_ID, SCHEMA_VERSION};
pub use engine::transfer::{DatabaseMove, MoveStep};
pub use error::{Error, Result, error_chain};
pub use model::enums::*;
pub use model::event::*;
pub use model::ids::*;
pub use model::lease_path::LeasePath;
pub use model::moves::TestMove;
pub use model::payload;
pub use model::payload::Payload;
pub use model::spent::{ModelUse, dollars, microusd};
pub use model::supervisors::{self, SUPERVISORS};
pub use tables::*;
pub use time::{Clock, ClockReading, ManualClock, SystemClock, Timestamp};
