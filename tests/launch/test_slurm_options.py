"""Check every value that reaches a batch script; none adds an option or a command."""

import copy
import dataclasses
import shlex
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st

from launch.slurm_options import (
    LOWEST,
    TEXTS,
    asks_for_gpus,
    check,
    check_folder,
    extra,
    parameters,
    refuse_for_local,
    tasks_per_node,
)
from launch.submission import Submission
from launch.sweep import bound
from vcrast.config.compose import compose

DEMO = compose(["recipe=demo"])
DEFAULT = DEMO.slurm
HOSTILE = ("a\nb", "a\n#SBATCH --uid=0", "a\r", "a\x00", "a\u2028b", "a\x1b[2J", "a\\b", "", " ")


def with_(**changes):
    options = copy.deepcopy(DEFAULT)
    for key, value in changes.items():
        assert hasattr(options, key)
        setattr(options, key, value)
    return options


def script(options, count=1, folder="/runs/a"):
    check(options)
    config = dataclasses.replace(DEMO, slurm=options)
    return Submission(config.slurm, config.recipe, Path(folder) / "slurm", Path(folder) / "code").script(count)


def test_every_text_of_the_schema_is_checked():
    texts = {key for key, kind in type(DEFAULT).__annotations__.items() if "str" in kind and "list" not in kind}
    assert texts - {"extra", "setup"} == {*TEXTS, "cluster"}


@pytest.mark.parametrize("key", [*TEXTS, "cluster", "modules", "mail_type", "extra"])
@pytest.mark.parametrize("value", HOSTILE, ids=ascii)
def test_hostile_text_is_refused_in_one_line_that_names_the_key(key, value):
    given_ = {"extra": {"begin": value}, "modules": ["gcc", value], "mail_type": [value]}.get(key, value)
    with pytest.raises(ValueError, match=rf"slurm\.{key}") as caught:
        check(with_(**{key: given_}))
    assert str(caught.value).isprintable()


def test_how_python_starts_is_a_command_in_which_quotes_keep_a_path_with_blanks():
    assert " sh '/opt/a b/python' -u -m submitit" in script(with_(python="'/opt/a b/python'"))
    assert " sh apptainer exec --nv /a.sif python -u " in script(with_(python="apptainer exec --nv /a.sif python"))
    with pytest.raises(ValueError, match=r"slurm\.python=a 'b: no closing quotation"):
        check(with_(python="a 'b"))


def test_set_up_commands_come_before_srun_and_a_failed_one_ends_the_job():
    lines = script(with_(setup="source /site/env.sh\nexport A='b $C'", modules=["gcc"])).splitlines()
    found = lines[lines.index("# setup") + 1 : lines.index("# command") - 1]
    assert found == ["module load gcc || exit 1", "set -e", "source /site/env.sh", "export A='b $C'", "set +e"]
    with pytest.raises(ValueError, match=r"slurm\.setup="):
        check(with_(setup="a\x00"))


def test_arguments_of_srun_follow_ours():
    text = script(with_(srun_args="--container-image=nvcr.io#x/y:1 --container-mounts='/a b:/c'", cpus_per_task=2))
    assert "--cpus-per-task=2 '--container-image=nvcr.io#x/y:1' '--container-mounts=/a b:/c' env " in text


@pytest.mark.parametrize(
    ("given_", "line"),
    [
        ({"gpus_per_node": "a100:4"}, "#SBATCH --gpus-per-node=a100:4"),
        ({"gpus_per_node": "a100:3,h100:1"}, "#SBATCH --gpus-per-node=a100:3,h100:1"),
        ({"gpus_per_node": 4}, "#SBATCH --gpus-per-node=4"),
        ({"gres": "gpu:a100:4"}, "#SBATCH --gres=gpu:a100:4"),
        ({"gres": "nvme:800,gres/gpu:4"}, "#SBATCH --gres=nvme:800,gres/gpu:4"),
    ],
)
def test_gpus_of_a_kind_are_asked_for_and_each_gets_a_process(given_, line):
    options = with_(**given_)
    lines = script(options).splitlines()
    assert line in lines
    assert "#SBATCH --ntasks-per-node=4" in lines
    assert asks_for_gpus(options)
    assert not asks_for_gpus(with_(gres="nvme:800"))
    assert asks_for_gpus(with_(extra={"gpus-per-task": 1}))


