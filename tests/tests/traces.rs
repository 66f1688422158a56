//! Every trace of the catalogue: what had to be reported was reported in time, and nothing else was. `tests/traces/README.md`
//! quotes the table.

use system_tests::project;
use system_tests::traces::{Report, catalogue};

/// Stands before and after the table.
const MARKS: (&str, &str) =
    ("<!-- detectors: `cargo test -p system-tests --test traces` prints it -->\n", "<!-- /detectors -->");

#[test]
fn clear_cases_are_told_in_time_and_no_alarm_is_false_but_those_that_are_known() {
    let traces = catalogue().unwrap_or_else(|error| panic!("{error}"));
    let report = Report::of(&traces).unwrap_or_else(|error| panic!("{error}"));
    println!("{} healthy traces, {} others\n\n{report}", report.traces.0, report.traces.1);
    assert!(report.mistakes.is_empty(), "{}", report.mistakes.join("\n"));
    assert!(traces.len() >= 30 && report.traces.0 >= 18 && report.traces.0 > report.traces.1, "{:?}", report.traces);

    let readme = std::fs::read_to_string(project().join("tests/traces/README.md")).unwrap();
    let quoted = readme.split_once(MARKS.0).and_then(|(_, rest)| rest.split_once(MARKS.1)).map(|(table, _)| table);
    let counted = format!("{} traces ({} of them healthy)", traces.len(), report.traces.0);
    assert!(readme.contains(&counted), "the README does not say {counted:?}");
    assert_eq!(quoted.map(str::trim), Some(report.to_string().trim()), "the README quotes another table");
}
