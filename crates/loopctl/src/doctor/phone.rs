//! What is sent to the phone, and whether it can be.

use std::path::Path;

use coord_db::Config;
use coord_db::config::NotifyBy;

use super::Report;
use crate::programs::program_at;

/// Looks at `[notify]`. Nothing is sent.
pub(super) fn examine(config: &Config, root: &Path, report: &mut Report) {
    let notify = &config.notify;
    if notify.preset == NotifyBy::Command {
        return;
    }
    if program_at("curl", root).is_none() {
        report.problem("phone", "notify.preset needs curl, which is not installed", "install the package curl");
        return;
    }
    match notify.token(&config.folder) {
        Err(why) => report.problem("phone", why, "put the token into the file that notify.token_file names, for you alone"),
        Ok(token) => {
            let parts: Vec<&str> =
                ["kind, loop and test"].into_iter().chain(notify.content.iter().map(|part| part.as_str())).collect();
            let answers = if notify.answers && token.is_some() { "answers are taken" } else { "no answers are taken" };
            report.ok(
                "phone",
                format!("questions and critical alerts go through {}: {}; {answers}", notify.preset.as_str(), parts.join(", ")),
            );
        }
    }
}
