//! Submodules. The store keeps copies of the repositories that the user's repository has, so that each of our clones
//! gets their files without a network.
//!
//! A submodule's git folder in a workspace or check-out belongs to agents and checks, and our git must never run in it.
//! Our git reads its files with the store's copy of its repository and our own index, and the git folder for agents and
//! checks is created again each time. A submodule that the store does not have, or not at the commit, stays as it is.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Component, Path, PathBuf};

use crate::bare::{init, keep_objects, link_objects, own_format};
use crate::call::{Git, LONG_TIME_LIMIT, fields, to_path};
use crate::difference::{SUBMODULE, differences, write_changes};
use crate::folders::{beside, relative, remove_all};
use crate::nested;
use crate::repository::tree_of;
use crate::settings::{Pair, Settings, pairs, read_config, replace_file, write_config};
use crate::transfer::{missing, transfer};
use crate::{CommitHash, Error, RefExpectation, Repository, Result};

/// The folder of submodule repositories in a repository.
pub(crate) const MODULES: &str = "modules";
/// The setting in the store's copy with the URL from which the user's repository fetches.
const URL: &str = "codingloops.url";
/// Prefix of references to commits of agents in a submodule.
const LEFT: &str = "refs/coding-loops/left/";
/// Prefix of references to our commits of edits in a submodule.
pub(crate) const SAVED: &str = "refs/coding-loops/saved/";
/// Maximum nesting of submodules.
pub(crate) const MAX_DEPTH: usize = 8;

/// A submodule of a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Submodule {
    /// Its name in `.gitmodules`.
    pub name: String,
    /// The path of its files.
    pub path: PathBuf,
    /// The recorded commit.
    pub commit: CommitHash,
}

/// True for a name that is a plain relative path.
fn is_plain(name: &str) -> bool {
    !name.is_empty() && Path::new(name).components().all(|part| matches!(part, Component::Normal(part) if part != ".git"))
}

/// git on the repository of a submodule, ignoring the work tree in its config.
fn git_of(git_dir: &Path) -> Git {
    Git::in_work_tree(git_dir, git_dir)
}

pub(crate) fn as_repository(git_dir: &Path) -> Repository {
    Repository { git: git_of(git_dir), common_dir: git_dir.to_owned(), root: git_dir.to_owned() }
}

/// The submodules of a commit or tree in its `.gitmodules`, by path.
pub(crate) fn of_tree(git: &Git, tree: &CommitHash) -> Result<Vec<Submodule>> {
    let call = git.call(["config", "-z", "--no-includes", "--blob"]).arg(format!("{tree}:.gitmodules"));
    let answer = call.args(["--get-regexp", r"^submodule\..*\.path$"]).answer()?;
    let mut named = nested::names_and_paths(&answer.stdout);
    named.retain(|(name, _)| is_plain(name));
    if named.is_empty() {
        return Ok(Vec::new());
    }
    let call = git.call(["ls-tree", "-z", "--full-tree", tree.as_str(), "--"]).args(named.iter().map(|(_, path)| path));
    let mut found = Vec::new();
    for entry in fields(&call.ok()?).filter(|entry| entry.starts_with(SUBMODULE.as_bytes())) {
        let Some(tab) = entry.iter().position(|&byte| byte == b'\t') else { continue };
        let hash = String::from_utf8_lossy(&entry[..tab]).split(' ').nth(2).map(CommitHash::new);
        let path = to_path(&entry[tab + 1..]);
        let name = named.iter().find(|(_, named)| *named == path).map(|(name, _)| name.clone());
        if let (Some(Ok(commit)), Some(name)) = (hash, name) {
            found.push(Submodule { name, path, commit });
        }
    }
    Ok(found)
}

// ---- the store's copies ----

