//! The text of the drop-ins.

use std::path::{Path, PathBuf};

use coord_db::LoopId;

/// The file's name in the folder of a unit's drop-ins.
pub(super) const FILE: &str = "50-repository.conf";

const HEAD: &str =
    "# Written by loopctl service enable, which overwrites it; what is yours goes into another file (systemctl edit).\n";

/// What differs from one repository to the next.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) database: PathBuf,
    /// The database's.
    pub(super) folder: PathBuf,
    pub(super) repository: PathBuf,
    /// The folder of store and workspaces.
    pub(super) workspaces: PathBuf,
    pub(super) user: String,
    pub(super) home: PathBuf,
    /// Where the programs are.
    pub(super) programs: PathBuf,
    /// The PATH that commands are found on.
    pub(super) path: String,
    /// For the machine's manager.
    pub(super) system: bool,
    /// The database is on a server, which the supervisors have to reach.
    pub(super) on_server: bool,
}

/// In double quotes, so that neither systemd's specifiers nor its escapes mean anything in it.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%"))
}

fn path(path: &Path) -> String {
    quoted(&path.to_string_lossy())
}

/// The line that names a database in its repository's drop-ins.
pub(super) fn database_line(database: &Path) -> String {
    format!("Environment={}", quoted(&format!("CODING_LOOPS_DB={}", database.display())))
}

/// What a drop-in sets a variable to.
pub(super) fn variable(text: &str, name: &str) -> Option<String> {
    let start = format!("Environment=\"{name}=");
    let set = text.lines().find_map(|line| line.strip_prefix(&start)?.strip_suffix('"'))?;
    let (mut value, mut characters) = (String::new(), set.chars());
    while let Some(character) = characters.next() {
        // Each of them is there twice, or before a quote.
        value.push(if matches!(character, '\\' | '%') { characters.next()? } else { character });
    }
    Some(value)
}

impl Place {
    /// Refuses what cannot be said in a unit.
    pub(super) fn check(&self) -> Result<(), String> {
        let paths = [&self.database, &self.folder, &self.repository, &self.workspaces, &self.home, &self.programs];
        for path in paths {
            let Some(text) = path.to_str() else {
                return Err(format!(
                    "{} is not UTF-8 and cannot be written in a unit of systemd; use another path",
                    path.display()
                ));
            };
            if text.contains(':') || text.chars().any(char::is_control) || text != text.trim() {
                return Err(format!(
                    "{text:?} holds what cannot be said in a unit (a colon, a control character, outer blanks)"
                ));
            }
        }
        if self.path.chars().any(char::is_control) {
            return Err("PATH holds control characters".to_owned());
        }
        Ok(())
    }

    /// The line by which a repository's drop-ins are known.
    pub(super) fn database_line(&self) -> String {
        database_line(&self.database)
    }

    fn common(&self) -> String {
        let mut text = format!("{HEAD}[Unit]\nRequiresMountsFor={} {}\n", path(&self.folder), path(&self.workspaces));
        text.push_str(&format!("\n[Service]\n{}\n", self.database_line()));
        // Not quoted there.
        text.push_str(&format!("WorkingDirectory={}\n", self.folder.to_string_lossy().replace('%', "%%")));
        if self.system {
            text.push_str(&format!("User={}\n", self.user));
        }
        text
    }

    /// The drop-in of a supervisor; `quiet` if nothing is sent to the human.
    pub(super) fn supervisor(&self, unit: &str, quiet: bool) -> String {
        let mut text = self.common();
        match unit {
            "regression-checker" => text.push_str(&self.runs_commands()),
            // It sees other processes, so it has no namespaces of its own, and a user's manager has no other means.
            "heartbeat" if !self.system => {}
            "monitor" => text.push_str(&self.looks_at_workspaces()),
            "pm-agent" if !quiet => text.push_str(&self.notifies()),
            _ => text.push_str(&self.sees_the_folder()),
        }
        let reaches_all = unit == "regression-checker" || (unit == "pm-agent" && !quiet);
        if self.on_server && !reaches_all {
            text.push_str(&self.reaches_the_server(unit));
        }
        text
    }

    /// A server on another machine, by its name, or on this one, by its socket.
    fn reaches_the_server(&self, unit: &str) -> String {
        let mut text =
            "# For the database.\nPrivateNetwork=no\nIPAddressDeny=\nRestrictAddressFamilies=AF_INET AF_INET6\n".to_owned();
        if self.system || unit != "heartbeat" {
            text.push_str(
                "BindReadOnlyPaths=-/etc/hosts -/etc/nsswitch.conf -/etc/resolv.conf -/run/systemd/resolve\n\
                 BindReadOnlyPaths=-/run/postgresql -/var/run/postgresql\n",
            );
        }
        text
    }

    fn sees_the_folder(&self) -> String {
        format!("BindReadOnlyPaths={}\nBindPaths={}\n", path(&self.programs), path(&self.folder))
    }

    fn looks_at_workspaces(&self) -> String {
        // Git goes by the user's settings too: what it ignores, which folders it trusts.
        let git = [self.home.join(".gitconfig"), self.home.join(".config/git")];
        let git: Vec<String> = git.iter().map(|file| quoted(&format!("-{}", file.display()))).collect();
        format!(
            "Environment={}\nBindReadOnlyPaths={} {} {}\n{}",
            quoted(&format!("HOME={}", self.home.display())),
            path(&self.repository),
            path(&self.workspaces),
            git.join(" "),
            self.sees_the_folder()
        )
    }

