"""Many trainings in one process: each is the training that it is alone, whatever the others do."""

import threading
from functools import partial
from itertools import pairwise

import pytest
import torch

from coterie.cli import main
from coterie.errors import UserError
from coterie.methods import Dml, One, Pcl, Vanilla
from coterie.recipes import Recipe
from coterie.training import Interrupted
from coterie.training.stages import running
from coterie.training.together import CardMemory, Together, give_way, takes_turns
from toys import comparable, go, same

STRONG = Recipe(cutmix=1.0, average="ema", label_smoothing=0.1, policy="trivial-augment", erasing=0.5)


@pytest.fixture
def steps(monkeypatch):
    """Which stage made each step, in order."""
    order, train = [], running.StageRun._train

    def note(self, batch):
        order.append(id(self))
        train(self, batch)

    monkeypatch.setattr(running.StageRun, "_train", note)
    return order


def trainings():
    """Of other methods, networks, recipes and lengths."""
    return {
        "one": (One(network="resnet8"), {"epochs": 2}),
        "dml": (Dml(network="resnet8"), {"epochs": 1, "seed": 3, "recipe": STRONG}),
        "pcl": (Pcl(network="resnet8"), {"epochs": 2, "batch_size": 48}),
        "alone": (Vanilla(network="resnet14"), {"epochs": 3, "seed": 1}),
    }


def test_each_is_as_it_is_alone(digits, tmp_path, steps):
    with Together() as together:
        found = {
            name: together.submit(partial(go, method, digits, tmp_path / name, **options))
            for name, (method, options) in trainings().items()
        }
    changes = sum(first != second for first, second in pairwise(steps))
    assert changes > 10  # they did take turns
    for name, (method, options) in trainings().items():
        alone = go(method, digits, tmp_path / f"{name}-alone", **options)
        assert same(found[name].result(), alone), name
        assert comparable(found[name].result().metrics) == comparable(alone.metrics)


def test_what_fails_ends_alone(digits, tmp_path):
    exploding = Recipe(learning_rate=1e30)
    with Together() as together:
        good = together.submit(go, One(network="resnet8"), digits, tmp_path / "good")
        bad = together.submit(go, Vanilla(network="resnet8"), digits, tmp_path / "bad", recipe=exploding)
        wrong = together.submit(go, Vanilla(network="resnet8"), digits, tmp_path / "good", epochs=1)
    assert isinstance(bad.exception(), UserError)
    assert isinstance(wrong.exception(), UserError)
    assert same(good.result(), go(One(network="resnet8"), digits, tmp_path / "again"))


def test_they_stop_with_a_checkpoint_and_go_on(digits, tmp_path, monkeypatch):
    together, made = Together(), []
    train = running.StageRun._train

    def stop_later(self, batch):
        made.append(self)
        train(self, batch)
        if len(made) == 7:
            together.shutdown(wait=False, cancel_futures=True)

    with monkeypatch.context() as patch:
        patch.setattr(running.StageRun, "_train", stop_later)
        futures = [together.submit(go, One(network="resnet8"), digits, tmp_path / str(n), seed=n) for n in range(2)]
        together.shutdown()
    for number, future in enumerate(futures):
        assert isinstance(future.exception(), Interrupted)
        cut = go(One(network="resnet8"), digits, tmp_path / str(number), seed=number, resume=True)
        whole = go(One(network="resnet8"), digits, tmp_path / f"{number}-whole", seed=number)
        assert same(cut, whole)


def test_turns_go_round():
    order, together = [], Together()

    def work(name, count):
        assert takes_turns()
        for _ in range(count):
            order.append(name)
            assert give_way() is None

    first = together.submit(work, "a", 1)
    first.result()
    works = (("b", 3), ("c", 1), ("d", 2))
    gate = together.submit(lambda: [together.submit(work, name, count) for name, count in works])
    for future in gate.result():
        future.result()
    together.shutdown()
    assert "".join(order) == "abcdbdb"
    assert not takes_turns()
    assert give_way() is None


class Card:
    """A card's memory, of which every work that runs holds its part."""

    def __init__(self, total):
        self.total, self.held, self.most, self.running = total, 0, 0, set()
        self.asked = threading.Event()  # set when all work is there

    def measure(self):
        return self.held, self.total - self.held

    def work(self, name, size, turns):
        self.asked.wait()
        self.running.add(name)
        self.held += size
        self.most = max(self.most, len(self.running))
        assert self.held <= self.total
        for _ in range(turns):
            give_way()
        self.held -= size
        self.running.remove(name)
        return name


@pytest.mark.parametrize(("size", "at_once"), [(10, 8), (30, 2), (60, 1), (200, 1)])
def test_a_card_gets_as_many_trainings_as_its_memory_holds(size, at_once):
    card = Card(max(100, size))
    with Together(CardMemory(card.measure)) as together:
        futures = [together.submit(card.work, name, size, 2000) for name in range(12)]
        card.asked.set()
    assert [future.result() for future in futures] == list(range(12))
    assert card.most == at_once  # each begins where twice its size is free


def test_nothing_begins_beside_a_large_training_that_may_be_as_large():
    card = Card(100)
    with Together(CardMemory(card.measure)) as together:
        futures = [together.submit(card.work, name, size, 3000) for name, size in enumerate((5, 40, 45, 45, 5))]
        card.asked.set()
    assert [future.result() for future in futures] == list(range(5))
    assert card.most == 2


def test_what_waits_for_room_at_a_stop_never_begins():
    card = Card(100)
    together = Together(CardMemory(card.measure))
    began = together.submit(card.work, "first", 80, 500)
    waiting = [together.submit(card.work, name, 80, 1) for name in range(5)]
    together.shutdown(wait=False, cancel_futures=True)
    card.asked.set()
    together.shutdown()
    assert began.result() == "first"
    assert all(future.cancelled() for future in waiting)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--together", "4"], "there is none here"),
        (["--together", "auto"], "there is none here"),
        (["--together", "many"], "--together"),
        (["--together", "0"], "use 1 or more"),
        (["--together", "4", "--workers", "2"], "leave out --workers"),
    ],
)
def test_the_study_command_refuses_what_cannot_be(words, line, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="2"):
        main(["study", "one", "--scale", "small", "--only", "resnet8", *words])
    assert line in capsys.readouterr().err
