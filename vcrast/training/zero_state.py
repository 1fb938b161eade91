"""Gather weights and moments that ZeRO has split, by name, and scatter them again.

The layout is that of a plain module's and a plain AdamW's `state_dict`, so that either engine reads what the other
wrote. Tensors travel one at a time. DeepSpeed keeps, for each parameter group, one flat fp32 tensor of this process's
part, on which the optimiser works; what it publishes for reading single parameters cannot be used before the first
step, nor for parts that end in padding, so the pieces are looked up here (as of DeepSpeed 0.19).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
from torch import Tensor, distributed, nn
from torch.optim import Optimizer

from vcrast.training.dist import is_rank_zero, rank, waiting_for

MOMENTS = ("exp_avg", "exp_avg_sq")
Gathered = Callable[[list[nn.Parameter]], AbstractContextManager[Any]]


class Piece(NamedTuple):
    """This process's part of one parameter: `length` numbers from `start` on, at `offset` in flat tensor `flat`."""

    flat: int
    offset: int
    start: int
    length: int


class Shards:
    """The flat tensors of a ZeRO optimiser, and what lies where in them.

    Args:
        zero: DeepSpeed's optimiser.
        base: the AdamW below it, whose groups keep their options and whose state belongs to the flat tensors.
        groups: the parameters of each group, in order, as they were before DeepSpeed took them.
        sharded: whether the weights are split, too (stage 3).
    """

    def __init__(self, zero: Any, base: Optimizer, groups: Sequence[Sequence[nn.Parameter]], *, sharded: bool) -> None:
        self.zero, self.base, self.groups, self.sharded = zero, base, groups, sharded
        self.flats: list[Tensor] = (
            zero.fp32_partitioned_groups_flat if sharded else zero.single_partition_of_fp32_groups
        )

    def parameters(self) -> Iterator[tuple[int, int, nn.Parameter]]:
        """(number of the group, number in a plain optimiser's state, parameter)."""
        numbered = [(group, weight) for group, weights in enumerate(self.groups) for weight in weights]
        for number, (group, weight) in enumerate(numbered):
            yield group, number, weight

    def piece(self, group: int, weight: nn.Parameter) -> Piece:
        """Where this process's part of a parameter lies; of length 0 if it has none."""
        if self.sharded:
            flat, offset, length = self.zero.grad_position[self.zero.get_param_id(weight)]
            start = min(rank() * length, shape_of(weight).numel())
            return Piece(flat, offset, start, min(length, shape_of(weight).numel() - start))
        mapping: Any = weight._hp_mapping  # type: ignore[attr-defined]
        if mapping is None:
            return Piece(group, 0, 0, 0)
        inside, whole = mapping.hp_fragment_address, mapping.lp_fragment_address
        return Piece(group, inside.start, whole.start, whole.numel)

    def gather(self, group: int, weight: nn.Parameter, sources: Sequence[Tensor]) -> Tensor | None:
        """A tensor of the parameter's shape, of which each process has a part in `sources`; on the first one's CPU."""
        piece = self.piece(group, weight)
        source = sources[piece.flat].detach()
        whole = torch.zeros(shape_of(weight).numel(), dtype=source.dtype, device=weight.device)
        whole[piece.start : piece.start + piece.length] = source[piece.offset : piece.offset + piece.length]
        with waiting_for("the gather of a checkpoint"):
            distributed.reduce(whole, dst=0)
        return whole.view(shape_of(weight)).cpu() if is_rank_zero() else None

    def scatter(self, group: int, weight: nn.Parameter, whole: Tensor, targets: Sequence[Tensor]) -> None:
        """Put this process's part of a whole tensor into `targets`."""
        piece = self.piece(group, weight)
        part = whole.flatten()[piece.start : piece.start + piece.length]
        targets[piece.flat][piece.offset : piece.offset + piece.length] = part.to(targets[piece.flat])

    def optimizer_state(self) -> dict[str, Any]:
        """What the plain AdamW's `state_dict` would be; on the first process."""
        state: dict[int, dict[str, Tensor]] = {}
        for group, number, weight in self.parameters():
            found = self.base.state.get(self.flats[self.piece(group, weight).flat])
            if not found:  # before the first step
                continue
            moments = {name: self.gather(group, weight, self.moments(name)) for name in MOMENTS}
            if is_rank_zero():
                state[number] = {"step": torch.as_tensor(found["step"]).cpu().clone(), **moments}  # type: ignore[dict-item]
        numbers = iter(range(sum(len(weights) for weights in self.groups)))
        groups = [
            {**options(group), "params": [next(numbers) for _ in weights]}
            for group, weights in zip(self.base.param_groups, self.groups, strict=True)
        ]
        return {"state": state, "param_groups": groups}

    def load_optimizer(self, saved: dict[str, Any]) -> None:
        """Take over groups and moments from a plain AdamW's `state_dict`.

        Raises:
            ValueError: of other parameters, or of some that were updated more often than others.
        """
        names = [group.get("names") for group in saved["param_groups"]]
        if names != [group.get("names") for group in self.base.param_groups]:
            raise ValueError(
                "the checkpoint's optimiser has other parameters, or other groups of them, than this run's"
            )
        for own, from_saved in zip(self.base.param_groups, saved["param_groups"], strict=True):
            own.update(options(from_saved))
        self.base.state.clear()
        state = saved["state"]
        if not state:
            return
        steps = {float(entry["step"]) for entry in state.values()}
        if len(steps) > 1 or len(state) < sum(len(weights) for weights in self.groups):
            raise ValueError(
                "the checkpoint's optimiser has updated some parameters more often than others, which ZeRO cannot "
                "express; go on with engine=torch"
            )
        for flat in self.flats:
            moments = {name: torch.zeros_like(flat, requires_grad=False) for name in MOMENTS}
            self.base.state[flat] = {"step": torch.tensor(max(steps), device=flat.device), **moments}
        for group, number, weight in self.parameters():
            for name in MOMENTS:
                self.scatter(group, weight, state[number][name], self.moments(name))

    def moments(self, name: str) -> list[Tensor]:
        """A running mean, flat, of each flat tensor."""
        return [self.base.state[flat][name] for flat in self.flats]

    def module_state(self, module: nn.Module, gathered: Gathered) -> dict[str, Any]:
        """The module's `state_dict` with whole weights, frozen ones included; on the first process.

        `gathered` is a context in which parameters are whole.
        """
        state = module.state_dict()
        if not self.sharded:
            return state
        names = {id(weight): name for name, weight in module.named_parameters()}
        for group, _, weight in self.parameters():
            state[names.pop(id(weight))] = self.gather(group, weight, self.flats)
        frozen = set(names.values())  # no optimiser has a part of them
        for name, weight in module.named_parameters():
            if name in frozen:
                with gathered([weight]):
                    state[name] = weight.detach().cpu().clone() if is_rank_zero() else None
        return state

    def load_module(self, module: nn.Module, state: dict[str, Tensor], gathered: Gathered) -> None:
        """Take over weights and buffers, then what the optimiser keeps of the weights.

        Args:
            module: whose parameters these are.
            state: whole, on every process.
            gathered: a context in which parameters are whole, and after which the first process's are everybody's.

        Raises:
            ValueError: other names or shapes than the module's.
        """
        if self.sharded:
            own, parameters = module.state_dict(), dict(module.named_parameters())
            shapes = {name: shape_of(parameters.get(name, tensor)) for name, tensor in own.items()}
            if shapes != {name: tensor.shape for name, tensor in state.items()}:
                raise ValueError("the checkpoint is of another model: its tensors have other names or shapes")
            with torch.no_grad():
                for name, tensor in own.items():
                    weight = parameters.get(name)
                    if weight is None:
                        tensor.copy_(state[name])
                        continue
                    with gathered([weight]):
                        weight.copy_(state[name])
        else:
            module.load_state_dict(state)
        self.zero.refresh_fp32_params()


def shape_of(weight: Tensor) -> torch.Size:
    """Shape of the whole tensor, of which stage 3 leaves an empty one."""
    return torch.Size(getattr(weight, "ds_shape", weight.shape))


def options(group: dict[str, Any]) -> dict[str, Any]:
    """A parameter group's options without its parameters."""
    return {key: value for key, value in group.items() if key != "params"}
