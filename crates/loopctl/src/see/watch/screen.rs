//! What is on the screen and what a key changes, without any terminal.

/// A key that means something here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Key {
    Up,
    Down,
    PageUp,
    PageDown,
    Top,
    Bottom,
    Enter,
    Back,
    /// Any other printable character.
    Char(char),
}

/// What a terminal sends behind pasted text.
const PASTE_END: &[u8] = b"\x1b[201~";

/// Reads keys from what a terminal sends. An escape sequence that nobody knows is no key.
pub(super) fn keys(bytes: &[u8]) -> Vec<Key> {
    let mut keys = Vec::new();
    let mut rest = bytes;
    while let Some((&first, after)) = rest.split_first() {
        let (key, used) = match (first, after) {
            (b'\r' | b'\n', _) => (Some(Key::Enter), 1),
            (0x7f | 0x08, _) => (Some(Key::Back), 1),
            // What is pasted is no command.
            (0x1b, [b'[', b'2', b'0', b'0', b'~', tail @ ..]) => {
                let end = tail.windows(PASTE_END.len()).position(|part| part == PASTE_END);
                (None, 6 + end.map_or(tail.len(), |at| at + PASTE_END.len()))
            }
            (0x1b, [b'[' | b'O', tail @ ..]) => {
                let length = tail.iter().position(|byte| (0x40..=0x7e).contains(byte)).map_or(tail.len(), |at| at + 1);
                let key = match &tail[..length] {
                    b"A" => Some(Key::Up),
                    b"B" => Some(Key::Down),
                    b"5~" => Some(Key::PageUp),
                    b"6~" => Some(Key::PageDown),
                    b"H" | b"1~" => Some(Key::Top),
                    b"F" | b"4~" => Some(Key::Bottom),
                    _ => None,
                };
                (key, 2 + length)
            }
            (0x1b, _) => (Some(Key::Back), 1),
            (b'k', _) => (Some(Key::Up), 1),
            (b'j', _) => (Some(Key::Down), 1),
            (b' ', _) => (Some(Key::PageDown), 1),
            (b'g', _) => (Some(Key::Top), 1),
            (b'G', _) => (Some(Key::Bottom), 1),
            (0x20..=0x7e, _) => (Some(Key::Char(char::from(first))), 1),
            _ => (None, 1),
        };
        keys.extend(key);
        rest = &rest[used.min(rest.len())..];
    }
    keys
}

/// What is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Page {
    /// Everything, or the loop or test that the command was given.
    Status(Option<String>),
    /// The newest output of a loop or test.
    Log(String),
    /// A list to choose from.
    Choose(List),
    /// The keys.
    Help,
}

/// What the entries of a list are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum List {
    /// Loops and the tests that they work on.
    Loops,
    /// Open questions.
    Questions,
    /// The options of a question: its id and its text.
    Options(String, String),
}

/// An entry of a list: what it stands for and what is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) id: String,
    pub(super) text: String,
}

/// What the terminal has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Effect {
    Quit,
    /// Answer a question with an option.
    Answer(String, String),
}

/// The screen: a stack of pages, each with its place.
#[derive(Debug)]
pub(super) struct Screen {
    pages: Vec<(Page, usize)>,
}

impl Screen {
    pub(super) fn new(id: Option<&str>) -> Self {
        Self { pages: vec![(Page::Status(id.map(str::to_owned)), 0)] }
    }

    pub(super) fn page(&self) -> &Page {
        &self.pages[self.pages.len() - 1].0
    }

    /// The first line that is shown, or the chosen entry of a list.
    pub(super) fn at(&self) -> usize {
        self.pages[self.pages.len() - 1].1
    }

    fn open(&mut self, page: Page) {
        // The newest output is at the end.
        let at = if matches!(page, Page::Log(_)) { usize::MAX } else { 0 };
        self.pages.push((page, at));
    }

    fn back(&mut self) {
        if self.pages.len() > 1 {
            self.pages.pop();
        }
    }

    /// Keeps the place inside what there is.
    pub(super) fn clamp(&mut self, last: usize) {
        if let Some((_, at)) = self.pages.last_mut() {
            // What was at the end stays at the end as it grows.
            *at = if *at == usize::MAX { usize::MAX } else { (*at).min(last) };
        }
    }

