//! Ids as people type and read them: short forms.

use coord_db::{IdOf, ReadTx};
use views::ids::{MAX_CANDIDATES, candidates};

use crate::exit::{Failure, Outcome};

/// The one id that is, begins with or ends with what was given.
///
/// # Errors
/// Exit 4 if there is none, 2 if there are several.
pub fn find(tx: &ReadTx<'_>, of: IdOf, given: &str) -> Outcome<String> {
    only(of, given, candidates(tx, of, given)?)?.ok_or_else(|| Failure::not_found(of.name(), given))
}

/// The candidate, if there is no other.
///
/// # Errors
/// Exit 2 if there are several.
pub fn only(of: IdOf, given: &str, mut found: Vec<String>) -> Outcome<Option<String>> {
    if found.len() < 2 {
        return Ok(found.pop());
    }
    let more = if found.len() > MAX_CANDIDATES { ", …" } else { "" };
    found.truncate(MAX_CANDIDATES);
    let (what, found) = (of.name(), found.join(", "));
    Err(Failure::usage(format!("{what} id {given:?} is ambiguous; give more characters of one of {found}{more}")))
}
