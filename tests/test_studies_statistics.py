from math import inf, isnan, sqrt

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from coterie.studies.statistics import compare, hedges, holm, holm_levels, power, smallest_difference

# Student (1908): hours of sleep gained by ten patients with two drugs; R's t.test(paired = TRUE) gives these figures.
FIRST = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
SECOND = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]

values = st.lists(st.floats(0, 100).map(lambda value: round(value, 2)), min_size=2, max_size=8)
probabilities = st.lists(st.floats(0, 1), min_size=1, max_size=8)


def test_students_sleep():
    found = compare(FIRST, SECOND)
    assert (found.n, found.difference) == (10, pytest.approx(-1.58))
    assert found.p == pytest.approx(0.002833, abs=5e-7)
    assert (found.low, found.high) == (pytest.approx(-2.4598858), pytest.approx(-0.7001142))
    assert found.difference / found.error == pytest.approx(-4.0621, abs=5e-5)
    assert found.effect == pytest.approx(0.9138746 * -1.58 / found.sd, rel=1e-6)  # 1 - 3 / (4 * 9 - 1) is 0.914


def test_three_pairs_by_hand():
    found = compare([1.0, 2.0, 6.0], [0.0, 0.0, 3.0])  # differences 1, 2, 3: mean 2, sd 1, t = 2 sqrt 3
    t = 2 * sqrt(3)
    assert (found.difference, found.sd) == (2, 1)
    assert found.p == pytest.approx(1 - t / sqrt(2 + t * t))  # the closed form for two degrees of freedom
    assert found.high == pytest.approx(2 + 4.302653 / sqrt(3), rel=1e-6)  # t's table: 4.303
    assert found.effect == pytest.approx(2 * 0.5642, abs=1e-4)  # Hedges (1981), table 1


@pytest.mark.libraries
@given(values, st.randoms(use_true_random=False))
def test_scipy_finds_the_same(ours, random):
    theirs = [random.uniform(0, 100) for _ in ours]
    found, reference = compare(ours, theirs), stats.ttest_rel(ours, theirs)
    assume(found.sd > 1e-6)  # scipy has no answer without spread
    assert found.p == pytest.approx(reference.pvalue, rel=1e-6, abs=1e-12)
    interval = reference.confidence_interval(0.95)
    assert (found.low, found.high) == (pytest.approx(interval.low), pytest.approx(interval.high))
    assert compare(theirs, ours).p == pytest.approx(found.p)
    assert compare(theirs, ours).low == pytest.approx(-found.high)


def test_against_a_number():
    found, reference = compare(FIRST, 1), stats.ttest_1samp(FIRST, 1)
    assert found.p == pytest.approx(reference.pvalue)
    assert found.low == pytest.approx(reference.confidence_interval(0.95).low - 1)


def test_without_spread_every_figure_is_its_limit():
    same = compare([20.1, 30.2, 40.3], [20.1, 30.2, 40.3])
    assert (same.difference, same.sd, same.low, same.high, same.p, same.effect) == (0, 0, 0, 0, 1, 0)
    assert same.equivalence(0.1) == 0
    apart = compare([0.3, 1.3, 100.3], [0.1 + 0.1, 1.2, 100.2])  # equal but for floating point
    assert (apart.sd, apart.p, apart.effect) == (0, 2**-2, inf)  # the sign test's
    assert (apart.difference_beyond(0.05), apart.difference_beyond(0.2)) == (2**-2, 1)
    assert apart.difference == apart.low == pytest.approx(0.1)
    assert (apart.equivalence(0.2), apart.equivalence(0.05)) == (0, 1)
    assert (apart.seen(), apart.power(0.1)) == (0, 1)
    assert compare([0.3, 0.3], [0.1 + 0.2, 0.1 + 0.2]).p == 1


def test_a_difference_beyond_a_margin_is_the_test_of_what_is_beyond():
    found = compare([3.0, 4.0, 5.5], [1.0, 1.0, 1.0])
    assert found.difference_beyond(0.75) == pytest.approx(compare([3.0, 4.0, 5.5], 1.75).p)
    assert compare([-3.0, -4.0, -5.5], 0).difference_beyond(1) == pytest.approx(compare([3.0, 4.0, 5.5], 1).p)
    assert found.difference_beyond(5) == 1


