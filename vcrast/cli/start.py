"""Run what the words of a command line ask for: a run, a rehearsal or the settings."""

from __future__ import annotations

import shlex
import signal
from collections.abc import Sequence
from contextlib import nullcontext

from omegaconf import OmegaConf

from vcrast.cli.dry_run import rehearse
from vcrast.config.compose import to_dict
from vcrast.config.resume import resolve
from vcrast.run import run
from vcrast.runs.interrupt import Interrupted
from vcrast.runs.messages import endings_kept, messages_held
from vcrast.training.device import deterministic, resolve_device
from vcrast.training.dist import broadcast_object, process_group, torchrun_rank


def start(
    overrides: Sequence[str], *, dry_run: bool = False, show_config: bool = False, command: str = "vcrast run"
) -> int:
    """Run what a command line asks for.

    Args:
        overrides: `group=option` and `key=value`.
        dry_run: rehearse instead, and write nothing.
        show_config: print the composed settings instead.
        command: what the user typed before the overrides; named when an interrupted run says how to go on.

    Returns:
        0 done, 128 + n when signal n made the run save and stop.

    Raises:
        ValueError: a fault in settings or data.
    """
    config = resolve(overrides)
    if show_config:
        print(OmegaConf.to_yaml(OmegaConf.create(to_dict(config))), end="")
        return 0
    device, even_alone = resolve_device(config.run.device), config.engine["name"] == "deepspeed"
    ending = nullcontext() if dry_run else endings_kept(config)
    try:
        with (
            messages_held(torchrun_rank().rank),
            ending,
            deterministic(config.run.deterministic),
            process_group(device, timeout_s=config.launch.timeout_s, even_alone=even_alone),
        ):
            if dry_run:
                return rehearse(config)
            config.run.dir = broadcast_object(config.run.dir)
            run(config, overrides)
    except Interrupted as stopped:
        if torchrun_rank().rank == 0:
            print(f"\n{stopped}; everything is saved. Go on with:")
            print(f"  {command} {shlex.quote(f'run.resume={config.run.dir}')}")
        return 128 + int(getattr(signal, stopped.signal_name))
    return 0
