import json
import logging
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from sound_files import cut, noise, write

from vcrast.data import audio, cache
from vcrast.data.cache import default_cache_dir, open_or_build
from vcrast.data.clip import Clip


def build(clips, folder, **changes):
    options = {"sample_rate": 16000, "num_workers": 0, "max_bad_fraction": 0.01, **changes}
    return open_or_build(clips, cache_dir=folder, **options)


@pytest.fixture
def clips(tmp_path):
    wavs = [np.round(noise(1000 + 100 * i, seed=i) * 32768) / 32768 for i in range(5)]
    return [Clip(write(tmp_path / "audio" / f"{i}.wav", wav), (0,), line=i + 2) for i, wav in enumerate(wavs)]


@pytest.fixture
def decodes(monkeypatch):
    """The paths that were decoded."""
    seen = []

    def counted(path, **options):
        seen.append(path)
        return audio.read_scaled(path, **options)

    monkeypatch.setattr(cache, "read_scaled", counted)
    return seen


def test_samples_come_back_unchanged(clips, tmp_path):
    store = build(clips, tmp_path / "cache")
    for i in range(5):
        wav = noise(1000 + 100 * i, seed=i)
        expected = (np.round(wav * 32768) / 32768).astype(np.float32)
        np.testing.assert_array_equal(store.read(i), expected)
        np.testing.assert_array_equal(store.read(i, 10, 30), expected[10:30])
        np.testing.assert_array_equal(store.read(i, 990, 99999), expected[990:])
        assert store.num_samples(i) == len(wav)
    assert store.good == [0, 1, 2, 3, 4]
    assert store.faults == []


def test_loud_samples_are_limited_not_wrapped(tmp_path):
    clip = Clip(write(tmp_path / "a.wav", np.array([1.0, -1.0, 0.25], np.float32), subtype="FLOAT"), ())
    np.testing.assert_array_equal(build([clip], tmp_path / "c").read(0), np.float32([32767 / 32768, -1, 0.25]))


def test_second_time_decodes_nothing(clips, tmp_path, decodes):
    build(clips, tmp_path / "cache")
    assert len(decodes) == 5
    store = build(clips, tmp_path / "cache")
    assert len(decodes) == 5
    assert store.num_samples(4) == 1400
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_settings_and_stretches_have_their_own_cache(clips, tmp_path, decodes):
    build(clips, tmp_path / "cache")
    assert build(clips, tmp_path / "cache", sample_rate=8000).num_samples(0) == 500
    parts = [Clip(clips[0].path, (0,), 0.01, 0.02), Clip(clips[0].path, (0,), 0.03, 0.02)]
    store = build(parts, tmp_path / "cache")
    assert len(decodes) == 12
    whole = audio.read_wav(clips[0].path, sample_rate=16000)
    np.testing.assert_array_equal(store.read(1), whole[480:800])


def test_touched_file_is_reused_changed_file_is_decoded_again(clips, tmp_path, decodes):
    build(clips, tmp_path / "cache")
    os.utime(clips[2].path, ns=(1, 1))
    build(clips, tmp_path / "cache")
    assert len(decodes) == 5
    index = json.loads(next((tmp_path / "cache").glob("*.json")).read_text())
    assert index["mtime_ns"][2] == 1  # noted: the next start compares no contents

    new = np.round(noise(1200, seed=99) * 32768) / 32768  # the same size in bytes
    write(clips[2].path, new)
    store = build(clips, tmp_path / "cache")
    assert len(decodes) == 10
    np.testing.assert_array_equal(store.read(2), new.astype(np.float32))


def test_longer_file_is_decoded_again(clips, tmp_path, decodes):
    build(clips, tmp_path / "cache")
    write(clips[0].path, noise(5000))
    assert build(clips, tmp_path / "cache").num_samples(0) == 5000


def test_quarantine_names_and_counts(clips, tmp_path, caplog, decodes):
    cut(clips[3].path, 0.5)
    with caplog.at_level(logging.WARNING):
        store = build(clips, tmp_path / "cache", max_bad_fraction=0.2)
    assert store.good == [0, 1, 2, 4]
    assert [(clip.path, why.split(":")[0]) for clip, why in store.faults] == [(clips[3].path, "truncated")]
    assert store.row(clips[3]) is None
    assert store.row(clips[4]) == 4
    assert store.num_samples(4) == 1400
    assert f"1 of 5 clips are left out\n  line 5: {clips[3].path}: truncated" in caplog.text
    caplog.clear()
    again = build(clips, tmp_path / "cache", max_bad_fraction=0.2)
    assert (again.good, len(decodes)) == (store.good, 5)
    assert "1 of 5 clips" in caplog.text
    with pytest.raises(ValueError, match="1 of 5 clips cannot be used"):
        build(clips, tmp_path / "cache", max_bad_fraction=0.0)


