"""Check predictions.csv: cells by hand, any name, digits that come back."""

import csv

import torch

from vcrast.data.clip import Clip
from vcrast.evaluation.predictions import write_predictions

CLASSES = ("dog", "cat, wild", "雨")


def read(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_a_line_per_clip_with_every_score(tmp_path):
    clips = [Clip("a.wav", (0,)), Clip("ü,b.wav", (2,), start_s=1.5, duration_s=0.1)]
    score = torch.rand(2, 3, generator=torch.Generator().manual_seed(0)).softmax(dim=1)
    score[0] = torch.tensor([1 / 3, 0.3, 1e-12])
    label = torch.eye(3)[[0, 2]]
    write_predictions(tmp_path / "p.csv", clips, score, label, CLASSES, multilabel=False)
    first, second = read(tmp_path / "p.csv")
    scores = [f"score_{name}" for name in CLASSES]
    assert list(first) == ["path", "start", "duration", "label", "predicted", "correct", *scores]
    assert (first["path"], first["start"], first["duration"]) == ("a.wav", "0.0", "")
    assert (second["path"], second["start"], second["duration"]) == ("ü,b.wav", "1.5", "0.1")
    assert (first["label"], first["predicted"], first["correct"]) == ("dog", "dog", "1")
    guess = CLASSES[int(score[1].argmax())]
    assert (second["label"], second["predicted"], second["correct"]) == ("雨", guess, str(int(guess == "雨")))
    found = torch.tensor([[float(row[name]) for name in scores] for row in (first, second)])
    assert torch.equal(found, score)
    assert first["score_dog"] == "0.33333334"  # the shortest text that reads back as the same fp32


def test_several_labels_are_those_from_one_half_on(tmp_path):
    clips = [Clip(f"{number}.wav", ()) for number in range(3)]
    score = torch.tensor([[0.5, 0.9, 0.49], [0.1, 0.2, 0.3], [0.9, 0.1, 0.1]])
    label = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0], [1.0, 0.0, 1.0]])
    write_predictions(tmp_path / "p.csv", clips, score, label, ("a", "b", "c"), multilabel=True)
    cells = [(row["label"], row["predicted"], row["correct"]) for row in read(tmp_path / "p.csv")]
    assert cells == [("a;b", "a;b", "1"), ("", "", "1"), ("a;c", "a", "0")]


def test_a_name_that_is_no_utf_8_does_not_end_a_run(tmp_path):
    name = b"caf\xe9.wav".decode("utf-8", "surrogateescape")
    write_predictions(
        tmp_path / "p.csv", [Clip(name, (0,))], torch.ones(1, 1), torch.ones(1, 1), ["x"], multilabel=False
    )
    assert read(tmp_path / "p.csv")[0]["path"] == "caf\\udce9.wav"
