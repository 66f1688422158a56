#!/usr/bin/env python3
"""Makes the picture of the live page in README.md: runs the demo, and keeps the moment in which the page shows most.

    picture.py [FILE]

FILE is crates/dashboard/now.png unless named. CODING_LOOPS_BIN names a folder of built programs; else scripts/launch.sh builds
them. It needs chromium and chromedriver, and takes as long as the demo: about a minute. Look at the picture before you commit it.
"""

import base64
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

from walk import SETTLED, Browser

PROJECT = pathlib.Path(__file__).resolve().parents[2]
WIDTH, MAX_HEIGHT = 1180, 1100
# A busy machine takes its time.
SECONDS = 400

# How much there is to see; 0 while nothing has landed. A loop that waits for another one counts most: the page is for that.
SHOWS = """
const count = (selector) => document.querySelectorAll(selector).length;
const waits = (document.getElementById('part-waits').innerText.match(/^\\w+ waits for (core|store|report) on/gm) || []).length;
const landed = count('#part-lanes .mark.landed');
const shows = landed && 10 * waits + 6 * count('#part-needs a.what') + Math.min(landed, 6);
// Of two alike the later one: its lanes are longer. The page stands still until it is taken.
if (!shows || shows < arguments[0]) return 0;
following.abort();
following = null;
return shows;
"""
# The width without the place of a scroll bar, and where the last part ends that fits.
SIZE = """
const ends = [...document.querySelectorAll('main > section')].map((one) => one.getBoundingClientRect().bottom + scrollY + 8);
return [document.getElementById('head').getBoundingClientRect().width, Math.max(...ends.filter((end) => end <= arguments[0]))].map(Math.round);
"""


# A picture without a loop that waits for another one says too little.
ENOUGH = 10


def picture(browser):
    width, height = browser.run(SIZE, MAX_HEIGHT)
    clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
    data = browser.devtools("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)["data"]
    browser.run("follow()")
    return base64.b64decode(data)


def best_of(browser, demo, url):
    """The picture of the moment that shows most, until the demo has ended."""
    browser.devtools("Emulation.setScrollbarsHidden", hidden=True)
    browser.look(WIDTH, 900, "light")
    browser.open(url)
    browser.until("the first page", SETTLED, "/")
    best, found = 0, None
    while demo.poll() is None:
        if shows := browser.run(SHOWS, best):
            best, found = shows, picture(browser)
        time.sleep(0.02)
    return best, found


def main():
    file = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else PROJECT / "crates/dashboard/now.png")
    with tempfile.TemporaryDirectory(prefix="picture-") as folder:
        where = pathlib.Path(folder) / "demo"
        environment = {**os.environ, "TZ": "UTC", "CODING_LOOPS_DEMO": str(where), "CODING_LOOPS_DEMO_SECONDS": str(SECONDS)}
        environment.pop("CODING_LOOPS_DB", None)
        log = pathlib.Path(folder) / "log"
        with open(log, "w") as out:
            demo = subprocess.Popen([PROJECT / "scripts/launch.sh", "--demo"], env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        web = None
        try:
            database = where / "repository/coding-loops/coordination.db"
            # The supervisors start when it is set up.
            while not re.search("is ready", log.read_text()):
                if demo.poll() is not None:
                    raise SystemExit(f"the demo does not start:\n{log.read_text()}")
                time.sleep(0.2)
            programs = pathlib.Path(os.environ.get("CODING_LOOPS_BIN", PROJECT / "target/release"))
            web = subprocess.Popen([programs / "loopctl", "--db", database, "web", "--url"], env=environment, stdout=subprocess.PIPE, text=True)
            with Browser(notes_requests=False) as browser:
                best, found = best_of(browser, demo, web.stdout.readline().strip())
        finally:
            for process in (web, demo):
                if process and process.poll() is None:
                    process.terminate()
                    process.wait()
        if demo.returncode != 0:
            raise SystemExit(f"no picture is made; the demo ended with {demo.returncode}:\n{log.read_text()[-3000:]}")
        if best < ENOUGH:
            raise SystemExit("no picture is made: no loop was seen to wait for another one; try again")
    file.write_bytes(found)
    print(f"wrote {file}, which shows {best}; look at it")


if __name__ == "__main__":
    main()
