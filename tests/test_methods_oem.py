"""OEM: its loss by hand, where gradients go, what is trained, and that every student is delivered."""

import math
from dataclasses import dataclass, replace
from importlib import import_module

import onnx
import pytest
import torch

import coterie
from coterie import UserError
from coterie.cli import main
from coterie.deploy import Exported
from coterie.evaluation import latencies
from coterie.functional import mean_squared_error
from coterie.methods import Hooks, Oem, Task
from coterie.methods.oem.method import oem_loss
from coterie.outputs import Batch, PeerOutput
from coterie.run import open_exported
from coterie.training import Interrupted
from toys import go, interrupting, resumed, same

NAMES = ["target", "student2", "student3", "ensemble"]


def example():
    """Two students, two images, two classes; one block of one channel and one place."""
    logits = torch.tensor([[[2.0, 0.0], [0.0, 0.0]], [[0.0, 4.0], [0.0, 2.0]]], dtype=torch.float64)
    logits.requires_grad_()
    labels = torch.tensor([0, 1])
    wide = torch.tensor([1.0, 3.0], dtype=torch.float64).reshape(2, 1, 1, 1).requires_grad_()
    adapted = torch.tensor([2.0, 0.0], dtype=torch.float64).reshape(2, 1, 1, 1).requires_grad_()
    return logits, labels, wide, adapted


def output(logits, wide):
    return PeerOutput(logits, ensemble=logits.mean(1), blocks=((wide,),))


def kl(p, q):
    return p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def test_the_loss_equals_a_hand_computed_example():
    logits, labels, wide, adapted = example()
    loss = oem_loss(output(logits, wide), labels, [(adapted,)])
    # each student's cross-entropy is log(1 + exp(-margin)), the margin being that of the true class
    entropy = sum(math.log(1 + math.exp(-margin)) for margin in (2, 4, 0, 2)) / 2
    assert loss["cross_entropy"].item() == pytest.approx(0.7 * entropy, rel=1e-12)
    assert loss["intermediate"].item() == pytest.approx(0.15 * ((1 - 2) ** 2 + (3 - 0) ** 2) / 2, rel=1e-12)
    # margins: the mean's are 1 and 3, and all are halved by T = 2
    terms = [kl(sigmoid(e / 2), sigmoid(z / 2)) for e, z in ((1, 2), (1, 0), (3, 4), (3, 2))]
    assert loss["distillation"].item() == pytest.approx(0.15 * sum(terms) / 2, rel=1e-12)
    assert loss.total.item() == pytest.approx(sum(term.item() for term in loss.terms.values()), rel=1e-12)
    options = Oem(temperature=1.0, alpha=2, beta=3, gamma=4)
    other = oem_loss(output(logits, wide), labels, [(adapted,)], options)
    assert other["intermediate"].item() == pytest.approx(20 * loss["intermediate"].item(), rel=1e-12)
    squared = oem_loss(output(logits, wide), labels, [(adapted,)], Oem(temperature_squared=True))
    assert squared["distillation"].item() == pytest.approx(4 * loss["distillation"].item(), rel=1e-12)


def test_the_ensemble_and_the_pseudo_teachers_maps_receive_no_gradient():
    logits, labels, wide, adapted = example()
    ensemble = logits.detach().mean(1).requires_grad_()
    loss = oem_loss(replace(output(logits, wide), ensemble=ensemble), labels, [(adapted,)])
    loss["intermediate"].backward()
    assert wide.grad is None
    assert logits.grad is None
    torch.testing.assert_close(adapted.grad, 0.15 * (adapted - wide).detach())  # 2 (a - w) / 2 elements
    loss["distillation"].backward()
    assert ensemble.grad is None
    expected = (logits.detach() / 2).softmax(2) - (ensemble.detach() / 2).softmax(1).unsqueeze(1)
    torch.testing.assert_close(logits.grad, 0.15 * expected / 2 / 2)  # by T, by the batch


def test_maps_in_half_precision_are_compared_in_single():
    ours, theirs = torch.tensor([1.0, 258.0]).bfloat16(), torch.tensor([0.0, 256.0]).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        assert mean_squared_error(ours, theirs).item() == 2.5


TASK = Task(10, 1, (8, 8))


