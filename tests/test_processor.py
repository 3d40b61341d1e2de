"""What is chosen by processor: the layout of memory, and bfloat16."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import coterie
import held_to_avx2
from coterie import processor
from coterie.data import evaluation_batches
from coterie.data.transforms import normalise
from coterie.methods import Dml, Oem, OkdDip, One, Task, Vanilla
from coterie.methods.frozen_teacher import Adapted, Input
from coterie.processor import layout_of
from coterie.training.modules import place
from coterie.training.precision import has_native_bfloat16, resolve_precision

pytestmark = pytest.mark.processor

TESTS = Path(__file__).parent
LAYOUTS = {True: torch.channels_last, False: torch.contiguous_format}


def test_a_step_held_to_avx2_has_the_gradients_of_contiguous_memory():
    """In channels-last memory oneDNN's AVX2 kernels write beyond their own, and the process dies."""
    done = subprocess.run(
        [sys.executable, str(TESTS / "held_to_avx2.py")],
        env=os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    # What it chose: a processor that is held to less is taken as less.
    of_oem, of_one = torch.contiguous_format, torch.channels_last
    assert (done.returncode, done.stdout) == (0, f"{of_oem} {of_one} {of_oem} fp32\n"), done.stderr


def test_a_step_has_the_gradients_of_contiguous_memory_here():
    held_to_avx2.main()


@pytest.mark.parametrize(
    ("capability", "dispatched", "expected"),
    [("AVX512", True, True), ("AVX512", False, False), ("AVX2", True, False), ("DEFAULT", True, False)],
)
def test_avx512_is_what_both_libraries_use(capability, dispatched, expected, monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: dispatched)
    assert processor.uses_avx512() is expected
    assert processor.memory_format("cpu") is LAYOUTS[expected]
    assert processor.memory_format("cuda") is torch.channels_last
    assert processor.memory_format("mps") is torch.contiguous_format


@pytest.mark.parametrize(
    ("avx512", "hardware", "limit", "expected"),
    [
        (True, True, "", True),
        (True, True, "AVX512_CORE_BF16", True),
        (True, True, "AVX512_CORE", False),
        (True, False, "", False),
        (False, True, "AVX2", False),
    ],
)
def test_bfloat16_is_native_where_hardware_and_kernels_have_it(avx512, hardware, limit, expected, monkeypatch):
    monkeypatch.setattr(processor, "uses_avx512", lambda: avx512)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: hardware)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    cpu = torch.device("cpu")
    assert has_native_bfloat16(cpu) is expected
    assert resolve_precision("auto", cpu, 10**9) == ("bf16" if expected else "fp32")
    if expected:
        assert processor.memory_format(cpu) is torch.channels_last


@pytest.mark.parametrize("proven", [True, False])
@pytest.mark.parametrize("channels", [1, 3])
def test_all_that_reaches_a_convolution_follows_the_choice(proven, channels, monkeypatch):
    monkeypatch.setattr(processor, "uses_avx512", lambda: proven)
    monkeypatch.setattr(processor, "uses_avx2", lambda: False)
    layout = LAYOUTS[proven]
    pixels = torch.randint(0, 256, (4, 8, 8, channels), dtype=torch.uint8)
    images = normalise(pixels, (0.5,) * channels, (0.2,) * channels)
    strides = torch.empty(4, channels, 8, 8).to(memory_format=layout).stride()
    if channels == 3:
        assert images.stride() == strides
    assert (images.stride(1) == 1) is proven  # of one channel too: a convolution goes by the strides
    assert convolved(images, channels) is proven
    small, large = (Input(channels, (size, size), (0.5,) * channels, (0.2,) * channels) for size in (8, 12))
    seen = Adapted(nn.Identity(), small, large).convert(images)
    if channels == 3 or not proven:  # a teacher's one channel stays in both layouts where either will do
        assert convolved(seen, channels) is proven
    stage = next(Vanilla(network="resnet8").stages(Task(10, channels, (8, 8))))
    place(stage, torch.device("cpu"))
    weights = [each.weight for each in stage.network.modules() if isinstance(each, nn.Conv2d) and each.in_channels > 3]
    assert weights
    assert all(weight.is_contiguous(memory_format=layout) for weight in weights)


def convolved(images, channels):
    """Whether a convolution takes these images for channels-last."""
    return nn.Conv2d(channels, 4, 3)(images).stride(1) == 1


class Hidden(nn.Conv2d):
    """A convolution of somebody's own, which may do anything."""


def stage_of(method):
    return next(method.stages(Task(10, 3, (32, 32)))).turns[0].module


