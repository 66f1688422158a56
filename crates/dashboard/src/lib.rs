//! The live page: what the loops do, served to a browser on this machine.
//!
//! `guard` decides who is answered, `server` listens, `live` reads the database once for all browsers and sends what has
//! changed, `pages` draws, `actions` changes. `picture` draws the lanes and the wait graph, also for
//! files. `report` is the one page that is a file.
//!
//! Architecture invariant: nothing leaves this machine, nothing but the static shell is answered without the token, and
//! everything from the database is escaped.

mod actions;
mod guard;
mod html;
mod live;
mod pages;
pub mod picture;
mod report;
mod server;

pub use report::report;
pub use server::{Options, Place, Ready, serve};
