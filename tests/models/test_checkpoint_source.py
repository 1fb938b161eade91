import os

import pytest
import torch
from parts import make_ast
from safetensors.torch import load_file, save_file
from shipped import shipped

from vcrast.models.export import export, find_export
from vcrast.models.pretrained import check_checkpoint, load_encoder

FEATURES = shipped("features/fbank", num_mel_bins=16, sample_rate=16000, mean=-4.0, std=2.0)
ESC50 = {"name": "esc50", "root": "/there", "path": None}
MIXED = "mixture, sources: {librispeech: {}, sounds: {name: esc50}, mine: {name: folder, root: /here}}"


def write(folder, *, seed=0, features=FEATURES, **options):
    torch.manual_seed(seed)
    encoder = make_ast(**options)
    common = {"labels": (), "multilabel": False, "clip_duration_s": 1.0, "pad": "silence", "meta": {}}
    export(folder, encoder=encoder, features=features, head=None, sample_rate=features["sample_rate"], **common)
    return encoder


def make_run(run, *, folds=("1",), data="esc50", source="name: clips", stage="pretrained"):
    encoders = {
        fold: write(run / "exported" / f"fold_{fold}" / stage, seed=number) for number, fold in enumerate(folds)
    }
    (run / "config.yaml").write_text(f"data: {{name: {data}, root: /here}}\nsource: {{{source}}}\n")
    (run / "overrides.txt").write_text("")
    return encoders


def assert_loads(source, expected, **options):
    encoder = make_ast()
    warnings = load_encoder(encoder, source, **options)
    torch.testing.assert_close(encoder.state_dict(), expected.state_dict())
    return warnings


# Which front end


@pytest.mark.parametrize("name", ["", "weights.safetensors", "model.json", "renamed.safetensors"])
@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"sample_rate": 22050}, r"data.sample_rate=16000, here 22050; set data.sample_rate=16000,"),
        ({"num_mel_bins": 24}, r"features.num_mel_bins=16, here 24; set features.num_mel_bins=16,"),
        ({"name": "quaternion"}, "features=fbank, here quaternion; set features=fbank,"),
        (
            {"window_ms": 20.0, "frame_shift_ms": 5.0},
            r"window_ms=25.0, here 20.0; .*; set features.window_ms=25.0 features.frame_shift_ms=10.0,",
        ),
        ({"preemphasis": 0.0, "low_freq_hz": 50.0}, r"set features.low_freq_hz=20.0 features.preemphasis=0.97,"),
        ({"high_freq_hz": 7000.0}, r"features.high_freq_hz=0.0, here 7000.0"),
    ],
)
def test_another_front_end_is_refused_with_the_settings_that_match(tmp_path, name, own, message):
    write(tmp_path)
    if name == "renamed.safetensors":
        os.rename(tmp_path / "weights.safetensors", tmp_path / name)
    with pytest.raises(ValueError, match=message) as error:
        load_encoder(make_ast(), tmp_path / name, features={**FEATURES, **own})
    assert "\n" not in str(error.value)


def test_all_differences_of_model_and_front_end_stand_in_one_line(tmp_path):
    write(tmp_path, depth=3)
    with pytest.raises(
        ValueError, match=r"3 blocks, 2 heads\).*; data\.sample_rate=16000, here 8000; set model\.depth=3 "
    ) as error:
        load_encoder(make_ast(), tmp_path, features={**FEATURES, "sample_rate": 8000})
    assert str(error.value).endswith("set model.depth=3 data.sample_rate=16000, or choose other weights")
    with pytest.raises(ValueError, match=r"set model\.depth=3 data\.sample_rate=16000,"):
        check_checkpoint(
            {**make_ast().options, "checkpoint": str(tmp_path)}, linear={"name": "real"},
            features={**FEATURES, "sample_rate": 8000},
        )  # fmt: skip


