"""The Triton kernels of the low-rank update. Knows pointers and strides; :mod:`.launch` chooses tiles and grids.

Products take 16-bit or exact fp32 operands and accumulate in fp32. No atomics: every sum has a fixed order. Indices: t
tokens, d width, c or j columns of rank space, e experts, m rows of a weight. Arguments that the kernels share:

    width               D, the width of the activations
    columns             C, the columns of rank space with the experts' biases; ``core``: without them, experts × rank
    hidden              K, the rows of ``down``: rank if the experts share it, else ``core``
    tokens, total       tokens in a row of the batch, and in all rows
    index               [rows], each row's expert; negative for none
    s_e, s_d, s_c       strides of the matrix ``w`` by expert, width and column
    s_row, s_token, s_expert    strides of ``weights``; all other tensors are contiguous
    HAS_BASE, INDEXED, NORM, BIAS, WEIGHTS, KEEP, NESTED    whether an optional tensor is given
    BT, BD, BC, BM      sizes of a tile: tokens, width, columns, rows of a weight
    UPCAST              multiply in fp32, for Triton's interpreter, whose products of bf16 read bit patterns
"""

import triton
import triton.language as tl


@triton.jit
def _dot(a, b, acc, UPCAST: tl.constexpr):
    if UPCAST:
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, acc, input_precision="ieee")


