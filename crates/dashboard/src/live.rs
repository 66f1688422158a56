//! One reader for all browsers: it waits for commits, draws each page that is looked at once, and hands on the parts that
//! changed. A page that nobody looks at, and a database in which nothing happens, cost no read.
//!
//! A browser that is slow skips what was replaced meanwhile, so nothing queues up.
//!
//! A database that was moved away or replaced is closed, and pages say so instead of showing what it had; what its path names
//! later is opened and shown.

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::response::sse::Event;
use coord_db::{Config, Database, Error};
use futures_util::stream::{self, Stream};
use process_host::{Stop, Wakes, stop_requested};
use serde_json::json;
use tokio::sync::{mpsc, oneshot, watch};
use views::published::{Branch, Seen};

use crate::pages::{Address, Drawn, Page, Surroundings, draw, without_database};

/// The shortest time between two updates: changes in between are sent together.
const PAUSE: Duration = Duration::from_millis(150);
/// An update that takes long is followed by a pause this number of times as long.
const PAUSE_FACTOR: u32 = 2;
/// Interval at which logs that grow are looked at: nothing rings for them.
const LOG_INTERVAL: Duration = Duration::from_millis(500);
/// Interval at which the published branch is looked at, while the page that shows it changes: each look costs runs of git.
const BRANCH_INTERVAL: Duration = Duration::from_secs(5);
/// The longest wait for a commit; the watching of files is renewed in between.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// Interval at which a database that no longer exists is looked for.
const SEARCH_INTERVAL: Duration = Duration::from_secs(1);

/// A page as a browser follows it.
pub type Followed = watch::Receiver<Arc<Drawn>>;

/// A browser that wants to follow a page.
pub struct Request {
    /// Which page.
    pub address: Address,
    /// Where the page is sent.
    pub reply: oneshot::Sender<Followed>,
}

struct Watched {
    sender: watch::Sender<Arc<Drawn>>,
    /// The length of each log when it was shown.
    logs: Vec<(PathBuf, u64)>,
}

/// The reader.
pub struct Reader {
    /// The open database, or why there is none.
    db: Result<Database, String>,
    /// Where it is looked for.
    path: PathBuf,
    config: Arc<Config>,
    read_only: bool,
    wakes: Wakes,
    watched: BTreeMap<Address, Watched>,
    requests: mpsc::Receiver<Request>,
    branch: Option<Branch>,
    branch_looks: (mpsc::Sender<Option<Branch>>, mpsc::Receiver<Option<Branch>>),
    branch_at: Option<Instant>,
}

impl Reader {
    /// A reader of a database that serves these requests.
    #[must_use]
    pub fn new(db: Database, config: Arc<Config>, read_only: bool, requests: mpsc::Receiver<Request>) -> Self {
        let path = db.path().unwrap_or_else(|| Path::new(".")).to_owned();
        Self {
            wakes: Wakes::new(&path),
            db: Ok(db),
            path,
            config,
            read_only,
            watched: BTreeMap::new(),
            requests,
            branch: None,
            branch_looks: mpsc::channel(1),
            branch_at: None,
        }
    }

    /// Serves until it is requested to end.
    pub async fn run(mut self, mut stop: Stop) {
        let mut rest_until = Instant::now();
        loop {
            self.watched.retain(|_, watched| watched.sender.receiver_count() > 0);
            let wait = if self.watched.values().all(|watched| watched.logs.is_empty()) { LONGEST_WAIT } else { LOG_INTERVAL };
            let is_idle = self.watched.is_empty();
            let changed = async {
                if is_idle {
                    return std::future::pending().await;
                }
                let Ok(db) = &self.db else {
                    tokio::time::sleep(SEARCH_INTERVAL).await;
                    return false;
                };
                let changed = self.wakes.changed(db, wait).await;
                if changed {
                    tokio::time::sleep_until(rest_until.into()).await;
                }
                changed
            };
            tokio::select! {
                () = stop_requested(&mut stop) => return,
                Some(request) = self.requests.recv() => self.begin(request),
                Some(branch) = self.branch_looks.1.recv() => {
                    self.branch = branch;
                    self.update(|address| address.page == Page::Now);
                }
                changed = changed => {
                    let began = Instant::now();
                    if self.look_at_place() || changed {
                        self.looked();
                        self.update(|_| true);
                        self.look_at_branch();
                    } else {
                        self.update_logs();
                    }
                    rest_until = Instant::now() + PAUSE.max(began.elapsed() * PAUSE_FACTOR);
                }
            }
        }
    }

