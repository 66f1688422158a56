//! The processes that are killed: this very test binary, run again with a role. Each tells its parent what it has done only
//! after the commit.

use std::fs::OpenOptions as FileOptions;
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use coord_db::process::ProcessIdentity;
use coord_db::wake::Listener;
use coord_db::{
    Acquire, AcquireRequest, ActorId, CheckOutcome, Database, Durability, Error, Grant, LeasePath, LoopId, NewEvent, NewTest,
    OpenOptions, PassedAttempt, Payload, Proof, Test, TestStatus, Waiting, new_id,
};
use serde_json::json;

use crate::MARK;
use test_support::{acquire_request, new_test};

/// What can be leased. A write goes to the files that a lease covers.
const PATHS: [&str; 6] = ["a/x", "a/y", "a/", "b/z", "port:5432", "git:integration"];
const SILENT_SECONDS: i64 = 5;

pub fn loop_id(index: usize) -> LoopId {
    format!("w{index}").parse().unwrap()
}

pub fn consumer(index: usize) -> String {
    format!("c{}", index % crate::CONSUMERS)
}

/// The files that stand for what a lease on `path` protects.
fn files(path: &LeasePath) -> Vec<&'static str> {
    match path.as_str() {
        "a/x" => vec!["a-x"],
        "a/y" => vec!["a-y"],
        "a/" => vec!["a-x", "a-y"],
        "b/z" => vec!["b-z"],
        "port:5432" => vec!["port"],
        other => {
            assert_eq!(other, "git:integration");
            vec!["git"]
        }
    }
}

struct Worker {
    db: Database,
    id: LoopId,
    consumer: ActorId,
    life: String,
    paths: PathBuf,
    random: fastrand::Rng,
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_default()
}

fn tell(line: &str) {
    let mut out = std::io::stdout().lock();
    out.write_all(format!("{MARK}{line}\n").as_bytes()).unwrap();
    out.flush().unwrap();
}

/// Does what the environment says, until killed.
pub fn run() {
    let role = variable("KILLS_ROLE");
    if role.is_empty() {
        return;
    }
    let folder = PathBuf::from(variable("KILLS_FOLDER"));
    let durability = if variable("KILLS_FULL").is_empty() { Durability::Normal } else { Durability::Full };
    let options = OpenOptions { durability, busy_deadline: Duration::from_secs(30), ..OpenOptions::default() };
    let path = folder.join("coordination.db");
    let db = Database::open(&path, &options).unwrap();
    if role == "keep" {
        keep(&db);
    }
    let index: usize = role.parse().unwrap();
    let mut worker = Worker {
        db,
        id: loop_id(index),
        consumer: consumer(index).parse().unwrap(),
        life: variable("KILLS_LIFE"),
        paths: folder.join("paths"),
        random: fastrand::Rng::with_seed(variable("KILLS_RANDOM").parse().unwrap()),
    };
    // The kernel may take a moment to reap the previous process.
    worker.db.write(|tx| tx.start_loop(&worker.id, &ProcessIdentity::own(), "0")).unwrap();
    if variable("KILLS_DRAIN").is_empty() {
        loop {
            worker.step();
        }
    }
    worker.drain();
}

