//! Presets for the phone, against local servers that speak the same protocols: what is sent, and answers that come back.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use test_support::{wait_for, wait_until};

use crate::common::World;

const KEY: &str = "tk_secret";

/// A request that came.
#[derive(Clone, Debug)]
struct Came {
    path: String,
    head: String,
    body: String,
}

/// A server that notes each request and answers it with what a function says: status and body. A body without an end stays open
/// for a second, as a stream does.
struct Server {
    address: String,
    came: Arc<Mutex<Vec<Came>>>,
}

impl Server {
    fn start(answer: impl Fn(&Came) -> (u16, String) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let (came, answer) = (Arc::new(Mutex::new(Vec::new())), Arc::new(answer));
        let noted = Arc::clone(&came);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (noted, answer) = (Arc::clone(&noted), Arc::clone(&answer));
                std::thread::spawn(move || serve(stream, &noted, &*answer));
            }
        });
        Self { address, came }
    }

    fn requests(&self, part: &str) -> Vec<Came> {
        self.came.lock().unwrap().iter().filter(|came| came.path.contains(part)).cloned().collect()
    }
}

fn serve(stream: TcpStream, noted: &Mutex<Vec<Came>>, answer: &dyn Fn(&Came) -> (u16, String)) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let (mut line, mut head) = (String::new(), String::new());
    if reader.read_line(&mut line).unwrap_or(0) == 0 {
        return;
    }
    loop {
        let mut header = String::new();
        if reader.read_line(&mut header).unwrap_or(0) == 0 || header == "\r\n" {
            break;
        }
        head.push_str(&header);
    }
    let length =
        head.to_ascii_lowercase().lines().find_map(|header| header.strip_prefix("content-length: ")?.trim().parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body).unwrap();
    let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
    let came = Came { path, head, body: String::from_utf8_lossy(&body).into_owned() };
    let (status, text) = answer(&came);
    noted.lock().unwrap().push(came.clone());
    let mut stream = stream;
    // A service that waits for something to tell answers later, or when it is not listened to any more.
    let listened = |mut stream: &TcpStream, time: Duration| {
        stream.set_read_timeout(Some(time)).unwrap();
        let _ = stream.read(&mut [0]);
    };
    if text.contains("\"result\":[]") && came.path.ends_with("/getUpdates") {
        listened(&stream, Duration::from_millis(50));
    }
    let _ = write!(stream, "HTTP/1.1 {status} x\r\nConnection: close\r\n\r\n{text}");
    let _ = stream.flush();
    if came.path.contains("/json?since") {
        listened(&stream, Duration::from_secs(1));
    }
}

const QUESTION: &str = r#"
    INSERT INTO decisions(id, decision_type, summary, options, default_option, context) VALUES
    ('01a20887-a7a2-779d-8fa1-f77fbf3dff63', 'blocked', 'which "one"?', '[{"id":"retry","description":"again"},{"id":"skip","description":"never"}]',
     'retry', '{"test_id":"t","output":"private code"}');"#;

fn world(server: &Server, settings: &str) -> World {
    let world = World::filled(QUESTION);
    let token = world.folder().join("token");
    std::fs::write(&token, format!("{KEY}\n")).unwrap();
    std::fs::set_permissions(&token, std::fs::Permissions::from_mode(0o600)).unwrap();
    world.configure(&format!("[notify]\nserver = \"{}\"\ntoken_file = \"token\"\n{settings}", server.address));
    world
}

fn choice(world: &World) -> String {
    world.sql("SELECT coalesce(status || ':' || choice || ':' || decided_by, status) FROM decisions")
}

