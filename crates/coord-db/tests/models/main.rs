//! Random sequences of operations against small models in memory, one for each part of the database that decides who gets
//! what. The models are written from the words of the reference alone and share no code with what they judge. A sequence
//! that fails is shortened as much as possible and reported as a numbered story.
//!
//! `CODING_LOOPS_TEST_ENGINE=postgres` runs each sequence on PostgreSQL and on SQLite, and compares the rows after each operation.
//! `CODING_LOOPS_CASES=N` (or `PROPTEST_CASES=N`) runs N sequences of each kind.

mod claims;
mod decisions;
mod deliveries;
mod leases;
mod support;
