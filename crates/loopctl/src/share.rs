//! What the loops share: knowledge, ownership, change requests, migration numbers, usage, questions.

use coord_db::payload::DecisionOption;
use coord_db::{
    ActorId, ChangeRequest, Knowledge, KnowledgeSearch, LoopId, MigrationStatus, NewDecision, NewKnowledge, ReadTx,
    RequestStatus, ResourceType, Rework, UsageKey, UsageLine,
};
use coord_db::{Error, LeasePath};
use serde_json::{Value, json};

use crate::cli::{AskArgs, KnowledgeCommand, MigrationCommand, RequestCommand, UsageBy, UsageCommand};
use crate::context::Context;
use crate::exit::{Failure, Outcome};
use crate::output::{Table, plain, safe_block};
use crate::when::{clock, span};

/// `loopctl knowledge …`
///
/// # Errors
/// As the floor says.
pub fn knowledge(cx: &Context, command: KnowledgeCommand) -> Outcome {
    let db = cx.open()?;
    match command {
        KnowledgeCommand::Add { content, item_type, loop_id, topic, confidence, evidence, areas, supersedes } => {
            let by = cx.actor_or(loop_id.as_ref());
            let new =
                NewKnowledge { loop_id, item_type, topic, content, confidence, evidence, affected_areas: areas, supersedes };
            let id = db.write(|tx| tx.add_knowledge(&new, &by))?;
            cx.out.answer(&json!({ "id": id }), &id)
        }
        KnowledgeCommand::Search { words, topic, path, item_type, all, limit } => {
            let most = usize::try_from(limit).unwrap_or(usize::MAX);
            let search = KnowledgeSearch { words, topic, path, item_type, superseded: all, most };
            let rows = db.read(|tx| tx.search_knowledge(&search))?;
            knowledge_list(cx, &rows)
        }
        KnowledgeCommand::History { id } => {
            let rows = db.read(|tx| tx.knowledge_history(&id))?;
            cx.out.list(&rows, "nothing is known about that", |rows| {
                Table::of(&["RECORDED", "ID", "TYPE", "LOOP", "SUPERSEDED BY", "CONTENT"], rows, |row| {
                    vec![
                        plain(clock(row.created_at)),
                        plain(&row.id),
                        plain(row.item_type.as_str()),
                        plain(row.loop_id.as_ref().map_or("human", |id| id.as_str())),
                        plain(row.superseded_by.as_deref().unwrap_or("it stands")),
                        plain(&row.content),
                    ]
                })
            })
        }
        KnowledgeCommand::Supersede { id, by } => {
            let row = db.write(|tx| {
                tx.supersede_knowledge(&id, &by)?;
                tx.knowledge(&id)
            })?;
            cx.out.done(&row, &format!("{by} takes the place of {id}"))
        }
        KnowledgeCommand::Context { test, bytes } => {
            let context = db.read(|tx| tx.knowledge_context(&tx.test(&test)?, bytes))?;
            match (cx.out.json, context.text.is_empty()) {
                (true, _) => cx.out.document(&context),
                (false, true) => cx.out.done(&context, "nothing is known that touches it"),
                (false, false) => cx.out.text(&safe_block(&context.text)),
            }
        }
    }
}

fn knowledge_list(cx: &Context, rows: &[Knowledge]) -> Outcome {
    cx.out.list(rows, "nothing is known about that", |rows| {
        Table::of(&["ID", "TYPE", "LOOP", "TOPIC", "CONTENT"], rows, |row| {
            vec![
                plain(&row.id),
                plain(row.item_type.as_str()),
                plain(row.loop_id.as_ref().map_or("human", |id| id.as_str())),
                plain(row.topic.as_deref().unwrap_or("-")),
                plain(&row.content),
            ]
        })
    })
}

