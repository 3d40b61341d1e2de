"""The page of ``coterie serve`` in a browser: images are dropped on it, at desktop and phone width."""

import base64
import json
import re
import socket
import threading

import pytest
import uvicorn
from fastapi.responses import HTMLResponse

import browser
from browser import needs_browser
from coterie.serving import create_app
from test_serving import CARD, PNG, linear, made

pytestmark = needs_browser

CLASSES = [
    "ant",
    "a class with a rather long name of many words",
    "Donaudampfschifffahrtsgesellschaftskapitän",
    "<b>dog",
]
WIDTHS = {"desktop": 1000, "phone": 360}
# A drop as a person makes it, in a frame of the width; what the page then shows is put where the browser prints it.
DRIVER = """<!doctype html><iframe src="/" width="%d" height="900"></iframe><pre id="shown"></pre><script>
const files = %s, frame = document.querySelector("iframe");
frame.onload = async () => {
  const inside = frame.contentWindow, dropped = new inside.DataTransfer();
  for (const [name, data] of files) {
    dropped.items.add(new inside.File([Uint8Array.from(atob(data), sign => sign.charCodeAt(0))], name));
  }
  inside.dispatchEvent(new inside.DragEvent("drop", { dataTransfer: dropped, cancelable: true }));
  const page = inside.document;
  while (!page.getElementById("count").textContent.startsWith(`${files.length} of`)) {
    await new Promise(resume => setTimeout(resume, 20));
  }
  const all = page.body.innerText, root = page.documentElement;
  const box = page.getElementById("only");
  box.click();
  const differing = [...page.querySelectorAll(".card")].filter(card => card.offsetParent).length;
  const pictures = [...page.images].filter(image => image.naturalWidth).length;
  const shown = { all, differing, pictures, over: root.scrollWidth - root.clientWidth };
  document.getElementById("shown").textContent = JSON.stringify(shown);
};
</script>"""


@pytest.fixture
def address():
    """Of a server whose ensemble always says something else; its pages may be shown in the test's frame."""
    card = {**CARD, "classes": CLASSES}
    app = create_app(made(card, ensemble=lambda images: -linear(CARD)(images)))
    files = [[name, base64.b64encode(body).decode()] for name, body in (("<i>red.png", PNG), ("broken.png", b"?"))]

    @app.middleware("http")
    async def framed(request, call_next):
        response = await call_next(request)
        if "content-security-policy" in response.headers:
            policy = response.headers["content-security-policy"].replace("ancestors 'none'", "ancestors 'self'")
            response.headers["content-security-policy"] = policy
        return response

    @app.get("/driver/{width}")
    async def driver(width: int) -> HTMLResponse:
        return HTMLResponse(DRIVER % (width, json.dumps(files)))

    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    thread.join(60)


@pytest.mark.parametrize("width", WIDTHS)
def test_dropped_images_are_classified_and_nothing_is_wider_than_the_screen(width, address, tmp_path):
    shown = browser.shown(f"{address}/driver/{WIDTHS[width]}", tmp_path, 20000)
    assert "resnet8, trained on made by the method vanilla: 4 classes, colour" in shown["all"]
    assert "2 of 2 done, 1 differ, 1 without an answer" in shown["all"]
    assert "they differ" in shown["all"]
    assert "<i>red.png" in shown["all"]  # as text, not as markup
    assert all(name in shown["all"] for name in CLASSES)
    assert re.search(r"\d\.\d ms in the server, of which networks \d+\.\d ms", shown["all"])
    assert "broken.png: no image, or a damaged one" in shown["all"]
    assert (shown["differing"], shown["pictures"]) == (1, 1)
    assert shown["over"] <= 0
