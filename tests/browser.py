"""A real browser without a window, for pages; tests that need one are skipped where none is installed."""

import json
import re
import shutil
import subprocess
from urllib.parse import urlsplit

import pytest

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
BROWSERS_OWN = ("google.com", "googleapis.com", "gvt1.com")
"""Hosts that chromium calls on its own account when it starts."""
SLOW = "--virtual-time-budget=20000"


def browse(url, tmp_path, *flags):
    """What chromium prints for a page, with a profile of its own."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("needs a browser: install chromium (Debian: apt-get install chromium) to check the page in one")
    profile = tmp_path / "profile"
    done = subprocess.run(
        [chromium, *FLAGS, f"--user-data-dir={profile}", *flags, url],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout


def seen_in_a_browser(page, script, tmp_path):
    """What a script leaves in the page's own names, once the page is drawn; a copy of it, as the page itself runs no other program."""
    probe = (
        "<script>const timer = setInterval(() => { if (!grey) return; clearInterval(timer); const found = (() => {"
        + script
        + "})(); document.body.append(element('pre', {id: 'found'}, JSON.stringify(found))); }, 10);</script></body>"
    )
    copy = tmp_path / "copy.html"
    copy.write_text(re.sub(r"<meta http-equiv[^>]*>", "", page.read_text()).replace("</body>", probe))
    found = re.search(r'<pre id="found">(.*?)</pre>', browse(copy.as_uri(), tmp_path, "--dump-dom", SLOW), re.DOTALL)
    assert found, "the page did not draw"
    return json.loads(found[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))


def requested(log):
    """Web addresses that the browser asked for, by the log of its network stack, its own ones left out."""
    facts = json.loads(log.read_text())
    started = facts["constants"]["logEventTypes"]["URL_REQUEST_START_JOB"]
    urls = [event.get("params", {}).get("url", "") for event in facts["events"] if event["type"] == started]
    web = [url for url in urls if url.startswith(("http:", "https:", "ws:", "wss:"))]
    return [url for url in web if not (urlsplit(url).hostname or "").endswith(BROWSERS_OWN)]