    fn begin(&mut self, request: Request) {
        if self.look_at_place() {
            self.update(|_| true);
        }
        if self.watched.is_empty() {
            // Nobody has looked for a while, so what was seen last is of no use.
            self.looked();
        }
        let followed = match self.watched.get(&request.address).filter(|watched| watched.sender.receiver_count() > 0) {
            Some(watched) => watched.sender.subscribe(),
            None => {
                let drawn = Arc::new(self.draw(&request.address));
                let (sender, receiver) = watch::channel(Arc::clone(&drawn));
                self.watched.insert(request.address.clone(), Watched { sender, logs: lengths(&drawn) });
                receiver
            }
        };
        // A browser that has left needs no page.
        let _ = request.reply.send(followed);
        if request.address.page == Page::Now {
            self.look_at_branch();
        }
    }

    /// To be called before the database is read.
    fn looked(&mut self) {
        if let Ok(db) = &self.db {
            self.wakes.looked(db);
        }
    }

    /// Closes a database that its path names no more, and opens what it names then. True if pages show something else now.
    fn look_at_place(&mut self) -> bool {
        if let Ok(db) = &self.db {
            let Err(error) = db.check_place() else { return false };
            tracing::warn!(%error, "the database was moved away or replaced");
            // Before anything is opened: two connections to one file that was moved meanwhile would share what is stale.
            self.db = Err(String::new());
        }
        let before = self.db.as_ref().err().cloned();
        self.db = Database::open(&self.path, &self.config.open_options()).map_err(|error| missing(&error));
        if self.db.is_ok() {
            self.wakes = Wakes::new(&self.path);
            self.looked();
        }
        self.db.as_ref().err() != before.as_ref()
    }

    fn draw(&self, address: &Address) -> Drawn {
        let began = Instant::now();
        let around = Surroundings { config: &self.config, read_only: self.read_only, published: self.branch.as_ref() };
        let drawn = match &self.db {
            Ok(db) => draw(db, around, address),
            Err(why) => without_database(why),
        };
        tracing::debug!(page = address.path(), ms = began.elapsed().as_secs_f64() * 1000.0, "drawn");
        drawn
    }

    fn update(&mut self, which: impl Fn(&Address) -> bool) {
        let addresses: Vec<Address> = self.watched.keys().filter(|address| which(address)).cloned().collect();
        for address in addresses {
            let drawn = Arc::new(self.draw(&address));
            if let Some(watched) = self.watched.get_mut(&address) {
                watched.logs = lengths(&drawn);
                watched.sender.send_if_modified(|last| {
                    let differs = **last != *drawn;
                    *last = Arc::clone(&drawn);
                    differs
                });
            }
        }
    }

    fn update_logs(&mut self) {
        let grown = |watched: &Watched| watched.logs.iter().any(|(path, length)| length_of(path) != *length);
        let addresses: Vec<Address> =
            self.watched.iter().filter(|(_, watched)| grown(watched)).map(|(address, _)| address.clone()).collect();
        self.update(|address| addresses.contains(address));
    }

    /// Looks at the published branch on another thread, now and then.
    fn look_at_branch(&mut self) {
        let is_due = self.branch_at.is_none_or(|at| at.elapsed() >= BRANCH_INTERVAL);
        if !is_due || !self.watched.keys().any(|address| address.page == Page::Now) {
            return;
        }
        self.branch_at = Some(Instant::now());
        let (config, result) = (Arc::clone(&self.config), self.branch_looks.0.clone());
        tokio::task::spawn_blocking(move || {
            let _ = result.try_send(Seen::default().look(&config).cloned());
        });
    }
}

