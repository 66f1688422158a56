//! What the loops share: knowledge, ownership, change requests, migration numbers, usage, questions.

use coord_db::Error;
use coord_db::payload::{DecisionOption, MICROUSD, amount};
use coord_db::{
    ActorId, ChangeRequest, IdOf, Knowledge, KnowledgeSearch, LoopId, Migration, MigrationStatus, ModelUse, NewDecision,
    NewKnowledge, ReadTx, RequestStatus, ResourceType, Rework, UnusedBecause, UnusedNumber, UsageKey, UsageLine, dollars,
    microusd,
};
use serde_json::{Value, json};
use views::ids::Short;
use views::questions::questions;
use views::text::{safe, safe_block};
use views::when::{clock, span};

use crate::cli::{AskArgs, KnowledgeCommand, MigrationCommand, RequestCommand, RequestFilter, UsageBy, UsageCommand};
use crate::context::{Context, history};
use crate::exit::{Failure, Outcome, eprintln_quietly};
use crate::ids;
use crate::output::{Table, id_cell, plain};
use crate::place::{Place, is_path};

/// `loopctl knowledge …`
///
/// # Errors
/// What the database reports.
pub fn knowledge(cx: &Context, command: KnowledgeCommand) -> Outcome {
    let (db, config) = cx.open_with_config()?;
    match command {
        KnowledgeCommand::Add { content, item_type, loop_id, topic, confidence, evidence, areas, supersedes } => {
            let by = cx.actor_or(loop_id.as_ref());
            let affected_areas = Place::of(cx, &config)?.globs(areas)?;
            let mut new = NewKnowledge { loop_id, item_type, topic, content, confidence, evidence, affected_areas, supersedes };
            let row = db.write(|tx| {
                for id in &mut new.supersedes {
                    *id = ids::find(tx, IdOf::Knowledge, id)?;
                }
                Ok::<_, Failure>(tx.knowledge(&tx.add_knowledge(&new, &by)?)?)
            })?;
            cx.out.answer(&row, &row.id)
        }
        KnowledgeCommand::Search { words, topic, path, item_type, all, limit } => {
            let limit = usize::try_from(limit).unwrap_or(usize::MAX);
            let place = Place::of(cx, &config)?;
            let path = path.map(|path| place.name(&path)).transpose()?;
            let search = KnowledgeSearch { words, topic, path, item_type, superseded: all, limit };
            let (rows, short) = db.read(|tx| {
                let rows = tx.search_knowledge(&search)?;
                let short = Short::of(tx, IdOf::Knowledge, rows.iter().map(|row| row.id.as_str()))?;
                Ok::<_, Error>((rows, short))
            })?;
            knowledge_list(cx, &rows, &short)
        }
        KnowledgeCommand::History { id } => {
            let (rows, short) = db.read(|tx| {
                let rows = tx.knowledge_history(&ids::find(tx, IdOf::Knowledge, &id)?)?;
                let named = rows.iter().flat_map(|row| [Some(row.id.as_str()), row.superseded_by.as_deref()]).flatten();
                let short = Short::of(tx, IdOf::Knowledge, named)?;
                Ok::<_, Failure>((rows, short))
            })?;
            cx.out.list(&rows, "no knowledge items match", |rows| {
                Table::of(&["RECORDED", "ID", "TYPE", "LOOP", "SUPERSEDED BY", "CONTENT"], rows, |row| {
                    vec![
                        plain(clock(row.created_at)),
                        id_cell(&short, &row.id),
                        plain(row.item_type.as_str()),
                        plain(row.loop_id.as_ref().map_or("human", |id| id.as_str())),
                        plain(row.superseded_by.as_deref().map_or("-", |id| short.get(id))),
                        plain(&row.content),
                    ]
                })
            })
        }
        KnowledgeCommand::Supersede { id, by } => {
            let (row, short) = db.write(|tx| {
                let id = ids::find(tx, IdOf::Knowledge, &id)?;
                let by = ids::find(tx, IdOf::Knowledge, &by)?;
                tx.supersede_knowledge(&id, &by)?;
                Ok::<_, Failure>((tx.knowledge(&id)?, Short::of(tx, IdOf::Knowledge, [id.as_str(), by.as_str()])?))
            })?;
            let by = row.superseded_by.as_deref().unwrap_or(&by);
            cx.out.done(&row, &format!("{} replaces {}", short.get(by), short.get(&row.id)))
        }
        KnowledgeCommand::Context { test, bytes } => {
            let context = db.read(|tx| tx.knowledge_context(&tx.test(&test)?, bytes))?;
            match (cx.out.json, context.text.is_empty()) {
                (true, _) => cx.out.document(&context),
                (false, true) => cx.out.done(&context, "no knowledge items are about its files"),
                (false, false) => cx.out.text(&safe_block(&context.text)),
            }
        }
    }
}

