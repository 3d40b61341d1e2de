"""How ``coterie serve`` behaves under load, over loopback: below saturation, far above it, after it, at its end.

    python benchmarks/serve.py        # about two minutes; writes benchmarks/serve.json

Requests are sent at fixed times, whether earlier ones are answered or not, on connections of their own, by this
process, which takes a core for it. The networks are hardly trained: how right they are does not matter here. The
aims, set before: at half of saturation 95 % of the latencies are under three times what the network takes for one
image; at ten times saturation every request has an answer or a status that says why not, and memory stays bounded;
afterwards the latency is as before; SIGTERM under load loses no request that was accepted (a refused connection was
not).
"""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from PIL import Image

import coterie
from coterie.files import write_text
from coterie.methods import Vanilla
from coterie.recipes import Recipe

RESULTS = Path(__file__).with_suffix(".json")
SECONDS, CLIENTS, PATIENCE = 6.0, 16, 30.0
# What takes a millisecond on images of 28 x 28, and what takes tens of them on images of 224 x 224.
NETWORKS = (("resnet32", 28), ("timm/resnet18", 224))


@dataclass
class Sent:
    """A request: its status (0 where the connection was refused, -1 where it was lost), and its latency in ms."""

    status: int
    latency: float


async def post(port: int, body: bytes) -> Sent:
    """Send an image on a connection of its own."""
    began, accepted = time.perf_counter(), False
    try:
        async with asyncio.timeout(PATIENCE):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            accepted = True
            head = f"POST /predict HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body)
            answer = await reader.read()
            writer.close()
        status = int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.1 ") else -1
    except (OSError, TimeoutError):
        status = -1 if accepted else 0
    return Sent(status, 1000 * (time.perf_counter() - began))


async def at_rate(port: int, body: bytes, rate: float, seconds: float) -> list[Sent]:
    """So many requests a second, each at its time."""
    loop = asyncio.get_running_loop()
    began, tasks = loop.time(), []
    for number in range(int(rate * seconds)):
        await asyncio.sleep(max(0.0, began + number / rate - loop.time()))
        tasks.append(asyncio.create_task(post(port, body)))
    return await asyncio.gather(*tasks)


async def saturation(port: int, body: bytes) -> float:
    """Answers a second to clients that each wait for one before the next."""

    async def client(until: float) -> int:
        count = 0
        while time.perf_counter() < until:
            count += (await post(port, body)).status == 200
        return count

    counts = await asyncio.gather(*(client(time.perf_counter() + SECONDS) for _ in range(CLIENTS)))
    return sum(counts) / SECONDS


def summary(sent: list[Sent]) -> dict[str, Any]:
    """Statuses, and the latency of what was answered."""
    latencies = sorted(one.latency for one in sent if one.status == 200)
    p95 = latencies[int(0.95 * (len(latencies) - 1))] if latencies else None
    figures = {"median_ms": round(median(latencies), 2), "p95_ms": round(p95, 2)} if p95 is not None else {}
    return {"requests": len(sent), "statuses": dict(sorted(Counter(one.status for one in sent).items())), **figures}


def peak_mb(process: int) -> float:
    """The most memory that a process has taken, in MB; Linux alone says it there."""
    status = Path(f"/proc/{process}/status").read_text(encoding="utf-8")
    return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) * 1024 / 1e6  # type: ignore[index]


def alone_ms(path: Path, size: int) -> float:
    """What the network takes for one image, with one thread, in this process."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    image, times = np.zeros((1, 1, size, size), np.float32), []
    for _ in range(100):
        began = time.perf_counter()
        session.run(None, {"images": image})
        times.append(1000 * (time.perf_counter() - began))
    return median(times)


async def load(port: int, server: subprocess.Popen[str], body: bytes) -> dict[str, Any]:
    """All phases against a server."""
    await at_rate(port, body, 20, 2)
    most = await saturation(port, body)
    result: dict[str, Any] = {
        "saturation_per_second": round(most, 1),
        "memory_mb_before": round(peak_mb(server.pid), 1),
    }
    result["half"] = summary(await at_rate(port, body, most / 2, SECONDS))
    result["ten_times"] = summary(await at_rate(port, body, 10 * most, SECONDS / 2))
    result["memory_mb_after"] = round(peak_mb(server.pid), 1)
    result["half_again"] = summary(await at_rate(port, body, most / 2, SECONDS))
    ending = asyncio.create_task(at_rate(port, body, most, 2))
    await asyncio.sleep(1)
    server.send_signal(signal.SIGTERM)
    result["sigterm"] = summary(await ending)
    result["exit"] = server.wait(60)
    return result


def measure(network: str, size: int, folder: Path) -> dict[str, Any]:
    """Train, export, serve and load one network."""
    data = coterie.data.load("digits", image_size=size, train_samples=20, test_samples=20)
    run = coterie.train(Vanilla(network=network), data, recipe=Recipe(), epochs=1, out=folder / "run", progress=False)
    path = coterie.export(run, "onnx", folder / "net.onnx").path
    alone = alone_ms(path, size)
    command = [sys.executable, "-m", "coterie", "serve", str(path), "--port", "0", "--threads", "1"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    server.stdout.readline()
    port = int(re.search(r":(\d+)/", server.stdout.readline())[1])  # type: ignore[index]
    file = BytesIO()
    Image.new("L", (size, size), 120).save(file, "PNG")
    try:
        phases = asyncio.run(load(port, server, file.getvalue()))
    finally:
        server.kill()
    ratio = phases["half"]["p95_ms"] / alone
    statuses = [status for phase in phases.values() if isinstance(phase, dict) for status in phase["statuses"]]
    return {
        "network": network,
        "image_size": size,
        "network_alone_ms": round(alone, 2),
        **phases,
        "half_p95_over_alone": round(ratio, 2),
        "reached": {"half_under_3": ratio < 3, "none_lost": -1 not in statuses, "exit_0": phases["exit"] == 0},
    }


def main() -> None:
    """Measure, print and write."""
    networks = []
    for network, size in NETWORKS:
        with tempfile.TemporaryDirectory() as place:
            networks.append(measure(network, size, Path(place)))
        print(json.dumps(networks[-1]), flush=True)
    result = {
        "command": "python benchmarks/serve.py",
        "cores": len(os.sched_getaffinity(0)),
        "load_average_at_the_end": round(os.getloadavg()[0], 1),
        "networks": networks,
    }
    write_text(RESULTS, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
