import pytest
from shipped import shipped

from vcrast.config.schema import DataConfig
from vcrast.data.sources.esc10 import esc10
from vcrast.data.sources.esc_or_synthetic import esc_or_synthetic
from vcrast.data.sources.synthetic import synthetic

SHIPPED = shipped("data/esc_or_synthetic")


def settings(**changes):
    return DataConfig(**{**SHIPPED, **changes})


def write_esc(root, classes, marked):
    """An ESC-50 folder with one clip a class and fold; `marked` classes belong to ESC-10."""
    (root / "audio").mkdir(parents=True)
    (root / "meta").mkdir()
    rows = [
        f"{fold}-{target}-A-{target}.wav,{fold},{target},sound{target},{target in marked}"
        for target in classes
        for fold in range(1, 6)
    ]
    (root / "meta" / "esc50.csv").write_text("\n".join(["filename,fold,target,category,esc10", *rows]))
    return str(root)


def test_without_a_folder_the_generated_classes():
    assert esc_or_synthetic(settings()) == synthetic(settings(name="synthetic"))
    assert len(esc_or_synthetic(settings(options={**SHIPPED["options"], "num_clips": 60})).clips) == 60


def test_a_folder_of_esc10_and_one_of_esc50(tmp_path):
    ten = esc_or_synthetic(settings(root=write_esc(tmp_path / "ten", range(0, 50, 5), range(50))))
    assert (ten.name, len(ten.classes), len(ten.clips), ten.folds) == ("esc10", 10, 50, ("1", "2", "3", "4", "5"))
    fifty = esc_or_synthetic(settings(root=write_esc(tmp_path / "fifty", range(50), range(0, 50, 5))))
    assert (fifty.name, len(fifty.classes), len(fifty.clips)) == ("esc50", 50, 250)


def test_a_folder_with_neither_and_an_unknown_option_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"esc_or_synthetic: data\.root="):
        esc_or_synthetic(settings(root=str(tmp_path)))
    with pytest.raises(ValueError, match=r"data\.options\.num_clip: .*num_clips"):
        esc_or_synthetic(settings(options={"num_clip": 3}))


def test_real_esc10(esc10_root):
    assert esc_or_synthetic(settings(root=esc10_root)) == esc10(settings(name="esc10", root=esc10_root, options={}))
