//! Who is answered: decided from the head of a request alone, without I/O.
//!
//! A page of another origin can make a browser send requests here, and a name of somebody else's can resolve to this
//! machine. Therefore the host must be a loopback name, an origin must be ours, and everything but the static shell needs
//! the token, which no other page can read: it is in the fragment of the first address, and sent as a header. There is no
//! cookie, because cookies ignore ports, and the server of an agent on this machine would receive ours.

/// The header with the token.
pub const TOKEN_HEADER: &str = "x-coding-loops-token";

/// The names of this machine that only this machine can mean.
const LOOPBACK_NAMES: [&str; 3] = ["127.0.0.1", "localhost", "[::1]"];

/// What is known of a request before it is answered.
#[derive(Debug, Clone, Copy, Default)]
pub struct Head<'a> {
    /// True for what changes something.
    pub changes: bool,
    /// True for a document, script or style without data.
    pub is_static: bool,
    /// The header `Host`, if there is exactly one.
    pub host: Option<&'a str>,
    /// The header `Origin`.
    pub origin: Option<&'a str>,
    /// The header with the token.
    pub token: Option<&'a str>,
}

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The host is not this machine at our port.
    Host,
    /// The origin is not ours, or is missing where it must not be.
    Origin,
    /// There is no token, or another one.
    Token,
    /// Nothing can be changed here.
    ReadOnly,
}

impl Refusal {
    /// The status of the answer and its text.
    #[must_use]
    pub fn answer(self) -> (u16, &'static str) {
        match self {
            Self::Host => (421, "this address is not served here; open the address that loopctl web printed\n"),
            Self::Origin => (403, "this page is not from here; open the address that loopctl web printed\n"),
            Self::Token => (401, "the token is missing or from an earlier start; open the address that loopctl web printed\n"),
            Self::ReadOnly => (403, "this page is read-only; start loopctl web without --read-only to change something\n"),
        }
    }
}

/// What every request is compared with.
#[derive(Debug, Clone)]
pub struct Guard {
    token: String,
    /// The port of the listener; none for a socket, which is reached through any port.
    port: Option<u16>,
    read_only: bool,
}

impl Guard {
    /// A guard for a listener at this port.
    #[must_use]
    pub fn new(token: String, port: Option<u16>, read_only: bool) -> Self {
        Self { token, port, read_only }
    }

    /// Whether a request may be answered.
    ///
    /// # Errors
    /// The reason why not.
    pub fn check(&self, head: Head<'_>) -> Result<(), Refusal> {
        let host = head.host.filter(|host| self.is_ours(host)).ok_or(Refusal::Host)?;
        let is_origin_ours = |origin: &str| origin.strip_prefix("http://").is_some_and(|at| at.eq_ignore_ascii_case(host));
        match head.origin {
            Some(origin) if !is_origin_ours(origin) => return Err(Refusal::Origin),
            // A browser names the origin of each request that changes something.
            None if head.changes => return Err(Refusal::Origin),
            _ => {}
        }
        if head.is_static && !head.changes {
            return Ok(());
        }
        if !head.token.is_some_and(|token| is_equal(token.as_bytes(), self.token.as_bytes())) {
            return Err(Refusal::Token);
        }
        if head.changes && self.read_only { Err(Refusal::ReadOnly) } else { Ok(()) }
    }

    fn is_ours(&self, host: &str) -> bool {
        let (name, port) = match host.rsplit_once(':') {
            Some((name, port)) if !port.ends_with(']') => (name, port),
            _ => (host, "80"),
        };
        let is_decimal = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
        let is_port = is_decimal && port.parse::<u16>().is_ok_and(|port| self.port.is_none_or(|own| own == port));
        is_port && LOOPBACK_NAMES.iter().any(|loopback| name.eq_ignore_ascii_case(loopback))
    }
}

/// Compares in a time that depends on the lengths alone.
fn is_equal(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && std::hint::black_box(a.iter().zip(b).fold(0, |differences, (a, b)| differences | (a ^ b))) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: Head<'_> = Head {
        changes: false,
        is_static: false,
        host: Some("127.0.0.1:4711"),
        origin: Some("http://127.0.0.1:4711"),
        token: Some("secret"),
    };

    fn guard() -> Guard {
        Guard::new("secret".to_owned(), Some(4711), false)
    }

    #[test]
    fn the_host_must_be_this_machine_at_our_port() {
        for host in ["127.0.0.1:4711", "localhost:4711", "LOCALHOST:4711", "[::1]:4711"] {
            assert_eq!(guard().check(Head { host: Some(host), origin: None, ..OURS }), Ok(()), "{host}");
        }
        let forged = [
            "127.0.0.1",
            "127.0.0.1:4712",
            "127.0.0.1:",
            "127.0.0.1:+4711",
            "127.0.0.1:04711:4711",
            "evil.example:4711",
            "0.0.0.0:4711",
            "localhost.evil.example:4711",
            "127.0.0.1.evil.example:4711",
            "[::1]",
            "::1:4711",
            "evil.example",
            "",
            ":4711",
            "localhost:4711@evil.example",
            " localhost:4711",
        ];
        for host in forged {
            assert_eq!(guard().check(Head { host: Some(host), origin: None, ..OURS }), Err(Refusal::Host), "{host}");
        }
        assert_eq!(guard().check(Head { host: None, ..OURS }), Err(Refusal::Host));
        // Static documents as well: a rebound name gets nothing.
        let rebound = Head { is_static: true, host: Some("evil.example:4711"), ..OURS };
        assert_eq!(guard().check(rebound), Err(Refusal::Host));
    }

    #[test]
    fn a_socket_is_reached_through_any_port_of_a_tunnel() {
        let guard = Guard::new("secret".to_owned(), None, false);
        for host in ["localhost", "localhost:80", "127.0.0.1:9999", "[::1]"] {
            assert_eq!(guard.check(Head { host: Some(host), origin: None, ..OURS }), Ok(()), "{host}");
        }
        assert_eq!(guard.check(Head { host: Some("evil.example:80"), ..OURS }), Err(Refusal::Host));
    }

    #[test]
    fn an_origin_is_ours_or_none_and_never_none_for_a_change() {
        for origin in ["http://evil.example", "null", "https://127.0.0.1:4711", "http://127.0.0.1", "http://localhost:4711", ""]
        {
            assert_eq!(guard().check(Head { origin: Some(origin), ..OURS }), Err(Refusal::Origin), "{origin}");
        }
        assert_eq!(guard().check(Head { origin: None, ..OURS }), Ok(()));
        assert_eq!(guard().check(Head { origin: None, changes: true, ..OURS }), Err(Refusal::Origin));
        assert_eq!(guard().check(Head { changes: true, ..OURS }), Ok(()));
    }

    #[test]
    fn all_but_the_static_shell_needs_the_token() {
        for token in [None, Some(""), Some("secreT"), Some("secret2"), Some("secre")] {
            assert_eq!(guard().check(Head { token, ..OURS }), Err(Refusal::Token), "{token:?}");
            assert_eq!(guard().check(Head { token, is_static: true, ..OURS }), Ok(()), "{token:?}");
            assert_eq!(guard().check(Head { token, is_static: true, changes: true, ..OURS }), Err(Refusal::Token));
        }
    }

    #[test]
    fn read_only_refuses_every_change() {
        let guard = Guard::new("secret".to_owned(), Some(4711), true);
        assert_eq!(guard.check(Head { changes: true, ..OURS }), Err(Refusal::ReadOnly));
        assert_eq!(guard.check(OURS), Ok(()));
    }
}
