"""A page in a browser, in a frame as wide as a telephone: headless Chromium has no window so narrow."""

import html
import json
import re
import shutil
import subprocess

import pytest

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(BROWSER is None, reason="needs Chromium; `make browser` installs Debian's")

_FRAME = """<!doctype html><meta charset="utf-8"><iframe srcdoc="PAGE" width="WIDTH" height="844"></iframe>
<pre id="shown"></pre><script>
const frame = document.querySelector("iframe");
frame.onload = () => {
  const shown = (SCRIPT)(frame.contentDocument);
  document.getElementById("shown").textContent = JSON.stringify(shown);
};
</script>"""


def shown(address, profile, milliseconds):
    """What a page wrote into its element ``shown``, as JSON, after so much of its own time."""
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}", "--window-size=1200,1000"]
    command = [BROWSER, *options, f"--virtual-time-budget={milliseconds}", "--dump-dom", address]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    found = re.search(r'<pre id="shown">(.+?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stdout[-2000:] + done.stderr[-2000:]
    return json.loads(html.unescape(found[1]))


def in_a_frame(page, width, script, folder):
    """What a function of JavaScript, of the page's document, says of a page in a frame of a width."""
    driver = folder / f"driver{width}.html"
    text = _FRAME.replace("WIDTH", str(width)).replace("SCRIPT", script)
    text = text.replace("PAGE", html.escape(page.read_text(encoding="utf-8")))
    driver.write_text(text, encoding="utf-8")
    return shown(driver.as_uri(), folder / "profile", 10000)