/// The repositories of submodules below a folder, with their relative paths.
fn repositories(folder: &Path, way: &Path, depth: usize, found: &mut Vec<(PathBuf, PathBuf)>) {
    if depth > 2 * MAX_DEPTH {
        return;
    }
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let (path, way) = (entry.path(), way.join(entry.file_name()));
        if !path.is_dir() {
            continue;
        }
        if path.join("HEAD").is_file() && path.join("objects").is_dir() {
            found.push((way.clone(), path.clone()));
            repositories(&path.join(MODULES), &way.join(MODULES), depth + 1, found);
        } else {
            repositories(&path, &way, depth + 1, found);
        }
    }
}

/// The copies in a store, with their relative paths.
pub(crate) fn copies(modules: &Path) -> Vec<(PathBuf, PathBuf)> {
    let mut found = Vec::new();
    repositories(modules, Path::new(""), 0, &mut found);
    found
}

/// The submodule repositories of the user's repository: of its main checkout, and those of linked worktrees that it
/// lacks.
fn of_user(user: &Repository) -> Vec<(PathBuf, PathBuf)> {
    let mut found = Vec::new();
    repositories(&user.common_dir().join(MODULES), Path::new(""), 0, &mut found);
    for worktree in fs::read_dir(user.common_dir().join("worktrees")).into_iter().flatten().flatten() {
        repositories(&worktree.path().join(MODULES), Path::new(""), 0, &mut found);
    }
    // Submodules that were created before git kept their git folders there.
    for (name, path) in nested::named_submodules(&user.git, user.root()) {
        let git_dir = user.root().join(path).join(".git");
        if is_plain(&name) && git_dir.is_dir() {
            found.push((PathBuf::from(name), git_dir));
        }
    }
    found
}

/// Copies the submodule repositories of the user's repository to the store.
pub(crate) fn bring(user: &Repository, store: &Path) -> Result<()> {
    for (way, git_dir) in of_user(user) {
        match bring_one(&git_dir, &store.join(MODULES).join(&way)) {
            Err(error) if error.is_disk_full() => return Err(error),
            Err(error) => tracing::warn!(submodule = ?way, %error, "cannot read the repository of a submodule"),
            Ok(()) => {}
        }
    }
    Ok(())
}

fn bring_one(from: &Path, to: &Path) -> Result<()> {
    let user = as_repository(from);
    let is_new = !to.join("HEAD").is_file();
    if is_new {
        let making = beside(to, ".new");
        remove_all(&making)?;
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent).map_err(Error::io("create", parent))?;
        }
        init(&user.git, &making, &["--bare"])?;
        link_objects(from, &making)?;
        fs::rename(&making, to).map_err(Error::io("rename", &making))?;
    }
    let shallow = from.join("shallow");
    if shallow.exists() {
        replace_file(&to.join("shallow"), &fs::read(&shallow).map_err(Error::io("read", shallow))?)?;
    }
    let ours = as_repository(to);
    let wanted: Vec<_> = user.list_refs("refs")?.into_iter().filter(|(name, _)| !name.starts_with(LEFT)).collect();
    let known = ours.list_refs("refs")?;
    let mut tips: BTreeSet<CommitHash> = wanted.iter().map(|(_, hash)| hash.clone()).collect();
    tips.extend(user.resolve("HEAD")?);
    let lost = missing(&ours.git, &tips.iter().cloned().collect::<Vec<_>>())?;
    if !lost.is_empty() {
        let known: Vec<CommitHash> = known.iter().map(|(_, hash)| hash.clone()).collect();
        let _kept = transfer(&user.git, (&ours.git, to), to, &lost, &known)?;
        keep_tips(&ours, &lost)?;
    }
    if is_new || known.iter().filter(|(name, _)| !name.starts_with("refs/coding-loops/")).ne(wanted.iter()) {
        let mut lines = String::new();
        for (name, _) in known.iter().filter(|(name, _)| !name.starts_with("refs/coding-loops/")) {
            if !wanted.iter().any(|(kept, _)| kept == name) {
                lines.push_str(&format!("delete {name}\n"));
            }
        }
        wanted.iter().for_each(|(name, hash)| lines.push_str(&format!("update {name} {hash}\n")));
        ours.git.call(["update-ref", "--no-deref", "--stdin"]).stdin(lines).with_identity().ok()?;
    }
    write_settings(&user, to)
}