def test_gpus_are_asked_for_once_and_in_numbers():
    with pytest.raises(ValueError, match=r"slurm\.gres=gpu:4: slurm\.gpus_per_node=2 asks for GPUs, too"):
        check(with_(gres="gpu:4", gpus_per_node=2))
    for wrong in ("a100", "-1", -1, "4 a100", 0.5):
        with pytest.raises(ValueError, match=r"slurm\.gpus_per_node=.*: write 4, or with a kind a100:4"):
            check(with_(gpus_per_node=wrong))


@pytest.mark.parametrize("option", ["wrap", "output", "error", "signal", "array", "chdir", "requeue"])
def test_extra_leaves_to_the_launcher_what_is_the_launchers(option):
    for spelling in (option, option.replace("-", "_")):
        with pytest.raises(ValueError, match=rf"slurm\.extra\.{spelling}=x: the launcher sets --{option} itself"):
            extra({spelling: "x"})


@pytest.mark.parametrize("option", ["a b", "--nice", "nice=1\n#SBATCH --uid", ""])
def test_extra_takes_names_of_options_only(option):
    with pytest.raises(ValueError, match=r"slurm\.extra: .* is no option of sbatch"):
        extra({option: 1})


def test_extra_names_the_key_that_exists_and_takes_flags_numbers_and_underscores():
    with pytest.raises(ValueError, match=r"slurm\.extra\.gpus-per-node=2: write it as slurm\.gpus_per_node"):
        extra({"gpus-per-node": 2})
    assert extra({"mem_per_gpu": "8G", "nice": 100, "exclusive": True}) == {
        "mem-per-gpu": "8G",
        "nice": 100,
        "exclusive": True,
    }
    for wrong in ({"nice": None}, {"nice": [1]}, {"exclusive": False}, {"comment": {"a": 1}}):
        with pytest.raises(ValueError, match=r"slurm\.extra\."):
            extra(wrong)


@pytest.mark.parametrize(
    "path", ["/a\nb", "/a'b", '/a"b', "/a\\b", "/a%jb", "/a:b", "/a$b", "/a`b`", "/a\x7fb", "/a\u2028b"]
)
def test_a_run_folder_that_cannot_stand_in_a_script_is_refused(path):
    with pytest.raises(ValueError, match=r"run\.dir="):
        check_folder("run.dir", Path(path))


def test_folders_with_blanks_and_accents_are_accepted_and_reach_the_run():
    folder = Path("/data/été 1/a=b,c")
    check_folder("run.dir", folder)
    word = next(word for word in bound((), folder) if word.startswith("run.dir="))
    assert OverridesParser.create().parse_overrides([word])[0].value() == str(folder)


@given(st.data())
def test_whatever_is_accepted_adds_one_line_that_reads_back_as_itself(data):
    key = data.draw(st.sampled_from(TEXTS))
    value = data.draw(st.text(st.sampled_from("ab1,-|&[] #;()"), max_size=12) | st.text(max_size=12))
    try:
        text = script(with_(**{key: value}))
    except ValueError:
        return
    added = set(text.splitlines()) - set(script(DEFAULT).splitlines())
    if key in ("python", "srun_args"):
        words = shlex.split(added.pop())
        assert all(word in words for word in shlex.split(value))
        return
    (line,) = added
    option, _, _ = line.partition("=")
    assert option == f"#SBATCH --{key.replace('_', '-')}"
    assert shlex.split(line.partition("=")[2]) == [value]


@given(
    st.sampled_from(["begin", "nice", "switches"]),
    st.text(st.sampled_from("ab1,-|&[] #;()"), max_size=12) | st.text(max_size=12),
)
def test_whatever_extra_accepts_reads_back_as_itself(option, value):
    try:
        text = script(with_(extra={option: value}))
    except ValueError:
        return
    (line,) = [line for line in text.splitlines() if line.startswith(f"#SBATCH --{option}=")]
    assert shlex.split(line.partition("=")[2]) == [value]


