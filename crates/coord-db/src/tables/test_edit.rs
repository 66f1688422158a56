//! Changing and removing tests by hand.

use super::json;
use crate::{Error, Result, TestId, TestStatus, WriteTx};

/// What is to change in a test; what is none stays.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TestEdit {
    /// `build`, `specification`, … any word.
    pub category: Option<String>,
    /// Attempts before it blocks.
    pub max_attempts: Option<i64>,
    /// The test that must pass first; some none for no such test.
    pub depends_on: Option<Option<TestId>>,
    /// Whether an agent can work on it.
    pub automatable: Option<bool>,
    /// A short description.
    pub notes: Option<String>,
    /// The whole specification.
    pub spec_content: Option<String>,
    /// Globs of the files that it is about.
    pub scope: Option<Vec<String>>,
}

impl WriteTx<'_> {
    /// Changes what a test says. An attempt that runs goes on with what it was given.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Refused`] for one that has passed or waits to land, and for a dependency that the test
    /// cannot have.
    pub fn edit_test(&self, id: &TestId, edit: &TestEdit) -> Result<()> {
        let test = self.test(id)?;
        if test.status == TestStatus::Passed || self.open_landing(id)?.is_some() {
            return Err(Error::Refused(format!(
                "test {id} is verified already; put it back first with loopctl reset {id} --force"
            )));
        }
        if let Some(dependency) = &edit.depends_on
            && *dependency != test.depends_on
        {
            if test.depends_on.is_some() {
                self.clear_dependency(id)?;
            }
            if let Some(dependency) = dependency {
                self.test(dependency)?;
                if !self.add_dependency(id, dependency)? {
                    return Err(Error::Refused(format!(
                        "test {id} cannot depend on {dependency}: it is {}, or {dependency} depends on it",
                        test.status
                    )));
                }
            }
        }
        self.execute(
            "UPDATE tests SET category = coalesce(?2, category), max_attempts = coalesce(?3, max_attempts),
               automatable = coalesce(?4, automatable), notes = coalesce(?5, notes), spec_content = coalesce(?6, spec_content),
               scope = coalesce(?7, scope) WHERE id = ?1",
            params![
                id,
                edit.category,
                edit.max_attempts,
                edit.automatable,
                edit.notes,
                edit.spec_content,
                edit.scope.as_ref().map(json)
            ],
        )?;
        Ok(())
    }

    /// Removes a test that was never begun.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Refused`] for one with a history, or on which another test depends.
    pub fn remove_test(&self, id: &TestId) -> Result<()> {
        let test = self.test(id)?;
        let begun = test.attempts > 0 || test.give_backs > 0 || test.last_attempt_at.is_some();
        if begun || !matches!(test.status, TestStatus::Pending | TestStatus::Skipped) {
            return Err(Error::Refused(format!("test {id} has a history; take it off its queue with loopctl skip {id}")));
        }
        if let Some(other) = self.dependents(id)?.first() {
            return Err(Error::Refused(format!(
                "test {} depends on {id}; change that first with loopctl test edit {} --depends-on ''",
                other.id, other.id
            )));
        }
        self.execute("DELETE FROM test_waits WHERE test_id = ?1", [id])?;
        self.execute("DELETE FROM tests WHERE id = ?1", [id]).map_err(|error| match error {
            Error::Statement(_) => Error::Refused(format!("test {id} has records that refer to it; use loopctl skip {id}")),
            other => other,
        })?;
        Ok(())
    }
}
