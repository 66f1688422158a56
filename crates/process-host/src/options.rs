//! The options of all long-running programs.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

/// How to write the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum LogFormat {
    /// Text for people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// The options for database, settings and log.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// The database [default: $CODING_LOOPS_DB, else coding-loops/coordination.db in this folder or the nearest above]
    #[arg(long, value_name = "PATH")]
    pub db: Option<PathBuf>,
    /// The settings [default: config.toml beside the database]
    #[arg(long, value_name = "PATH")]
    pub config: Option<PathBuf>,
    /// The format of the log on stderr
    #[arg(long, value_enum, default_value_t)]
    pub log_format: LogFormat,
}

impl Options {
    /// The path of the database, resolved from the current folder.
    #[must_use]
    pub fn database(&self) -> PathBuf {
        let here = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("."));
        coord_db::locate::database(self.db.as_deref(), &here)
    }
}
