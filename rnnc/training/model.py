"""The small model that a cell is trained in: embedding -> layers of (norm, cell, residual) -> norm -> readout."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from rnnc.training.fit import Fit
from rnnc.training.tasks import Task


class Block(nn.Module):
    """h + cell(norm(h)); maps where the cell's sizes are not the residual stream's."""

    def __init__(
        self, layer: nn.Module, width: int, input_shape: tuple[int, ...], output_shape: tuple[int, ...]
    ) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(width)
        self.layer = layer
        self.input_shape, self.output_shape = input_shape, output_shape
        self.into = nn.Identity() if input_shape == (width,) else nn.Linear(width, prod(input_shape))
        self.out_of = nn.Identity() if output_shape == (width,) else nn.Linear(prod(output_shape), width)

    def forward(self, h: Tensor) -> Tensor:
        """h [B, T, width] -> [B, T, width]."""
        x: Tensor = self.into(self.norm(h))
        x = x.reshape(*x.shape[:-1], *self.input_shape)
        y = first_output(self.layer(x))
        change: Tensor = self.out_of(y.flatten(2) if self.output_shape else y[..., None])
        return h + change


def first_output(returned: Any) -> Tensor:
    """A layer returns (y, state), or ((y1, y2, ...), state): the first output is what is trained."""
    y = returned[0]
    first: Tensor = y[0] if isinstance(y, tuple) else y
    return first


class LayerModel(nn.Module):
    """A cell as `layers` blocks between an embedding (or a linear map of real inputs) and a readout."""

    def __init__(self, make_layer: Callable[[], nn.Module], fit: Fit, task: Task, width: int, layers: int) -> None:
        super().__init__()
        self.embed: nn.Module
        self.embed = nn.Linear(task.features, width) if task.vocab is None else nn.Embedding(task.vocab, width)
        self.blocks = nn.Sequential(
            *(Block(make_layer(), width, fit.input_shape, fit.output_shape) for _ in range(layers))
        )
        self.norm = nn.RMSNorm(width)
        self.readout = nn.Linear(width, task.classes)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, T] tokens or [B, T, n] reals -> scores [B, T, classes]."""
        scores: Tensor = self.readout(self.norm(self.blocks(self.embed(x))))
        return scores


class WholeModel(nn.Module):
    """A spec's own model: tokens to scores; scores beyond the task's classes are dropped."""

    def __init__(self, model: nn.Module, classes: int) -> None:
        super().__init__()
        self.model = model
        self.classes = classes

    def forward(self, x: Tensor) -> Tensor:
        """x [B, T] tokens -> scores [B, T, classes]."""
        return first_output(self.model(x))[..., : self.classes]


def build(layer_class: Callable[..., nn.Module], fit: Fit, task: Task, width: int, layers: int, seed: int) -> nn.Module:
    """The model of one seed, in float32 on the CPU; equal seeds give equal weights."""
    torch.manual_seed(seed)
    if fit.role == "model":
        return WholeModel(layer_class(**fit.dims), task.classes)
    return LayerModel(lambda: layer_class(**fit.dims), fit, task, width, layers)
