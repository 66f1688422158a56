//! The simple commands of a shell script, read without running anything.
//!
//! It reads the part of the POSIX shell's language that agents and checks are written in. What it does not understand
//! makes it give up on the whole script: a script that is not understood is never called wrong.

use std::collections::BTreeSet;

/// A simple command: a word is none if the shell computes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Simple {
    /// Names of the variables that are assigned before the command.
    pub assigns: Vec<String>,
    /// The program and its arguments; empty if there are only assignments.
    pub words: Vec<Option<String>>,
    /// Whether the script fails, or does nothing of use, without this command: it is no condition, no alternative, and in
    /// no branch or function.
    pub is_certain: bool,
}

/// A script's simple commands in order, and the functions that it defines.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Script {
    /// The commands.
    pub commands: Vec<Simple>,
    /// The names of the functions.
    pub functions: BTreeSet<String>,
}

/// Reads a script. None if any of it is not understood.
#[must_use]
pub fn read(text: &str) -> Option<Script> {
    let tokens = tokens(text)?;
    let mut parser = Parser { tokens, at: 0, script: Script::default() };
    parser.list(true, &[])?;
    Some(parser.script)
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    /// `text` is none if it is computed; `plain` if nothing in it was quoted.
    Word {
        text: Option<String>,
        plain: bool,
        assigns: Option<String>,
    },
    Operator(&'static str),
    /// The next word is a file.
    Redirection,
}

/// Longer ones first.
const OPERATORS: [&str; 8] = ["&&", "||", ";", "&", "|", "(", ")", "\n"];
const REDIRECTIONS: [&str; 9] = ["&>>", "&>", ">>", ">&", ">|", "<&", "<>", ">", "<"];
/// Here-documents, substitutions of processes, ends of a case: more than is read here.
const REFUSED: [&str; 5] = ["<<", "<(", ">(", ";;", "|&"];

fn tokens(text: &str) -> Option<Vec<Token>> {
    let mut tokens = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches([' ', '\t', '\r']);
        if let Some(joined) = rest.strip_prefix("\\\n") {
            rest = joined;
        } else if rest.starts_with('#') {
            rest = &rest[rest.find('\n').unwrap_or(rest.len())..];
        } else if rest.is_empty() {
            return Some(tokens);
        } else if REFUSED.iter().any(|refused| rest.starts_with(refused)) {
            return None;
        } else if let Some(found) = REDIRECTIONS.iter().find(|found| rest.starts_with(**found)) {
            tokens.push(Token::Redirection);
            rest = &rest[found.len()..];
        } else if let Some(found) = OPERATORS.iter().find(|found| rest.starts_with(**found)) {
            tokens.push(Token::Operator(found));
            rest = &rest[found.len()..];
        } else {
            let (word, after) = word(rest)?;
            // A number right before a redirection says which descriptor.
            let number =
                matches!(&word, Token::Word { text: Some(text), plain: true, .. } if text.bytes().all(|b| b.is_ascii_digit()));
            if !(number && after.starts_with(['<', '>'])) {
                tokens.push(word);
            }
            rest = after;
        }
    }
}

/// Reads one word, and gives what comes after it.
fn word(from: &str) -> Option<(Token, &str)> {
    let (mut text, mut known, mut plain, mut assigns) = (String::new(), true, true, None);
    let mut rest = from;
    while let Some(c) = rest.chars().next() {
        let after = &rest[c.len_utf8()..];
        rest = match c {
            ' ' | '\t' | '\r' | '\n' | ';' | '&' | '|' | '(' | ')' | '<' | '>' => break,
            '\\' => {
                plain = false;
                let escaped = after.chars().next()?;
                if escaped != '\n' {
                    text.push(escaped);
                }
                &after[escaped.len_utf8()..]
            }
            '\'' => {
                plain = false;
                let end = after.find('\'')?;
                text.push_str(&after[..end]);
                &after[end + 1..]
            }
            '"' => {
                plain = false;
                let (quoted, after) = double_quoted(after)?;
                match quoted {
                    Some(quoted) => text.push_str(&quoted),
                    None => known = false,
                }
                after
            }
            '$' | '`' => {
                known = false;
                expansion(rest)?
            }
            '=' if assigns.is_none() && plain && known && is_name(text.trim_end_matches('+')) => {
                assigns = Some(text.trim_end_matches('+').to_owned());
                text.push(c);
                after
            }
            _ => {
                let computed = match c {
                    '*' | '?' => true,
                    // [ and [[ are commands.
                    '[' => !text.is_empty() && text != "[",
                    '~' => text.is_empty(),
                    // { and } alone are reserved words.
                    '{' | '}' => !matches!(after.chars().next(), None | Some(' ' | '\t' | '\n' | ';' | ')')),
                    _ => false,
                };
                known &= !computed;
                text.push(c);
                after
            }
        };
    }
    Some((Token::Word { text: known.then_some(text), plain, assigns }, rest))
}

fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// After the opening quote: the text, none if some of it is computed, and what follows the closing quote.
fn double_quoted(from: &str) -> Option<(Option<String>, &str)> {
    let (mut text, mut known) = (String::new(), true);
    let mut rest = from;
    loop {
        let c = rest.chars().next()?;
        let after = &rest[c.len_utf8()..];
        rest = match c {
            '"' => return Some((known.then_some(text), after)),
            '$' | '`' => {
                known = false;
                expansion(rest)?
            }
            '\\' => {
                let escaped = after.chars().next()?;
                if !matches!(escaped, '$' | '`' | '"' | '\\' | '\n') {
                    text.push('\\');
                }
                if escaped != '\n' {
                    text.push(escaped);
                }
                &after[escaped.len_utf8()..]
            }
            _ => {
                text.push(c);
                after
            }
        };
    }
}

/// What follows an expansion that begins here.
fn expansion(from: &str) -> Option<&str> {
    if let Some(inside) = from.strip_prefix('`') {
        return closed(inside, '`', None);
    }
    let after = from.strip_prefix('$')?;
    match after.chars().next() {
        Some('(') => closed(&after[1..], ')', Some('(')),
        Some('{') => closed(&after[1..], '}', Some('{')),
        Some(c) if c.is_ascii_alphabetic() || c == '_' => {
            Some(after.trim_start_matches(|c: char| c.is_ascii_alphanumeric() || c == '_'))
        }
        Some(c) if c.is_ascii_digit() || "@*#?-$!".contains(c) => Some(&after[1..]),
        // Quoting of its own.
        Some('\'' | '"') => None,
        _ => Some(after),
    }
}

/// What follows the bracket that closes the one before `from`.
fn closed(from: &str, close: char, open: Option<char>) -> Option<&str> {
    let mut depth = 1;
    let mut rest = from;
    loop {
        let c = rest.chars().next()?;
        let after = &rest[c.len_utf8()..];
        rest = match c {
            '\\' => &after[after.chars().next()?.len_utf8()..],
            '\'' => &after[after.find('\'')? + 1..],
            '"' => double_quoted(after)?.1,
            _ if c == close => {
                depth -= 1;
                if depth == 0 {
                    return Some(after);
                }
                after
            }
            _ => {
                depth += u32::from(Some(c) == open);
                after
            }
        };
    }
}

/// What runs only to find something out: what follows it is on condition.
const CONDITIONS: [&str; 8] = ["[", "[[", "test", "command", "type", "which", "hash", "grep"];

struct Parser {
    tokens: Vec<Token>,
    at: usize,
    script: Script,
}