def stage(**options):
    torch.manual_seed(0)
    return next(Oem(network="resnet8", num_students=3, **options).stages(TASK))


def batch(count=8):
    images = torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    return Batch((images,), torch.arange(count) % 10, torch.arange(count))


def test_one_optimiser_trains_everything_from_the_first_step():
    found = stage()
    (turn,) = found.turns
    assert {id(p) for p in turn.parameters} == {id(p) for p in turn.module.parameters()}
    adapters = dict(turn.module.adapters.named_parameters())
    assert len(adapters) == 2 * 3 * 2  # two slimmer students, three blocks, weight and bias
    before = {name: parameter.detach().clone() for name, parameter in turn.module.named_parameters()}
    optimiser = torch.optim.SGD(turn.parameters, lr=0.1)
    turn.module(batch()).loss.total.backward()
    optimiser.step()
    still = [name for name, parameter in turn.module.named_parameters() if torch.equal(before[name], parameter)]
    assert still == []


def test_the_intermediate_loss_moves_slimmer_students_and_adapters_alone():
    found = stage(base_gradient="pseudo-teacher")
    (turn,) = found.turns
    turn.module(batch()).loss["intermediate"].backward()
    net = turn.module.net
    assert all(parameter.grad is None for parameter in net.target.parameters())
    assert net.students[1].layer3[0].conv1.weight.grad is not None
    assert net.students[1].fc.weight.grad is None
    assert all(parameter.grad is not None for parameter in turn.module.adapters.parameters())


@pytest.mark.processor
def test_students_are_evaluated_on_running_statistics():
    found = stage()
    net = found.network.eval()
    images = batch().images
    together, one = net(images), net(images[:1])
    torch.testing.assert_close(together.logits[:1], one.logits)


def test_options_are_checked():
    for options, message in (
        ({"num_students": 1}, "num_students is 1"),
        ({"temperature": 0}, "temperature is 0"),
        ({"beta": -1}, "beta is -1"),
        ({"alone": 6}, "alone is 6; students count from 1 to 5"),
    ):
        with pytest.raises(UserError, match=message):
            Oem(**options)


def test_the_drawing_says_who_teaches_whom():
    edges = Oem(num_students=3).teaching()
    assert [(edge.source, edge.to) for edge in edges if edge.teaches] == [
        *(("ensemble", name) for name in NAMES[:3]),
        ("target", "student2"),
        ("target", "student3"),
    ]


@dataclass(kw_only=True)
class Stopped(Oem):
    name = "oem"
    num_students: int = 3
    stop: int | None = None

    def stages(self, task):
        for each in super().stages(task):
            yield replace(each, hooks=Hooks(after_step=interrupting(self.stop)))


@pytest.mark.parametrize("step", [3, 7])
@pytest.mark.processor
def test_a_run_resumes_exactly(step, digits, tmp_path):
    whole = go(Stopped(network="resnet8"), digits, tmp_path / "whole", epochs=2)
    with pytest.raises(Interrupted):
        go(Stopped(network="resnet8", stop=step), digits, tmp_path / "cut", epochs=2)
    cut = resumed(Stopped, digits, tmp_path, epochs=2)
    assert same(whole, cut)


