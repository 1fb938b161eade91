import logging
import os
import pickle
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from sound_files import noise, settings, write

from vcrast.cli.data import run_download
from vcrast.data import preflight as preflight_module
from vcrast.data.clip import Clip
from vcrast.data.open import open_corpus, open_data
from vcrast.data.sources import audioset as source
from vcrast.data.sources.audioset_download import download_audioset

MIDS = [f"/m/{number:05x}" for number in range(527)]
LABELS = "index,mid,display_name\n" + "".join(f'{i},{mid},"Sound {i}, of a kind"\n' for i, mid in enumerate(MIDS))
# Ids of YouTube have 11 characters, a dash or underscore anywhere; one begins with the letter that PANNs puts in front.
TRAIN_ROWS = {
    "--PJHxphWEs": ("30.000", f"{MIDS[0]},{MIDS[526]}"),
    "Yabcdefghi_": ("0.000", MIDS[7]),
    "_3456789012": ("120.500", f"{MIDS[7]},{MIDS[3]},{MIDS[7]}"),
}
BALANCED_ROWS = {"balanced-_1": ("10.000", MIDS[1])}
EVAL_ROWS = {"eval_clip-1": ("0.000", MIDS[2])}


def segments(rows, *, end="\n", comments=3, stated=None):
    head = [
        "# Segments csv created Sun Mar  5 10:54:25 2017",
        f"# num_ytids={len(rows)}, num_segs={len(rows) if stated is None else stated}, num_unique_labels=527",
        "# YTID, start_seconds, end_seconds, positive_labels",
    ][:comments]
    lines = [f'{video}, {start}, {float(start) + 10:.3f}, "{mids}"' for video, (start, mids) in rows.items()]
    return end.join([*head, *lines, ""])


def lists(folder, *, train=None, tested=None, **more):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "class_labels_indices.csv").write_text(LABELS, newline="")
    for split, rows in (
        ("unbalanced_train", train or TRAIN_ROWS),
        ("balanced_train", BALANCED_ROWS),
        ("eval", tested or EVAL_ROWS),
    ):
        (folder / f"{split}_segments.csv").write_text(segments(rows, **more), newline="")
    return folder


def sounds(root, names):
    for name in names:
        write(root / name, noise(1600))


def corpus_of(root, **values):
    return open_corpus(settings("audioset", root=str(root), **values))


def named(corpus):
    return {Path(clip.path).name: (clip.fold, clip.labels) for clip in corpus.clips}


