//! The morning report: what landed, waits, broke and cost, as a file, as Markdown and as JSON.

use crate::common::agents;

const HOSTILE: &str = "<script>alert(1)</script> [x](javascript:1)\u{202e}";

#[test]
fn a_night_is_one_file() {
    let place = agents("");
    place.sql(&format!("UPDATE tests SET notes = '{HOSTILE}'"));
    std::fs::write(place.workspaces().join("loops/a/new.txt"), "x\n").unwrap();
    place.run(&["submit", "t-a"]).ok();
    std::fs::write(place.workspaces().join("loops/b/calc.py"), "bad\n").unwrap();
    place.run(&["submit", "t-b"]).fails(1);
    place.run(&["ask", "--summary", HOSTILE, "--option", "yes=Do it", "--option", "no=Do not"]).ok();
    place.run(&["usage", "record", "--loop", "a", "--test", "t-a", "--tokens", "1234", "--usd", "0.5"]).ok();

    let report = place.json(&["report"]);
    assert_eq!((&report["landed"][0]["test_id"], &report["landed"][0]["tokens_estimated"]), (&"t-a".into(), &1234.into()));
    assert_eq!(report["waiting"]["questions"].as_array().unwrap().len(), 1);
    let marks = &report["lanes"]["lanes"];
    let of = |id: &str| marks.as_array().unwrap().iter().find(|lane| lane["loop_id"] == id).unwrap()["marks"].clone();
    assert_eq!(of("a").as_array().unwrap().last().unwrap()["outcome"], "landed");
    assert_eq!(of("b")[0]["outcome"], "failed");

    let said = place.run(&["report"]).ok().stdout;
    assert!(said.contains("report.html: 1 test landed, 1 question, 1234 tokens ($0.5000)"), "{said}");
    let page = std::fs::read_to_string(place.home().join("report.html")).unwrap();
    for part in ["<svg", "t-a", "loopctl why ", "$0.5000", "&lt;script&gt;", "\\u{202e}"] {
        assert!(page.contains(part), "{part:?} is not in {page}");
    }
    for part in ["<script", "http://", "https://", "src=", "\u{202e}"] {
        assert!(!page.replace("http://www.w3.org/2000/svg", "").contains(part), "{part:?} is in the page");
    }
    // The same head; the time in the title is another one.
    let head = |page: &str| page.split("<title>").next().map(str::to_owned);
    assert_eq!(head(&place.run(&["report", "--output", "-"]).ok().stdout), head(&page));
    place.run(&["report", "--output", "no/such/folder.html"]).fails(1).says("no/such/folder.html");

    // A link stays a link, and what is no file stays what it is.
    std::os::unix::fs::symlink("real.html", place.repository().join("link.html")).unwrap();
    std::fs::write(place.repository().join("real.html"), "old").unwrap();
    place.run(&["report", "--output", "link.html"]).ok();
    assert!(std::fs::read_to_string(place.repository().join("real.html")).unwrap().contains("<svg"));
    assert!(place.repository().join("link.html").is_symlink());
    place.run(&["report", "--output", "/dev/null"]).ok();
    assert!(std::os::unix::fs::FileTypeExt::is_char_device(&std::fs::metadata("/dev/null").unwrap().file_type()));

    let text = place.run(&["report", "--markdown"]).ok().stdout;
    for part in [
        "## Landed\n\n- **t-a** of a: \\<script\\>",
        "verified by suite and second",
        "## Waits for you",
        "`loopctl decide ",
        "## Cost\n\n- a: 1234 tokens ($0.5000)",
    ] {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
    assert!(!text.contains("[x](javascript"), "{text}");
    // A test that lands again is one test; what it took stands beside its last landing.
    place.sql(
        "INSERT INTO events (id, source, event_type, payload)
         SELECT 'again', source, event_type, json_set(payload, '$.attempt', 2) FROM events WHERE event_type = 'test_passed'",
    );
    let landed = &place.json(&["report"])["landed"];
    let told =
        |at: usize| (landed[at]["attempt"].clone(), landed[at]["is_last"].clone(), landed[at]["tokens_estimated"].clone());
    assert_eq!(told(0), (1.into(), false.into(), 0.into()));
    assert_eq!(told(1), (2.into(), true.into(), 1234.into()));
    let said = place.run(&["report"]).ok().stdout;
    assert!(said.contains("1 test landed, 1 landing of the same tests before, "), "{said}");
    let page = std::fs::read_to_string(place.home().join("report.html")).unwrap();
    assert!(page.contains("<dd class=\"good\">1<small> +1 again</small></dd>"), "{page}");
    // A period in which nothing happened.
    let empty = place.run(&["report", "--since", "0s", "--markdown"]).ok().stdout;
    assert!(empty.contains("0 tests landed") && !empty.contains("## Landed"), "{empty}");
    for command in [&["report", "--markdown"][..], &["report"], &["summary"], &["usage", "report"]] {
        let command = [command, &["--since", "2999-01-01"]].concat();
        place.run(&command).fails(2).says("--since 2999-01-01 00:00:00Z is in the future");
    }
}
