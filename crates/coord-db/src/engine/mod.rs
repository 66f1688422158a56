//! The engine under the tables: the one place that knows which database this is.
//!
//! Everything above speaks of statements, parameters and rows of our own ([`ToParameter`], [`Row`], [`Column`]), and sends them
//! through [`Engine`]. What only SQLite has (a file with its copies, its archive and its migrations) lies under `sqlite`.

pub(crate) mod sqlite;
#[macro_use]
mod value;

pub(crate) use sqlite::{Row, Sqlite as Engine};
pub(crate) use value::{Column, Parameter, Params, ToParameter, Unreadable, ValueRef};

/// Which database an engine works on, for the few statements that differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A file.
    Sqlite,
}
