//! Where the server is, and as whom to connect to it.

use std::str::FromStr;
use std::time::Duration;

use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode};

use crate::{Error, Result};

/// The environment variable with the password, as `psql` has it.
const PASSWORD: &str = "PGPASSWORD";
/// How long to wait until a server takes a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// After this time without an answer to what was sent, a connection is broken.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// The address of a database.
#[derive(Clone)]
pub(crate) struct Address {
    pub(super) config: Config,
    shown: String,
}

impl std::fmt::Debug for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.shown)
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.shown)
    }
}

impl FromStr for Address {
    type Err = Error;

    /// No error repeats the text: there may be a password in it.
    fn from_str(text: &str) -> Result<Self> {
        let invalid = |why: String| {
            Error::Config(format!("the address of the database is not like postgres://user@host:5432/name: {why}"))
        };
        let mut config = Config::from_str(text).map_err(|error| invalid(crate::error_chain(&error)))?;
        let name = config.get_dbname().map(str::to_owned).ok_or_else(|| invalid("it names no database".to_owned()))?;
        if config.get_ssl_mode() == SslMode::Require {
            return Err(Error::Config(
                "this program speaks no TLS: reach the server by a Unix socket, a private network or a tunnel, \
                 without sslmode=require"
                    .to_owned(),
            ));
        }
        config.ssl_mode(SslMode::Disable);
        if config.get_password().is_none()
            && let Some(password) = std::env::var_os(PASSWORD)
        {
            config.password(std::os::unix::ffi::OsStrExt::as_bytes(password.as_os_str()));
        }
        let hosts: Vec<String> = config.get_hosts().iter().map(host).collect();
        let ports = config.get_ports();
        let port = ports.first().filter(|port| **port != 5432).map(|port| format!(":{port}")).unwrap_or_default();
        let user = config.get_user().map(|user| format!("{user}@")).unwrap_or_default();
        let shown = format!("postgres://{user}{}{port}/{name}", hosts.join(","));
        config
            .application_name("coding-loops")
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_user_timeout(ANSWER_TIMEOUT)
            .keepalives_idle(ANSWER_TIMEOUT)
            .keepalives_interval(Duration::from_secs(5))
            .keepalives_retries(3);
        Ok(Self { config, shown })
    }
}

fn host(host: &Host) -> String {
    match host {
        Host::Tcp(name) => name.clone(),
        Host::Unix(folder) => folder.display().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_password_is_shown() {
        let address: Address = "postgres://me:secret@db.example:5433/loops".parse().unwrap();
        assert_eq!(format!("{address} {address:?}"), "postgres://me@db.example:5433/loops postgres://me@db.example:5433/loops");
        for wrong in
            ["postgres://me:secret@db.example", "postgres://me:secret@db.example/loops?sslmode=require", "postgres://secret:x"]
        {
            let error = wrong.parse::<Address>().unwrap_err();
            assert!(!format!("{error} {error:?}").contains("secret"), "{error}");
        }
    }
}