/// Creates references to commits, so that they count as known the next time.
fn keep_tips(repository: &Repository, commits: &[CommitHash]) -> Result<()> {
    for commit in commits {
        repository.set_ref(&format!("{LEFT}{commit}"), commit, &RefExpectation::Any)?;
    }
    Ok(())
}

fn write_settings(user: &Repository, to: &Path) -> Result<()> {
    let settings = Settings::of_user(user)?;
    let mut config = own_format(to)?;
    keep_objects(&mut config);
    config.extend(settings.pairs.iter().cloned());
    config.extend(pairs(&[("gc.auto", "0"), ("gc.pruneexpire", "never"), ("maintenance.auto", "false")]));
    let url = user.git.call(["config", "--get", "remote.origin.url"]).answer()?;
    if url.code == Some(0) {
        config.push((URL.as_bytes().to_vec(), url.stdout.trim_ascii_end().to_vec()));
    }
    settings.write_info(to)?;
    write_config(&to.join("config"), &config)
}

/// Copies a commit that others can fetch to the store, so that the clones can have it.
pub(crate) fn keep(store: &Path, like: &Git, name: &str, from: &Path, commit: &CommitHash) -> Result<()> {
    let to = store.join(MODULES).join(name);
    if !is_plain(name) {
        return Ok(());
    }
    make_copy(like, &to)?;
    take(&as_repository(&to), from, std::slice::from_ref(commit)).map(drop)
}

/// Creates an empty copy of a submodule's repository, unless the store has one.
pub(crate) fn make_copy(like: &Git, to: &Path) -> Result<()> {
    if to.join("HEAD").is_file() {
        return Ok(());
    }
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent).map_err(Error::io("create", parent))?;
    }
    init(like, to, &["--bare"])?;
    let mut config = own_format(to)?;
    keep_objects(&mut config);
    write_config(&to.join("config"), &config)
}

/// Copies commits from an agent's git folder, of which only the objects are read, to the store's copy. Returns the
/// copied commits.
pub(crate) fn take(ours: &Repository, from: &Path, commits: &[CommitHash]) -> Result<Vec<CommitHash>> {
    let unknown = missing(&ours.git, commits)?;
    if unknown.is_empty() {
        return Ok(unknown);
    }
    let reader = ours.git.with_env("GIT_ALTERNATE_OBJECT_DIRECTORIES", from.join("objects"));
    let list: String = unknown.iter().map(|hash| format!("{hash}\n")).collect();
    let typed = reader.call(["cat-file", "--batch-check=%(objectname) %(objecttype)"]).stdin(list).ok()?;
    let typed = String::from_utf8_lossy(&typed).into_owned();
    let commits: Vec<CommitHash> =
        typed.lines().filter_map(|line| CommitHash::new(line.strip_suffix(" commit")?).ok()).collect();
    if commits.is_empty() {
        return Ok(commits);
    }
    let known: Vec<CommitHash> = ours.list_refs("refs")?.into_iter().map(|(_, hash)| hash).collect();
    let _kept = transfer(&reader, (&ours.git, ours.common_dir()), ours.common_dir(), &commits, &known)?;
    keep_tips(ours, &commits)?;
    Ok(commits)
}

// ---- their files in a clone ----

/// A clone of ours, or a submodule in one.
pub(crate) struct Place<'a> {
    /// The root of its files.
    pub(crate) root: &'a Path,
    /// The git folder for agents and checks.
    pub(crate) git_dir: &'a Path,
    /// The folder of its submodule repositories in the store.
    pub(crate) store: &'a Path,
    /// Our folder for the indexes.
    pub(crate) own: &'a Path,
}

/// The treatment of the files of submodules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Files {
    /// Reset to the commit; ignored files stay.
    Reset,
    /// Reset to the commit, and remove all other files.
    Clean,
    /// Keep the files; only the git folders are created again.
    Keep,
}

