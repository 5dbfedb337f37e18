"""Fewer tokens between two blocks of the encoder: cells of alike patches become one token each, and patches again.

Cells are 2 × 2 patches. Those whose tokens are the most alike, by the mean cosine to the cell's mean, are merged: a
static number of them, so that shapes are fixed. Of a grid of odd height or width the last row or column is in no cell
and stays as it is. All is indices and gathers, whose gradients flow. Letters: C cells, M of them merged.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from segfast.kernels.rotary import Rotation
from segfast.protocol import Size


class Layout(NamedTuple):
    """Which patches of a grid are in which cell.

    Attributes:
        cells: numbers of patches, int64 [C, 4].
        rest: those in no cell, [R].
        back: the place of every patch in `cells` and `rest` behind each other, [h·w].
    """

    cells: Tensor
    rest: Tensor
    back: Tensor


def layout(grid: Size, device: torch.device | str | None = None) -> Layout:
    """The cells of a grid of h × w patches, row by row."""
    h, w = grid
    rows, columns = h // 2, w // 2
    # Arithmetic rather than copies from the host, which would not go into a CUDA graph.
    numbers = torch.arange(h * w, device=device).view(h, w)
    whole = numbers[: 2 * rows, : 2 * columns].reshape(rows, 2, columns, 2)
    cells = whole.transpose(1, 2).reshape(rows * columns, 4)
    last_column, last_row = numbers[: 2 * rows, 2 * columns :], numbers[2 * rows :]
    # ONNX cannot join nothing but empty tensors.
    order = torch.cat([part.flatten() for part in (cells, last_column, last_row) if part.numel()])
    return Layout(cells, order[cells.numel() :], torch.zeros_like(order).scatter(0, order, numbers.flatten()))


def rank_cells(patches: Tensor, grid: Size) -> Tensor:
    """The cells of [B, h·w, D], the most alike first: int64 [B, C]; of equally alike ones the first."""
    return spread(patches, grid).sort(dim=1).indices


@torch.no_grad()
def spread(patches: Tensor, grid: Size) -> Tensor:
    """How far apart the tokens of every cell are, fp32 [B, C], of [B, h·w, D] in any dtype.

    It is Σ |x/|x| - m/|m||² over a cell's tokens x, m their mean. That is 2·Σ (1 - cos(x, m)), and where cosines are
    close to 1 half precision tells it better.
    """
    (h, w), B = grid, patches.shape[0]
    whole = patches.float().unflatten(1, (h, w))[:, : h // 2 * 2, : w // 2 * 2]
    cells = whole.reshape(B, h // 2, 2, w // 2, 2, -1)
    # Four tensors, summed as they are: OpenVINO takes 10 ms to reduce over axes in the middle.
    corners = [cells[:, :, i, :, j] for i in range(2) for j in range(2)]  # 4 × [B, h/2, w/2, D]
    middle = _unit(corners[0] + corners[1] + corners[2] + corners[3])
    apart = [(_unit(corner) - middle).square().sum(-1) for corner in corners]
    return (apart[0] + apart[1] + apart[2] + apart[3]).flatten(1)


class Merged:
    """The tokens of one batch merged, to be undone.

    Attributes:
        tokens: means of merged cells, then the tokens that stay: [B, prefix + M + 4·(C - M) + R, D].

    Args:
        whole: the tokens before, [B, prefix + h·w, D].
        order: of the cells, the first `merged` of which become one token each, int64 [B, C].
        prefix: tokens before the patches, which stay as they are.
        merged: M.
    """

    def __init__(self, whole: Tensor, order: Tensor, layout: Layout, prefix: int, merged: int):
        self._order, self._layout, self._prefix, self._merged = order, layout, prefix, merged
        self._before, self._patches = whole[:, :prefix], whole[:, prefix:]
        self.tokens = self._merge()

    def _merge(self) -> Tensor:
        M, patches = self._merged, self._patches
        cells = picked(self._layout.cells, self._order)  # [B, C, 4]
        alike = rows(patches, cells[:, :M].flatten(1)).unflatten(1, (M, 4))
        means = (alike[:, :, 0] + alike[:, :, 1] + alike[:, :, 2] + alike[:, :, 3]) / 4
        return torch.cat([self._before, means, rows(patches, self._staying(cells))], 1)

    def turn(self, rotation: Rotation, centres: Rotation) -> Rotation:
        """The rotations [B, N, 1, d] of merged tokens: of a cell that of its centre.

        Args:
            rotation: of the tokens before they were merged, [prefix + h·w, 1, d].
            centres: of the cells' centres, [C, 1, d].
        """
        B = self._order.shape[0]
        cells = picked(self._layout.cells, self._order)

        def turned(tokens: Tensor, middles: Tensor) -> Tensor:
            before, patches = tokens[: self._prefix], tokens[self._prefix :]
            chosen = picked(middles, self._order[:, : self._merged])  # [B, M, 1, d]
            return torch.cat([before.expand(B, -1, -1, -1), chosen, picked(patches, self._staying(cells))], 1)

        return turned(rotation[0], centres[0]), turned(rotation[1], centres[1])

    def undo(self, tokens: Tensor) -> Tensor:
        """What the blocks made of `tokens` → [B, h·w, D]: to every patch is added by how much its token has changed.

        So what told the patches of a cell apart is kept, which the cell's token alone would lose.
        """
        (B, C), M = self._order.shape, self._merged
        ranks = torch.arange(C, device=tokens.device).expand(B, C)
        rank = torch.zeros_like(self._order).scatter(1, self._order, ranks).unsqueeze(2)  # [B, C, 1]
        corner = torch.arange(4, device=tokens.device)
        places = torch.where(rank < M, rank, 4 * rank + (corner - 3 * M)).flatten(1)  # [B, 4·C]
        rest = torch.arange(4 * C - 3 * M, 4 * C - 3 * M + len(self._layout.rest), device=tokens.device)
        places = torch.cat([places, rest.expand(B, -1)], 1).index_select(1, self._layout.back)  # [B, h·w]
        return self._patches + rows(tokens - self.tokens, places + self._prefix)

    def _staying(self, cells: Tensor) -> Tensor:
        """The numbers of the patches that stay, [B, 4·(C - M) + R], of the cells [B, C, 4] in their order."""
        rest = self._layout.rest
        return torch.cat([cells[:, self._merged :].flatten(1), rest.expand(cells.shape[0], -1)], 1)


def rows(tokens: Tensor, places: Tensor) -> Tensor:
    """The tokens [B, N, D] at places [B, n] of their own picture: [B, n, D]."""
    B, N, _ = tokens.shape
    first = N * torch.arange(B, device=tokens.device).unsqueeze(1)  # [B, 1]
    # One Gather of whole rows: torch.gather would take an index for every channel.
    return tokens.flatten(0, 1).index_select(0, (places + first).flatten()).unflatten(0, (B, places.shape[1]))


def picked(table: Tensor, places: Tensor) -> Tensor:
    """The entries of a table [n, …] at places [B, m]: [B, m, …]."""
    return table.index_select(0, places.flatten()).unflatten(0, places.shape)


def _unit(x: Tensor) -> Tensor:
    """x [..., D] at length 1."""
    x = x / x.abs().amax(-1, keepdim=True).clamp_min(1e-6)  # whose squares half precision holds, too
    return x * (x.square().sum(-1, keepdim=True) + 1e-12).rsqrt()