#[test]
fn ntfy_asks_with_buttons_and_a_press_answers() {
    let pressed: Arc<Mutex<Option<String>>> = Arc::default();
    let given = Arc::clone(&pressed);
    let server = Server::start(move |came| match came.path.as_str() {
        path if path.ends_with("/auth") => (403, String::new()),
        path if path.contains("/json?since=") => {
            let message = |text: &str| json!({"id": "m1", "event": "message", "message": text}).to_string();
            let text = given.lock().unwrap().take();
            (200, text.map(|text| format!("{}\n{}\n", message("coding-loops-answer 00"), message(&text))).unwrap_or_default())
        }
        _ => (200, "{}".to_owned()),
    });
    let world = world(&server, "preset = \"ntfy\"\ntopic = \"night\"\n");
    let daemon = world.daemon();
    let sent = wait_for("the question", || server.requests("/").into_iter().find(|came| came.path == "/"));
    assert!(sent.head.contains(&format!("Authorization: Bearer {KEY}")), "{}", sent.head);
    let message: Value = serde_json::from_str(&sent.body).unwrap();
    assert_eq!((&message["topic"], &message["title"]), (&"night".into(), &"question: blocked, t".into()));
    let text = message["message"].as_str().unwrap();
    assert!(text.contains("which \"one\"?\nretry: again\nskip: never") && !text.contains("private"), "{text}");
    let button = &message["actions"][1];
    assert_eq!((&button["label"], &button["method"]), (&"skip".into(), &"POST".into()));
    assert_eq!(button["url"], format!("{}/night-answers", server.address));
    *pressed.lock().unwrap() = Some(button["body"].as_str().unwrap().to_owned());
    wait_until("the answer is applied", || choice(&world) == "decided:skip:human");
    assert_eq!(world.sql("SELECT payload ->> '$.source' FROM events WHERE event_type = 'human_message'"), "ntfy");
    daemon.terminate();
    world.settled();
}

#[test]
fn a_topic_that_everybody_reads_gets_questions_without_buttons() {
    let server = Server::start(|_| (200, "{}".to_owned()));
    let world = world(&server, "preset = \"ntfy\"\ntopic = \"night\"\ncontent = []\n");
    world.once();
    let sent = server.requests("/").into_iter().find(|came| came.path == "/").unwrap();
    let message: Value = serde_json::from_str(&sent.body).unwrap();
    assert_eq!(message["actions"], json!([]));
    assert_eq!(message["message"], "loopctl decide bf3dff63");
    assert!(server.requests("json").is_empty(), "one pass does not listen");
    world.settled();
}

/// A server that speaks as Telegram does, and the presses of buttons that it reports next.
fn telegram() -> (Server, Arc<Mutex<Vec<Value>>>) {
    let presses: Arc<Mutex<Vec<Value>>> = Arc::default();
    let given = Arc::clone(&presses);
    let server = Server::start(move |came| {
        let result = if came.path.ends_with("/getUpdates") { std::mem::take(&mut *given.lock().unwrap()) } else { Vec::new() };
        (200, json!({"ok": true, "result": result}).to_string())
    });
    (server, presses)
}

#[test]
fn telegram_asks_in_one_chat_and_hears_only_that_chat() {
    let (server, presses) = telegram();
    let world = world(&server, "preset = \"telegram\"\nchat = \"7\"\n");
    let daemon = world.daemon();
    let sent = wait_for("the question", || server.requests("/sendMessage").into_iter().next());
    assert_eq!(sent.path, format!("/bot{KEY}/sendMessage"));
    let message: Value = serde_json::from_str(&sent.body).unwrap();
    let button = |at: usize| message["reply_markup"]["inline_keyboard"][at][0].clone();
    assert_eq!((&message["chat_id"], &button(0)["text"], &button(1)["text"]), (&"7".into(), &"retry".into(), &"skip".into()));
    let press = |update: i64, chat: i64, data: &Value| json!({"update_id": update, "callback_query": {"id": format!("q{update}"), "data": data, "message": {"chat": {"id": chat}}}});
    // Of another chat, with a made-up token, the real one, and a second thought.
    *presses.lock().unwrap() = vec![
        press(1, 8, &button(0)["callback_data"]),
        press(2, 7, &json!("0123")),
        press(3, 7, &button(1)["callback_data"]),
        press(4, 7, &button(0)["callback_data"]),
    ];
    wait_until("the answer is applied", || choice(&world) == "decided:skip:human");
    wait_until("the presses are confirmed", || server.requests("/answerCallbackQuery").len() == 3);
    let texts: Vec<Value> = server
        .requests("/answerCallbackQuery")
        .iter()
        .map(|came| serde_json::from_str::<Value>(&came.body).unwrap()["text"].clone())
        .collect();
    assert_eq!(texts[..2], ["the question is not open any more", "answered: skip"]);
    daemon.terminate();
    world.settled();
}

#[test]
fn what_cannot_be_sent_is_reported_without_the_token() {
    let server = Server::start(|_| (500, "out of order".to_owned()));
    let world = world(&server, "preset = \"telegram\"\nchat = \"7\"\n");
    let said = world.once();
    assert!(said.contains("answers with status 500") && !said.contains(KEY), "{said}");
    std::fs::set_permissions(world.folder().join("token"), std::fs::Permissions::from_mode(0o644)).unwrap();
    world.sql("INSERT INTO decisions(id, decision_type, summary, options) VALUES ('second', 'x', 's', '[\"yes\"]')");
    let said = world.once();
    assert!(said.contains("chmod 600"), "{said}");
}