/// Fills the submodules of a commit or tree in a clone, or only those in `only`. Returns those that the store does not
/// have.
pub(crate) fn fill(
    git: &Git,
    tree: &CommitHash,
    place: &Place<'_>,
    files: Files,
    only: Option<&BTreeSet<PathBuf>>,
) -> Result<Vec<Submodule>> {
    let mut lacking = Vec::new();
    let submodules = fill_level(git, tree, place, files, only, 0, &mut lacking)?;
    if submodules.is_empty() {
        remove_all(place.own)?;
    }
    Ok(lacking)
}

fn fill_level(
    git: &Git,
    tree: &CommitHash,
    place: &Place<'_>,
    files: Files,
    only: Option<&BTreeSet<PathBuf>>,
    depth: usize,
    lacking: &mut Vec<Submodule>,
) -> Result<Vec<Submodule>> {
    let submodules = of_tree(git, tree)?;
    for submodule in submodules.iter().filter(|one| only.is_none_or(|only| only.contains(&one.path))) {
        let source = place.store.join(&submodule.name);
        let is_known =
            source.join("HEAD").is_file() && missing(&git_of(&source), std::slice::from_ref(&submodule.commit))?.is_empty();
        if !is_known {
            lacking.push(submodule.clone());
            continue;
        }
        let root = place.root.join(&submodule.path);
        let git_dir = place.git_dir.join(MODULES).join(&submodule.name);
        let own = place.own.join(&submodule.name);
        let inner = Place { root: &root, git_dir: &git_dir, store: &source.join(MODULES), own: &own.join(MODULES) };
        match if files == Files::Reset { saved_on(&source, &submodule.commit)? } else { None } {
            None => fill_one(&source, submodule, &inner, &own, files)?,
            Some(parent) => {
                if let Some(parent) = &parent {
                    let below = Submodule { commit: parent.clone(), ..submodule.clone() };
                    fill_one(&source, &below, &inner, &own, files)?;
                }
                put_saved(&source, &submodule.commit, parent.as_ref(), &root, &own)?;
            }
        }
        if depth < MAX_DEPTH {
            fill_level(&git_of(&source), &submodule.commit, &inner, files, None, depth + 1, lacking)?;
        }
    }
    note(place, &submodules)?;
    Ok(submodules)
}

fn fill_one(source: &Path, submodule: &Submodule, place: &Place<'_>, own: &Path, files: Files) -> Result<()> {
    let (root, git_dir) = (place.root, place.git_dir);
    if !root.symlink_metadata().is_ok_and(|meta| meta.is_dir()) {
        remove_all(root)?;
        fs::create_dir_all(root).map_err(Error::io("create", root))?;
    }
    fs::create_dir_all(own).map_err(Error::io("create", own))?;
    drop(fs::remove_file(own.join("index.lock")));
    let index = own.join("index");
    let git = Git::in_work_tree(source, root).with_env("GIT_INDEX_FILE", &index);
    let clean = || {
        let mut clean = git.call(["clean", "--quiet", "--force", "--force", "-d"]);
        if files == Files::Clean {
            clean = clean.arg("-x");
        }
        clean.time_limit(LONG_TIME_LIMIT).ok().map(drop)
    };
    if files != Files::Keep {
        if index.is_file() && git.call(["ls-files", "--unmerged", "-z"]).answer()?.code != Some(0) {
            remove_all(&index)?;
        }
        clean()?;
        git.call(["read-tree", "--reset", "-u", submodule.commit.as_str()]).time_limit(LONG_TIME_LIMIT).ok()?;
        clean()?;
    } else if !index.is_file() {
        git.call(["read-tree", submodule.commit.as_str()]).ok()?;
    }
    remake_git_dir(source, submodule, root, git_dir, &index)
}

