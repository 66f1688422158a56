//! Handles changes of paths that another loop owns: the attempt does not land. The loop asks the owner for permission,
//! and the test waits for the answer; its work is saved under a reference. After an approval the test starts again.
//! After a rejection the agent has to do without, and the attempt counts.

use std::collections::BTreeMap;
use std::path::PathBuf;

use coord_db::{ErrorCategory, FailedAttempt, OwnedByOther, RequestStatus, Resource};

use crate::Result;
use crate::context::{Attempt, Context};
use crate::end::Step;

/// Maximum number of files named in a message.
const MAX_NAMED: usize = 5;

fn names(files: &[String]) -> String {
    let shown = files.iter().take(MAX_NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
    match files.len().saturating_sub(MAX_NAMED) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

impl Context<'_> {
    /// Ends the landing if the attempt has changed what other loops own, and asks for permission.
    pub(crate) fn ask_owners(&self, attempt: &Attempt, files: &[PathBuf]) -> Step<()> {
        let trespasses = self.trespasses(attempt, files)?;
        if trespasses.is_empty() {
            return Ok(());
        }
        let mut by_resource: BTreeMap<String, (Resource, Vec<String>)> = BTreeMap::new();
        for OwnedByOther { wanted, resource } in trespasses {
            by_resource.entry(resource.path.clone()).or_insert_with(|| (resource, Vec::new())).1.push(wanted.to_string());
        }
        Err(self.request_permission(attempt, by_resource.into_values().collect())?.into())
    }

    fn request_permission(&self, attempt: &Attempt, owned: Vec<(Resource, Vec<String>)>) -> Result<FailedAttempt> {
        let test = &attempt.test.id;
        Ok(self.db.write(|tx| {
            let asked = tx.change_requests_for(test)?;
            let (mut refused, mut waiting, mut event) = (Vec::new(), Vec::new(), None);
            for (resource, files) in &owned {
                let (path, owner, files) = (&resource.path, &resource.owner_loop, names(files));
                let no = asked.iter().rev().find(|request| {
                    request.resource_path == *path && request.owner_loop == *owner && request.status == RequestStatus::Rejected
                });
                if let Some(no) = no {
                    let by = no.resolved_by.as_deref().unwrap_or("human");
                    event = tx.last_event_of_change(&no.id)?;
                    refused.push(format!(
                        "{files}: {path} is owned by loop {owner}, and change request {} was rejected by {by}; undo the change",
                        no.id
                    ));
                    continue;
                }
                let why = format!("test {test} changes {files}");
                let id = tx.request_change_for(test, resource, &self.loop_id, &why, None)?;
                if event.is_none() {
                    event = tx.last_event_of_change(&id)?;
                }
                waiting.push(format!(
                    "{files}: {path} is owned by loop {owner}; change request {id} asks for permission \
                     (loopctl request approve {id}, or reject)"
                ));
            }
            // After one rejection this work can never land, whatever the other answers are.
            let category = if refused.is_empty() { ErrorCategory::Dependency } else { ErrorCategory::Conflict };
            refused.append(&mut waiting);
            let mut failure =
                FailedAttempt::new(category, format!("the work changes files that other loops own: {}", refused.join("; ")));
            failure.caused_by = event;
            Ok::<_, coord_db::Error>(failure)
        })?)
    }
}
