//! Folders that no loop uses any more, and since when.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::folders::{beside, remove_all};
use crate::{Layout, Result, remove_check_out};

/// Suffix of the names of damaged folders; a date follows it.
const DAMAGED: &str = ".damaged-";

/// The kind of a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Workspace,
    CheckOut,
    State,
    Damaged,
}

/// A folder that no loop uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stray {
    /// Its path.
    pub path: PathBuf,
    /// Its former loop.
    pub of: String,
    /// When it was used last, in seconds since 1970.
    pub since: i64,
    kind: Kind,
}

impl Stray {
    /// True for a workspace, which may contain unsaved work.
    #[must_use]
    pub fn is_workspace(&self) -> bool {
        self.kind == Kind::Workspace
    }

    /// Removes it with all related files.
    ///
    /// # Errors
    /// If a file cannot be removed.
    pub fn remove(&self) -> Result<()> {
        match self.kind {
            Kind::CheckOut => remove_check_out(&self.path),
            _ => remove_all(&self.path),
        }
    }
}

impl Layout {
    /// The folders of unknown loops, and damaged folders that were replaced.
    #[must_use]
    pub fn strays(&self, is_known: impl Fn(&str) -> bool) -> Vec<Stray> {
        let mut found = Vec::new();
        let places = [(self.workspaces(), Kind::Workspace), (self.gates(), Kind::CheckOut), (self.states(), Kind::State)];
        for (above, kind) in places {
            for entry in fs::read_dir(&above).into_iter().flatten().flatten() {
                let Ok(name) = entry.file_name().into_string() else { continue };
                let path = entry.path();
                if let Some((of, date)) = name.rsplit_once(DAMAGED) {
                    let since = damaged_at(date).unwrap_or_else(|| modified(&path));
                    found.push(Stray { path, of: of.trim_end_matches(".git").to_owned(), since, kind: Kind::Damaged });
                    continue;
                }
                // Files beside a check-out are removed with it.
                let is_beside = kind == Kind::CheckOut
                    && [".git", ".lock", ".setup"]
                        .iter()
                        .any(|end| name.strip_suffix(end).is_some_and(|of| above.join(of).is_dir() || is_known(of)));
                if is_beside || name.ends_with(".new") || is_known(&name) || !path.is_dir() {
                    continue;
                }
                let state = self.states().join(&name).join("state.json");
                let used = [path.clone(), state, beside(&path, ".git"), beside(&path, ".git").join("HEAD")];
                let since = used.iter().map(|path| modified(path)).max().unwrap_or(0);
                found.push(Stray { path, of: name, since, kind });
            }
        }
        found.sort_by(|a, b| a.path.cmp(&b.path));
        found
    }
}

fn damaged_at(date: &str) -> Option<i64> {
    let date = date.get(..16)?;
    Some(
        jiff::civil::DateTime::strptime("%Y%m%dT%H%M%SZ", date)
            .ok()?
            .to_zoned(jiff::tz::TimeZone::UTC)
            .ok()?
            .timestamp()
            .as_second(),
    )
}

fn modified(path: &Path) -> i64 {
    let time = path.symlink_metadata().and_then(|meta| meta.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
    time.duration_since(UNIX_EPOCH).ok().and_then(|age| i64::try_from(age.as_secs()).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::damaged_at;

    #[test]
    fn the_date_in_a_name_counts() {
        assert_eq!(damaged_at("19700102T000001Z"), Some(86_401));
        assert_eq!(damaged_at("19700102T000001Z-2"), Some(86_401));
        assert_eq!(damaged_at("x"), None);
    }
}