    /// Takes a key. `last` is the last place of the page, `rows` the lines of the screen, `entries` those of a list.
    pub(super) fn press(&mut self, key: Key, last: usize, rows: usize, entries: &[Entry]) -> Option<Effect> {
        let at = self.at().min(last);
        let place = match key {
            Key::Up => Some(at.saturating_sub(1)),
            Key::Down => Some(at + 1),
            Key::PageUp => Some(at.saturating_sub(rows.saturating_sub(2).max(1))),
            Key::PageDown => Some(at + rows.saturating_sub(2).max(1)),
            Key::Top => Some(0),
            Key::Bottom => Some(usize::MAX),
            Key::Enter => {
                return entries.get(at).and_then(|entry| self.choose(entry));
            }
            Key::Back => {
                self.back();
                None
            }
            Key::Char('q') => return Some(Effect::Quit),
            Key::Char('?' | 'h') if *self.page() != Page::Help => {
                self.open(Page::Help);
                None
            }
            Key::Char('o') => {
                self.open(Page::Choose(List::Loops));
                None
            }
            Key::Char('a') => {
                self.open(Page::Choose(List::Questions));
                None
            }
            Key::Char('l') => {
                let id = match self.page() {
                    Page::Status(id) => id.clone(),
                    Page::Choose(List::Loops) => entries.get(at).map(|entry| entry.id.clone()),
                    _ => None,
                };
                self.open(id.map_or(Page::Choose(List::Loops), Page::Log));
                None
            }
            Key::Char(digit @ '1'..='9') => {
                let number = usize::from(digit as u8 - b'1');
                // An answer needs Enter: it cannot be undone.
                if matches!(self.page(), Page::Choose(List::Options(..))) {
                    Some(number)
                } else {
                    return entries.get(number).and_then(|entry| self.choose(entry));
                }
            }
            Key::Char(_) => None,
        };
        if let (Some(place), Some((page, at))) = (place, self.pages.last_mut()) {
            let is_at_end = matches!(page, Page::Log(_)) && place >= last;
            *at = if is_at_end { usize::MAX } else { place.min(last) };
        }
        None
    }

    fn choose(&mut self, entry: &Entry) -> Option<Effect> {
        let id = entry.id.clone();
        match self.page().clone() {
            Page::Choose(List::Loops) => self.open(Page::Status(Some(id))),
            Page::Choose(List::Questions) => self.open(Page::Choose(List::Options(id, entry.text.clone()))),
            Page::Choose(List::Options(question, _)) => {
                self.back();
                return Some(Effect::Answer(question, id));
            }
            _ => {}
        }
        None
    }

    /// The line of keys at the bottom.
    pub(super) fn hint(&self) -> &'static str {
        match self.page() {
            Page::Status(_) => "q quit  j/k scroll  o open  l log  a answer  ? keys",
            Page::Log(_) => "q quit  j/k scroll  Esc back  G newest",
            Page::Choose(_) => "j/k or number, Enter choose  Esc back  q quit",
            Page::Help => "Esc back  q quit",
        }
    }
}

pub(super) const HELP: &str = "\
keys
  j k, arrows        one line down or up, or one entry of a list
  Space, PgDn, PgUp  one page
  g G                beginning, end
  o                  open a loop, with its tests
  l                  the newest output of a loop
  a                  answer a question
  1 to 9, Enter      choose an entry of a list
  Esc, Backspace     back
  q, Ctrl-C          quit
";

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(ids: &[&str]) -> Vec<Entry> {
        ids.iter().map(|id| Entry { id: (*id).to_owned(), text: String::new() }).collect()
    }

    #[test]
    fn bytes_become_keys() {
        assert_eq!(keys(b"j\x1b[Bq"), [Key::Down, Key::Down, Key::Char('q')]);
        assert_eq!(keys(b"\x1b[6~\x1bOA\x1b[1;5C\x1b"), [Key::PageDown, Key::Up, Key::Back]);
        assert_eq!(keys("ä\r".as_bytes()), [Key::Enter]);
        assert_eq!(keys(b"\x1b["), []);
        assert_eq!(keys(b"j\x1b[200~a11q\rq\x1b[201~k"), [Key::Down, Key::Up]);
        assert_eq!(keys(b"\x1b[200~a11"), []);
    }

    #[test]
    fn a_question_is_answered_with_three_keys() {
        let mut screen = Screen::new(None);
        let (questions, options) = (entries(&["q1", "q2"]), entries(&["yes", "no"]));
        assert_eq!(screen.press(Key::Char('a'), 0, 24, &[]), None);
        assert_eq!(screen.press(Key::Char('2'), 1, 24, &questions), None);
        assert_eq!(*screen.page(), Page::Choose(List::Options("q2".to_owned(), String::new())));
        assert_eq!(screen.press(Key::Char('2'), 1, 24, &options), None, "a number only selects here");
        assert_eq!(screen.press(Key::Enter, 1, 24, &options), Some(Effect::Answer("q2".to_owned(), "no".to_owned())));
        assert_eq!(*screen.page(), Page::Choose(List::Questions));
        assert_eq!(screen.press(Key::Enter, 0, 24, &[]), None, "nothing to choose");
        screen.press(Key::Back, 0, 24, &[]);
        screen.press(Key::Back, 0, 24, &[]);
        assert_eq!(*screen.page(), Page::Status(None));
    }

    #[test]
    fn scrolling_stays_inside_and_a_log_stays_at_its_end() {
        let mut screen = Screen::new(Some("a"));
        for (key, expected) in [(Key::Down, 1), (Key::PageDown, 9), (Key::Up, 8), (Key::Top, 0), (Key::Up, 0), (Key::Bottom, 9)]
        {
            screen.press(key, 9, 24, &[]);
            assert_eq!(screen.at(), expected, "{key:?}");
        }
        screen.press(Key::Char('l'), 9, 24, &[]);
        assert_eq!((screen.page().clone(), screen.at()), (Page::Log("a".to_owned()), usize::MAX));
        screen.press(Key::Up, 9, 24, &[]);
        assert_eq!(screen.at(), 8);
        screen.press(Key::Down, 9, 24, &[]);
        screen.clamp(20);
        assert_eq!(screen.at(), usize::MAX);
    }
}
