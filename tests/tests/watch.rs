//! `loopctl status --watch` in a real terminal (tmux), small and large: nothing is cut, keys open loops and output, and a question
//! is answered.

use std::process::Command;

use system_tests::binaries;
use system_tests::processes::World;
use test_support::wait_until;

/// A terminal of its own server, which ends with it.
struct Terminal<'a> {
    world: &'a World,
    socket: String,
}

impl Drop for Terminal<'_> {
    fn drop(&mut self) {
        let _ = self.tmux(&["kill-server"]);
    }
}

impl<'a> Terminal<'a> {
    fn open(world: &'a World, columns: usize, rows: usize, command: &str) -> Self {
        Self::open_shell(world, columns, rows, &format!("{}/{command}; echo over; exec sleep 600", binaries().display()))
    }

    fn open_shell(world: &'a World, columns: usize, rows: usize, shell: &str) -> Self {
        let socket = world.folder().join("tmux").display().to_string();
        let terminal = Self { world, socket };
        let (columns, rows) = (columns.to_string(), rows.to_string());
        terminal.tmux(&["-f", "/dev/null", "new-session", "-d", "-x", &columns, "-y", &rows, shell]);
        terminal
    }

    fn tmux(&self, arguments: &[&str]) -> String {
        let mut command = Command::new("tmux");
        command.args(["-S", &self.socket]).args(arguments).current_dir(self.world.repository());
        command.env("TERM", "xterm-256color").env_remove("TMUX").env_remove("NO_COLOR");
        command.env("CODING_LOOPS_BIN", binaries()).env_remove("CODING_LOOPS_DB");
        let output = command.output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn type_keys(&self, keys: &[&str]) {
        self.tmux(&[&["send-keys"], keys].concat());
    }

    fn screen(&self) -> String {
        self.tmux(&["capture-pane", "-p"])
    }

    #[track_caller]
    fn shows(&self, part: &str) {
        wait_until(&format!("{part:?} on the screen"), || self.screen().contains(part));
    }
}

fn has_tmux() -> bool {
    let found = Command::new("tmux").arg("-V").output().is_ok_and(|output| output.status.success());
    if !found {
        println!("SKIPPED: tmux cannot be had here; status --watch is not tested in a terminal");
    }
    found
}

const SPEC: &str =
    "The shortest words that fit beside the margin of a narrow screen are shown whole, and none is ever cut in its middle";

fn world() -> World {
    let world = World::new();
    let ok = |arguments: &[&str]| assert!(world.loopctl(arguments).status.success(), "{arguments:?}");
    for number in 1..=20 {
        ok(&["loop", "add", &format!("loop-{number:02}")]);
    }
    ok(&["test", "add", "goal", "--loop", "loop-01", "--notes", SPEC]);
    ok(&["next", "--loop", "loop-01"]);
    ok(&["--as", "loop-02", "ask", "--summary", SPEC, "--option", "left=Go left", "--option", "right=Go right"]);
    world
}

/// Every word on the screen is a whole word of what was to be shown.
fn is_whole(screen: &str) {
    let whole: Vec<&str> = SPEC.split_whitespace().collect();
    for line in screen.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        for word in words.iter().filter(|word| word.len() > 3) {
            let is_cut = whole.iter().any(|known| known.len() > word.len() && known.starts_with(word));
            assert!(!is_cut || whole.contains(word), "{word:?} is cut in {line:?}\n{screen}");
        }
    }
}

#[test]
fn keys_scroll_open_and_answer() {
    if !has_tmux() {
        return;
    }
    let world = world();
    let terminal = Terminal::open(&world, 80, 24, "loopctl status --watch");
    terminal.shows("q quit");
    let screen = terminal.screen();
    assert!(screen.contains("loop-01") && screen.contains("lines)") && !screen.contains("monitor"), "{screen}");
    is_whole(&screen);
    terminal.type_keys(&["G"]);
    terminal.shows("monitor");
    is_whole(&terminal.screen());
    terminal.type_keys(&["g"]);
    terminal.shows("loop-01");
    // A loop, with its tests.
    terminal.type_keys(&["o", "1"]);
    terminal.shows("goal");
    assert!(!terminal.screen().contains("loop-20"), "{}", terminal.screen());
    terminal.type_keys(&["l"]);
    terminal.shows("no output of loop-01");
    // An answer.
    terminal.type_keys(&["a"]);
    terminal.shows("answer a question");
    is_whole(&terminal.screen());
    terminal.type_keys(&["Enter", "2"]);
    terminal.shows("> 2 right");
    assert_eq!(world.sql("SELECT count(*) FROM events WHERE event_type = 'human_message'").unwrap().trim(), "0");
    terminal.type_keys(&["Enter"]);
    terminal.shows("answered with right");
    let answered = "SELECT payload ->> '$.choice' FROM events WHERE event_type = 'human_message'";
    assert_eq!(world.sql(answered).unwrap().trim(), "right");
    terminal.type_keys(&["?"]);
    terminal.shows("answer a question\n");
    terminal.type_keys(&["q"]);
    terminal.shows("over");
    // The terminal is as it was: what is typed is shown again.
    terminal.type_keys(&["typed"]);
    terminal.shows("typed");
}

#[test]
fn a_large_terminal_shows_everything_at_once() {
    if !has_tmux() {
        return;
    }
    let world = world();
    let terminal = Terminal::open(&world, 200, 60, "loopctl status --watch");
    terminal.shows("monitor");
    let screen = terminal.screen();
    assert!(screen.contains("loop-20") && screen.contains(SPEC) && !screen.contains("lines)"), "{screen}");
    // What changes is seen.
    assert!(world.loopctl(&["pause", "loop-07", "--reason", "a reason"]).status.success());
    terminal.shows("a reason");
    terminal.type_keys(&["C-c"]);
    terminal.shows("over");
}

/// A shell with job control stops what reads keys in the background.
#[test]
fn what_launch_shows_at_a_prompt_takes_keys_and_ctrl_c_stops_all() {
    if !has_tmux() {
        return;
    }
    let world = world();
    world.settings("[[gate.check]]\nname = \"true\"\ncommand = [\"true\"]\n[agent]\ncommand = [\"true\"]\n");
    // Nothing to do, so that only the five run beside it.
    for number in 1..=20 {
        assert!(world.loopctl(&["loop", "remove", &format!("loop-{number:02}"), "--force"]).status.code().is_some());
    }
    let terminal = Terminal::open_shell(&world, 120, 40, "bash --norc --noprofile -i");
    terminal.type_keys(&["-l", &format!("'{}/scripts/launch.sh'; echo ov''er", system_tests::project().display())]);
    terminal.type_keys(&["Enter"]);
    terminal.shows("q quit");
    terminal.type_keys(&["?"]);
    terminal.shows("answer a question\n");
    terminal.type_keys(&["C-c"]);
    terminal.shows("over");
    world.until("SELECT count(*) FROM component_health WHERE status = 'healthy'", "0");
    terminal.type_keys(&["typed"]);
    terminal.shows("typed");
}