@pytest.fixture(scope="module")
def run(digits, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "oem"
    return go(Oem(network="resnet8", num_students=3), digits, out, epochs=2)


def test_every_student_is_delivered_and_costs_what_it_should(run):
    card = run.card
    assert card["deliverables"] == NAMES
    assert card["peers"] == NAMES[:3]
    plain = coterie.networks.build("resnet8", 10, 1)
    widths = [plain, plain.slim(2 / 3, "layer1"), plain.slim(1 / 3, "layer1")]
    counts = [sum(parameter.numel() for parameter in network.parameters()) for network in widths]
    assert [card["cost"][name]["parameters"] for name in NAMES[:3]] == counts
    assert card["cost"]["ensemble"]["parameters"] == sum(counts) - 2 * (16 * 9 + 32)
    for name, network in zip(NAMES, widths, strict=False):
        network.load_state_dict(run.network(name).state_dict())
        assert coterie.evaluate(run, student=name)["error"] == card["test"][name]["error"]
    images = torch.randn(5, 1, 8, 8)
    ensemble = run.network("ensemble")(images)
    for index, network in enumerate(widths):
        torch.testing.assert_close(ensemble.logits[:, index], network.eval()(images))
    found = coterie.evaluate(run, student="ensemble")
    assert found["error_student3"] == card["test"]["student3"]["error"]


def test_students_are_chosen_by_name_or_number(run, tmp_path, capsys):
    assert [run.student(name) for name in (None, "1", "3", "student3", "ensemble")] == [
        "target",
        "target",
        "student3",
        "student3",
        "ensemble",
    ]
    with pytest.raises(UserError, match="unknown student '9'"):
        run.student("9")
    out = tmp_path / "third.safetensors"
    main(["export", str(run.path), "--student", "3", "--out", str(out)])
    card, network = open_exported(out)
    assert card["student"] == "student3"
    images = torch.randn(3, 1, 8, 8)
    assert torch.equal(network(images), run.network("3")(images))


def test_a_student_is_trained_alone_as_its_baseline(digits, tmp_path):
    baseline = go(Oem(network="resnet8", num_students=3, alone=3), digits, tmp_path / "alone", epochs=1)
    assert baseline.card["deliverables"] == ["student3-alone"]
    assert [name for name in baseline.metrics[0] if name.startswith("loss")] == ["loss", "loss_cross_entropy"]
    own = coterie.networks.build("resnet8", 10, 1).slim(1 / 3, "layer1")
    own.load_state_dict(baseline.model.state_dict())


def test_an_exported_student_is_timed(run, tmp_path):
    exported = coterie.export(run, "onnx", tmp_path / "third.onnx", "3")
    times = latencies([exported.path, exported.path], 1, (8, 8), runs=10)
    assert len(times) == 2
    assert all(0 < time < 1000 for time in times)


def test_the_report_has_a_table_of_all_students(run, digits, tmp_path, monkeypatch):
    exports = []

    def identity(run, format, path, student):  # exporting six networks takes longer than all else here
        exports.append((format, student))
        kind, shape = onnx.TensorProto.FLOAT, ["batch", 1, 8, 8]
        values = [onnx.helper.make_tensor_value_info(name, kind, shape) for name in ("images", "logits")]
        node = onnx.helper.make_node("Identity", ["images"], ["logits"])
        graph = onnx.helper.make_graph([node], "identity", values[:1], values[1:])
        onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10), path)
        return Exported(path, 0.0, 1)

    monkeypatch.setattr(import_module("coterie.reports.students"), "export", identity)
    alone = go(Oem(network="resnet8", num_students=3, alone=3), digits, tmp_path / "alone", epochs=1)
    page = coterie.report([alone, run], tmp_path / "page.html").read_text()
    assert exports == [("onnx", name) for name in NAMES]
    table = page.split("The students of oem")[1].split("</table>")[0]
    rows = [row.split("</td><td>") for row in table.split("<tr><td>")[1:]]
    assert [row[0] for row in rows] == NAMES
    third = dict(zip(["size", "parameters", "flops", "ms", "error"], rows[2][1:6], strict=True))
    cost = run.card["cost"]["student3"]
    assert third["parameters"] == f"{cost['parameters']:,}"
    assert third["size"] == f"{100 * cost['parameters'] / run.card['cost']['target']['parameters']:.2f}"
    assert third["error"] == f"{run.card['test']['student3']['error']:.2f}"
    assert float(third["ms"]) > 0
    assert rows[2][6].startswith(f"{alone.card['test']['student3-alone']['error']:.2f}")
    assert rows[0][6].startswith("–")


def test_a_network_that_is_not_ours_trains_and_is_reloaded(digits, tmp_path):
    data = coterie.data.load("digits", train_samples=64, test_samples=32, image_size=32)
    run = go(Oem(network="timm/resnet10t", num_students=2), data, tmp_path / "timm", epochs=1)
    found = coterie.evaluate(run, student="student2")
    assert found["error"] == run.card["test"]["student2"]["error"]
    assert run.card["cost"]["student2"]["parameters"] < 0.4 * run.card["cost"]["target"]["parameters"]
    assert coterie.export(run, "safetensors", tmp_path / "second.safetensors", "2").difference == 0
