//! A PostgreSQL server for the tests of this process: in a temporary folder, on a Unix socket, without the settings that make data
//! outlive a power cut. It stops when the process ends, however that ends.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};

use coord_db::{Database, OpenOptions};
use nix::unistd::{Uid, User};

use crate::{run, wait_until};

/// The oldest version that the schema is for.
const OLDEST_VERSION: u32 = 15;
/// Who may do everything there, without a password.
const USER: &str = "tests";

/// Runs the server, again and again, until its input ends, which is when the process that holds the other end has ended, and deletes
/// the folder.
const WATCHDOG: &str = r#"
trap '' HUP INT TERM
folder=$1
shift
( while [ -d "$folder/data" ]; do "$@" >> "$folder/log" 2>&1; done ) < /dev/null &
read -r _
# With it ends what starts the server again.
kill -s KILL $!
while kill -s QUIT "$(head -n 1 "$folder/data/postmaster.pid")"; do sleep 0.1; done 2> /dev/null
rm -rf "$folder"
"#;

/// The server.
#[derive(Debug)]
pub struct Postgres {
    folder: PathBuf,
    programs: PathBuf,
    databases: AtomicU32,
    template: Mutex<Option<String>>,
    /// The kernel closes its input when this process ends.
    _watchdog: Child,
}

/// The folder with the newest server's programs.
fn find_programs() -> Option<PathBuf> {
    let version = |folder: &PathBuf| -> Option<u32> {
        let output = Command::new(folder.join("postgres")).arg("--version").output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.split_whitespace().nth(2)?.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    };
    let on_path = std::env::var_os("PATH").map(|path| std::env::split_paths(&path).collect::<Vec<_>>()).unwrap_or_default();
    let packaged =
        std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten().map(|entry| entry.path().join("bin"));
    // Where a link on the PATH leads to are the other programs too.
    let home = |folder: PathBuf| folder.join("initdb").canonicalize().ok()?.parent().map(Path::to_owned);
    let found = on_path.into_iter().chain(packaged).filter_map(home);
    let found = found.filter_map(|folder| Some((version(&folder)?, folder)));
    found.filter(|(version, _)| *version >= OLDEST_VERSION).max().map(|(_, folder)| folder)
}

/// A command as an ordinary user, as which alone the server runs.
fn as_ordinary_user(program: &Path, user: Option<&User>) -> Command {
    let Some(user) = user else { return Command::new(program) };
    let mut command = Command::new("setpriv");
    command.args([format!("--reuid={}", user.uid), format!("--regid={}", user.gid)]);
    command.args(["--clear-groups", "--pdeathsig=QUIT"]).arg(program);
    command
}