impl Parser {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at)
    }

    fn is_operator(&self, operators: &[&str]) -> bool {
        matches!(self.peek(), Some(Token::Operator(found)) if operators.contains(found))
    }

    fn take_operator(&mut self, operators: &[&str]) -> Option<()> {
        self.is_operator(operators).then(|| self.at += 1)
    }

    /// The next word, if it may be a reserved one.
    fn reserved(&self) -> Option<&str> {
        match self.peek() {
            Some(Token::Word { text: Some(text), plain: true, .. }) => Some(text),
            _ => None,
        }
    }

    fn take_reserved(&mut self, word: &str) -> Option<()> {
        (self.reserved() == Some(word)).then(|| self.at += 1)
    }

    fn skip(&mut self, operators: &[&str]) {
        while self.take_operator(operators).is_some() {}
    }

    /// Commands up to one of these words or operators, or to the end if there are none.
    fn list(&mut self, is_certain: bool, until: &[&str]) -> Option<()> {
        loop {
            self.skip(&["\n", ";", "&"]);
            if self.peek().is_none() {
                return until.is_empty().then_some(());
            }
            if self.reserved().is_some_and(|word| until.contains(&word)) || self.is_operator(until) {
                return Some(());
            }
            self.chain(is_certain)?;
        }
    }

    /// Pipelines that are joined by && and ||.
    fn chain(&mut self, is_certain: bool) -> Option<()> {
        let begin = self.script.commands.len();
        let mut is_certain = is_certain;
        loop {
            let from = self.script.commands.len();
            let negated = self.take_reserved("!").is_some();
            self.pipeline(is_certain && !negated)?;
            let last = self.script.commands.get(from..).and_then(<[Simple]>::last);
            let program = last.and_then(|last| last.words.first()).and_then(Option::as_deref);
            let is_condition = negated || program.is_some_and(|program| CONDITIONS.contains(&program));
            if self.take_operator(&["||"]).is_some() {
                // One of them is enough.
                is_certain = false;
                self.script.commands[begin..].iter_mut().for_each(|command| command.is_certain = false);
            } else if self.take_operator(&["&&"]).is_some() {
                is_certain &= !is_condition;
            } else {
                return Some(());
            }
            self.skip(&["\n"]);
        }
    }

    fn pipeline(&mut self, is_certain: bool) -> Option<()> {
        loop {
            self.command(is_certain)?;
            if self.take_operator(&["|"]).is_none() {
                return Some(());
            }
            self.skip(&["\n"]);
        }
    }

    fn command(&mut self, is_certain: bool) -> Option<()> {
        if self.take_operator(&["("]).is_some() {
            // Two of them are arithmetic.
            if self.is_operator(&["("]) {
                return None;
            }
            self.list(is_certain, &[")"])?;
            self.take_operator(&[")"])?;
            return self.redirections();
        }
        let word = self.reserved().map(str::to_owned);
        match word.as_deref() {
            Some("{") => {
                self.at += 1;
                self.list(is_certain, &["}"])?;
                self.take_reserved("}")?;
            }
            Some("if") => {
                self.at += 1;
                self.list(false, &["then"])?;
                self.take_reserved("then")?;
                loop {
                    self.list(false, &["elif", "else", "then", "fi"])?;
                    if self.take_reserved("fi").is_some() {
                        break;
                    }
                    self.at += 1;
                }
            }
            Some("while" | "until") => {
                self.at += 1;
                self.list(false, &["do"])?;
                self.take_reserved("do")?;
                self.list(false, &["done"])?;
                self.take_reserved("done")?;
            }
            Some("for") => {
                self.at += 1;
                while matches!(self.peek(), Some(Token::Word { .. })) && self.reserved() != Some("do") {
                    self.at += 1;
                }
                self.skip(&["\n", ";"]);
                self.take_reserved("do")?;
                self.list(is_certain, &["done"])?;
                self.take_reserved("done")?;
            }
            Some("[[") => {
                while self.reserved() != Some("]]") {
                    self.peek()?;
                    self.at += 1;
                }
                self.at += 1;
                let words = vec![Some("[[".to_owned())];
                self.script.commands.push(Simple { assigns: Vec::new(), words, is_certain: false });
            }
            Some("function") => {
                self.at += 1;
                let name = self.reserved()?.to_owned();
                self.at += 1;
                if self.take_operator(&["("]).is_some() {
                    self.take_operator(&[")"])?;
                }
                return self.function(name);
            }
            Some("case" | "select" | "coproc" | "then" | "elif" | "else" | "fi" | "do" | "done" | "esac" | "}" | "]]") => {
                return None;
            }
            _ => return self.simple(is_certain),
        }
        self.redirections()
    }

    fn function(&mut self, name: String) -> Option<()> {
        self.script.functions.insert(name);
        self.skip(&["\n"]);
        self.command(false)
    }

    fn redirections(&mut self) -> Option<()> {
        while self.peek() == Some(&Token::Redirection) {
            self.at += 1;
            let Some(Token::Word { .. }) = self.peek() else { return None };
            self.at += 1;
        }
        Some(())
    }

    fn simple(&mut self, is_certain: bool) -> Option<()> {
        let begin = self.at;
        let mut simple = Simple { assigns: Vec::new(), words: Vec::new(), is_certain };
        loop {
            match self.peek().cloned() {
                Some(Token::Redirection) => self.redirections()?,
                Some(Token::Word { assigns: Some(name), .. }) if simple.words.is_empty() => {
                    simple.assigns.push(name);
                    self.at += 1;
                }
                Some(Token::Word { text, .. }) => {
                    simple.words.push(text);
                    self.at += 1;
                }
                Some(Token::Operator("(")) => {
                    // A function, or an array, which is not read here.
                    let [Some(name)] = &simple.words[..] else { return None };
                    let name = name.clone();
                    self.at += 1;
                    self.take_operator(&[")"])?;
                    return self.function(name);
                }
                _ => break,
            }
        }
        if self.at == begin {
            return None;
        }
        // Files that are emptied run nothing.
        if !simple.words.is_empty() || !simple.assigns.is_empty() {
            self.script.commands.push(simple);
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each command's words, `_` for what is computed, `?` before what is not certain; none if it is not understood.
    fn seen(text: &str) -> String {
        let Some(script) = read(text) else { return "not understood".to_owned() };
        let shown = script.commands.iter().map(|command| {
            let assigns = command.assigns.iter().map(|name| format!("{name}="));
            let words = command.words.iter().map(|word| word.clone().unwrap_or_else(|| "_".to_owned()));
            let words: Vec<String> = assigns.chain(words).collect();
            format!("{}{}", if command.is_certain { "" } else { "?" }, words.join(" "))
        });
        shown.collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn what_runs_whatever_happens_is_certain() {
        for (script, expected) in [
            ("npm ci && npm test", "npm ci; npm test"),
            ("cat > prompt; grep -q \"$TEST_ID\" prompt && rm prompt", "cat; grep -q _ prompt; ?rm prompt"),
            ("a 2>&1 | b -x >>log 2>/dev/null & c", "a; b -x; c"),
            (
                "# a remark\nset -e\n( cd sub; make all ) \\\n  && echo 'it''s' \"so \\\"far\\\"\"",
                "set -e; cd sub; make all; echo its so \"far\"",
            ),
            ("{ a; b; } >log", "a; b"),
            ("X=1 Y=\"$(date)\" a; PATH=./bin:$PATH", "X= Y= a; PATH="),
            ("a || b && c", "?a; ?b; ?c"),
            ("! a; [ -f x ] && b; command -v c && c", "?a; [ -f x ]; ?b; command -v c; ?c"),
            ("if a; then b; elif c; then d; else e; fi; f", "?a; ?b; ?c; ?d; ?e; f"),
            ("while a; do b; done < in; for i in 1 2 *.c; do c $i; done", "?a; ?b; c _"),
            ("f() { a; }; function g { b; }; f", "?a; ?b; f"),
            ("[[ -n $x && y == z ]] && a", "?[[; ?a"),
            ("$TOOL x; ~/bin/y; \"$HOME\"/z; `w` v; ${A:-\"}\"} b", "_ x; _; _; _ v; _ b"),
            ("test \"$(./sum \"a)\" | head)\" = 5", "test _ = 5"),
            ("echo {a,b} } $((1+2)) a#b", "echo _ } _ a#b"),
            (">only-a-file", ""),
            ("", ""),
        ] {
            assert_eq!(seen(script), expected, "{script}");
        }
        assert!(read("f() { a; }; function g { b; }").unwrap().functions.iter().eq(["f", "g"]));
    }

    #[test]
    fn what_is_not_understood_is_given_up() {
        for script in [
            "cat <<E\nx\nE",
            "case x in x) a;; esac",
            "a=(1 2)",
            "diff <(a) <(b)",
            "((i++))",
            "echo 'open",
            "echo \"open",
            "echo $(open",
            "if a; then b",
            "a && ",
            "( a",
            "a )",
            "echo $'x'",
            "a |& b",
            "fi",
        ] {
            assert_eq!(seen(script), "not understood", "{script}");
        }
    }
}
