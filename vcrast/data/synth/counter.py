"""Counter-based random numbers: hashes of (clip, name, position), whatever the batch."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vcrast.data.hashing import stable_hash


def _signed(value: int) -> int:
    """Return the int64 with the bits of an unsigned 64-bit number; torch's int64 arithmetic wraps around like C's."""
    return value - 2**64 if value >= 2**63 else value


_STEP = _signed(0x9E3779B97F4A7C15)
_MIX_1 = _signed(0xBF58476D1CE4E5B9)
_MIX_2 = _signed(0x94D049BB133111EB)


def _shift(bits: Tensor, places: int) -> Tensor:
    """Shift to the right without the sign, which the operator keeps; int64 of any shape."""
    return (bits >> places) & ((1 << (64 - places)) - 1)


def splitmix64(state: Tensor) -> Tensor:
    """Hash int64 of any shape one to one: the output function of the SplitMix64 generator.

    Source: Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators", constants of Vigna's C version.
    """
    bits = state + _STEP
    bits = (bits ^ _shift(bits, 30)) * _MIX_1
    bits = (bits ^ _shift(bits, 27)) * _MIX_2
    return bits ^ _shift(bits, 31)


class Dice:
    """Random numbers of n clips: each clip has a key, each draw a name, each value a position.

    Args:
        keys: (n,) int64, one per clip.
    """

    def __init__(self, keys: Tensor) -> None:
        self.keys = keys

    @classmethod
    def of(cls, seed: int, class_name: str, numbers: Tensor) -> Dice:
        """Return the random numbers of clips `numbers` (n,) int64 of one class."""
        return cls(splitmix64(splitmix64(numbers) ^ _signed(stable_hash(f"{seed}/{class_name}"))))

    @property
    def size(self) -> int:
        """Number of clips, n."""
        return len(self.keys)

    def bits(self, name: str, num_values: int) -> Tensor:
        """Draw int64 (n, num_values) with 64 random bits; a longer draw begins with the shorter one."""
        stream = splitmix64(self.keys ^ _signed(stable_hash(name))).unsqueeze(1)
        # SplitMix64's own sequence: the state advances by the golden step.
        return splitmix64(stream + _STEP * torch.arange(num_values, device=self.keys.device))

    def uniform(self, name: str, num_values: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Draw float32 (n, num_values), uniform in [low, high)."""
        return low + (high - low) * _unit(self.bits(name, num_values), 40)

    def one(self, name: str, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Draw float32 (n, 1), uniform in [low, high): one number a clip, to be multiplied with (n, S)."""
        return self.uniform(name, 1, low, high)

    def normal(self, name: str, num_values: int) -> Tensor:
        """Draw float32 (n, num_values), standard normal by the Box-Muller transform."""
        bits = self.bits(name, num_values)
        radius = (-2.0 * (1.0 - _unit(bits, 40)).log()).sqrt()
        return radius * (math.tau * _unit(bits, 16)).cos()

    def complex_normal(self, name: str, num_values: int) -> Tensor:
        """Draw complex64 (n, num_values), real and imaginary part standard normal and independent."""
        bits = self.bits(name, num_values)
        radius = (-2.0 * (1.0 - _unit(bits, 40)).log()).sqrt()
        return torch.polar(radius, math.tau * _unit(bits, 16))


def _unit(bits: Tensor, lowest: int) -> Tensor:
    """Turn 24 bits, from `lowest` (40 at most) up, into float32 in [0, 1): as many as its mantissa holds."""
    return ((bits >> lowest) & 0xFFFFFF).float() / 2**24
