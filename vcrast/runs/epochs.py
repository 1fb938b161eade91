"""Keep the models of single epochs of finetuning, to be averaged."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from vcrast.config.schema import Config, FinetuneConfig
from vcrast.data.corpus import Corpus
from vcrast.models.export import DESCRIPTION, export
from vcrast.models.kept_epochs import Epochs, epoch_name, in_words, kept_in, last_named, parse_epochs
from vcrast.objectives.supervised import Supervised
from vcrast.runs.job import Job
from vcrast.runs.stage import total_steps
from vcrast.training.dist import is_rank_zero

log = logging.getLogger(__name__)


def epochs_to_keep(options: FinetuneConfig) -> Epochs:
    """The epochs after which the model is exported; none by default."""
    value = options.keep_epochs
    return () if value is None else parse_epochs(value, f"finetune.keep_epochs={value}")


def keep_epoch(job: Job, objective: Supervised, epoch: int) -> None:
    """Export the model as it is after an epoch; one that a run replays after a stop is written again."""
    described = job.export_options()
    described["meta"] = {**described["meta"], "epoch": epoch}
    export(job.exported(epoch_name(epoch)), encoder=objective.encoder, head=objective.head, **described)
    log.info(
        "fold %s finetune: the model after epoch %d is kept in %s", job.fold, epoch, job.exported(epoch_name(epoch))
    )


def tell_missed(job: Job, epochs: Sequence[int]) -> None:
    """Say which epochs were over before they were to be kept."""
    there = kept_in(job.run_dir / "exported" / f"fold_{job.fold}", DESCRIPTION)
    if is_rank_zero() and (missed := [epoch for epoch in epochs if epoch not in there]):
        log.warning(
            "fold %s finetune: finetune.keep_epochs was set after epoch %s, not kept", job.fold, in_words(missed)
        )


def check_epochs(config: Config, corpus: Corpus, folds: Sequence[str]) -> None:
    """Refuse to keep epochs that finetuning does not have.

    Raises:
        ValueError: names the setting.
    """
    options = config.finetune
    last = last_named(kept) if (kept := epochs_to_keep(options)) else None
    if last is None:
        return
    for fold in folds:
        per_epoch = len(corpus.split(fold)[0]) // options.batch_size
        there = total_steps(options.steps, options.epochs, per_epoch) // per_epoch if per_epoch else last
        if last > there:
            raise ValueError(
                f"finetune.keep_epochs={options.keep_epochs}: finetuning of fold {fold} has {there} whole epochs; name "
                "those, or raise finetune.epochs"
            )
