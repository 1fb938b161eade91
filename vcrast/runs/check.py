"""Check before the first step: parts of every stage, sizes and labels of every fold."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch

from vcrast.config.registry import ENGINES, LOGGERS, OBJECTIVES, OPTIMS, check_options
from vcrast.config.schema import Config
from vcrast.data.backgrounds import recordings
from vcrast.data.clip import Clip
from vcrast.data.corpus import WHOLE, Corpus, select_folds
from vcrast.data.open import OpenData
from vcrast.data.sampling import class_clips
from vcrast.data.streams import Supply, open_stream, recordings_per_batch
from vcrast.evaluation.base import build_evaluations
from vcrast.features.draws import PARTNER_BLOCK, Draws
from vcrast.features.fbank import build_fbank
from vcrast.features.views import build_views
from vcrast.objectives.base import Objective
from vcrast.objectives.supervised import Supervised
from vcrast.runs.first_head import check_head
from vcrast.runs.job import build_encoder, task_of
from vcrast.runs.parts import build_schedule, peak_lr
from vcrast.runs.watch import check_watch
from vcrast.training.dist import world_size

log = logging.getLogger(__name__)

ENDLESS = 10**9  # steps: no warm-up is too long for it
NAMED = 5  # classes that a note names


def check_parts(config: Config, corpus: Corpus | None = None) -> None:
    """Build the parts of every stage that is asked for, without data and without memory, and take them down again.

    Args:
        config: of the run.
        corpus: tells classes; None where the data is elsewhere, as on the machine that submits a job.

    Raises:
        KeyError: no such part.
        ValueError: names the setting.
    """
    for name in config.logger:
        LOGGERS.get(name)
    for stage in ("pretrain", "finetune"):
        if stage in config.stages:
            with _named_in_full(config, stage):
                _check_stage(config, stage, corpus)
    if "evaluate" in config.stages:
        build_evaluations(config.evaluation)
        with (
            _named_in_full(config, "pretrain"),
            torch.device("meta"),
        ):  # frozen features are read with pretraining's stride
            fbank = build_fbank(config.features, sample_rate=config.data.sample_rate)
            build_encoder(config, fbank, patch_stride=config.pretrain.patch_stride)


@contextmanager
def _named_in_full(config: Config, stage: str) -> Iterator[None]:
    """Begin a message with the whole name of its setting: a part does not know in which group, of which stage, it is.

    `mix_by=foo` becomes `finetune.objective.mix_by=foo`.
    """
    try:
        yield
    except (ValueError, KeyError) as error:
        text = str(error.args[0]) if error.args else str(error)
        prefix = "" if stage == "pretrain" else f"{stage}."
        own: Any = config if stage == "pretrain" else config.finetune
        if text.startswith(("pretrain.", f"{stage}.", f"{stage}:")):
            raise
        if re.match(r"(views|objective|optim|schedule)[.=]", text):
            raise ValueError(f"{prefix}{text}") from None
        key = text.partition("=")[0]
        places = {f"{stage}.": vars(getattr(config, stage)), "model.": config.model}
        places |= {f"{prefix}{group}.": getattr(own, group) for group in ("objective", "views", "optim", "schedule")}
        place = next((place for place, options in places.items() if key in options), None)
        if place is None and not prefix:
            raise
        raise ValueError(f"{stage}: {text}" if place is None else f"{place}{text}") from None


def _check_stage(config: Config, stage: str, corpus: Corpus | None) -> None:
    pretrains = stage == "pretrain"
    options: Any = config.pretrain if pretrains else config.finetune
    own = config if pretrains else config.finetune
    if pretrains:
        check_watch(options.watch, corpus)
        _build_stream(config, corpus)
    with torch.device("meta"):  # shapes without values: a large model takes no time and no memory
        objective = _build_objective(config, stage, corpus)
    if isinstance(objective, Supervised) and not pretrains:
        check_head(options, objective)
    if options.batch_size < objective.smallest_batch:
        raise ValueError(
            f"{stage}.batch_size={options.batch_size}: objective={own.objective['name']} needs at least "
            f"{objective.smallest_batch} clips in a batch"
        )
    for view in objective.views.names:
        num_frames = objective.views.num_frames(view, objective.task.num_frames)
        objective.views.keep(Draws(0, 0, 1), view, objective.encoder.grid(num_frames))
    # The optimiser's fused kernel asks for real tensors; memory that nobody writes to is not taken.
    objective = objective.to_empty(device="cpu")
    build_schedule(own.schedule, own.optim, replace(options, steps=ENDLESS), steps_per_epoch=1)
    optimizer = OPTIMS.build(
        {key: value for key, value in own.optim.items() if key != "lr_per_batch"}, module=objective,
        lr=peak_lr(own.optim, options.batch_size),
    )  # fmt: skip
    engine: Any = ENGINES.find(config.engine)
    given = ("module", "optimizer", "precision", "device", "clip_grad_norm")
    check_options("engine", engine, _options(config.engine), given=given)
    if hasattr(engine, "check_choice"):
        engine.check_choice(optimizer, _options(config.engine))


def _build_stream(config: Config, corpus: Corpus | None) -> None:
    """Build the source of pretraining on clips that nobody reads; where the data is elsewhere, on made-up ones."""
    clips = corpus.clips if corpus else [Clip("", (0,))] * config.pretrain.batch_size
    undecoded = OpenData(config.data, corpus or Corpus("", (), ("",), False, ()), store=None)
    supply = Supply(
        data=config.data, clips=undecoded.dataset(clips, seed=0), batch_size=config.pretrain.batch_size,
        order_seed=0, sound_seed=0, device=torch.device("cpu"),
    )  # fmt: skip
    open_stream(config.source, supply)


def _build_objective(config: Config, stage: str, corpus: Corpus | None) -> Objective:
    pretrains = stage == "pretrain"
    own = config if pretrains else config.finetune
    options: Any = config.pretrain if pretrains else config.finetune
    fbank = build_fbank(config.features, sample_rate=config.data.sample_rate)
    drop_path = None if pretrains else config.finetune.drop_path
    encoder = build_encoder(config, fbank, patch_stride=options.patch_stride, drop_path=drop_path)
    classes, multilabel = (len(corpus.classes), corpus.multilabel) if corpus else (2, False)
    task = task_of(config, fbank, num_classes=classes, multilabel=multilabel)
    sounds = recordings(own.views, root=config.data.root, sample_rate=config.data.sample_rate) if corpus else ()
    views = build_views(
        own.views, fbank=fbank, setting="views" if pretrains else "finetune.views", recordings=sounds
    )  # fmt: skip
    objective: Objective = OBJECTIVES.build(own.objective, encoder=encoder, views=views, task=task)
    if not pretrains and not isinstance(objective, Supervised):
        name = own.objective["name"]
        raise ValueError(f"finetune.objective={name}: finetuning trains a classifier; choose supervised")
    return objective


def _options(group: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in group.items() if key not in ("name", "module")}


def folds_of(config: Config, corpus: Corpus) -> list[str]:
    """The folds of a run, checked against what its stages need; `all` for data without folds, which tests nothing.

    Raises:
        ValueError: a stage needs labels or test clips that there are not.
    """
    folds = select_folds(corpus, config.data.folds)
    labelled = bool(corpus.classes)
    tests = [stage for stage in config.stages if stage == "evaluate"]
    learns = [stage for stage in config.stages if stage != "pretrain"]
    if not folds and (tests or (learns and not labelled)):
        able = '"stages=[pretrain,finetune]", which trains on every clip' if labelled else "stages=[pretrain]"
        raise ValueError(
            f"data={corpus.name}: has nothing to test on ({'no folds' if labelled else 'no folds, or no labels'}); set "
            f"{able}, or give the clips a fold or a split"
        )
    if not labelled and learns:
        raise ValueError(f"stages={config.stages}: {learns[0]} needs labels, which data={corpus.name} does not have; "
                         "give them (of a manifest: data.label=COLUMN), or set stages=[pretrain]")  # fmt: skip
    needs: Any = OBJECTIVES.find(config.objective)
    if not labelled and "pretrain" in config.stages and getattr(needs, "needs_labels", False):
        raise ValueError(f"objective={config.objective['name']}: needs labels, which data={corpus.name} does not have; "
                         "give them (of a manifest: data.label=COLUMN), or choose another objective")  # fmt: skip
    return folds or [WHOLE]


def check_sizes(config: Config, sizes: Mapping[str, int]) -> None:
    """Refuse a batch that the training clips of some fold cannot fill, or that the processes cannot share.

    Args:
        config: of the run.
        sizes: the number of training clips of each fold.

    Raises:
        ValueError: names the setting and the fold.
    """
    heard = recordings_per_batch(config.source, config.pretrain.batch_size)
    for stage, size in (("pretrain", heard), ("finetune", config.finetune.batch_size)):
        if stage not in config.stages:
            continue
        for fold, count in sizes.items():
            if size > count:
                raise ValueError(
                    f"{stage}.batch_size={size}: fold {fold} has only {count} training clips; "
                    f"set {stage}.batch_size={min(sizes.values())} or lower"
                )
        if size % world_size():
            raise ValueError(
                f"{stage}.batch_size={size}: {world_size()} processes cannot share it evenly; use a multiple of that"
            )
        if size // world_size() % PARTNER_BLOCK and world_size() > 1:
            log.warning(
                "%s.batch_size=%d is an odd number of clips for each of %d processes: mixup and background noise find "
                "other partners than in one process", stage, size, world_size(),
            )  # fmt: skip


def fold_notes(corpus: Corpus, folds: Sequence[str]) -> list[str]:
    """What a reader should know of the classes of each fold: those that cannot be learnt, and what cannot be measured.

    Returns:
        One line each, equal ones of several folds together.
    """
    found: dict[str, list[str]] = {}
    for fold in folds:
        for text in _notes(corpus, *corpus.split(fold)):
            found.setdefault(text, []).append(fold)
    if not corpus.classes:
        return []
    lines = [text if names == [WHOLE] else f"fold {', '.join(names)}: {text}" for text, names in found.items()]
    if folds == [WHOLE]:
        lines.append(
            f"no test clips: trained on all {len(corpus.clips)} clips, so nothing says how well it does on others"
        )
    return lines


def _notes(corpus: Corpus, train: Sequence[Clip], test: Sequence[Clip]) -> Iterator[str]:
    counts = (enumerate(class_clips(part, len(corpus.classes))) for part in (train, test))
    learnt, tested = (Counter({label: count for label, count in each if count}) for each in counts)
    names = corpus.classes

    def listed(labels: Sequence[int]) -> str:
        more = f" and {len(labels) - NAMED} more" if len(labels) > NAMED else ""
        return ", ".join(names[label] for label in labels[:NAMED]) + more

    if unseen := sorted(label for label in tested if not learnt[label]):
        yield f"no training clip of {listed(unseen)}, which the test clips have: they cannot be recognised"
    if single := sorted(label for label, count in learnt.items() if count == 1):
        yield f"a single training clip of {listed(single)}"
    if len(learnt) == 1:
        yield f"all training clips are of one class ({listed(list(learnt))})"
    if len(tested) == 1 and len(names) > 1:
        yield f"all test clips are of one class ({listed(list(tested))}): AUC and what is made from it are undefined"