#[test]
fn a_service_that_is_out_of_order_gets_the_question_later() {
    let tries = Arc::new(Mutex::new(0));
    let counted = Arc::clone(&tries);
    let server = Server::start(move |came| {
        if !came.path.ends_with("/sendMessage") {
            return (200, json!({"ok": true, "result": []}).to_string());
        }
        let mut tries = counted.lock().unwrap();
        *tries += 1;
        if *tries == 1 { (503, String::new()) } else { (200, "{}".to_owned()) }
    });
    let world = world(&server, "preset = \"telegram\"\nchat = \"7\"\n");
    let daemon = world.daemon();
    wait_until("the question is sent again", || *tries.lock().unwrap() == 2);
    wait_until("that is recorded", || {
        world.sql("SELECT status FROM transaction_log WHERE operation = 'notify'") == "committed"
    });
    daemon.terminate();
}

#[test]
fn an_answer_that_comes_again_changes_nothing() {
    let (server, presses) = telegram();
    let world = world(&server, "preset = \"telegram\"\nchat = \"7\"\n");
    let daemon = world.daemon();
    let sent = wait_for("the question", || server.requests("/sendMessage").into_iter().next());
    let message: Value = serde_json::from_str(&sent.body).unwrap();
    let token = &message["reply_markup"]["inline_keyboard"][1][0]["callback_data"];
    let press = |chat: &str| {
        // The same number as text, or beside the chat of the message, is no chat.
        let chat: Value = serde_json::from_str(chat).unwrap();
        json!({"update_id": 1, "callback_query": {"id": "q", "data": token, "chat": {"id": 7}, "from": {"id": 7}, "message": {"chat": chat}}})
    };
    let count = || server.requests("/answerCallbackQuery").len();
    *presses.lock().unwrap() = [r#"{"id": "7"}"#, r#"{"id": -7}"#, r#"{"id": 7.5}"#, "{}"].map(press).to_vec();
    wait_until("they are taken", || presses.lock().unwrap().is_empty());
    *presses.lock().unwrap() = vec![press(r#"{"id": 7}"#)];
    wait_until("the answer is applied", || choice(&world) == "decided:skip:human");
    wait_until("only that one is confirmed", || count() == 1);
    daemon.terminate();
    // The next process asks from the beginning, and the service tells the same again.
    world.sql("INSERT INTO decisions(id, decision_type, summary, options) VALUES ('second', 'x', 's', '[\"retry\",\"skip\"]')");
    *presses.lock().unwrap() = vec![press(r#"{"id": 7}"#)];
    let daemon = world.daemon();
    wait_until("it is taken again", || count() == 2);
    let again: Value = serde_json::from_str(&server.requests("/answerCallbackQuery")[1].body).unwrap();
    assert_eq!(again["text"], "the question is not open any more");
    assert_eq!(world.sql("SELECT status FROM decisions WHERE id = 'second'"), "pending");
    assert_eq!(world.sql("SELECT count(*) FROM events WHERE event_type = 'human_message'"), "1");
    daemon.terminate();
}

#[test]
fn buttons_carry_the_token_that_can_only_answer() {
    let server = Server::start(|came| if came.path.ends_with("/auth") { (403, String::new()) } else { (200, "{}".to_owned()) });
    let world = world(&server, "preset = \"ntfy\"\ntopic = \"night\"\nanswer_token_file = \"answer\"\n");
    let file = world.folder().join("answer");
    std::fs::write(&file, "tk_answer\n").unwrap();
    assert!(world.once().contains("chmod 600"), "nothing is sent with a token that others can read");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    for id in ["second", "third"] {
        world
            .sql(&format!("INSERT INTO decisions(id, decision_type, summary, options) VALUES ('{id}', 'x', 's', '[\"yes\"]')"));
    }
    world.once();
    let sent: Vec<Came> = server.requests("/").into_iter().filter(|came| came.path == "/").collect();
    assert_eq!(sent.len(), 2);
    for came in &sent {
        assert!(came.head.contains(&format!("Authorization: Bearer {KEY}")) && !came.body.contains(KEY), "{came:?}");
        let message: Value = serde_json::from_str(&came.body).unwrap();
        assert_eq!(message["actions"][0]["headers"]["Authorization"], "Bearer tk_answer");
    }
}

#[test]
fn a_server_is_asked_once_for_questions_that_come_together() {
    let server = Server::start(|came| if came.path.ends_with("/auth") { (403, String::new()) } else { (200, "{}".to_owned()) });
    let world = world(&server, "preset = \"ntfy\"\ntopic = \"night\"\n");
    let daemon = world.daemon();
    let asked = |number: usize| {
        wait_until("the questions are sent", || server.requests("/").iter().filter(|came| came.path == "/").count() == number);
    };
    asked(1);
    for id in ["second", "third"] {
        world
            .sql(&format!("INSERT INTO decisions(id, decision_type, summary, options) VALUES ('{id}', 'x', 's', '[\"yes\"]')"));
    }
    asked(3);
    let topics: Vec<String> = server.requests("/auth").into_iter().map(|came| came.path).collect();
    assert_eq!(topics, ["/night/auth", "/night-answers/auth"]);
    daemon.terminate();
}

/// The program beside a `loopctl` that notes its arguments and prints a long report.
fn with_report(world: &World) -> String {
    let programs = world.folder().join("programs");
    std::fs::create_dir(&programs).unwrap();
    std::fs::copy(crate::common::PROGRAM, programs.join("pm-agent")).unwrap();
    let script = "#!/bin/sh\necho \"$@\" >> \"$(dirname \"$0\")/arguments\"\nprintf '# a day\\n\\n900 tests landed\\n\\n## Landed\\n\\n'\n\
        i=0; while [ $i -lt 900 ]; do echo \"- **t-$i** of a: verified by tests\"; i=$((i+1)); done\n";
    std::fs::write(programs.join("loopctl"), script).unwrap();
    std::fs::set_permissions(programs.join("loopctl"), std::fs::Permissions::from_mode(0o755)).unwrap();
    // There was one two days ago.
    world.sql(
        "INSERT INTO transaction_log(id, operation, component, status, steps, completed_at) VALUES ('notify:report:2000-01-01', 'notify',
         'pm', 'committed', '[{\"kind\":\"report\",\"until\":\"2000-01-01T07:30:00Z\"}]', '2000-01-01 07:30:00.000')",
    );
    programs.join("pm-agent").to_string_lossy().into_owned()
}

#[test]
fn a_report_is_cut_to_what_a_service_takes_and_sent_once() {
    let server = Server::start(|_| (200, "{}".to_owned()));
    let world = world(&server, "preset = \"ntfy\"\ntopic = \"night\"\nreport_at = \"07:30\"\n");
    world.sql("DELETE FROM decisions");
    let program = with_report(&world);
    (*world).once(&program);
    (*world).once(&program);
    let sent = server.requests("/");
    let [came] = &sent[..] else { panic!("{sent:?}") };
    let message: Value = serde_json::from_str(&came.body).unwrap();
    assert_eq!((&message["title"], &message["markdown"], &message["priority"]), (&"report".into(), &true.into(), &3.into()));
    let text = message["message"].as_str().unwrap();
    assert!(text.starts_with("# a day\n\n900 tests landed\n") && text.contains("- **t-0** of a"), "{text}");
    assert!(text.len() < 4_096 && text.contains("more; see loopctl report"), "{text}");
    let arguments = std::fs::read_to_string(world.folder().join("programs/arguments")).unwrap();
    assert!(arguments.ends_with("report --markdown --since 2000-01-01T07:30:00.000Z --brief\n"), "{arguments}");
}

#[test]
fn a_report_has_what_the_settings_allow() {
    for (content, brief, parts) in [("[]", true, false), ("[\"summary\", \"context\"]", false, true)] {
        let server = Server::start(|_| (200, "{}".to_owned()));
        let settings = format!("preset = \"telegram\"\nchat = \"7\"\nreport_at = \"00:00\"\ncontent = {content}\n");
        let world = world(&server, &settings);
        world.sql("DELETE FROM decisions");
        (*world).once(&with_report(&world));
        let message: Value = serde_json::from_str(&server.requests("/sendMessage")[0].body).unwrap();
        let text = message["text"].as_str().unwrap();
        assert!(text.starts_with("report\n# a day\n\n900 tests landed"), "{text}");
        assert_eq!(text.contains("t-1"), parts, "{text}");
        let arguments = std::fs::read_to_string(world.folder().join("programs/arguments")).unwrap();
        assert_eq!(arguments.contains("--brief"), brief);
    }
}