@pytest.mark.parametrize(("key", "lowest"), LOWEST.items())
def test_numbers_have_a_lowest_value(key, lowest):
    if key != "timeout_min":  # has a higher bound as well, in the next test
        check(with_(**{key: lowest}))
    with pytest.raises(ValueError, match=rf"slurm\.{key}={lowest - 1}: must be at least {lowest}"):
        check(with_(**{key: lowest - 1}))


def test_the_warning_must_come_after_the_start():
    check(with_(timeout_min=4))
    with pytest.raises(ValueError, match=r"slurm\.timeout_min=3: leaves no time.*signal_delay_s=120 s"):
        check(with_(timeout_min=3))


def test_one_process_per_gpu_and_none_without():
    assert [tasks_per_node(with_(gpus_per_node=count)) for count in (None, 0, 1, 8)] == [1, 1, 1, 8]
    assert tasks_per_node(with_(tasks_per_node=3)) == 3
    with pytest.raises(ValueError, match="one process is started per GPU"):
        check(with_(gpus_per_node=8, tasks_per_node=4))


def test_the_script_says_what_was_asked_and_nothing_that_was_not():
    options = with_(
        partition="gpu", account="lab", qos="long", constraint="a100|h100", reservation="course", exclude="n[3-5],n9",
        nodes=4, gpus_per_node=8, cpus_per_task=12, mem_gb=64, timeout_min=90, signal_delay_s=60,
        mail_user="me@lab.org", mail_type=["END", "FAIL"], modules=["cuda/12.4", "gcc"], extra={"nice": 100},
    )  # fmt: skip
    lines = [line for line in script(options).splitlines() if line.startswith("#SBATCH")]
    assert lines == [
        "#SBATCH --account=lab",
        "#SBATCH --constraint='a100|h100'",
        "#SBATCH --cpus-per-task=12",
        "#SBATCH --exclude='n[3-5],n9'",
        "#SBATCH --gpus-per-node=8",
        "#SBATCH --job-name=vcrast-demo",
        "#SBATCH --mail-type=END,FAIL",
        "#SBATCH --mail-user=me@lab.org",
        "#SBATCH --mem=64GB",
        "#SBATCH --nice=100",
        "#SBATCH --nodes=4",
        "#SBATCH --ntasks-per-node=8",
        "#SBATCH --open-mode=append",
        "#SBATCH --output=/runs/a/slurm/%j_0_log.out",
        "#SBATCH --partition=gpu",
        "#SBATCH --qos=long",
        "#SBATCH --requeue",
        "#SBATCH --reservation=course",
        "#SBATCH --signal=USR2@60",
        "#SBATCH --time=90",
        "#SBATCH --wckey=submitit",
    ]
    assert "module load cuda/12.4 gcc || exit 1" in script(options)
    command = shlex.split(script(options).strip().splitlines()[-1])
    assert command[0] == "srun"
    assert {"--kill-on-bad-exit=1", "--cpus-per-task=12", "PYTHONSAFEPATH=1"} <= set(command)
    bare = script(DEFAULT)
    for option in ("partition", "account", "qos", "gpus", "cpus", "mem", "mail", "constraint", "array"):
        assert f"--{option}" not in bare, option


def test_a_sweep_is_one_array_with_at_most_so_many_jobs_at_once():
    assert "#SBATCH --array=0-5%6" in script(DEFAULT, count=6)
    assert "#SBATCH --array=0-5%2" in script(with_(array_parallelism=2), count=6)
    assert "%A_%a_0_log.out" in script(DEFAULT, count=6)


@pytest.mark.parametrize(
    "change", [{"partition": "gpu"}, {"nodes": 2}, {"mem_gb": 8}, {"extra": {"nice": 1}}, {"mail_type": ["END"]}]
)
def test_processes_on_this_machine_refuse_what_they_would_ignore(change):
    with pytest.raises(ValueError, match=rf"slurm\.{next(iter(change))}=.*local"):
        refuse_for_local(with_(**change))
    refuse_for_local(DEFAULT)


def test_a_recipe_name_becomes_a_job_name_of_plain_letters():
    assert parameters(DEFAULT, name="vcrast-a b\n;c")["name"] == "vcrast-a_b__c"
