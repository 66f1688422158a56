//! The man pages: every command has one, with text of its own, and man reads them without a complaint.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use crate::common::Place;

fn written(folder: &Path) -> BTreeMap<String, String> {
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    files.map(|file| (file.file_stem().unwrap().to_str().unwrap().to_owned(), std::fs::read_to_string(file).unwrap())).collect()
}

#[test]
fn every_command_has_a_page_with_all_sections() {
    let place = Place::empty();
    let folder = place.outside().join("man");
    std::fs::create_dir(&folder).unwrap();
    place.run(&["man-pages", folder.to_str().unwrap()]).ok();
    let pages = written(&folder);
    for name in ["loopctl", "loopctl-lock", "loopctl-test", "loopctl-test-add", "coding-loop", "monitor", "pm-agent"] {
        assert!(pages.contains_key(name), "{name}");
    }
    assert!(pages.len() > 75, "{}", pages.len());
    for (name, text) in &pages {
        for section in ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "EXIT STATUS", "FILES", "ENVIRONMENT", "SEE ALSO"] {
            let heading = [format!("\n.SH {section}\n"), format!("\n.SH \"{section}\"\n")];
            assert!(heading.iter().any(|heading| text.contains(heading)), "{name} has no {section}:\n{text}");
        }
        let has_own = text.contains(".SH COMMANDS");
        assert!(has_own || text.contains(".SH EXAMPLES"), "{name} has no examples");
        let see_also = text.rsplit(".SH SEE ALSO\n").next().unwrap();
        for page in see_also.split(",\n") {
            let page = page.trim().trim_start_matches("\\fB").trim_end_matches("\\fR(1)").replace("\\-", "-");
            assert!(pages.contains_key(&page) && page != *name, "{name} refers to {page}");
        }
    }
    assert!(pages["loopctl"].contains(".SS Drive a loop by hand") && pages["loopctl"].contains("loopctl\\-deadlocks(1)"));

    let Ok(man) = Command::new("man").args(["--warnings=w", "-l", "-P", "cat"]).arg(folder.join("loopctl-lock.1")).output()
    else {
        eprintln!("skipped: no man");
        return;
    };
    let (shown, complaints) = (String::from_utf8_lossy(&man.stdout), String::from_utf8_lossy(&man.stderr));
    assert!(man.status.success() && complaints.is_empty(), "{complaints}");
    assert!(shown.contains("loopctl lock src/api/ --loop backend --wait 60 --reason 'renames the module'"), "{shown}");
    assert!(shown.contains("All paths are leased, or none"), "{shown}");
}
