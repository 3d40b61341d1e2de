"""What images a model is for, and how the features inside it are laid out."""

import torch
from torch import Tensor, nn


def example_images(model: nn.Module, example: Tensor | None) -> Tensor:
    """Two or more images of the right shape, on the model's device: batch norm in training mode needs two.

    Args:
        model: Where no example is given, its size is found on it: timm's ``img_size`` and configuration,
            torchvision's ``image_size``, Hugging Face's configuration; else 224 x 224.
        example: Images (B, channels, H, W).
    """
    if example is None:
        stem = next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)
        example = torch.zeros(2, stem.in_channels if stem is not None else 3, *_image_size(model))
    reference = next(model.parameters())
    example = example.detach().to(reference.device, reference.dtype)
    return example if len(example) > 1 else torch.cat([example, example + 1])


def _image_size(model: nn.Module) -> tuple[int, int]:
    config = getattr(model, "pretrained_cfg", None) or {}
    size = (
        getattr(getattr(model, "patch_embed", None), "img_size", None)
        or getattr(model, "image_size", None)
        or getattr(getattr(model, "config", None), "image_size", None)
        or config.get("input_size", (3, 224, 224))[1:]
    )
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def layout(features: Tensor, images: Tensor | None = None, resized: Tensor | None = None) -> tuple[int, bool]:
    """How many channels a tensor of features has, and whether a map's come last.

    A map's channels are the axis that stays when the images' size changes. Where the model takes only one size, they
    are the axis that has not the images' proportions; where that is not to be told, the first. Tokens (B, N, C) and
    vectors (B, C) have theirs last.

    Args:
        features: A map (B, C, H, W) or (B, H, W, C), tokens, or vectors.
        images: What they were computed from; None for square ones.
        resized: The same features of images of another size.
    """
    if features.dim() != 4:
        return features.shape[-1], False
    first, last = _is_place(features.shape[2:], images), _is_place(features.shape[1:3], images)
    if resized is not None and features.shape[1:] != resized.shape[1:]:
        first = features.shape[1] == resized.shape[1]
        last = features.shape[3] == resized.shape[3]
    channels_last = last and not first
    return features.shape[3 if channels_last else 1], channels_last


def _is_place(shape: torch.Size, images: Tensor | None) -> bool:
    """Whether two axes have the images' proportions, as far as whole numbers can."""
    height, width = (1, 1) if images is None else images.shape[2:]
    return abs(shape[0] * width - shape[1] * height) < max(height, width)
