//! How a trace is written: one line for each thing that happens, `WHEN WHO WHAT`.
//!
//! `WHEN` is a time since the beginning (`90s`, `12m`, `1h30m`) or a span of them, `0s-40m/20s`: from, to, every. `WHO` is a
//! loop, or `-` for the machine. Everything after `#` is a remark. In texts and paths `{n}` is the number of the repetition,
//! `{w}` a word of its own for each.
//!
//! | `WHAT` | |
//! | --- | --- |
//! | `joins [PRIORITY]` | the loop is registered, its process starts |
//! | `test ID [tries=N] [after=TEST] [GLOB…]` | gets a test with this scope |
//! | `begins ID` | claims it: the agent starts |
//! | `passes`, `fails TEXT`, `gives-back TEXT` | the attempt ends; what passes has landed, and the worktree is clean |
//! | `errs CATEGORY TEXT` | the attempt ends with an error of this category |
//! | `says TEXT` | a line of the agent's output; `\n` begins another |
//! | `edits PATH… [xN]` | files of its worktree get another content; with `xN` N of each, with `{n}` or `{w}` |
//! | `reverts` | the worktree is as it was |
//! | `builds` | something changes in its worktree that is ignored |
//! | `rebases` | onto what has landed: contents change by nobody's hand |
//! | `locks PATH`, `unlocks PATH`, `queues PATH` | a lease; `queues` takes it or waits for it |
//! | `uses N` | N LLM tokens are recorded |
//! | `pauses`, `resumes`, `stops` | in an orderly way |
//! | `dies` | its process has ended |
//! | `hangs`, `recovers` | it beats no more, and again |
//! | `pid-reused` | its process has ended, and another has its pid |
//! | `heartbeat-dies`, `heartbeat-starts` | (machine) |
//! | `sleeps DURATION` | (machine) it is suspended for so long |
//! | `clock DURATION` | (machine) the wall clock is set forward, or back with `-` |
//! | `disk FREE_MB TOTAL_MB`, `database MB` | (machine) sizes |
//! | `events N` | N events are published at once |
//! | `answers TYPE CHOICE` | (machine) the human answers the open question of this type |
//! | `nothing` | time passes |
//!
//! A loop does at once what pm asks of it: it pauses, its work kept aside, and goes on.

/// Something that happens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Happening {
    /// Milliseconds since the beginning.
    pub at: i64,
    /// Which loop; `-` is the machine.
    pub who: String,
    /// A word of the table above.
    pub what: String,
    /// The rest of the line.
    pub text: String,
}

/// A time or duration, in milliseconds.
///
/// # Errors
/// If it is none.
pub fn time(text: &str) -> Result<i64, String> {
    let wrong = || format!("{text:?} is no time; expected 90s, 12m or 1h30m");
    let (sign, bare) = text.strip_prefix('-').map_or((1, text), |bare| (-1, bare));
    let (mut total, mut number) = (0, String::new());
    for letter in bare.chars() {
        let unit = match letter {
            '0'..='9' => {
                number.push(letter);
                continue;
            }
            's' => 1000,
            'm' => 60_000,
            'h' => 3_600_000,
            _ => return Err(wrong()),
        };
        total += number.parse::<i64>().map_err(|_| wrong())? * unit;
        number.clear();
    }
    if number.is_empty() && !bare.is_empty() { Ok(sign * total) } else { Err(wrong()) }
}

/// From, to and every, in milliseconds.
fn span(text: &str) -> Result<(i64, i64, i64), String> {
    let Some((from, rest)) = text.split_once('-') else {
        let at = time(text)?;
        return Ok((at, at, 1000));
    };
    let (to, every) = rest.split_once('/').ok_or_else(|| format!("{text:?} is no span; expected FROM-TO/EVERY"))?;
    Ok((time(from)?, time(to)?, time(every)?.max(1000)))
}

/// A word that no other number has, of letters alone.
#[must_use]
pub fn word(number: i64) -> String {
    const SYLLABLES: [&str; 20] = [
        "ba", "de", "fi", "go", "hu", "ka", "le", "mi", "no", "pu", "ra", "se", "ti", "vo", "wu", "za", "che", "li", "mo", "su",
    ];
    let mut rest = usize::try_from(number).unwrap_or_default() + SYLLABLES.len();
    let mut word = String::new();
    while rest > 0 {
        word.push_str(SYLLABLES[rest % SYLLABLES.len()]);
        rest /= SYLLABLES.len();
    }
    word
}

/// With number and word in their places.
#[must_use]
pub fn filled(text: &str, number: i64) -> String {
    text.replace("{n}", &number.to_string()).replace("{w}", &word(number))
}

/// What happens, in order of time.
///
/// # Errors
/// Which line is wrong, and how.
pub fn read(script: &str) -> Result<Vec<Happening>, String> {
    let mut all = Vec::new();
    for line in script.lines() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        let mut words = line.split_whitespace();
        let (Some(when), Some(who), Some(what)) = (words.next(), words.next(), words.next()) else {
            return Err(format!("{line:?}: expected WHEN WHO WHAT"));
        };
        let text = words.collect::<Vec<_>>().join(" ");
        let (from, to, every) = span(when).map_err(|error| format!("{line:?}: {error}"))?;
        let times = (from..=to).step_by(usize::try_from(every).unwrap_or(1000));
        for (number, at) in times.enumerate() {
            let number = i64::try_from(number).unwrap_or(i64::MAX);
            // What is made many times within one line fills in its own numbers.
            let text = if many(&text).1.is_some() { text.clone() } else { filled(&text, number) };
            all.push(Happening { at, who: who.to_owned(), what: what.to_owned(), text });
        }
    }
    all.sort_by_key(|happening| happening.at);
    Ok(all)
}

/// A text without its `xN`, and N.
#[must_use]
pub fn many(text: &str) -> (&str, Option<i64>) {
    match text.rsplit_once(" x") {
        Some((rest, number)) => number.parse().map_or((text, None), |number| (rest, Some(number))),
        None => (text, None),
    }
}
