"""What is landed by whom, and what is wrong with it."""

import dataclasses
import pathlib
import re

LOOPS = {"edits": 1, "jaros": 2, "others": 3}

# The measures: module, loop, what it builds on, its functions, the beginnings of its tests' names. The longer ones first.
MEASURES = [
    ("winkler", "jaros", "jaro", ["generic_jaro_winkler", "jaro_winkler"], ["jaro_winkler", "generic_jaro_winkler"]),
    ("jaro", "jaros", None, ["generic_jaro", "jaro"], ["jaro", "generic_jaro"]),
    ("hamming", "others", None, ["generic_hamming", "hamming"], ["hamming"]),
    ("normalized", "edits", "levenshtein", ["normalized_levenshtein"], ["normalized_levenshtein"]),
    ("levenshtein", "edits", None, ["generic_levenshtein", "levenshtein"], ["levenshtein", "generic_levenshtein"]),
    ("osa", "edits", None, ["osa_distance"], ["osa_distance"]),
    ("ratio", "others", "damerau", ["normalized_damerau_levenshtein"], ["normalized_damerau"]),
    ("damerau", "others", None,
     ["flat_index", "generic_damerau_levenshtein", "RowId", "GrowingHashmapMapElemChar", "GrowingHashmapChar",
      "HybridGrowingHashmapChar", "damerau_levenshtein_impl", "damerau_levenshtein"],
     ["damerau_levenshtein", "generic_damerau"]),
    ("dice", "jaros", None, ["bigrams", "sorensen_dice"], ["bigrams", "sorensen_dice"]),
]
MODULES = [measure[0] for measure in MEASURES]

CONFIG = """
[agent]
command = {agent}
[[gate.check]]
name = "suite"
command = {check}
[budget]
tests_per_day = 0
[regression]
retries = 1
nice = 0
"""

# For a module its own tests, at least one; for a small change only that all of it compiles; for nobody in particular all.
# So what a small change breaks elsewhere is the ledger's to find, as it is where a suite takes hours.
CHECK = """
case "$TEST_ID" in
  '') exec cargo test --offline --quiet ;;
  tidy-*) exec cargo test --offline --quiet --no-run ;;
esac
own() {
  told=$(cargo test --offline --quiet "$@" 2>&1) || { printf '%s\\n' "$told"; exit 1; }
  printf '%s\\n' "$told"
  case "$told" in *'ok. 0 passed'*) echo 'no test was run'; exit 1 ;; esac
}
own --lib "$TEST_ID::"
[ "$TEST_ID" = dice ] || own --test "$TEST_ID"
"""


@dataclasses.dataclass
class Task:
    id: str
    loop: str
    spec: str
    after: str | None = None


@dataclasses.dataclass
class Fault:
    name: str
    kind: str
    task: str | None
    file: str
    good: str
    bad: str
    promised: tuple = ("gate",)
    after: str | None = None
    cheats: bool = False
    breaks: str | None = None