def test_one_pair_is_too_few_and_pairs_must_pair():
    for ours, theirs in (([1.0], [2.0]), ([], []), ([1.0, 2.0], [1.0])):
        with pytest.raises(ValueError, match="pairs|shorter|longer"):
            compare(ours, theirs)
    assert isnan(compare([1.0, 2.0], 0).effect)


def test_hedges_published_table():
    published = {2: 0.5642, 3: 0.7236, 4: 0.7979, 6: 0.8686, 7: 0.8882, 8: 0.9027, 9: 0.9139}
    assert {freedom: round(hedges(freedom), 4) for freedom in published} == published


@given(values, st.floats(0.01, 50))
def test_equivalence_is_the_larger_of_two_one_sided_tests(ours, margin):
    found = compare(ours, 50)
    if found.sd > 0:
        below = stats.ttest_1samp(ours, 50 - margin, alternative="greater").pvalue
        above = stats.ttest_1samp(ours, 50 + margin, alternative="less").pvalue
        assert found.equivalence(margin) == pytest.approx(max(below, above), rel=1e-6, abs=1e-12)
        assert found.equivalence(found.shown_margin(0.01)) == pytest.approx(0.01)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1, 1]
    assert holm([]) == []


@given(probabilities, st.randoms(use_true_random=False))
def test_holm_never_helps_keeps_the_order_and_not_the_places(ps, random):
    found = holm(ps)
    assert all(p <= adjusted <= 1 for p, adjusted in zip(ps, found, strict=True))
    assert sorted(found) == [found[place] for place in sorted(range(len(ps)), key=lambda place: (ps[place], place))]
    order = list(range(len(ps)))
    random.shuffle(order)
    assert holm([ps[place] for place in order]) == [found[place] for place in order]
    assert all(adjusted <= min(1, len(ps) * p) + 1e-12 for p, adjusted in zip(ps, found, strict=True))  # Bonferroni


@given(probabilities)
def test_a_holm_level_is_where_that_test_turns(ps):
    for place, level in enumerate(holm_levels(ps)):
        for factor, rejected in ((0.999, True), (1.001, False)):
            changed = [*ps[:place], level * factor, *ps[place + 1 :]]
            assert (holm(changed)[place] <= 0.05) == rejected


@pytest.mark.parametrize(
    ("effect", "n", "expected"),
    [
        (0.5, 34, 0.8077775),  # G*Power: two dependent means
        (1.0, 20, 0.9885913),  # R: power.t.test(n = 20, delta = 1, sd = 1, type = "paired", strict = TRUE)
    ],
)
def test_published_powers(effect, n, expected):
    assert power(effect * 3, 3, n) == pytest.approx(expected, abs=1e-7)


def test_power_is_how_often_simulated_tests_see_it():
    draws = np.random.default_rng(0).normal(1.5, 1.0, (20_000, 5))
    for level in (0.05, 0.005):
        seen = (stats.ttest_1samp(draws, 0, axis=1).pvalue < level).mean()
        assert power(-1.5, 1.0, 5, level) == pytest.approx(seen, abs=0.012)


@settings(deadline=None, max_examples=30)
@given(st.floats(0.05, 4), st.integers(3, 40), st.sampled_from([0.05, 0.01]))
def test_power_is_the_noncentral_t_and_turns_back_into_a_difference(effect, n, level):
    shift, critical = effect * sqrt(n), stats.t.isf(level / 2, n - 1)
    reference = stats.nct.sf(critical, n - 1, shift) + stats.nct.cdf(-critical, n - 1, shift)
    if not isnan(reference):
        assert power(effect, 1, n, level) == pytest.approx(reference, abs=1e-6)
    assert power(smallest_difference(2.0, n, level=level), 2.0, n, level) == pytest.approx(0.8)


def test_without_a_true_difference_power_is_the_level_also_far_out():
    assert power(0, 1, 5) == pytest.approx(0.05)
    assert power(0, 0, 5) == 0.05
    assert power(smallest_difference(1, 2, level=0.0005), 1, 2, 0.0005) == pytest.approx(0.8)
