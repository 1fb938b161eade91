"""The schemas of `configs/`: name and type of every setting that belongs to no part.

Hydra composes the YAML files (`vcrast.config.compose`), the dataclasses below check names and types; the YAML holds all
defaults. Groups whose options are keywords of one constructor (`source`, `features`, `views`, `attention`, `linear`,
`objective`, `optim`, `schedule`, `engine`) are plain mappings here: the constructor's signature checks them
(`vcrast.config.registry`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import Field, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

# More rules of a key than its type, as the metadata of its field.
POSITIVE = {"positive": True}  # must be above 0; null stays allowed where the type allows it
FREE = {"free_on_resume": True}  # may differ when a run goes on: it changes no number of a step, but for rounding


@dataclass
class RunConfig:
    """Where and how a run lives."""

    dir: str | None
    seed: int
    resume: str
    device: str


@dataclass
class LaunchConfig:
    """Several processes on this machine; elsewhere torchrun or Slurm decide."""

    num_processes: int = field(metadata=POSITIVE)
    timeout_s: float = field(metadata=POSITIVE)


@dataclass
class CheckpointConfig:
    """When checkpoints are written and how many stay."""

    every_steps: int | None = field(metadata=POSITIVE)
    min_interval_s: float
    keep: int = field(metadata=POSITIVE)


@dataclass
class DataConfig:
    """One dataset: where it lies and how its clips become waveforms."""

    name: str
    root: str | None = field(metadata=FREE)
    folds: Any = field(metadata=FREE)
    sample_rate: int
    clip_duration_s: float
    pad: str
    mean: float | None
    std: float | None
    cache: bool = field(metadata=FREE)
    cache_dir: str | None = field(metadata=FREE)
    num_workers: int | None = field(metadata=FREE)
    max_bad_fraction: float
    path: str | None = field(metadata=FREE)
    label: str | None
    module: str | None
    options: dict[str, Any]


@dataclass
class ModelConfig:
    """The encoder's sizes."""

    name: str
    embed_dim: int
    depth: int
    num_heads: int
    mlp_ratio: float
    patch_size: list[int]
    positions: str
    drop_path: float
    checkpoint: str | None


@dataclass
class PretrainConfig:
    """The self-supervised stage."""

    batch_size: int = field(metadata=POSITIVE)
    micro_batch_size: Any = field(metadata=FREE)
    epochs: float = field(metadata=POSITIVE)
    steps: int | None = field(metadata=POSITIVE)
    patch_stride: list[int] | None
    clip_grad_norm: float | None
    log_every_steps: int = field(metadata=POSITIVE | FREE)
    watch_every_epochs: float
    watch_clips: int


@dataclass
class FinetuneConfig:
    """The supervised stage."""

    batch_size: int = field(metadata=POSITIVE)
    micro_batch_size: Any = field(metadata=FREE)
    epochs: float = field(metadata=POSITIVE)
    steps: int | None = field(metadata=POSITIVE)
    patch_stride: list[int] | None
    lr: float
    weight_decay: float
    layer_decay: float
    warmup_epochs: float
    clip_grad_norm: float | None
    mixup_probability: float
    mixup_alpha: float
    cutmix_probability: float
    cutmix_alpha: float
    mix_by: str
    label_smoothing: float
    drop_path: float
    log_every_steps: int = field(metadata=POSITIVE | FREE)
    evaluate_every_epochs: float
    views: dict[str, Any]


@dataclass
class EvaluateConfig:
    """Accuracy of the finetuned model; linear probe and nearest neighbours on frozen features."""

    batch_size: int = field(metadata=POSITIVE | FREE)
    knn_k: int = field(metadata=POSITIVE)
    knn_temperature: float
    probe_steps: int
    probe_weight_decay: float


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
    nodes: int
    gpus_per_node: int | None
    tasks_per_node: int | None
    cpus_per_task: int | None
    mem_gb: float | None
    timeout_min: int
    signal_delay_s: int
    max_num_timeout: int
    array_parallelism: int | None
    mail_user: str | None
    mail_type: list[str]
    modules: list[str]
    python: str | None
    extra: dict[str, Any]


@dataclass
class Config:
    """Everything a run needs to know; saved with it as `config.yaml`."""

    recipe: str
    stages: list[str] = field(metadata=FREE)
    precision: str
    logger: list[str] = field(metadata=FREE)
    run: RunConfig = field(metadata=FREE)
    launch: LaunchConfig = field(metadata=FREE)
    checkpoint: CheckpointConfig = field(metadata=FREE)
    data: DataConfig
    source: dict[str, Any]
    features: dict[str, Any]
    views: dict[str, Any]
    model: ModelConfig
    attention: dict[str, Any]
    linear: dict[str, Any]
    objective: dict[str, Any]
    optim: dict[str, Any]
    schedule: dict[str, Any]
    engine: dict[str, Any] = field(metadata=FREE)
    pretrain: PretrainConfig
    finetune: FinetuneConfig
    evaluate: EvaluateConfig
    slurm: SlurmConfig = field(metadata=FREE)


def keys(schema: type, prefix: str = "") -> Iterator[tuple[str, Field[Any]]]:
    """(dotted key, field) of a schema and of the schemas inside it; a group comes before its keys."""
    hints = get_type_hints(schema)
    for each in fields(schema):
        yield f"{prefix}{each.name}", each
        if is_dataclass(hints[each.name]):
            yield from keys(hints[each.name], f"{prefix}{each.name}.")


def config_dir() -> Path:
    """The folder `configs/`: inside an installed package, or at the top of a clone.

    Raises:
        FileNotFoundError: neither exists.
    """
    package = Path(__file__).resolve().parent.parent
    for folder in (package / "configs", package.parent / "configs"):
        if (folder / "run.yaml").is_file():
            return folder
    raise FileNotFoundError(
        f"no configs/run.yaml in {package} or {package.parent}; reinstall vcrast or use a full clone"
    )
