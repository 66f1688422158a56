//! Setting up: the folder and database of a repository, loops, tests, completions.

use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use coord_db::file_system::FileSystem;
use coord_db::locate::Location;
use coord_db::{Config, Database, Error, LoopId, NewLoop, NewTest, TestEdit, TestId, locate};
use git::Repository;
use serde_json::json;
use views::published;
use views::text::safe;

use crate::cli::{self, LoopCommand, TestArgs, TestCommand};
use crate::context::Context;
use crate::doctor;
use crate::exit::{Failure, Outcome, io};
use crate::known_agents::KnownAgent;
use crate::place::{Place, existing};
use crate::presets;
use crate::programs;
use crate::project::{self, Project};
use crate::see;
use crate::submit::failure;
use crate::workspaces;

/// Prints a completion script.
///
/// # Errors
/// If the output cannot be written.
pub fn completions(shell: clap_complete::Shell) -> Outcome {
    use std::io::Write;
    let script = cli::registration(&shell.to_string()).ok_or_else(|| {
        Failure::usage(format!("there is no completion for {shell}; use bash, zsh, fish, elvish or powershell"))
    })?;
    std::io::stdout().lock().write_all(&script)?;
    Ok(())
}

/// The main checkout of the repository that `folder` is in; a linked worktree's is its repository's.
pub(crate) fn repository_of(folder: &Path) -> Outcome<PathBuf> {
    let repository = Repository::open(folder).map_err(|error| match error {
        error @ git::Error::ForeignOwner { .. } => Failure::No(error.to_string()),
        git::Error::GitMissing => Failure::No("cannot run git: install it, or add it to the PATH".to_owned()),
        _ => Failure::No(format!(
            "{} is not in a git repository; change to one, create one with git init, or name one with --repository",
            folder.display()
        )),
    })?;
    if repository.is_bare() {
        return Err(Failure::No(format!(
            "{} is a bare repository and has no checkout; clone it and run loopctl init in the clone",
            repository.root().display()
        )));
    }
    Ok(repository.root().to_owned())
}

/// Makes a folder for the owner alone. False if it is there.
fn make_folder(folder: &Path) -> Outcome<bool> {
    match std::fs::DirBuilder::new().mode(0o700).create(folder) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists && folder.is_dir() => Ok(false),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Err(Failure::No(format!(
            "{} is a file, but a folder is needed; rename it, or name another place with --db",
            folder.display()
        ))),
        Err(error) => Err(io(format!("cannot create {}", folder.display()))(error)),
    }
}

/// Makes a file with this content. False if it is there.
fn make_file(file: &Path, content: &str) -> Outcome<bool> {
    use std::io::Write;
    match std::fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(file) {
        Ok(mut opened) => {
            opened.write_all(content.as_bytes()).map_err(io(format!("cannot write {}", file.display())))?;
            Ok(true)
        }
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(io(format!("cannot create {}", file.display()))(error)),
    }
}

/// Makes the file that holds the address of a database on a server, once that is there. One that holds it already stays.
fn place_on_server(path: &Path, address: &str, config: &Config) -> Outcome {
    if !path.exists() {
        Database::create(Path::new(address), &config.open_options())?;
        return Ok(locate::write_address(path, address)?);
    }
    if Location::of(path) == Location::Server(address.to_owned()) {
        return Ok(());
    }
    Err(Failure::No(format!("{} is another database; name another place with --db", path.display())))
}

/// What the human has chosen for a project.
#[derive(Debug, Default)]
pub struct Chosen<'a> {
    /// The agent of all loops, by name.
    pub agent: Option<&'a str>,
    /// The address of a database on a server.
    pub database: Option<&'a str>,
    /// The remote at which several machines meet.
    pub remote: Option<&'a str>,
}

