//! `loopctl mcp`: the coordination as tools of an agent, over standard input and output.
//!
//! The leases belong to the loop and not to this process, so it may be killed at any time. It must write nothing but
//! the protocol to standard output.

mod calls;
mod overview;
mod tools;

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::{Duration, Instant};

use coord_db::LoopId;
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CallToolResult, ContentBlock, Implementation, ListToolsResult,
    PaginatedRequestParams, ProgressNotificationParam, ServerCapabilities, ServerConfig,
};
use rmcp::service::{RequestContext, RoleServer, ServerInitializeError};
use rmcp::{ErrorData, ServerHandler, ServiceExt};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};

use crate::context::Context;
use crate::exit::{Failure, Outcome};
use crate::submit::runtime;
use crate::wait::Waiter;

use calls::Desk;
pub(crate) use calls::{failed, meanwhile};
use tools::Call;

/// How often a waiting call reports that it waits, although nothing has changed: clients give up silent calls.
const BEAT: Duration = Duration::from_secs(10);
/// Maximum time that calls get to put things in order at the end.
const GRACE: Duration = Duration::from_secs(5);

/// `loopctl mcp`: serves until standard input is closed.
///
/// # Errors
/// Exit 3 without a database, 4 for an unknown loop, 1 if the client does not speak the protocol.
pub fn serve(cx: Context, loop_id: LoopId, wait: u32) -> Outcome {
    // What is wrong from the start is reported to the one who starts it.
    cx.open()?.read(|tx| tx.loop_row(&loop_id))?;
    let runtime = runtime()?;
    let served = runtime.block_on(async {
        let (close, closed) = watch::channel(false);
        let (calls, mut running) = watch::channel(0);
        let input = Input { inner: tokio::io::stdin(), close: close.clone() };
        let server = Server { cx: Arc::new(cx), loop_id, wait, closed, calls };
        let serving = pin!(async {
            match server.serve((input, tokio::io::stdout())).await {
                Ok(running) => drop(running.waiting().await),
                Err(ServerInitializeError::ConnectionClosed(_)) => {}
                Err(error) => return Err(Failure::No(format!("the client does not speak MCP: {error}"))),
            }
            Ok(())
        });
        let listen = |kind| signal(kind).map_err(|error| Failure::No(format!("cannot listen to signals: {error}")));
        let (mut terminate, mut interrupt) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
        let served = tokio::select! {
            served = serving => served,
            _ = terminate.recv() => Ok(()),
            _ = interrupt.recv() => Ok(()),
        };
        // Waiting calls withdraw their requests; nobody reads the answers.
        close.send_replace(true);
        drop(tokio::time::timeout(GRACE, running.wait_for(|running| *running == 0)).await);
        served
    });
    // A read of standard input cannot be cancelled.
    runtime.shutdown_background();
    served
}

/// Standard input, which notes its end: waiting calls would not learn of it.
struct Input {
    inner: tokio::io::Stdin,
    close: watch::Sender<bool>,
}

impl AsyncRead for Input {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let input = self.get_mut();
        let before = buffer.filled().len();
        let read = ready!(Pin::new(&mut input.inner).poll_read(context, buffer));
        if read.is_err() || buffer.filled().len() == before {
            input.close.send_replace(true);
        }
        Poll::Ready(read)
    }
}

struct Server {
    cx: Arc<Context>,
    loop_id: LoopId,
    /// Seconds that a call waits if it does not say.
    wait: u32,
    /// True once nobody reads the answers.
    closed: watch::Receiver<bool>,
    /// The number of running calls.
    calls: watch::Sender<usize>,
}

/// A running call.
struct Running<'a>(&'a watch::Sender<usize>);

impl<'a> Running<'a> {
    fn new(calls: &'a watch::Sender<usize>) -> Self {
        calls.send_modify(|running| *running += 1);
        Self(calls)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|running| *running -= 1);
    }
}

impl ServerHandler for Server {
    fn get_info(&self) -> ServerConfig {
        ServerConfig::new(ServerCapabilities::builder().enable_tools().build())
            .with_server_info(Implementation::new("coding-loops", env!("CARGO_PKG_VERSION")))
            .with_instructions(tools::INSTRUCTIONS)
    }

    async fn list_tools(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        Ok(ListToolsResult::with_all_items(tools::list()))
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let Some(call) = Call::read(&request.name, request.arguments.unwrap_or_default()) else {
            return Err(ErrorData::invalid_params(format!("there is no tool {}", request.name), None));
        };
        let _running = Running::new(&self.calls);
        let outcome = match call {
            Ok(call) => self.run(call, &context).await,
            Err(wrong) => Err(wrong),
        };
        Ok(match outcome {
            Ok(text) => CallToolResult::success(vec![ContentBlock::text(text)]),
            Err(text) => CallToolResult::error(vec![ContentBlock::text(text)]),
        }
        .into())
    }
}

impl Server {
    /// Runs a call on a thread of its own, reports its progress, and cancels it if the client does, or closes the connection.
    async fn run(&self, call: Call, context: &RequestContext<RoleServer>) -> Result<String, String> {
        let (cx, loop_id, wait) = (Arc::clone(&self.cx), self.loop_id.clone(), self.wait);
        let (cancel, stop) = watch::channel(false);
        let (waiter, interrupter) = Waiter::without_signals(&self.cx.path);
        let (say, mut said) = mpsc::unbounded_channel();
        let mut working = tokio::task::spawn_blocking(move || {
            let progress = |text| drop(say.send(text));
            let desk = Desk { cx: &cx, loop_id: &loop_id, wait, waiter, stop, progress: &progress };
            desk.run(call).map_err(|failure| failure.sentence())
        });
        let mut closed = self.closed.clone();
        let (begun, mut state, mut is_cancelled) = (Instant::now(), None, false);
        loop {
            tokio::select! {
                outcome = &mut working => {
                    return outcome.unwrap_or_else(|error| Err(format!("loopctl failed: {error}; report this defect")));
                }
                Some(text) = said.recv() => {
                    if state.as_ref() == Some(&text) {
                        continue;
                    }
                    state = Some(text);
                }
                () = tokio::time::sleep(BEAT), if state.is_some() => {}
                () = context.ct.cancelled(), if !is_cancelled => is_cancelled = true,
                _ = closed.wait_for(|closed| *closed), if !is_cancelled => is_cancelled = true,
            }
            if is_cancelled {
                cancel.send_replace(true);
                interrupter.interrupt();
            } else if let (Some(token), Some(text)) = (context.meta.get_progress_token(), &state) {
                let progress = ProgressNotificationParam::new(token, begun.elapsed().as_secs_f64()).with_message(text.clone());
                drop(context.peer.notify_progress(progress).await);
            }
        }
    }
}
