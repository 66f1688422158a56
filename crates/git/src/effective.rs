//! The settings that are in effect in a repository: its own, the user's and those of the machine.

use std::path::PathBuf;
use std::sync::Arc;

use crate::Result;
use crate::call::{Git, fields};
use crate::known::{Effective, FileId, SettingsFiles};

/// All settings in effect in a repository, each with its scope, such as `global`. git is asked again once a file of them has
/// changed; the settings of the whole machine count as they were when they were read first.
pub(crate) fn effective(git: &Git) -> Result<Effective> {
    let files = files_of_settings(git);
    if let Some(known) = git.known().settings(&files) {
        return Ok(known);
    }
    let stdout = git.call(["config", "--list", "-z", "--show-scope"]).ok()?;
    let (mut all, mut words) = (Vec::new(), fields(&stdout));
    while let (Some(scope), Some(entry)) = (words.next(), words.next()) {
        let (key, value) = split_entry(entry);
        all.push((scope.to_vec(), (key.to_vec(), value.to_vec())));
    }
    let all = Arc::new(all);
    // Other files may be included.
    if !all.iter().any(|(_, (key, _))| key.starts_with(b"include")) {
        git.known().note_settings(files, &all);
    }
    Ok(all)
}

fn files_of_settings(git: &Git) -> SettingsFiles {
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let of_user = std::env::var_os("XDG_CONFIG_HOME").filter(|folder| !folder.is_empty()).map(PathBuf::from);
    let of_user = of_user.or_else(|| Some(home.as_ref()?.join(".config")));
    let files = [
        git.folder().map(|folder| folder.join("config")),
        git.folder().map(|folder| folder.join("config.worktree")),
        std::env::var_os("GIT_CONFIG_GLOBAL").map(PathBuf::from),
        home.map(|home| home.join(".gitconfig")),
        of_user.map(|folder| folder.join("git/config")),
    ];
    // A link is followed, as git does.
    files.into_iter().map(|file| FileId::of(&file?.canonicalize().ok()?)).collect()
}

/// A key without a value means true.
pub(crate) fn split_entry(entry: &[u8]) -> (&[u8], &[u8]) {
    match entry.iter().position(|&byte| byte == b'\n') {
        Some(end) => (&entry[..end], &entry[end + 1..]),
        None => (entry, b"true"),
    }
}
