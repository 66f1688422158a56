//! `loopctl report`: what a night has brought, as a page, as Markdown or as JSON.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use coord_db::{dollars, short_id};
use views::broke::Broke;
use views::report::{Landed, Odd, Report, look};
use views::sentence::{count, list, short, spent};
use views::when::{clock, span};

use crate::cli::ReportArgs;
use crate::context::Context;
use crate::exit::{Outcome, io};
use crate::markdown::{code, literal};

/// The file that is written by default, beside the database.
const FILE: &str = "report.html";

/// `loopctl report`
///
/// # Errors
/// What the database reports, or if the file cannot be written.
pub fn run(cx: &Context, args: &ReportArgs) -> Outcome {
    let (db, config) = cx.open_with_config()?;
    let report = db.read(|tx| look(tx, &config, args.since.past(tx.now())?))?;
    if cx.out.json {
        return cx.out.document(&report);
    }
    if args.markdown {
        return cx.out.text(&markdown(&report, args.brief));
    }
    let page = dashboard::report(&report, &name(&config.repository_path()));
    let beside = || db.path().and_then(Path::parent).unwrap_or(Path::new(".")).join(FILE);
    let file = args.output.clone().unwrap_or_else(beside);
    if file.as_os_str() == "-" {
        return cx.out.text(&page);
    }
    write_whole(&file, &page)?;
    cx.out.done(&file, &format!("wrote {}: {}", file.display(), headline(&report)))
}

