"""`-m`: which runs a command line stands for."""

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import example, given
from hypothesis import strategies as st

from launch.arguments import Arguments, parse
from launch.sweep import expand, folder_name, is_sweep
from vcrast.config.quoting import quote


def overrides(words):
    return [words for words, _ in expand(words)]


def test_the_last_key_varies_fastest_and_the_rest_stays():
    assert overrides(["recipe=demo", "attention=softmax,rfa", "model=tiny", "run.seed=0,1,2"]) == [
        ("recipe=demo", f"attention={attention}", "model=tiny", f"run.seed={seed}")
        for attention in ("softmax", "rfa")
        for seed in range(3)
    ]


@pytest.mark.parametrize(
    ("word", "values"),
    [
        ("a=range(0,3)", ["a=0", "a=1", "a=2"]),
        ("a=choice(x,y)", ["a=x", "a=y"]),
        ("a=[1,2],[3]", ["a=[1,2]", "a=[3]"]),
        ("+a='x,y',z", ["+a='x,y'", "+a=z"]),
    ],
)
def test_values_are_read_as_hydra_reads_them(word, values):
    assert overrides([word]) == [(value,) for value in values]


def test_a_list_is_one_value():
    assert not is_sweep(["data.folds=[1,2]", "k={a:1,b:2}", "x='a,b'"])
    with pytest.raises(ValueError, match="no key has several values"):
        expand(["data.folds=[1,2]"])


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("run.dir=a,b", "share run.dir"),
        ("slurm.nodes=1,2", "share slurm.nodes"),
        ("slurm=a,b", "share slurm"),
        ("recipe=esc10,esc50", "share recipe"),
        ("x=glob(*)", "x=glob"),
        ("x=interval(0,1)", "x=interval"),
        ("x=1,", "write group=option or key=value"),
        ("x=1\n,2", "'x=1\\\\n,2'"),
    ],
)
def test_what_cannot_be_an_array_of_jobs_is_refused(word, said):
    with pytest.raises(ValueError, match=said):
        expand([word, "run.seed=0,1"])


def test_folders_have_names_that_sort_can_be_read_and_need_no_quotes():
    points = expand(["attention=softmax,rfa", "objective.projector_dims=[8,8],[16,16]", "+x.y='a b/c','../d'"])
    names = [folder_name(varied, number, 12) for number, (_, varied) in enumerate(points)]
    assert names[0] == "00_attention-softmax_projector_dims-8-8_y-a-b-c"
    assert names == sorted(names)
    assert len(set(names)) == len(points) == 8
    assert all("/" not in name and len(name) <= 80 for name in names)


@pytest.mark.parametrize("flag", ["-m", "--multirun"])
def test_a_flag_asks_for_a_sweep(flag):
    assert parse(["demo", flag, "run.seed=0,1"]) == Arguments(("recipe=demo", "run.seed=0,1"), sweep=True)
    assert not parse(["demo"]).sweep
    with pytest.raises(ValueError, match="leave -m out"):
        parse(["demo", flag, "run.seed=0,1", "--cfg", "job"])


@given(st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"], exclude_characters="$"), min_size=1))
@example("it's")
@example("back\\")
@example("both\\\\'")
@example("a,b={c} [d]")
def test_a_folder_of_any_name_reaches_the_run(name):
    word = f"run.dir={quote(name)}"
    assert OverridesParser.create().parse_overrides([word])[0].value() == name
    assert not is_sweep([word])
