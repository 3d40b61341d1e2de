"""Values against type hints: what is taken, what is refused, and in which words."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, TypedDict, get_args, get_origin

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coterie.bounds import Bounds, Positive, PositiveInt, Share
from coterie.checking import check_arguments, check_fields, check_value, hints_of, make_checked
from coterie.errors import UserError, unknown_name
from coterie.methods import METHODS
from coterie.recipes import RECIPES


@dataclass
class Inner:
    size: PositiveInt = 1


@dataclass
class Outer:
    name: str
    inner: Inner = field(default_factory=Inner)
    shares: tuple[Share, ...] = ()


class Card(TypedDict):
    classes: list[str]
    note: NotRequired[str]


TAKEN = [
    (3, int, 3),
    (3, float, 3),
    (np.int64(3), PositiveInt, 3),
    (np.float32(0.5), Share, 0.5),
    ("a", Literal["a", "b"], "a"),
    (None, int | None, None),
    ([1, 2], tuple[int, ...], (1, 2)),
    ([8, 9], tuple[int, int], (8, 9)),
    ((1, 2), list[int], [1, 2]),
    ("all", tuple[int, ...] | Literal["all"], "all"),
    ({"a": 1}, dict[str, PositiveInt], {"a": 1}),
    ({3: 5}, dict[int, int], {3: 5}),
    ({"size": 2}, Inner, Inner(2)),
    ({"classes": ["x"]}, Card, {"classes": ["x"]}),
    (Path("x"), str | Path, Path("x")),
    ("anything", Any, "anything"),
    (len, Callable[..., int], len),
]


@pytest.mark.parametrize(("value", "hint", "wanted"), TAKEN, ids=range(len(TAKEN)))
def test_what_the_hint_says_is_taken_in_plain_types(value, hint, wanted):
    checked = check_value("x", value, hint)
    assert checked == wanted
    assert type(checked) is type(wanted)


REFUSED = [
    (True, int, "x is True; write a whole number"),
    (1, bool, "x is 1; write true or false"),
    (1.5, int | None, "x is 1.5; write a whole number"),
    ("1", float, "x is '1'; write a number"),
    (float("nan"), float, "x is nan; use a finite number"),
    (float("inf"), Positive, "x is inf; use a finite number"),
    (0, Positive, "x is 0; use a number above 0"),
    (0, PositiveInt, "x is 0; use 1 or more"),
    (1.5, Share, "x is 1.5; use a number from 0 to 1"),
    (1, Annotated[float, Bounds(least=0, below=1)], "x is 1; use 0 or more and below 1"),
    ("gat", Literal["gate", "mean"], "unknown x 'gat'; did you mean 'gate'?"),
    (3, Literal["gate", "mean"], "x is 3; write 'gate' or 'mean'"),
    (2, Literal[1, 3], "x is 2; write 1 or 3"),
    ([1], tuple[int, int], "x has 1 values; write 2"),
    ([1, "a"], tuple[int, ...], "x, item 2 is 'a'; write a whole number"),
    ("ab", Sequence[str], "x is 'ab'; write a list"),
    ({"a": 0}, Mapping[str, PositiveInt], "x, a is 0; use 1 or more"),
    ({True: 1}, dict[str, int], "x: True is no text; write '\"yes\"'"),
    ({"sise": 2}, Inner, "unknown key of x 'sise'; did you mean 'size'?"),
    ({"size": 0}, Inner, "x, size is 0; use 1 or more"),
    ({}, Card, "x: 'classes' is missing"),
    ({"classes": [3]}, Card, "x, classes, item 1 is 3; write text, in quotes"),
    (None, dict[str, int], "x is empty; write a mapping of names to values"),
    (object(), str | None, "x is an object of class object; write text, in quotes"),
    ("y" * 1000, int, "…; write a whole number"),
    ("a\nb", int, "x is 'a\\nb'; write"),
]


@pytest.mark.parametrize(("value", "hint", "message"), REFUSED, ids=range(len(REFUSED)))
def test_what_it_does_not_say_is_one_line(value, hint, message):
    with pytest.raises(UserError) as refused:
        check_value("x", value, hint)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 300


def test_a_dataclass_is_made_of_mappings_and_checks_itself():
    made = make_checked(Outer, "the file", {"name": "n", "inner": {"size": 3}, "shares": [0, 0.5]})
    assert made == Outer("n", Inner(3), (0, 0.5))
    made.shares = [2]
    with pytest.raises(UserError, match=r"shares, item 1 is 2; use a number from 0 to 1"):
        check_fields(made, "o")
    with pytest.raises(UserError, match="the file: 'name' is missing"):
        make_checked(Outer, "the file", {})
    newer = {"classes": ["a"], "later": 1}
    assert make_checked(Card, "card", newer, others=True) == newer
    assert make_checked(Outer, "o", {"name": "n", "later": 1}, others=True) == Outer("n")


def test_arguments_are_checked_by_the_functions_hints():
    def function(size: PositiveInt, how: Literal["a", "b"] = "a") -> None: ...

    assert check_arguments(function, {"size": np.int32(2)}) == {"size": 2}
    with pytest.raises(UserError, match=r"unknown option of data 'sise'; did you mean 'size'"):
        check_arguments(function, {"sise": 2}, "data")
    with pytest.raises(UserError, match="unknown how 'c'; known: a, b"):
        check_arguments(function, {"how": "c"}, "data")


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.integers() | st.text(), st.lists), st.sampled_from(
    [int, float, str, bool, Share, PositiveInt, tuple[int, ...], dict[str, int], Inner, Card, Literal["a"] | None]
))  # fmt: skip
def test_any_value_is_taken_or_refused_in_a_line(value, hint):
    lines = []
    try:
        taken = check_value("x", value, hint)
        assert check_value("x", taken, hint) == taken
    except UserError as error:
        lines = str(error).splitlines()
    assert len(lines) <= 1


def _wrong(hint):
    """A value that the hint refuses."""
    if hint is bool:
        return "yes"
    if get_origin(hint) is Annotated:
        return -1e9
    return object()


OWNERS = {**METHODS, **{f"recipe {name}": recipe for name, recipe in RECIPES.items()}}


@pytest.mark.parametrize("name", OWNERS)
def test_every_option_of_every_method_and_recipe_is_checked_from_python(name):
    kind = OWNERS[name]
    hints = hints_of(kind)
    for each in fields(kind):
        if each.name == "network":
            continue
        with pytest.raises(UserError, match=rf"^(unknown )?{each.name}\b"):
            kind(**{each.name: _wrong(hints[each.name])})
        choices = [
            c for h in [hints[each.name], *get_args(hints[each.name])] if get_origin(h) is Literal for c in get_args(h)
        ]
        if choices:
            with pytest.raises(UserError, match=rf"^unknown {each.name} 'no such'"):
                kind(**{each.name: "no such"})


@pytest.mark.parametrize("name", OWNERS)
def test_numbers_of_methods_and_recipes_have_ranges(name):
    """A bare ``int`` or ``float`` among the options would let -1e300 pass."""
    kind = OWNERS[name]
    for each in fields(kind):
        hint = hints_of(kind)[each.name]
        alternatives = {hint} if get_origin(hint) is Annotated else {hint, *get_args(hint)}
        assert not {int, float} & alternatives, each.name


def test_a_name_that_two_places_know_is_listed_once():
    """Rows of a study that both of its scales have."""
    assert str(unknown_name("row", "xx", ["kd", "alone", "kd"])) == "unknown row 'xx'; known: alone, kd"
