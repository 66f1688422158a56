//! `loopctl web` as a process, and a plain HTTP client that can say anything.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::Stdio;
use std::time::Duration;

use test_support::{BOUND, Process};

use crate::processes::World;

/// A served page.
#[derive(Debug)]
pub struct Web {
    /// The process.
    pub process: Process,
    /// What it printed.
    pub url: String,
    /// The host and port, as a browser names them.
    pub authority: String,
    /// The token.
    pub token: String,
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Status line and headers, in lower case.
    pub head: String,
    /// Its body.
    pub body: String,
}

impl Web {
    /// Serves a world's page on a free port, with these options.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    pub fn start(world: &World, options: &[&str]) -> Self {
        let log = std::fs::File::create(world.folder().join("web.log")).expect("a log");
        let mut command = world.program("loopctl");
        command.args(["web", "--url"]).args(options).env("RUST_LOG", "dashboard=debug");
        let mut process = Process::start(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log));
        let mut url = String::new();
        BufReader::new(process.child().stdout.take().expect("its output")).read_line(&mut url).expect("the address");
        let url = url.trim_end().to_owned();
        let (address, token) = url.split_once("/#").unwrap_or_else(|| panic!("no address in {url:?}: {}", world.logs()));
        let authority = address.strip_prefix("http://").expect("http").to_owned();
        Self { process, authority, token: token.to_owned(), url }
    }

    /// Sends a request with exactly these headers, and reads the answer to its end.
    ///
    /// # Panics
    /// If there is no answer.
    #[must_use]
    pub fn send(&self, line: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let mut stream = self.open(line, headers, body);
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).expect("an answer");
        let text = String::from_utf8(bytes).expect("text");
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        Answer { status, head: head.to_lowercase(), body: body.to_owned() }
    }

    fn open(&self, line: &str, headers: &[(&str, &str)], body: &str) -> TcpStream {
        let mut stream = TcpStream::connect(&self.authority).expect("a connection");
        stream.set_read_timeout(Some(BOUND)).expect("a timeout");
        let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let length = body.len();
        let request = format!("{line} HTTP/1.1\r\n{headers}Connection: close\r\nContent-Length: {length}\r\n\r\n{body}");
        stream.write_all(request.as_bytes()).expect("a request");
        stream
    }

    /// A request as the page sends it.
    #[must_use]
    pub fn get(&self, path: &str) -> Answer {
        self.send(&format!("GET {path}"), &[("Host", &self.authority), ("X-Coding-Loops-Token", &self.token)], "")
    }

    /// A change as the page sends it.
    #[must_use]
    pub fn post(&self, path: &str, body: &str) -> Answer {
        let origin = format!("http://{}", self.authority);
        let headers = [
            ("Host", self.authority.as_str()),
            ("Origin", &origin),
            ("X-Coding-Loops-Token", &self.token),
            ("Content-Type", "application/json"),
        ];
        self.send(&format!("POST {path}"), &headers, body)
    }

    /// Follows a page.
    #[must_use]
    pub fn follow(&self, path: &str) -> Stream {
        let headers = [("Host", self.authority.as_str()), ("X-Coding-Loops-Token", &self.token)];
        Stream { stream: self.open(&format!("GET /live{path}"), &headers, ""), text: String::new() }
    }
}

/// A stream of events.
#[derive(Debug)]
pub struct Stream {
    stream: TcpStream,
    text: String,
}

impl Stream {
    /// Reads until a text has come; everything up to its end. It is not found again.
    ///
    /// # Panics
    /// If the stream ends before.
    pub fn until(&mut self, wanted: &str) -> String {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            if let Some(at) = self.text.find(wanted) {
                let rest = self.text.split_off(at + wanted.len());
                return std::mem::replace(&mut self.text, rest);
            }
            let read = self.stream.read(&mut buffer).unwrap_or_else(|error| panic!("{wanted:?} has not come: {error}"));
            assert!(read > 0, "the stream ends before {wanted:?}: {}", self.text);
            self.text.push_str(&String::from_utf8_lossy(&buffer[..read]));
        }
    }

    /// Reads to the end.
    ///
    /// # Panics
    /// If it does not end within a bound.
    pub fn end(mut self) {
        self.stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a timeout");
        let mut rest = Vec::new();
        self.stream.read_to_end(&mut rest).expect("the end of the stream");
    }
}
