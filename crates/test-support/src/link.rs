//! A line between a machine and a server, which can be slow, hold back what it carries, or break without a word.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, mpsc};
use std::time::{Duration, Instant};

/// How a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
    line: Mutex<Line>,
    changed: Condvar,
    /// Time that each packet takes, in microseconds.
    micros: AtomicU64,
}

impl Shared {
    fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().expect("no thread panics with it")
    }

    /// Waits until the line is so; gives how it is then.
    fn until(&self, is_so: impl Fn(Line) -> bool) -> Line {
        *self.changed.wait_while(self.line(), |line| !is_so(*line)).expect("no thread panics with it")
    }

    /// Waits until the line carries something; false if it was cut.
    fn carries(&self) -> bool {
        self.until(|line| line != Line::Held) == Line::Open
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
        let shared = Arc::new(Shared { line: Mutex::new(Line::Open), changed: Condvar::new(), micros: AtomicU64::new(0) });
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
        *self.shared.line() = line;
        self.shared.changed.notify_all();
    }

    /// Sets the time for there and back.
    pub fn set_round_trip(&self, time: Duration) {
        self.shared.micros.store(u64::try_from(time.as_micros() / 2).unwrap_or(u64::MAX), Ordering::SeqCst);
    }
}

fn carry(client: TcpStream, socket: &PathBuf, shared: &Arc<Shared>) {
    shared.until(|line| line == Line::Open);
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
            shared.until(|line| line == Line::Cut || over.load(Ordering::SeqCst));
            let _ = client.shutdown(Shutdown::Both);
        });
        copy(&server, &client, shared);
        let _line = shared.line();
        over.store(true, Ordering::SeqCst);
        shared.changed.notify_all();
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

/// A part takes its time: that is what a line is.
#[allow(clippy::disallowed_methods)]
fn pause(time: Duration) {
    std::thread::sleep(time);
}
