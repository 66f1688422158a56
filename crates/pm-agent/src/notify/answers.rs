//! Takes answers from the phone while a question is open: a thread that asks the service, so that no port is opened here.
//!
//! An answer becomes the same event that `loopctl decide` publishes.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use coord_db::config::NotifyBy;
use coord_db::wake::{Listener, SLOW_LOOK};
use coord_db::{ActorId, Config, Database, Error, Result};

use super::token::answer_token;
use super::{ntfy, telegram};

/// The pause after a failed request; it doubles.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// The settings, as the supervisor has them now.
pub(crate) type Shared = Arc<Mutex<Arc<Config>>>;

/// How far answers have been read.
#[derive(Debug, Default)]
struct Position {
    /// Of ntfy.
    message: Option<String>,
    /// Of Telegram.
    offset: i64,
}

/// Starts the thread. It ends with the process.
pub(crate) fn start(config: Shared, database: PathBuf) {
    let named = std::thread::Builder::new().name("answers".to_owned());
    let started = named.spawn(move || {
        if let Err(error) = receive(&config, &database) {
            tracing::warn!(%error, "no answers are taken from the phone until pm-agent is restarted");
        }
    });
    if let Err(error) = started {
        tracing::warn!(%error, "cannot start the thread that takes answers from the phone");
    }
}

fn receive(config: &Shared, database: &Path) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut listener = Listener::new(database);
    let mut position = Position::default();
    let mut pause = FIRST_PAUSE;
    loop {
        let config = Arc::clone(&config.lock().unwrap_or_else(PoisonError::into_inner));
        let is_asked = || -> Result<bool> {
            let db = Database::open(database, &config.open_options())?;
            Ok(!db.read(|tx| tx.decisions(true))?.is_empty())
        };
        let is_wanted = config.notify.preset != NotifyBy::Command && config.notify.answers;
        // Without a question there is nothing to hear, and an error of the database is reported by the supervisor.
        if !is_wanted || !is_asked().unwrap_or(false) {
            listener.wait(SLOW_LOOK);
            continue;
        }
        match runtime.block_on(listen(&config, database, &mut position)) {
            Ok(()) => pause = FIRST_PAUSE,
            Err(why) => {
                tracing::warn!(why, pause = pause.as_secs(), "cannot ask for answers from the phone");
                runtime.block_on(tokio::time::sleep(pause));
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}

/// One request, and what it brings.
async fn listen(config: &Config, database: &Path, position: &mut Position) -> std::result::Result<(), String> {
    let Some(key) = config.notify.token(&config.folder)? else {
        // Without a token questions are sent without buttons.
        tokio::time::sleep(SLOW_LOOK).await;
        return Ok(());
    };
    let answer = |token: &str, source: &str| {
        let db = Database::open(database, &config.open_options());
        let taken = db.and_then(|db| take(&db, &key, token, source));
        match taken {
            Ok(text) => text,
            Err(error) => {
                tracing::warn!(%error, source, "an answer from the phone is not taken");
                error.to_string()
            }
        }
    };
    match config.notify.preset {
        NotifyBy::Command => Ok(()),
        NotifyBy::Ntfy => {
            let request = ntfy::listen(&config.notify, &key, position.message.as_deref());
            let heard = |line: &str| {
                if let Some((id, token)) = ntfy::heard(line) {
                    position.message = Some(id);
                    if let Some(token) = token {
                        answer(&token, "ntfy");
                    }
                }
            };
            is_success(request.send_reading(config, heard).await?.0)
        }
        NotifyBy::Telegram => {
            let (status, said) = telegram::updates(&config.notify, &key, position.offset).send(config).await?;
            is_success(status)?;
            let (presses, next) = telegram::presses(&config.notify, &said, position.offset);
            position.offset = next;
            for press in presses {
                let text = answer(&press.token, "telegram");
                // A confirmation that is lost changes nothing.
                let _ = telegram::confirm(&config.notify, &key, &press, &text).send(config).await;
            }
            Ok(())
        }
    }
}

fn is_success(status: u16) -> std::result::Result<(), String> {
    if (200..300).contains(&status) { Ok(()) } else { Err(format!("the service answers with status {status}")) }
}

/// Answers the question that a token is for. Gives what happened, in words.
fn take(db: &Database, key: &str, token: &str, source: &str) -> Result<String> {
    db.write(|tx| {
        for decision in tx.decisions(true)? {
            for option in decision.option_ids() {
                if answer_token(key, decision.id.as_str(), &option) == token {
                    return match tx.answer(&decision.id, &option, None, &ActorId::human(), source) {
                        Ok(_) => Ok(format!("answered: {option}")),
                        Err(Error::Settled { .. }) => Ok("it is answered already".to_owned()),
                        Err(error) => Err(error),
                    };
                }
            }
        }
        Ok("the question is not open any more".to_owned())
    })
}
