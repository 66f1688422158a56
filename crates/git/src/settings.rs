//! The settings of the user's repository that our clones need, and writing a git config.
//!
//! Only settings on an allow-list are copied: identity, conversion of files, merging, ignored files. Hooks,
//! `core.fsmonitor`, aliases, credentials and signing must never be copied.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::OFlags;

use crate::call::{Git, fields};
use crate::effective::{effective, split_entry};
use crate::{Error, Repository, Result};

/// Files of agents and editors that are not work.
pub(crate) const OWN_EXCLUDES: &str = "\
# Files of agents and editors, excluded in every workspace.
.aider*
/.claude/worktrees/
/.claude/settings.local.json
*.swp
*.swo
*~
.#*
\\#*#
.DS_Store
";

/// One setting: its full name, as `git config --list` writes it, and its value.
pub(crate) type Pair = (Vec<u8>, Vec<u8>);

/// The copied settings of a repository.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) pairs: Vec<Pair>,
    /// The content of `info/exclude`.
    pub(crate) exclude: Vec<u8>,
    /// The content of `info/attributes`.
    pub(crate) attributes: Vec<u8>,
}

impl Settings {
    /// Reads the settings of the user's repository. The content of files named by path in its config is included, so
    /// that the clones can be moved.
    pub(crate) fn of_user(user: &Repository) -> Result<Self> {
        let all = effective(&user.git)?;
        let keys: BTreeSet<&[u8]> = all.iter().map(|(_, (key, _))| key.as_slice()).collect();
        let of_user = |scope: &[u8]| matches!(scope, b"global" | b"local" | b"worktree");
        let taken = all.iter().filter(|(scope, (key, _))| of_user(scope) && is_allowed(key));
        let mut pairs: Vec<Pair> = taken.map(|(_, pair)| pair.clone()).collect();
        for name in missing_filters(&pairs) {
            pairs.extend(turned_off(&name));
        }
        let named = |key: &str| -> Vec<u8> {
            if !keys.contains(key.to_ascii_lowercase().as_bytes()) {
                return Vec::new();
            }
            let call = user.git.call(["config", "--type=path", "--get", key]);
            let path = call.path().ok().filter(|path| !path.as_os_str().is_empty());
            path.and_then(|path| fs::read(user.root().join(path)).ok()).unwrap_or_default()
        };
        let info = |name: &str| fs::read(user.common_dir().join("info").join(name)).unwrap_or_default();
        let exclude = joined(&[&named("core.excludesFile"), &info("exclude"), OWN_EXCLUDES.as_bytes()]);
        let attributes = joined(&[&named("core.attributesFile"), &info("attributes")]);
        Ok(Self { pairs, exclude, attributes })
    }

    /// Reads the settings of one of our clones.
    pub(crate) fn of_clone(git_dir: &Path) -> Result<Self> {
        let pairs = read_config(&git_dir.join("config"))?.into_iter().filter(|(key, _)| is_allowed(key)).collect();
        let info = |name: &str| fs::read(git_dir.join("info").join(name)).unwrap_or_default();
        Ok(Self { pairs, exclude: info("exclude"), attributes: info("attributes") })
    }

    /// Writes `info/exclude` and `info/attributes` of a clone if they differ.
    pub(crate) fn write_info(&self, git_dir: &Path) -> Result<()> {
        let info = git_dir.join("info");
        fs::create_dir_all(&info).map_err(Error::io("create", &info))?;
        replace_file(&info.join("exclude"), &self.exclude)?;
        replace_file(&info.join("attributes"), &self.attributes)
    }

    pub(crate) fn has(&self, key: &str) -> bool {
        self.pairs.iter().any(|(name, _)| name == key.as_bytes())
    }
}