/// Makes what is missing: folder, settings, database. What is there is kept.
///
/// # Errors
/// Exit 1 outside of a repository, or if another agent is set; 3 if the database is there and not usable.
pub fn init(cx: &Context, repository: Option<&Path>, wanted: &Chosen<'_>) -> Outcome {
    let named = cx
        .global
        .db
        .clone()
        .or_else(|| std::env::var_os(locate::VARIABLE).filter(|value| !value.is_empty()).map(PathBuf::from));
    // In a workspace the database and the repository are those that it belongs to.
    let (root, named) = match workspaces::repository_of(cx).filter(|_| repository.is_none()) {
        Some(root) => (root, named.or_else(|| Some(cx.path.clone()))),
        None => (repository_of(repository.unwrap_or(&cx.folder))?, named),
    };
    let path = named.unwrap_or_else(|| root.join(locate::FOLDER).join(locate::FILE));
    let path = cx.folder.join(path);
    let folder = path.parent().unwrap_or(&root).to_owned();
    FileSystem::allow(existing(&folder), &path)?;
    let fresh = make_folder(&folder)?;
    // A folder that somebody else made for other things is not ours to hide from git.
    if fresh || folder.file_name().is_some_and(|name| name == locate::FOLDER) {
        make_file(&folder.join(".gitignore"), "*\n")?;
    }
    for name in ["backups", "logs"] {
        make_folder(&folder.join(name))?;
    }
    let config_file = cx.global.config.clone().unwrap_or_else(|| Config::path_for(&path));
    let (project, agents) = (project::look(&root), project::agents());
    let variables = programs::kept_back(&Config::default().agent.environment);
    let config_made = make_file(&config_file, &config_text(&config_file, &root, &project, &agents, &variables))?;
    // If only one is there, it is meant.
    let chosen = match (wanted.agent, &agents[..]) {
        (Some(name), _) => KnownAgent::named(name),
        (None, [one]) if config_made => Some(*one),
        _ => None,
    };
    if let Some(known) = chosen {
        presets::change(&config_file, |text| presets::with_agent(text, known))?;
    }
    if let Some(remote) = wanted.remote {
        presets::change(&config_file, |text| presets::with_remote(text, remote))?;
    }
    let config = Config::load(&path, cx.global.config.as_deref())?;
    let made = !path.exists();
    if let Some(address) = wanted.database {
        place_on_server(&path, address, &config)?;
    }
    let db = Database::create(&path, &config.open_options())?;
    coding_loop::make_store(&db, &config).map_err(failure)?;
    let workspaces = config.workspace_root();
    let workspaces = workspaces.canonicalize().unwrap_or(workspaces);
    // What an older config says is its owner's word.
    let (project, agents) = if config_made { (project, agents) } else { Default::default() };
    let next = [
        "loopctl loop add loop-1",
        "loopctl test add T-001 --loop loop-1 --notes 'the goal in one sentence'",
        if config.agent.command.is_empty() {
            "loopctl up    (needs an agent: loopctl init --agent NAME; without one: loopctl next --loop loop-1)"
        } else {
            "loopctl up    (loopctl doctor says what is missing)"
        },
    ];
    let document = json!({
        "database": path.to_string_lossy(), "config": config_file.to_string_lossy(), "repository": root.to_string_lossy(),
        "workspaces": workspaces.to_string_lossy(), "created": made, "config_created": config_made, "checks": project.checks,
        "setup": project.setup, "cache": project.cache, "hints": project.hints,
        "agents": agents.iter().map(|known| known.program()).collect::<Vec<_>>(), "next": next,
    });
    let state = if made { "created" } else { "already exists" };
    let mut text = format!("{state}: {}\n", safe(&path.display().to_string()));
    if let Some(problem) = doctor::unready(&root) {
        text.push_str(&format!("problem: {}; {}\n", safe(&problem.0), safe(&problem.1)));
    }
    text.push_str(&format!("workspaces: {} (one folder for each loop)\n", safe(&workspaces.display().to_string())));
    let branch = &config.repository.integration_branch;
    if let Some(other) = Repository::open(&root).ok().and_then(|user| published::in_the_way(&user, branch)) {
        let what = published::cannot_have(branch, &other);
        text.push_str(&format!("problem: {what}; rename it, or set repository.integration_branch in config.toml\n"));
    }
    if let Some(known) = chosen {
        text.push_str(&format!("agent: {}, for all loops; try it with loopctl doctor\n", known.name));
    }
    if config_made {
        let shown = safe(&config_file.display().to_string());
        text.push_str(&found(&project, &root, &shown));
        if !variables.is_empty() {
            let names = variables.join(", ");
            text.push_str(&format!("passed on to agents and checks from your shell: {names} (environment in {shown})\n"));
        }
        for KnownAgent { name, kind, .. } in agents.iter().filter(|_| chosen.is_none()) {
            text.push_str(&format!("found {name}: to use it, loopctl init --agent {}\n", kind.as_str()));
        }
        if doctor::sandbox::try_out(&config, &root, &path, &config.agent).is_ok() {
            text.push_str(&format!("found bwrap: {}\n", doctor::sandbox::proposal("[agent]")));
        }
    }
    text.push_str("next:");
    for command in next {
        text.push_str(&format!("\n  {command}"));
    }
    match (cx.out.json, cx.out.quiet) {
        (true, _) => cx.out.document(&document),
        (false, true) => Ok(()),
        (false, false) => cx.out.text(&text),
    }
}

