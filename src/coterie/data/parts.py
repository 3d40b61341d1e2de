"""Training, validation and test images: as many of a data set's as were asked for."""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from coterie.data.base import Images, Source
from coterie.data.drawn import record_split
from coterie.data.listing import relative
from coterie.data.say import escape, list_names, plural, say_once
from coterie.data.split import Split
from coterie.data.splits import most_held_out, stratified
from coterie.errors import UserError


def draw_parts(source: Source, given: Mapping[str, Any], keyed: bool) -> tuple[Images, Images | None, Images]:
    """Training, validation and test images, as many as were asked for."""

    def names(images: Images) -> list[str] | None:
        if source.root is None or images.names is None or not keyed:
            return None
        root = source.root
        return [relative(name, root) for name in images.names]

    def limited(images: Images, option: str, every: Literal["first"] | None) -> Images:
        count = given[option]
        if count is None:
            return images
        if not 1 <= count <= len(images):
            raise UserError(f"⟨data.{option}⟩ is {count}, and there are {len(images)} images; use 1 to {len(images)}")
        return images.subset(stratified(images.labels, count, given["seed"], names(images), every)[0])

    train = limited(source.train, "train_samples", "first" if keyed else None)
    test = limited(source.test, "test_samples", None)
    share = given["validation"]
    if share == 0:
        return train, source.validation, test
    if source.validation is not None:
        raise UserError("⟨data.validation⟩: this folder has a validation set of its own, beside test/; leave it out")
    count = round(share * len(train))
    if not 0 < count < len(train):
        raise UserError(f"⟨data.validation {share}⟩ holds out {count} of {len(train)} images; use another share")
    if keyed and count > most_held_out(train.labels):
        raise UserError(
            f"⟨data.validation {share}⟩ holds out {count} of {len(train)} images and leaves classes without any to "
            "train on; use a smaller share, or more images"
        )
    every: Literal["rest"] | None = "rest" if keyed else None
    chosen, rest = stratified(train.labels, count, given["seed"], names(train), every)
    return train.subset(rest), train.subset(chosen), test


def record_parts(
    source: Source, given: Mapping[str, Any], train: Images, held_out: Images | None, test: Images
) -> Split | None:
    """Which images of a folder are what, where coterie drew it."""
    limited = given["train_samples"] is not None or given["test_samples"] is not None
    cut = held_out is not None and source.validation is None
    if source.root is None or not (source.drawn or limited or cut):
        return None
    total = len(source.train) + len(source.test) + (0 if source.validation is None else len(source.validation))
    return record_split(source.classes, (train, held_out, test), source.root, source.class_folder, total)


def say_missing(source: Source, train: Images, test: Images, train_samples: int | None) -> None:
    """Name classes that are not learned, and those of a folder that are not measured."""
    for images, what, asked in (
        (train, "training", train_samples is not None),
        (test, "test", source.root is not None),
    ):
        missing = np.setdiff1d(np.arange(len(source.classes)), images.labels)
        if asked and len(images) and len(missing):
            where = "" if source.root is None else f"{escape(source.root)}: "
            names = list_names([source.classes[index] for index in missing], 10)
            say_once(f"{where}no {what} image of {plural(len(missing), 'class', 'classes')}: {names}")
