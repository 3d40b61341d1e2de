"""Files of 8 bits: quantised on training images, measured on test images, refused where they lose too much."""

import json

import numpy as np
import onnx
import pytest

import coterie
from coterie import UserError
from coterie.deploy import bench, measure
from coterie.deploy.formats import int8
from exporting import NETWORKS, run_here


@pytest.mark.libraries
def test_a_file_of_8_bits_says_nearly_what_its_network_says(finished, tmp_path):
    done = coterie.export(finished, "onnx-int8", tmp_path / "net.onnx", tolerance=5)
    assert done.images == 100  # all of them
    assert done.agreement >= 0.9
    model = onnx.load(done.path)
    weights = {each.name: each for each in model.graph.initializer}
    eight = [each for each in weights.values() if each.data_type == onnx.TensorProto.INT8]
    assert len(eight) >= 8
    axes = [
        attribute.i
        for node in model.graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in {each.name for each in eight}
        for attribute in node.attribute
        if attribute.name == "axis"
    ]
    assert len(axes) >= 8  # a scale for each channel
    card = json.loads((tmp_path / "net.onnx.json").read_text())
    assert card["quantised"]["calibrated_on"] == 160
    assert card["checked"]["error_change"] == done.error_change <= 5
    error = measure(done.path, name="digits", train_samples=160, test_samples=100).measures["error"]
    assert error == pytest.approx(finished.card["test"]["target"]["error"] + done.error_change, abs=1.0)
    (form,) = bench(done.path, batch_sizes=(1, 3), seconds=0.02)
    assert form.runtime == "ONNX Runtime"


@pytest.mark.parametrize("family", NETWORKS)
def test_networks_of_libraries_are_quantised(family, run_named, tmp_path, monkeypatch):
    monkeypatch.setattr(int8, "run_afresh", run_here)
    done = coterie.export(run_named(*NETWORKS[family]), "onnx-int8", tmp_path / "net.onnx", tolerance=100)
    assert done.images == 50


def test_a_fall_beyond_the_tolerance_is_refused_after_the_classifier_was_spared(finished, tmp_path, monkeypatch):
    spared, quantise = [], int8._quantise
    monkeypatch.setattr(int8, "_quantise", lambda *given: spared.append(tuple(given[3])) or quantise(*given))
    # Ranges of images that are nearly black: all others saturate.
    monkeypatch.setattr(int8, "_calibration", lambda deliverable: [np.full((8, 1, 8, 8), 1e-4, np.float32)])
    with pytest.raises(UserError, match=r"net\.onnx: top-1 falls by \d+\.\d\d points on 100 test images"):
        coterie.export(finished, "onnx-int8", tmp_path / "net.onnx")
    assert list(tmp_path.iterdir()) == []
    assert spared[0] == ()
    assert len(spared[1]) == 1


def test_the_tolerance_is_a_number_of_points_and_of_8_bits_alone(finished, tmp_path):
    with pytest.raises(UserError, match="tolerance is 101"):
        coterie.export(finished, "onnx-int8", tmp_path / "net.onnx", tolerance=101)
    with pytest.raises(UserError, match="tolerance=1: of int8 files alone"):
        coterie.export(finished, "onnx", tmp_path / "net.onnx", tolerance=1)
    assert list(tmp_path.iterdir()) == []