/// Writes the saved edits of a submodule to its files.
fn put_saved(source: &Path, saved: &CommitHash, parent: Option<&CommitHash>, root: &Path, own: &Path) -> Result<()> {
    let git = Git::in_work_tree(source, root);
    let parent = match parent {
        Some(parent) => tree_of(&git, parent)?,
        None => {
            fs::create_dir_all(root).map_err(Error::io("create", root))?;
            git.call(["mktree"]).stdin(Vec::new()).hash()?
        }
    };
    fs::create_dir_all(own).map_err(Error::io("create", own))?;
    write_changes(&git, root, &own.join("index.put-back"), &differences(&git, &parent, saved)?, saved)
}

/// Creates the git folder of a submodule for agents and checks.
fn remake_git_dir(source: &Path, submodule: &Submodule, root: &Path, git_dir: &Path, index: &Path) -> Result<()> {
    let making = beside(git_dir, ".new");
    remove_all(&making)?;
    if let Some(parent) = git_dir.parent() {
        fs::create_dir_all(parent).map_err(Error::io("create", parent))?;
    }
    init(&git_of(source), &making, &["--bare"])?;
    let settings = Settings::of_clone(source)?;
    let mut config = own_format(&making)?;
    config.retain(|(key, _)| key != b"core.bare");
    config.extend(pairs(&[("core.bare", "false")]));
    config.push((b"core.worktree".to_vec(), relative(git_dir, root).into_os_string().into_encoded_bytes()));
    config.extend(settings.pairs.iter().cloned());
    config.extend(pairs(&[("gc.auto", "0"), ("maintenance.auto", "false"), ("core.fsmonitor", "false")]));
    let url = read_config(&source.join("config"))?.into_iter().find(|(key, _)| key == URL.as_bytes());
    if let Some((_, url)) = url {
        config.push((b"remote.origin.url".to_vec(), url));
        config.extend(pairs(&[("remote.origin.fetch", "+refs/heads/*:refs/remotes/origin/*")]));
    }
    settings.write_info(&making)?;
    let info = making.join("objects/info");
    fs::create_dir_all(&info).map_err(Error::io("create", &info))?;
    let way = relative(&git_dir.join("objects"), &source.join("objects"));
    replace_file(&info.join("alternates"), &[way.into_os_string().into_encoded_bytes(), b"\n".to_vec()].concat())?;
    if source.join("shallow").exists() {
        fs::copy(source.join("shallow"), making.join("shallow")).map_err(Error::io("copy", source.join("shallow")))?;
    }
    // The alternates are relative to its final path.
    let git = git_of(&making).with_env("GIT_ALTERNATE_OBJECT_DIRECTORIES", source.join("objects"));
    let mut lines = format!("update HEAD {}\n", submodule.commit);
    for (name, hash) in as_repository(source).list_refs("refs")? {
        if name.starts_with("refs/remotes/") || name.starts_with("refs/tags/") {
            lines.push_str(&format!("update {name} {hash}\n"));
        }
    }
    git.call(["update-ref", "--no-deref", "--stdin"]).stdin(lines).with_identity().ok()?;
    replace_file(&making.join("HEAD"), format!("{}\n", submodule.commit).as_bytes())?;
    write_config(&making.join("config"), &config)?;
    fs::copy(index, making.join("index")).map_err(Error::io("copy", index))?;
    remove_all(git_dir)?;
    fs::rename(&making, git_dir).map_err(Error::io("rename", &making))?;
    let way = relative(root, git_dir).into_os_string().into_encoded_bytes();
    let dot_git = root.join(".git");
    if !dot_git.symlink_metadata().is_ok_and(|meta| meta.is_file()) {
        remove_all(&dot_git)?;
    }
    replace_file(&dot_git, &[b"gitdir: ".as_slice(), &way, b"\n"].concat())
}

