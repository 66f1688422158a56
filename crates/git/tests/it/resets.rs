//! What a workspace is like at the start of each attempt.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::place::{OPTIONS, Place, look};
use git::Opened;
use test_support::{git, write};

#[test]
fn whatever_the_agent_left_a_start_has_the_files_of_its_commit() {
    let place = Place::new(&[("a.txt", "one\n"), (".gitignore", "*.cache\n")]);
    let store = place.store();
    let workspace = place.workspace(&store, "a");
    let (root, base) = (workspace.root().to_owned(), store.integration().unwrap().unwrap());
    let left: [(&str, &dyn Fn()); 8] = [
        ("nothing", &|| {}),
        ("rules that hide", &|| {
            write(&root, "d/.gitignore", "hidden\n");
            write(&root, "d/hidden", "x\n");
            write(&root, ".gitignore", "*.cache\njunk\n");
            write(&root, "junk", "x\n");
        }),
        ("a folder of nothing", &|| fs::create_dir_all(root.join("empty/folder")).unwrap()),
        ("a touched file", &|| write(&root, "a.txt", "one\n")),
        ("a mode", &|| fs::set_permissions(root.join("a.txt"), fs::Permissions::from_mode(0o755)).unwrap()),
        ("a deleted file", &|| fs::remove_file(root.join("a.txt")).unwrap()),
        ("references and index", &|| {
            git(&root, ["update-ref", "-d", "refs/remotes/origin/main"]);
            git(&root, ["rm", "--quiet", "--cached", "a.txt"]);
            git(&root, ["commit", "--quiet", "--message", "of the agent"]);
            git(&root, ["checkout", "--quiet", "-b", "elsewhere"]);
        }),
        ("its start", &|| {
            write(&root, "b.txt", "x\n");
            look(&workspace);
        }),
    ];
    for (name, leave) in left {
        // What is ignored stays: it may be a cache.
        write(&root, "kept.cache", "x\n");
        leave();
        assert_eq!(workspace.start_at(&base, &OPTIONS).unwrap(), Opened::Kept, "{name}");
        assert_eq!(files(&root), [".gitignore", "a.txt", "kept.cache"], "{name}");
        assert_eq!(fs::read_to_string(root.join(".gitignore")).unwrap(), "*.cache\n", "{name}");
        assert_eq!(fs::metadata(root.join("a.txt")).unwrap().permissions().mode() & 0o111, 0, "{name}");
        assert_eq!(look(&workspace).0, [""; 0], "{name}");
        assert_eq!(git(&root, ["status", "--porcelain"]), "", "{name}");
        assert_eq!(git(&root, ["symbolic-ref", "--short", "HEAD"]), "loop/a", "{name}");
        assert_eq!(git(&root, ["rev-parse", "HEAD", "refs/remotes/origin/main"]), format!("{base}\n{base}"), "{name}");
    }
}

/// The entries of a folder, sorted, without its git folder.
fn files(root: &Path) -> Vec<String> {
    let entries = fs::read_dir(root).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = entries.filter(|name| name != ".git").collect();
    names.sort();
    names
}