/// Why there is no database, and what to do.
fn missing(error: &Error) -> String {
    match error {
        Error::NoDatabase { path } => format!(
            "the database {} was moved or deleted while this page was open; put it back, or end loopctl web and start it with \
             --db and the new path",
            path.display()
        ),
        other => process_host::exit::describe(other),
    }
}

fn length_of(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |file| file.len())
}

fn lengths(drawn: &Drawn) -> Vec<(PathBuf, u64)> {
    drawn.logs.iter().map(|path| (path.clone(), length_of(path))).collect()
}

/// What one browser has been sent of a page.
#[derive(Debug, Default)]
struct Sent {
    ids: Vec<&'static str>,
    parts: HashMap<&'static str, u64>,
}

impl Sent {
    /// The messages that bring the browser up to date.
    fn messages(&mut self, drawn: &Drawn) -> Vec<(&'static str, String)> {
        let mut messages = Vec::new();
        let ids: Vec<&'static str> = drawn.parts.iter().map(|part| part.id).collect();
        if ids != self.ids {
            messages.push(("page", json!({ "title": drawn.title, "parts": ids, "ahead": drawn.ahead }).to_string()));
            *self = Self { ids, parts: HashMap::new() };
        }
        for part in &drawn.parts {
            let mut hasher = DefaultHasher::new();
            part.html.hash(&mut hasher);
            let hash = hasher.finish();
            if self.parts.insert(part.id, hash) != Some(hash) {
                messages.push(("part", json!({ "id": part.id, "html": part.html }).to_string()));
            }
        }
        messages
    }
}

/// A followed page as server-sent events: `page` names the parts, `part` has the content of one. Ends when the process ends.
pub fn events(followed: Followed, stop: Stop) -> impl Stream<Item = Result<Event, std::convert::Infallible>> + Send {
    let state = (followed, stop, Sent::default(), Vec::<(&'static str, String)>::new(), true);
    stream::unfold(state, |(mut followed, mut stop, mut sent, mut queue, mut is_first)| async move {
        loop {
            if let Some((name, data)) = queue.pop() {
                let event = Event::default().event(name).data(data);
                return Some((Ok(event), (followed, stop, sent, queue, is_first)));
            }
            if !std::mem::take(&mut is_first) {
                tokio::select! {
                    () = stop_requested(&mut stop) => return None,
                    changed = followed.changed() => changed.ok()?,
                }
            }
            let drawn = Arc::clone(&followed.borrow_and_update());
            queue = sent.messages(&drawn);
            queue.reverse();
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pages::Part;

    fn drawn(parts: &[(&'static str, &str)]) -> Drawn {
        let parts = parts.iter().map(|(id, html)| Part { id, html: (*html).to_owned() }).collect();
        Drawn { title: "t".to_owned(), parts, logs: Vec::new(), ahead: 0 }
    }

    fn names(messages: &[(&'static str, String)]) -> Vec<String> {
        let id = |data: &str| serde_json::from_str::<serde_json::Value>(data).unwrap()["id"].as_str().unwrap_or("*").to_owned();
        messages.iter().map(|(name, data)| format!("{name} {}", id(data))).collect()
    }

    #[test]
    fn only_what_has_changed_is_sent() {
        let mut sent = Sent::default();
        assert_eq!(names(&sent.messages(&drawn(&[("a", "1"), ("b", "1")]))), ["page *", "part a", "part b"]);
        assert!(sent.messages(&drawn(&[("a", "1"), ("b", "1")])).is_empty());
        assert_eq!(names(&sent.messages(&drawn(&[("a", "1"), ("b", "2")]))), ["part b"]);
        assert_eq!(names(&sent.messages(&drawn(&[("error", "gone")]))), ["page *", "part error"]);
    }
}
