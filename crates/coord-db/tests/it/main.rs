//! The tests of this crate that use it from outside, in one program: linked once.

mod clock_jumps;
mod common;
mod decisions;
mod deliveries;
mod foreign_hands;
mod holds;
mod journal;
mod knowledge;
mod leases;
mod moves;
mod ownership;
mod pauses;
mod reference;
mod statements;
mod usage;
mod wal;
