"""``onnx-int8``: the graph with weights and activations of 8 bits, quantised by ONNX Runtime."""

import json
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from coterie.console.counting import counted
from coterie.data import evaluation_batches
from coterie.deploy.formats.base import Deliverable, Logits, Written
from coterie.deploy.formats.fresh import WITH_ONNX, run_afresh
from coterie.deploy.formats.graph import onnx_session, write_graph
from coterie.errors import UserError
from coterie.extras import need

_CALIBRATED = 256  # training images
_BATCH = 64


def quantised(tolerance: float) -> Written:
    """The format.

    Args:
        tolerance: By how many percent points top-1 may fall on the test images.
    """

    def write(deliverable: Deliverable, path: Path) -> None:
        """Everything in 8 bits; where that loses too much, all but the classifier."""
        need("onnxruntime", "export")
        onnx = need("onnx", "export")
        batches = _calibration(deliverable)
        with tempfile.TemporaryDirectory() as place, _quiet():
            whole, ready = Path(place) / "float32.onnx", Path(place) / "ready.onnx"
            write_graph(Logits(deliverable.network).eval(), deliverable.images[:2], {0: "batch"}, {}, whole)
            _fuse(whole, ready)
            for spared in ((), _classifier(onnx.load(ready))):
                _quantise(ready, path, batches, spared)
                lost = _lost(deliverable, path)
                if lost <= tolerance:
                    break
        model = onnx.load(path)
        deliverable.card["quantised"] = {
            "calibrated_on": sum(map(len, batches)),
            "kept_in_float32": list(spared),
        }
        onnx.helper.set_model_props(model, {"coterie": json.dumps(deliverable.card)})
        onnx.save(model, str(path))

    # How far logits are from those of float32 says little: top-1 decides.
    return Written(".onnx", write, _again, tolerance=float("inf"), most_lost=tolerance, images=10_000)


def _again(deliverable: Deliverable, path: Path) -> Tensor:
    return run_afresh(WITH_ONNX, path, deliverable.images)


def _calibration(deliverable: Deliverable) -> list[np.ndarray[Any, Any]]:
    """Batches of training images that lie evenly among all, not augmented."""
    data = deliverable.data
    if len(data.train) == 0:
        raise UserError("⟨format onnx-int8⟩: the data have no training images, and ranges are taken from them")
    chosen = np.linspace(0, len(data.train) - 1, min(_CALIBRATED, len(data.train))).astype(np.int64)
    batches = evaluation_batches(data, data.train.subset(chosen), batch_size=_BATCH)
    return [batch.images.contiguous().numpy() for batch in batches]


def _fuse(source: Path, target: Path) -> None:
    """Fold what runtimes fold anyway, so that what is between is not quantised."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    quant_pre_process(str(source), str(target), skip_symbolic_shape=True)


def _classifier(model: Any) -> Sequence[str]:
    """The name of the last product of matrices."""
    names = [node.name for node in model.graph.node if node.op_type in ("Gemm", "MatMul", "Conv")]
    return names[-1:]


def _quantise(source: Path, target: Path, batches: Sequence[np.ndarray[Any, Any]], spared: Sequence[str]) -> None:
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.batches = counted(iter(batches), sum(map(len, batches)))

        def get_next(self) -> Mapping[str, Any] | None:
            batch = next(self.batches, None)
            return None if batch is None else {"images": batch}

    quantize_static(
        str(source),
        str(target),
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,  # which VNNI multiplies with signed weights
        weight_type=QuantType.QInt8,
        nodes_to_exclude=list(spared),
    )


def _lost(deliverable: Deliverable, path: Path) -> float:
    """By how many points top-1 fell."""
    session = onnx_session(path)
    batches = counted(iter(torch.split(deliverable.images, _BATCH)), len(deliverable.images))
    parts = [session.run(None, {"images": part.contiguous().numpy()})[0] for part in batches]
    said, before = np.concatenate(parts).argmax(1), deliverable.logits.argmax(1).numpy()
    labels = deliverable.labels.numpy()
    return 100 * float((before == labels).mean() - (said == labels).mean())


@contextmanager
def _quiet() -> Iterator[None]:
    """ONNX Runtime's quantisation warns the root logger of what is the case here, or of nothing."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
