//! A line between a machine and a server, which can be slow, hold back what it carries, or break without a word.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

/// How often a line that carries nothing looks whether it may again.
const LOOK: Duration = Duration::from_millis(50);

/// How a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Line {
    /// What is sent arrives.
    Open,
    /// What is sent arrives when the line is open again, as after a short outage.
    Held,
    /// Machines have given up their connections, of which the server knows nothing; new ones get no answer. As in a long outage.
    Cut,
}

#[derive(Debug)]
struct Shared {
    line: AtomicU8,
    /// Time that each packet takes, in microseconds.
    micros: AtomicU64,
}

impl Shared {
    fn is(&self, line: Line) -> bool {
        self.line.load(Ordering::SeqCst) == line as u8
    }

    /// Waits until the line carries something; false if it was cut.
    fn carries(&self) -> bool {
        while self.is(Line::Held) {
            pause(LOOK);
        }
        self.is(Line::Open)
    }
}

/// A line to a server's socket. Its threads end with the process.
#[derive(Debug)]
pub struct Link {
    shared: Arc<Shared>,
    address: SocketAddr,
}

impl Link {
    /// An open line without delay, to the socket of a server.
    ///
    /// # Panics
    /// If there is no free port.
    #[must_use]
    pub fn to(socket: &Path) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("its address");
        let shared = Arc::new(Shared { line: AtomicU8::new(Line::Open as u8), micros: AtomicU64::new(0) });
        let (socket, of_line) = (socket.to_owned(), Arc::clone(&shared));
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (socket, shared) = (socket.clone(), Arc::clone(&of_line));
                std::thread::spawn(move || carry(client, &socket, &shared));
            }
        });
        Self { shared, address }
    }

    /// Where a machine reaches the server.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes how the line is.
    pub fn set(&self, line: Line) {
        self.shared.line.store(line as u8, Ordering::SeqCst);
    }

    /// Sets the time for there and back.
    pub fn set_round_trip(&self, time: Duration) {
        self.shared.micros.store(u64::try_from(time.as_micros() / 2).unwrap_or(u64::MAX), Ordering::SeqCst);
    }
}

fn carry(client: TcpStream, socket: &PathBuf, shared: &Arc<Shared>) {
    while !shared.is(Line::Open) {
        pause(LOOK);
    }
    let _ = client.set_nodelay(true);
    let Ok(server) = UnixStream::connect(socket) else { return drop(client.shutdown(Shutdown::Both)) };
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            copy(&client, &server, shared);
            // The server hears the end of a connection only over a line that carries it.
            if shared.carries() {
                let _ = server.shutdown(Shutdown::Both);
            }
        });
        scope.spawn(|| {
            while !shared.is(Line::Cut) && !over.load(Ordering::SeqCst) {
                pause(LOOK);
            }
            let _ = client.shutdown(Shutdown::Both);
        });
        copy(&server, &client, shared);
        over.store(true, Ordering::SeqCst);
    });
}

/// Carries what one side sends to the other, each part after the time that it takes.
fn copy(mut from: impl Read + Send, mut to: impl Write, shared: &Shared) {
    let (sender, parts) = mpsc::channel::<(Instant, Vec<u8>)>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut buffer = [0; 65_536];
            while let Ok(length @ 1..) = from.read(&mut buffer) {
                let due = Instant::now() + Duration::from_micros(shared.micros.load(Ordering::SeqCst));
                if sender.send((due, buffer[..length].to_vec())).is_err() {
                    break;
                }
            }
        });
        for (due, part) in parts {
            pause(due.saturating_duration_since(Instant::now()));
            if !shared.carries() || to.write_all(&part).is_err() {
                break;
            }
        }
    });
}

/// A part takes its time, and a closed line is looked at now and then: that is what a line is.
#[allow(clippy::disallowed_methods)]
fn pause(time: Duration) {
    std::thread::sleep(time);
}
