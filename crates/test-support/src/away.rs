//! A database on a server that several machines share, as one of them has it: a file with its address, and a way there that can be
//! lost.

use std::path::{Path, PathBuf};

use coord_db::{Database, OpenOptions};

use crate::{Postgres, printed, wait_until_equal};

/// A new database on the server of this process.
#[derive(Debug)]
pub struct Shared {
    /// The way to the server: a link to the folder of its socket.
    way: PathBuf,
    _folder: tempfile::TempDir,
    server: &'static Postgres,
    name: String,
    /// The database, opened in this process, which always reaches it.
    pub db: Database,
}

impl Shared {
    /// A new database whose address is written to `path`. None where there is no PostgreSQL.
    ///
    /// # Panics
    /// If it cannot be made.
    #[must_use]
    pub fn at(path: &Path) -> Option<Self> {
        let server = Postgres::get()?;
        let address = server.new_address();
        let name = address.rsplit('/').next().expect("a name").to_owned();
        let folder = tempfile::tempdir().expect("a temporary folder");
        let way = folder.path().join("way");
        let of_machine = format!("postgres://tests@{}/{name}", way.display().to_string().replace('/', "%2F"));
        coord_db::locate::write_address(path, &of_machine).expect("a file with the address");
        let db = Database::open(Path::new(&address), &OpenOptions::default()).expect("a database");
        let shared = Self { way, _folder: folder, server, name, db };
        shared.come_back();
        Some(shared)
    }

    /// Ends the connections to the server, and lets nobody but this process reach it.
    ///
    /// # Panics
    /// If that cannot be done.
    pub fn go_away(&self) {
        std::fs::remove_file(&self.way).expect("a way");
        let own = printed(&self.db, "SELECT pg_backend_pid()");
        let others = format!(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = current_database()
             AND pid NOT IN (pg_backend_pid(), {own})"
        );
        self.server.sql(&self.name, &others);
    }

    /// Lets everybody reach the server again.
    ///
    /// # Panics
    /// If that cannot be done.
    pub fn come_back(&self) {
        let folder = self.server.socket();
        std::os::unix::fs::symlink(folder.parent().expect("a folder"), &self.way).expect("a link");
    }

    /// Waits until a query prints this.
    ///
    /// # Panics
    /// If it does not within [`BOUND`](crate::BOUND).
    #[track_caller]
    pub fn until(&self, query: &str, expected: &str) {
        wait_until_equal(query, expected, || printed(&self.db, query));
    }
}
