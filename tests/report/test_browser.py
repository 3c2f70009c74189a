"""The page in a real browser: a quiet console, nobody asked for anything, no sideways scrolling on a phone."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import report_cases as cases

from madx.report import render_html

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PHONE = 360
"""CSS pixels: the narrowest that is common."""
FRAME = """<!DOCTYPE html><iframe id="page" src="{name}" style="width: {width}px; height: 900px; border: 0"></iframe>
<p id="answer"></p><script>
page.onload = () => {{ answer.textContent = "width=" + page.contentDocument.documentElement.scrollWidth }}
</script>"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine's PATH"),
]


def browse(page: Path) -> tuple[str, list[str], set[str]]:
    """The document as the browser left it, what it said on the console, and every address that it asked for."""
    folder = page.parent
    log = folder / "net.json"
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    flags += ["--disable-component-update", "--disable-sync", "--disable-default-apps", "--enable-logging=stderr"]
    flags += ["--allow-file-access-from-files", f"--log-net-log={log}", f"--user-data-dir={folder / 'profile'}"]
    flags += ["--host-resolver-rules=MAP * ~NOTFOUND"]  # a test asks no server
    command = [str(BROWSER), *flags, "--virtual-time-budget=5000", "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    console = re.findall(r"CONSOLE.*", done.stderr)
    return done.stdout, console, set(addresses(json.loads(log.read_text())))


def addresses(log):
    """Of every request that a page started; the browser's own, for its updates, come from no origin."""
    start = log["constants"]["logEventTypes"]["URL_REQUEST_START_JOB"]
    for event in log["events"]:
        asked = event.get("params", {}) if event["type"] == start else {}
        if asked.get("initiator", "not an origin") != "not an origin":
            yield asked["url"]


@pytest.mark.parametrize("name", ["passing", "undecided", "two engines", "bare", "hostile"])
def test_the_page_is_quiet_and_alone(tmp_path, name):
    (tmp_path / "report.html").write_text(render_html(cases.CONTENTS[name]))
    (tmp_path / "frame.html").write_text(FRAME.format(name="report.html", width=PHONE))
    document, console, asked = browse(tmp_path / "frame.html")
    assert console == []
    assert asked == set()
    assert int(re.search(r"width=(\d+)", document)[1]) <= PHONE, "the page scrolls sideways"


def test_a_page_that_is_neither_is_found_out(tmp_path):
    """What the test above rests on: console, requests and width are seen, and the page's own policy bars requests."""
    page = render_html(cases.PASSING)
    wrong = '<div style="width: 700px">x</div><img src="http://127.0.0.1:9/x.png"><script>1</script></body>'
    barred = page.replace("</body>", wrong)
    (tmp_path / "report.html").write_text(barred)
    (tmp_path / "frame.html").write_text(FRAME.format(name="report.html", width=PHONE))
    document, console, asked = browse(tmp_path / "frame.html")
    assert any("Content Security Policy" in line for line in console)
    assert asked == set()
    assert int(re.search(r"width=(\d+)", document)[1]) > PHONE
    (tmp_path / "report.html").write_text(re.sub(r"<meta http-equiv=.*?>", "", barred))
    assert browse(tmp_path / "frame.html")[2] == {"http://127.0.0.1:9/x.png"}