fn knowledge_list(cx: &Context, rows: &[Knowledge], short: &Short) -> Outcome {
    cx.out.list(rows, "no knowledge items match", |rows| {
        Table::of(&["ID", "TYPE", "LOOP", "TOPIC", "CONTENT"], rows, |row| {
            vec![
                id_cell(short, &row.id),
                plain(row.item_type.as_str()),
                plain(row.loop_id.as_ref().map_or("human", |id| id.as_str())),
                plain(row.topic.as_deref().unwrap_or("-")),
                plain(&row.content),
            ]
        })
    })
}

/// `loopctl own`, without a path: who owns what, or what one loop owns.
///
/// # Errors
/// Exit 4 for an unknown loop.
pub fn owned(cx: &Context, loop_id: Option<&LoopId>) -> Outcome {
    let db = cx.open()?;
    let rows = db.read(|tx| {
        if let Some(loop_id) = loop_id {
            tx.loop_row(loop_id)?;
        }
        let mut rows = tx.resources()?;
        rows.retain(|row| loop_id.is_none_or(|id| row.owner_loop == *id));
        Ok::<_, Error>(rows)
    })?;
    let none = loop_id.map_or_else(|| "no resource has an owner".to_owned(), |id| format!("{id} owns nothing"));
    cx.out.list(&rows, &none, |rows| {
        Table::of(&["PATH", "OWNER", "TYPE", "SINCE", "DESCRIPTION"], rows, |row| {
            vec![
                plain(&row.path),
                plain(&row.owner_loop),
                plain(row.resource_type.as_str()),
                plain(clock(row.created_at)),
                plain(row.description.as_deref().unwrap_or("")),
            ]
        })
    })
}

/// `loopctl own PATH --loop L`
///
/// # Errors
/// Exit 1 if another loop owns it, what is above or a part of it; 2 for a file that is not relative to the repository.
pub fn own(cx: &Context, path: &str, loop_id: &LoopId, kind: ResourceType, description: Option<&str>) -> Outcome {
    let (db, config) = cx.open_with_config()?;
    let path = if is_path(kind) { Place::of(cx, &config)?.path(path)?.to_string() } else { path.to_owned() };
    let row = db.write(|tx| {
        tx.own(&path, loop_id, kind, description)?;
        tx.resource_for(&path)
    })?;
    cx.out.done(&row, &format!("{loop_id} owns {}", row.path))
}

/// `loopctl own PATH --release`
///
/// # Errors
/// Exit 4 if nobody owns it, 1 for a loop that does not own it or while a request about it waits for an answer.
pub fn disown(cx: &Context, path: &str) -> Outcome {
    let (db, config) = cx.open_with_config()?;
    let place = Place::of(cx, &config)?;
    let row = db.write(|tx| Ok::<_, Failure>(tx.disown(&place.resource(tx, path)?, &cx.actor())?))?;
    cx.out.done(&row, &format!("{} has no owner now; it was owned by {}", row.path, row.owner_loop))
}