WATCHED = ("ledger",)
UNSEEN = ("not at all",)
DICE_END = "    (2 * intersection_size) as f64"
FAULTS = [
    Fault("each difference counts twice", "logic", "hamming", "src/hamming.rs", "count += 1", "count += 2"),
    Fault("an insertion costs two", "logic", "levenshtein", "src/levenshtein.rs", "distance_b + 1)", "distance_b + 2)"),
    Fault("a transposition costs two", "logic", "osa", "src/osa.rs", "[j - 1] + 1)", "[j - 1] + 2)"),
    Fault("a wrong factor", "arithmetic", "dice", "src/dice.rs", "(2 * intersection", "(3 * intersection"),
    Fault("a wrong threshold, and the tests that show it deleted", "cheating", "winkler", "src/winkler.rs", "> 0.7", "> 0.99",
          cheats=True),
    Fault("a name that does not exist", "does not compile", "damerau", "src/damerau.rs", "_levenshtein_impl(a.chars()", "_levenstein_impl(a.chars()"),
    Fault("nothing done, success claimed", "no work", "normalized", "src/normalized.rs", "", ""),
    Fault("a tidied search range", "logic, in another's module", "tidy-range", "src/jaro.rs", "max(a_len, b_len) / 2",
          "max(a_len, b_len) / 4", WATCHED, breaks="jaro"),
    Fault("a shorter prefix", "logic, in another's module", "tidy-prefix", "src/winkler.rs", ".take(4)", ".take(3)", WATCHED,
          breaks="winkler"),
    Fault("a cost that was one everywhere", "interplay of two commits", "tidy-two", "src/lib.rs", "EDIT: usize = 1",
          "EDIT: usize = 2", WATCHED, breaks="osa"),
    Fault("a runner for tests that cannot run them", "build settings", "tidy-build", ".cargo/config.toml", "# Settings.",
          "[target.'cfg(all())']\nrunner = 'false'", WATCHED),
    Fault("a commit on the branch by hand", "past the gate", None, "src/ratio.rs", "1.0 - (dist", "0.9 - (dist",
          WATCHED, after="ratio", breaks="ratio"),
    Fault("a misspelt message", "a line that no test sees", "tidy-text", "src/lib.rs", "Differing length", "Diffring length",
          UNSEEN),
    Fault("work done for nothing", "performance", "tidy-speed", "src/dice.rs", DICE_END,
          "    let _: Vec<String> = (0..2000).map(|n: u32| n.to_string()).collect();\n" + DICE_END, UNSEEN),
    Fault("a wrong doc comment", "documentation", "tidy-doc", "src/osa.rs", "only be edited once", "be edited at will", UNSEEN),
]
HUMAN = next(fault for fault in FAULTS if fault.task is None)

# The first half of the interplay is harmless by itself.
HARMLESS = Fault("", "", "tidy-one", "src/osa.rs", "prev_two_distances[j - 1] + 1)", "prev_two_distances[j - 1] + crate::EDIT)")

TASKS = [Task(module, loop, f"Write src/{module}.rs: {', '.join(functions)}, with tests.", after)
         for module, loop, after, functions, _ in reversed(MEASURES)] + [
    Task("tidy-range", "others", "Tidy the search range of jaro.", "jaro"),
    Task("tidy-prefix", "edits", "Tidy the prefix of winkler.", "winkler"),
    Task("tidy-one", "jaros", "Use EDIT in osa.", "osa"),
    Task("tidy-two", "others", "Make EDIT what the paper says.", "tidy-build"),
    Task("tidy-build", "jaros", "Tidy the settings.", "tidy-one"),
    Task("tidy-text", "edits", "Reword the error.", "hamming"),
    Task("tidy-speed", "others", "Prepare dice for long texts.", "dice"),
    Task("tidy-doc", "jaros", "Reword the documentation of osa.", "osa"),
]


def write(file, text):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def substitute(tree, file, old, new):
    """True if there was something to replace."""
    path = pathlib.Path(tree, file)
    text = path.read_text()
    if not old or old not in text:
        return False
    path.write_text(text.replace(old, new))
    return True


def changes(world, commit, fault):
    """Whether a commit is the one that put the fault in."""
    shown = world.git("show", "--format=", commit, "--", fault.file)
    return all(line in shown for line in fault.bad.splitlines())


def items(text):
    """The top-level items of a source file by name: what belongs to a name in one text."""
    found, lines = {}, []
    for line in text.splitlines(keepends=True):
        if not lines and not line.strip():
            continue
        lines.append(line)
        if line == "}\n" or re.match(r"struct \w+<'a>\(.*\);\n", line):
            item = "".join(lines)
            name = re.search(r"^(?:pub )?(?:fn|struct) (\w+)|^impl.* for (?:&'a )?(\w+)|^impl\S* (\w+)", item, re.M)
            name = next(filter(None, name.groups()))
            found[name] = found.get(name, "") + "\n" + item
            lines = []
    return found


