//! Rules for a commit before integration moves to it, whatever was true when the work was claimed done: it changes only
//! what the loop may change, and migration files carry a number that was allocated to the loop.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use coord_db::{ErrorCategory, FailedAttempt, LeasePath};
use git::{CommitHash, shown};

use crate::Result;
use crate::auto_lease::{exactly, ignored, lease_path};
use crate::context::{Attempt, Context};
use crate::work::Work;

/// The number at the start of a file name: `0007_users.sql`, `V12__x.sql`, `7-a`.
fn number_of(file: &Path) -> Option<i64> {
    let name = file.file_name()?.to_str()?;
    let digits = name.strip_prefix(['V', 'v']).unwrap_or(name);
    let end = digits.find(|each: char| !each.is_ascii_digit()).unwrap_or(digits.len());
    digits.get(..end)?.parse().ok()
}

impl Context<'_> {
    /// The rule that a verified commit breaks, if any.
    pub(crate) fn broken_rule(&self, attempt: &Attempt, work: &Work, changed: &[PathBuf]) -> Result<Option<FailedAttempt>> {
        let protected = exactly(&self.config.gate.protected);
        if let Some(file) = changed.iter().find(|file| protected.is_match(file) && !work.files.contains(file)) {
            let text = format!("{} is protected, and its change was not approved", shown(file));
            return Ok(Some(FailedAttempt::new(ErrorCategory::Transient, text)));
        }
        Ok(self.unleased(attempt, changed)?.map(|problem| FailedAttempt::new(ErrorCategory::Conflict, problem)))
    }

    /// A message about the first changed file without a valid lease.
    fn unleased(&self, attempt: &Attempt, files: &[PathBuf]) -> Result<Option<String>> {
        let free = ignored(&self.config.monitor.conflict_ignore);
        self.db.read(|tx| {
            let mut needed: Vec<LeasePath> = Vec::new();
            for file in files.iter().filter(|file| !free.is_match(file)) {
                match lease_path(file) {
                    Ok(path) => needed.push(path),
                    Err(problem) => return Ok(Some(problem)),
                }
            }
            for path in needed {
                let token = attempt.tokens.get(&path).copied();
                let good = match token {
                    Some(token) => tx.holds(&self.loop_id, &path, token)?,
                    None => false,
                };
                if !good {
                    return Ok(Some(format!("the lease on {path} was lost; the work is saved and the test is done again")));
                }
            }
            Ok(None)
        })
    }

    /// Messages about migration files that a commit adds without an allocated number. Migration files are those that
    /// match `gate.migrations`, and numbered files in a folder for which a number was ever allocated.
    pub(crate) fn misnumbered(&self, commit: Option<&CommitHash>) -> Result<Vec<String>> {
        let Some(commit) = commit else { return Ok(Vec::new()) };
        let named = exactly(&self.config.gate.migrations);
        let (all, own) =
            self.db.read(|tx| Ok::<_, coord_db::Error>((tx.migrations()?, tx.migration_numbers_of(&self.loop_id)?)))?;
        let allocated: BTreeSet<PathBuf> =
            all.iter().filter_map(|row| Some(Path::new(row.file_path.as_deref()?).parent()?.to_owned())).collect();
        if named.is_empty() && allocated.is_empty() {
            return Ok(Vec::new());
        }
        let is_migration = |file: &Path| {
            let numbered_beside = number_of(file).is_some() && file.parent().is_some_and(|folder| allocated.contains(folder));
            named.is_match(file) || numbered_beside
        };
        let (added, deleted) = self.history().added_and_deleted(commit)?;
        let renamed = |file: &Path, number: i64| {
            deleted.iter().any(|old| old.parent() == file.parent() && number_of(old) == Some(number))
        };
        let mut problems = Vec::new();
        for file in added.iter().filter(|file| is_migration(file)) {
            let number = number_of(file);
            if number.is_some_and(|number| renamed(file, number)) {
                continue;
            }
            let fits = |row: &coord_db::Migration| {
                number == Some(row.number) && row.file_path.as_deref().is_none_or(|path| Path::new(path) == file)
            };
            if !own.iter().any(fits) {
                problems.push(format!(
                    "{} has no migration number that was allocated to loop {}; allocate one with \
                     loopctl migration allocate NAME --loop {} and rename the file",
                    shown(file),
                    self.loop_id,
                    self.loop_id
                ));
            }
        }
        Ok(problems)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stand_at_the_beginning_of_a_name() {
        let number = |name: &str| number_of(Path::new(name));
        assert_eq!(number("db/0007_users.sql"), Some(7));
        assert_eq!(number("V12__x.sql"), Some(12));
        assert_eq!(number("20261122_x"), Some(20_261_122));
        for none in ["db/README.md", "x7.sql", "", "99999999999999999999_x"] {
            assert_eq!(number(none), None, "{none}");
        }
    }
}
