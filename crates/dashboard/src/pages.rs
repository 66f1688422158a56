//! The pages: what an address means, what is read for it, and its parts as HTML. Each file draws one of them from views alone.

mod cost;
mod now;
mod questions;
mod story;
mod test;
mod tests;
mod why;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use coord_db::{Config, Database, Decision, DecisionId, Error, Event, EventFilter, ReadTx, TestId, Timestamp};
use git::{CommitHash, Layout, Store};
use maud::{Markup, html};
use serde_json::Value;
use views::grid::State;
use views::history::History;
use views::published::Branch;

use crate::html::{badge, line, nothing};

/// A piece of a page that is sent when it changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Its id within the page.
    pub id: &'static str,
    /// What it shows.
    pub html: String,
}

impl Part {
    fn new(id: &'static str, html: Markup) -> Self {
        Self { id, html: html.into_string() }
    }
}

/// A page as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drawn {
    /// For the title of the window.
    pub title: String,
    /// From top to bottom.
    pub parts: Vec<Part>,
    /// Logs that grow and are shown.
    pub logs: Vec<PathBuf>,
    /// By how many milliseconds the times on it are ahead of this host's clock.
    pub ahead: i64,
}

/// What is shown.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Page {
    /// What happens now.
    Now,
    /// Questions to the human.
    Questions,
    /// All tests.
    Tests,
    /// One test.
    Test(TestId),
    /// What it costs.
    Cost,
    /// What happened.
    Story,
    /// What led to an event and what it led to.
    Why(String),
}

/// A page with what its address asks for beside it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address {
    /// The page.
    pub page: Page,
    /// The part of the address after `?`.
    pub options: BTreeMap<String, String>,
}

/// The newest events of a test that are searched.
const MAX_OF_TEST: usize = 2_000;
const MIN_WIDTH: u32 = 280;
const MAX_WIDTH: u32 = 1600;