def test_too_many_bad_files_stop_early_and_leave_nothing(tmp_path, decodes):
    bad = [Clip(str(tmp_path / f"absent{i}.wav"), (0,), line=i + 2) for i in range(300)]
    with pytest.raises(ValueError, match="cannot be used") as caught:
        build(bad, tmp_path / "cache")
    said = str(caught.value)
    assert "20 of 20 clips cannot be used (300 in all); data.max_bad_fraction=0.01 allows 3" in said
    assert f"line 21: {bad[19].path}: missing file" in said
    assert len(decodes) == 20
    assert list((tmp_path / "cache").iterdir()) == []


def test_repaired_file_leaves_quarantine(clips, tmp_path):
    whole = Path(clips[1].path).read_bytes()
    cut(clips[1].path, 0.5)
    assert build(clips, tmp_path / "cache", max_bad_fraction=0.5).good == [0, 2, 3, 4]
    Path(clips[1].path).write_bytes(whole)
    assert build(clips, tmp_path / "cache").good == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("damage", ["{", "[]", '{"data": "x"}', "null"])
def test_damaged_index_is_built_again(clips, tmp_path, damage, caplog, decodes):
    build(clips, tmp_path / "cache")
    next((tmp_path / "cache").glob("*.json")).write_text(damage)
    with caplog.at_level(logging.WARNING):
        assert build(clips, tmp_path / "cache").num_samples(0) == 1000
    assert "is damaged" in caplog.text
    assert len(decodes) == 10


def test_short_sample_file_is_built_again(clips, tmp_path, decodes):
    build(clips, tmp_path / "cache")
    cut(next((tmp_path / "cache").glob("*.i16")), 0.9)
    np.testing.assert_allclose(build(clips, tmp_path / "cache").read(4), noise(1400, seed=4), atol=1e-4)


def test_missing_sample_file_is_built_again(clips, tmp_path, decodes):
    build(clips, tmp_path / "cache")
    next((tmp_path / "cache").glob("*.i16")).unlink()
    assert build(clips, tmp_path / "cache").num_samples(4) == 1400


def test_store_is_small_when_pickled(clips, tmp_path):
    store = build(clips, tmp_path / "cache")
    before = store.read(3)
    data = pickle.dumps(store)
    assert len(data) < 6000
    np.testing.assert_array_equal(pickle.loads(data).read(3), before)


def test_default_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("VCRAST_CACHE", str(tmp_path))
    assert default_cache_dir() == tmp_path
    monkeypatch.delenv("VCRAST_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_cache_dir() == tmp_path / ".cache" / "vcrast"


def test_unusable_folder_says_what_to_set(clips, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"cannot be made here .*; set data\.cache_dir or data\.cache=false"):
        build(clips, tmp_path / "file" / "cache")


MANY = """
import sys
from pathlib import Path
from vcrast.data.cache import open_or_build
from vcrast.data.clip import Clip
from vcrast.data import audio

def main():
    folder, workers = Path(sys.argv[1]), int(sys.argv[2])
    clips = [Clip(str(path), (0,)) for path in sorted((folder / "audio").iterdir())]
    {before}
    store = open_or_build(
        clips, sample_rate=16000, cache_dir=folder / "cache", num_workers=workers, max_bad_fraction=0.0
    )
    print(sum(store.num_samples(i) for i in store.good))

if __name__ == "__main__":
    main()
"""


@pytest.fixture
def program(tmp_path):
    """Start a process that builds a cache of 40 clips."""
    for i in range(40):
        write(tmp_path / "audio" / f"{i:02d}.wav", noise(4000, seed=i))

    def start(workers, before="pass"):
        path = tmp_path / "program.py"
        path.write_text(MANY.format(before=before))
        command = [sys.executable, str(path), str(tmp_path), str(workers)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    return start


def test_worker_processes_build_the_same_file(program, tmp_path):
    contents = []
    for workers in (0, 2):
        out, err = program(workers).communicate()
        assert out.strip() == "160000", err
        contents.append(next((tmp_path / "cache").glob("*.i16")).read_bytes())
        for path in (tmp_path / "cache").iterdir():
            path.unlink()
    assert contents[0] == contents[1]


def test_two_builds_at_once(program, tmp_path):
    slow = "import time; import vcrast.data.cache as c; r = c.read_scaled; "
    slow += "c.read_scaled = lambda *a, **k: (time.sleep(0.01), r(*a, **k))[1]"
    both = [program(0, slow), program(0, slow)]
    for process in both:
        out, err = process.communicate()
        assert out.strip() == "160000", err
    assert sorted(path.suffix for path in (tmp_path / "cache").iterdir()) == [".i16", ".json"]


SLOWLY = """
    import time, vcrast.data.cache as c, vcrast.data.partial as p
    read, p.FLUSH_S = c.read_scaled, 0.0
    c.read_scaled = lambda *a, **k: (time.sleep(0.05), read(*a, **k))[1]
"""


def lines_there(folder):
    return sum(len(path.read_text().split("\n")) - 2 for path in folder.glob(".*.jsonl"))


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "ended"])
def test_a_stopped_build_leaves_no_half_cache_and_the_next_goes_on(program, tmp_path, end):
    process = program(0, SLOWLY)
    deadline = time.monotonic() + 30
    while (done := lines_there(tmp_path / "cache")) < 5:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(end)
    process.communicate()
    assert sorted(path.suffix for path in (tmp_path / "cache").iterdir()) == [".jsonl", ".part"]
    out, err = program(0, "import logging; logging.basicConfig(level='INFO')").communicate()
    assert out.strip() == "160000", err
    going_on = re.search(r"decoding 40 clips into .*, going on after (\d+)\n", err)
    assert done <= int(going_on[1]) < 40
    (built,) = (tmp_path / "cache").glob("*.i16")
    content = built.read_bytes()
    assert sorted(path.suffix for path in (tmp_path / "cache").iterdir()) == [".i16", ".json"]
    shutil.rmtree(tmp_path / "cache")
    program(2).communicate()
    assert built.read_bytes() == content