/// The filters with a program that is not on the PATH: git could not write files with this kind of filter.
pub(crate) fn missing_filters(pairs: &[Pair]) -> BTreeSet<Vec<u8>> {
    let mut missing = BTreeSet::new();
    for (key, value) in pairs {
        let Some((b"filter", Some(name), b"clean" | b"smudge" | b"process")) = parts(key) else { continue };
        if program_of(value).is_some_and(|program| !is_on_path(&program)) {
            missing.insert(name.to_vec());
        }
    }
    missing
}

/// Settings that disable a filter: its files stay in their stored form.
fn turned_off(name: &[u8]) -> Vec<Pair> {
    let key = |part: &[u8]| [b"filter.".as_slice(), name, b".", part].concat();
    [(b"clean".as_slice(), b"".as_slice()), (b"smudge", b""), (b"process", b""), (b"required", b"false")]
        .into_iter()
        .map(|(part, value)| (key(part), value.to_vec()))
        .collect()
}

/// The program that a filter's command line starts; none if only a shell could tell.
fn program_of(command: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(command).ok()?;
    let mut words = text.split_ascii_whitespace();
    let first = words.next()?;
    let is_plain = |word: &str| word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.+".contains(&byte));
    match (first, words.next()) {
        // git runs an unknown command as a program of this name.
        ("git", Some("lfs")) => Some("git-lfs".to_owned()),
        _ => is_plain(first).then(|| first.to_owned()),
    }
}

fn is_on_path(program: &str) -> bool {
    // Built-in commands of a shell.
    const BUILT_IN: &[&str] = &["cd", "eval", "exec", "export", "if", "set", "test", "true", "false", "echo", "printf", ":"];
    let path = std::env::var_os("PATH").unwrap_or_default();
    BUILT_IN.contains(&program) || std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

fn joined(parts: &[&[u8]]) -> Vec<u8> {
    let mut all = Vec::new();
    for part in parts {
        all.extend_from_slice(part);
        if !all.is_empty() && all.last() != Some(&b'\n') {
            all.push(b'\n');
        }
    }
    all
}

/// Section, subsection and name of a key.
type Parts<'a> = (&'a [u8], Option<&'a [u8]>, &'a [u8]);

fn parts(key: &[u8]) -> Option<Parts<'_>> {
    let first = key.iter().position(|&byte| byte == b'.')?;
    let last = key.iter().rposition(|&byte| byte == b'.')?;
    let subsection = (last > first).then(|| &key[first + 1..last]);
    Some((&key[..first], subsection, &key[last + 1..]))
}

fn is_allowed(key: &[u8]) -> bool {
    let Some((section, subsection, name)) = parts(key) else { return false };
    match (section, subsection.is_some()) {
        (b"user" | b"author" | b"committer", false) => matches!(name, b"name" | b"email"),
        (b"core", false) => matches!(
            name,
            b"autocrlf"
                | b"eol"
                | b"safecrlf"
                | b"checkroundtripencoding"
                | b"protecthfs"
                | b"protectntfs"
                | b"bigfilethreshold"
        ),
        (b"filter", true) => true,
        (b"merge", true) => matches!(name, b"name" | b"driver" | b"recursive"),
        (b"merge", false) => matches!(name, b"conflictstyle" | b"renormalize"),
        (b"lfs", false) => matches!(name, b"fetchinclude" | b"fetchexclude"),
        _ => false,
    }
}

/// The settings of one config file, parsed by git; without its includes. The same content is parsed once.
pub(crate) fn read_config(path: &Path) -> Result<Vec<Pair>> {
    let content = read_small(path);
    if let Some(known) = content.as_ref().and_then(|content| parsed().get(content).cloned()) {
        return Ok(known);
    }
    let pairs = parse_config(path)?;
    // Somebody may have changed the file meanwhile.
    if let Some(content) = content.filter(|content| read_small(path).as_ref() == Some(content)) {
        remember(content, &pairs);
    }
    Ok(pairs)
}

/// The settings of the contents of config files.
type Parsed = BTreeMap<Vec<u8>, Vec<Pair>>;