@triton.jit
def expand_kernel(
    base, z, w, index, y, tokens, width, columns, s_e, s_d, s_c,
    HAS_BASE: tl.constexpr, INDEXED: tl.constexpr,
    BT: tl.constexpr, BD: tl.constexpr, BC: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """y[row, t, d] = base[row, t, d] + Σ_c z[row, t, c] · w[e(row), d, c]; only base for a negative index."""
    row = tl.program_id(1).to(tl.int64)
    blocks = tl.cdiv(width, BD)
    t = (tl.program_id(0) // blocks) * BT + tl.arange(0, BT)
    d = (tl.program_id(0) % blocks) * BD + tl.arange(0, BD)
    c = tl.arange(0, BC)
    offsets = (row * tokens + t)[:, None] * width + d[None, :]
    inside = (t < tokens)[:, None] & (d < width)[None, :]
    e = tl.load(index + row).to(tl.int64) if INDEXED else 0
    total = tl.zeros((BT, BD), dtype=tl.float32)
    if e >= 0:
        z_tile = tl.load(
            z + (row * tokens + t)[:, None] * columns + c[None, :],
            mask=(t < tokens)[:, None] & (c < columns)[None, :],
            other=0.0,
        )
        up = tl.load(
            w + e * s_e + d[None, :] * s_d + c[:, None] * s_c,
            mask=(d < width)[None, :] & (c < columns)[:, None],
            other=0.0,
        )
        total = _dot(z_tile, up, total, UPCAST)
    if HAS_BASE:
        total += tl.load(base + offsets, mask=inside, other=0.0).to(tl.float32)
    tl.store(y + offsets, total.to(y.dtype.element_ty), mask=inside)


@triton.jit
def shrink_kernel(
    x, w, index, h, tokens, width, columns, s_e, s_c, s_d,
    INDEXED: tl.constexpr, BT: tl.constexpr, BD: tl.constexpr, BC: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """h[row, t, c] = Σ_d x[row, t, d] · w[e(row), c, d]; zero for a negative index, whose x is not read."""
    row = tl.program_id(1).to(tl.int64)
    t = tl.program_id(0) * BT + tl.arange(0, BT)
    c = tl.arange(0, BC)
    e = tl.load(index + row).to(tl.int64) if INDEXED else 0
    total = tl.zeros((BT, BC), dtype=tl.float32)
    if e >= 0:
        for start in range(0, width, BD):
            d = start + tl.arange(0, BD)
            x_tile = tl.load(
                x + (row * tokens + t)[:, None] * width + d[None, :],
                mask=(t < tokens)[:, None] & (d < width)[None, :],
                other=0.0,
            )
            down = tl.load(
                w + e * s_e + c[None, :] * s_c + d[:, None] * s_d,
                mask=(d < width)[:, None] & (c < columns)[None, :],
                other=0.0,
            )
            total = _dot(x_tile, down, total, UPCAST)
    tl.store(
        h + (row * tokens + t)[:, None] * columns + c[None, :],
        total.to(h.dtype.element_ty),
        mask=(t < tokens)[:, None] & (c < columns)[None, :],
    )


@triton.jit
def outer_kernel(
    x, z, index, out, rows, tokens, chunk, width, columns,
    INDEXED: tl.constexpr, BT: tl.constexpr, BD: tl.constexpr, BC: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """out[part, e, c, d] = Σ x[row, t, d] · z[row, t, c] over the rows of expert e and a part of ``chunk`` tokens."""
    d = tl.program_id(0) * BD + tl.arange(0, BD)
    e, part = tl.program_id(1), tl.program_id(2)
    c = tl.arange(0, BC)
    total = tl.zeros((BC, BD), dtype=tl.float32)
    for row in range(rows):
        expert = e
        if INDEXED:
            expert = tl.load(index + row).to(tl.int32)
        if expert == e:
            begin, end = row * tokens, tl.minimum((part + 1) * chunk, tokens)
            for start in range(part * chunk, end, BT):
                t = (start + tl.arange(0, BT)).to(tl.int64)
                real = t < end
                z_tile = tl.load(
                    z + (begin + t)[None, :] * columns + c[:, None],
                    mask=real[None, :] & (c < columns)[:, None],
                    other=0.0,
                )
                x_tile = tl.load(
                    x + (begin + t)[:, None] * width + d[None, :], mask=real[:, None] & (d < width)[None, :], other=0.0
                )
                total = _dot(z_tile, x_tile, total, UPCAST)
    offsets = ((part * tl.num_programs(1) + e) * columns + c)[:, None] * width + d[None, :]
    tl.store(out + offsets, total, mask=(c < columns)[:, None] & (d < width)[None, :])


@triton.jit
def _factors(
    weights, keep, t, j, tokens, total, hidden, core, rank, s_row, s_token, s_expert, scale,
    WEIGHTS: tl.constexpr, KEEP: tl.constexpr, BT: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """The factors [BT, BC] of column j of token t: s · w[t, e(j)] · keep[t, j]."""
    factors = tl.full((BT, BC), 1.0, dtype=tl.float32) * scale
    if WEIGHTS:
        expert = tl.where(j < core, j // rank, j - core)
        offsets = (t // tokens)[:, None] * s_row + (t % tokens)[:, None] * s_token + expert[None, :] * s_expert
        mask = (t < total)[:, None] & (expert < core // rank)[None, :]
        factors *= tl.load(weights + offsets, mask=mask, other=0.0).to(tl.float32)
    if KEEP:
        offsets = t[:, None] * hidden + (j % hidden)[None, :]
        keep_tile = tl.load(keep + offsets, mask=(t < total)[:, None] & (j < core)[None, :], other=1.0)
        factors *= keep_tile.to(tl.float32)
    return factors


@triton.jit
def residual_kernel(
    x, norm, down, bias, up, weights, keep, y, h, rstd,
    total, tokens, width, columns, hidden, core, rank, s_row, s_token, s_expert, eps, scale,
    NORM: tl.constexpr, BIAS: tl.constexpr, WEIGHTS: tl.constexpr, KEEP: tl.constexpr,
    BT: tl.constexpr, BD: tl.constexpr, BC: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """y = n + z · upᵀ with n = x or RMSNorm(x), z = factors ⊙ (n · downᵀ + bias).

    Two passes over a block of tokens, the second from the L2 cache: one for h and the mean square, one for y.
    Column j of rank space reads row j mod K of ``down``, so that experts may share it. Columns from ``core`` on are
    the experts' biases, whose h is 1.
    """
    t = tl.program_id(0).to(tl.int64) * BT + tl.arange(0, BT)
    j = tl.arange(0, BC)
    real = t < total
    acc = tl.zeros((BT, BC), dtype=tl.float32)
    squares = tl.zeros((BT,), dtype=tl.float32)
    for start in range(0, width, BD):
        d = start + tl.arange(0, BD)
        x_tile = tl.load(x + t[:, None] * width + d[None, :], mask=real[:, None] & (d < width)[None, :], other=0.0)
        a = tl.load(
            down + (j % hidden)[None, :] * width + d[:, None],
            mask=(d < width)[:, None] & (j < core)[None, :],
            other=0.0,
        )
        if NORM:
            wide = x_tile.to(tl.float32)
            squares += tl.sum(wide * wide, axis=1)
            gamma = tl.load(norm + d, mask=d < width, other=0.0).to(tl.float32)
            a = (a.to(tl.float32) * gamma[:, None]).to(a.dtype)
        acc = _dot(x_tile, a, acc, UPCAST)
    root = tl.full((BT,), 1.0, dtype=tl.float32)
    if NORM:
        root = tl.rsqrt(squares / width + eps)
        tl.store(rstd + t, root, mask=real)
        acc = acc * root[:, None]
    if BIAS:
        acc += tl.load(bias + j % hidden, mask=j < core, other=0.0).to(tl.float32)[None, :]
    tl.store(
        h + t[:, None] * hidden + j[None, :], acc.to(h.dtype.element_ty), mask=real[:, None] & (j < hidden)[None, :]
    )
    factors = _factors(
        weights, keep, t, j, tokens, total, hidden, core, rank, s_row, s_token, s_expert, scale, WEIGHTS, KEEP, BT, BC
    )
    z = tl.where((j < core)[None, :], acc, 1.0) * factors
    z = tl.where((j < columns)[None, :], z, 0.0).to(x.dtype.element_ty)
    for start in range(0, width, BD):
        d = start + tl.arange(0, BD)
        inside = real[:, None] & (d < width)[None, :]
        n = tl.load(x + t[:, None] * width + d[None, :], mask=inside, other=0.0)
        if NORM:
            gamma = tl.load(norm + d, mask=d < width, other=0.0)
            n = ((n.to(tl.float32) * root[:, None]).to(x.dtype.element_ty).to(tl.float32) * gamma.to(tl.float32)).to(
                x.dtype.element_ty
            )
        b = tl.load(
            up + d[None, :] * columns + j[:, None], mask=(d < width)[None, :] & (j < columns)[:, None], other=0.0
        )
        new = _dot(z, b, n.to(tl.float32), UPCAST)
        tl.store(y + t[:, None] * width + d[None, :], new.to(y.dtype.element_ty), mask=inside)


@triton.jit
def residual_bwd_kernel(
    dy, x, norm, down, bias, up, weights, keep, h, rstd, dx, dz,
    total, tokens, width, columns, hidden, core, rank, s_row, s_token, s_expert, scale,
    NORM: tl.constexpr, BIAS: tl.constexpr, WEIGHTS: tl.constexpr, KEEP: tl.constexpr,
    BT: tl.constexpr, BD: tl.constexpr, BC: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """dz = dy · up and dx = dy + (factors ⊙ dz) · down, then the backward of the RMSNorm.

    The norm's Σ_d γ dn x splits into Σ_d γ dy x, summed in the same pass as dz, and Σ_j g_j (h_j − bias_j) / rstd,
    which is in rank space: two passes suffice here, too.
    """
    t = tl.program_id(0).to(tl.int64) * BT + tl.arange(0, BT)
    j = tl.arange(0, BC)
    real = t < total
    acc = tl.zeros((BT, BC), dtype=tl.float32)
    share = tl.zeros((BT,), dtype=tl.float32)
    for start in range(0, width, BD):
        d = start + tl.arange(0, BD)
        inside = real[:, None] & (d < width)[None, :]
        grad = tl.load(dy + t[:, None] * width + d[None, :], mask=inside, other=0.0)
        b = tl.load(
            up + d[:, None] * columns + j[None, :], mask=(d < width)[:, None] & (j < columns)[None, :], other=0.0
        )
        acc = _dot(grad, b, acc, UPCAST)
        if NORM:
            x_tile = tl.load(x + t[:, None] * width + d[None, :], mask=inside, other=0.0).to(tl.float32)
            gamma = tl.load(norm + d, mask=d < width, other=0.0).to(tl.float32)
            share += tl.sum(grad.to(tl.float32) * x_tile * gamma[None, :], axis=1)
    tl.store(
        dz + t[:, None] * columns + j[None, :], acc.to(dz.dtype.element_ty), mask=real[:, None] & (j < columns)[None, :]
    )
    factors = _factors(
        weights, keep, t, j, tokens, total, hidden, core, rank, s_row, s_token, s_expert, scale, WEIGHTS, KEEP, BT, BC
    )
    g = tl.where((j < core)[None, :], acc * factors, 0.0)
    root = tl.full((BT,), 1.0, dtype=tl.float32)
    if NORM:
        root = tl.load(rstd + t, mask=real, other=0.0)
        h_tile = tl.load(
            h + t[:, None] * hidden + (j % hidden)[None, :], mask=real[:, None] & (j < core)[None, :], other=0.0
        ).to(tl.float32)
        if BIAS:
            h_tile -= tl.load(bias + j % hidden, mask=j < core, other=0.0).to(tl.float32)[None, :]
        share = (share * root + tl.sum(g * h_tile, axis=1)) * root / width
    g = g.to(x.dtype.element_ty)
    for start in range(0, width, BD):
        d = start + tl.arange(0, BD)
        inside = real[:, None] & (d < width)[None, :]
        grad = tl.load(dy + t[:, None] * width + d[None, :], mask=inside, other=0.0).to(tl.float32)
        a = tl.load(
            down + (j % hidden)[:, None] * width + d[None, :],
            mask=(d < width)[None, :] & (j < core)[:, None],
            other=0.0,
        )
        new = _dot(g, a, grad, UPCAST)
        if NORM:
            x_tile = tl.load(x + t[:, None] * width + d[None, :], mask=inside, other=0.0).to(tl.float32)
            gamma = tl.load(norm + d, mask=d < width, other=0.0).to(tl.float32)
            new = (new * gamma[None, :] - x_tile * share[:, None]) * root[:, None]
        tl.store(dx + t[:, None] * width + d[None, :], new.to(dx.dtype.element_ty), mask=inside)


@triton.jit
def nf4_merged_kernel(
    packed, absmax, code8, absmax2, offset, code, up, down, out,
    rows, width, rank, scale,
    NESTED: tl.constexpr,
    BLOCK: tl.constexpr, BLOCK2: tl.constexpr, BM: tl.constexpr, BD: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """out[m, d] = code[nibble] · absmax + s · Σ_c up[m, c] down[c, d], added in fp32 and rounded once.

    packed: two values per byte, the first in the high nibble, in row-major order. With double quantisation the absmax
    of a block is code8[absmax] · absmax2 + offset.
    """
    m = tl.program_id(0) * BM + tl.arange(0, BM)
    d = tl.program_id(1) * BD + tl.arange(0, BD)
    inside = (m < rows)[:, None] & (d < width)[None, :]
    position = m.to(tl.int64)[:, None] * width + d[None, :]
    byte = tl.load(packed + position // 2, mask=inside, other=0).to(tl.int32)
    nibble = tl.where(position % 2 == 0, byte >> 4, byte & 15)
    block = position // BLOCK
    if NESTED:
        level = tl.load(absmax + block, mask=inside, other=0).to(tl.int32)
        largest = tl.load(code8 + level) * tl.load(absmax2 + block // BLOCK2, mask=inside, other=0.0) + tl.load(offset)
    else:
        largest = tl.load(absmax + block, mask=inside, other=0.0)
    total = tl.load(code + nibble) * largest
    for start in range(0, rank, BC):
        c = start + tl.arange(0, BC)
        b = tl.load(up + m[:, None] * rank + c[None, :], mask=(m < rows)[:, None] & (c < rank)[None, :], other=0.0)
        a = tl.load(down + c[:, None] * width + d[None, :], mask=(c < rank)[:, None] & (d < width)[None, :], other=0.0)
        total = tl.dot(b * scale, a, total, input_precision="ieee")
    tl.store(out + position, total.to(out.dtype.element_ty), mask=inside)