def test_two_builds_at_once_one_of_them_going_on(program, tmp_path):
    process = program(0, SLOWLY)
    while lines_there(tmp_path / "cache") < 5:
        time.sleep(0.02)
    process.kill()
    process.communicate()
    for each in [program(0, SLOWLY), program(0, SLOWLY)]:
        out, err = each.communicate()
        assert out.strip() == "160000", err
    assert sorted(path.suffix for path in (tmp_path / "cache").iterdir()) == [".i16", ".json"]


def test_full_disk_names_the_bytes(program, tmp_path):
    # A limit on file size fails the write as a full disk does; 40 clips of 4000 samples need 320,000 bytes.
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))"
    out, err = program(0, limit).communicate()
    assert "disk full after" in err, out
    assert "needs about 320000 bytes" in err
    assert "set data.cache_dir to another disk or data.cache=false" in err
    assert list((tmp_path / "cache").iterdir()) == []


def test_killed_decoder_is_explained(program, tmp_path):
    (tmp_path / "lethal.py").write_text(
        "import os, signal\n\n\ndef die(path, rate):\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    before = "import lethal; audio.READERS['die'] = lethal.die; clips += [Clip('die://1', ())]"
    out, err = program(1, before).communicate()
    assert "RuntimeError: data cache: a decoding process was killed" in err, out
    assert sorted(path.suffix for path in (tmp_path / "cache").iterdir()) == [".jsonl", ".part"]


def test_progress_is_logged(clips, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(cache, "PROGRESS_S", 0.0)
    with caplog.at_level(logging.INFO):
        build(clips, tmp_path / "cache")
    assert "data cache: 3 of 5 clips" in caplog.text


def test_real_esc10_builds_and_reuses(esc10_root, tmp_path):
    paths = sorted((Path(esc10_root) / "audio").iterdir())[:48]
    clips = [Clip(str(path), ()) for path in paths]
    store = build(clips, tmp_path)
    direct = audio.read_wav(str(paths[5]), sample_rate=16000)
    np.testing.assert_allclose(store.read(5), np.clip(direct, -1, 32767 / 32768), atol=0.5 / 32768 + 1e-7)


def test_a_class_of_silence_is_named_with_the_way_out(tmp_path):
    clips = [Clip(write(tmp_path / f"{i}.wav", noise(400, seed=i) * (i % 2)), (i % 2,)) for i in range(12)]
    named = {"classes": ("silence", "dog")}
    with pytest.raises(ValueError, match=r"every clip of silence is silent: data\.keep_silent=true keeps them\n"):
        build(clips, tmp_path / "cache", **named)
    assert build(clips, tmp_path / "cache", keep_silent=True, **named).good == list(range(12))
    with pytest.raises(ValueError, match=r"or raise it\n.*silent: every sample is 0"):
        build([*clips, Clip(write(tmp_path / "loud.wav", noise(400)), (0,))], tmp_path / "cache", **named)