/// What was found of the project, for the human.
fn found(project: &Project, root: &Path, config: &str) -> String {
    let mut text = String::new();
    for check in &project.checks {
        text.push_str(&format!("found {}: work is verified by {:?}\n", check.from, check.command.join(" ")));
        if let Some(lacks) = programs::lacks(&check.command, root) {
            text.push_str(&format!("  problem: {}; install it, or change the check in {config}\n", safe(&lacks)));
        }
    }
    for argv in &project.setup {
        let inputs = project.setup_inputs.join(", ");
        text.push_str(&format!("  set-up of each folder: {:?}, and again when {inputs} change\n", argv.join(" ")));
    }
    if !project.cache.is_empty() {
        text.push_str(&format!("  kept between runs: {}\n", project.cache.join(", ")));
    }
    for hint in &project.hints {
        text.push_str(&format!("found {}: {}\n", safe(&hint.file), safe(&hint.text)));
    }
    if project.checks.is_empty() {
        let what = if project.hints.is_empty() { "found no build files: " } else { "" };
        text.push_str(&format!("{what}add a [[gate.check]] to {config}: the command that verifies the work\n"));
    } else {
        text.push_str("try the checks with loopctl doctor --run-checks\n");
    }
    text
}

/// The commented defaults, with the repository's path if it is not the folder above the file's, and what was found.
fn config_text(file: &Path, root: &Path, project: &Project, agents: &[&KnownAgent], variables: &[&str]) -> String {
    let mut text = project::config_text(coord_db::config::DEFAULT_TEXT, project, agents, variables);
    if let Some(branch) = checked_out(root) {
        let line = format!("follow = {}", toml::Value::String(branch));
        text = text.replacen(&format!("{:<36} #", "follow = \"\""), &format!("{line:<36} #"), 1);
    }
    let above =
        file.parent().and_then(|folder| folder.canonicalize().ok()).and_then(|folder| folder.parent().map(Path::to_owned));
    if above.is_some() && above == root.canonicalize().ok() {
        return text;
    }
    let quoted = toml::Value::String(root.display().to_string()).to_string();
    text.replacen("path = \"..\"", &format!("path = {quoted}"), 1)
}

/// The branch that the user works on; none where no branch is checked out.
fn checked_out(root: &Path) -> Option<String> {
    let head = Repository::open(root).ok()?.symbolic_target("HEAD").ok()??;
    head.strip_prefix("refs/heads/").filter(|branch| !branch.starts_with("coding-loops/")).map(str::to_owned)
}

/// `loopctl loop …`
///
/// # Errors
/// What the database reports.
pub fn loops(cx: &Context, command: LoopCommand) -> Outcome {
    let (db, config) = cx.open_with_config()?;
    match command {
        LoopCommand::Add { id, name, priority, branch, agent } => {
            id.allow_as_new()?;
            if let Some(branch) = &branch {
                check_branch(branch)?;
            }
            let own = branch.clone().unwrap_or_else(|| format!("coding-loops/{id}"));
            if own == config.repository.integration_branch {
                return Err(Failure::usage(format!(
                    "{own} is the integration branch; choose another id, or another branch with --branch"
                )));
            }
            let agent = agent.map(|name| {
                KnownAgent::named(&name).ok_or_else(|| Failure::usage(format!("no preset is known for the agent {name}")))
            });
            let agent = agent.transpose()?;
            let row = db.write(|tx| {
                tx.add_loop(&NewLoop { id: id.clone(), name, priority, branch })?;
                tx.loop_row(&id)
            })?;
            if let Some(known) = agent {
                let file = cx.global.config.clone().unwrap_or_else(|| Config::path_for(&cx.path));
                presets::change(&file, |text| presets::with_agent_of(text, &id, known))?;
            }
            let branch = row.branch.as_deref().unwrap_or_default();
            cx.out.done(&row, &format!("loop {id} is added, priority {priority}, branch {branch}"))
        }
        LoopCommand::List => see::loops(cx),
        LoopCommand::Remove { id } => {
            db.write(|tx| tx.remove_loop(&id))?;
            cx.out.done(&json!({ "removed": id }), &format!("loop {id} is removed"))
        }
    }
}