def parts(project):
    """The source: its head, its items, its tests and what they share."""
    text = (project / "src/lib.rs").read_text()
    head, rest = text.split("pub type HammingResult", 1)
    kind, rest = rest.split("\n", 1)
    body, tests = rest.split("#[cfg(test)]\nmod tests {\n", 1)
    shared = tests[: tests.index("    #[test]")].replace("    use super::*;\n", "")
    blocks = dict(re.findall(r"(?m)^    #\[test\]\n(?:    #.*\n)*    fn (\w+)\(\) (\{\n(?:.*\n)*?    \}\n)", tests))
    helpers = dict(re.findall(r"(?m)^    fn (assert_\w+)(\((?:.*\n)*?    \}\n)", tests))
    for name, block in blocks.items():
        # A helper of one measure's tests goes with each of them, inside.
        used = "".join(f"        fn {helper}{text}" for helper, text in helpers.items() if helper in block)
        blocks[name] = block.replace("{\n", "{\n" + used, 1)
    return head + "pub type HammingResult" + kind + "\n", items(body), shared, blocks


def inside(text):
    """Private items are the crate's own where they are in modules."""
    return re.sub(r"(?m)^(struct|fn) ", r"pub(crate) \1 ", text)


def base(project):
    head, found, _, _ = parts(project)
    # What all modules need is used by its full name there.
    modules = "".join(f"mod {module};\npub use {module}::*;\n" for module in sorted(MODULES))
    wrapper = inside(found["StringWrapper"]).replace("(&'a str)", "(pub(crate) &'a str)")
    text = head.replace("#![allow(", "#![allow(unused_imports, dead_code, ambiguous_glob_reexports,", 1)
    manifest = '[package]\nname = "strsim"\nversion = "0.0.0"\nedition = "2021"\n\n[workspace]\n'
    files = {"src/lib.rs": f"{text}\npub(crate) const EDIT: usize = 1;\n\n{modules}{wrapper}", "Cargo.toml": manifest, ".cargo/config.toml": "# Settings.\n",
             ".gitignore": "/target\nCargo.lock\n", "LICENSE": (project / "LICENSE").read_text()}
    return files | {f"src/{module}.rs": "// To be written.\n" for module in MODULES}


def modules(project):
    """The files of each module: its source with its unit tests, and its acceptance test."""
    head, found, shared, tests = parts(project)
    uses = "".join(re.findall(r"(?m)^use .*\n", head))
    acceptance = (project / "tests/lib.rs").read_text()
    macro = acceptance[acceptance.index("macro_rules!"): acceptance.index("#[test]")]
    works = dict(re.findall(r"(?m)^#\[test\]\nfn (\w+)_works\(\) (\{\n(?:.*\n)*?\}\n)", acceptance))
    made, taken = {}, set()
    for module, _, after, functions, names in MEASURES:
        own = [test for test in tests if test not in taken and test.startswith(tuple(names))]
        taken.update(own)
        source = "".join(found[function] for function in functions)
        unit = "\n".join(f"    #[test]\n    fn {test}() {tests[test]}" for test in own)
        more = f"use crate::{after}::*;\n" if after else ""
        text = (f"{uses}use crate::*;\n{more}{inside(source)}\n#[cfg(test)]\n#[allow(unused_macros, unused_imports)]\nmod tests {{\n"
                f"    use super::*;\n\n{shared}\n{unit}}}\n")
        made[module] = {f"src/{module}.rs": text}
        if functions[-1] in works:
            made[module][f"tests/{module}.rs"] = (
                f"#![allow(unused_macros)]\n\nuse strsim::*;\n\n{macro}#[test]\nfn works() {works[functions[-1]]}")
    assert taken == set(tests), set(tests) - taken
    return made


def prepare(project, folder):
    """What the agents do: for each task and attempt the files as they are to be, or what is to be replaced."""
    first = {fault.task: fault for fault in FAULTS if fault.promised == ("gate",)}
    for module, files in modules(project).items():
        for name, text in files.items():
            write(folder / module / "good" / name, text)
        fault = first.get(module)
        if fault is None:
            continue
        tree = folder / module / "1"
        for name, text in files.items() if fault.bad else []:
            if fault.cheats:
                text = text.split("#[cfg(test)]")[0]
            if not fault.cheats or name.startswith("src/"):
                write(tree / name, text)
        tree.mkdir(exist_ok=True)
        assert not fault.bad or substitute(tree, fault.file, fault.good, fault.bad), fault
    for fault in [*FAULTS, HARMLESS]:
        if fault.task and fault.task.startswith("tidy-"):
            for name, text in [("file", fault.file), ("good", fault.good), ("bad", fault.bad)]:
                write(folder / fault.task / name, text)
