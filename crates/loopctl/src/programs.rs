//! What a command needs and this machine lacks, found without running the command; looks into `sh -c`.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::shell::{self, Script, Simple};

/// Where a program is that a command names, seen from a check-out like `root`.
#[must_use]
pub fn program_at(program: &str, root: &Path) -> Option<PathBuf> {
    let executable = |path: &PathBuf| {
        use std::os::unix::fs::PermissionsExt;
        std::fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    };
    if program.contains('/') {
        return Some(root.join(program)).filter(executable);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(executable)
}

/// What a command needs and this machine does not have, in words. Nothing of the project is run.
#[must_use]
pub fn lacks(command: &[String], root: &Path) -> Option<String> {
    let (call, assigns) = without_env(command)?;
    let program = call.first()?;
    let missing = program_lacks(program, root);
    if missing.is_some() {
        return missing;
    }
    match script_of(call) {
        Some(text) => script_lacks(&shell::read(text)?, root),
        None if assigns.iter().any(|name| name.starts_with("PYTHON")) => None,
        None => module_lacks(call, root),
    }
}

/// The programs that a command calls by literal names: its own, and those of its script.
#[must_use]
pub fn calls(command: &[String]) -> Vec<Vec<String>> {
    let Some((call, _)) = without_env(command) else { return Vec::new() };
    let Some(text) = script_of(call) else { return vec![call.to_vec()] };
    let commands = shell::read(text).map(|script| script.commands).unwrap_or_default();
    commands.iter().map(|simple| written_out(without_prefix(&simple.words))).filter(|call| !call.is_empty()).collect()
}

/// The names of the variables that the script of a command assigns or exports.
#[must_use]
pub fn assigned(command: &[String]) -> Vec<String> {
    let script = without_env(command).and_then(|(call, _)| shell::read(script_of(call)?));
    let name = |word: String| Some(word.split_once('=')?.0.to_owned());
    let of = |simple: Simple| {
        let is_export = simple.words.first().is_some_and(|word| word.as_deref() == Some("export"));
        let words = written_out(if is_export { &simple.words } else { &[] });
        simple.assigns.into_iter().chain(words.into_iter().filter_map(name))
    };
    script.map(|script| script.commands.into_iter().flat_map(of).collect()).unwrap_or_default()
}

/// A command without `env NAME=VALUE …` before it, and the names. None if env is given options.
fn without_env(command: &[String]) -> Option<(&[String], Vec<&str>)> {
    let Some((first, mut rest)) = command.split_first() else { return Some((command, Vec::new())) };
    if first != "env" {
        return Some((command, Vec::new()));
    }
    let mut names = Vec::new();
    while let Some((name, after)) = rest.split_first().and_then(|(word, after)| Some((word.split_once('=')?.0, after))) {
        names.push(name);
        rest = after;
    }
    (!rest.first().is_some_and(|word| word.starts_with('-'))).then_some((rest, names))
}

/// The script of `sh -c SCRIPT`. None for a login shell, whose profile may change anything.
fn script_of(call: &[String]) -> Option<&str> {
    let shell = call.first()?.rsplit('/').next()?;
    if !["sh", "bash", "dash", "ksh"].contains(&shell) {
        return None;
    }
    let mut words = call[1..].iter();
    let mut is_script = false;
    while let Some(word) = words.next() {
        let Some(letters) = word.strip_prefix(['-', '+']) else { return is_script.then_some(word) };
        if letters.starts_with('-') {
            continue;
        }
        if letters.contains(['l', 'i']) {
            return None;
        }
        is_script |= letters.contains('c');
        if letters.ends_with(['o', 'O']) {
            words.next()?;
        }
    }
    None
}

fn program_lacks(program: &str, root: &Path) -> Option<String> {
    let place = if program.contains('/') { "there" } else { "on the PATH" };
    program_at(program, root).is_none().then(|| format!("{program} is not {place}"))
}

/// The module that `python -m` would not find.
fn module_lacks(call: &[String], root: &Path) -> Option<String> {
    let [program, option, module, ..] = call else { return None };
    let found = program_at(program, root)?;
    if option != "-m" || !found.file_name()?.to_string_lossy().starts_with("python") {
        return None;
    }
    // To find a module in a package Python would run the package.
    let module = module.split('.').next()?;
    let known = "import importlib.util, sys; sys.exit(importlib.util.find_spec(sys.argv[1]) is None)";
    let status = Command::new(found)
        .args(["-c", known, module])
        .current_dir(root)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    status.is_ok_and(|status| status.code() == Some(1)).then(|| format!("{program} has no {module}"))
}

/// What the shell does itself.
const BUILTINS: &str = " . : [ [[ alias bg bind break builtin caller cd command compgen continue declare dirs disown echo \
    enable eval exec exit export false fc fg getopts hash help history jobs kill let local logout mapfile popd printf pushd \
    pwd read readarray readonly return set shift shopt source suspend test time times trap true type typeset ulimit umask \
    unalias unset wait ";

/// Words by which programs put other programs on the PATH.
const INSTALL: [&str; 7] = ["install", "setup", "bootstrap", "sync", "add", "get", "ci"];

/// A simple command's words without what only runs the rest.
fn without_prefix(mut words: &[Option<String>]) -> &[Option<String>] {
    while let [Some(first), Some(next), ..] = words {
        match first.as_str() {
            "env" => {
                let is_setting = |word: &Option<String>| word.as_ref().is_some_and(|word| word.contains('='));
                let settings = words[1..].iter().take_while(|word| is_setting(word)).count();
                words = &words[1 + settings..];
            }
            "exec" | "command" | "builtin" | "nohup" | "nice" | "time" if !next.starts_with('-') => words = &words[1..],
            _ => break,
        }
    }
    words
}

/// The words up to the first that the shell computes.
fn written_out(words: &[Option<String>]) -> Vec<String> {
    words.iter().map_while(Clone::clone).collect()
}

/// The programs that a script's certain commands name and that are not here. What the script itself may have made,
/// installed or brought onto the PATH is not missed.
fn script_lacks(script: &Script, root: &Path) -> Option<String> {
    let (mut is_path_known, mut is_folder_known, mut is_python_set) = (true, true, false);
    let mut missing: Vec<String> = Vec::new();
    for Simple { assigns, words, is_certain } in &script.commands {
        is_path_known &= !assigns.iter().any(|name| name == "PATH");
        is_python_set |= [&assigns[..], &written_out(words)].concat().iter().any(|word| word.starts_with("PYTHON"));
        let words = without_prefix(words);
        let call = written_out(words);
        let Some(program) = call.first().map(String::as_str) else {
            // Nothing but assignments, or a program that the shell computes.
            is_folder_known &= words.is_empty();
            is_path_known &= words.is_empty();
            continue;
        };
        if BUILTINS.contains(&format!(" {program} ")) {
            match program {
                "." | "source" | "eval" | "alias" => (is_path_known, is_folder_known) = (false, false),
                "cd" | "pushd" | "popd" | "echo" | "printf" => is_folder_known = false,
                "export" | "declare" | "typeset" | "readonly" | "local" => {
                    is_path_known &= call.len() == words.len() && !call.iter().any(|word| word.starts_with("PATH"));
                }
                _ => {}
            }
            continue;
        }
        let is_own = program.contains('/') || script.functions.contains(program);
        let is_known = if program.contains('/') { is_folder_known } else { is_path_known };
        if *is_certain && is_known && !script.functions.contains(program) && !program.starts_with('-') {
            let module = || if is_folder_known && !is_python_set { module_lacks(&call, root) } else { None };
            let found = program_lacks(program, root).or_else(module);
            missing.extend(found.filter(|found| !missing.contains(found)));
        }
        // What belongs to the project may do anything.
        is_path_known &= !is_own && !call.iter().any(|word| INSTALL.contains(&word.as_str()));
        is_folder_known = false;
    }
    (!missing.is_empty()).then(|| missing.join(", and "))
}

/// Variables that programs need on some machines to reach the network or to find what they have installed. None is a key.
const OF_THE_MACHINE: [&str; 24] = [
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "NODE_EXTRA_CA_CERTS",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "PIP_CERT",
    "UV_SYSTEM_CERTS",
    "UV_NATIVE_TLS",
    "CARGO_HOME",
    "RUSTUP_HOME",
    "GOPATH",
    "GOPROXY",
    "JAVA_HOME",
    "PNPM_HOME",
    "PYENV_ROOT",
];

/// Those of them that are set here and that agents and checks do not see.
pub fn kept_back(environment: &[String]) -> Vec<&'static str> {
    let is_set = |name: &&str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let passed = |name: &&str| environment.iter().any(|passed| passed == name);
    OF_THE_MACHINE.into_iter().filter(is_set).filter(|name| !passed(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn what_a_command_lacks_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let lacks = |command: &[&str]| lacks(&words(command), folder.path());
        assert_eq!(lacks(&["env", "A=b", "C=", "sh"]), None);
        assert_eq!(lacks(&["env", "A=b", "no-such-program"]), Some("no-such-program is not on the PATH".to_owned()));
        assert_eq!(lacks(&["env", "-i", "no-such-program"]), None, "what env makes of options is not known");
        assert_eq!(lacks(&["./check.sh"]), Some("./check.sh is not there".to_owned()));
        std::fs::write(folder.path().join("check.sh"), "#!/bin/sh\n").unwrap();
        assert!(lacks(&["./check.sh"]).is_some(), "it is not executable");
        assert_eq!(lacks(&["python3", "-m", "unittest"]), None);
        assert_eq!(lacks(&["python3", "-m", "no_such_module"]), Some("python3 has no no_such_module".to_owned()));
        assert_eq!(lacks(&["env", "PYTHONPATH=src", "python3", "-m", "no_such_module"]), None, "it may be in src");
        std::fs::write(folder.path().join("a_check.py"), "").unwrap();
        assert_eq!(lacks(&["python3", "-m", "a_check"]), None, "it is in the repository");
        std::fs::create_dir(folder.path().join("package")).unwrap();
        std::fs::write(folder.path().join("package/__init__.py"), "import sys; sys.exit(1)\n").unwrap();
        assert_eq!(lacks(&["python3", "-m", "package.tests"]), None, "nothing of the project is run");
        assert_eq!(lacks(&[]), None);
    }

    #[test]
    fn what_a_script_lacks_is_named_and_nothing_that_it_may_have_made() {
        let folder = tempfile::tempdir().unwrap();
        let lacks = |script: &str| lacks(&words(&["bash", "-eo", "pipefail", "-c", script, "name"]), folder.path());
        for script in [
            "gone -x",
            "set -e; cd /tmp && X=1 gone",
            "true; exec env A=b gone | cat >log",
            "for i in 1 2; do gone $i; done",
            "(cat; { gone; })",
            "grep -q \"$X\" file; gone",
        ] {
            assert_eq!(lacks(script), Some("gone is not on the PATH".to_owned()), "{script}");
        }
        assert_eq!(lacks("./gone; true"), Some("./gone is not there".to_owned()));
        assert_eq!(lacks("gone; lost && gone"), Some("gone is not on the PATH, and lost is not on the PATH".to_owned()));
        assert_eq!(lacks("python3 -m no_such_module -q"), Some("python3 has no no_such_module".to_owned()));
        for script in [
            "gone || true",
            "if gone --version; then gone; fi",
            "command -v gone && gone",
            "[ -x gone ] && gone",
            "gone() { true; }; gone",
            "f() { gone; }; true",
            "export PATH=bin:$PATH; gone",
            "PATH=bin gone",
            ". venv/bin/activate && gone",
            "eval \"$(cat env)\"; gone",
            "pip install -q gone && gone",
            "./bootstrap && gone || true",
            "make && ./gone",
            "cd sub && ./gone",
            "echo '#!/bin/sh' > gone; ./gone",
            "$TOOL; gone",
            "cat <<E\ngone\nE",
            "case x in x) gone;; esac",
            "pip install no_such_module && python3 -m no_such_module",
            "PYTHONPATH=src python3 -m no_such_module",
            "export PYTHONPATH=src; python3 -m no_such_module",
            "cd src && python3 -m no_such_module",
            "trap 'gone' EXIT; wait; ulimit -n 10; unset X",
            "env -i gone; time -p gone; nice -n 5 true",
        ] {
            assert_eq!(lacks(script), None, "{script}");
        }
        let in_folder = |command: &[&str]| super::lacks(&words(command), folder.path());
        assert!(in_folder(&["env", "A=b", "/bin/sh", "-ec", "gone"]).is_some());
        assert_eq!(in_folder(&["bash", "-lc", "gone"]), None, "its profile may set the PATH");
        assert_eq!(in_folder(&["sh", "gone.sh"]), None, "no script of its own");
        assert_eq!(in_folder(&["no-such-shell/sh", "-c", "true"]), Some("no-such-shell/sh is not there".to_owned()));
    }

    #[test]
    fn the_calls_of_a_command_are_seen_through_its_shell() {
        let calls = |command: &[&str]| calls(&words(command)).iter().map(|call| call.join(" ")).collect::<Vec<_>>().join("; ");
        assert_eq!(calls(&["claude", "-p"]), "claude -p");
        assert_eq!(calls(&["env", "A=b", "codex", "exec"]), "codex exec");
        assert_eq!(
            calls(&["sh", "-c", "cat >prompt; if true; then exec nice claude -p --model \"$M\" -v <prompt; fi"]),
            "cat; true; claude -p --model"
        );
    }
}
