"""Triton kernels of ungated RFA with Fourier features: the features never reach memory.

Two passes each way. Over keys: sums of phi(k) v (and, backward, gradients of k and v). Over queries: the readout (and
gradients of q and of the sums). A program takes one head of one clip, and a run of token blocks; what it sums it writes
to a place of its own, and the few places are added afterwards: no atomics, hence the same result every time.

Letters: B clips, H heads, N tokens, K head width, R directions. In memory, q, k, v and their gradients are (B, H, N, K)
with any strides but 1 along K; directions (H, R, K) times the widths, widths (H, K), centres (B, H, K) and levels
(B, H) contiguous; sums (B, H, 2, R, K) and (B, H, 2, R), sin before cos, as means over tokens and directions. All
arithmetic is fp32, or products of TF32 operands summed in fp32 where the inputs are half precision.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs
# Triton reads annotations as code: arguments bear none but constexpr.
import triton  # type: ignore[import-untyped, import-not-found, unused-ignore]
import triton.language as tl  # type: ignore[import-untyped, import-not-found, unused-ignore]


@triton.jit
def load_rows(start, rows, stride, num_rows, width: tl.constexpr):
    """(BLOCK, width) fp32; rows past the end are 0."""
    inside = rows[:, None] < num_rows
    return tl.load(start + rows[:, None] * stride + tl.arange(0, width)[None, :], mask=inside, other=0.0).to(tl.float32)


@triton.jit
def store_rows(start, rows, stride, num_rows, width: tl.constexpr, values):
    """Write (BLOCK, width) in the memory's dtype."""
    place = start + rows[:, None] * stride + tl.arange(0, width)[None, :]
    tl.store(place, values.to(start.dtype.element_ty), mask=rows[:, None] < num_rows)


@triton.jit
def sin_and_cos(x):
    """Both to about 1e-7 for |x| below 10,000, by a reduction to +-pi/4 and Cephes' polynomials.

    CUDA's own sinf also takes numbers of any size, by a table in local memory and with registers that are needed here.
    """
    turns = tl.floor(x * 0.6366197723675814 + 0.5)  # quarter turns; pi/2 is subtracted in three parts, exactly
    r = ((x - turns * 1.5703125) - turns * 4.837512969970703125e-4) - turns * 7.54978995489188216e-8
    z = r * r
    sin = r + r * z * ((-1.9515295891e-4 * z + 8.3321608736e-3) * z - 1.6666654611e-1)
    cos = 1.0 - 0.5 * z + z * z * ((2.443315711809948e-5 * z - 1.388731625493765e-3) * z + 4.166664568298827e-2)
    quarter = turns.to(tl.int32) & 3
    swapped = (quarter & 1) == 1
    first, second = tl.where(swapped, cos, sin), tl.where(swapped, sin, cos)
    return tl.where(quarter >= 2, -first, first), tl.where((quarter == 1) | (quarter == 2), -second, second)


@triton.jit
def inverse_length(x, shortest: tl.constexpr, normalize: tl.constexpr):
    """(BLOCK,): what brings rows to unit norm; those shorter than `shortest` are divided by that."""
    length = tl.sqrt(tl.sum(x * x, axis=1))
    inverse = 1.0 / tl.maximum(length, shortest)
    if not normalize:
        inverse = length * 0.0 + 1.0
    return inverse


@triton.jit
def through_unit(grad, x, inverse, shortest: tl.constexpr, normalize: tl.constexpr):
    """Gradient at the normalised rows x (BLOCK, K) -> gradient at the rows before."""
    if normalize:
        # Rows at the shortest length were divided by a constant: their gradient keeps its part along x.
        along = tl.where(inverse < 1.0 / shortest, tl.sum(grad * x, axis=1), 0.0)
        grad = (grad - x * along[:, None]) * inverse[:, None]
    return grad


@triton.jit
def weight_of(x, width, level, rows, num_tokens, centre: tl.constexpr):
    """(BLOCK,) what keys weigh: exp(|width x|^2 / 2 - level) of centred ones, else 1; 0 past the end."""
    weight = rows * 0.0 + 1.0
    if centre:
        scaled = x * width[None, :]
        weight = tl.exp(tl.sum(scaled * scaled, axis=1) * 0.5 - level)
    return tl.where(rows < num_tokens, weight, 0.0)


