"""The range test of the learning rate."""

import pytest
import torch

import coterie
from coterie import UserError
from coterie.cli import main
from coterie.methods import Dml, One, Srm, Vanilla
from coterie.recipes import Finetune, Recipe
from coterie.recipes.base import scaled_rate
from coterie.training import find_rate
from toys import plain


def test_the_rate_rises_until_the_loss_does(digits):
    test = find_rate(One(network="resnet8"), digits, progress=False, batch_size=40)
    assert test.rates[0] == pytest.approx(1e-4)
    assert list(test.rates) == sorted(test.rates)
    assert len(test.losses) == len(test.rates) <= 120
    lowest = min(test.losses)
    assert test.losses[0] > lowest
    assert test.losses[-1] > 1.1 * lowest  # it went on until the rate was too high
    assert test.suggestion == pytest.approx(test.rates[test.losses.index(lowest)] / 10)
    assert 1e-3 < test.suggestion < 0.5
    assert test.chosen == scaled_rate(0.2, 40)  # the default recipe's
    assert find_rate(One(network="resnet8"), digits, recipe=Recipe(), progress=False).chosen == 0.1


def test_it_is_repeatable_and_leaves_a_module_of_ones_own_as_it_was(digits):
    model = plain()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    first, second = (find_rate(Vanilla(network=model), digits, progress=False, batch_size=40) for _ in range(2))
    assert first == second
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_of_adam_the_range_is_another_and_peers_in_turn_rise_together(digits):
    test = find_rate(Dml(network="resnet8"), digits, recipe=Finetune(learning_rate=1e-3), progress=False, batch_size=40)
    assert test.rates[0] == pytest.approx(1e-6)
    assert test.chosen == 1e-3


def test_a_stage_with_a_rate_of_its_own_is_refused(digits, finished):
    with pytest.raises(UserError, match="'dictionaries' of method 'srm' has a learning rate of its own"):
        find_rate(Srm(network="resnet8", teacher=[str(finished.path)]), digits, progress=False)


def test_the_command_suggests_and_draws(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["train", "--method", "vanilla", "--network", "resnet8", "--data", "digits", "--data.train_samples", "160"]
    main([*words, "--batch_size", "40", "--find_rate", "rate.svg"])
    said = capsys.readouterr()
    assert "suggested: --recipe.learning_rate " in said.out + said.err
    picture = (tmp_path / "rate.svg").read_text()
    assert picture.startswith("<svg")
    assert "suggested" in picture
    assert not (tmp_path / "runs").exists()
    for wrong, line in (("rate.svg", "exists already"), ("rate.png", "ends in .svg")):
        with pytest.raises(SystemExit, match="2"):
            main([*words, "--find_rate", wrong])
        assert line in capsys.readouterr().err


def test_a_loss_that_is_no_number_from_the_beginning_is_said(digits):
    class Broken(Vanilla):
        def stages(self, task):
            for stage in super().stages(task):
                stage.turns[0].module.register_forward_hook(lambda module, given, result: _without_number(result))
                yield stage

    with pytest.raises(UserError, match="the loss is no number even at a rate of 0.0001"):
        find_rate(Broken(network="resnet8"), digits, progress=False)


def _without_number(result):
    terms = {name: term * float("nan") for name, term in result.loss.terms.items()}
    return coterie.outputs.StepResult(coterie.outputs.LossTerms(terms), result.output)
