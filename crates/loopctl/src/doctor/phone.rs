//! What is sent to the phone, and whether it can be.

use std::path::Path;

use coord_db::Config;
use coord_db::config::{NotifyBy, NotifyPart};

use super::Report;
use crate::programs::program_at;

/// Looks at `[notify]`. Nothing is sent.
pub(super) fn examine(config: &Config, root: &Path, report: &mut Report) {
    let notify = &config.notify;
    if let Some(at) = notify.report_at {
        let what = match (notify.content.contains(&NotifyPart::Summary), notify.content.contains(&NotifyPart::Context)) {
            (false, _) => "only its numbers",
            (true, false) => "titles of tests, questions, alerts, regressions and cost",
            (true, true) => "titles of tests, questions, alerts, regressions, cost, and what agents and checks have printed",
        };
        report.ok("phone", format!("a report is sent each day at {at}: {what}"));
    }
    if notify.preset == NotifyBy::Command {
        return;
    }
    if program_at("curl", root).is_none() {
        report.problem("phone", "notify.preset needs curl, which is not installed", "install the package curl");
        return;
    }
    match notify.token(&config.folder).and_then(|token| Ok((token, notify.answer_token(&config.folder)?))) {
        Err(why) => report.problem("phone", why, "put the token into the file that this setting names, for you alone"),
        Ok((token, own)) => {
            let parts: Vec<&str> =
                ["kind, loop and test"].into_iter().chain(notify.content.iter().map(|part| part.as_str())).collect();
            let are_taken = notify.answers && token.is_some();
            let answers = if are_taken { "answers are taken" } else { "no answers are taken" };
            report.ok(
                "phone",
                format!("questions and critical alerts go through {}: {}; {answers}", notify.preset.as_str(), parts.join(", ")),
            );
            if notify.preset == NotifyBy::Ntfy && are_taken && own.is_none() {
                report.warning(
                    "phone",
                    "the buttons carry the access token: who reads the topic can use it",
                    "name a token that may only write to the topic of answers with notify.answer_token_file",
                );
            }
        }
    }
}
