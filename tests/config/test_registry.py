import sys
from collections.abc import Sequence
from typing import Any, Literal

import pytest

import vcrast
from vcrast.config.registry import Registry, check_options, importable_name
from vcrast.config.words import suggest


def make():
    table = Registry("thing")

    @table.register("one")
    def build(*, size: int, scale: float = 1.0, name_of: str = "x") -> tuple[int, float]:
        return size, scale

    return table


def test_build_passes_options_and_arguments():
    assert make().build({"name": "one", "size": 3}, scale=2.0) == (3, 2.0)


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"name": "two"}, KeyError, "thing 'two' is not registered; choose from one"),
        ({"name": "one", "sizes": 3}, ValueError, "did you mean size?"),
        ({"name": "one", "size": "big"}, ValueError, "thing.size='big': thing=one expects int"),
        ({"name": "one", "size": True}, ValueError, "expects int"),
    ],
)
def test_wrong_options_are_named(options, error, said):
    with pytest.raises(error) as caught:
        make().build(options)
    assert said in caught.value.args[0]


@pytest.mark.parametrize(("module", "missing"), [("nothing.here", "nothing"), ("plain.inner", "plain.inner")])
def test_a_module_that_does_not_exist_is_named(tmp_path, monkeypatch, module, missing):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "plain.py").write_text("")
    with pytest.raises(ValueError, match=f"thing.module={module}: Python finds no module '{missing}'"):
        make().build({"name": "one", "module": module})


def test_what_a_module_asks_for_in_vain_is_its_own_affair(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "asking.py").write_text("import nowhere_to_be_found")
    with pytest.raises(ModuleNotFoundError, match="nowhere_to_be_found"):
        make().build({"name": "one", "module": "asking"})


def test_extensions_are_found_inside_vcrast_where_a_wheel_has_them(tmp_path, monkeypatch):
    inside = tmp_path / "vcrast" / "extensions"
    inside.mkdir(parents=True)
    (inside / "__init__.py").write_text("")
    (inside / "shipped.py").write_text("")
    monkeypatch.setattr(vcrast, "__path__", [*vcrast.__path__, str(inside.parent)])
    try:
        assert importable_name("extensions.shipped") == "vcrast.extensions.shipped"
        assert importable_name("extensions.rfa.attention") == "extensions.rfa.attention"  # this clone's
        assert importable_name("shipped") == "shipped"
    finally:
        sys.modules.pop("vcrast.extensions", None)


def test_an_int_is_a_float_and_registering_twice_is_refused():
    table = make()
    assert table.build({"name": "one", "size": 1, "scale": 2}) == (1, 2)
    with pytest.raises(ValueError, match="registered twice"):
        table.register("one")(lambda: None)


def test_suggest_lists_everything_sorted():
    assert suggest("sofmax", ["softmax", "rfa"]) == "did you mean softmax? choose from rfa, softmax"


def part(
    *,
    size: int,
    pair: list[float] | None,
    betas: Sequence[float],
    mode: Literal["drop", "mask"],
    own: dict[str, float],
    redraw: str | int,
    free: Any,
) -> None: ...


RIGHT = {
    "pair": [0.8, 1], "betas": (0.9, 0.95), "mode": "drop", "own": {"noise": 1}, "redraw": "fixed", "free": object(),
}  # fmt: skip


def complaint(change):
    """The message about changed options, None if they pass."""
    try:
        check_options("thing", part, {**RIGHT, **change}, given=["size"])
    except ValueError as error:
        return str(error)
    return None


@pytest.mark.parametrize("change", [{}, {"pair": None}, {"pair": []}, {"redraw": 3}, {"own": {}}, {"size": 3}])
def test_values_of_the_declared_types_pass(change):
    assert complaint(change) is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"pair": "0.8, 1"}, "thing.pair='0.8, 1': thing expects a list of float or null"),
        ({"pair": [0.8, "fast"]}, "a list of float or null"),
        ({"pair": 0.8}, "a list of float or null"),
        ({"betas": None}, "a list of float"),
        ({"betas": [True, 0.9]}, "a list of float"),
        ({"mode": "hide"}, "thing.mode='hide': thing expects one of drop, mask"),
        ({"own": {"noise": "all"}}, "a mapping of names to float"),
        ({"own": [1.0]}, "a mapping of names to float"),
        ({"redraw": 2.5}, "str or int"),
        ({"redraw": True}, "str or int"),
        ({"pairs": None}, "thing.pairs: thing has no such option; did you mean pair?"),
    ],
)
def test_values_of_other_types_are_named_with_the_expected_one(change, said):
    assert said in str(complaint(change))


def test_a_missing_option_is_named_and_what_the_program_gives_is_not_offered():
    left = {key: value for key, value in RIGHT.items() if key != "mode"}
    with pytest.raises(ValueError, match=r"thing.mode: not set, and thing=one needs it"):
        check_options("thing", part, left, name="one", given=["size"])
    with pytest.raises(ValueError, match=r"choose from betas, free, mode, own, pair, redraw$"):
        check_options("thing", part, {**RIGHT, "zzz": 1}, given=["size"])