LAYOUTS = {
    "by split": lambda split, video, start: f"audio/{split}/{video}.wav",
    "flat": lambda split, video, start: f"{video}.wav",
    "flac with the start": lambda split, video, start: f"audio/{video}_{float(start):g}.flac",
    "decimals": lambda split, video, start: f"audio/{video}_{start}.wav",
    "start and end": lambda split, video, start: f"audio/{video}_{start}_{float(start) + 10:.3f}.wav",
    "milliseconds": lambda _, video, start: f"x/{video}_{1e3 * float(start):.0f}_{1e3 * float(start) + 1e4:.0f}.ogg",
    "padded": lambda split, video, start: f"audio/{video}_{float(start):06.1f}.wav",
    "PANNs": lambda split, video, start: f"audios/{split}_segments/{split}_segments_part00/Y{video}.wav",
    "PANNs with start": lambda split, video, start: f"audios/{split}_segments/Y{video}_{start}.wav",
    "capital ending": lambda split, video, start: f"audio/{video}.WAV",
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(tmp_path, layout):
    every = {"unbalanced_train": TRAIN_ROWS, "balanced_train": BALANCED_ROWS, "eval": EVAL_ROWS}
    place = LAYOUTS[layout]
    lists(tmp_path)
    files = {video: place(split, video, start) for split, rows in every.items() for video, (start, _) in rows.items()}
    sounds(tmp_path, files.values())
    corpus = corpus_of(tmp_path)
    assert [clip.path for clip in corpus.clips] == [str(tmp_path / name) for name in files.values()]
    assert [clip.labels for clip in corpus.clips] == [(0, 526), (7,), (7, 3), (1,), (2,)]
    assert [clip.fold for clip in corpus.clips] == ["train"] * 4 + ["eval"]
    assert {(clip.start_s, clip.duration_s) for clip in corpus.clips} == {(0.0, None)}
    assert (corpus.folds, corpus.multilabel, len(corpus.classes)) == (("eval",), True, 527)
    assert corpus.classes[526] == "Sound 526, of a kind"


@pytest.mark.parametrize("option", ["full", "unbalanced", "balanced"])
def test_training_parts(tmp_path, option):
    lists(tmp_path)
    sounds(tmp_path / "a", [f"{video}.wav" for video in (*TRAIN_ROWS, *BALANCED_ROWS, *EVAL_ROWS)])
    train, test = corpus_of(tmp_path, options={"train": option}).split("eval")
    assert len(train) == {"full": 4, "unbalanced": 3, "balanced": 1}[option]
    assert [Path(clip.path).stem for clip in test] == list(EVAL_ROWS)


def test_lists_in_their_own_folder_and_no_list_of_what_is_not_asked_for(tmp_path):
    folder = lists(tmp_path / "csv")
    (folder / "unbalanced_train_segments.csv").unlink()
    sounds(tmp_path, ["balanced-_1.wav", "eval_clip-1.wav"])
    assert len(corpus_of(tmp_path, options={"train": "balanced"}).clips) == 2
    with pytest.raises(
        FileNotFoundError, match=r"csv has no unbalanced_train_segments\.csv; run `vcrast data download"
    ):
        corpus_of(tmp_path)


def test_the_default_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        FileNotFoundError, match=r"data\.root=data/audioset.*vcrast data download audioset --root data/aud"
    ):
        open_corpus(settings("audioset"))
    lists(tmp_path / "data" / "audioset")
    sounds(tmp_path / "data" / "audioset", [f"{video}.wav" for video in (*TRAIN_ROWS, *EVAL_ROWS)])
    assert len(open_corpus(settings("audioset")).clips) == 4


def test_byte_order_mark_and_windows_line_ends(tmp_path):
    lists(tmp_path, end="\r\n")
    for path in tmp_path.glob("*.csv"):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    sounds(tmp_path, [f"{video}.wav" for video in (*TRAIN_ROWS, *BALANCED_ROWS, *EVAL_ROWS)])
    assert [clip.labels for clip in corpus_of(tmp_path).clips] == [(0, 526), (7,), (7, 3), (1,), (2,)]


def test_missing_clips_are_counted_and_reach_the_summary(tmp_path, caplog):
    lists(tmp_path)
    sounds(tmp_path, ["--PJHxphWEs.wav", "eval_clip-1.wav", "zzzzzzzzzzz.wav", "README_of_me.wav"])
    with caplog.at_level(logging.INFO):
        corpus = corpus_of(tmp_path)
    said = (
        "audioset: 1 of the 3 clips of unbalanced_train have a sound file",
        "audioset: 0 of the 1 clips of balanced_train have a sound file",
        "audioset: 1 of the 1 clips of eval have a sound file",
    )
    assert corpus.notes == said
    assert "1 sound files belong to no segment" in caplog.text
    assert open_data(settings("audioset"), corpus).notes[:3] == list(said)


def test_another_stretch_of_the_same_video_is_not_the_clip(tmp_path):
    lists(tmp_path)
    sounds(
        tmp_path,
        ["--PJHxphWEs_40.wav", "--PJHxphWEs_30.wav", "--PJHxphWEs_50.wav", "Yabcdefghi__10.wav", "eval_clip-1.wav"],
    )
    assert set(named(corpus_of(tmp_path))) == {"--PJHxphWEs_30.wav", "eval_clip-1.wav"}


