"""``coterie serve``: what is answered, what is refused, and how it ends."""

import asyncio
import io
import json
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import tomllib
import zlib
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from PIL import Image

import coterie
from coterie import UserError
from coterie.cli import main
from coterie.deploy.images import items_of
from coterie.deploy.opening import Opened
from coterie.deploy.prediction import classify
from coterie.serving import Served, ServingOptions, create_app, open_served
from coterie.serving import app as app_room
from coterie.serving import images as images_room

CARD = {
    "method": "vanilla",
    "network": "resnet8",
    "data": "made",
    "classes": ["ant", "bee", "cow", "dog"],
    "channels": 3,
    "image_size": (24, 16),
    "mean": (0.4, 0.5, 0.6),
    "std": (0.2, 0.3, 0.25),
    "crop_ratio": 0.875,
    "interpolation": "bilinear",
}
GREY = {**CARD, "channels": 1, "mean": (0.5,), "std": (0.5,), "crop_ratio": 1.0, "interpolation": "bicubic"}


def weights(card):
    pixels = card["channels"] * card["image_size"][0] * card["image_size"][1]
    return np.random.default_rng(0).normal(size=(pixels, len(card["classes"]))).astype(np.float32) / 20


def linear(card):
    matrix = weights(card)
    return lambda images: images.reshape(len(images), -1) @ matrix


def made(card=CARD, network=None, ensemble=None):
    return Served(card, "target", network or linear(card), ensemble)


class Gate:
    """A network that waits to be let go, and says which batches it was given."""

    def __init__(self, warm=True):
        self.open, self.batches, self.entered = threading.Event(), [], threading.Event()
        if warm:
            self.open.set()

    def __call__(self, images):
        self.batches.append(len(images))
        self.entered.set()
        assert self.open.wait(60)
        return np.zeros((len(images), 4), np.float32)

    def close(self):
        self.batches.clear()
        self.open.clear()
        self.entered.clear()


@asynccontextmanager
async def client_of(served, ready=True, **options):
    """A client of an application that runs in this loop."""
    app = create_app(served, ServingOptions(**options))
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            while ready and (await client.get("/readyz")).status_code != 200:
                await asyncio.sleep(0.005)
            client.server = app.state.server
            yield client


async def empty(client):
    """Wait until no image has a place: those that decode for a request that was refused have theirs a little longer."""
    async with asyncio.timeout(60):
        while client.server.places.used:
            await asyncio.sleep(0.005)
    assert client.server.places.used == 0


def ask(served, *requests, **options):
    """Responses to requests, one after another; each is what ``client.post`` takes."""

    async def go():
        async with client_of(served, **options) as client:
            responses = [await client.post("/predict", **request) for request in requests]
            await empty(client)
            return responses

    return asyncio.run(go())


def as_bytes(image, format="PNG", **options):
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


PNG = as_bytes(Image.new("RGB", (20, 20), "red"))


def write_images(folder):
    """Images of mixed modes and sizes; one is turned by its EXIF tag."""
    random = np.random.default_rng(1)

    def noise(*shape):
        small = random.integers(0, 256, (6, 5, *shape[2:]), np.uint8)
        return Image.fromarray(small).resize((shape[1], shape[0]), Image.Resampling.BICUBIC)

    noise(40, 60, 3).save(folder / "colour.png")
    noise(61, 33).save(folder / "grey.png")
    noise(50, 20, 4).save(folder / "transparent.png")
    noise(24, 16, 3).save(folder / "right-size.png")
    noise(7, 9, 3).save(folder / "tiny.bmp")
    noise(300, 200, 3).quantize(20).save(folder / "palette.gif")
    noise(64, 64, 3).convert("CMYK").save(folder / "cmyk.jpg")
    noise(64, 64).convert("1").save(folder / "bits.png")
    Image.fromarray(random.integers(0, 65536, (30, 40), np.uint16)).save(folder / "deep.png")
    noise(90, 40, 3).save(folder / "one.webp", lossless=True)
    exif = Image.Exif()
    exif[0x0112] = 6
    noise(40, 80, 3).save(folder / "turned.jpg", exif=exif, quality=90)
    return sorted(folder.iterdir())


