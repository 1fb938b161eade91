"""Check the recordings that views mix in: found, decoded once, known when resumed."""

import os
import shutil
import signal

import numpy as np
import pytest
import torch
from small_run import metric_steps, small, weights_hash
from sound_files import noise, sine, write

from vcrast.config.compose import compose
from vcrast.config.resume import resolve
from vcrast.data import backgrounds
from vcrast.data.backgrounds import find_folder, recordings, recordings_identity
from vcrast.data.open import open_corpus
from vcrast.features.views import Views
from vcrast.run import run
from vcrast.runs.check import check_parts
from vcrast.runs.interrupt import Interrupted


def read(folder, *, root=None, rate=16000):
    return recordings({"background_folder": folder}, root=root, sample_rate=rate)


@pytest.fixture
def hums(tmp_path):
    """Two recordings in the folder of Speech Commands, with its text, in the folder that its archive makes."""
    folder = tmp_path / "data" / "speech_commands_v0.02" / "_background_noise_"
    write(folder / "white_noise.wav", noise(3000))
    write(folder / "doing_the_dishes.flac", np.stack([sine(32_000, hz=50), noise(32_000)], axis=1), 32_000)
    (folder / "README.md").write_text("Background noise")
    return folder


def test_all_sounds_in_order_of_their_paths_mono_at_the_rate_of_the_clips(hums):
    assert read(None) == ()
    dishes, white = read(str(hums))
    assert (len(dishes), len(white)) == (16_000, 3000)
    assert all(each.dtype == torch.float32 and each.ndim == 1 for each in (dishes, white))
    assert [len(each) for each in read(str(hums), rate=8000)] == [8000, 1500]
    (one,) = read(str(hums / "white_noise.wav"))
    torch.testing.assert_close(one, torch.from_numpy(noise(3000)), rtol=0, atol=1e-4)


def test_it_is_found_in_the_data_or_one_folder_below(hums, monkeypatch, tmp_path):
    for root in (hums.parent, hums.parent.parent):
        assert find_folder("_background_noise_", str(root)) == hums
    monkeypatch.chdir(hums.parent)
    assert find_folder("_background_noise_", None) == hums.relative_to(hums.parent)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"views\.background_folder=hums: no such folder, nor in data\.root=data$"):
        find_folder("hums", "data")
    with pytest.raises(ValueError, match=r"views\.background_folder=/hums: no such folder$"):
        find_folder("/hums", "data")


def test_files_are_decoded_once_as_long_as_they_stay_as_they_are(hums, monkeypatch):
    before = read(str(hums))
    real = backgrounds.read_wav
    decoded = []
    monkeypatch.setattr(backgrounds, "read_wav", lambda path, **given: decoded.append(path) or real(path, **given))
    assert all(now is then for now, then in zip(read(str(hums)), before, strict=True))
    write(hums / "white_noise.wav", noise(2000))
    assert len(read(str(hums))[1]) == 2000
    assert decoded == [str(hums / "white_noise.wav")]


def test_what_cannot_be_used_is_one_line(hums, monkeypatch):
    with pytest.raises(ValueError, match=r"background_folder=.*README\.md: 1 of 1 sounds cannot be used"):
        read(str(hums / "README.md"))
    monkeypatch.setattr(backgrounds, "MAX_BYTES", 40_000)
    with pytest.raises(ValueError, match=r"0\.0 hours of sound, at most 0\.0 fit; take fewer files"):
        read(str(hums))
    (hums / "white_noise.wav").write_bytes(b"RIFF")
    with pytest.raises(ValueError, match=r"1 of 2 sounds cannot be used\n  .*white_noise\.wav: "):
        read(str(hums))
    for path in hums.glob("*.[wf]*"):
        path.unlink()
    with pytest.raises(ValueError, match=r"no sound in .*_background_noise_ \(\.wav"):
        read(str(hums))


def test_a_mistake_is_found_before_the_first_step_under_its_whole_name(tmp_path):
    words = ["recipe=demo", "finetune.views.background_folder=hums", "finetune.views.background_probability=0.5"]
    check_parts(compose(words))  # where a job is submitted, the data may not be
    config = compose([*words, "data.options.num_clips=60"])
    corpus = open_corpus(config.data)
    with pytest.raises(ValueError, match=r"^finetune\.views\.background_folder=hums: no such folder"):
        check_parts(config, corpus)
    del config.views["background_folder"]  # as an earlier version has saved it
    with pytest.raises(ValueError, match=r"^views.*background_folder"):
        check_parts(config, corpus)
    with pytest.raises(ValueError, match=r"^finetune\.views\.background_folder=hums: .*probability=0 switches it off"):
        check_parts(compose(words[:2]))


def test_where_they_lie_does_not_count_what_they_are_does(hums, tmp_path):
    def identity(folder):
        return recordings_identity({"background_folder": str(folder)}, root=None)

    before = identity(hums)
    shutil.copytree(hums, tmp_path / "moved")
    assert identity(tmp_path / "moved") == before
    write(tmp_path / "moved" / "white_noise.wav", noise(3000, seed=1))
    assert identity(tmp_path / "moved") != before
    assert recordings_identity({"background_folder": None}, root=None) is None


@pytest.mark.slow
def test_a_run_that_goes_on_hears_the_same_and_refuses_others(hums, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("vcrast.run.write_report", lambda folder: folder)  # takes longer than the runs
    shutil.copytree(hums, tmp_path / "hums")
    words = ["stages=[finetune]", "finetune.steps=6"]
    noisy = [*words, "finetune.views.background_folder=hums", "finetune.views.background_probability=0.8"]
    whole = run(resolve(small(tmp_path / "whole", *noisy)))
    assert weights_hash(whole) != weights_hash(run(resolve(small(tmp_path / "plain", *words))))
    real = Views.make

    def stopped(self, wavs, draws, view):
        if draws.step == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(self, wavs, draws, view)

    folder = tmp_path / "parts"
    monkeypatch.setattr(Views, "make", stopped)
    with pytest.raises(Interrupted):
        run(resolve(small(folder, *noisy, "data.num_workers=1")))
    monkeypatch.setattr(Views, "make", real)
    (tmp_path / "hums").rename(tmp_path / "moved")
    again = [f"run.resume={folder}", "data.num_workers=0"]
    with pytest.raises(ValueError, match=r"finetune\.views\.background_folder=.*/hums: no such folder"):
        run(resolve(again))
    moved = f"finetune.views.background_folder={tmp_path}/moved"
    sound = (tmp_path / "moved" / "white_noise.wav").read_bytes()
    write(tmp_path / "moved" / "white_noise.wav", noise(3000, seed=1))
    said = r"finetune\.views\.background_folder: fold 1: finetune was begun with other sounds; give them back"
    for other in (moved, "finetune.views.background_folder=null"):
        with pytest.raises(ValueError, match=said):
            run(resolve([*again, other]))
    (tmp_path / "moved" / "white_noise.wav").write_bytes(sound)
    run(resolve([*again, moved]))
    assert metric_steps(folder) == metric_steps(whole)
    assert weights_hash(folder) == weights_hash(whole)