/// Is killed in the middle of a backup or of a checkpoint.
fn keep(db: &Database) -> ! {
    loop {
        db.execute_foreign("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
        let path = db.back_up(None, 3).unwrap();
        tell(&format!("backup {}", path.display()));
        db.execute_foreign("PRAGMA wal_checkpoint(RESTART)").unwrap();
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

impl Worker {
    fn step(&mut self) {
        match self.random.u8(..20) {
            0..6 => self.publish(),
            6..13 => {
                self.consume();
            }
            13..16 => self.lease(),
            16..19 => self.work(true),
            _ => self.db.write_quietly(|tx| tx.beat(&(&self.id).into(), coord_db::HealthStatus::Healthy, None)).unwrap(),
        }
    }

    /// Handles and passes everything that is left, and stops in an orderly way.
    fn drain(&mut self) {
        while self.consume() > 0 {}
        while self.db.read(|tx| tx.next_ready_test(&self.id, true)).unwrap().is_some() {
            self.work(false);
        }
        self.db.write(|tx| tx.stop_loop(&self.id, "nothing is left")).unwrap();
    }

    fn publish(&mut self) {
        let payload = Payload::Custom { event_type: "custom.made".to_owned(), value: json!({ "life": self.life }) };
        let event = NewEvent::new(ActorId::from(&self.id), payload).priority(self.random.i64(1..9));
        let id = self.db.publish(&event).unwrap();
        tell(&format!("made {id}"));
    }

    /// Consume, act, publish; another process may take from the same subscription.
    fn consume(&mut self) -> usize {
        if !self.db.read(|tx| tx.has_deliveries(self.consumer.as_str())).unwrap() {
            return 0;
        }
        let most = self.random.usize(1..6);
        let taken = self
            .db
            .write(|tx| {
                let deliveries = tx.pending_deliveries(self.consumer.as_str(), most)?;
                for delivery in &deliveries {
                    let value = json!({ "of": delivery.event.id, "life": self.life });
                    let done = Payload::Custom { event_type: "custom.done".to_owned(), value };
                    tx.publish(&NewEvent::new(self.consumer.clone(), done).caused_by(&delivery.event))?;
                }
                tx.acknowledge(self.consumer.as_str(), deliveries.iter().map(|delivery| &delivery.event.id))?;
                Ok::<_, Error>(deliveries)
            })
            .unwrap();
        for delivery in &taken {
            tell(&format!("done {} {}", delivery.event.id, self.consumer));
        }
        taken.len()
    }

    /// Takes a set, waiting for it or not, writes under it, and gives it back.
    fn lease(&mut self) {
        let mut paths: Vec<LeasePath> = Vec::new();
        for _ in 0..self.random.usize(1..4) {
            let path: LeasePath = PATHS[self.random.usize(..PATHS.len())].parse().unwrap();
            if !paths.iter().any(|other| other.overlaps(&path)) {
                paths.push(path);
            }
        }
        let request = AcquireRequest { paths, ttl_seconds: 3600, ..acquire_request(self.id.as_str(), &[]) };
        let grant = if self.random.u8(..3) > 0 {
            match self.db.write(|tx| tx.acquire(&request, SILENT_SECONDS)).unwrap() {
                Acquire::Granted(grant) => Some(grant),
                Acquire::Refused(_) => None,
            }
        } else {
            self.wait_for(&request)
        };
        let Some(grant) = grant else { return };
        tell(&format!("leased {} {}", grant.fencing_token, self.id));
        self.write_under(&grant, "begin");
        if self.random.bool() {
            // A commit of its own while it holds, where a kill can also come.
            self.publish();
            let renewed = self.db.write(|tx| tx.renew(&self.id, grant.fencing_token, None)).unwrap();
            assert_eq!(renewed.paths, grant.paths);
        }
        self.write_under(&grant, "end");
        let released = self.db.write(|tx| tx.release(&self.id, &grant.paths, Some(grant.fencing_token))).unwrap();
        assert_eq!(released, grant.paths);
        tell(&format!("released {} {}", grant.fencing_token, self.id));
    }

    fn wait_for(&self, request: &AcquireRequest) -> Option<Grant> {
        let mut listener = Listener::new(self.db.path().unwrap());
        let (ticket, mut answer) =
            self.db.write(|tx| tx.acquire_or_queue(request, tx.now().plus_millis(60), SILENT_SECONDS)).unwrap();
        loop {
            match answer {
                Waiting::Granted(grant) => return Some(grant),
                Waiting::GaveUp(_) => return None,
                Waiting::Queued(_) => {
                    listener.wait(Duration::from_millis(30));
                    let ticket = ticket.as_deref().unwrap();
                    answer = self.db.write_quietly(|tx| tx.retry_request(ticket, request, SILENT_SECONDS)).unwrap();
                }
            }
        }
    }

    /// Each file's history keeps who wrote under which token, in the order of the writes.
    fn write_under(&self, grant: &Grant, what: &str) {
        for file in grant.paths.iter().flat_map(files) {
            let mut file = FileOptions::new().create(true).append(true).open(self.paths.join(file)).unwrap();
            file.write_all(format!("{} {} {what}\n", grant.fencing_token, self.life).as_bytes()).unwrap();
        }
    }

    /// Claims a test, works on it for a moment and passes it with its proof.
    fn work(&mut self, more: bool) {
        let Some(test) = self.db.write(|tx| tx.claim_next_test(&self.id, true)).unwrap() else {
            if more {
                self.import();
            }
            return;
        };
        tell(&format!("claimed {} {}", test.id, test.attempts));
        let until = Instant::now() + Duration::from_micros(self.random.u64(..3_000));
        while Instant::now() < until {
            std::hint::spin_loop();
        }
        if more && self.random.u8(..8) == 0 {
            self.db.write(|tx| tx.give_back(&test.id, &self.id, "the agent has changed its mind")).unwrap();
            return;
        }
        let proof = self.proof(&test);
        let attempt = PassedAttempt {
            commit: proof.commit_hash.clone(),
            checks: vec![("tests".to_owned(), true)],
            duration_seconds: 0,
            tokens_estimated: None,
            files_modified: Vec::new(),
        };
        self.db
            .write(|tx| {
                tx.add_proof(&proof, None)?;
                tx.record_passed(&test.id, &self.id, &attempt)
            })
            .unwrap();
        tell(&format!("passed {} {}", test.id, proof.id));
        assert_eq!(self.db.read(|tx| tx.test(&test.id)).unwrap().status, TestStatus::Passed);
    }

    fn proof(&mut self, test: &Test) -> Proof {
        Proof {
            id: new_id(),
            test_id: test.id.clone(),
            attempt: test.attempts,
            commit_hash: format!("{:040x}", self.random.u128(..)),
            tree_hash: format!("{:040x}", self.random.u128(..)),
            check_name: "tests".to_owned(),
            outcome: CheckOutcome::Pass,
            exit_code: Some(0),
            duration_ms: 1,
            output_sha256: String::new(),
            output_tail: self.life.clone(),
            created_at: self.db.now(),
        }
    }

    fn import(&mut self) {
        let tests: Vec<NewTest> = (0..3)
            .map(|_| NewTest {
                category: "build".to_owned(),
                max_attempts: 1_000,
                ..new_test(&format!("t-{}", new_id()), self.id.as_str())
            })
            .collect();
        let problems = self.db.write(|tx| tx.import_tests(&tests)).unwrap();
        assert_eq!(problems, []);
        for test in tests {
            tell(&format!("imported {}", test.id));
        }
    }
}