def test_of_two_copies_the_first_by_name(tmp_path):
    lists(tmp_path)
    sounds(tmp_path, ["b/--PJHxphWEs.wav", "a/--PJHxphWEs.flac", "c/--PJHxphWEs.wav", "eval_clip-1.wav"])
    assert next(Path(clip.path).parent.name for clip in corpus_of(tmp_path).clips) == "a"


@pytest.mark.usefixtures("no_ffmpeg")
def test_no_sound_at_all(tmp_path):
    lists(tmp_path)
    with pytest.raises(ValueError, match=r"no segment of AudioSet has a sound file there"):
        corpus_of(tmp_path)
    for video in TRAIN_ROWS:
        (tmp_path / f"{video}.m4a").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"3 \.m4a files cannot be decoded here; \.m4a needs ffmpeg"):
        corpus_of(tmp_path)


def test_only_training_clips_have_nothing_to_test_on(tmp_path):
    lists(tmp_path)
    sounds(tmp_path, ["--PJHxphWEs.wav"])
    assert corpus_of(tmp_path).folds == ()


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (
            'abcdefghijk, 0.000, 10.000, "/m/nothing"',
            r"unbalanced_train_segments.csv line 4: label '/m/nothing' is not",
        ),
        ('abcdefghijk, 0.000, 10.000, ""', "line 4: label '' is not"),
        ('abcdefghijk, 10.000, 0.000, "/m/00000"', "line 4: not `YTID, start, end"),
        ('abcdefghijk, -1, 0.000, "/m/00000"', "line 4: not `YTID, start, end"),
        ('abcdefghijk, nan, 10.000, "/m/00000"', "line 4: not `YTID, start, end"),
        ("abcdefghijk, 0.000, 10.000, /m/00000,/m/00001", "line 4: not `YTID, start, end"),
        ("abcdefghijk, 0.000", "line 4: not `YTID, start, end"),
        ('abcdefghijk,0.0,10.0,"/m/00000"\nabcdefghijk,0.0,10.0,"/m/00001"', "line 5: abcdefghijk is listed twice"),
        ('eval_clip-1, 0.000, 10.000, "/m/00000"', "eval_segments.csv line 4: eval_clip-1 is listed twice"),
    ],
)
def test_faults_name_file_and_line(tmp_path, row, said):
    lists(tmp_path)
    path = tmp_path / "unbalanced_train_segments.csv"
    path.write_text("".join(f"{line}\n" for line in path.read_text().splitlines()[:3]) + row + "\n")
    sounds(tmp_path, ["abcdefghijk.wav", "eval_clip-1.wav"])
    with pytest.raises(ValueError, match=said):
        corpus_of(tmp_path)