/// `loopctl request …`
///
/// # Errors
/// Exit 4 for an unknown request or a path that nobody owns, 1 for an illegal move.
pub fn request(cx: &Context, command: RequestCommand) -> Outcome {
    let (db, config) = cx.open_with_config()?;
    match command {
        RequestCommand::Create { path, loop_id, request_type, description } => {
            let place = Place::of(cx, &config)?;
            let row = db.write(|tx| {
                let path = place.resource(tx, &path)?;
                let id = tx.request_change(&path, &loop_id, request_type, &description)?;
                Ok::<_, Failure>(tx.change_request(&id)?)
            })?;
            cx.out.answer(&row, &row.id)
        }
        RequestCommand::List(RequestFilter { status }) => {
            let (rows, short) = db.read(|tx| {
                let rows = tx.change_requests(status)?;
                let short = Short::of(tx, IdOf::ChangeRequest, rows.iter().map(|row| row.id.as_str()))?;
                Ok::<_, Error>((rows, short))
            })?;
            cx.out.list(&rows, "no change requests", |rows| {
                Table::of(&["ID", "STATUS", "FROM", "OWNER", "TYPE", "PATH", "DESCRIPTION"], rows, |row: &ChangeRequest| {
                    vec![
                        id_cell(&short, &row.id),
                        plain(row.status.as_str()),
                        plain(&row.requestor_loop),
                        plain(&row.owner_loop),
                        plain(row.request_type.as_str()),
                        plain(&row.resource_path),
                        plain(&row.description),
                    ]
                })
            })
        }
        RequestCommand::Approve { id } => resolve(cx, &db, &id, RequestStatus::Approved, |_| cx.actor()),
        RequestCommand::Reject { id } => resolve(cx, &db, &id, RequestStatus::Rejected, |_| cx.actor()),
        RequestCommand::Apply { id } => {
            let by = |row: &ChangeRequest| cx.actor_or(Some(&row.requestor_loop));
            resolve(cx, &db, &id, RequestStatus::Applied, by)
        }
    }
}

fn resolve(
    cx: &Context,
    db: &coord_db::Database,
    id: &str,
    to: RequestStatus,
    by: impl FnOnce(&ChangeRequest) -> ActorId,
) -> Outcome {
    let (row, short) = db.write(|tx| {
        let id = ids::find(tx, IdOf::ChangeRequest, id)?;
        tx.resolve_change(&id, to, &by(&tx.change_request(&id)?), None)?;
        Ok::<_, Failure>((tx.change_request(&id)?, views::ids::short(tx, IdOf::ChangeRequest, &id)?))
    })?;
    cx.out.done(&row, &format!("change request {short} is {to}"))
}

/// `loopctl migration …`
///
/// # Errors
/// Exit 4 for an unknown loop or number, 1 if it has ended already.
pub fn migration(cx: &Context, command: MigrationCommand) -> Outcome {
    let (db, config) = cx.open_with_config()?;
    match command {
        MigrationCommand::Allocate { name, loop_id, file } => {
            let place = Place::of(cx, &config)?;
            let file = file.map(|file| place.name(&file)).transpose()?;
            let (row, unused) = db.write(|tx| {
                let row = tx.migration(tx.allocate_migration(&name, &loop_id, file.as_deref())?)?;
                Ok::<_, Error>((row, tx.unused_migration_numbers()?))
            })?;
            note_unused(cx, &unused);
            let mut document = json!(Numbered::of(&row, &unused));
            document["unused_numbers"] = json!(unused);
            cx.out.answer(&document, &row.number.to_string())
        }
        MigrationCommand::List => {
            let (rows, unused) = db.read(|tx| Ok::<_, Error>((tx.migrations()?, tx.unused_migration_numbers()?)))?;
            let listed: Vec<Numbered<'_>> = rows.iter().map(|row| Numbered::of(row, &unused)).collect();
            note_unused(cx, &unused);
            cx.out.list(&listed, "no migrations", |rows| {
                Table::of(&["NUMBER", "STATUS", "LOOP", "NAME", "FILE"], rows, |Numbered { row, .. }| {
                    vec![
                        plain(row.number.to_string()),
                        plain(row.status.as_str()),
                        plain(row.loop_id.as_ref().map_or("-", |id| id.as_str())),
                        plain(&row.name),
                        plain(row.file_path.as_deref().unwrap_or("-")),
                    ]
                })
            })
        }
        MigrationCommand::Done { number } => end_migration(cx, &db, number, MigrationStatus::Applied),
        MigrationCommand::Fail { number } => end_migration(cx, &db, number, MigrationStatus::Failed),
    }
}

