//! What people are shown: rows put together into views, and sentences for them. Terminal, page and report lay out the same values.
//!
//! Architecture invariant: a view is read in one transaction and holds rows as they are; whatever shows it escapes what it
//! shows for its own medium ([`text::safe`] for a terminal).

pub mod agents;
pub mod broke;
pub mod cost;
pub mod grid;
pub mod health;
pub mod history;
pub mod ids;
pub mod lanes;
pub mod ledger;
pub mod overview;
pub mod proofs;
pub mod published;
pub mod questions;
pub mod report;
pub mod runs;
pub mod sentence;
pub mod story;
pub mod summary;
pub mod test;
pub mod text;
pub mod train;
pub mod when;