fn parsed() -> MutexGuard<'static, Parsed> {
    static PARSED: Mutex<Parsed> = Mutex::new(BTreeMap::new());
    PARSED.lock().unwrap_or_else(PoisonError::into_inner)
}

fn remember(content: Vec<u8>, pairs: &[Pair]) {
    let mut parsed = parsed();
    if parsed.len() >= MAX_PARSED {
        parsed.clear();
    }
    parsed.insert(content, pairs.to_vec());
}

/// Maximum number of contents of config files that are remembered, and maximum size of one in bytes.
const MAX_PARSED: usize = 64;
const MAX_PARSED_BYTES: u64 = 64 << 10;

/// The content of a regular file that is not large; never waits, as for a pipe.
fn read_small(path: &Path) -> Option<Vec<u8>> {
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let file = fs::OpenOptions::new().read(true).custom_flags(flags).open(path).ok()?;
    file.metadata().ok().filter(fs::Metadata::is_file)?;
    let mut content = Vec::new();
    file.take(MAX_PARSED_BYTES).read_to_end(&mut content).ok().filter(|&count| (count as u64) < MAX_PARSED_BYTES)?;
    Some(content)
}

fn parse_config(path: &Path) -> Result<Vec<Pair>> {
    let folder = path.parent().unwrap_or(path);
    let git = Git::discovering(folder);
    let call = git.call(["config", "--list", "-z", "--no-includes", "--file"]).arg(path);
    let pair = |entry| {
        let (key, value) = split_entry(entry);
        (key.to_vec(), value.to_vec())
    };
    Ok(fields(&call.ok()?).map(pair).collect())
}

/// Writes a config file.
pub(crate) fn write_config(path: &Path, config: &[Pair]) -> Result<()> {
    write_config_as(path, config, false)
}

fn write_config_as(path: &Path, config: &[Pair], is_private: bool) -> Result<()> {
    let content = render_config(config);
    replace_file_as(path, &content, is_private)?;
    remember(content, config);
    Ok(())
}

/// The text of a config file.
fn render_config(pairs: &[Pair]) -> Vec<u8> {
    let mut text = Vec::new();
    let mut current: Option<(&[u8], Option<&[u8]>)> = None;
    for (key, value) in pairs {
        let Some((section, subsection, name)) = parts(key) else { continue };
        if current != Some((section, subsection)) {
            current = Some((section, subsection));
            text.push(b'[');
            text.extend_from_slice(section);
            if let Some(subsection) = subsection {
                text.extend_from_slice(b" \"");
                for &byte in subsection {
                    if matches!(byte, b'"' | b'\\') {
                        text.push(b'\\');
                    }
                    text.push(byte);
                }
                text.push(b'"');
            }
            text.extend_from_slice(b"]\n");
        }
        text.push(b'\t');
        text.extend_from_slice(name);
        text.extend_from_slice(b" = \"");
        for &byte in value {
            match byte {
                b'"' | b'\\' => text.extend_from_slice(&[b'\\', byte]),
                b'\n' => text.extend_from_slice(b"\\n"),
                b'\t' => text.extend_from_slice(b"\\t"),
                _ => text.push(byte),
            }
        }
        text.extend_from_slice(b"\"\n");
    }
    text
}

/// Text settings as pairs.
pub(crate) fn pairs(list: &[(&str, &str)]) -> Vec<Pair> {
    list.iter().map(|(key, value)| (key.as_bytes().to_vec(), value.as_bytes().to_vec())).collect()
}

/// The setting that names the remote of a store.
pub(crate) const REMOTE: &str = "remote.codingloops.url";

/// Writes a file through a temporary one beside it, unless it already has this content.
pub(crate) fn replace_file(path: &Path, content: &[u8]) -> Result<()> {
    replace_file_as(path, content, false)
}

