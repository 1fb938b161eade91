import argparse
import io
import logging
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch
from shipped import shipped

from vcrast.cli.data import add_parser
from vcrast.features.fbank import Fbank


def vcrast_data(*words):
    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers(required=True))
    args = parser.parse_args(["data", *map(str, words)])
    return args.run(args)


@pytest.fixture
def sounds(tmp_path):
    """Ten clips in two classes, the last one silent."""
    wavs = np.random.default_rng(0).uniform(-0.3, 0.3, (10, 4000)).astype(np.float32)
    wavs[9] = 0
    for i, wav in enumerate(wavs):
        path = tmp_path / "sounds" / ("dog" if i % 2 else "cat") / f"{i}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        sf.write(path, wav, 16000)
    return tmp_path / "sounds"


def test_prepare_prints_counts_and_faults(sounds, tmp_path, capsys):
    words = [f"data.root={sounds}", f"data.cache_dir={tmp_path / 'cache'}", "data.max_bad_fraction=0.1"]
    assert vcrast_data("prepare", "folder", *words) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("folder: 10 clips, 2 classes, folds: 1 ")
    assert out[1].startswith("9 clips of 2.2 s in all, at 16000 Hz in ")
    assert out[2] == "1 left out"
    said = "silent: every sample is 0; data.keep_silent=true takes it for a sound"
    assert out[3] == f"  {sounds / 'dog' / '9.wav'}: {said}"
    assert len(list((tmp_path / "cache").glob("*.i16"))) == 1


def test_prepare_without_cache(sounds, capsys):
    assert vcrast_data("prepare", "folder", f"data.root={sounds}", "data.cache=false") == 0
    assert "nothing decoded" in capsys.readouterr().out


def test_stats_are_those_of_the_training_clips(sounds, tmp_path, capsys):
    manifest = tmp_path / "m.csv"
    rows = [f"{path},x,{'test' if path.stem == '0' else 'train'}" for path in sorted(sounds.rglob("*.wav"))]
    manifest.write_text("\n".join(["path,label,split", *rows]))
    words = [f"data.path={manifest}", f"data.cache_dir={tmp_path / 'cache'}", "data.max_bad_fraction=0.1"]
    assert vcrast_data("stats", "manifest", *words) == 0
    printed = dict(line.split(": ") for line in capsys.readouterr().out.splitlines())
    fbank = Fbank(**shipped("features/fbank", sample_rate=16000))
    values = torch.cat(
        [fbank(torch.from_numpy(sf.read(path, dtype="float32")[0])[None]).flatten()
         for path in sorted(sounds.rglob("*.wav")) if path.stem not in ("0", "9")]
    ).double()  # fmt: skip
    assert float(printed["mean"]) == pytest.approx(values.mean().item(), abs=1e-3)
    assert float(printed["std"]) == pytest.approx(values.std(correction=0).item(), abs=1e-3)


def test_options_are_reached_from_the_command_line(sounds, tmp_path, capsys):
    rows = [f"{path},{path.parent.name},{i % 2}" for i, path in enumerate(sorted(sounds.rglob("*.wav")))]
    (tmp_path / "m.csv").write_text("\n".join(["path,kind,part", *rows]))
    words = [f"data.path={tmp_path / 'm.csv'}", "data.label=kind", "data.options.fold=part", "data.cache=false"]
    assert vcrast_data("prepare", "manifest", *words, "data.options.classes=[dog,cat,cow]", "data.folds=all") == 0
    assert "10 clips, 3 classes, folds: 0 1" in capsys.readouterr().out
    assert vcrast_data("prepare", "folder", f"data.root={sounds}", "data.options.num_folds=2", "data.cache=false") == 0
    assert "folds: 1 2\n" in capsys.readouterr().out


def test_stats_needs_a_known_dataset():
    with pytest.raises(ValueError, match="foldr"):
        vcrast_data("stats", "foldr")


class OneFile(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.server.content)

    def log_message(self, *args):
        pass


def test_download_from_another_address(tmp_path, capsys):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        names = [f"{1 + i // 400}-{i}-A-{i % 50}.wav" for i in range(2000)]
        rows = [f"{name},{name[0]},{i % 50},sound{i % 50},False" for i, name in enumerate(names)]
        file.writestr("E/meta/esc50.csv", "\n".join(["filename,fold,target,category,esc10", *rows]))
        for name in names:
            file.writestr(f"E/audio/{name}", b"RIFF")
    with HTTPServer(("127.0.0.1", 0), OneFile) as server:
        server.content = buffer.getvalue()
        threading.Thread(target=server.handle_request, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/x.zip"
        assert vcrast_data("download", "esc50", "--root", tmp_path, "--url", url) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "ESC-50-master")
    assert vcrast_data("download", "esc50", "--root", tmp_path, "--url", url) == 0  # nobody listens any more


def test_real_esc10(esc10_root, tmp_path, capsys, caplog):
    words = [f"data.root={esc10_root}", f"data.cache_dir={tmp_path}"]
    with caplog.at_level(logging.INFO):
        assert vcrast_data("prepare", "esc10", *words) == 0
    out = capsys.readouterr().out
    assert "esc10: 400 clips, 10 classes, folds: 1 2 3 4 5" in out
    assert "0 left out" in out
    assert Path(tmp_path, next(tmp_path.glob("*.i16"))).stat().st_size == 2 * sum(
        round(sf.info(path).frames * 16000 / 44100) for path in sorted(Path(esc10_root, "audio").iterdir())
    )