/// The rules of `git check-ref-format` that typing errors break.
fn check_branch(branch: &str) -> Outcome {
    let bad = branch.is_empty()
        || branch.starts_with(['-', '/', '.'])
        || branch.ends_with(['/', '.'])
        || branch.ends_with(".lock")
        || ["..", "//", "@{", "/."].iter().any(|part| branch.contains(part))
        || branch.chars().any(|c| c.is_control() || c.is_whitespace() || "~^:?*[\\".contains(c));
    if bad {
        Err(Failure::usage(format!("{branch:?} is not a valid branch name; see git help check-ref-format")))
    } else {
        Ok(())
    }
}

/// `loopctl test …`
///
/// # Errors
/// What the database reports; misfits of an import each with its line.
pub fn tests(cx: &Context, command: TestCommand) -> Outcome {
    match command {
        TestCommand::Import { file } => crate::import::run(cx, &file),
        TestCommand::List(filter) => see::tests(cx, &filter),
        TestCommand::Edit { id, depends_on, manual, says } => {
            let depends_on = match depends_on.as_deref() {
                None => None,
                Some("") => Some(None),
                Some(test) => Some(Some(test.parse()?)),
            };
            let edit = TestEdit { depends_on, automatable: manual.map(|manual| !manual), ..said(cx, says)? };
            edit_test(cx, &id, &edit)
        }
        TestCommand::Remove { id } => {
            cx.open()?.write(|tx| tx.remove_test(&id))?;
            cx.out.done(&json!({ "removed": id }), &format!("test {id} is removed"))
        }
        TestCommand::Add { id, loop_id, depends_on, manual, allow_no_change, says } => {
            let said = said(cx, says)?;
            let new = NewTest {
                id,
                loop_id,
                category: said.category.unwrap_or_default(),
                max_attempts: said.max_attempts.unwrap_or(3),
                depends_on,
                automatable: !manual,
                notes: said.notes,
                spec_content: said.spec_content,
                scope: said.scope.unwrap_or_default(),
                allow_no_change,
            };
            add_test(cx, &new)
        }
    }
}

fn said(cx: &Context, args: TestArgs) -> Outcome<TestEdit> {
    let TestArgs { category, max_attempts, notes, spec, spec_file, scope } = args;
    let scope = if scope.is_empty() { None } else { Some(scope_globs(cx, scope)?) };
    Ok(TestEdit { category, max_attempts, notes, spec_content: spec_text(spec, spec_file)?, scope, ..TestEdit::default() })
}

fn scope_globs(cx: &Context, globs: Vec<String>) -> Outcome<Vec<String>> {
    let globs = Place::of(cx, &cx.config()?)?.globs(globs)?;
    for glob in &globs {
        globset::Glob::new(glob).map_err(|error| Failure::usage(format!("scope {glob:?} is not a valid glob: {error}")))?;
    }
    Ok(globs)
}

fn spec_text(spec: Option<String>, file: Option<PathBuf>) -> Outcome<Option<String>> {
    match file {
        Some(file) if file == Path::new("-") => Ok(Some(crate::read_stdin()?)),
        Some(file) => std::fs::read_to_string(&file)
            .map(Some)
            .map_err(|error| Failure::usage(format!("cannot read {}: {error}", file.display()))),
        None => Ok(spec),
    }
}

fn edit_test(cx: &Context, id: &TestId, edit: &TestEdit) -> Outcome {
    if *edit == TestEdit::default() {
        return Err(Failure::usage("nothing is to change; see loopctl test edit --help"));
    }
    let row = cx.open()?.write(|tx| {
        tx.edit_test(id, edit)?;
        tx.test(id)
    })?;
    cx.out.done(&row, &format!("test {id} is changed"))
}

fn add_test(cx: &Context, new: &NewTest) -> Outcome {
    let db = cx.open()?;
    let row = db.write(|tx| {
        let loop_id: &LoopId = &new.loop_id;
        tx.loop_row(loop_id)?;
        if tx.find_test(new.id.as_str())?.is_some() {
            return Err(Error::Exists { what: "test", id: new.id.to_string() });
        }
        if let Some(dependency) = new.depends_on.as_ref().filter(|dependency| **dependency != new.id) {
            tx.test(dependency)?;
        }
        match tx.import_tests(std::slice::from_ref(new))?.into_iter().next() {
            Some((_, message)) => Err(Error::Invalid(message)),
            None => tx.test(&new.id),
        }
    })?;
    cx.out.done(&row, &format!("test {} is added to the queue of {}", new.id, new.loop_id))
}
