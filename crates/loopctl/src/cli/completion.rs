//! Completion in shells: what an argument is called (LOOP, TEST, DECISION, …) says which ids complete it.
//!
//! The shell's script calls this program with [`VARIABLE`] set. The database is read as it is and never changed, and nothing
//! that goes wrong is reported: there is no completion then.

use std::path::{Path, PathBuf};

use clap::Command;
use clap_complete::CompleteEnv;
use clap_complete::engine::{ArgValueCandidates, CompletionCandidate};
use clap_complete::env::Shells;
use coord_db::{Database, EventFilter, KnowledgeSearch, ReadTx, RequestStatus, Result, locate, short_id};
use views::sentence::sentence;
use views::text::{one_line, shortened};

const VARIABLE: &str = "LOOPCTL_COMPLETE";
/// Maximum number of candidates of a kind that grows without end.
const MAX_CANDIDATES: usize = 100;
/// Maximum length of a description, in characters.
const MAX_HELP: usize = 80;

/// Completes a command line and ends the process, if the shell asks for that.
pub fn complete_if_asked() {
    CompleteEnv::with_factory(super::command).var(VARIABLE).complete();
}

/// The script that has a shell ask; none for a shell that is not supported.
#[must_use]
pub fn registration(shell: &str) -> Option<Vec<u8>> {
    let mut script = Vec::new();
    Shells::builtins().completer(shell)?.write_registration(VARIABLE, "loopctl", "loopctl", "loopctl", &mut script).ok()?;
    if shell == "zsh" {
        // Loaded by its name, the file is the function of the first completion too.
        script.extend_from_slice(b"\nif [ \"$funcstack[1]\" = _loopctl ]; then _clap_dynamic_completer_loopctl; fi\n");
    }
    Some(script)
}

/// The command line with candidates for each argument that takes an id.
pub fn with_candidates(command: Command) -> Command {
    command
        .mut_args(|argument| {
            let name = argument.get_value_names().and_then(<[_]>::first).map(|name| name.to_string()).unwrap_or_default();
            let kinds: Vec<Kind> = name.split('|').filter_map(Kind::of).collect();
            if kinds.is_empty() {
                return argument;
            }
            argument.add(ArgValueCandidates::new(move || candidates(&kinds).unwrap_or_default()))
        })
        .mut_subcommands(with_candidates)
}

/// What an argument names.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Alert,
    All,
    ChangeRequest,
    Checkpoint,
    Component,
    Decision,
    Event,
    JournalEntry,
    Knowledge,
    Loop,
    Option,
    Subscriber,
    Test,
}

impl Kind {
    fn of(value_name: &str) -> Option<Self> {
        Some(match value_name {
            "ALERT" => Self::Alert,
            "all" => Self::All,
            "REQUEST" => Self::ChangeRequest,
            "CHECKPOINT" => Self::Checkpoint,
            "COMPONENT" => Self::Component,
            "DECISION" => Self::Decision,
            "EVENT" => Self::Event,
            "ENTRY" => Self::JournalEntry,
            "ITEM" => Self::Knowledge,
            "LOOP" => Self::Loop,
            "OPTION" => Self::Option,
            "SUBSCRIBER" => Self::Subscriber,
            "TEST" => Self::Test,
            _ => return None,
        })
    }

    /// Each id with what it is.
    fn ids(self, tx: &ReadTx<'_>) -> Result<Vec<(String, String)>> {
        let short = |id: &str| short_id(id).to_owned();
        Ok(match self {
            Self::Alert => tx.alerts(true)?.into_iter().map(|row| (short(&row.id), row.message)).collect(),
            Self::All => vec![("all".to_owned(), "every loop".to_owned())],
            Self::ChangeRequest => {
                let rows = tx.change_requests(Some(RequestStatus::Pending))?.into_iter();
                let rows = rows.chain(tx.change_requests(Some(RequestStatus::Approved))?);
                rows.map(|row| (short(&row.id), format!("{} {}", row.request_type, row.resource_path))).collect()
            }
            Self::Checkpoint => tx
                .checkpoints(None, false)?
                .into_iter()
                .map(|row| (short(&row.id), format!("{} {}", row.loop_id, row.git_ref)))
                .collect(),
            Self::Component => tx.components()?.into_iter().map(|row| (row.component, String::new())).collect(),
            Self::Decision => tx.decisions(true)?.into_iter().map(|row| (short(row.id.as_str()), row.summary)).collect(),
            Self::Event => {
                let newest = EventFilter { limit: i64::try_from(MAX_CANDIDATES).ok(), ..EventFilter::default() };
                tx.events(&newest)?.iter().rev().map(|event| (short(event.id.as_str()), sentence(event))).collect()
            }
            Self::JournalEntry => tx.open_journal(None)?.into_iter().map(|row| (short(&row.id), row.operation)).collect(),
            Self::Knowledge => {
                let newest = KnowledgeSearch { limit: MAX_CANDIDATES, ..KnowledgeSearch::default() };
                tx.search_knowledge(&newest)?.into_iter().map(|row| (short(&row.id), row.content)).collect()
            }
            Self::Loop => tx.loops()?.into_iter().map(|row| (row.id.to_string(), row.name)).collect(),
            Self::Option => tx.decisions(true)?.iter().flat_map(|row| row.option_ids()).map(|id| (id, String::new())).collect(),
            Self::Subscriber => tx.subscriptions(None)?.into_iter().map(|row| (row.subscriber, String::new())).collect(),
            Self::Test => tx.tests(None, None)?.into_iter().map(|row| (row.id.to_string(), row.status.to_string())).collect(),
        })
    }
}

fn candidates(kinds: &[Kind]) -> Result<Vec<CompletionCandidate>> {
    let here = std::env::current_dir().unwrap_or_default();
    let path = locate::database(named_database().as_deref(), &here);
    Database::peek(&path, |tx| {
        let mut found = Vec::new();
        for kind in kinds {
            found.extend(kind.ids(tx)?);
        }
        // A shell acts on control characters as a terminal does.
        found.retain(|(id, _)| !id.chars().any(char::is_control));
        let help = |text: &str| (!text.is_empty()).then(|| shortened(&one_line(text), MAX_HELP).into());
        Ok(found.into_iter().map(|(id, text)| CompletionCandidate::new(id).help(help(&text))).collect())
    })
}

/// The value of `--db` on the command line that is completed.
fn named_database() -> Option<PathBuf> {
    let words: Vec<String> = std::env::args_os().filter_map(|word| word.into_string().ok()).collect();
    let next = words.iter().position(|word| word == "--db").and_then(|at| words.get(at + 1));
    let joined = words.iter().find_map(|word| word.strip_prefix("--db="));
    next.map(String::as_str).or(joined).map(|path| Path::new(path).to_owned())
}