fn name(repository: &Path) -> String {
    let repository = repository.canonicalize().unwrap_or_else(|_| repository.to_owned());
    repository.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// A reader of a file sees the old one or the new one, whole. What is no file (a pipe, a device) is written to.
fn write_whole(file: &Path, text: &str) -> Outcome {
    let failed = || io(format!("cannot write {}", file.display()));
    let target = file.canonicalize().unwrap_or_else(|_| file.to_owned());
    if std::fs::metadata(&target).is_ok_and(|found| !found.is_file()) {
        return std::fs::write(&target, text).map_err(failed());
    }
    let mut beside = target.as_os_str().to_owned();
    beside.push(format!(".{}.new", std::process::id()));
    let beside = PathBuf::from(beside);
    let mut new = std::fs::File::create_new(&beside).map_err(failed())?;
    let written = new.write_all(text.as_bytes()).and_then(|()| std::fs::rename(&beside, &target));
    written.map_err(|error| {
        let _ = std::fs::remove_file(&beside);
        failed()(error)
    })
}

/// The whole night in one line.
fn headline(report: &Report) -> String {
    let number = |items: usize| i64::try_from(items).unwrap_or(i64::MAX);
    let (tests, again) = report.landed_tests();
    let mut parts = vec![format!("{} landed", count(tests, "test"))];
    if again > 0 {
        parts.push(format!("{} of the same tests before", count(again, "landing")));
    }
    let waiting = &report.waiting;
    let mut part = |items: usize, what: &str| {
        if items > 0 {
            parts.push(count(number(items), what));
        }
    };
    part(waiting.questions.len(), "question");
    part(waiting.alerts.len(), "alert");
    part(waiting.blocked.len(), "blocked test");
    part(report.broke.len(), "regression");
    let total = &report.cost.total;
    parts.push(spent(total.used.tokens_estimated, total.used.cost_microusd));
    parts.join(", ")
}

/// The report as Markdown. What comes from the database stands in it as text: without markup and on one line. A brief one has
/// nothing that an agent or a check has printed.
fn markdown(report: &Report, is_brief: bool) -> String {
    let printed = |text: &str| if is_brief { String::new() } else { format!(": {}", literal(text)) };
    let mut text = format!(
        "# {} to {} ({})\n\n{}\n",
        clock(report.since),
        clock(report.until),
        span(report.until.seconds_since(report.since)),
        literal(&headline(report))
    );
    let mut part = |heading: &str, lines: Vec<String>| {
        if !lines.is_empty() {
            let _ = write!(text, "\n## {heading}\n\n");
            text.extend(lines.iter().map(|line| format!("- {line}\n")));
        }
    };
    part("Landed", report.landed.iter().map(landed).collect());
    let mut waiting: Vec<String> = Vec::new();
    for question in &report.waiting.questions {
        let answers: Vec<String> = views::questions::options(&question.row).into_iter().map(|(id, _)| id).collect();
        waiting.push(format!(
            "{} ({}): `loopctl decide {} {}`",
            literal(&question.row.summary),
            literal(&question.state(report.until)),
            code(short_id(question.row.id.as_str())),
            code(&answers.join("|"))
        ));
    }
    waiting.extend(report.waiting.alerts.iter().map(|alert| format!("{}: {}", alert.severity, literal(&alert.message))));
    waiting.extend(report.waiting.blocked.iter().map(|test| {
        let error = test.last_error.as_deref().unwrap_or("no error is recorded");
        format!("test {} of {} is {}{}", literal(test.id.as_str()), literal(test.loop_id.as_str()), test.status, printed(error))
    }));
    waiting.extend(report.waiting.holds.iter().map(|hold| {
        let until = hold.until.map_or_else(|| "your answer".to_owned(), clock);
        format!("{} starts no attempt until {until}{}", literal(&hold.subject), printed(&hold.reason))
    }));
    part("Waits for you", waiting);
    part("Broke", report.broke.iter().map(broke).collect());
    let mut cost: Vec<String> = Vec::new();
    for line in &report.cost.by_loop {
        let whose = if line.used.key.is_empty() { "no loop" } else { &line.used.key };
        let passed = count(line.passed, "pass").replace("passs", "passes");
        let used = spent(line.used.tokens_estimated, line.used.cost_microusd);
        cost.push(format!("{}: {used}, {}, {passed}", literal(whose), span(line.used.duration_seconds)));
    }
    for line in report.cost.by_model.iter().filter(|line| !line.used.key.is_empty()) {
        cost.push(format!("model {}: {}", literal(&line.used.key), spent(line.used.tokens_estimated, line.used.cost_microusd)));
    }
    let total = &report.cost.total;
    if let Some(tokens) = total.tokens_per_passed {
        let money = if total.used.cost_microusd > 0 {
            format!(" ({})", dollars(total.used.cost_microusd / total.passed.max(1)))
        } else {
            String::new()
        };
        cost.push(format!("for each verified test: {tokens} tokens{money}"));
    }
    part("Cost", cost);
    let odd = |odd: &Odd| {
        let what = if is_brief { odd.event_type.replace('_', " ") } else { odd.sentence.clone() };
        format!("{} {}", clock(odd.at), literal(&what))
    };
    part("Unusual", report.odd.iter().map(odd).collect());
    text
}

fn landed(row: &Landed) -> String {
    let title = if row.title.is_empty() { String::new() } else { format!(": {}", literal(&row.title)) };
    format!(
        "**{}** of {}{title}; {}, {}, {}: `loopctl why {}`",
        literal(row.test_id.as_str()),
        literal(row.loop_id.as_str()),
        if row.checks.is_empty() { "verified".to_owned() } else { format!("verified by {}", literal(&list(&row.checks))) },
        count(row.attempt, "attempt"),
        if row.is_last { spent(row.tokens_estimated, row.cost_microusd) } else { "landed again later".to_owned() },
        code(&short(&row.commit))
    )
}

fn broke(broke: &Broke) -> String {
    let row = &broke.row;
    let by = row.blamed_loop.as_deref().map(|id| format!(", broken by {id}")).unwrap_or_default();
    let at = row.first_bad_commit.as_deref().map(|commit| format!(" with {}", short(commit))).unwrap_or_default();
    let mended = match (&broke.mended_by, &broke.mended_with, &broke.passes_again_at) {
        (Some(by), Some(commit), _) => format!("; mended by {by} with {}", short(commit)),
        (_, _, Some(commit)) => format!("; passes again at {}", short(commit)),
        _ => format!("; {}", row.status),
    };
    literal(&format!("test {}{by}{at}{mended}", row.test_id))
}
