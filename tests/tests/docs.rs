//! Every fenced block of commands or settings in a document is run by a test.

use system_tests::docs::{DOCUMENTS, blocks};

/// Whose blocks they are: document, heading (empty: all of the document), and the test that runs them.
const RUN_BY: [(&str, &str, &str); 7] = [
    ("README.md", "coding-loops", "readme.rs, demo.rs"),
    ("README.md", "Your own repository", "readme.rs"),
    ("README.md", "Looking and steering", "readme.rs"),
    ("README.md", "Several machines", "machines.rs"),
    ("systemd/README.md", "", "runbook.rs"),
    ("crates/coding-loop/README.md", "", "agents.rs"),
    // A test cannot build the workspace that it is part of; CI does.
    ("CONTRIBUTING.md", "Build and test", "CI"),
];

#[test]
fn every_block_is_run_by_a_test() {
    for document in DOCUMENTS {
        for block in blocks(document) {
            let is_run =
                RUN_BY.iter().any(|(of, heading, _)| *of == document && (heading.is_empty() || *heading == block.heading));
            assert!(is_run, "no test runs this block of {document}, below {:?}:\n{}", block.heading, block.text);
        }
    }
}

#[test]
fn every_document_with_commands_is_known() {
    let output = std::process::Command::new("git")
        .args([
            "-C",
            &system_tests::project().display().to_string(),
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
            "*.md",
        ])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for document in String::from_utf8(output.stdout).unwrap().split_terminator('\0') {
        let has_commands = blocks(document).iter().any(|block| block.kind == "bash" || block.kind == "sh");
        assert!(!has_commands || DOCUMENTS.contains(&document), "{document} shows commands that no test runs");
    }
}