@pytest.mark.parametrize(
    "module",
    [
        coterie.networks.build("resnet32", num_classes=10, in_channels=3),
        coterie.networks.build("timm/resnet18", num_classes=10, in_channels=3),
        coterie.networks.build("timm/tf_efficientnet_lite0", num_classes=10, in_channels=3),
        coterie.networks.build("torchvision/resnet18", num_classes=10, in_channels=3),
        *(stage_of(method(network="resnet8")) for method in (Vanilla, One, Dml, OkdDip)),
        nn.Conv2d(3, 8, 3, padding=1),
        nn.Conv2d(1, 16, 7, 2, 3),
        nn.Conv2d(16, 16, 3, groups=16),
        nn.Conv2d(32, 64, 3, groups=4),
    ],
    ids=lambda module: type(module).__name__,
)
def test_networks_of_proven_convolutions_are_channels_last_with_avx2(module, monkeypatch):
    monkeypatch.setattr(processor, "uses_avx2", lambda: True)
    monkeypatch.setattr(processor, "uses_avx512", lambda: False)
    assert layout_of([module], torch.device("cpu")) is torch.channels_last
    assert layout_of([module, nn.Conv2d(6, 6, 1, 2)], torch.device("cpu")) is torch.contiguous_format
    assert layout_of([module], torch.device("mps")) is torch.contiguous_format
    monkeypatch.setattr(processor, "uses_avx2", lambda: False)
    assert layout_of([module], torch.device("cpu")) is torch.contiguous_format


@pytest.mark.parametrize(
    "module",
    [
        nn.Conv2d(6, 6, 1, 2),
        nn.Conv2d(8, 12, 3),
        nn.Conv2d(12, 8, 3),
        nn.Conv2d(16, 16, 3, groups=4),
        nn.Conv2d(12, 12, 3, groups=12),
        nn.Conv2d(3, 8, 1, 2),
        nn.Conv2d(3, 64, 16, 16),
        nn.Conv2d(1, 6, 3, padding=1),
        nn.Conv2d(3, 8, 3),
        nn.Conv2d(3, 8, (3, 5), padding=(1, 2), stride=(1, 3)),
        nn.Conv2d(3, 8, 3, padding="same"),
        nn.Conv2d(8, 8, 3, dilation=2),
        nn.Conv2d(8, 8, (1, 7), padding=(0, 3)),
        nn.Conv2d(8, 8, 2, 2),
        nn.Conv2d(8, 8, 3, padding=2),
        nn.Conv2d(8, 8, 3, padding="same"),
        nn.Conv1d(8, 8, 3),
        nn.ConvTranspose2d(8, 8, 3),
        nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), Hidden(8, 8, 3)),
        coterie.networks.build("allcnn-0.66", num_classes=10, in_channels=3),
        coterie.networks.build("timm/vit_tiny_patch16_224", num_classes=10, in_channels=3),
        stage_of(Oem(network="resnet8")),
    ],
    ids=lambda module: f"{type(module).__name__}{getattr(module, 'in_channels', '')}",
)
def test_other_networks_stay_in_contiguous_memory_with_avx2(module, monkeypatch):
    monkeypatch.setattr(processor, "uses_avx2", lambda: True)
    monkeypatch.setattr(processor, "uses_avx512", lambda: False)
    assert layout_of([module], torch.device("cpu")) is torch.contiguous_format
    assert layout_of([], torch.device("cpu")) is torch.contiguous_format
    assert layout_of([module], torch.device("cuda")) is torch.channels_last


@pytest.mark.parametrize("proven", [True, False])
def test_a_training_and_its_measurement_are_the_same_in_either_layout(proven, digits, tmp_path, monkeypatch):
    if proven and not processor.uses_avx512():
        pytest.skip("channels-last is proven with AVX-512 alone, and is not used here")
    monkeypatch.setattr(processor, "uses_avx512", lambda: proven)
    out = tmp_path / "run"
    run = coterie.train(Vanilla(network="resnet8"), digits, epochs=1, out=out, progress=False, precision="fp32")
    assert next(evaluation_batches(digits, digits.test)).images.stride(1) == (1 if proven else 64)
    assert run.metrics[0]["loss"] == pytest.approx(2.2, abs=0.5)
    assert coterie.evaluate(run)["error"] == run.card["test"]["target"]["error"]


def test_the_guide_says_what_was_measured_of_layouts():
    found = json.loads((TESTS.parent / "benchmarks" / "layouts.json").read_text())
    guide = " ".join((TESTS.parent / "docs" / "guides" / "training.md").read_text().split())
    of = [[row["ratio"] for row in found["speed"] if ("/" in row["network"]) is library] for library in (False, True)]
    for ratios, networks in ((of[0], 3), (of[1], 5)):
        assert len(ratios) == 2 * networks
        assert f"{min(ratios):.2f} to {max(ratios):.2f} times" in guide
    proven, (anything, _) = found["proof"]["proven"], found["proof"]["declined"]
    assert [(each["died"], each["differ"]) for each in proven] == [(0, 0)] * 4
    assert f"of {anything['shapes']:,} drawn shapes {anything['died']} killed the process" in guide
    assert f"none of {sum(each['shapes'] for each in proven):,} did" in guide
