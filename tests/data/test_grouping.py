"""Check which files are taken for parts of one recording."""

import pytest

from vcrast.data.grouping import Named, group_files


def named(*names):
    """Files of class/…/file.wav."""
    return [Named(name, name.split("/")[0], tuple(name.split("/")[1:-1])) for name in names]


def together(files, how="auto", num_folds=5):
    """Sets of file names that are in one group, those alone left out."""
    groups = group_files(files, how, num_folds).names
    sets = [{file.name for file, other in zip(files, groups, strict=True) if other == group} for group in set(groups)]
    return sorted((sorted(each) for each in sets if len(each) > 1), key=str)


@pytest.mark.parametrize(
    ("pattern", "counters"),
    [
        ("rec{}_{:03d}", (0, 1, 12)), ("rec{}-seg{}", (1, 4)), ("yard{}_0{}-05", (1, 2)), ("{}a_part{}", (1, 2)),
        ("b{} ({})", (1, 2)), ("anna{}_take_{}", (1, 2)), ("site{}_20230501_06{}000", (1, 2)), ("n{}_{}.5s", (1, 2)),
        ("rec{}seg{}", (1, 2)), ("long{}_{}.0_9.5", (1, 2)), ("jürgen{} {}", (1, 2)),
    ],
)  # fmt: skip
def test_counters_at_the_end_of_names(pattern, counters):
    files = named(*(f"dog/{pattern.format(rec, counter)}.wav" for rec in range(6) for counter in counters))
    wanted = [sorted(f"dog/{pattern.format(rec, counter)}.wav" for counter in counters) for rec in range(6)]
    assert together(files) == sorted(wanted, key=str)
    assert together(files, "none") == []


@pytest.mark.parametrize(
    "names",
    [
        [f"dog/dog_{number}.wav" for number in range(10)],  # the class's own counter
        [f"dog/audio_{number}.wav" for number in range(10)] + [f"dog/x{number}.wav" for number in range(5)],
        [f"dog/{number}.wav" for number in range(10)],
        [f"dog/dept{number}.wav" for number in range(10)],
        [f"dog/deep/{number}.wav" for number in range(10)],  # one folder is none
        [f"dog/rex_{number}.wav" for number in range(10)],  # one recording cannot be spread
        [f"dog/rec{number}/audio.wav" for number in range(10)],
    ],
)
def test_no_class_becomes_one_group(names):
    found = group_files(named(*names), "auto", 5)
    assert len(set(found.names)) == len(names)
    assert found.text == ""
    assert found.notes == []


def test_names_of_known_datasets_hold_also_across_classes():
    words = named(
        *(f"{word}/{speaker:08x}_nohash_{i}.wav" for word in ("yes", "no") for speaker in range(6) for i in (0, 1))
    )
    found = group_files(words, "auto", 5)
    assert len(set(found.names)) == 6
    assert found.text == "grouped 24 files into 6 recordings by the speakers in Speech Commands' names"
    for pattern in ("1-{}-A-0", "{}-3-0-1", "XC{}", "xc{}_5-10", "03-01-06-01-02-01-{}", "{}_DFA_ANG_XX"):
        start = 10 if pattern.startswith("03") else 1000
        files = named(*(f"{label}/{pattern.format(start + i)}.wav" for label in ("a", "b") for i in range(5)))
        assert len(together(files)) == 5, pattern
    both = named(*(f"a/1-{i}-{take}-0.wav" for i in range(100, 105) for take in "AB"))
    assert together(both) == [[f"a/1-{i}-A-0.wav", f"a/1-{i}-B-0.wav"] for i in range(100, 105)]


def test_folders_below_the_class():
    files = named(*(f"dog/day{day}/{i}.wav" for day in range(5) for i in range(3)), "dog/alone.wav")
    assert together(files) == [[f"dog/day{day}/{i}.wav" for i in range(3)] for day in range(5)]
    people = named(*(f"{word}/speaker_{i}/1.wav" for word in ("yes", "no") for i in range(5)))
    assert together(people) == [[f"no/speaker_{i}/1.wav", f"yes/speaker_{i}/1.wav"] for i in range(5)]
    few = named(*(f"dog/day{day}/{i}.wav" for day in range(3) for i in range(3)))
    assert together(few) == []
    assert together(few, num_folds=3) == together(few, "folder")
    (note,) = group_files(few, "auto", 5).notes
    assert note.startswith("fewer recordings than the 5 folds in dog (3), as far as names tell")


def test_a_regular_expression_counts_across_classes():
    files = named("a/x-p1-1.wav", "b/y-p1-2.wav", "b/z-p2-1.wav", "b/odd.wav")
    found = group_files(files, r"-(p\d)-", 5)
    assert together(files, r"-(p\d)-") == [["a/x-p1-1.wav", "b/y-p1-2.wav"]]
    assert found.text == r"grouped 4 files into 3 recordings by data.options.group=-(p\d)-"
    assert found.notes == [r"data.options.group=-(p\d)- matches all but 1 files; each of them is its own group"]


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("fodler", "did you mean folder"), ("(a", "no regular expression"), ("(a)(b)", "has 2 groups in brackets"),
        ("(q)", "matches none of 1 files, such as a/x.wav"),
    ],
)  # fmt: skip
def test_ways_that_do_not_work(how, said):
    with pytest.raises(ValueError, match=r"data\.options\.group=") as caught:
        group_files(named("a/x.wav"), how, 5)
    assert said in str(caught.value)
