import pytest

from coterie.studies.claims import Claim, Side
from coterie.studies.results import Result, Results
from coterie.studies.statistics import compare, holm
from coterie.studies.study import Scale, Study, Table
from coterie.studies.verdicts import count_verdicts, judge_claims, summarise

ALONE = [40.0, 41.0, 39.5, 40.5, 40.2]
LESS = [38.1, 38.9, 37.6, 38.4, 38.3]  # about two points less
ALIKE = [40.1, 40.9, 39.6, 40.4, 40.3]  # within a tenth
NOISY = [38.0, 43.0, 37.0, 43.5, 39.0]


def study(*claims, networks=("small",), arms=("alone", "one")):
    table = Table("T", ("glyphs", "fashion"), networks, arms)
    named = {name: {} for name in networks}
    scale = Scale(5, {"glyphs": {}, "fashion": {}}, named, {name: {} for name in arms}, (table,))
    return Study("s", "A study", "", "", claims, {"small": scale})


def measured(arm, errors, data="glyphs", network="small", metric="error"):
    return [Result(data, network, arm, seed, measured={"target": {metric: e}}) for seed, e in enumerate(errors)]


def results(*arms):
    return Results("s", "small", trials=[trial for arm in arms for trial in arm])


def claim(expect="lower", than=None, **options):
    options = {"data": ("glyphs",)} | options
    return Claim("It is so.", Side("target", "one"), than or Side("target", "alone"), expect=expect, **options)


@pytest.mark.parametrize(
    ("expect", "errors", "word"),
    [
        ("lower", LESS, "holds"),
        ("higher", LESS, "does not hold"),
        ("higher", [e + 4 for e in LESS], "holds"),
        ("lower", NOISY, "inconclusive"),
        ("higher", ALIKE, "inconclusive"),
    ],
)
def test_a_direction(expect, errors, word):
    (found,) = judge_claims(study(claim(expect)), results(measured("alone", ALONE), measured("one", errors)))
    assert found.word == word
    assert found.comparison == compare(errors, ALONE)
    assert found.adjusted == found.p == found.comparison.p
    assert (found.data, found.network, found.absent) == ("glyphs", "small", {})


@pytest.mark.parametrize(
    ("margin", "errors", "word"),
    [
        (1.0, ALIKE, "holds"),
        (1.0, LESS, "does not hold"),
        (1.0, NOISY, "inconclusive"),
        (0.01, [e - 0.02 for e in NOISY], "inconclusive"),
        (0.05, ALIKE, "inconclusive"),
    ],
)
def test_sameness(margin, errors, word):
    same = claim("same", margin=margin)
    (found,) = judge_claims(study(same), results(measured("alone", ALONE), measured("one", errors)))
    assert found.word == word
    apart = compare(errors, ALONE)
    inside = abs(apart.difference) < margin
    assert found.p == (apart.equivalence(margin) if inside else apart.difference_beyond(margin))
    assert found.power is found.seen is None
    assert ("would have held within ±" in found.why) == (word == "inconclusive")


def test_a_number_stands_for_the_other_side():
    against = [claim("same", 40.0, margin=0.9), claim("lower", 50), claim("higher", 50)]
    found = judge_claims(study(*against), results(measured("one", ALIKE)))
    assert [each.word for each in found] == ["holds", "holds", "does not hold"]
    assert found[1].comparison == compare(ALIKE, 50)


def test_the_correction_is_over_all_tests_and_can_change_a_verdict():
    weak = [40.0, 40.1, 38.9, 39.7, 39.0]
    trials = [measured("alone", ALONE), measured("one", weak)]
    (alone,) = judge_claims(study(claim()), results(*trials))
    assert alone.word == "holds"
    # The same test among others that show nothing.
    trials += [measured("alone", ALONE, "fashion"), measured("one", ALIKE, "fashion")]
    same = claim("same", margin=0.01)
    found = judge_claims(study(claim(data=None), same), results(*trials))
    assert [(each.claim.expect, each.data) for each in found] == [
        ("lower", "glyphs"),
        ("lower", "fashion"),
        ("same", "glyphs"),
    ]
    assert [each.adjusted for each in found] == holm([each.p for each in found])
    assert 0.01 < found[0].p < 0.05 < found[0].adjusted
    assert found[0].word == "inconclusive"
    assert found[0].level == pytest.approx(0.05 / 3)
    assert found[0].seen == found[0].comparison.seen(found[0].level) > found[0].comparison.seen()


