"""Files that a run writes: whole, shared tensors once, damaged ones refused."""

import pytest
import torch
from safetensors.torch import load_file

from coterie import UserError
from coterie.files import replacing
from coterie.training import Interrupted
from coterie.training.folder import checkpoint
from toys import Average, go, resumed


def test_a_checkpoint_of_another_network_or_a_damaged_one_is_refused(digits, tmp_path):
    with pytest.raises(Interrupted):
        go(Average(network="resnet8", stop=3), digits, tmp_path / "cut")
    last = tmp_path / "cut" / "checkpoints" / "last.safetensors"
    state = checkpoint.load(last)
    state["modules"]["network"].pop("fc.weight")
    checkpoint.save(last, state)
    with pytest.raises(UserError, match=r"another network.*fc\.weight"):
        resumed(Average, digits, tmp_path)
    last.write_bytes(last.read_bytes()[:200])
    with pytest.raises(UserError, match="damaged"):
        resumed(Average, digits, tmp_path)


def test_checkpoints_hold_trees_and_shared_tensors_once(tmp_path):
    tensor = torch.arange(6.0).view(2, 3)
    state = {"a": [tensor, {3: tensor, "x": None}], "n": 1.5, "flag": True}
    path = tmp_path / "c.safetensors"
    checkpoint.save(path, state)
    again = checkpoint.load(path)
    assert torch.equal(again["a"][1][3], tensor)
    assert (again["a"][1]["x"], again["n"], again["flag"]) == (None, 1.5, True)
    assert len(load_file(path)) == 1


def test_a_full_disk_is_one_line_and_keeps_the_old_file(tmp_path):
    path = tmp_path / "f"
    path.write_text("old")

    def write():
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match="disk is full"):
        write()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
