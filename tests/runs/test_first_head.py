"""`finetune.head=linear_probe`: the classifier starts as a probe of the encoder."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from parts import make_ast
from shipped import shipped, shipped_options
from small_run import small, stop_and_go_on, weights_hash
from torch.nn import functional as F

from vcrast.config.compose import compose
from vcrast.config.registry import OBJECTIVES
from vcrast.config.resume import resolve
from vcrast.data.loader import Batch
from vcrast.evaluation.embedding import Embedder
from vcrast.evaluation.linear_probe import fit_linear
from vcrast.features.draws import Draws
from vcrast.features.fbank import Fbank
from vcrast.features.views import build_views
from vcrast.objectives.base import Task
from vcrast.run import run
from vcrast.runs.check import check_parts
from vcrast.runs.first_head import start_head

NUM, CLASSES, DECAY, BATCH = 30, 3, 0.05, 10


def parts(tmp_path, head="linear_probe", *, multilabel=False, readout="pool", head_views=0):
    """A fold of 30 clips of noise, louder by class, and the classifier that finetuning would train."""
    draws = torch.Generator().manual_seed(0)
    label = torch.arange(NUM) % CLASSES
    wavs = 0.02 * (1 + label[:, None]) * torch.randn(NUM, 4000, generator=draws)
    labels = F.one_hot(label).float()
    if multilabel:
        labels[::4] = 0
        labels[1::5] = 1
    fbank = Fbank(**shipped("features/fbank", sample_rate=16000, num_mel_bins=16, mean=-4.0, std=4.0))

    def batches(clips, part):
        for places in torch.arange(part.start, part.stop).split(7):
            yield Batch(wavs[places], labels[places], places)

    def training(count):
        return (
            Batch(wavs[places], labels[places], places)
            for places in (torch.arange(BATCH) * (n + 1) % NUM for n in range(count))
        )

    torch.manual_seed(1)
    task = Task(CLASSES, multilabel, fbank.num_frames(4000), 16)
    objective = OBJECTIVES.build(
        shipped_options("objective/supervised"), encoder=make_ast(readout=readout), task=task,
        views=build_views(shipped_options("views/none", roll=True, patch_drop=0.5), fbank=fbank),
    )  # fmt: skip
    options = SimpleNamespace(head=head, head_weight_decay=DECAY, head_views=head_views, batch_size=BATCH)
    job = SimpleNamespace(
        config=SimpleNamespace(finetune=options, evaluate=SimpleNamespace(batch_size=4)), fold="1",
        multilabel=multilabel, checkpoints=lambda stage: tmp_path / stage, embedder=lambda: Embedder(fbank, batches),
        draws=lambda stage, step, size: Draws(len(stage), step, size), training=training,
    )  # fmt: skip
    with torch.no_grad():
        read = torch.cat([objective.encoder(fbank(wav[None])).values.mean(dim=1) for wav in wavs])
    return job, objective, F.layer_norm(read.double(), read.shape[1:], eps=1e-5), labels.numpy()


def test_it_is_the_logistic_regression_of_scikit_learn_on_what_the_classifier_reads(tmp_path):
    models = pytest.importorskip("sklearn.linear_model", reason="needs scikit-learn")
    job, objective, read, labels = parts(tmp_path)
    start_head(job, objective, range(NUM), job.training)
    standardised = ((read - read.mean(dim=0)) / read.std(dim=0)).numpy()
    oracle = models.LogisticRegression(C=1 / (NUM * DECAY), tol=1e-10, max_iter=10_000)
    oracle.fit(standardised, labels.argmax(axis=1))
    with torch.no_grad():
        logits = objective.head[1].double()(read).numpy()
    expected = oracle.decision_function(standardised)
    np.testing.assert_allclose(logits - logits.mean(1, keepdims=True), expected, rtol=0, atol=2e-3)
    assert (logits.argmax(axis=1) == labels.argmax(axis=1)).mean() > 0.8


def test_of_several_labels_each_class_has_a_regression_of_its_own(tmp_path):
    models = pytest.importorskip("sklearn.linear_model", reason="needs scikit-learn")
    job, objective, read, labels = parts(tmp_path, multilabel=True)
    start_head(job, objective, range(NUM), job.training)
    standardised = ((read - read.mean(dim=0)) / read.std(dim=0)).numpy()
    with torch.no_grad():
        logits = objective.head[1].double()(read).numpy()
    for number in range(CLASSES):
        oracle = models.LogisticRegression(C=1 / (NUM * DECAY), tol=1e-10, max_iter=10_000)
        oracle.fit(standardised, labels[:, number])
        np.testing.assert_allclose(logits[:, number], oracle.decision_function(standardised), rtol=0, atol=2e-3)


@pytest.mark.parametrize("readout", ["pool", "statistics"])
def test_of_views_it_is_the_regression_on_what_finetuning_reads_and_aims_at(tmp_path, readout):
    models = pytest.importorskip("sklearn.linear_model", reason="needs scikit-learn")
    job, objective, _, _ = parts(tmp_path, readout=readout, head_views=2)
    start_head(job, objective, range(NUM), job.training)
    read, targets = [], []
    with torch.no_grad():
        for number, batch in enumerate(job.training(6)):
            inputs = objective.prepare(batch, job.draws("first head", number, BATCH))
            tokens = objective.encoder(inputs["a"], keep=inputs["a/keep"])
            assert tokens.values.shape[1] < objective.encoder.num_tokens(inputs["a"].shape[1])
            read.append(objective.head[0](objective.encoder.read_out(tokens)).double())
            targets.append(inputs["target"].double())
    read, targets = torch.cat(read), torch.cat(targets)
    assert ((targets > 0) & (targets < 1)).any()  # mixup
    standardised = ((read - read.mean(dim=0)) / read.std(dim=0)).numpy()
    # A soft target is one row of each class with its share as weight.
    oracle = models.LogisticRegression(C=1 / (len(read) * DECAY), tol=1e-10, max_iter=10_000)
    oracle.fit(
        np.repeat(standardised, CLASSES, axis=0), np.tile(np.arange(CLASSES), len(read)), targets.flatten().numpy()
    )
    with torch.no_grad():
        logits = objective.head[1].double()(read).numpy()
    expected = oracle.decision_function(standardised)
    np.testing.assert_allclose(logits - logits.mean(1, keepdims=True), expected, rtol=0, atol=2e-3)
    assert objective.training


def test_a_random_one_and_the_encoder_stay_as_they_are(tmp_path):
    job, objective, _, _ = parts(tmp_path, head="random")
    before = {name: value.clone() for name, value in objective.state_dict().items()}
    start_head(job, objective, range(NUM), job.training)
    job.config.finetune.head = "auto"
    after_random = {name: value.clone() for name, value in objective.state_dict().items()}
    start_head(job, objective, range(NUM), job.training)
    changed = [name for name, value in objective.state_dict().items() if not torch.equal(value, before[name])]
    assert all(torch.equal(value, before[name]) for name, value in after_random.items())
    assert changed == ["head.1.weight", "head.1.bias"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("finetune.head=probe", r"finetune\.head=probe: .*linear_probe"),
        ("finetune.head_weight_decay=-1", r"finetune\.head_weight_decay=-1"),
        ("finetune.head_weight_decay=nan", r"finetune\.head_weight_decay=nan"),
        ("finetune.head_views=-1", r"finetune\.head_views=-1"),
        ("model=htsat finetune.head=linear_probe", "a classifier of its own"),
    ],
)
def test_what_cannot_start_is_refused_before_the_first_step(words, said):
    with pytest.raises(ValueError, match=said):
        check_parts(compose(["stages=[finetune]", *words.split()]))


def test_auto_leaves_a_classifier_of_the_models_own_as_it_is(tmp_path):
    job, objective, _, _ = parts(tmp_path, head="auto")
    objective.head = torch.nn.Sequential(torch.nn.Linear(16, CLASSES))
    before = objective.head[0].weight.clone()
    start_head(job, objective, range(NUM), job.training)
    assert torch.equal(objective.head[0].weight, before)
    check_parts(compose(["stages=[finetune]", "model=htsat", "finetune.head=auto"]))


@pytest.mark.slow
def test_a_run_stopped_and_resumed_is_the_uninterrupted_one_and_fits_no_probe_again(tmp_path, monkeypatch):
    fits = []

    def fit(*given, **options):
        fits.append(len(given[0]))
        return fit_linear(*given, **options)

    def go(folder):
        words = small(folder, "stages=[finetune]", "finetune.head=linear_probe", "checkpoint.every_steps=2")
        return run(resolve(words), words)

    monkeypatch.setattr("vcrast.runs.first_head.fit_linear", fit)
    go(tmp_path / "whole")
    stop_and_go_on(go, tmp_path / "stopped", monkeypatch, at=6)
    assert weights_hash(tmp_path / "stopped") == weights_hash(tmp_path / "whole")
    assert fits == [4 * 48, 4 * 48]
