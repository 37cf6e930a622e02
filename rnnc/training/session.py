"""From a spec and a configuration to trained weights and a record."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rnnc.training.config import Hyper, TrainConfig, training_error
from rnnc.training.fit import Fit, fit
from rnnc.training.record import Record, plain
from rnnc.training.tasks import Task, TaskError, make_task

if TYPE_CHECKING:
    from torch import nn

    from rnnc.ir.graph import CellIR
    from rnnc.spec import Spec
    from rnnc.training.loop import OnStep


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A cell, a task and how the one is trained on the other: everything is checked, nothing has run.

    `source` is the text of the spec with all that it imports.
    """

    cell: CellIR
    task: Task
    fit: Fit
    config: TrainConfig
    layer_class: Callable[..., nn.Module]
    hyper: Hyper
    source: str
    label: str

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the numbers of a run; a checkpoint carries it."""
        config = self.config
        keys = (
            "task", "steps", "batch", "lr", "weight_decay", "clip", "warmup", "seed", "train_length", "curriculum",
            "width", "layers", "dtype",
        )  # fmt: skip
        return {
            "cell": self.cell.name,
            "spec_sha256": _digest(self.source.encode()),
            "hyperparameters": plain(self.hyper),
            "dims": self.fit.dims,
            "text_sha256": _digest(config.text.read_bytes()) if config.text else None,
            **{key: getattr(config, key) for key in keys},
        }

    def run(self, out: Path, on_step: OnStep, resume: bool = False, seeds: Sequence[int] | None = None) -> Record:
        """Trains every seed, writing `checkpoint[-seedN].safetensors` under `out`; returns the record of all."""
        from rnnc.training.loop import Run, place
        from rnnc.training.model import build

        chosen = tuple(seeds) if seeds is not None else (self.config.seed,)
        results = []
        parameters = 0
        for seed in chosen:
            this = replace(self, config=replace(self.config, seed=seed))
            width, layers = self.config.width, self.config.layers
            model = place(build(self.layer_class, self.fit, self.task, width, layers, seed), this.config)
            out.mkdir(parents=True, exist_ok=True)  # a place that cannot be written is found before training, not after
            parameters = sum(p.numel() for p in model.parameters())
            name = "checkpoint.safetensors" if len(chosen) == 1 else f"checkpoint-seed{seed}.safetensors"
            run = Run(model=model, task=self.task, config=this.config, identity=this.identity, checkpoint=out / name)
            results.append(run.train(on_step, resume))
        return Record(
            label=self.label,
            task=self.task.name,
            chance=self.task.chance,
            train_length=self.task.fixed_length or self.config.train_length,
            identity=self.identity,
            parameters=parameters,
            results=tuple(results),
        )


def prepare(spec: Spec, cell: str | None, config: TrainConfig, hyper: Hyper, label: str = "") -> Session:
    """Everything short of training.  Raises SpecError: E0701 no such task, E0702 / E0703 the cell does not fit it."""
    from rnnc.compile import compile as compile_cell

    try:
        task = make_task(config.task, config.text)
        _check_lengths(task, config)
    except TaskError as error:
        raise training_error("E0701", str(error), error.help) from None
    ir = spec.lower(cell, **hyper)
    known = {p.name for p in ir.dims}
    dims = {name: _whole(name, value) for name, value in hyper.items() if name in known}
    fitted = fit(ir, task, dims, config.width)
    structural: dict[str, Any] = {name: value for name, value in hyper.items() if name not in known}
    layer_class = compile_cell(spec, ir.name, **structural)
    return Session(
        cell=ir,
        task=task,
        fit=fitted,
        config=config,
        layer_class=layer_class,
        hyper=hyper,
        source="\n".join(spec.sources[file] for file in sorted(spec.sources)),
        label=label or ir.name,
    )


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _check_lengths(task: Task, config: TrainConfig) -> None:
    """Raises TaskError where the task has no sequences of a length that will be asked for."""
    if task.fixed_length is not None:
        return
    lengths = config.lengths(None)
    if min(config.train_length, *lengths) < task.min_length:
        raise TaskError(f"{task.name} needs sequences of at least {task.min_length} steps")
    rng = np.random.default_rng(0)
    task.batch(rng, 1, config.train_length, "train")
    task.batch(rng, 1, max(lengths), "test")


def _whole(name: str, value: int | bool | float | Fraction) -> int:
    if isinstance(value, bool) or value != int(value) or value < 1:
        raise training_error("E0703", f"the dim `{name}` must be a positive whole number, not {value}")
    return int(value)