def test_what_could_have_been_seen_is_told_and_a_published_figure_decides_nothing():
    trials = results(measured("alone", ALONE), measured("one", NOISY))
    (found,) = judge_claims(study(claim(published=4.57, evidence="paper")), trials)
    assert found.word == "inconclusive"
    assert found.power == pytest.approx(found.comparison.power(4.57))
    assert f"A true difference of {found.seen:.2f} points would have been seen with 80 % power" in found.why
    assert f"one of 4.57 points, the figure in the literature, with {100 * found.power:.0f} %" in found.why
    (doubted,) = judge_claims(study(claim(published=4.57, evidence="unverified")), trials)
    assert "literature (unverified), with" in doubted.why
    (far,) = judge_claims(study(claim(published=30)), results(measured("alone", ALONE), measured("one", LESS)))
    assert far.word == "holds"


def test_what_was_not_run_is_no_test():
    few = results(measured("alone", ALONE), measured("one", LESS[:1]))
    (found,) = judge_claims(study(claim()), few)
    assert (found.word, found.comparison, found.p, found.adjusted) == ("not run", None, None, None)
    assert found.why == "Seeds 1, 2, 3, 4: one not run."
    (empty,) = judge_claims(study(claim()), results())
    assert empty.why == "Seeds 0, 1, 2, 3, 4: one not run."
    both = judge_claims(study(claim(data=None)), results(measured("alone", ALONE), measured("one", LESS)))
    assert [(each.data, each.word) for each in both] == [("glyphs", "holds"), ("fashion", "not run")]
    assert both[0].adjusted == both[0].p  # what was not run is not corrected for


def test_arms_that_no_table_has_are_not_run():
    (found,) = judge_claims(study(claim(), arms=("alone",)), results(measured("alone", ALONE)))
    assert (found.word, found.data, found.why) == ("not run", "", "No table of this scale has both sides.")


def test_failed_seeds_are_named_and_the_others_paired():
    ours = measured("one", LESS)
    ours[1] = Result("glyphs", "small", "one", 1, failed="killed: out of memory")
    theirs = measured("alone", ALONE)
    theirs[3] = Result("glyphs", "small", "alone", 3, measured={"target": {"nll": 1.0}})
    (found,) = judge_claims(study(claim()), results(theirs, ours))
    assert found.comparison == compare([LESS[0], LESS[2], LESS[4]], [ALONE[0], ALONE[2], ALONE[4]])
    assert found.absent == {1: "one failed: killed: out of memory", 3: "alone no error of target"}
    assert "Seed 1: one failed: killed: out of memory." in found.why


def test_sides_may_be_of_two_networks():
    trials = results(measured("one", LESS, network="small"), measured("alone", ALONE, network="large"))
    sides = {"by": Side("target", "one", "small"), "than": Side("target", "alone", "large")}
    across = Claim("So.", **sides, data=("glyphs",))
    (found,) = judge_claims(study(across, networks=("small", "large")), trials)
    assert (found.network, found.comparison) == ("small against large", compare(LESS, ALONE))


def test_equal_differences_are_said_to_have_no_spread():
    (found,) = judge_claims(study(claim()), results(measured("alone", ALONE), measured("one", [e - 1 for e in ALONE])))
    # Errors are counts: five equal differences are no more than five signs.
    assert (found.word, found.p) == ("inconclusive", 2**-4)
    assert found.why == "All differences are equal, so there is no spread to judge by."


def test_a_study_in_a_line():
    trials = results(measured("alone", ALONE), measured("one", LESS))
    one = study(claim(data=None), claim("same", margin=0.1))
    assert summarise(one, trials, judge_claims(one, trials)) == (
        "A study, small scale, 10 trials (0 failed). Claims: holds: 1; does not hold: 1; not run: 1"
    )


def test_a_refutation_of_sameness_is_corrected_too():
    near = [39.1, 40.4, 38.2, 39.9, 39.1]  # 0.9 less; the plain interval lies just beyond the margin
    trials = [measured("alone", ALONE), measured("one", near)]
    beyond = claim("same", margin=0.45)
    (found,) = judge_claims(study(beyond), results(*trials))
    assert found.word == "does not hold"
    assert found.comparison.high < -0.45
    trials += [measured("alone", ALONE, "fashion"), measured("one", NOISY, "fashion")]
    corrected, _ = judge_claims(study(beyond, claim(data=("fashion",))), results(*trials))
    assert corrected.word == "inconclusive"
    assert found.p == corrected.p < 0.05 < corrected.adjusted


def test_controls_are_counted_apart():
    trials = results(measured("alone", ALONE), measured("one", LESS))
    one = study(claim(), claim("higher", control=True), claim("same", margin=5.0, control=True))
    found = judge_claims(one, trials)
    assert count_verdicts(found) == [("holds", 1)]
    assert count_verdicts(found, control=True) == [("holds", 1), ("does not hold", 1)]
    assert summarise(one, trials, found).endswith("Claims: holds: 1. Controls: holds: 1; does not hold: 1")
