"""What a user sees first: names that TAB shows, imports that take no time, missing libraries asked for in one line."""

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import coterie
from coterie import UserError
from coterie.extras import need

ROOT = Path(coterie.__file__).parent
ROOMS = (
    "data",
    "deploy",
    "evaluation",
    "functional",
    "losses",
    "methods",
    "networks",
    "peers",
    "reports",
    "serving",
    "training",
)
HEAVY = (
    *("timm", "torchvision", "matplotlib", "scipy", "torchmetrics", "onnxruntime"),
    *("accelerate", "fontTools", "sklearn", "jinja2", "fastapi"),
)
# A loop of one's own: nothing but torch.
LOOP = """
import sys
import coterie
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.last, self.fc = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 16, 3, stride=2), nn.Linear(16, 10)

    def forward(self, images):
        return self.fc(self.last(self.stem(images).relu()).relu().mean((2, 3)))

net = coterie.branch(Net(), 3, example=torch.zeros(2, 3, 16, 16))
coterie.losses.one(net(torch.rand(4, 3, 16, 16)), torch.tensor([0, 1, 2, 3])).total.backward()
"""


def modules():
    return [path for path in sorted(ROOT.rglob("*.py")) if path.stem not in ("__init__", "__main__")]


def run(code, **options):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, **options)


def test_dir_shows_every_public_name_and_each_is_there():
    assert set(coterie.__all__) <= set(dir(coterie))
    for name in coterie.__all__:
        assert getattr(coterie, name) is not None, name
    for room in ROOMS:
        module = import_module(f"coterie.{room}")
        assert set(module.__all__) <= set(dir(module)), room
        for name in module.__all__:
            assert getattr(module, name) is not None, (room, name)


def test_a_fresh_process_shows_the_names_before_anything_is_imported():
    code = "import coterie; print('one' in dir(coterie.losses), 'branch' in dir(coterie), 'train' in dir(coterie))"
    assert run(code).stdout == "True True True\n"


def test_no_function_has_the_name_of_the_module_it_lives_in_or_of_a_room():
    rooms = {path.parent.name for path in ROOT.rglob("__init__.py")}
    shadows = []
    for path in modules():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and (node.name == path.stem or node.name in rooms):
                shadows.append(f"{path.relative_to(ROOT)}: {node.name}")
    assert shadows == []


def test_files_and_rooms_stay_small_enough_to_be_read():
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in ROOT.rglob("*.py")}
    assert {path.name: count for path, count in lines.items() if count >= 300} == {}
    rooms = {room: sum(lines[path] for path in room.glob("*.py")) for room in {path.parent for path in lines} - {ROOT}}
    large = {str(room.relative_to(ROOT)): count for room, count in rooms.items() if count > 1800}
    assert {name.split("/")[0] for name in large} <= {"data", "methods", "studies"}, large


def test_a_loop_of_ones_own_loads_nothing_but_torch():
    code = LOOP + f"print([name for name in {HEAVY!r} if name in sys.modules])"
    done = run(code)
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.parametrize("option", ["--version", "--help"])
def test_the_command_line_says_what_it_is_without_torch(option):
    code = (
        f"import sys; from coterie.cli import main; main([{option!r}]); print('torch' in sys.modules, file=sys.stderr)"
    )
    done = run(code)
    assert done.returncode == 0
    assert done.stdout.startswith("coterie")
    assert done.stderr == "False\n"


def test_what_is_not_installed_is_asked_for_in_one_line_that_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(
        UserError, match=r"^matplotlib is not installed; install it with: pip install 'coterie\[report\]'$"
    ):
        need("matplotlib.figure", "report")


WITHOUT = {
    "report": ("jinja2", "['report', RUN, '--out', OUT + '/report.html']"),
    "export": ("onnx", "['export', RUN, '--format', 'onnx', '--out', OUT + '/m.onnx']"),
    "serve": ("fastapi", "['serve', RUN]"),
    "data": ("sklearn", "['train', '--network', 'resnet8', '--data', 'digits', '--out', OUT + '/r']"),
    "prune": ("torch_pruning", "['train', '--method', 'compact', '--network', 'resnet8', '--out', OUT + '/r', *FAST]"),
    **{
        name: (name, f"['train', '--track', '{name}', '--out', OUT + '/r', '--network', 'resnet8', *FAST]")
        for name in ("tensorboard", "wandb", "mlflow")
    },
}


@pytest.mark.parametrize("extra", WITHOUT)
def test_a_command_without_its_extra_ends_in_one_line(extra, tmp_path, finished):
    library, words = WITHOUT[extra]
    code = (
        f"import sys; sys.modules[{library!r}] = None; from coterie.cli import main; RUN, OUT = sys.argv[1:]; "
        f"FAST = ['--data', 'digits', '--epochs', '1', '--data.train_samples', '64']; main({words})"
    )
    command = [sys.executable, "-c", code, str(finished.path), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("coterie: ")]
    assert lines == [f"coterie: {library} is not installed; install it with: pip install 'coterie[{extra}]'"]
    assert list(tmp_path.iterdir()) == []