/// A migration with why its number stays unused, if it does.
#[derive(Debug, serde::Serialize)]
struct Numbered<'a> {
    #[serde(flatten)]
    row: &'a Migration,
    unused: Option<UnusedBecause>,
}

impl<'a> Numbered<'a> {
    fn of(row: &'a Migration, unused: &[UnusedNumber]) -> Self {
        let own = unused.iter().find(|unused| unused.number == row.number && unused.last == row.number);
        Self { row, unused: own.map(|unused| unused.because) }
    }
}

/// On stderr, so that what is printed stays the number or the list.
fn note_unused(cx: &Context, unused: &[UnusedNumber]) {
    if cx.out.json || cx.out.quiet {
        return;
    }
    for number in unused {
        eprintln_quietly(&format!("loopctl: {}", safe(&number.to_string())));
    }
}

fn end_migration(cx: &Context, db: &coord_db::Database, number: i64, status: MigrationStatus) -> Outcome {
    let (row, unused) = db.write(|tx| {
        tx.end_migration(number, status, &cx.actor())?;
        Ok::<_, Error>((tx.migration(number)?, tx.unused_migration_numbers()?))
    })?;
    cx.out.done(&Numbered::of(&row, &unused), &format!("migration {number} is {status}"))
}

/// `loopctl usage …`
///
/// # Errors
/// Exit 4 for an unknown loop or test.
pub fn usage(cx: &Context, command: UsageCommand) -> Outcome {
    let (db, config) = cx.open_with_config()?;
    match command {
        UsageCommand::Record { loop_id, test, tokens, usd, seconds, files } => {
            let used = ModelUse { cost_microusd: usd.map(microusd), ..ModelUse::of_tokens(tokens) };
            let place = Place::of(cx, &config)?;
            let files = files.iter().map(|file| place.name(file)).collect::<Outcome<Vec<String>>>()?;
            let id = db.write(|tx| {
                if let Some(loop_id) = &loop_id {
                    tx.loop_row(loop_id)?;
                }
                if let Some(test) = &test {
                    tx.test(test)?;
                }
                tx.record_usage(loop_id.as_ref(), test.as_ref(), &used, seconds, &files)
            })?;
            cx.out.answer(&json!({ "id": id }), &id)
        }
        UsageCommand::Report { by, since } => {
            let since = |tx: &ReadTx<'_>| since.map(|since| since.resolve(tx.now()));
            let history = history(&db);
            let by = match by {
                UsageBy::Loop => UsageKey::Loop,
                UsageBy::Test => UsageKey::Test,
                UsageBy::Day => UsageKey::Day,
                UsageBy::Model => UsageKey::Model,
                UsageBy::Rework => {
                    let (rows, short) = history.read(&db, |tx| {
                        let rows = tx.rework(since(tx))?;
                        let short = Short::of(tx, IdOf::Event, rows.iter().map(|row| row.event_id.as_str()))?;
                        Ok((rows, short))
                    })?;
                    return rework_list(cx, &rows, &short);
                }
            };
            let budgets = cx.config()?.budget;
            let rows = history.read(&db, |tx| tx.usage_report(by, since(tx), &budgets))?;
            usage_list(cx, &rows)
        }
    }
}

