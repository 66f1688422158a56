//! What every command needs: the options, the output, where the database is.

use std::path::PathBuf;

use clap::Args;
use coord_db::{ActorId, Config, Database, Error, LoopId, locate};
use views::history::History;
use views::text::safe;

use crate::exit::{Failure, Outcome, eprintln_quietly};
use crate::output::Out;

/// Options of every command.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global options")]
#[allow(missing_docs)]
pub struct Global {
    /// The database [default: $CODING_LOOPS_DB, else coding-loops/coordination.db in this folder or the nearest above]
    #[arg(long, global = true, value_name = "PATH")]
    pub db: Option<PathBuf>,
    /// The settings [default: config.toml beside the database]
    #[arg(long, global = true, value_name = "PATH")]
    pub config: Option<PathBuf>,
    /// Print JSON instead of text
    #[arg(long, global = true)]
    pub json: bool,
    /// Print no colour; so does a NO_COLOR that is not empty
    #[arg(long, global = true)]
    pub no_color: bool,
    /// Print no confirmations
    #[arg(long, short, global = true)]
    pub quiet: bool,
    /// The actor on whose behalf the command runs [default: human]
    #[arg(long = "as", global = true, value_name = "ID")]
    pub actor: Option<ActorId>,
}

/// The frame of one command.
#[derive(Debug)]
pub struct Context {
    /// The options of every command.
    pub global: Global,
    /// Where to print.
    pub out: Out,
    /// Where the database is, or would be.
    pub path: PathBuf,
    /// Where the command was given.
    pub folder: PathBuf,
}

impl Context {
    /// Finds out where everything is; opens nothing.
    ///
    /// # Errors
    /// If the current folder was deleted.
    pub fn new(global: Global) -> Outcome<Self> {
        let folder = std::env::current_dir()
            .map_err(|error| Failure::No(format!("cannot use the current folder: {error}; change to another one")))?;
        let path = locate::database(global.db.as_deref(), &folder);
        let out = Out::new(global.json, global.quiet, global.no_color);
        Ok(Self { global, out, path, folder })
    }

    /// The settings.
    ///
    /// # Errors
    /// [`Error::Config`].
    pub fn config(&self) -> Outcome<Config> {
        Ok(Config::load(&self.path, self.global.config.as_deref())?)
    }

    /// The database, with its settings.
    ///
    /// # Errors
    /// As [`Database::open`], and [`Error::Config`].
    pub fn open_with_config(&self) -> Outcome<(Database, Config)> {
        // Without a database the settings beside it do not matter.
        if !self.path.exists() {
            return Err(Error::NoDatabase { path: self.path.clone() }.into());
        }
        let config = self.config()?;
        Ok((Database::open(&self.path, &config.open_options())?, config))
    }

    /// The database.
    ///
    /// # Errors
    /// As [`Context::open_with_config`].
    pub fn open(&self) -> Outcome<Database> {
        Ok(self.open_with_config()?.0)
    }

    /// Who acts.
    #[must_use]
    pub fn actor(&self) -> ActorId {
        self.global.actor.clone().unwrap_or_else(ActorId::human)
    }

    /// Who acts: as named, else the loop if there is one, else the human.
    #[must_use]
    pub fn actor_or(&self, loop_id: Option<&LoopId>) -> ActorId {
        self.global.actor.clone().or_else(|| loop_id.map(ActorId::from)).unwrap_or_else(ActorId::human)
    }
}

/// The database with its archive. An archive that cannot be read is reported on stderr, and the rows of the database are shown.
#[must_use]
pub fn history(db: &Database) -> History {
    let history = History::open(db);
    if let Some(why) = history.missing() {
        eprintln_quietly(&format!("loopctl: archived rows are not shown: {}", safe(&why)));
    }
    history
}
