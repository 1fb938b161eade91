"""Multiplication tables of hypercomplex numbers, and the real matrices they stand for."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def multiplication(n: int) -> Tensor:
    """The matrices of multiplication from the left: component s of w x is the sum over m, t of A[m, s, t] w_m x_t.

    Args:
        n: components of a number. A power of two gives the algebras of Cayley and Dickson: real, complex, quaternion
            (Hamilton's i j = k), octonion, and on. Others have no such algebra; they get the polynomials modulo
            x^n - 1, whose multiplication is cyclic.

    Returns:
        (n, n, n) of -1, 0 and 1; for every (s, t) exactly one m is not 0.

    Raises:
        ValueError: n below 1.
    """
    if n < 1:
        raise ValueError(f"n={n}: a number has at least one component")
    if n & (n - 1):
        unit = torch.eye(n)
        return torch.stack([unit.roll(m, dims=0) for m in range(n)])
    table = torch.ones(1, 1, 1)
    while len(table) < n:
        table = doubled(table)
    return table


def doubled(table: Tensor) -> Tensor:
    """The (2 n, 2 n, 2 n) table of pairs of numbers with a (n, n, n) table.

    (a, b) (c, d) = (a c - d* b, d a + b c*), where * turns the sign of all components but the first.
    """
    n = len(table)
    conjugate = torch.diag(torch.tensor([1.0] + [-1.0] * (n - 1)))
    reversed_table = table.permute(2, 1, 0)  # entry [m, s, t] of x w instead of w x
    pairs = table.new_zeros(2, n, 2, n, 2, n)  # [which half, component] of w, of the result, of x
    pairs[0, :, 0, :, 0, :] = table
    pairs[1, :, 0, :, 1, :] = -torch.einsum("mst,tu->msu", reversed_table, conjugate)
    pairs[0, :, 1, :, 1, :] = reversed_table
    pairs[1, :, 1, :, 0, :] = torch.einsum("mst,tu->msu", table, conjugate)
    return pairs.reshape(2 * n, 2 * n, 2 * n)


def hamilton_block(r: Tensor, i: Tensor, j: Tensor, k: Tensor) -> Tensor:
    """The real matrix of left multiplication by a matrix of quaternions r + i i + j j + k k.

    Four adjacent channels are one quaternion, in rows and in columns: a head of K channels holds K / 4 whole ones. (The
    published layers put all real parts first; a head would then be cut out of a single component.)

    Args:
        r: (O, I), the real parts.
        i: (O, I), and likewise:
        j: of the second imaginary unit,
        k: of the third.

    Returns:
        (4 O, 4 I).
    """
    rows = ((r, -i, -j, -k), (i, r, -k, j), (j, k, r, -i), (k, -j, i, r))
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=1).flatten(2).flatten(0, 1)


def kronecker_block(rules: Sequence[Tensor], factors: Sequence[Tensor]) -> Tensor:
    """The sum over m of factors[m] ⊗ rules[m], without the n large products of `torch.kron`.

    Args:
        rules: n of (n, n), which say how components combine.
        factors: n of (O, I).

    Returns:
        (n O, n I), n adjacent channels forming one number, as in `hamilton_block`. The paper's rules[m] ⊗ factors[m] is
        the same up to the order of the channels.
    """
    whole = torch.einsum("mst,moi->osit", torch.stack(list(rules)), torch.stack(list(factors)))
    return whole.flatten(2).flatten(0, 1)