/// As [`replace_file`]; a private one is readable by its owner alone.
fn replace_file_as(path: &Path, content: &[u8], is_private: bool) -> Result<()> {
    let is_right = |meta: fs::Metadata| meta.is_file() && !(is_private && meta.permissions().mode() & 0o077 != 0);
    if path.symlink_metadata().is_ok_and(is_right) && fs::read(path).is_ok_and(|old| old == content) {
        return Ok(());
    }
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let beside = path.with_file_name(name);
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(if is_private { 0o600 } else { 0o666 });
    let write = |mut file: fs::File| {
        if is_private {
            // One that was left has its own mode.
            file.set_permissions(fs::Permissions::from_mode(0o600))?;
        }
        file.write_all(content)
    };
    options.open(&beside).and_then(write).map_err(Error::io("write", &beside))?;
    fs::rename(&beside, path).map_err(Error::io("replace", path))
}

/// Writes the config of a store. An address of a remote, and how to reach it, may hold passwords.
pub(crate) fn write_store_config(path: &Path, config: &[Pair]) -> Result<()> {
    let has_remote = config.iter().any(|(key, _)| key == REMOTE.as_bytes());
    write_config_as(path, config, has_remote)
}

/// How the user's repository reaches its remotes, where it says so itself: for the store alone, and never for a workspace.
pub(crate) fn ways_of_connecting(user: &Repository) -> Result<Vec<Pair>> {
    let stdout = user.git.call(["config", "--list", "-z", "--local"]).ok()?;
    let is_way = |key: &[u8]| match parts(key) {
        Some((b"core", None, name)) => matches!(name, b"sshcommand" | b"askpass" | b"gitproxy"),
        Some((section, _, _)) => matches!(section, b"url" | b"credential" | b"http" | b"ssh"),
        None => false,
    };
    let entries = fields(&stdout).map(split_entry).filter(|(key, _)| is_way(key));
    Ok(entries.map(|(key, value)| (key.to_vec(), value.to_vec())).collect())
}

/// Sets one setting of a config file of ours, or removes it.
pub(crate) fn replace_setting(path: &Path, key: &str, value: Option<&str>) -> Result<()> {
    let mut config = read_config(path)?;
    config.retain(|(name, _)| name != key.as_bytes());
    config.extend(value.map(|value| (key.as_bytes().to_vec(), value.as_bytes().to_vec())));
    write_store_config(path, &config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn allow_list() {
        let allowed = ["user.name", "core.autocrlf", "filter.a.b \"c\".clean", "merge.mine.driver"];
        let refused = [
            "core.hookspath",
            "core.fsmonitor",
            "alias.x",
            "credential.helper",
            "user.signingkey",
            "commit.gpgsign",
            "core.sshcommand",
            "include.path",
            "core.worktree",
            "remote.origin.url",
            "nodots",
        ];
        assert!(allowed.iter().all(|key| is_allowed(key.as_bytes())));
        assert!(!refused.iter().any(|key| is_allowed(key.as_bytes())));
    }

    #[test]
    fn filters_whose_program_is_missing() {
        let list = pairs(&[
            ("filter.a.clean", "no-such-program --x"),
            ("filter.b.smudge", "cat"),
            ("filter.c.process", "'/odd place/x' y"),
            ("filter.d.clean", "X=1 no-such-program"),
            ("filter.d.required", "true"),
            ("filter.e.clean", ""),
        ]);
        assert_eq!(missing_filters(&list).into_iter().collect::<Vec<_>>(), [b"a".to_vec()]);
    }

    #[test]
    fn config_round_trip() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config");
        let list = pairs(&[
            ("core.bare", "true"),
            ("filter.odd \"name\" \\ x.clean", "sh -c 'a;b # \"c\"' \\ \n\t end "),
            ("filter.odd \"name\" \\ x.smudge", ""),
            ("user.name", "Zoë # ;"),
        ]);
        write_config(&path, &list).unwrap();
        assert_eq!(parse_config(&path).unwrap(), list);
        assert_eq!(read_config(&path).unwrap(), list);
    }
}
