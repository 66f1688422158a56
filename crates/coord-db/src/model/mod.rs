//! Plain types: ids, closed lists of values, paths, payloads. No SQL.

pub mod enums;
pub mod event;
pub mod ids;
pub mod lease_path;
pub mod moves;
pub mod payload;
pub mod spent;
pub mod supervisors;
