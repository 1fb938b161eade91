"""The schemas of `configs/`: names and types of every setting (`compose.py` reads the files).

Hydra composes the YAML files, the dataclasses below check names and types. Groups whose options belong to a swappable
part (such as `source`, `model`, `attention`, `objective`, `optim`, `engine`, `evaluation`) are plain mappings here: the
part's own constructor checks them (`vcrast.config.registry`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


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

    num_processes: int
    timeout_s: float


@dataclass
class CheckpointConfig:
    """When checkpoints are written and how many stay."""

    every_steps: int | None
    min_interval_s: float
    keep: int


@dataclass
class DataConfig:
    """One dataset: where it lies and how its clips become waveforms."""

    name: str
    root: str | None
    folds: Any
    sample_rate: int
    clip_duration_s: float
    pad: str
    mean: float | None
    std: float | None
    cache: bool
    cache_dir: str | None
    num_workers: int | None
    max_bad_fraction: float
    path: str | None = None
    label: str | None = None
    module: str | None = None
    options: dict[str, Any] = field(default_factory=dict)


@dataclass
class FeaturesConfig:
    """The log-mel filterbank."""

    name: str
    num_mel_bins: int
    window_ms: float
    frame_shift_ms: float
    low_freq_hz: float
    high_freq_hz: float
    preemphasis: float


@dataclass
class ViewsConfig:
    """The random changes that make a view of a clip; `null` or 0 switches one off."""

    time_stretch: list[float] | None
    roll: bool
    gain_db: float
    background_probability: float
    background_snr_db: list[float]
    freq_mask_bins: int
    time_mask_frames: int
    num_masks: int
    noise_std: float
    patch_drop: float
    patch_drop_mode: str


@dataclass
class PretrainConfig:
    """The self-supervised stage."""

    batch_size: int
    micro_batch_size: Any
    epochs: float
    steps: int | None
    patch_stride: list[int] | None
    clip_grad_norm: float | None
    log_every_steps: int
    watch_every_epochs: float
    watch_clips: int


@dataclass
class FinetuneConfig:
    """The supervised stage."""

    batch_size: int
    micro_batch_size: Any
    epochs: float
    steps: int | None
    patch_stride: list[int] | None
    drop_path: float
    clip_grad_norm: float | None
    log_every_steps: int
    evaluate_every_epochs: float
    views: ViewsConfig
    objective: dict[str, Any]
    optim: dict[str, Any]
    schedule: dict[str, Any]


@dataclass
class EvaluateConfig:
    """How clips are read for evaluation; what is measured is `evaluation`."""

    batch_size: int


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
    stages: list[str]
    precision: str
    logger: list[str]
    run: RunConfig
    launch: LaunchConfig
    checkpoint: CheckpointConfig
    data: DataConfig
    source: dict[str, Any]
    features: FeaturesConfig
    views: ViewsConfig
    model: dict[str, Any]
    attention: dict[str, Any]
    linear: dict[str, Any]
    objective: dict[str, Any]
    optim: dict[str, Any]
    schedule: dict[str, Any]
    engine: dict[str, Any]
    pretrain: PretrainConfig
    finetune: FinetuneConfig
    evaluate: EvaluateConfig
    evaluation: dict[str, Any]
    slurm: SlurmConfig