def test_heads_of_equal_width_in_another_number_are_refused(tmp_path):
    write(tmp_path, num_heads=4)
    with pytest.raises(ValueError, match=r"4 heads.*2 heads.*set model\.num_heads=4,"):
        load_encoder(make_ast(), tmp_path)


def test_the_same_upper_edge_written_in_two_ways_is_no_difference(tmp_path):
    encoder = write(tmp_path)
    assert not assert_loads(tmp_path, encoder, features={**FEATURES, "high_freq_hz": 8000.0})


@pytest.mark.parametrize(
    ("mean", "std", "aloud"),
    [(-4.0, 2.0, False), (-4.019, 2.019, False), (-4.03, 2.0, True), (-4.0, 2.03, True), (-6.5, 3.25, True)],
)
def test_another_normalisation_is_adapted_aloud(tmp_path, mean, std, aloud):
    encoder = write(tmp_path)
    warnings = assert_loads(tmp_path, encoder, features={**FEATURES, "mean": mean, "std": std})
    assert len(warnings) == aloud
    if aloud:
        for text in ("mean -4 and std 2", f"{mean:g} and {std:g}", "data.mean=-4.0 data.std=2.0"):
            assert text in warnings[0]


def test_a_file_alone_has_an_unknown_front_end(tmp_path, caplog):
    encoder = write(tmp_path / "m")
    save_file(load_file(tmp_path / "m" / "weights.safetensors"), tmp_path / "alone.safetensors")
    with caplog.at_level("INFO"):
        assert not assert_loads(tmp_path / "alone.safetensors", encoder, features=FEATURES)
    assert "no model.json beside it says which front end" in caplog.text


def test_another_models_description_beside_a_file_does_not_count(tmp_path):
    encoder = write(tmp_path / "m", seed=1)
    write(tmp_path / "n", depth=3)
    other = tmp_path / "n" / "other.safetensors"
    save_file(load_file(tmp_path / "m" / "weights.safetensors"), other)
    assert not assert_loads(other, encoder, features={**FEATURES, "sample_rate": 8000})


@pytest.mark.parametrize("name", ["", "weights.safetensors"])
def test_damaged_weights_are_noticed(tmp_path, name):
    write(tmp_path)
    path = tmp_path / "weights.safetensors"
    blob = bytearray(path.read_bytes())
    blob[-3] ^= 1
    path.write_bytes(blob)
    with pytest.raises(ValueError, match="damaged or replaced"):
        load_encoder(make_ast(), tmp_path / name)


# Which model of a run


def test_a_run_gives_the_model_of_the_same_fold(tmp_path):
    encoders = make_run(tmp_path, folds=("1", "2"))
    options = {"features": FEATURES, "data": ESC50}
    assert not assert_loads(tmp_path, encoders["2"], fold="2", **options)
    assert not assert_loads(tmp_path / "exported", encoders["1"], fold="1", **options)
    assert not assert_loads(tmp_path / "exported" / "fold_2", encoders["2"], fold="2", **options)
    assert not assert_loads(tmp_path / "exported" / "fold_2" / "pretrained", encoders["2"], fold="2", **options)
    assert not assert_loads(tmp_path, encoders["1"])
    with pytest.raises(
        ValueError, match=r"pretrained on folds 1, 2 of the same data, not on fold 3; .*data.folds=\[1,2\]"
    ):
        assert_loads(tmp_path, encoders["1"], fold="3", **options)
    with pytest.raises(ValueError, match="pretrained on folds 1, 2, not on fold test"):
        assert_loads(tmp_path, encoders["1"], fold="test", data={"name": "folder", "root": "/x"})


