//! Creates our bare repositories, and brings the objects of another repository into them.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::call::Git;
use crate::folders::remove_all;
use crate::settings::{Pair, pairs, read_config};
use crate::{Error, Result};

/// Creates a repository with the same formats as another.
pub(crate) fn init(like: &Git, path: &Path, options: &[&str]) -> Result<()> {
    let formats = like.call(["rev-parse", "--show-object-format", "--show-ref-format"]).ok_for_ever()?;
    let formats = String::from_utf8_lossy(&formats).into_owned();
    let mut lines = formats.lines();
    let hash = lines.next().unwrap_or("sha1");
    let parent = path.parent().unwrap_or(path);
    let git = Git::discovering(parent);
    let mut call = git.call(["init", "--quiet", "--template="]).arg(format!("--object-format={hash}"));
    // git before 2.45 knows only one format, and repeats the unknown option.
    if let Some(format) = lines.next().filter(|format| !format.starts_with('-') && *format != "files") {
        call = call.arg(format!("--ref-format={format}"));
    }
    call.args(options).arg("--").arg(path).ok().map(drop)
}

/// Links the objects of a repository, or copies them if that is not possible, like `git clone`. False if they have to
/// be transferred instead: they are borrowed from elsewhere, or a `gc` keeps running.
pub(crate) fn link_objects(git_dir: &Path, making: &Path) -> Result<bool> {
    const MAX_TRIES: u32 = 3;
    let (from, to) = (git_dir.join("objects"), making.join("objects"));
    if from.join("info/alternates").exists() {
        return Ok(false);
    }
    for _ in 0..MAX_TRIES {
        let packs = pack_names(&from)?;
        let linked = link_all(&from, &to);
        // An object moves only from a loose file into a new pack, or from pack to pack: if the packs are unchanged,
        // none was missed.
        if linked.is_ok() && pack_names(&from)? == packs {
            return Ok(true);
        }
        remove_all(&to)?;
        for folder in ["pack", "info"] {
            fs::create_dir_all(to.join(folder)).map_err(Error::io("create", to.join(folder)))?;
        }
    }
    Ok(false)
}

fn pack_names(objects: &Path) -> Result<BTreeSet<PathBuf>> {
    let folder = objects.join("pack");
    let Ok(entries) = fs::read_dir(&folder) else { return Ok(BTreeSet::new()) };
    let names = entries.map(|entry| Ok(entry.map_err(Error::io("list", &folder))?.path()));
    names.filter(|name| name.as_ref().map_or(true, |name| name.extension().is_some_and(|ext| ext == "pack"))).collect()
}

fn link_all(from: &Path, to: &Path) -> std::io::Result<()> {
    for folder in fs::read_dir(from)? {
        let folder = folder?;
        let name = folder.file_name();
        let text = name.to_string_lossy().into_owned();
        let is_loose = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !is_loose && text != "pack" {
            continue;
        }
        let target = to.join(&name);
        fs::create_dir_all(&target)?;
        for entry in fs::read_dir(folder.path())? {
            let entry = entry?;
            let file = entry.file_name();
            let text = file.to_string_lossy().into_owned();
            let is_temporary = text.starts_with("tmp_") || text.starts_with('.');
            let is_derived = text.starts_with("multi-pack-index") || text.ends_with(".keep") || text.ends_with(".lock");
            if is_temporary || is_derived || !entry.path().is_file() {
                continue;
            }
            let place = target.join(&file);
            if fs::hard_link(entry.path(), &place).is_err() {
                fs::copy(entry.path(), &place)?;
            }
        }
    }
    Ok(())
}

/// Makes git refuse to delete objects, even for `gc --prune=now` of the user: no reference points to the objects of a
/// running attempt.
pub(crate) fn keep_objects(config: &mut Vec<Pair>) {
    config.retain(|(key, _)| key != b"core.repositoryformatversion" && key != b"extensions.preciousobjects");
    config.splice(0..0, pairs(&[("core.repositoryformatversion", "1"), ("extensions.preciousobjects", "true")]));
}

/// The settings that git itself has derived from a repository's format and its file system. They may differ from the
/// user's, whose values are for other machines.
pub(crate) fn own_format(git_dir: &Path) -> Result<Vec<Pair>> {
    let config = read_config(&git_dir.join("config"))?;
    let kept = |key: &[u8]| {
        let of_files = [b"core.filemode".as_slice(), b"core.symlinks", b"core.ignorecase", b"core.precomposeunicode"];
        matches!(key, b"core.repositoryformatversion" | b"core.bare")
            || of_files.contains(&key)
            || key.starts_with(b"extensions.")
    };
    Ok(config.into_iter().filter(|(key, _)| kept(key)).collect())
}
