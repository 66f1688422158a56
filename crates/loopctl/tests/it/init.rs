//! What `loopctl init` makes of a repository that holds a project.

use crate::common;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use crate::common::Place;
use coord_db::Config;
use git::{CommitHash, Layout, Repository, Workspace};

fn commands(place: &Place) -> Vec<Vec<String>> {
    let config = Config::load(&place.database(), None).unwrap();
    config.gate.check.into_iter().map(|check| check.command).collect()
}

#[test]
fn a_project_gets_its_check_and_the_reason() {
    let place = Place::bare();
    std::fs::write(place.repository().join("Cargo.toml"), "[workspace]\nmembers = []\n").unwrap();
    std::fs::write(place.repository().join("package.json"), r#"{"scripts": {"test": "node --test"}}"#).unwrap();
    let ran = place.run(&["init"]).ok();
    assert!(ran.stdout.contains("found Cargo.toml: work is verified by \"cargo test --workspace\""), "{}", ran.stdout);
    assert!(ran.stdout.contains("found package.json"), "{}", ran.stdout);
    let next: Vec<&str> = ran.stdout.lines().skip_while(|line| *line != "next:").skip(1).collect();
    assert_eq!(next.len(), 3, "{}", ran.stdout);
    assert!(next[2].trim().starts_with("loopctl up "), "{}", ran.stdout);
    assert_eq!(commands(&place), [vec!["cargo", "test", "--workspace"], vec!["npm", "test"]]);
    // What this machine lacks of it is another matter.
    let doctor = place.run(&["doctor"]).stdout;
    assert!(!doctor.contains("nothing can be verified"), "{doctor}");

    // What is there is kept, and nothing is proposed beside it.
    let again = place.json(&["init"]);
    assert_eq!((&again["config_created"], &again["checks"]), (&false.into(), &serde_json::json!([])));
    assert_eq!(commands(&place).len(), 2);
}

#[test]
fn what_a_check_or_the_agent_needs_and_is_not_here_is_said_before_anybody_pays_for_an_attempt() {
    let place = Place::bare();
    std::fs::write(place.repository().join("pyproject.toml"), "[tool.pytest.ini_options]\n").unwrap();
    // An environment in which nothing is installed.
    let python = place.repository().join(".venv/bin/python");
    std::fs::create_dir_all(python.parent().unwrap()).unwrap();
    std::fs::write(&python, "#!/bin/sh\nexec python3 -S -I \"$@\"\n").unwrap();
    std::fs::set_permissions(&python, std::fs::Permissions::from_mode(0o755)).unwrap();
    let ran = place.run(&["init"]).ok();
    let lacks = format!("{} has no pytest", python.display());
    assert!(ran.stdout.contains(&format!("problem: {lacks}; install it")), "{}", ran.stdout);
    let config = place.database().with_file_name("config.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replacen("command = []", "command = [\"no-such-agent\"]", 1)).unwrap();
    let ran = place.run(&["doctor"]).fails(1);
    assert!(ran.stdout.contains(&format!("problem gate         check tests cannot pass: {lacks}")), "{}", ran.stdout);
    assert!(
        ran.stdout.contains("problem agent        no-such-agent is not on the PATH, which [agent] needs"),
        "{}",
        ran.stdout
    );
    // What stands in the repository is looked for there, wherever the settings are.
    std::fs::write(&config, "[agent]\ncommand = [\"sh\"]\n[[gate.check]]\nname = \"t\"\ncommand = [\"./t.sh\"]\n").unwrap();
    std::fs::write(place.repository().join("t.sh"), "#!/bin/sh\n").unwrap();
    std::fs::set_permissions(place.repository().join("t.sh"), std::fs::Permissions::from_mode(0o755)).unwrap();
    let ran = place.run(&["doctor"]).ok();
    assert!(ran.stdout.contains("ok      gate         t: their programs are installed"), "{}", ran.stdout);
    assert!(ran.stdout.contains("ok      agent        sh, of [agent]"), "{}", ran.stdout);
}

#[test]
fn from_a_subfolder_or_a_linked_worktree_the_repositorys_own_files_count() {
    let place = Place::bare();
    std::fs::write(place.repository().join("go.mod"), "module x\n").unwrap();
    let deep = place.repository().join("deep/er");
    std::fs::create_dir_all(&deep).unwrap();
    std::fs::write(deep.join("Cargo.toml"), "[package]\n").unwrap();
    place.git(&["worktree", "add", "--quiet", "../linked"]);
    place.run_in(&place.outside().join("linked"), &["init"]).ok();
    assert_eq!(commands(&place), [["go", "test", "./..."]]);
    std::fs::remove_dir_all(place.home()).unwrap();
    place.run_in(&deep, &["init"]).ok();
    assert_eq!(commands(&place), [["go", "test", "./..."]]);
}

#[test]
fn build_files_that_are_none_are_left_alone() {
    let place = Place::bare();
    let file = |name: &str| place.repository().join(name);
    std::fs::create_dir(file("package.json")).unwrap();
    assert!(Command::new("mkfifo").arg(file("Makefile")).status().unwrap().success());
    std::os::unix::fs::symlink("setup.py", file("setup.py")).unwrap();
    std::os::unix::fs::symlink("/dev/zero", file("go.mod")).unwrap();
    std::fs::write(file("pyproject.toml"), b"\xff\xfe[tool.pytest]\0").unwrap();
    std::fs::write(file("requirements.txt"), vec![b'x'; 12 << 20]).unwrap();
    let ran = place.run(&["init"]).ok();
    assert_eq!(commands(&place), [["python3", "-m", "pytest"]], "{}", ran.stdout);
}

#[test]
fn the_only_agent_on_the_path_is_chosen_and_of_two_none() {
    let place = Place::bare();
    let bin = place.outside().join("bin");
    std::fs::create_dir(&bin).unwrap();
    std::fs::write(bin.join("codex"), "#!/bin/sh\n").unwrap();
    std::fs::set_permissions(bin.join("codex"), std::fs::Permissions::from_mode(0o755)).unwrap();
    // One that cannot be executed is none.
    std::fs::write(bin.join("aider"), "").unwrap();
    let git = Command::new("sh").args(["-c", "command -v git"]).output().unwrap().stdout;
    std::os::unix::fs::symlink(String::from_utf8(git).unwrap().trim(), bin.join("git")).unwrap();
    let output = place.command(&["init"]).env("PATH", &bin).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("agent: Codex, for all loops") && said.contains("found no build files"), "{said}");
    let text = std::fs::read_to_string(place.home().join("config.toml")).unwrap();
    assert!(text.lines().any(|line| line.starts_with("# Codex") && line.ends_with("; found here")), "{text}");
    assert_eq!(Config::load(&place.database(), None).unwrap().agent.command[0], "codex");

    std::fs::set_permissions(bin.join("aider"), std::fs::Permissions::from_mode(0o755)).unwrap();
    let place = Place::bare();
    let output = place.command(&["init"]).env("PATH", &bin).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("found Codex") && said.contains("found Aider"), "{said}");
    assert!(Config::load(&place.database(), None).unwrap().agent.command.is_empty());
}