@pytest.mark.libraries
@pytest.mark.parametrize("card", [CARD, GREY], ids=["colour, cropped", "grey"])
def test_answers_are_those_of_predict(card, tmp_path):
    paths = write_images(tmp_path)
    matrix = torch.from_numpy(weights(card))
    opened = Opened(tmp_path, card, lambda images: images.flatten(1) @ matrix)
    expected = list(classify(opened, items_of(paths), 4, 3))
    files = [("files", (path.name, path.read_bytes())) for path in paths]
    response, alone = ask(made(card), {"files": files, "params": {"top": 2}}, {"content": paths[0].read_bytes()})
    answers = response.json()["images"]
    assert [answer["image"] for answer in answers] == [path.name for path in paths]
    for said, answer in zip(expected, answers, strict=True):
        assert [likely["name"] for likely in answer["top"]] == list(said.classes[:2]), said.path
        ours = [answer["probabilities"][name] for name in said.classes]
        assert ours == pytest.approx(said.probabilities, abs=1e-5), said.path
    assert alone.json()["images"][0]["probabilities"] == pytest.approx(answers[0]["probabilities"], abs=1e-5)
    latency = response.json()["latency_ms"]
    assert 0 < latency["network"] < latency["total"]


@pytest.fixture(scope="module")
def digit(tmp_path_factory):
    path = tmp_path_factory.mktemp("digits") / "digit.png"
    Image.fromarray(coterie.data.load("digits").test.data[3, :, :, 0].numpy()).resize((50, 60)).save(path)
    return path


@pytest.fixture(scope="module")
def exported(finished, tmp_path_factory):
    return coterie.export(finished, "onnx", tmp_path_factory.mktemp("exported") / "net.onnx").path


def test_a_run_answers_with_its_ensemble_and_a_file_alone(finished, exported, digit):
    both = {"content": digit.read_bytes(), "params": {"ensemble": True}}
    (response,) = ask(open_served(finished.path), both)
    answer = response.json()["images"][0]
    for student, said in (("target", answer), ("ensemble", answer["ensemble"])):
        (expected,) = coterie.predict(finished, digit, student=student, top=10)
        assert [said["probabilities"][name] for name in expected.classes] == pytest.approx(
            expected.probabilities, abs=1e-5
        )
    assert answer["differ"] == (answer["top"][0]["name"] != answer["ensemble"]["top"][0]["name"])
    alone, refused = ask(open_served(exported), {"content": digit.read_bytes()}, both)
    said = alone.json()["images"][0]
    assert said["probabilities"] == pytest.approx(answer["probabilities"], abs=1e-4)
    assert "ensemble" not in said
    assert refused.status_code == 400
    assert "no ensemble" in refused.json()["detail"]