    fn runs_commands(&self) -> String {
        let mut text = format!("Environment={}\n", quoted(&format!("PATH={}", self.path)));
        if self.system {
            let paths = [&self.folder, &self.repository, &self.workspaces, &self.home].map(|folder| path(folder)).join(" ");
            text.push_str(&format!("ReadWritePaths={paths}\n"));
        }
        text
    }

    /// The human's own command needs what it needs: their files, their session, the network.
    fn notifies(&self) -> String {
        let mut text = "# For what [notify] in config.toml runs.\n".to_owned();
        for reset in
            ["TemporaryFileSystem", "BindReadOnlyPaths", "IPAddressDeny", "RestrictAddressFamilies", "SystemCallFilter"]
        {
            text.push_str(&format!("{reset}=\n"));
        }
        for open in ["ProtectHome", "PrivateNetwork", "MemoryDenyWriteExecute"] {
            text.push_str(&format!("{open}=no\n"));
        }
        text + &self.runs_commands()
    }

    /// The drop-in of a loop.
    pub(super) fn of_loop(&self, target: &str, id: &LoopId) -> String {
        let common = self.common().replacen("[Unit]\n", &format!("[Unit]\nPartOf={target}\n"), 1);
        format!("{common}Environment={}\n{}", quoted(&format!("CODING_LOOPS_LOOP={id}")), self.runs_commands())
    }
}

/// The target's, which wants the loops as well.
pub(super) fn target(loops: &[String]) -> String {
    let wants: String = loops.iter().map(|unit| format!("Wants={unit}\n")).collect();
    format!("{HEAD}[Unit]\n{wants}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> Place {
        let folder = PathBuf::from("/home/me/50% \"off\"/coding-loops");
        Place {
            database: folder.join("coordination.db"),
            repository: folder.parent().unwrap().to_owned(),
            folder,
            workspaces: "/home/me/50% \"off\"-loops".into(),
            user: "me".to_owned(),
            home: "/home/me".into(),
            programs: "/usr/local/bin".into(),
            path: "/usr/bin:/bin".to_owned(),
            system: true,
            on_server: false,
        }
    }

    #[test]
    fn nothing_in_a_path_means_anything_to_systemd() {
        let text = place().supervisor("heartbeat", true);
        assert!(text.contains("BindPaths=\"/home/me/50%% \\\"off\\\"/coding-loops\"\n"), "{text}");
        assert!(text.contains("WorkingDirectory=/home/me/50%% \"off\"/coding-loops\n"), "{text}");
        assert_eq!(variable(&text, "CODING_LOOPS_DB").as_deref(), place().database.to_str());
        assert_eq!(variable(&text, "PATH"), None);
        for bad in ["/home/me/a\nExecStart=/bin/sh", "/home/a:b", "/home/me/blank "] {
            let mut place = place();
            place.repository = bad.into();
            assert!(place.check().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn who_works_in_the_workspaces_may_write_there_and_monitor_may_look() {
        let root = "\"/home/me/50%% \\\"off\\\"-loops\"";
        let writes = |text: &str| text.lines().any(|line| line.starts_with("ReadWritePaths=") && line.contains(root));
        assert!(writes(&place().of_loop("coding-loops@shop.target", &"backend".parse().unwrap())));
        assert!(writes(&place().supervisor("regression-checker", true)));
        let monitor = place().supervisor("monitor", true);
        let reads = monitor.lines().any(|line| line.starts_with("BindReadOnlyPaths=") && line.contains(root));
        assert!(reads && !monitor.lines().any(|line| line.starts_with("BindPaths=") && line.contains(root)), "{monitor}");
        assert!(!place().supervisor("heartbeat", true).lines().any(|line| line.starts_with("Bind") && line.contains(root)));
    }

    #[test]
    fn a_loop_belongs_to_its_target() {
        let text = place().of_loop("coding-loops@shop.target", &"backend".parse().unwrap());
        assert!(text.contains("[Unit]\nPartOf=coding-loops@shop.target\n"), "{text}");
        assert!(text.contains("Environment=\"CODING_LOOPS_LOOP=backend\"\n"), "{text}");
    }

    #[test]
    fn only_with_a_notify_command_pm_gets_more_than_its_folder() {
        assert!(!place().supervisor("pm-agent", true).contains("PrivateNetwork"));
        assert!(place().supervisor("pm-agent", false).contains("PrivateNetwork=no"));
    }

    #[test]
    fn supervisors_reach_a_database_on_a_server() {
        let place = Place { on_server: true, ..place() };
        for unit in ["monitor", "deadlock-detector", "heartbeat", "pm-agent"] {
            let text = place.supervisor(unit, true);
            assert!(text.contains("PrivateNetwork=no\n") && text.contains("=AF_INET AF_INET6\n"), "{text}");
            assert!(text.contains("-/run/postgresql"), "{text}");
            assert_eq!(place.supervisor(unit, false).matches("PrivateNetwork=no").count(), 1);
        }
        let user = Place { system: false, ..place };
        assert!(!user.supervisor("heartbeat", true).contains("BindReadOnlyPaths"));
    }
}
