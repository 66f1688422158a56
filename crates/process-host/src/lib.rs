//! What every long-running program shares: its options, log, signals, settings, waiting, and what a service manager hears of
//! it. It decides nothing and changes no row but the alert about refused settings.

mod back_off;
mod config_file;
pub mod exit;
mod log;
mod options;
mod reload;
pub mod service;
mod signals;
mod wakes;

pub use back_off::BackOff;
pub use log::{fatal, filter as log_filter, set_up as set_up_log};
pub use options::{LogFormat, Options};
pub use reload::{Reload, reload, settings_hold};
pub use signals::{Stop, stop_signal, told_to_stop};
pub use wakes::Wakes;