def huge_png(width, height):
    """A PNG of a few bytes whose head promises so many pixels."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")


def refusals():
    file = {"files": [("files", ("../../a.png", PNG)), ("files", ("C:\\b\\\x1bn.png", b"no image"))]}
    return {
        "no image": ({"content": b"%PDF-1.7"}, 400, "no image, or a damaged one"),
        "cut off": ({"content": PNG[:60]}, 400, "no image, or a damaged one"),
        "a program": ({"content": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"}, 400, "no image"),
        "empty": ({"content": b""}, 400, "the body is empty"),
        "which one": (file, 400, r"^\\x1bn\.png: no image"),
        "no file": (
            {"files": [], "data": {"a": "b"}, "headers": {"content-type": "multipart/form-data"}},
            400,
            "files",
        ),
        "bytes": ({"content": PNG + b"\0" * 20_000}, 413, "more than 10000 bytes"),
        "bytes of one": ({"files": [("files", ("big.png", b"\0" * 10_001))]}, 413, "big.png: more than 10000 bytes"),
        "pixels": ({"content": as_bytes(Image.new("1", (400, 300)))}, 413, "400 x 300 pixels, more than 100000"),
        "a bomb": ({"content": huge_png(60_000, 60_000)}, 413, "pixels, more than 100000"),
        "a line": ({"content": as_bytes(Image.new("L", (1, 9000)))}, 413, "too narrow"),
        "many": ({"files": [("files", (f"{n}.png", PNG)) for n in range(4)]}, 413, "more than 3 images"),
        "option": ({"content": PNG, "params": {"top": 0}}, 400, "top: "),
    }


@pytest.mark.parametrize("name", refusals())
def test_what_is_refused_is_refused_in_one_line_without_decoding_it(name, monkeypatch):
    request, status, words = refusals()[name]

    async def go():
        async with client_of(made(), max_bytes=10_000, max_pixels=100_000, max_images=3) as client:
            with monkeypatch.context() as patch:
                if status == 413:
                    patch.setattr(images_room, "decode_image", lambda *_: pytest.fail("was decoded"))
                refused = await client.post("/predict", **request)
            await empty(client)
            return refused, await client.post("/predict", content=PNG)

    refused, answered = asyncio.run(go())
    assert refused.status_code == status
    assert re.search(words, refused.json()["detail"])
    assert refused.text.isprintable()
    assert answered.status_code == 200  # it goes on


def test_images_that_came_while_the_network_was_busy_share_a_batch():
    gate = Gate()

    async def go():
        async with client_of(made(network=gate), max_batch=4) as client:
            gate.close()
            tasks = [asyncio.create_task(client.post("/predict", content=PNG))]
            await asyncio.to_thread(gate.entered.wait)
            tasks += [asyncio.create_task(client.post("/predict", content=PNG)) for _ in range(5)]
            while client.server._batcher._queue.qsize() < 5:
                await asyncio.sleep(0.005)
            gate.open.set()
            return [response.json() for response in await asyncio.gather(*tasks)]

    answers = asyncio.run(go())
    assert gate.batches == [1, 4, 1]
    assert sorted(answer["latency_ms"]["batch"] for answer in answers) == [1, 1, 4, 4, 4, 4]


def test_beyond_the_queue_requests_are_told_to_come_again():
    gate = Gate()

    async def go():
        async with client_of(made(network=gate), queue=3, deadline_ms=60_000) as client:
            gate.close()
            two = [("files", (name, PNG)) for name in "ab"]
            tasks = [asyncio.create_task(client.post("/predict", files=two))]
            await asyncio.to_thread(gate.entered.wait)
            refused = await client.post("/predict", files=two)
            tasks.append(asyncio.create_task(client.post("/predict", content=PNG)))
            while client.server.places.used < 3:
                await asyncio.sleep(0.005)
            full = await client.post("/predict", content=PNG)
            gate.open.set()
            answered = await asyncio.gather(*tasks)
            await empty(client)
            return [refused, full], answered, await client.post("/predict", content=PNG)

    refused, answered, after = asyncio.run(go())
    for response in refused:
        assert (response.status_code, response.headers["Retry-After"]) == (429, "1")
        assert "too many images are waiting" in response.json()["detail"]
    assert [response.status_code for response in [*answered, after]] == [200] * 3


def test_past_the_deadline_who_waited_may_come_again_and_who_ran_may_not():
    gate = Gate()

    async def go():
        async with client_of(made(network=gate), deadline_ms=150) as client:
            gate.close()
            first = asyncio.create_task(client.post("/predict", content=PNG))
            await asyncio.to_thread(gate.entered.wait)
            waited, ran = await client.post("/predict", content=PNG), await first
            gate.open.set()
            while gate.batches != [1]:  # the one that waited is not run any more
                await asyncio.sleep(0.005)
            return waited, ran

    waited, ran = asyncio.run(go())
    assert (waited.status_code, waited.headers["Retry-After"]) == (503, "1")
    assert ran.status_code == 504
    assert "Retry-After" not in ran.headers


def test_an_image_that_decodes_for_too_long_keeps_its_place_until_it_ends(monkeypatch):
    hold, entered = threading.Event(), threading.Event()
    whole = app_room.read_image

    def slow(*arguments):
        entered.set()
        assert hold.wait(60)
        return whole(*arguments)

    async def go():
        async with client_of(made(), queue=1, deadline_ms=100) as client:
            monkeypatch.setattr(app_room, "read_image", slow)
            late = await client.post("/predict", content=PNG)
            full = await client.post("/predict", content=PNG)
            hold.set()
            await empty(client)
            return late, full, await client.post("/predict", content=PNG)

    assert [response.status_code for response in asyncio.run(go())] == [504, 429, 200]


def test_it_is_ready_once_the_network_is_warm_and_alive_before():
    gate = Gate(warm=False)

    async def go():
        async with client_of(made(network=gate), ready=False) as client:
            early = [(await client.get(path)).status_code for path in ("/healthz", "/readyz")]
            refused = await client.post("/predict", content=PNG)
            gate.open.set()
            while (await client.get("/readyz")).status_code != 200:
                await asyncio.sleep(0.005)
            return [*early, refused.status_code], await client.post("/predict", content=PNG)

    early, answered = asyncio.run(go())
    assert early == [200, 503, 503]
    assert answered.status_code == 200
    assert gate.batches == [1, 32, 1]  # of one image and of the most, before anyone is answered


def test_a_network_that_fails_when_it_is_warmed_is_never_ready(caplog):
    def network(images):
        raise MemoryError("too much")

    async def go():
        async with client_of(made(network=network), ready=False, max_batch=8) as client:
            while (state := (await client.get("/readyz"))).json()["status"] == "warming":
                await asyncio.sleep(0.005)
            return state, await client.post("/predict", content=PNG)

    state, refused = asyncio.run(go())
    assert (state.status_code, state.json()) == (503, {"status": "broken"})
    assert (refused.status_code, "broken" in refused.json()["detail"]) == (503, True)
    assert "a batch of 8 images cannot be run (MemoryError: too much)" in caplog.text


def test_a_failing_network_tells_nobody_of_the_machine_and_the_server_goes_on():
    fails = threading.Event()

    def network(images):
        if fails.is_set():
            raise UserError("/home/someone/net.onnx: cannot be run")
        return linear(CARD)(images)

    async def go():
        async with client_of(made(network=network)) as client:
            fails.set()
            failed = await client.post("/predict", content=PNG)
            fails.clear()
            return failed, await client.post("/predict", content=PNG)

    failed, answered = asyncio.run(go())
    assert (failed.status_code, failed.json()) == (500, {"detail": "the server failed; its log says more"})
    assert answered.status_code == 200


def test_pages_fetch_nothing_from_elsewhere_and_say_every_address():
    async def go():
        async with client_of(made()) as client:
            return [await client.get(path) for path in ("/", "/docs", "/openapi.json", "/model")]

    page, reference, schema, model = asyncio.run(go())
    for response in (page, reference):
        assert response.status_code == 200
        assert not re.search(r"https?://|//cdn|@import|<link[^>]+stylesheet", response.text)
        assert "default-src 'none'" in response.headers["content-security-policy"]
    assert set(schema.json()["paths"]) == {"/predict", "/model", "/healthz", "/readyz"}
    for path in schema.json()["paths"]:
        assert path in reference.text
    for status in ("400", "408", "413", "429", "503", "504"):
        assert f"<code>{status}</code>" in reference.text
    assert model.json()["classes"] == CARD["classes"]


WITHOUT_TORCH = "import sys; sys.modules['torch'] = None; from coterie.cli import main; main(sys.argv[1:])"


@contextmanager
def process(*arguments):
    """A server in a process without torch, and its address."""
    command = [sys.executable, "-c", WITHOUT_TORCH, "serve", *map(str, arguments), "--port", "0"]
    started = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert started.stdout is not None
        said = started.stdout.readline() + started.stdout.readline()
        address = re.search(r"http://127\.0\.0\.1:(\d+)/", said)
        assert address, said + started.communicate(timeout=30)[1]
        yield started, int(address[1])
    finally:
        started.kill()
        started.wait()


@pytest.mark.libraries
def test_a_file_is_served_without_torch_and_sigterm_answers_what_was_accepted(exported, digit):
    (expected,) = coterie.predict(exported, digit, top=10)
    body = digit.read_bytes()
    with process(exported) as (started, port), httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        while client.get("/readyz").status_code != 200:
            pass
        half = socket.create_connection(("127.0.0.1", port), 30)
        half.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body[:20])
        while client.get("/healthz").status_code != 200:  # behind which the half request has come in
            pass
        answered = client.post("/predict", content=body)
        started.send_signal(signal.SIGTERM)
        while (state := client.get("/readyz")).status_code == 200:
            pass
        assert state.json() == {"status": "stopping"}
        refused = client.post("/predict", content=body)
        half.sendall(body[20:])
        late = half.makefile("rb").read()
        out, error = started.communicate(timeout=60)
    assert started.returncode == 0, error
    assert "SIGTERM" in out
    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
    assert late.startswith(b"HTTP/1.1 200")
    for answer in (answered.json(), json.loads(late.partition(b"\r\n\r\n")[2])):
        ours = answer["images"][0]["probabilities"]
        assert [ours[name] for name in expected.classes] == pytest.approx(expected.probabilities, abs=1e-5)
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port), 5)


@pytest.mark.parametrize(
    ("command", "line"),
    [("serve", ".*: is served by torch, which is not installed; .*"), ("evaluate", "torch is not installed, .*")],
)
def test_what_needs_torch_says_so_in_one_line(command, line, finished):
    words = [sys.executable, "-c", WITHOUT_TORCH, command, str(finished.path)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert re.fullmatch(f"coterie: {line}\n", done.stderr)


def test_the_containers_requirements_are_the_packages_own_less_torch():
    root = Path(coterie.__file__).parents[2]
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = [*project["dependencies"], *project["optional-dependencies"]["serve"]]
    slim = (root / "docker" / "serve" / "requirements.txt").read_text(encoding="utf-8").splitlines()
    lines = {line for line in slim if not line.startswith("#")}
    assert lines < {line.replace("[signatures]", "") for line in declared}
    assert not any("torch" in line for line in lines)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["missing.onnx"], "missing.onnx: no such file"),
        (["damaged.onnx"], "damaged.onnx: damaged or no ONNX file"),
        (["nowhere"], "nowhere: not a Run folder"),
        (["FILE", "--student", "ensemble"], "--student: an exported file holds one network"),
        (["FILE", "--queue", "0"], "--queue is 0; use 1 or more"),
        (["FILE", "--deadline_ms", "-1"], "--deadline_ms"),
        (["FILE", "--threads", "0"], "--threads is 0"),
        (["FILE", "--port", "70000"], "--port 70000: use a number from 0 to 65535"),
        (["FILE", "--port", "TAKEN"], "cannot listen at 127.0.0.1"),
        (["FILE", "--host", "no.such.host.invalid"], "--host no.such.host.invalid: no such address"),
    ],
)
def test_mistakes_are_one_line(words, line, exported, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "damaged.onnx").write_bytes(b"?")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        stands = {"FILE": str(exported), "TAKEN": str(taken.getsockname()[1])}
        with pytest.raises(SystemExit) as stopped:
            main(["serve", *(stands.get(word, word) for word in words)])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert line in error
