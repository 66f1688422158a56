//! Shared by all long-running programs: options, log, signals, settings, waiting for commits, notifying a service
//! manager. It must decide nothing, and change no row except the alert about rejected settings.

mod back_off;
mod config_file;
pub mod exit;
mod log;
mod options;
mod reload;
pub mod service;
mod signals;
mod wakes;

pub use back_off::{BackOff, patiently};
pub use log::{fatal, filter as log_filter, set_up as set_up_log};
pub use options::{LogFormat, Options};
pub use reload::{Reload, reload, settings_accepted};
pub use signals::{Stop, stop_requested, stop_signal};
pub use wakes::Wakes;