@pytest.mark.parametrize(
    ("run", "data", "fold", "outcome"),
    [
        ({}, ESC50, "1", "taken"),
        ({}, ESC50, "2", "refused"),
        ({}, {"name": "audioset"}, "test", "taken"),
        ({"source": "name: synth, real_share: 0.0"}, ESC50, "2", "taken"),  # has heard no recording
        ({"source": "name: synth, real_share: 0.5"}, ESC50, "2", "refused"),
        ({"data": "folder"}, {"name": "folder", "root": "/elsewhere"}, "2", "taken"),
        ({"data": "folder"}, {"name": "folder", "root": "/here/../here"}, "2", "refused"),
        ({"folds": ("1", "2"), "source": "name: synth"}, ESC50, "3", "taken"),
        ({"data": MIXED}, ESC50, "1", "taken"),
        ({"data": MIXED}, ESC50, "2", "refused"),
        ({"data": MIXED}, {"name": "librispeech"}, "test", "taken"),  # a mixture hears `train` alone of it
        ({"data": MIXED}, {"name": "urbansound8k"}, "2", "taken"),
        ({"data": MIXED}, {"name": "folder", "root": "/here"}, "2", "refused"),
    ],
)
def test_a_model_of_another_fold_of_the_same_data_is_no_start(tmp_path, run, data, fold, outcome):
    encoders = make_run(tmp_path, **run)
    if outcome == "taken":
        assert not assert_loads(tmp_path, encoders["1"], fold=fold, data=data)
        return
    with pytest.raises(ValueError, match=f"pretrained on fold 1 of the same data, not on fold {fold};"):
        assert_loads(tmp_path, encoders["1"], fold=fold, data=data)
    named = tmp_path / "exported" / "fold_1" / "pretrained" / "weights.safetensors"
    (warning,) = assert_loads(named, encoders["1"], fold=fold, data=data)  # asked for by name
    assert f"trained for fold 1 of the same data, so it has heard test clips of fold {fold}" in warning


def test_a_run_that_only_finetuned_has_to_be_named(tmp_path):
    encoders = make_run(tmp_path, stage="finetuned", source="name: synth")
    with pytest.raises(ValueError, match=r"no pretrained model; .* name it: .*fold_1/finetuned$"):
        load_encoder(make_ast(), tmp_path, fold="1", data=ESC50)
    named = tmp_path / "exported" / "fold_1" / "finetuned"
    assert not assert_loads(named, encoders["1"], fold="1", data=ESC50)
    assert assert_loads(named, encoders["1"], fold="2", data=ESC50)  # its labels were those of fold 1


def test_a_kept_epoch_has_heard_the_labels_of_its_fold(tmp_path):
    encoders = make_run(tmp_path, stage="epoch_6", source="name: synth")
    named = tmp_path / "exported" / "fold_1" / "epoch_6"
    assert not assert_loads(named, encoders["1"], fold="1", data=ESC50)
    assert assert_loads(named, encoders["1"], fold="2", data=ESC50)


def test_a_folder_of_runs_names_the_newest(tmp_path):
    for number, name in enumerate(["b", "d", "a", "c"]):
        make_run(tmp_path / "esc50" / name)
        os.utime(tmp_path / "esc50" / name / "config.yaml", (1000 + number, 1000 + number))
    newest = ", ".join(str(tmp_path / "esc50" / name) for name in "cad")
    (tmp_path / "esc50" / "failed").mkdir()
    for name in ("config.yaml", "overrides.txt"):  # the very newest, but without a model
        (tmp_path / "esc50" / "failed" / name).write_text("")
    expected = f"is a folder of runs; name one of its runs: {newest} and 1 more$"
    for folder in (tmp_path, tmp_path / "esc50"):
        with pytest.raises(ValueError, match=expected):
            find_export(folder, fold=None, stage=None)
        with pytest.raises(ValueError, match=f"model.checkpoint={folder}: {expected}"):
            load_encoder(make_ast(), folder)


def test_a_folder_without_a_model_and_a_folder_without_weights(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"model\.checkpoint=.*no exported model yet"):
        load_encoder(make_ast(), tmp_path)
    write(tmp_path)
    (tmp_path / "weights.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no weights\.safetensors; export the model again"):
        load_encoder(make_ast(), tmp_path)


def test_the_home_folder_is_known(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    encoder = write(tmp_path / "m")
    assert not assert_loads("~/m", encoder)
