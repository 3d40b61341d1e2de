"""``onnx``: the network as a graph that ONNX Runtime and others run."""

import json
import logging
import warnings
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from coterie.deploy.formats.base import Deliverable, Logits, Written
from coterie.deploy.formats.fresh import WITH_ONNX, run_afresh
from coterie.deploy.formats.preparing import Prepared
from coterie.errors import UserError
from coterie.extras import need


def onnx_session(path: Path) -> Any:
    """An ONNX Runtime session.

    Raises:
        UserError: It is no ONNX file.
    """
    onnxruntime = need("onnxruntime", "export")
    try:
        return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:
        raise UserError(f"{path}: damaged or no ONNX file; export it again") from error


def write_graph(
    module: nn.Module, images: Tensor, axes: Mapping[int, str], card: Mapping[str, Any], path: Path
) -> None:
    """Write a module of one input, ``images``, and one output, ``logits``, with a card in its metadata.

    Args:
        module: In evaluation mode.
        images: An example of its input.
        axes: Names of those axes of the input that may have any length.
        card: What the file says of itself.
        path: The file.
    """
    onnx = need("onnx", "export")
    need("onnxscript", "export")  # which PyTorch's exporter imports
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        warnings.simplefilter("ignore")  # the exporter's own deprecations are not the user's concern
        program = torch.onnx.export(
            module,
            (images.contiguous(),),
            dynamo=True,
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=(dict(axes),),
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    onnx.helper.set_model_props(model, {"coterie": json.dumps(card)})
    onnx.save(model, str(path))


def _write(deliverable: Deliverable, path: Path) -> None:
    write_graph(Logits(deliverable.network).eval(), deliverable.images[:2], {0: "batch"}, deliverable.card, path)


def _again(deliverable: Deliverable, path: Path) -> Tensor:
    need("onnxruntime", "export")
    return run_afresh(WITH_ONNX, path, deliverable.images)


def _write_whole(deliverable: Deliverable, path: Path) -> None:
    assert deliverable.whole is not None
    module = Prepared(Logits(deliverable.network), deliverable.card).eval()
    sides = [image for image in deliverable.whole if image.shape[0] != image.shape[1]]  # else one axis is the other
    write_graph(module, (sides or deliverable.whole)[0], {0: "height", 1: "width"}, deliverable.card, path)


def _again_whole(deliverable: Deliverable, path: Path) -> Tensor:
    need("onnxruntime", "export")
    assert deliverable.whole is not None
    return run_afresh(WITH_ONNX, path, deliverable.whole)


ONNX = Written(".onnx", _write, _again)
# Of pixels that are rounded otherwise here and there.
ONNX_WHOLE = Written(".onnx", _write_whole, _again_whole, tolerance=0.1)