fn set_root(place: &Place, root: &str) {
    let config = place.home().join("config.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    let line = text.lines().find(|line| line.starts_with("root = ")).unwrap().to_owned();
    std::fs::write(&config, text.replacen(&line, &format!("root = {root:?}"), 1)).unwrap();
}

#[test]
fn the_store_is_made_beside_the_repository() {
    let place = Place::bare();
    let ran = place.run(&["init"]).ok();
    let root = place.workspaces();
    assert!(ran.stdout.contains(&format!("workspaces: {} (", root.display())), "{}", ran.stdout);
    let store = Layout::new(&root).open_store().unwrap();
    assert_eq!(store.integration_ref(), "refs/heads/coding-loops/integration");
    let head = place.git(&["rev-parse", "HEAD"]);
    assert!(store.missing(&[CommitHash::new(head).unwrap()]).unwrap().is_empty());
    assert_eq!(place.json(&["init"])["workspaces"], root.to_str().unwrap());
    // Whatever is asked there is asked of this database.
    place.run(&["loop", "add", "a"]).ok();
    assert_eq!(place.run_in(&root, &["--json", "loop", "list"]).ok().json()[0]["id"], "a");
}

#[test]
fn a_file_in_place_of_the_folder_is_named() {
    let place = Place::bare();
    std::fs::write(place.repository().join("coding-loops"), "notes\n").unwrap();
    place.run(&["init"]).fails(1).says("coding-loops is a file, but a folder is needed; rename it");
    assert_eq!(std::fs::read_to_string(place.repository().join("coding-loops")).unwrap(), "notes\n");
}

#[test]
fn in_a_workspace_init_means_its_repository() {
    let place = Place::new();
    let user = Repository::open(&place.repository()).unwrap();
    let layout = Layout::new(place.workspaces());
    let (store, head) = (layout.open_store().unwrap(), user.commit("HEAD").unwrap());
    let spec = layout.workspace("a", "coding-loops/a");
    drop(Workspace::open_or_create(&store, &spec, &head).unwrap());
    let document = place.run_in(&spec.path, &["--json", "init"]).ok().json();
    let database = Path::new(document["database"].as_str().unwrap()).canonicalize().unwrap();
    assert_eq!(database, place.database().canonicalize().unwrap());
    assert_eq!(document["created"], false);
    assert!(!spec.path.join("coding-loops").exists());
}

#[test]
fn a_repository_without_a_commit_has_its_store_already() {
    let place = Place::empty();
    place.run(&["init"]).ok();
    assert!(Layout::new(place.workspaces()).open_store().unwrap().integration().unwrap().is_none());
    place.git(&["commit", "--quiet", "--allow-empty", "-m", "first"]);
    place.run(&["init"]).ok();
}

#[test]
fn workspaces_lie_in_no_foreign_folder_and_not_in_the_checkout() {
    let place = Place::bare();
    std::fs::create_dir_all(place.workspaces().join("mine")).unwrap();
    let says = |ran: common::Ran, what: &str| drop(ran.fails(1).says(what).says("set root in [workspace] of "));
    says(place.run(&["init"]), "repo-loops contains files that coding-loops did not create");
    assert_eq!(std::fs::read_dir(place.workspaces()).unwrap().count(), 1);
    for inside in ["ws", "../ws", "../none/../ws"] {
        set_root(&place, inside);
        says(place.run(&["init"]), "where tools would find copies of every file");
    }
    set_root(&place, "../../none/../other");
    place.run(&["init"]).ok();
    let other = place.outside().canonicalize().unwrap().join("other");
    assert!(Layout::new(&other).open_store().is_ok());
    // It stays the first database's.
    std::fs::create_dir(place.outside().join("second")).unwrap();
    let second = place.outside().join("second/x.db");
    std::fs::remove_dir_all(place.workspaces()).unwrap();
    std::fs::rename(other, place.workspaces()).unwrap();
    says(place.run(&["--db", second.to_str().unwrap(), "init"]), "belongs to the database ");
}

#[test]
fn a_branch_beside_which_ours_cannot_be_is_named() {
    let place = Place::bare();
    place.git(&["branch", "coding-loops"]);
    let ran = place.run(&["init"]).ok();
    let what = "git does not allow the branch coding-loops/integration beside your branch coding-loops";
    assert!(ran.stdout.contains(&format!("{what}; rename it, or set repository.integration_branch")), "{}", ran.stdout);
    let doctor = place.run(&["doctor"]).stdout;
    assert!(doctor.contains(what), "{doctor}");
    place.git(&["branch", "--move", "coding-loops", "mine"]);
    let again = place.run(&["init"]).ok();
    assert!(!again.stdout.contains("git does not allow"), "{}", again.stdout);
}

/// With and without PostgreSQL in this build: the one cannot be reached, the other is not there.
#[test]
fn a_server_that_cannot_be_used_leaves_no_database_behind() {
    let place = Place::bare();
    let init = ["init", "--database", "postgres://me:secret@127.0.0.1:1/loops"];
    let ran = place.command(&init).output().unwrap();
    assert!(!ran.status.success());
    let said = String::from_utf8_lossy(&ran.stderr).into_owned() + &String::from_utf8_lossy(&ran.stdout);
    assert!(!said.contains("secret") && (said.contains("PostgreSQL") || said.contains("cannot reach")), "{said}");
    assert!(!place.database().exists());
    place.run(&["init"]).ok();
    // What is there is not replaced by an address.
    let before = std::fs::read(place.database()).unwrap();
    place.run(&init).fails(1).says("is another database");
    assert_eq!(std::fs::read(place.database()).unwrap(), before);
}
