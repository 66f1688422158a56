#!/usr/bin/env python3
"""Leaves two pages open in a real Chromium while events come steadily, and watches the memory of server and browser.

    steady.py SECONDS PID URL DATABASE

PID is the process of `loopctl web`, URL what it prints, DATABASE what it shows. Prints a line of JSON at each seventh of the time;
fails if a page stops following, or if what a page or the server holds after the first two sevenths grows until the end.
"""

import json
import sqlite3
import sys
import time

from walk import SETTLED, Browser, check

# Between two events.
PAUSE = 0.6
# The first two are not counted: caches fill, the allocator takes what it will keep.
MEASUREMENTS = 7
SETTLED_AT = 2


class Page:
    """A window of its own that stays open."""

    def __init__(self, browser, path, address):
        self.browser, self.path = browser, path
        self.window = browser.call("POST", "/window/new", {"type": "window"})["handle"]
        self.show()
        browser.look(1280, 800, "light")
        browser.open(address)
        browser.until(f"the page {path}", SETTLED, path)
        browser.devtools("Performance.enable")

    def show(self):
        self.browser.call("POST", "/window", {"handle": self.window})

    def held(self):
        """Kilobytes of the heap after a collection, and the nodes of the document."""
        self.browser.devtools("HeapProfiler.collectGarbage")
        found = {one["name"]: one["value"] for one in self.browser.devtools("Performance.getMetrics")["metrics"]}
        return {"heap_kb": round(found["JSHeapUsedSize"] / 1024), "nodes": round(found["Nodes"])}


def resident_kb(pid):
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS:"))


def commit(database, count):
    """An event, and what an agent is doing."""
    with sqlite3.connect(database, timeout=20) as db:
        db.execute(
            "INSERT INTO events (id, source, event_type, payload) VALUES (?, 'backend', 'custom.steady', json_object('text', ?))",
            (f"steady-{count}", f"steady-{count}-"),
        )
        db.execute("UPDATE runs SET progress = ? WHERE kind = 'agent' AND ended_at IS NULL AND loop_id = 'backend'", (f"edits file {count}",))
    db.close()


def watch(browser, seconds, pid, url, database):
    origin, token = url.split("/#")
    pages = {"story": Page(browser, "/story", f"{origin}/story#{token}"), "now": Page(browser, "/", f"{origin}/#{token}")}
    shows = {"story": "steady-{}-", "now": "edits file {}"}
    measured, count = [], 0
    began = time.monotonic()
    for number in range(MEASUREMENTS + 1):
        while not count or time.monotonic() - began < seconds * number / MEASUREMENTS:
            count += 1
            commit(database, count)
            time.sleep(PAUSE)
        found = {"seconds": round(time.monotonic() - began), "events": count, "server_kb": resident_kb(pid)}
        for name, page in pages.items():
            page.show()
            browser.until(f"event {count} on the page {name}", "return document.body.innerText.includes(arguments[0])", shows[name].format(count))
            found.update({f"{name}_{what}": value for what, value in page.held().items()})
        measured.append(found)
        print(json.dumps(found), flush=True)
    errors = [entry for entry in browser.log("browser") if entry["level"] in ("SEVERE", "WARNING")]
    check(not errors, f"errors on the console: {errors}")
    settled, last = measured[SETTLED_AT], measured[-1]
    for what, spare in {"server_kb": 4_000, "story_heap_kb": 1_000, "now_heap_kb": 1_000, "story_nodes": 500, "now_nodes": 500}.items():
        check(last[what] < settled[what] * 1.2 + spare, f"{what}: {settled[what]} became {last[what]}")


if __name__ == "__main__":
    with Browser(notes_requests=False) as opened:
        watch(opened, int(sys.argv[1]), *sys.argv[2:5])
