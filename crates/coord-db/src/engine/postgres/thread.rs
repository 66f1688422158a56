//! Threads for connections.

use nix::sys::signal::{SigSet, SigmaskHow};

/// Starts a thread that no signal reaches: a program blocks those that it waits for on its own threads, after this one was started.
///
/// # Errors
/// If there can be no more threads.
pub(super) fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    // A new thread begins with the mask of the one that starts it.
    let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK)?;
    let started = std::thread::Builder::new().name(name.to_owned()).spawn(body);
    before.thread_set_mask()?;
    started.map(drop)
}