/// `loopctl own`
///
/// # Errors
/// Exit 1 if another loop owns it, 2 for a file that is not relative to the repository.
pub fn own(cx: &Context, what: Option<(&str, &LoopId)>, kind: ResourceType, description: Option<&str>) -> Outcome {
    let db = cx.open()?;
    let Some((path, loop_id)) = what else {
        let rows = db.read(|tx| tx.resources())?;
        return cx.out.list(&rows, "nobody owns anything", |rows| {
            Table::of(&["PATH", "OWNER", "TYPE", "SINCE", "DESCRIPTION"], rows, |row| {
                vec![
                    plain(&row.path),
                    plain(&row.owner_loop),
                    plain(row.resource_type.as_str()),
                    plain(clock(row.created_at)),
                    plain(row.description.as_deref().unwrap_or("")),
                ]
            })
        });
    };
    let path = resource_path(path, matches!(kind, ResourceType::File | ResourceType::Migration))?;
    let row = db.write(|tx| {
        tx.own(&path, loop_id, kind, description)?;
        tx.resource(&path)
    })?;
    cx.out.done(&row, &format!("{loop_id} owns {path}"))
}

/// Files are spelled as leases spell them; anything else is a name.
fn resource_path(text: &str, is_file: bool) -> Outcome<String> {
    if is_file {
        return Ok(text.parse::<LeasePath>()?.to_string());
    }
    if text.trim().is_empty() { Err(Failure::usage("the name is empty; say what is owned")) } else { Ok(text.to_owned()) }
}

