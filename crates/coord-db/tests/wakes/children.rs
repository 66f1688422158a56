//! The processes beside the test's own: this very test binary, run again with a role.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError, channel};
use std::time::{Duration, Instant};

use coord_db::wake::Listener;
use coord_db::{ActorId, Database, Durability, Error, EventId, NewEvent, OpenOptions, Payload};
use serde_json::{Value, json};

/// What a child does until its input ends.
#[derive(Debug, Clone, Copy)]
pub enum Role {
    /// Publishes the event that each line names, and answers with the moment at which it was committed.
    Publish,
    /// Publishes one event for each line, and answers.
    Source,
    /// Commits with hardly a pause and rings no bell.
    Load,
    /// Commits this number of times without pause, prints how many microseconds the longest commit took, and ends.
    Burst(u64),
    /// Consumes one stage's events and publishes the next stage's.
    Relay,
}

/// A line that is meant for the parent, among what the test harness prints.
const MARK: &str = "@@ ";

/// A moment that all processes of this machine agree on.
pub fn monotonic_nanos() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).unwrap();
    now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64
}

/// A child process, killed when it is dropped.
pub struct Child {
    process: std::process::Child,
    input: Option<ChildStdin>,
    lines: Receiver<String>,
}

impl Child {
    pub fn start(role: Role, database: &Path, durability: Durability, number: u64) -> Self {
        let (name, count) = match role {
            Role::Publish => ("publish", 0),
            Role::Source => ("source", 0),
            Role::Load => ("load", 0),
            Role::Burst(count) => ("burst", count),
            Role::Relay => ("relay", 0),
        };
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--ignored", "--exact", "child", "--nocapture"])
            .env("WAKES_ROLE", name)
            .env("WAKES_COUNT", count.to_string())
            .env("WAKES_NUMBER", number.to_string())
            .env("WAKES_DATABASE", database)
            .env("WAKES_FULL", if durability == Durability::Full { "1" } else { "" });
        let mut child = Self::spawn(command, Some(MARK));
        assert_eq!(child.line(Duration::from_secs(60)), "ready");
        child
    }

    /// The `sqlite3` shell.
    pub fn shell(database: &Path, durability: Durability) -> Self {
        let mut command = Command::new("sqlite3");
        command.arg("-batch").arg("-bail").arg(database);
        let mut child = Self::spawn(command, None);
        let level = if durability == Durability::Full { "FULL" } else { "NORMAL" };
        child.say(&format!(".timeout 5000\nPRAGMA synchronous = {level}; SELECT 'ready';"));
        assert_eq!(child.line(Duration::from_secs(60)), "ready");
        child
    }

    fn spawn(mut command: Command, mark: Option<&'static str>) -> Self {
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let Some(line) = line.strip_prefix(mark.unwrap_or_default()) else { continue };
                if sender.send(line.to_owned()).is_err() {
                    return;
                }
            }
        });
        let input = process.stdin.take();
        Self { process, input, lines }
    }

    /// Gives it one line.
    pub fn say(&mut self, line: &str) {
        self.input.as_mut().unwrap().write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    /// The next line that it says.
    pub fn line(&mut self, most: Duration) -> String {
        self.lines.recv_timeout(most).unwrap_or_else(|error| panic!("a child says nothing: {error}"))
    }

    /// Ends its input and waits for it to end well.
    pub fn stop(mut self) {
        drop(self.input.take());
        let status = self.process.wait().unwrap();
        assert!(status.success(), "a child ended with {status}");
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn tell(line: &str) {
    let mut out = std::io::stdout().lock();
    out.write_all(format!("{MARK}{line}\n").as_bytes()).unwrap();
    out.flush().unwrap();
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_default()
}

fn custom(event_type: &str, value: Value, source: &ActorId) -> NewEvent {
    NewEvent::new(source.clone(), Payload::Custom { event_type: event_type.to_owned(), value })
}

/// The lines of the input, as they come; the sender's end is the end of the input.
fn input() -> Receiver<String> {
    let (sender, lines) = channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    lines
}

/// Does what the environment says.
pub fn run() {
    let role = variable("WAKES_ROLE");
    if role.is_empty() {
        return;
    }
    let durability = if variable("WAKES_FULL").is_empty() { Durability::Normal } else { Durability::Full };
    let options = OpenOptions { durability, ..OpenOptions::default() };
    let db = Database::open(Path::new(&variable("WAKES_DATABASE")), &options).unwrap();
    let number: u64 = variable("WAKES_NUMBER").parse().unwrap();
    let me: ActorId = format!("{role}-{number}").parse().unwrap();
    tell("ready");
    let lines = input();
    match role.as_str() {
        "publish" => {
            for line in lines {
                let id: EventId = line.parse().unwrap();
                db.write(|tx| tx.publish_as(&id, &custom("custom.tick", json!({}), &me))).unwrap();
                tell(&monotonic_nanos().to_string());
            }
        }
        "source" => {
            for line in lines {
                db.write(|tx| tx.publish(&custom("custom.stage-0", json!({ "n": line }), &me))).unwrap();
                tell("done");
            }
        }
        "load" => {
            let event = custom("custom.noise", json!({ "text": "x".repeat(200) }), &me);
            while !matches!(
                lines.recv_timeout(Duration::from_micros(fastrand::u64(0..2_000))),
                Err(RecvTimeoutError::Disconnected)
            ) {
                match db.write_quietly(|tx| tx.publish(&event)) {
                    // The others can have the lock of a slow disk for longer than it waits.
                    Ok(_) | Err(Error::Locked { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        }
        "burst" => {
            let event = custom("custom.burst", json!({}), &me);
            let mut longest = Duration::ZERO;
            for _ in 0..variable("WAKES_COUNT").parse().unwrap() {
                let begun = Instant::now();
                db.write(|tx| tx.publish(&event)).unwrap();
                longest = longest.max(begun.elapsed());
            }
            tell(&longest.as_micros().to_string());
        }
        "relay" => relay(&db, number, &lines),
        other => panic!("no role {other}"),
    }
}

fn relay(db: &Database, stage: u64, lines: &Receiver<String>) {
    let me: ActorId = format!("stage-{stage}").parse().unwrap();
    let mut listener = Listener::new(db.path().unwrap());
    while !matches!(lines.try_recv(), Err(TryRecvError::Disconnected)) {
        if db.read(|tx| tx.has_deliveries(me.as_str())).unwrap() {
            db.write(|tx| {
                let deliveries = tx.pending_deliveries(me.as_str(), 10)?;
                for delivery in &deliveries {
                    let next = custom(&format!("custom.stage-{}", stage + 1), delivery.event.payload.clone(), &me);
                    tx.publish(&next.caused_by(&delivery.event))?;
                }
                tx.acknowledge(me.as_str(), deliveries.iter().map(|delivery| &delivery.event.id))?;
                Ok::<_, Error>(())
            })
            .unwrap();
        } else {
            listener.wait(Duration::from_secs(5));
        }
    }
}
