//! `loopctl web` as a process: who is answered, what is shown and changed, and what it costs.

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use system_tests::night::Night;
use system_tests::processes::World;
use system_tests::web::Web;
use test_support::sql;

const PAGES: [&str; 6] = ["/", "/questions", "/tests", "/tests/backend-01-parser", "/cost", "/story"];

fn night(size: Night) -> World {
    let world = World::new();
    sql(&world.path(), &size.sql());
    world
}

#[test]
fn forged_requests_get_nothing_and_the_shell_has_no_data() {
    let world = night(Night::SMALL);
    let web = Web::start(&world, &[]);
    let (host, token) = (web.authority.as_str(), web.token.as_str());
    let port = host.rsplit(':').next().unwrap();
    for path in ["/", "/tests/backend-01-parser", "/page.js", "/page.css"] {
        let shell = web.send(&format!("GET {path}"), &[("Host", host)], "");
        assert_eq!(shell.status, 200, "{path}");
        assert!(!shell.body.contains("backend") && !shell.body.contains(token), "{path} has data");
        for header in [
            "content-security-policy: default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self';",
            "x-content-type-options: nosniff",
            "referrer-policy: no-referrer",
            "cache-control: no-store",
        ] {
            assert!(shell.head.contains(header), "{path}: {}", shell.head);
        }
        assert!(!shell.head.contains("set-cookie") && !shell.head.contains("access-control"));
    }
    let rebound = format!("rebound.example:{port}");
    let refused = |line: &str, headers: &[(&str, &str)], status: u16| {
        let answer = web.send(line, headers, "{\"loop\": \"backend\"}");
        assert_eq!(answer.status, status, "{line} {headers:?}");
        assert!(!answer.body.contains("backend"), "{line}: {}", answer.body);
        assert!(answer.head.contains("content-security-policy"));
    };
    for path in ["/", "/page.js", "/live/", "/part/log/agent-x"] {
        refused(&format!("GET {path}"), &[("Host", &rebound), ("X-Coding-Loops-Token", token)], 421);
        refused(&format!("GET {path}"), &[("Host", "127.0.0.1:1"), ("X-Coding-Loops-Token", token)], 421);
        refused(&format!("GET {path}"), &[("Host", host), ("Host", host), ("X-Coding-Loops-Token", token)], 421);
        let foreign = [("Host", host), ("Origin", "http://evil.example"), ("X-Coding-Loops-Token", token)];
        refused(&format!("GET {path}"), &foreign, 403);
    }
    for path in ["/live/", "/live/tests", "/part/log/agent-x", "/do/pause", "/anything"] {
        refused(&format!("GET {path}"), &[("Host", host)], 401);
        refused(&format!("GET {path}?token={token}"), &[("Host", host), ("Cookie", &format!("token={token}"))], 401);
        let wrong = token.replace(|digit: char| digit.is_ascii_digit(), "0");
        refused(&format!("GET {path}"), &[("Host", host), ("X-Coding-Loops-Token", &wrong)], 401);
    }
    let origin = format!("http://{host}");
    let json = ("Content-Type", "application/json");
    refused("POST /do/pause", &[("Host", host), ("X-Coding-Loops-Token", token), json], 403);
    refused("POST /do/pause", &[("Host", host), ("Origin", "null"), ("X-Coding-Loops-Token", token), json], 403);
    refused("POST /do/pause", &[("Host", host), ("Origin", &origin), json], 401);
    refused("POST /do/pause", &[("Host", host), ("Origin", &origin), ("X-Coding-Loops-Token", token)], 415);
    assert_eq!(world.sql("SELECT count(*) FROM events WHERE event_type = 'pause_requested'").unwrap(), "0");
    assert!(web.process.terminate().success());
}