/// `loopctl request …`
///
/// # Errors
/// Exit 4 for an unknown request or a path that nobody owns, 1 for an illegal move.
pub fn request(cx: &Context, command: RequestCommand) -> Outcome {
    let db = cx.open()?;
    match command {
        RequestCommand::Create { path, loop_id, request_type, description } => {
            // Owned under its normal spelling if it is a file, as it stands otherwise.
            let normal = path.parse::<LeasePath>().map(|path| path.to_string());
            let id = db.write(|tx| {
                let path = match normal {
                    Ok(normal) if tx.resource(&path)?.is_none() => normal,
                    Err(error) if tx.resource(&path)?.is_none() => return Err(error),
                    _ => path,
                };
                tx.request_change(&path, &loop_id, request_type, &description)
            })?;
            cx.out.answer(&json!({ "id": id }), &id)
        }
        RequestCommand::List { status } => {
            let rows = db.read(|tx| tx.change_requests(status))?;
            cx.out.list(&rows, "no change requests", |rows| {
                Table::of(&["ID", "STATUS", "FROM", "OWNER", "TYPE", "PATH", "DESCRIPTION"], rows, |row: &ChangeRequest| {
                    vec![
                        plain(&row.id),
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
        RequestCommand::Approve { id } => judge(cx, &id, RequestStatus::Approved),
        RequestCommand::Reject { id } => judge(cx, &id, RequestStatus::Rejected),
        RequestCommand::Apply { id } => {
            let row = db.write(|tx| {
                let requestor = tx.change_request(&id)?.requestor_loop;
                tx.resolve_change(&id, RequestStatus::Applied, &cx.actor_or(Some(&requestor)))?;
                tx.change_request(&id)
            })?;
            cx.out.done(&row, &format!("change request {id} is applied"))
        }
    }
}

fn judge(cx: &Context, id: &str, to: RequestStatus) -> Outcome {
    let by: ActorId = cx.actor();
    if !matches!(by.as_str(), "human" | "pm") {
        return Err(Failure::No(format!("{by} cannot answer a change request; leave it to pm or the human")));
    }
    let db = cx.open()?;
    let row = db.write(|tx| {
        tx.resolve_change(id, to, &by)?;
        tx.change_request(id)
    })?;
    cx.out.done(&row, &format!("change request {id} is {to}"))
}

/// `loopctl migration …`
///
/// # Errors
/// Exit 4 for an unknown loop or number, 1 if it has ended already.
pub fn migration(cx: &Context, command: MigrationCommand) -> Outcome {
    let db = cx.open()?;
    match command {
        MigrationCommand::Allocate { name, loop_id, file } => {
            if let Some(file) = &file {
                file.parse::<LeasePath>()?;
            }
            let number = db.write(|tx| tx.allocate_migration(&name, &loop_id, file.as_deref()))?;
            cx.out.answer(&json!({ "number": number, "name": name }), &number.to_string())
        }
        MigrationCommand::List => {
            let rows = db.read(|tx| tx.migrations())?;
            cx.out.list(&rows, "no migrations", |rows| {
                Table::of(&["NUMBER", "STATUS", "LOOP", "NAME", "FILE"], rows, |row| {
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

fn end_migration(cx: &Context, db: &coord_db::Database, number: i64, status: MigrationStatus) -> Outcome {
    let row = db.write(|tx| {
        tx.end_migration(number, status)?;
        Ok::<_, Error>(tx.migrations()?.into_iter().find(|row| row.number == number))
    })?;
    cx.out.done(&row, &format!("migration {number} is {status}"))
}

/// `loopctl usage …`
///
/// # Errors
/// Exit 4 for an unknown loop or test.
pub fn usage(cx: &Context, command: UsageCommand) -> Outcome {
    let db = cx.open()?;
    match command {
        UsageCommand::Record { loop_id, test, tokens, seconds, files } => {
            let id = db.write(|tx| {
                if let Some(loop_id) = &loop_id {
                    tx.loop_row(loop_id)?;
                }
                if let Some(test) = &test {
                    tx.test(test)?;
                }
                tx.record_usage(loop_id.as_ref(), test.as_ref(), tokens, seconds, &files)
            })?;
            cx.out.answer(&json!({ "id": id }), &id)
        }
        UsageCommand::Report { by, since } => {
            let since = |tx: &ReadTx<'_>| since.map(|since| since.resolve(tx.now()));
            let by = match by {
                UsageBy::Loop => UsageKey::Loop,
                UsageBy::Test => UsageKey::Test,
                UsageBy::Day => UsageKey::Day,
                UsageBy::Rework => {
                    let rows = db.read(|tx| tx.rework(since(tx)))?;
                    return rework_list(cx, &rows);
                }
            };
            let budgets = cx.config()?.budget;
            let rows = db.read(|tx| tx.usage_report(by, since(tx), &budgets))?;
            usage_list(cx, &rows)
        }
    }
}

fn usage_list(cx: &Context, rows: &[UsageLine]) -> Outcome {
    let pair = |tokens: i64, seconds: i64| {
        if tokens == 0 && seconds == 0 { "-".to_owned() } else { format!("{tokens} in {}", span(seconds)) }
    };
    cx.out.list(rows, "no use is recorded", |rows| {
        let head =
            ["FOR", "RECORDS", "TOKENS", "TIME", "PASSED", "FOR EACH PASS", "LOST TO OTHERS", "COST OTHERS", "OF THE BUDGET"];
        Table::of(&head, rows, |row| {
            let each = row.tokens_per_passed.zip(row.seconds_per_passed);
            let budgets =
                row.budgets.iter().map(|part| format!("{} {}/{} ({} %)", part.budget, part.used, part.limit, part.percent));
            vec![
                plain(if row.key.is_empty() { "-" } else { &row.key }),
                plain(row.records.to_string()),
                plain(row.tokens_estimated.to_string()),
                plain(span(row.duration_seconds)),
                plain(row.passed.to_string()),
                plain(each.map_or_else(|| "-".to_owned(), |(tokens, seconds)| format!("{tokens} in {}", span(seconds)))),
                plain(pair(row.rework_suffered_tokens, row.rework_suffered_seconds)),
                plain(pair(row.rework_caused_tokens, row.rework_caused_seconds)),
                plain(budgets.collect::<Vec<_>>().join(", ")),
            ]
        })
    })
}

fn rework_list(cx: &Context, rows: &[Rework]) -> Outcome {
    cx.out.list(rows, "nothing was done again because of a loop", |rows| {
        Table::of(&["TEST", "SPENT BY", "CHARGED TO", "BECAUSE OF", "TOKENS", "TIME", "EVENT"], rows, |row| {
            vec![
                plain(&row.test_id),
                plain(row.loop_id.as_ref().map_or("-", |id| id.as_str())),
                plain(&row.charged_to),
                plain(row.cause.as_str()),
                plain(row.tokens_estimated.to_string()),
                plain(span(row.duration_seconds)),
                plain(&row.event_id),
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
        return Err(Failure::usage("the question is empty; say in --summary what is to be decided"));
    }
    let context: Value = serde_json::from_str(&args.context)
        .map_err(|error| Failure::usage(format!("the context is no JSON: {error}; quote it for the shell")))?;
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
    let id = db.write(|tx| tx.ask(&new, None))?;
    cx.out.answer(&json!({ "id": id }), id.as_str())
}
