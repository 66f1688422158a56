#!/usr/bin/env python3
"""Walks through every view of the live page in a real Chromium, as a person does.

    walk.py URL DATABASE FOLDER REPORT

URL is what `loopctl web --url` prints, DATABASE what it shows, REPORT the file of `loopctl report`; screenshots go to FOLDER. Chromium is driven through chromedriver's
WebDriver protocol, with nothing but Python's standard library. Prints a line of JSON with what was measured; fails with the first
thing that is wrong: an error on the console, a request to elsewhere, text that became markup, a page that is wider than the window.
"""

import base64
import json
import os
import re
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import uuid

OPTIONS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
]
BOUND = 20


class Browser:
    """A Chromium with a new profile, which ends with the block. It notes each request only if asked to: that takes memory."""

    def __init__(self, notes_requests=True):
        self.notes_requests = notes_requests

    def __enter__(self):
        self.profile = tempfile.TemporaryDirectory(prefix="walk-")
        self.driver = subprocess.Popen(["chromedriver", "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        for line in self.driver.stdout:
            if found := re.search(r"successfully on port (\d+)", line):
                self.base = f"http://127.0.0.1:{found[1]}"
                break
        else:
            raise SystemExit("chromedriver does not start")
        chrome = {"args": [*OPTIONS, f"--user-data-dir={self.profile.name}"]}
        logs = {"browser": "ALL", **({"performance": "ALL"} if self.notes_requests else {})}
        wanted = {"goog:chromeOptions": chrome, "goog:loggingPrefs": logs}
        self.session = ""
        try:
            self.session = "/session/" + self.call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]
        except BaseException:
            self.end()
            raise
        return self

    def end(self):
        self.driver.terminate()
        self.driver.wait()
        self.profile.cleanup()

    def __exit__(self, *_):
        try:
            self.call("DELETE", "")
        finally:
            self.end()

    def call(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.base + self.session + path, data, {"Content-Type": "application/json"}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise SystemExit(f"{path}: {json.load(error)['value']['message']}") from None

    def open(self, url):
        self.call("POST", "/url", {"url": url})

    def run(self, script, *arguments):
        return self.call("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def devtools(self, command, **parameters):
        return self.call("POST", "/goog/cdp/execute", {"cmd": command, "params": parameters})

    def keys(self, text):
        actions = [action for key in text for action in ({"type": "keyDown", "value": key}, {"type": "keyUp", "value": key})]
        self.call("POST", "/actions", {"actions": [{"type": "key", "id": "keys", "actions": actions}]})

    def log(self, kind):
        return self.call("POST", "/se/log", {"type": kind})

    def until(self, what, script, *arguments):
        """Waits until a script gives something true; gives that and the seconds it took."""
        began = time.monotonic()
        while time.monotonic() - began < BOUND:
            if found := self.run(script, *arguments):
                return found, time.monotonic() - began
            time.sleep(0.02)
        raise SystemExit(f"not within {BOUND} s: {what}; the page shows:\n{self.run('return document.body.innerText')[:3000]}")

    def look(self, width, height, scheme):
        self.devtools("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500)
        self.devtools("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def picture(self, file):
        size = self.devtools("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": min(size["height"], 4000), "scale": 1}
        data = self.devtools("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)["data"]
        with open(file, "wb") as out:
            out.write(base64.b64decode(data))


def check(holds, what):
    if not holds:
        raise SystemExit(what)


SETTLED = """
const parts = [...document.querySelectorAll('main > section')];
return document.querySelector('#head nav') && parts.length > 0 && !document.querySelector('main.old') && !document.getElementById('part-error')
  && parts.every((part) => part.childElementCount > 0) && location.pathname === arguments[0];
"""
# Nothing that a row contains has become an element, and nothing is wider than the window.
SOUND = """
const wide = [...document.querySelectorAll('main *, #head *')].filter((one) => !one.closest('.scroll, .drawing, pre, .hidden, svg') && one.getBoundingClientRect().right > innerWidth + 1);
return {
  title: document.title, scripts: document.scripts.length, images: document.images.length, bold: document.querySelectorAll('main b').length,
  overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
  wide: wide.slice(0, 3).map((one) => one.outerHTML.slice(0, 200)),
  styles: document.querySelectorAll('[style]').length, handlers: [...document.querySelectorAll('main *')].filter((one) => one.getAttributeNames().some((name) => name.startsWith('on'))).length,
};
"""


def walk(browser, url, database, folder, report):
    origin = url.split("#")[0].rstrip("/")
    measured = {}
    # The browser's own first page loads much.
    browser.open("about:blank")
    browser.log("performance")
    browser.look(1280, 800, "light")
    # Without the token the page says what to do, and shows nothing.
    browser.open(origin + "/")
    browser.until("the hint", "return document.body.innerText.includes('loopctl web printed')")
    browser.open("about:blank")
    browser.open(url)
    browser.until("the first page", SETTLED, "/")
    check(browser.run("return location.hash") == "", "the token stays in the address")
    measured["first_paint_ms"] = browser.run("return performance.getEntriesByName('first-contentful-paint')[0].startTime")
    test = browser.run("return document.querySelector('a[href^=\"/tests/\"]').getAttribute('href')")
    with sqlite3.connect(database) as db:
        event = db.execute("SELECT id FROM events WHERE event_type = 'test_passed' AND source = 'backend' LIMIT 1").fetchone()[0]
        regressed = db.execute("SELECT test_id FROM regressions ORDER BY test_id LIMIT 1").fetchone()[0]
    pages = {
        "now": "/", "questions": "/questions", "tests": "/tests", "test": test, "broken": f"/tests/{regressed}",
        "hostile": "/tests/hostile-test", "cost": "/cost", "story": "/story", "why": f"/why/{event}",
    }
    for scheme in ("light", "dark"):
        for width in (1280, 390):
            browser.look(width, 844 if width == 390 else 800, scheme)
            for name, path in pages.items():
                browser.open(origin + path)
                browser.until(f"the page {path}", SETTLED, path)
                sound = browser.run(SOUND)
                where = f"{path} at {width} px, {scheme}"
                check("broken" not in sound["title"] and sound["scripts"] == 1, f"{where}: a row has run as a script: {sound}")
                check(sound["images"] == 0 and sound["styles"] == 0 and sound["handlers"] == 0, f"{where}: a row became markup: {sound}")
                check(sound["overflow"] <= 0 and not sound["wide"], f"{where}: wider than the window: {sound}")
                browser.picture(os.path.join(folder, f"{name}-{width}-{scheme}.png"))

            browser.open("file://" + report)
            sound = browser.run(SOUND)
            cut = browser.run("return [...document.querySelectorAll('.table')].filter((one) => one.scrollWidth > one.clientWidth).length")
            where = f"the report at {width} px, {scheme}"
            check(sound["overflow"] <= 0 and not sound["wide"] and cut == 0, f"{where}: wider than the window: {sound}")
            browser.picture(os.path.join(folder, f"report-{width}-{scheme}.png"))

    # By keyboard alone.
    browser.open(origin + "/")
    browser.until("the first page", SETTLED, "/")
    browser.look(390, 844, "light")
    for key, path in (("t", "/tests"), ("c", "/cost"), ("s", "/story"), ("n", "/"), ("q", "/questions")):
        browser.keys(key)
        browser.until(f"{path} by keyboard", SETTLED, path)
    browser.keys("\ue004")
    check(browser.run("return document.activeElement !== document.body"), "the tab key reaches nothing")

    # A question is answered with one tap; what is typed elsewhere stays while the page changes.
    browser.run("const note = document.querySelector('[data-comment=\"question-1\"]'); note.closest('details').open = true; note.value = 'still here';")
    browser.run("document.querySelector('[data-answer=\"question-2\"][data-option=\"accept\"]').click()")
    browser.until("the answer", "return document.getElementById('q-question-2').innerText.includes('Answered with accept')")
    kept = browser.run("const note = document.querySelector('[data-comment=\"question-1\"]'); return [note.value, note.closest('details').open]")
    check(kept == ["still here", True], f"what was typed is lost: {kept}")
    # Several at once.
    browser.run("for (const id of ['question-1', 'question-3']) document.getElementById('c-' + id).click()")
    offers = browser.run("return [...document.querySelectorAll('#common button')].map((button) => button.textContent)")
    check(offers == ["retry"], f"offered together: {offers}")
    browser.picture(os.path.join(folder, "several-390-light.png"))
    browser.run("document.querySelector('#common button').click()")
    for question in ("question-1", "question-3"):
        browser.until(f"the answer to {question}", "return document.getElementById('q-' + arguments[0]).innerText.includes('Answered with retry')", question)
    with sqlite3.connect(database) as db:
        answers = db.execute("SELECT json_extract(payload, '$.decision_id') || ' ' || json_extract(payload, '$.choice') FROM events WHERE event_type = 'human_message' ORDER BY 1")
        answers = [row[0] for row in answers]
    check(answers == ["question-1 retry", "question-2 accept", "question-3 retry"], f"answered: {answers}")

    # An event that another program commits is seen.
    browser.open(origin + "/story")
    browser.until("the story", SETTLED, "/story")
    times = []
    for _ in range(3):
        text = f"seen-{uuid.uuid4()}"
        with sqlite3.connect(database) as db:
            db.execute("INSERT INTO events (id, source, event_type, payload) VALUES (?, 'human', 'custom.seen', json_object('text', ?))", (text, text))
        times.append(browser.until("the event", "return document.body.innerText.includes(arguments[0])", text)[1])
    # The best of three: a busy machine may stop the browser for a while.
    measured["event_seen_s"] = min(times)
    check(min(times) < 1, f"events were seen after {times} s")

    # A loop is paused by its button.
    browser.open(origin + "/")
    browser.until("the first page", SETTLED, "/")
    browser.run("document.querySelector('[data-do=\"pause\"][aria-label=\"Pause frontend\"]').click()")
    browser.until("the pause", "return document.querySelector('[data-do=\"resume\"][aria-label=\"Resume frontend\"]')")

    refused = "status of 401"
    errors = [entry for entry in browser.log("browser") if entry["level"] in ("SEVERE", "WARNING") and refused not in entry["message"]]
    check(not errors, f"errors on the console: {errors}")
    sent = [json.loads(entry["message"])["message"] for entry in browser.log("performance")]
    urls = {message["params"]["request"]["url"] for message in sent if message["method"] == "Network.requestWillBeSent"}
    elsewhere = sorted(one for one in urls if not one.startswith((origin + "/", "data:", "about:")) and one != "file://" + report)
    check(not elsewhere, f"requests to elsewhere: {elsewhere}")
    return measured


if __name__ == "__main__":
    with Browser() as opened:
        print(json.dumps(walk(opened, *sys.argv[1:5])))