impl Address {
    /// The page at a path; none if there is none.
    #[must_use]
    pub fn parse(path: &str, query: Option<&str>) -> Option<Self> {
        let mut parts = path.strip_prefix('/')?.split('/');
        let page = match (parts.next()?, parts.next(), parts.next()) {
            ("", None, None) => Page::Now,
            ("questions", None, None) => Page::Questions,
            ("tests", None, None) => Page::Tests,
            ("tests", Some(id), None) => Page::Test(id.parse().ok()?),
            ("cost", None, None) => Page::Cost,
            ("story", None, None) => Page::Story,
            ("why", Some(id), None) if !id.is_empty() && id.bytes().all(is_plain) => Page::Why(id.to_owned()),
            _ => return None,
        };
        let pair = |pair: &str| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decoded(name), decoded(value))
        };
        let options = query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()).map(pair);
        Some(Self { page, options: options.filter(|(_, value)| !value.is_empty()).collect() })
    }

    fn option(&self, name: &str) -> Option<&str> {
        self.options.get(name).map(String::as_str)
    }

    /// The width that there is for pictures.
    fn width(&self) -> u32 {
        self.option("width").and_then(|width| width.parse().ok()).unwrap_or(1000).clamp(MIN_WIDTH, MAX_WIDTH)
    }

    /// This address with one option more, as a link.
    fn with(&self, name: &str, value: &str) -> String {
        let mut options = self.options.clone();
        options.remove("width");
        options.insert(name.to_owned(), value.to_owned());
        let pairs = options.iter().filter(|(_, value)| !value.is_empty());
        let query: Vec<String> = pairs.map(|(name, value)| format!("{}={}", encoded(name), encoded(value))).collect();
        let path = self.path();
        if query.is_empty() { path } else { format!("{path}?{}", query.join("&")) }
    }

    /// The path of the page.
    #[must_use]
    pub fn path(&self) -> String {
        match &self.page {
            Page::Now => "/".to_owned(),
            Page::Questions => "/questions".to_owned(),
            Page::Tests => "/tests".to_owned(),
            Page::Test(id) => format!("/tests/{id}"),
            Page::Cost => "/cost".to_owned(),
            Page::Story => "/story".to_owned(),
            Page::Why(id) => format!("/why/{id}"),
        }
    }
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"._-".contains(&byte)
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, more @ ..] = rest {
        let hex = more.get(..2).and_then(|two| std::str::from_utf8(two).ok()).and_then(|two| u8::from_str_radix(two, 16).ok());
        (rest, _) = match (first, hex) {
            (b'%', Some(byte)) => (&more[2..], bytes.push(byte)),
            (b'+', _) => (more, bytes.push(b' ')),
            (other, _) => (more, bytes.push(*other)),
        };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn encoded(text: &str) -> String {
    text.bytes().map(|byte| if is_plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

/// What pages are drawn from beside the database.
#[derive(Debug, Clone, Copy)]
pub struct Surroundings<'a> {
    /// The settings.
    pub config: &'a Config,
    /// True if nothing can be changed.
    pub read_only: bool,
    /// The published branch, as it was seen last.
    pub published: Option<&'a Branch>,
}

/// Reads and draws a page. What cannot be read is a part that says so.
#[must_use]
pub fn draw(db: &Database, around: Surroundings<'_>, address: &Address) -> Drawn {
    let drawn = match &address.page {
        Page::Now => now(db, around, address),
        Page::Questions => db.read(|tx| {
            let open = views::questions::questions(tx, tx.decisions(true)?)?;
            let settled = views::questions::questions(tx, tx.settled_decisions(questions::MAX_SETTLED)?)?;
            let view = questions::View { open, settled, read_only: around.read_only };
            Ok(Drawn::of("Questions", head(tx, address, around)?, questions::parts(&view)))
        }),
        Page::Tests => db.read(|tx| {
            let only = address.option("state").and_then(|word| State::ALL.into_iter().find(|state| state.word() == word));
            let view = views::grid::look(tx)?;
            Ok(Drawn::of("Tests", head(tx, address, around)?, tests::parts(&view, only, address)))
        }),
        Page::Test(id) => one_test(db, around, address, id),
        Page::Cost => db.read(|tx| {
            let period = cost::Period::of(address.option("since"));
            let view = views::cost::look(tx, period.since(tx.now()), &around.config.budget)?;
            Ok(Drawn::of("Cost", head(tx, address, around)?, cost::parts(&view, period, address)))
        }),
        Page::Story => story(db, around, address),
        Page::Why(id) => why(db, around, address, id),
    };
    let drawn = drawn.unwrap_or_else(|error| Drawn {
        title: "Not shown".to_owned(),
        parts: vec![Part::new("error", html! { (nothing(&line(&process_host::exit::describe(&error)))) })],
        logs: Vec::new(),
        ahead: 0,
    });
    Drawn { ahead: db.ahead_of_host(), ..drawn }
}

/// What every page shows while there is no database, and why there is none.
#[must_use]
pub fn without_database(why: &str) -> Drawn {
    let body = html! {
        h2 { (badge("bad", "no database")) }
        p { (line(why)) }
        p.quiet { "Nothing is shown that may be old. The page goes on by itself once there is a database." }
    };
    Drawn { title: "No database".to_owned(), parts: vec![Part::new("error", body)], logs: Vec::new(), ahead: 0 }
}

impl Drawn {
    fn of(title: &str, head: Part, mut parts: Vec<Part>) -> Self {
        parts.insert(0, head);
        Self { title: title.to_owned(), parts, logs: Vec::new(), ahead: 0 }
    }
}

fn now(db: &Database, around: Surroundings<'_>, address: &Address) -> Result<Drawn, Error> {
    let database = db.path().unwrap_or(Path::new("."));
    db.read(|tx| {
        let overview = views::overview::look(tx, database, around.config, None, around.published.cloned())?;
        let period = now::Period::of(address.option("since"), &overview);
        let mut lanes = views::lanes::look(tx, period.since(overview.now))?;
        lanes.until = period.until(overview.now);
        if !period.is_chosen() {
            lanes = lanes.from_first_activity();
        }
        let view = now::View {
            lanes,
            train: views::train::look(tx, now::BATCHES)?,
            checks: tx.running_checks()?,
            spent: views::cost::spent(tx, &around.config.budget)?,
            overview,
            period,
            heartbeat: &around.config.heartbeat,
            read_only: around.read_only,
        };
        Ok(Drawn::of("Now", head(tx, address, around)?, now::parts(&view, address)))
    })
}

fn one_test(db: &Database, around: Surroundings<'_>, address: &Address, id: &TestId) -> Result<Drawn, Error> {
    let database = db.path().unwrap_or(Path::new("."));
    db.read(|tx| {
        let view = views::test::look_at_newest(tx, id, test::MAX_EVENTS + 1)?;
        let runs = tx.runs_of_test(id)?;
        let open = runs.iter().rev().find(|run| run.ended_at.is_none()).map(|run| views::runs::path_of(database, run));
        let live = open.as_deref().map(read_end);
        let parts = test::parts(&view, &runs, live.as_deref(), around.read_only);
        let mut drawn = Drawn::of(id.as_str(), head(tx, address, around)?, parts);
        drawn.logs.extend(open);
        Ok(drawn)
    })
}

/// The end of a log as it is now.
#[must_use]
pub fn read_end(path: &Path) -> String {
    use std::io::{Read, Seek, SeekFrom};
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = std::fs::File::open(path)?;
        let length = file.metadata()?.len();
        let max = crate::html::MAX_BLOCK as u64 * 2;
        file.seek(SeekFrom::Start(length.saturating_sub(max)))?;
        let mut bytes = Vec::new();
        file.take(max).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    read().map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

fn story(db: &Database, around: Surroundings<'_>, address: &Address) -> Result<Drawn, Error> {
    let option = |name: &str| address.option(name).map(str::to_owned);
    let millis = |name: &str| option(name).and_then(|text| text.parse().ok()).map(Timestamp::from_millis);
    let filter = EventFilter {
        until: millis("until"),
        source: option("loop"),
        event_type: option("type"),
        test_id: option("test"),
        correlation_id: option("story"),
        limit: Some(story::MAX_EVENTS),
        ..EventFilter::default()
    };
    let test = filter.test_id.as_deref().and_then(|id| id.parse::<TestId>().ok());
    let history = History::open(db);
    db.read(|tx| {
        let live = match &test {
            Some(test) => of_test(tx.events_of_test(test, MAX_OF_TEST)?, &filter),
            None => tx.events(&filter)?,
        };
        let events = history.events(live, &filter)?;
        let sources: Vec<String> = tx.loops()?.into_iter().map(|row| row.id.to_string()).collect();
        let view = story::View { events, sources, filter: &filter, missing: history.missing() };
        Ok(Drawn::of("Story", head(tx, address, around)?, story::parts(&view, address)))
    })
}

/// The newest of the events of a test that a filter lets through.
fn of_test(mut events: Vec<Event>, filter: &EventFilter) -> Vec<Event> {
    events.retain(|event| {
        filter.until.is_none_or(|until| event.timestamp <= until)
            && filter.source.as_ref().is_none_or(|source| *source == event.source)
            && filter.event_type.as_ref().is_none_or(|event_type| *event_type == event.event_type)
            && filter.correlation_id.as_ref().is_none_or(|story| event.correlation_id.as_ref() == Some(story))
    });
    events.drain(..events.len().saturating_sub(story::MAX_EVENTS as usize));
    events
}

fn why(db: &Database, around: Surroundings<'_>, address: &Address, id: &str) -> Result<Drawn, Error> {
    let history = History::open(db);
    db.read(|tx| {
        let event = match history.event(tx, id)? {
            Some(event) => Some(event),
            None => views::story::of_landing(tx, &history, id)?,
        };
        let event = event.ok_or_else(|| Error::NotFound { what: "event", id: id.to_owned() })?;
        let story = views::story::look(tx, &history, event)?;
        Ok(Drawn::of("Why", head(tx, address, around)?, why::parts(&story)))
    })
}

/// The commits or trees between which the difference of a question is, and its files; none where it has none.
fn fetched_difference(row: &Decision) -> Option<(Option<CommitHash>, CommitHash, Vec<PathBuf>)> {
    let hash = |key: &str| row.context.get(key).and_then(Value::as_str).and_then(|text| CommitHash::new(text).ok());
    let paths = |key: &str| {
        let items = row.context.get(key).and_then(Value::as_array).into_iter().flatten();
        items.filter_map(Value::as_str).map(PathBuf::from).collect::<Vec<_>>()
    };
    // Commits of the user's that are to come in, a branch that somebody else moved, or work to be approved.
    if let Some(theirs) = hash("theirs") {
        return Some((hash("base"), theirs, Vec::new()));
    }
    if let Some(found) = hash("found") {
        return Some((hash("last"), found, Vec::new()));
    }
    let files: Vec<PathBuf> = ["files", "large", "secrets"].into_iter().flat_map(paths).collect();
    if files.is_empty() { None } else { hash("tree").map(|tree| (None, tree, files)) }
}

/// The difference between two commits or trees of the store, in these files or all.
fn difference(
    store: git::Result<Store>,
    files: &[PathBuf],
    between: impl FnOnce(&Store) -> git::Result<(CommitHash, CommitHash)>,
) -> Markup {
    let read = || {
        let store = store?;
        let (from, to) = between(&store)?;
        let patch = store.repository().patch_beginning(&from, &to, files, crate::html::MAX_PATCH + 1)?;
        Ok((patch, format!("git -C {} diff {from} {to}", store.path().display())))
    };
    match read() {
        Ok((patch, whole)) => crate::html::patch(&patch, &whole),
        Err::<_, git::Error>(error) => nothing(&line(&format!("git cannot show the difference: {error}"))),
    }
}

/// A piece of a page that is fetched when it is opened; none if there is none at this path.
///
/// # Errors
/// What the database reports.
pub fn fetched(db: &Database, config: &Config, path: &str) -> Result<Option<Markup>, Error> {
    let open = || Layout::new(config.workspace_root()).open_store();
    Ok(match path.split_once('/') {
        Some(("commit", hash)) => CommitHash::new(hash).ok().map(|commit| {
            difference(open(), &[], |store| {
                let parent = store.repository().resolve(&format!("{commit}^"))?;
                Ok((parent.unwrap_or_else(|| commit.clone()), commit))
            })
        }),
        // All that it has beside what has landed: saved work may be on commits of the agent.
        Some(("work", hash)) => CommitHash::new(hash).ok().map(|commit| {
            difference(open(), &[], |store| {
                let landed = store.integration()?;
                let common = landed.map(|landed| store.repository().merge_base(&landed, &commit)).transpose()?.flatten();
                Ok((common.unwrap_or_else(|| commit.clone()), commit))
            })
        }),
        Some(("question", id)) => {
            let id: DecisionId = id.parse()?;
            let row = db.read(|tx| tx.decision(&id))?;
            fetched_difference(&row).map(|(from, to, files)| {
                difference(open(), &files, |store| {
                    let from = match from {
                        Some(from) => Some(from),
                        None if files.is_empty() => store.repository().resolve(&format!("{to}^"))?,
                        None => store.integration()?,
                    };
                    Ok((from.unwrap_or_else(|| to.clone()), to))
                })
            })
        }
        Some(("log", id)) => db.read(|tx| tx.run(id))?.map(|run| {
            let output = read_end(&views::runs::path_of(db.path().unwrap_or(Path::new(".")), &run));
            html! {
                @if output.is_empty() { (nothing("The log is empty, or was removed.")) }
                @else { pre tabindex="0" { (crate::html::block_end(&output)) } }
            }
        }),
        _ => None,
    })
}

/// The navigation, with what waits for the human.
fn head(tx: &ReadTx<'_>, address: &Address, around: Surroundings<'_>) -> Result<Part, Error> {
    let open = views::questions::questions(tx, tx.decisions(true)?)?;
    let unanswered = open.iter().filter(|question| question.answered.is_none()).count();
    let links = [
        ("/", "Now", address.page == Page::Now),
        ("/questions", "Questions", address.page == Page::Questions),
        ("/tests", "Tests", matches!(address.page, Page::Tests | Page::Test(_))),
        ("/cost", "Cost", address.page == Page::Cost),
        ("/story", "Story", matches!(address.page, Page::Story | Page::Why(_))),
    ];
    let repository = around.config.repository_path();
    let repository = repository.canonicalize().unwrap_or(repository);
    let name = repository.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    Ok(Part::new(
        "head",
        html! {
            p.where title=(line(&repository.display().to_string())) {
                (line(&name)) @if around.read_only { " " span.quiet { "read-only" } }
            }
            nav aria-label="Views" {
                @for (path, name, is_current) in links {
                    a href=(path) aria-current=[is_current.then_some("page")] {
                        (name)
                        @if name == "Questions" && unanswered > 0 { " " span.count title="open questions" { (unanswered) } }
                    }
                }
            }
            p #connection aria-live="polite" {}
        },
    ))
}

/// A part with its heading.
fn section(heading: &str, body: Markup) -> Markup {
    html! { h2 { (heading) } (body) }
}

#[cfg(test)]
mod unit_tests {
    use super::*;

    #[test]
    fn addresses_are_pages_or_nothing() {
        let page = |path: &str| Address::parse(path, None).map(|address| address.page);
        assert_eq!(page("/"), Some(Page::Now));
        assert_eq!(page("/tests/api-01"), Some(Page::Test("api-01".parse().unwrap())));
        assert_eq!(page("/why/01a2"), Some(Page::Why("01a2".to_owned())));
        for none in ["", "/x", "/tests/", "/tests/a/b", "/tests/../x", "/why/", "/why/a%2fb", "//", "/questions/"] {
            assert_eq!(page(none), None, "{none}");
        }
    }

    #[test]
    fn options_are_decoded_and_written_again() {
        let address = Address::parse("/story", Some("loop=a%20b&type=&width=390&x=%zz%e4+")).unwrap();
        assert_eq!((address.option("loop"), address.option("type"), address.width()), (Some("a b"), None, 390));
        assert_eq!(address.option("x"), Some("%zz\u{fffd} "));
        let address = Address::parse("/story", Some("loop=a%20b&width=9")).unwrap();
        assert_eq!(address.width(), MIN_WIDTH);
        assert_eq!(address.with("type", "<é>"), "/story?loop=a%20b&type=%3C%C3%A9%3E");
        assert_eq!(address.with("loop", ""), "/story");
    }
}
