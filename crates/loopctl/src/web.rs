//! `loopctl web`: the live page.

use std::process::{Command, Stdio};

use dashboard::{Options, Place, Ready};
use serde_json::json;

use crate::cli::WebArgs;
use crate::context::Context;
use crate::exit::{Outcome, eprintln_quietly};

/// `loopctl web`
///
/// # Errors
/// Exit 2 for an address that other machines can reach; what the database or the system reports.
pub fn serve(cx: &Context, args: WebArgs) -> Outcome {
    // Before anything listens: without a database there is nothing to show.
    let (db, config) = cx.open_with_config()?;
    drop(db);
    let place = args.socket.map_or(Place::Address(args.listen), Place::Socket);
    let options = Options { place, read_only: args.read_only, actor: cx.actor() };
    dashboard::serve(&cx.path, config, options, |ready| {
        if let Err(failure) = print(cx, ready, args.url) {
            eprintln_quietly(&format!("loopctl: {}", failure.sentence()));
        }
        if !args.url && ready.socket.is_none() {
            open_browser(&ready.url);
        }
    })?;
    Ok(())
}

fn print(cx: &Context, ready: &Ready, url_only: bool) -> Outcome {
    if cx.out.json {
        return cx.out.json_line(&json!({ "url": ready.url, "socket": ready.socket }));
    }
    cx.out.text(&format!("{}\n", ready.url))?;
    if url_only || cx.out.quiet {
        return Ok(());
    }
    match &ready.socket {
        Some(path) => cx.out.text(&format!(
            "reach it through a tunnel: ssh -L 8080:{} HOST; Ctrl-C ends it\n",
            views::text::safe(&path.display().to_string())
        )),
        None => cx.out.text("open this address in a browser on this machine; Ctrl-C ends it\n"),
    }
}

/// Opens the address where there is a display. The address has the token, so it must not appear in the list of processes for
/// longer than it takes the browser to start.
fn open_browser(url: &str) {
    let has_display =
        ["DISPLAY", "WAYLAND_DISPLAY"].into_iter().any(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()));
    if !has_display {
        return;
    }
    let mut command = Command::new("xdg-open");
    command.arg(url).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // Without it the printed address is enough. A browser outlives this command.
    if let Ok(mut child) = command.spawn() {
        std::thread::spawn(move || child.wait());
    }
}
