"""Declare the names and types of every setting (`compose.py` reads the files).

Hydra composes the YAML files, the dataclasses below check names and types. Groups whose options belong to a swappable
part (such as `source`, `model`, `attention`, `objective`, `optim`, `engine`, `evaluation`) are plain mappings here: the
part's own constructor checks them (`vcrast.config.registry`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import Field, dataclass, field, fields, is_dataclass
from typing import Any, get_type_hints

# More rules of a key than its type, as the metadata of its field.
POSITIVE = {"above": 0}  # null stays allowed where the type allows it
NOT_NEGATIVE = {"least": 0}
FREE = {"free_on_resume": True}  # may differ when a run goes on: it changes no number of a step, but for rounding
LENGTH = {"length": True}  # of a stage, which may change when a run goes on: vcrast.runs.resume
OF_PRETRAINING = {"read_by": ("pretrain",)}  # the stages that read a key or group; without this, all of them do
OF_FINETUNING = {"read_by": ("finetune",)}
OF_EVALUATION = {"read_by": ("evaluate",)}
OF_THE_ENCODER = {"read_by": ("pretrain", "evaluate")}  # frozen features are those of the pretrained encoder
FOLDERS_OF_SOUNDS = ("views.background_folder", "finetune.views.background_folder")
"""Paths among the options of parts: what lies there counts (`vcrast.runs.resume`), not where."""


@dataclass
class RunConfig:
    """Where and how a run lives."""

    dir: str | None = field(metadata=FREE)
    seed: int
    resume: str = field(metadata=FREE)
    device: str = field(metadata=FREE)
    cells: list[str] = field(metadata=FREE)
    deterministic: bool = field(metadata=FREE)


@dataclass
class LaunchConfig:
    """Several processes on this machine; elsewhere torchrun or Slurm decide."""

    num_processes: int = field(metadata=POSITIVE)
    jobs: int = field(metadata=POSITIVE)
    timeout_s: float = field(metadata=POSITIVE)


@dataclass
class CheckpointConfig:
    """When checkpoints are written and how many stay."""

    every_steps: int | None = field(metadata=POSITIVE)
    min_interval_s: float = field(metadata=NOT_NEGATIVE)
    keep: int = field(metadata=POSITIVE)


@dataclass
class DataConfig:
    """One dataset: where it lies and how its clips become waveforms."""

    name: str
    root: str | None = field(metadata=FREE)
    folds: Any = field(metadata=FREE)
    sample_rate: int
    clip_duration_s: float = field(metadata=POSITIVE)
    pad: str
    mean: float | None
    std: float | None
    cache: bool = field(metadata=FREE)
    cache_dir: str | None = field(metadata=FREE)
    num_workers: int | None = field(metadata=FREE | NOT_NEGATIVE)
    timeout_s: float | None = field(metadata=FREE | POSITIVE)
    max_bad_fraction: float
    keep_silent: bool
    time_expansion: float | None = field(metadata=POSITIVE)
    mixed_shards: int | None = field(metadata=POSITIVE)
    copies_gb: float = field(metadata=FREE | POSITIVE)
    fetch_attempts: int = field(metadata=FREE | POSITIVE)
    row_groups_mb: float = field(metadata=FREE | POSITIVE)
    sources: dict[str, Any]
    weights: list[float] | None
    path: str | None = field(metadata=FREE)
    label: str | None
    module: str | None
    options: dict[str, Any]


@dataclass
class PretrainConfig:
    """The self-supervised stage."""

    batch_size: int = field(metadata=POSITIVE)
    micro_batch_size: Any = field(metadata=FREE)
    epochs: float = field(metadata=POSITIVE | LENGTH)
    steps: int | None = field(metadata=POSITIVE | LENGTH)
    minutes: float | None = field(metadata=POSITIVE | LENGTH)
    patch_stride: list[int] | None = field(metadata=OF_THE_ENCODER)
    clip_grad_norm: float | None = field(metadata=POSITIVE)
    log_every_steps: int = field(metadata=POSITIVE | FREE)
    watch: str
    watch_every_epochs: float = field(metadata=POSITIVE)
    watch_clips: int = field(metadata=POSITIVE)


@dataclass
class ValidationConfig:
    """Clips that are held out of finetuning, to choose its best weights."""

    clips: Any
    metric: str | None
    patience: int | None = field(metadata=POSITIVE)


@dataclass
class FinetuneConfig:
    """The supervised stage."""

    batch_size: int = field(metadata=POSITIVE)
    micro_batch_size: Any = field(metadata=FREE)
    epochs: float = field(metadata=POSITIVE | LENGTH)
    steps: int | None = field(metadata=POSITIVE | LENGTH)
    patch_stride: list[int] | None
    drop_path: float
    freeze_encoder: bool
    head: str
    head_weight_decay: float
    head_views: int
    sampling: str
    clip_grad_norm: float | None = field(metadata=POSITIVE)
    log_every_steps: int = field(metadata=POSITIVE | FREE)
    evaluate_every_epochs: float = field(metadata=POSITIVE)
    ema_decay: float | None
    keep_epochs: Any = field(metadata=FREE)
    validation: ValidationConfig
    views: dict[str, Any]
    objective: dict[str, Any]
    optim: dict[str, Any]
    schedule: dict[str, Any]


@dataclass
class EvaluateConfig:
    """How clips are read for evaluation; what is measured is `evaluation`."""

    batch_size: int = field(metadata=POSITIVE | FREE)
    windows: str


@dataclass
class SlurmConfig:
    """What a batch job asks of the cluster; `launch/slurm.py` checks it and hands it to submitit."""

    cluster: str
    partition: str | None
    account: str | None
    qos: str | None
    constraint: str | None
    reservation: str | None
    exclude: str | None
    nodelist: str | None
    nodes: int
    gpus_per_node: Any
    gres: str | None
    tasks_per_node: int | None
    cpus_per_task: int | None
    mem_gb: float | None
    timeout_min: int
    signal_delay_s: int
    max_num_timeout: int
    array_parallelism: int | None
    mail_user: str | None
    mail_type: list[str]
    job_name: str | None
    comment: str | None
    dependency: str | None
    modules: list[str]
    setup: str | None
    srun_args: str | None
    python: str | None
    extra: dict[str, Any]


@dataclass
class Config:
    """Everything a run needs to know; saved with it as `config.yaml`."""

    recipe: str
    stages: list[str] = field(metadata=FREE)
    precision: str
    logger: list[str] = field(metadata=FREE)
    run: RunConfig
    launch: LaunchConfig = field(metadata=FREE)
    checkpoint: CheckpointConfig = field(metadata=FREE)
    data: DataConfig
    source: dict[str, Any] = field(metadata=OF_PRETRAINING)
    features: dict[str, Any]
    views: dict[str, Any] = field(metadata=OF_PRETRAINING)
    model: dict[str, Any]
    attention: dict[str, Any]
    linear: dict[str, Any]
    objective: dict[str, Any] = field(metadata=OF_PRETRAINING)
    optim: dict[str, Any] = field(metadata=OF_PRETRAINING)
    schedule: dict[str, Any] = field(metadata=OF_PRETRAINING)
    engine: dict[str, Any] = field(metadata=FREE)
    pretrain: PretrainConfig = field(metadata=OF_PRETRAINING)
    finetune: FinetuneConfig = field(metadata=OF_FINETUNING)
    evaluate: EvaluateConfig = field(metadata=OF_EVALUATION)
    evaluation: dict[str, Any] = field(metadata=OF_EVALUATION)
    slurm: SlurmConfig = field(metadata=FREE)


def keys(schema: type, prefix: str = "") -> Iterator[tuple[str, Field[Any]]]:
    """(dotted key, field) of a schema and of the schemas inside it; a group comes before its keys."""
    hints = get_type_hints(schema)
    for each in fields(schema):
        yield f"{prefix}{each.name}", each
        if is_dataclass(hints[each.name]):
            yield from keys(hints[each.name], f"{prefix}{each.name}.")
