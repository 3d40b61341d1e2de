"""Processes that decode: no shared memory, no waiting for ever, one line whatever becomes of them."""

import errno
import os
import signal
import time

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from coterie import UserError
from coterie.data import ImageData, Streaming, evaluation_batches, loader

EPOCH = {"seed": 0, "stage": 0, "epoch": 0}


def bright(path):
    return np.full((8, 8, 1), int(path.name), np.uint8)


def sleeps(path):
    time.sleep(60)
    return bright(path)


def killed(path):
    os.kill(os.getpid(), signal.SIGKILL)
    return bright(path)


def streaming(decode):
    images = Streaming([str(index) for index in range(6)], np.zeros(6, np.int64), decode, workers=1)
    return ImageData("own", ("a", "b"), (8, 8), 1, (0.0,), (1.0,), images, images, None, "none", {})


def test_batches_do_not_pass_through_shared_memory(monkeypatch):
    def refuse(*_, **__):
        raise RuntimeError("unable to allocate shared memory")

    # What a worker would call to hand a tensor over; it is forked with this in place.
    monkeypatch.setattr("torch.multiprocessing.reductions.reduce_storage", refuse)
    monkeypatch.setattr(torch.UntypedStorage, "_share_fd_cpu_", refuse)
    monkeypatch.setattr(torch.UntypedStorage, "_share_filename_cpu_", refuse)
    data = streaming(bright)
    found = torch.cat([batch.images for batch in evaluation_batches(data, data.test, batch_size=4)])
    assert (found[:, 0, 0, 0] * 255).round().tolist() == [0, 1, 2, 3, 4, 5]


def test_a_batch_that_never_comes_is_one_line(monkeypatch):
    monkeypatch.setattr(loader, "_PATIENCE", 1)
    data = streaming(sleeps)
    with pytest.raises(UserError, match="a batch took more than 1 s.*workers"):
        next(evaluation_batches(data, data.test))


def test_a_killed_process_is_one_line():
    data = streaming(killed)
    with pytest.raises(UserError, match="processes that decode images failed .*workers"):
        next(evaluation_batches(data, data.test))


def test_processes_that_cannot_start_are_one_line(monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(DataLoader, "__iter__", full)
    data = streaming(bright)
    with pytest.raises(UserError, match=r"cannot start \(No space left on device\); give fewer with workers"):
        next(evaluation_batches(data, data.test))


def test_data_print_as_a_line(digits):
    assert repr(digits.train) == "Resident(160 images in memory, 8x8x1)"
    data = streaming(bright)
    assert repr(data.train) == "Streaming(6 images, read from files by 1 processes)"
    assert repr(digits).startswith("ImageData('digits': 10 classes ('0', '1', '2', …), 8x8x1; train: Resident(160")
    assert len(repr(digits)) < 300