fn usage_list(cx: &Context, rows: &[UsageLine]) -> Outcome {
    let pair = |tokens: i64, seconds: i64| {
        if tokens == 0 && seconds == 0 { "-".to_owned() } else { format!("{tokens} in {}", span(seconds)) }
    };
    cx.out.list(rows, "no usage is recorded", |rows| {
        let head = [
            "FOR",
            "RECORDS",
            "TOKENS",
            "IN/OUT/CACHE READ/WRITE",
            "COST",
            "TIME",
            "PASSED",
            "COST PER PASS",
            "REWORK SUFFERED",
            "REWORK CAUSED",
            "BUDGET USED",
        ];
        Table::of(&head, rows, |row| {
            let each = row.tokens_per_passed.zip(row.seconds_per_passed);
            let budgets = row.budgets.iter().map(|part| {
                let resource = if part.budget.starts_with("usd") { MICROUSD } else { part.budget };
                let (used, limit) = (amount(resource, part.used), amount(resource, part.limit));
                format!("{} {used}/{limit} ({} %)", part.budget, part.percent)
            });
            let cached = row.used.cache_read_tokens + row.used.cache_write_tokens;
            let kinds = match row.used.input_tokens + row.used.output_tokens + cached {
                0 => "-".to_owned(),
                _ => format!(
                    "{}/{}/{}/{}",
                    row.used.input_tokens, row.used.output_tokens, row.used.cache_read_tokens, row.used.cache_write_tokens
                ),
            };
            vec![
                plain(if row.used.key.is_empty() { "-" } else { &row.used.key }),
                plain(row.used.records.to_string()),
                plain(row.used.tokens_estimated.to_string()),
                plain(kinds),
                plain(if row.used.cost_microusd > 0 { dollars(row.used.cost_microusd) } else { "-".to_owned() }),
                plain(span(row.used.duration_seconds)),
                plain(row.passed.to_string()),
                plain(each.map_or_else(|| "-".to_owned(), |(tokens, seconds)| format!("{tokens} in {}", span(seconds)))),
                plain(pair(row.rework_suffered_tokens, row.rework_suffered_seconds)),
                plain(pair(row.rework_caused_tokens, row.rework_caused_seconds)),
                plain(budgets.collect::<Vec<_>>().join(", ")),
            ]
        })
    })
}

fn rework_list(cx: &Context, rows: &[Rework], short: &Short) -> Outcome {
    cx.out.list(rows, "no rework is recorded", |rows| {
        Table::of(&["TEST", "SPENT BY", "CHARGED TO", "CAUSE", "TOKENS", "TIME", "EVENT"], rows, |row| {
            vec![
                plain(&row.test_id),
                plain(row.loop_id.as_ref().map_or("-", |id| id.as_str())),
                plain(&row.charged_to),
                plain(row.cause.as_str()),
                plain(row.tokens_estimated.to_string()),
                plain(span(row.duration_seconds)),
                id_cell(short, row.event_id.as_str()),
            ]
        })
    })
}

/// `loopctl ask`: a question to the human.
///
/// # Errors
/// Exit 2 for options, a default or a context that make no sense.
pub fn ask(cx: &Context, args: AskArgs) -> Outcome {
    let mut options = Vec::new();
    for option in &args.options {
        let (id, description) = option
            .split_once('=')
            .ok_or_else(|| Failure::usage(format!("option {option:?} has no description; write it as ID=DESCRIPTION")))?;
        options.push(DecisionOption { id: id.trim().to_owned(), description: description.trim().to_owned() });
    }
    if args.summary.trim().is_empty() || args.decision_type.trim().is_empty() {
        return Err(Failure::usage("the question is empty; write it in --summary, and its kind in --type"));
    }
    let context: Value = serde_json::from_str(&args.context)
        .map_err(|error| Failure::usage(format!("the context is not valid JSON: {error}; quote it for the shell")))?;
    let (db, config) = cx.open_with_config()?;
    let by_default = args.default.as_ref().map(|_| config.pm.decision_timeout_minutes);
    let new = NewDecision {
        decision_type: args.decision_type,
        summary: args.summary,
        options,
        timeout_minutes: args.timeout_minutes.or(by_default),
        default_option: args.default,
        context,
        requested_by: cx.actor(),
        fingerprint: args.fingerprint,
    };
    let question = db.write(|tx| {
        let row = tx.decision(&tx.ask(&new, None)?)?;
        questions(tx, vec![row])
    })?;
    let question = question.first().ok_or(Failure::Reported)?;
    cx.out.answer(question, question.row.id.as_str())
}