@triton.jit
def sum_keys(
    k_ptr, v_ptr, w_ptr, width_ptr, centre_ptr, level_ptr, s_ptr, z_ptr,
    k_b, k_h, k_n, v_b, v_h, v_n,
    num_heads, num_tokens, blocks, factor,
    R: tl.constexpr, K: tl.constexpr, BLOCK: tl.constexpr, SHORTEST: tl.constexpr, NORMALIZE: tl.constexpr,
    CENTRE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Part of S = factor sum g phi(k) v and z = factor sum g phi(k), g the key's weight: one program's token blocks."""
    head, part = tl.program_id(0), tl.program_id(1)
    b, h = (head // num_heads).to(tl.int64), head % num_heads
    k_ptr += b * k_b + h * k_h
    v_ptr += b * v_b + h * v_h
    matrix = tl.arange(0, R)[:, None] * K + tl.arange(0, K)[None, :]
    w = tl.load(w_ptr + h * R * K + matrix)
    width = tl.load(width_ptr + h * K + tl.arange(0, K))
    centre, level = tl.load(centre_ptr + head * K + tl.arange(0, K)), tl.load(level_ptr + head)
    s_sin, s_cos = tl.zeros((R, K), tl.float32), tl.zeros((R, K), tl.float32)
    z_sin, z_cos = tl.zeros((R,), tl.float32), tl.zeros((R,), tl.float32)
    for block in range(part * blocks, (part + 1) * blocks):
        rows = block * BLOCK + tl.arange(0, BLOCK)
        x = load_rows(k_ptr, rows, k_n, num_tokens, K)
        v = load_rows(v_ptr, rows, v_n, num_tokens, K)
        x = x * inverse_length(x, SHORTEST, NORMALIZE)[:, None]
        if CENTRE:
            x -= centre[None, :]
        angles = tl.dot(x, tl.trans(w), input_precision=PRECISION)
        sin, cos = sin_and_cos(angles)
        weight = weight_of(x, width, level, rows, num_tokens, CENTRE)
        sin *= weight[:, None]
        cos *= weight[:, None]
        s_sin += tl.dot(tl.trans(sin), v, input_precision=PRECISION)
        s_cos += tl.dot(tl.trans(cos), v, input_precision=PRECISION)
        z_sin += tl.sum(sin, axis=0)
        z_cos += tl.sum(cos, axis=0)
    place = head.to(tl.int64) * tl.num_programs(1) + part
    tl.store(s_ptr + place * 2 * R * K + matrix, s_sin * factor)
    tl.store(s_ptr + (place * 2 + 1) * R * K + matrix, s_cos * factor)
    tl.store(z_ptr + place * 2 * R + tl.arange(0, R), z_sin * factor)
    tl.store(z_ptr + (place * 2 + 1) * R + tl.arange(0, R), z_cos * factor)


@triton.jit
def read_out(
    q_ptr, w_ptr, s_ptr, z_ptr, out_ptr, den_ptr,
    q_b, q_h, q_n, o_b, o_h, o_n,
    num_heads, num_tokens,
    R: tl.constexpr, K: tl.constexpr, BLOCK: tl.constexpr, SHORTEST: tl.constexpr, NORMALIZE: tl.constexpr,
    PRECISION: tl.constexpr, SMALLEST: tl.constexpr,
):  # fmt: skip
    """The result phi(q) S / phi(q) z of one block of queries; keeps the denominator before it is clamped."""
    head = tl.program_id(0)
    b, h = (head // num_heads).to(tl.int64), head % num_heads
    matrix = tl.arange(0, R)[:, None] * K + tl.arange(0, K)[None, :]
    s_ptr += head.to(tl.int64) * 2 * R * K
    z_ptr += head * 2 * R
    rows = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    x = load_rows(q_ptr + b * q_b + h * q_h, rows, q_n, num_tokens, K)
    x = x * inverse_length(x, SHORTEST, NORMALIZE)[:, None]
    angles = tl.dot(x, tl.trans(tl.load(w_ptr + h * R * K + matrix)), input_precision=PRECISION)
    sin, cos = sin_and_cos(angles)
    numerator = tl.dot(sin, tl.load(s_ptr + matrix), input_precision=PRECISION)
    numerator += tl.dot(cos, tl.load(s_ptr + R * K + matrix), input_precision=PRECISION)
    z_sin, z_cos = tl.load(z_ptr + tl.arange(0, R)), tl.load(z_ptr + R + tl.arange(0, R))
    denominator = tl.sum(sin * z_sin[None, :] + cos * z_cos[None, :], axis=1)
    tl.store(den_ptr + head.to(tl.int64) * num_tokens + rows, denominator, mask=rows < num_tokens)
    safe = away_from_zero(denominator, SMALLEST)
    store_rows(out_ptr + b * o_b + h * o_h, rows, o_n, num_tokens, K, numerator / safe[:, None])


@triton.jit
def away_from_zero(x, smallest: tl.constexpr):
    """x, or `smallest` with the sign of x where |x| is less."""
    return tl.where(tl.abs(x) < smallest, tl.where(x < 0, -smallest, smallest), x)


@triton.jit
def back_queries(
    q_ptr, w_ptr, s_ptr, z_ptr, den_ptr, grad_ptr, dq_ptr, ds_ptr, dz_ptr, dw_ptr,
    q_b, q_h, q_n, g_b, g_h, g_n, dq_b, dq_h, dq_n,
    num_heads, num_tokens, blocks,
    R: tl.constexpr, K: tl.constexpr, BLOCK: tl.constexpr, SHORTEST: tl.constexpr, NORMALIZE: tl.constexpr,
    PRECISION: tl.constexpr, SMALLEST: tl.constexpr,
):  # fmt: skip
    """Gradients of q, and this program's part of those of S, z and the directions."""
    head, part = tl.program_id(0), tl.program_id(1)
    b, h = (head // num_heads).to(tl.int64), head % num_heads
    q_ptr += b * q_b + h * q_h
    grad_ptr += b * g_b + h * g_h
    dq_ptr += b * dq_b + h * dq_h
    den_ptr += head.to(tl.int64) * num_tokens
    s_ptr += head.to(tl.int64) * 2 * R * K
    z_ptr += head * 2 * R
    matrix = tl.arange(0, R)[:, None] * K + tl.arange(0, K)[None, :]
    w = tl.load(w_ptr + h * R * K + matrix)
    s_sin, s_cos = tl.load(s_ptr + matrix), tl.load(s_ptr + R * K + matrix)
    z_sin, z_cos = tl.load(z_ptr + tl.arange(0, R)), tl.load(z_ptr + R + tl.arange(0, R))
    ds_sin, ds_cos = tl.zeros((R, K), tl.float32), tl.zeros((R, K), tl.float32)
    dz_sin, dz_cos = tl.zeros((R,), tl.float32), tl.zeros((R,), tl.float32)
    dw = tl.zeros((R, K), tl.float32)
    for block in range(part * blocks, (part + 1) * blocks):
        rows = block * BLOCK + tl.arange(0, BLOCK)
        x = load_rows(q_ptr, rows, q_n, num_tokens, K)
        inverse = inverse_length(x, SHORTEST, NORMALIZE)
        x = x * inverse[:, None]
        angles = tl.dot(x, tl.trans(w), input_precision=PRECISION)
        sin, cos = sin_and_cos(angles)
        # Rows past the end have gradient 0, so they add nothing below.
        denominator = tl.load(den_ptr + rows, mask=rows < num_tokens, other=1.0)
        safe = away_from_zero(denominator, SMALLEST)
        grad = load_rows(grad_ptr, rows, g_n, num_tokens, K) / safe[:, None]
        grad_sin = tl.dot(grad, tl.trans(s_sin), input_precision=PRECISION)
        grad_cos = tl.dot(grad, tl.trans(s_cos), input_precision=PRECISION)
        # grad times the result, without reading that: it was rounded, and the two terms of grad_sin nearly cancel.
        along = tl.sum(sin * grad_sin + cos * grad_cos, axis=1) / safe
        grad_den = tl.where(tl.abs(denominator) < SMALLEST, 0.0, -along)
        grad_sin += grad_den[:, None] * z_sin[None, :]
        grad_cos += grad_den[:, None] * z_cos[None, :]
        ds_sin += tl.dot(tl.trans(sin), grad, input_precision=PRECISION)
        ds_cos += tl.dot(tl.trans(cos), grad, input_precision=PRECISION)
        dz_sin += tl.sum(sin * grad_den[:, None], axis=0)
        dz_cos += tl.sum(cos * grad_den[:, None], axis=0)
        grad_angles = grad_sin * cos - grad_cos * sin
        dw += tl.dot(tl.trans(grad_angles), x, input_precision=PRECISION)
        dx = tl.dot(grad_angles, w, input_precision=PRECISION)
        store_rows(dq_ptr, rows, dq_n, num_tokens, K, through_unit(dx, x, inverse, SHORTEST, NORMALIZE))
    place = head.to(tl.int64) * tl.num_programs(1) + part
    tl.store(ds_ptr + place * 2 * R * K + matrix, ds_sin)
    tl.store(ds_ptr + (place * 2 + 1) * R * K + matrix, ds_cos)
    tl.store(dz_ptr + place * 2 * R + tl.arange(0, R), dz_sin)
    tl.store(dz_ptr + (place * 2 + 1) * R + tl.arange(0, R), dz_cos)
    tl.store(dw_ptr + place * R * K + matrix, dw)


@triton.jit
def back_keys(
    k_ptr, v_ptr, w_ptr, width_ptr, centre_ptr, level_ptr, ds_ptr, dz_ptr, dk_ptr, dv_ptr, dw_ptr, dwidth_ptr,
    k_b, k_h, k_n, v_b, v_h, v_n,
    dk_b, dk_h, dk_n, dv_b, dv_h, dv_n,
    num_heads, num_tokens, blocks, factor,
    R: tl.constexpr, K: tl.constexpr, BLOCK: tl.constexpr, SHORTEST: tl.constexpr, NORMALIZE: tl.constexpr,
    CENTRE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradients of k and v, and this program's part of those of the directions and of the widths."""
    head, part = tl.program_id(0), tl.program_id(1)
    b, h = (head // num_heads).to(tl.int64), head % num_heads
    k_ptr += b * k_b + h * k_h
    v_ptr += b * v_b + h * v_h
    dk_ptr += b * dk_b + h * dk_h
    dv_ptr += b * dv_b + h * dv_h
    ds_ptr += head.to(tl.int64) * 2 * R * K
    dz_ptr += head * 2 * R
    matrix = tl.arange(0, R)[:, None] * K + tl.arange(0, K)[None, :]
    w = tl.load(w_ptr + h * R * K + matrix)
    width = tl.load(width_ptr + h * K + tl.arange(0, K))
    centre, level = tl.load(centre_ptr + head * K + tl.arange(0, K)), tl.load(level_ptr + head)
    ds_sin, ds_cos = tl.load(ds_ptr + matrix) * factor, tl.load(ds_ptr + R * K + matrix) * factor
    dz_sin, dz_cos = tl.load(dz_ptr + tl.arange(0, R)) * factor, tl.load(dz_ptr + R + tl.arange(0, R)) * factor
    dw, dwidth = tl.zeros((R, K), tl.float32), tl.zeros((K,), tl.float32)
    for block in range(part * blocks, (part + 1) * blocks):
        rows = block * BLOCK + tl.arange(0, BLOCK)
        x = load_rows(k_ptr, rows, k_n, num_tokens, K)
        v = load_rows(v_ptr, rows, v_n, num_tokens, K)
        inverse = inverse_length(x, SHORTEST, NORMALIZE)
        x = x * inverse[:, None]
        shifted = x
        if CENTRE:
            shifted = x - centre[None, :]
        angles = tl.dot(shifted, tl.trans(w), input_precision=PRECISION)
        sin, cos = sin_and_cos(angles)
        # 0 for rows past the end, and so is all that is added up below.
        weight = weight_of(shifted, width, level, rows, num_tokens, CENTRE)
        sin *= weight[:, None]
        cos *= weight[:, None]
        dv = tl.dot(sin, ds_sin, input_precision=PRECISION) + tl.dot(cos, ds_cos, input_precision=PRECISION)
        store_rows(dv_ptr, rows, dv_n, num_tokens, K, dv)
        grad_sin = tl.dot(v, tl.trans(ds_sin), input_precision=PRECISION) + dz_sin[None, :]
        grad_cos = tl.dot(v, tl.trans(ds_cos), input_precision=PRECISION) + dz_cos[None, :]
        grad_angles = grad_sin * cos - grad_cos * sin
        dw += tl.dot(tl.trans(grad_angles), shifted, input_precision=PRECISION)
        dx = tl.dot(grad_angles, w, input_precision=PRECISION)
        if CENTRE:
            # Of the exponent |width x|^2 / 2: the weight multiplies both features.
            grad_half = tl.sum(grad_sin * sin + grad_cos * cos, axis=1)[:, None]
            dx += grad_half * shifted * (width * width)[None, :]
            dwidth += tl.sum(grad_half * shifted * shifted * width[None, :], axis=0)
        store_rows(dk_ptr, rows, dk_n, num_tokens, K, through_unit(dx, x, inverse, SHORTEST, NORMALIZE))
    place = head.to(tl.int64) * tl.num_programs(1) + part
    tl.store(dw_ptr + place * R * K + matrix, dw)
    tl.store(dwidth_ptr + place * K + tl.arange(0, K), dwidth)