def test_damaged_class_lists(tmp_path):
    lists(tmp_path)
    path = tmp_path / "class_labels_indices.csv"
    for text, said in (
        (LABELS.replace("display_name", "name"), "no column 'display_name'"),
        ("".join(LABELS.splitlines(keepends=True)[:-1]), "526 classes, expected 527"),
        (LABELS.replace(MIDS[4], MIDS[3]), "twice or has no name"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=said):
            corpus_of(tmp_path)


def test_a_wrong_option_is_answered_with_the_right_ones(tmp_path):
    with pytest.raises(ValueError, match=r"data\.options\.train=balance: did you mean balanced"):
        corpus_of(tmp_path, options={"train": "balance"})


def test_folders_are_listed_and_files_are_not_asked(tmp_path, monkeypatch):
    lists(tmp_path)
    sounds(tmp_path / "a" / "b", [f"{video}.wav" for video in (*TRAIN_ROWS, *BALANCED_ROWS, *EVAL_ROWS)])
    (tmp_path / "a" / "again").symlink_to(tmp_path)  # a loop
    asked = []
    real = os.stat
    monkeypatch.setattr(os, "stat", lambda path, *rest, **named: asked.append(str(path)) or real(path, *rest, **named))
    files = source.Files(tmp_path)
    assert len(files.path) == 5
    assert not [path for path in asked if path.endswith(".wav")]


def test_headers_of_a_sample_are_read(tmp_path, monkeypatch):
    rows = {f"video-{number:05d}": ("0.000", MIDS[number]) for number in range(20)}
    lists(tmp_path, train=rows)
    sounds(tmp_path, [f"{video}.wav" for video in (*rows, *EVAL_ROWS)])
    opened = []
    real = preflight_module.header
    monkeypatch.setattr(preflight_module, "MAX_HEADERS", 7)
    monkeypatch.setattr(preflight_module, "header", lambda path, *factor: opened.append(path) or real(path, *factor))
    corpus = corpus_of(tmp_path)
    assert sorted(opened) == sorted(corpus.clips[i * 21 // 7].path for i in range(7))
    for clip in corpus.clips[:10]:
        Path(clip.path).write_bytes(b"")
    with pytest.raises(ValueError, match="4 faults in 7 clips"):
        corpus_of(tmp_path)


def test_a_clip_survives_the_way_to_a_worker():
    clip = Clip("a.wav", (1, 2), 0.5, 3.0, "train", 7, {"speaker": "anna"})
    copy = pickle.loads(pickle.dumps(clip))
    assert copy == clip
    assert copy.extra == clip.extra


class Lists(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append(self.path)
        content = self.server.files.get(self.path.rpartition("/")[2])
        self.send_response(200 if content else 404)
        self.send_header("Content-Length", str(len(content or "")))
        self.end_headers()
        self.wfile.write((content or "").encode())

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server():
    with ThreadingHTTPServer(("127.0.0.1", 0), Lists) as server:
        server.asked = []
        server.files = {
            "class_labels_indices.csv": LABELS, "eval_segments.csv": segments(EVAL_ROWS),
            "balanced_train_segments.csv": segments(BALANCED_ROWS),
            "unbalanced_train_segments.csv": segments(TRAIN_ROWS),
        }  # fmt: skip
        server.url = f"http://127.0.0.1:{server.server_port}/csv"
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield server
        server.shutdown()


def test_download_fetches_what_is_missing_or_damaged(tmp_path, server):
    assert download_audioset(tmp_path, url=server.url, pause_s=0) == tmp_path
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == server.files
    server.asked.clear()
    (tmp_path / "eval_segments.csv").write_text(segments(EVAL_ROWS)[:-30])
    download_audioset(tmp_path, url=server.url + "/", pause_s=0)
    assert server.asked == ["/csv/eval_segments.csv"]
    sounds(tmp_path, ["--PJHxphWEs.wav", "eval_clip-1.wav"])
    assert len(corpus_of(tmp_path).clips) == 2


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("eval_segments.csv", segments(EVAL_ROWS, stated=2), "1 segments, its comment says 2"),
        ("eval_segments.csv", "<html>moved</html>\n", "1 damaged lines"),
        ("eval_segments.csv", segments(EVAL_ROWS, comments=1), "no segment list"),
        ("class_labels_indices.csv", "index,mid,display_name\n", "0 classes, expected 527"),
    ],
)
def test_download_of_something_else_leaves_nothing(tmp_path, server, name, content, said):
    server.files[name] = content
    with pytest.raises(ValueError, match=f"{said}.*check --url"):
        download_audioset(tmp_path, url=server.url, pause_s=0)
    assert not (tmp_path / name).exists()


def test_download_verb(tmp_path, server, capsys):
    from vcrast.cli.main import parser

    arguments = parser().parse_args(["data", "download", "audioset", "--root", str(tmp_path), "--url", server.url])
    assert run_download(arguments) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path)
    assert len(list(tmp_path.glob("*.csv"))) == 4