/// Writes the settings that mark the submodules of a clone as initialized.
pub(crate) fn note(place: &Place<'_>, submodules: &[Submodule]) -> Result<()> {
    let mut list: Vec<Pair> = Vec::new();
    for submodule in submodules.iter().filter(|one| place.git_dir.join(MODULES).join(&one.name).is_dir()) {
        let source = place.store.join(&submodule.name);
        // A submodule that a check has fetched itself is not ours.
        if !source.join("HEAD").is_file() {
            continue;
        }
        let config = read_config(&source.join("config"))?;
        if let Some((_, url)) = config.into_iter().find(|(key, _)| key == URL.as_bytes()) {
            list.push((format!("submodule.{}.active", submodule.name).into_bytes(), b"true".to_vec()));
            list.push((format!("submodule.{}.url", submodule.name).into_bytes(), url));
        }
    }
    if list.is_empty() {
        return Ok(());
    }
    let path = place.git_dir.join("config");
    let mut config = read_config(&path)?;
    config.retain(|(key, _)| !list.iter().any(|(name, _)| name == key));
    config.extend(list);
    write_config(&path, &config)
}

/// Copies commits of an agent in submodules to the store, before their git folders are created again.
pub(crate) fn save_left_behind(place: &Place<'_>) -> Result<()> {
    let mut found = Vec::new();
    repositories(&place.git_dir.join(MODULES), Path::new(""), 0, &mut found);
    for (way, git_dir) in found {
        let source = place.store.join(&way);
        if !source.join("HEAD").is_file() {
            continue;
        }
        let mut seen: BTreeSet<CommitHash> = nested::tips(&git_dir, &["refs/heads", "refs/stash"]).into_iter().collect();
        seen.extend(nested::head_in(&git_dir));
        match take(&as_repository(&source), &git_dir, &seen.into_iter().collect::<Vec<_>>()) {
            Err(error) if error.is_disk_full() => return Err(error),
            Err(error) => {
                tracing::warn!(submodule = ?way, %error, "cannot save the agent's own commits in a submodule; they are lost")
            }
            Ok(taken) if taken.is_empty() => {}
            Ok(taken) => {
                tracing::info!(submodule = ?way, commits = ?taken, "the agent's own commits in a submodule were saved in the store")
            }
        }
    }
    Ok(())
}

/// The changed tracked files in the filled submodules, with their paths from the top.
pub(crate) fn changed(git: &Git, tree: &CommitHash, place: &Place<'_>) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    changed_in(git, tree, place, Path::new(""), 0, &mut found)?;
    Ok(found)
}

fn changed_in(
    git: &Git,
    tree: &CommitHash,
    place: &Place<'_>,
    above: &Path,
    depth: usize,
    found: &mut Vec<PathBuf>,
) -> Result<()> {
    for submodule in of_tree(git, tree)? {
        let (source, own) = (place.store.join(&submodule.name), place.own.join(&submodule.name));
        let (index, root) = (own.join("index"), place.root.join(&submodule.path));
        if !index.is_file() || !source.join("HEAD").is_file() {
            continue;
        }
        let way = above.join(&submodule.path);
        if !root.symlink_metadata().is_ok_and(|meta| meta.is_dir()) {
            found.push(way);
            continue;
        }
        let inner = Git::in_work_tree(&source, &root).with_env("GIT_INDEX_FILE", &index);
        let differ = inner.call(["diff-files", "-z", "--name-only", "--ignore-submodules=all"]).paths()?;
        found.extend(differ.into_iter().map(|path| way.join(path)));
        if depth < MAX_DEPTH {
            let git_dir = place.git_dir.join(MODULES).join(&submodule.name);
            let place = Place { root: &root, git_dir: &git_dir, store: &source.join(MODULES), own: &own.join(MODULES) };
            changed_in(&git_of(&source), &submodule.commit, &place, &way, depth + 1, found)?;
        }
    }
    Ok(())
}

/// The parent of one of our saved commits in the store's copy of a submodule; none if it is not ours.
pub(crate) fn saved_on(source: &Path, commit: &CommitHash) -> Result<Option<Option<CommitHash>>> {
    let repository = as_repository(source);
    if repository.resolve(&format!("{SAVED}{commit}"))?.is_none() {
        return Ok(None);
    }
    repository.resolve(&format!("{commit}^1")).map(Some)
}
