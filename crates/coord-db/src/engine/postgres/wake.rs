//! Waking by the server: a connection of its own that listens for what writers notify when they commit.
//!
//! After a connection broke it connects again, and that counts as a wake: what was notified meanwhile reached nobody.

use std::future::poll_fn;
use std::sync::mpsc as answers;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_postgres::{AsyncMessage, NoTls};

use super::address::Address;
use super::errors::Failure;
use super::worker::{CONNECT_LIMIT, answered};
use crate::Result;

/// What a connection is to hear.
const LISTEN: &str = "LISTEN coding_loops";
/// The pause before another try to connect.
const PAUSE: Duration = Duration::from_secs(1);

/// Listens until it is dropped.
#[derive(Debug)]
pub(crate) struct Listening {
    _stop: mpsc::Sender<()>,
}

impl Listening {
    /// Begins to listen, and calls back from a thread of its own.
    ///
    /// # Errors
    /// If the server cannot be reached.
    pub(crate) fn new(address: &str, on_wake: impl Fn() + Send + 'static) -> Result<Self> {
        let address: Address = address.parse()?;
        let (stop, mut stopped) = mpsc::channel(1);
        let (begun, outcome) = answers::channel();
        let thread = super::thread::spawn("postgres-wake", {
            let address = address.clone();
            move || match tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build() {
                Ok(runtime) => runtime.block_on(listen(&address, &mut stopped, &begun, &on_wake)),
                Err(error) => tracing::error!(%error, "cannot listen to the server"),
            }
        });
        let begun = thread.map_err(|_| Failure::Ended).and_then(|()| outcome.recv().unwrap_or(Err(Failure::Ended)));
        begun.map_err(|failure| failure.unreachable(&address))?;
        Ok(Self { _stop: stop })
    }
}

/// Listens on one connection after the other. If the first one cannot be made, that is all.
async fn listen(
    address: &Address,
    stopped: &mut mpsc::Receiver<()>,
    begun: &answers::Sender<std::result::Result<(), Failure>>,
    on_wake: &impl Fn(),
) {
    let mut has_begun = false;
    loop {
        let on_begin = || {
            if has_begun { on_wake() } else { drop(begun.send(Ok(()))) }
        };
        let ended = tokio::select! {
            ended = listen_once(address, on_begin, on_wake) => ended,
            _ = stopped.recv() => return,
        };
        match ended {
            Err((false, failure)) if !has_begun => return drop(begun.send(Err(failure))),
            Err((heard, failure)) => {
                has_begun |= heard;
                tracing::debug!(%address, error = failure.detail(), "the connection that listens broke");
            }
            Ok(()) => has_begun = true,
        }
        tokio::select! {
            () = tokio::time::sleep(PAUSE) => {}
            _ = stopped.recv() => return,
        }
    }
}

/// Listens on one connection until it breaks: with an error, and whether it ever listened.
async fn listen_once(
    address: &Address,
    on_begin: impl FnOnce(),
    on_wake: &impl Fn(),
) -> std::result::Result<(), (bool, Failure)> {
    let connecting = answered(CONNECT_LIMIT, address.config.connect(NoTls));
    let (client, mut connection) = connecting.await.map_err(|failure| (false, failure))?;
    let mut on_begin = Some(on_begin);
    let mut asked = std::pin::pin!(client.batch_execute(LISTEN));
    loop {
        tokio::select! {
            heard = &mut asked, if on_begin.is_some() => {
                heard.map_err(|error| (false, Failure::Driver(error)))?;
                if let Some(begin) = on_begin.take() {
                    begin();
                }
            }
            message = poll_fn(|context| connection.poll_message(context)) => match message {
                Some(Ok(AsyncMessage::Notification(_))) => on_wake(),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err((on_begin.is_none(), Failure::Driver(error))),
                None => return Ok(()),
            },
        }
    }
}