impl Postgres {
    /// The server of this process, started when it is first asked for. None where there is no PostgreSQL: says so, once.
    ///
    /// # Panics
    /// If there is one and it does not start.
    #[must_use]
    pub fn get() -> Option<&'static Self> {
        static SERVER: OnceLock<Option<Postgres>> = OnceLock::new();
        SERVER.get_or_init(Self::own).as_ref()
    }

    fn start(programs: PathBuf, settings: &[&str]) -> Self {
        let user = Uid::effective().is_root().then(|| {
            let named = |name| User::from_name(name).ok().flatten();
            named("postgres").or_else(|| named("nobody")).expect("a user without rights")
        });
        let folder = tempfile::Builder::new().prefix("pg").tempdir().expect("a temporary folder").keep();
        if let Some(user) = &user {
            nix::unistd::chown(&folder, Some(user.uid), Some(user.gid)).expect("a folder for the server");
        }
        let data = folder.join("data");
        let mut make = as_ordinary_user(&programs.join("initdb"), user.as_ref());
        make.args(["--no-sync", "--no-instructions", "--no-locale", "--encoding=UTF8", "--auth=trust", "--username", USER]);
        run(make.arg("--pgdata").arg(&data));
        let mut server = as_ordinary_user(&programs.join("postgres"), user.as_ref());
        server.arg("-D").arg(&data).arg("-k").arg(&folder);
        for setting in ["listen_addresses=", "max_connections=300", "shared_buffers=64MB"].iter().chain(settings) {
            server.args(["-c", setting]);
        }
        let mut watchdog = Command::new("sh");
        watchdog.args(["-c", WATCHDOG, "sh"]).arg(&folder).arg(server.get_program()).args(server.get_args());
        watchdog.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        let watchdog = watchdog.spawn().expect("sh");
        let server = Self { folder, programs, databases: AtomicU32::new(0), template: Mutex::default(), _watchdog: watchdog };
        wait_until("the PostgreSQL server answers", || server.try_sql("postgres", "SELECT 1").is_ok());
        server
    }

    /// A server of the caller's own, which ends with the value. None where there is no PostgreSQL: says so.
    ///
    /// # Panics
    /// If there is one and it does not start.
    #[must_use]
    pub fn own() -> Option<Self> {
        // Hundreds of small databases: to look through each for dead rows takes longer than to leave them.
        Self::with(&["fsync=off", "full_page_writes=off", "autovacuum=off", "jit=off"])
    }

    /// As [`Postgres::own`], and what is committed outlives a power cut, for measurements.
    ///
    /// # Panics
    /// If there is one and it does not start.
    #[must_use]
    pub fn durable() -> Option<Self> {
        Self::with(&[])
    }

    fn with(settings: &[&str]) -> Option<Self> {
        let programs = find_programs();
        if programs.is_none() {
            eprintln!("SKIPPED, NOTHING WAS TESTED ON POSTGRESQL: no server of version {OLDEST_VERSION} or newer is installed");
        }
        programs.map(|programs| Self::start(programs, settings))
    }

    /// Kills the server in the middle of its work, and waits until it has recovered.
    ///
    /// # Panics
    /// If it does not.
    pub fn crash(&self) {
        let pid = || {
            let text = std::fs::read_to_string(self.folder.join("data/postmaster.pid")).unwrap_or_default();
            text.lines().next().and_then(|pid| pid.parse::<u32>().ok())
        };
        let before = pid().expect("the server's pid");
        crate::signal(before, nix::sys::signal::Signal::SIGQUIT);
        wait_until("the server is there again", || pid() != Some(before) && self.try_sql("postgres", "SELECT 1").is_ok());
    }

    /// The server, if the tests of this process are to run on PostgreSQL: the environment variable `CODING_LOOPS_TEST_ENGINE` is
    /// `postgres`. Without it they run on SQLite.
    ///
    /// # Panics
    /// If they are to run there and there is none, or for another value.
    #[must_use]
    pub fn under_test() -> Option<&'static Self> {
        match std::env::var("CODING_LOOPS_TEST_ENGINE").as_deref() {
            Err(_) | Ok("" | "sqlite") => None,
            Ok("postgres") => Some(Self::get().expect("a PostgreSQL server")),
            Ok(other) => panic!("there is no engine {other:?}"),
        }
    }

    /// The address of a new database with the newest schema.
    ///
    /// # Panics
    /// If it cannot be made.
    #[must_use]
    pub fn new_address(&self) -> String {
        let made = self.new_database(|name| {
            Database::create(Path::new(&self.url(name)), &OpenOptions::default()).expect("a database");
        });
        self.url(&made)
    }

    /// The address of a new database without any table.
    ///
    /// # Panics
    /// If it cannot be made.
    #[must_use]
    pub fn empty_address(&self) -> String {
        let name = format!("empty_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        self.sql("postgres", &format!("CREATE DATABASE {name} TEMPLATE template0"));
        self.url(&name)
    }

    /// Makes a database: an empty one, or as `fill` has filled another one when it was first called.
    ///
    /// # Panics
    /// If it cannot be made.
    #[must_use]
    pub fn new_database(&self, fill: impl FnOnce(&str)) -> String {
        let mut template = self.template.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if template.is_none() {
            let name = "filled".to_owned();
            self.sql("postgres", &format!("CREATE DATABASE {name} TEMPLATE template0"));
            fill(&name);
            *template = Some(name);
        }
        let name = format!("test_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        let of = template.as_deref().unwrap_or("template0");
        // Without a log of each page, which takes longer and which nobody needs.
        self.sql("postgres", &format!("CREATE DATABASE {name} TEMPLATE {of} STRATEGY FILE_COPY"));
        name
    }

    /// The address of one of its databases.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        let folder = self.folder.display().to_string().replace('%', "%25").replace('/', "%2F");
        format!("postgres://{USER}@{folder}/{database}")
    }

    /// The socket that it listens on.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.folder.join(".s.PGSQL.5432")
    }

    /// A dump of a database, as SQL for `psql`.
    ///
    /// # Panics
    /// If `pg_dump` fails.
    #[must_use]
    pub fn dump(&self, address: &str) -> String {
        run(Command::new(self.programs.join("pg_dump")).args(["--dbname", address]))
    }

    /// Runs SQL in `psql`, on a database by its name or address: what it prints, one row a line, columns joined by `|`; or what it
    /// reports.
    ///
    /// # Errors
    /// What it prints on stderr if it fails.
    ///
    /// # Panics
    /// If it cannot be run.
    pub fn try_sql(&self, database: &str, sql: &str) -> Result<String, String> {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), sql).expect("a temporary file");
        let mut psql = Command::new(self.programs.join("psql"));
        psql.args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "-v", "ON_ERROR_STOP=1", "--dbname"]);
        let address = if database.contains("://") { database.to_owned() } else { self.url(database) };
        psql.arg(address).arg("--file").arg(file.path());
        let output = psql.env("PGOPTIONS", "-c client_min_messages=warning").output().expect("psql");
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).trim_end().to_owned();
        if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
    }

    /// Runs SQL that must succeed in `psql`; gives what it prints.
    ///
    /// # Panics
    /// If it fails.
    #[track_caller]
    pub fn sql(&self, database: &str, sql: &str) -> String {
        self.try_sql(database, sql).unwrap_or_else(|error| panic!("{sql}: {error}"))
    }
}
