//! Keeping the data: backup, restore, move to a server, check, dump, archive.

use std::path::PathBuf;

use clap::Subcommand;
use views::when::When;

/// Keep the data.
#[derive(Debug, Subcommand)]
#[allow(missing_docs)]
pub enum Keep {
    /// Back up the database and the store
    ///
    /// Writes FILE and FILE.bundle and verifies them; loops and supervisors go on working meanwhile. Without FILE the backup
    /// is written to coding-loops/backups/, which holds the newest database.backup_keep. A database on a PostgreSQL server is
    /// backed up with pg_dump, and the store beside it with --store-only.
    #[command(after_help = examples![
        "loopctl backup",
        "loopctl backup before-upgrade.db",
        "loopctl backup --store-only dump.sql  # to dump.sql.bundle",
    ])]
    Backup {
        /// The file
        file: Option<PathBuf>,
        /// Back up only the store, to FILE.bundle
        #[arg(long, requires = "file")]
        store_only: bool,
    },
    /// Restore the database, and the missing refs of the store, from a backup
    ///
    /// The replaced database is kept as a backup. Refused while a loop or a supervisor runs. A dump of a database on a PostgreSQL
    /// server is restored with psql.
    #[command(after_help = examples![
        "loopctl backup before-upgrade.db",
        "loopctl restore before-upgrade.db",
        "loopctl restore before-upgrade.db --store-only",
    ])]
    Restore {
        /// The file
        file: PathBuf,
        /// Restore only the store and leave the database as it is
        #[arg(long)]
        store_only: bool,
    },
    /// Move the database from its file to a PostgreSQL server
    ///
    /// Copies every row to an empty database, compares both, and replaces coordination.db by a file with the address. The copy
    /// of the old file in coding-loops/backups/ is never deleted. Refused while a loop or a supervisor runs. If it is interrupted,
    /// run it again. The password is that of PGPASSWORD, if the address has none. No command moves a database from a server to a
    /// file; to move it to another server, use pg_dump and psql, and write the new address to coordination.db.
    #[command(after_help = examples![
        "loopctl move-database postgres://loops@db.example/loops --dry-run",
        "loopctl move-database postgres://loops@db.example/loops",
    ])]
    MoveDatabase {
        /// The address of an empty database: postgres://user@host/name
        address: String,
        /// Copy and compare everything, then undo it
        #[arg(long)]
        dry_run: bool,
    },
    /// Continue safely after the PostgreSQL server failed over
    ///
    /// A standby that is promoted may lack the last transactions. Fencing tokens, event places and other numbers advance by
    /// 1,000,000 and migration numbers by 1,000, so that none is given out twice. Leases get a grace of
    /// heartbeat.wake_grace_seconds on all hosts, and an event records it. Programs continue by themselves. Running it twice does no
    /// harm. Run it also after a dump was restored. loopctl doctor reports that a server was promoted.
    #[command(after_help = examples!["loopctl after-failover"])]
    AfterFailover,
    /// Check the consistency of the database
    ///
    /// Prints each violated rule. The exit status is 1 if there is one. On a PostgreSQL server, pg_amcheck checks pages and indexes.
    #[command(after_help = examples!["loopctl check"])]
    Check,
    /// Print the database as SQL
    ///
    /// For a database on a PostgreSQL server, use pg_dump.
    #[command(after_help = examples!["loopctl dump > coordination.sql"])]
    Dump,
    /// Move old rows to the archive beside the database
    ///
    /// Only settled rows are moved. timeline and why read the archive too. A database on a PostgreSQL server has none.
    #[command(after_help = examples!["loopctl archive", "loopctl archive --older-than 30d"])]
    Archive {
        /// Move rows older than an age like 30d or 72h, or a time [default: retention.events_days]
        #[arg(long, value_name = "AGE")]
        older_than: Option<When>,
    },
}