#[test]
fn what_is_changed_is_changed_as_by_loopctl() {
    let world = night(Night::SMALL);
    let web = Web::start(&world, &["--listen", "[::1]:0"]);
    let mut stream = web.follow("/questions");
    stream.until("question-1");
    let several =
        r#"{"answers": [{"id": "question-1", "option": "retry"}, {"id": "question-2", "option": "accept", "comment": "yes"}]}"#;
    let with_a_wrong_one = several.replace("accept", "no such option");
    assert_eq!(web.post("/do/answer", &with_a_wrong_one).status, 400);
    let count = "SELECT count(*) FROM events WHERE event_type = 'human_message'";
    assert_eq!(world.sql(count).unwrap(), "0", "all of them or none");
    let answer = web.post("/do/answer", several);
    assert!(answer.status == 200 && answer.body.contains("2 questions are answered"), "{}", answer.body);
    stream.until("Answered with accept");
    assert_eq!(world.sql(count).unwrap(), "2");
    assert_eq!(web.post("/do/answer", several).status, 409, "the first answer counts");

    assert_eq!(web.post("/do/pause", r#"{"loop": "backend"}"#).status, 200);
    assert_eq!(world.sql("SELECT status FROM loops WHERE id = 'backend'").unwrap(), "paused");
    assert_eq!(world.sql("SELECT count(*) FROM file_locks WHERE locked_by = 'backend'").unwrap(), "0");
    assert_eq!(web.post("/do/resume", r#"{"loop": "backend"}"#).status, 200);
    assert_eq!(world.sql("SELECT status FROM loops WHERE id = 'backend'").unwrap(), "running");
    assert_eq!(web.post("/do/skip", r#"{"test": "backend-10-totals"}"#).status, 200);
    assert_eq!(web.post("/do/reset", r#"{"test": "backend-12-login-form"}"#).status, 200);
    assert_eq!(web.post("/do/reset", r#"{"test": "backend-01-parser"}"#).status, 409, "it has passed");
    assert_eq!(web.post("/do/pause", r#"{"loop": "nobody"}"#).status, 404);
    let statuses = "SELECT group_concat(status) FROM tests WHERE id IN ('backend-10-totals', 'backend-12-login-form')";
    assert_eq!(world.sql(statuses).unwrap(), "skipped,pending");
    assert_eq!(web.post("/do/seen", r#"{"alert": "alert-1"}"#).status, 200);
    assert_eq!(world.sql("SELECT acknowledged_by FROM alerts WHERE id = 'alert-1'").unwrap(), "human");
    assert_eq!(web.post("/do/skip", &"x".repeat(100_000)).status, 413);
}

#[test]
fn nothing_is_changed_where_it_is_read_only() {
    let world = night(Night::SMALL);
    let web = Web::start(&world, &["--read-only"]);
    let before = world.sql("SELECT count(*), max(rowid) FROM events").unwrap();
    for (action, body) in [
        ("answer", r#"{"answers": [{"id": "question-1", "option": "retry"}]}"#),
        ("pause", r#"{"loop": "backend"}"#),
        ("resume", r#"{"loop": "billing"}"#),
        ("skip", r#"{"test": "backend-10-totals"}"#),
        ("reset", r#"{"test": "backend-12-login-form"}"#),
        ("seen", r#"{"alert": "alert-1"}"#),
        ("anything", "{}"),
    ] {
        let answer = web.post(&format!("/do/{action}"), body);
        assert!(answer.status == 403 && answer.body.contains("read-only"), "{action}: {}", answer.body);
    }
    let page = web.follow("/questions").until(r#""id":"settled""#);
    assert!(page.contains("question-1") && !page.contains("data-answer") && !page.contains("<button"), "{page}");
    assert_eq!(world.sql("SELECT count(*), max(rowid) FROM events").unwrap(), before);
}

#[test]
fn hostile_rows_are_short_text() {
    let world = night(Night::SMALL);
    let web = Web::start(&world, &[]);
    for (path, last) in [
        ("/", "watch"),
        ("/questions", "settled"),
        ("/tests", "grid"),
        ("/tests/hostile-test", "events"),
        ("/story", "story"),
        ("/story?loop=%3Cb%3E&type=%22%3E%3Cscript%3E", "story"),
        ("/why/hostile-1", "why"),
        ("/why/hostile-2", "why"),
    ] {
        let mut stream = web.follow(path);
        let mut page = stream.until(&format!(r#""id":"{last}""#));
        page.push_str(&stream.until("\n\n"));
        for markup in ["<script", "<img", "<b>source", "onerror=\\\""] {
            assert!(!page.contains(markup), "{path} has {markup}");
        }
        // A control character would be escaped once, by JSON; text that looks like one is escaped twice.
        assert!(!page.contains('\u{202e}') && !page.replace("\\\\u001b", "").contains("\\u001b"), "{path}");
        assert!(page.len() < 200_000, "{path}: {} bytes", page.len());
    }
    let other = web.get("/live/no-such-page");
    assert_eq!(other.status, 404);
}

#[test]
fn an_event_of_another_program_is_seen_and_what_is_idle_is_not_read() {
    let world = night(Night::SMALL);
    let web = Web::start(&world, &[]);
    let mut stories = [web.follow("/story"), web.follow("/story?width=390")];
    for stream in &mut stories {
        stream.until(r#""id":"story""#);
    }
    let commit = |n: usize| {
        let insert = format!("INSERT INTO events (id, source, event_type) VALUES ('new-{n}', 'human', 'custom.new-{n}-')");
        sql(&world.path(), &insert);
        Instant::now()
    };
    for n in 0..5 {
        let committed = commit(n);
        for stream in &mut stories {
            stream.until(&format!("new-{n}-"));
        }
        println!("event {n} seen after {:?}", committed.elapsed());
    }
    // The stream is kept alive by a comment: a time in which nothing else happens. What the last event left to do ends with the first.
    stories[0].until("\n:\n");
    let read = || {
        let io = std::fs::read_to_string(format!("/proc/{}/io", web.process.pid())).unwrap();
        io.lines().find_map(|line| line.strip_prefix("rchar: ")?.parse::<u64>().ok()).unwrap()
    };
    let updates = || std::fs::read_to_string(world.folder().join("web.log")).unwrap().matches("drawn").count();
    let before = (read(), updates());
    stories[0].until("\n:\n");
    assert_eq!(updates(), before.1, "nothing is drawn while nothing happens");
    let bytes = read() - before.0;
    assert!(bytes < 2_000, "{bytes} bytes were read while nothing happened");
    commit(9);
    stories[1].until("new-9-");
}

#[test]
fn it_ends_at_once_with_its_streams_and_leaves_nothing() {
    let world = night(Night::SMALL);
    let web = Web::start(&world, &[]);
    let streams: Vec<_> = PAGES.iter().map(|page| web.follow(page)).collect();
    let half = std::net::TcpStream::connect(&web.authority).unwrap();
    let (authority, pid) = (web.authority.clone(), web.process.pid());
    assert_eq!(web.process.terminate().code(), Some(0));
    streams.into_iter().for_each(|stream| stream.end());
    drop(half);
    assert!(!test_support::is_alive(pid) && std::net::TcpStream::connect(&authority).is_err());

    let socket = world.folder().join("web.sock");
    let web = Web::start(&world, &["--socket", &socket.to_string_lossy()]);
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    let refused = |why: &str| {
        let second = world.loopctl(&["web", "--url", "--socket", &socket.to_string_lossy()]);
        let error = String::from_utf8_lossy(&second.stderr).into_owned();
        assert!(second.status.code() == Some(1) && error.contains(why), "{error}");
    };
    refused("another loopctl web listens on");
    assert!(std::os::unix::net::UnixStream::connect(&socket).is_ok());
    assert_eq!(web.process.terminate().code(), Some(0));
    assert!(!socket.exists());
    // What a killed process leaves is in nobody's way.
    Web::start(&world, &["--socket", &socket.to_string_lossy()]).process.kill();
    assert!(socket.exists());
    let web = Web::start(&world, &["--socket", &socket.to_string_lossy()]);
    assert!(std::os::unix::net::UnixStream::connect(&socket).is_ok());
    assert_eq!(web.process.terminate().code(), Some(0));
    // Whatever else is there stays.
    std::fs::write(&socket, "notes").unwrap();
    refused("is no socket");
    assert_eq!(std::fs::read_to_string(&socket).unwrap(), "notes");
}

#[test]
fn a_database_that_is_moved_away_or_replaced_is_not_shown_any_longer() {
    let world = night(Night::SMALL);
    let moved = |from: &std::path::Path, to: &std::path::Path| {
        for end in ["", "-wal", "-shm"] {
            let named = |path: &std::path::Path| format!("{}{end}", path.display());
            // A database that nobody has open has no other files.
            let _ = std::fs::rename(named(from), named(to));
        }
    };
    let (path, aside) = (world.path(), world.folder().join("aside.db"));
    let web = Web::start(&world, &[]);
    let mut tests = web.follow("/tests");
    tests.until("backend-01-parser");
    moved(&path, &aside);
    tests.until("was moved or deleted while this page was open; put it back");
    let page = web.follow("/").until("put it back");
    assert!(!page.contains("backend"), "{page}");
    let answer = web.get("/part/log/agent-x");
    assert!(answer.status == 500 && answer.body.contains("no database"), "{}", answer.body);

    // What comes to its place is shown, and followed.
    let other = World::new();
    sql(&other.path(), "INSERT INTO loops (id) VALUES ('other'); INSERT INTO tests (id, loop_id) VALUES ('other-01', 'other')");
    moved(&other.path(), &path);
    tests.until("other-01");
    sql(&path, "INSERT INTO tests (id, loop_id) VALUES ('other-02', 'other')");
    tests.until("other-02");

    // One that is replaced at once, without a moment in which there is none.
    drop(std::fs::rename(path.with_extension("db-wal"), world.folder().join("other-wal")));
    drop(std::fs::rename(path.with_extension("db-shm"), world.folder().join("other-shm")));
    moved(&aside, &path);
    tests.until("backend-01-parser");
}

#[test]
fn a_test_names_who_mended_it_and_shows_its_work_before_it_lands() {
    let world = night(Night::SMALL);
    let web = Web::start(&world, &[]);
    let page = web.follow("/tests/backend-01-parser").until(r#""id":"events""#);
    let text = page.replace("\\\"", "\"");
    for part in [r#"Mended by <b>database</b> with <a class="id" href="/tests/database-02-login-form">"#, "/why/5e1d2c3b4a59"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!text.contains("91d07be52f6a"), "the head at which it was seen is not what mended it");

    let world = World::new();
    for arguments in [&["loop", "add", "a"][..], &["test", "add", "t", "--loop", "a"], &["next", "--loop", "a"]] {
        assert!(world.loopctl(arguments).status.success());
    }
    let web = Web::start(&world, &[]);
    let mut stream = web.follow("/tests/t");
    let before = stream.until(r#""id":"events""#);
    assert!(!before.contains("/part/work/"), "nothing is saved yet: {before}");
    let workspace = world.repository().parent().unwrap().join("repository-loops/loops/a");
    std::fs::write(workspace.join("large.txt"), "a line <b>of many</b>\n".repeat(8_000)).unwrap();
    assert!(world.loopctl(&["rollback", "a"]).status.success());
    let after = stream.until("/part/work/");
    let hash: String = stream.until("The difference").chars().take_while(char::is_ascii_hexdigit).collect();
    assert_eq!(hash.len(), 40, "{after}");
    let shown = web.get(&format!("/part/work/{hash}"));
    assert_eq!(shown.status, 200);
    for part in ["+a line &lt;b&gt;of many", "It is longer. All of it: <code>git -C ", &format!(" {hash}</code>")] {
        assert!(shown.body.contains(part), "{part}: {} bytes", shown.body.len());
    }
    assert!(shown.body.len() < 600_000 && !shown.body.contains("<b>of"), "{} bytes", shown.body.len());
    assert!(web.get(&format!("/part/work/{}", "0".repeat(40))).body.contains("git cannot show the difference"));
    assert_eq!(web.get("/part/work/--all").status, 404);
}

#[test]
fn the_first_page_tells_what_it_cost_and_what_is_left() {
    let world = night(Night::SMALL);
    let spent = |settings: &str| {
        world.settings(settings);
        let web = Web::start(&world, &[]);
        web.follow("/").until(r#""id":"lanes""#)
    };
    let page = spent("[budget]\ntokens_per_day = 1000000000\nusd_per_day = 0.01\n");
    for part in [
        "Cost so far: ",
        " of 1\u{202f}000\u{202f}000\u{202f}000 tokens",
        "$0.00 of $0.0100",
        "claude is at a limit, goes on in",
    ] {
        assert!(page.contains(part), "{part}: {page}");
    }
    assert!(spent("[budget]\ntests_per_day = 0\ntokens_per_day = 0\n").contains("no budget for a day is set"));
}

#[test]
fn an_address_that_others_can_reach_is_refused() {
    let world = World::new();
    for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:8080"] {
        let output = world.loopctl(&["web", "--url", "--listen", address]);
        assert_eq!(output.status.code(), Some(2), "{address}");
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(error.contains("tunnel") && output.stdout.is_empty(), "{error}");
    }
}

/// The longest that an update may take in a release build.
const MAX_UPDATE: Duration = Duration::from_millis(50);

#[test]
fn a_large_night_is_drawn_quickly_in_constant_memory() {
    let world = night(Night::LARGE);
    let web = Web::start(&world, &[]);
    let mut streams: Vec<_> = PAGES.iter().map(|page| web.follow(page)).collect();
    for stream in &mut streams {
        stream.until(r#""id":"head""#);
    }
    let resident = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", web.process.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap().to_owned();
        line.split_whitespace().next().unwrap().parse::<u64>().unwrap()
    };
    let story = PAGES.iter().position(|page| *page == "/story").unwrap();
    let mut settled = 0;
    for n in 0..120 {
        let insert = format!("INSERT INTO events (id, source, event_type) VALUES ('new-{n}', 'human', 'custom.new-{n}-')");
        sql(&world.path(), &insert);
        streams[story].until(&format!("new-{n}-"));
        if n == 40 {
            settled = resident();
        }
    }
    let log = std::fs::read_to_string(world.folder().join("web.log")).unwrap();
    let took = |page: &str| -> Vec<f64> {
        let of_page = log.lines().filter(|line| line.contains(&format!("page=\"{page}\" ")));
        of_page.filter_map(|line| line.split("ms=").nth(1)?.split_whitespace().next()?.parse().ok()).collect()
    };
    for page in PAGES {
        let mut all = took(page);
        all.sort_by(f64::total_cmp);
        let median = all.get(all.len() / 2).copied().unwrap_or_default();
        println!("{page}: {} updates, {median:.1} ms", all.len());
        assert!(!all.is_empty());
        assert!(cfg!(debug_assertions) || median < MAX_UPDATE.as_secs_f64() * 1000.0, "{page}: {median} ms");
    }
    let now = resident();
    println!("{settled} KB after 40 events, {now} KB after 120");
    assert!(now < settled + settled / 5 + 4_000, "{settled} KB became {now} KB");
}
