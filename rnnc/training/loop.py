"""The training loop.  Step s of seed n draws its batch from (n, s) alone: a resumed run repeats and skips nothing."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from rnnc.training.checkpoint import Progress, load_checkpoint, save_checkpoint
from rnnc.training.config import TrainConfig, training_error
from rnnc.training.tasks import Batch, Split, Task

DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.float32}  # bfloat16 is autocast
TRAIN_STREAM, TEST_STREAM = 0, 1

# A gate that must reach the end of its range (an eigenvalue of -1) gets there by a logit that grows while the loss is
# nearly zero already.  A short memory of the gradient's size, and a small epsilon, let Adam go on moving it.
BETAS, EPSILON = (0.9, 0.95), 1e-10


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """The test at one length, over the scored positions of the last quarter of each sequence.

    `scaled` is 0 at chance and 1 when everything is right; `bits` is the cross entropy in bits.
    """

    length: int
    accuracy: float
    scaled: float
    bits: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedResult:
    """One seed's run.  `diverged` is the step at which the loss was not finite, if any."""

    seed: int
    progress: Progress
    table: tuple[Row, ...]
    diverged: int | None


OnStep = Callable[[int, int, float, float], None]  # step, length, loss, accuracy


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One seed, ready to run: the model is on its device."""

    model: nn.Module
    task: Task
    config: TrainConfig
    identity: dict[str, Any]
    checkpoint: Path | None = None

    def train(self, on_step: OnStep, resume: bool = False) -> SeedResult:
        """Trains to the last step and tests; saves a checkpoint as it goes, always between two steps."""
        config = self.config
        torch.set_flush_denormal(True)  # decayed states are full of denormal numbers, which are slow on a CPU
        weights = self.model.parameters()
        optimizer = torch.optim.AdamW(weights, config.lr, BETAS, EPSILON, weight_decay=config.weight_decay)
        done = Progress(step=0, seconds=0.0, curve=())
        if resume and self.checkpoint is not None and self.checkpoint.exists():
            done = load_checkpoint(self.checkpoint, self.model, optimizer, self.identity)
        started = time.perf_counter() - done.seconds
        curve = list(done.curve)
        step, diverged = done.step, None

        while step < config.steps and diverged is None:
            length, loss, accuracy = self._step(step, optimizer)
            step += 1
            if not math.isfinite(loss):
                diverged = step
            if step % config.log_every == 0 or step in (1, config.steps) or diverged:
                curve.append((step, length, loss, accuracy))
            on_step(step, length, loss, accuracy)
            if self.checkpoint is not None and (step % config.save_every == 0 or step == config.steps):
                state = Progress(step=step, seconds=time.perf_counter() - started, curve=tuple(curve))
                save_checkpoint(self.checkpoint, self.model, optimizer, state, self.identity)
        progress = Progress(step=step, seconds=time.perf_counter() - started, curve=tuple(curve))
        return SeedResult(seed=config.seed, progress=progress, table=self.test(), diverged=diverged)

    def _step(self, step: int, optimizer: torch.optim.Optimizer) -> tuple[int, float, float]:
        config = self.config
        rng = np.random.default_rng([config.seed, TRAIN_STREAM, step])
        length = length_at(step, config, self.task, rng)
        batch = self.task.batch(rng, config.batch, length)
        for group in optimizer.param_groups:
            group["lr"] = config.lr * rate_at(step, config)
        self.model.train()
        loss, right, count = self._loss(batch, 0)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.model.parameters(), config.clip)
        optimizer.step()
        return length, float(loss.detach()), right / count

    def _loss(self, batch: Batch, first: int) -> tuple[Tensor, int, int]:
        """Mean cross entropy in nats over the scored positions from `first` on, how many are right, and of how many."""
        device = torch.device(self.config.device)
        inputs = torch.from_numpy(batch.inputs).to(device)
        if inputs.is_floating_point():
            inputs = inputs.to(DTYPES[self.config.dtype])
        with self._autocast(device):
            scores = self.model(inputs)
        scored = torch.from_numpy(batch.scored).to(device)
        scored[:, :first] = False
        scores, targets = scores[scored], torch.from_numpy(batch.targets).to(device)[scored]
        if scores.dtype == torch.bfloat16:
            scores = scores.float()
        right = int((scores.argmax(-1) == targets).sum())
        return cross_entropy(scores, targets), right, len(targets)

    def _autocast(self, device: torch.device) -> AbstractContextManager[object]:
        if self.config.dtype == "bfloat16":
            return torch.autocast(device.type, torch.bfloat16)
        return nullcontext()

    @torch.no_grad()
    def test(self) -> tuple[Row, ...]:
        """The length-generalisation table; the test sequences depend on nothing but the length."""
        self.model.eval()
        return tuple(self._test_length(length) for length in self.config.lengths(self.task.fixed_length))

    def _test_length(self, length: int) -> Row:
        rng = np.random.default_rng([TEST_STREAM, length])
        split: Split = "test"
        size = max(1, min(64, 65536 // length))
        right = count = 0
        nats = 0.0
        for _ in range(math.ceil(self.config.test_batch / size)):
            loss, r, n = self._loss(self.task.batch(rng, size, length, split), length * 3 // 4)
            right, count, nats = right + r, count + n, nats + float(loss) * n
        accuracy = right / count
        chance = self.task.chance
        scaled = (accuracy - chance) / (1 - chance)
        return Row(length=length, accuracy=accuracy, scaled=scaled, bits=nats / count / math.log(2))


def length_at(step: int, config: TrainConfig, task: Task, rng: np.random.Generator) -> int:
    """The length of one batch: between a bound, which grows over the first half of the run, and half of it."""
    if task.fixed_length is not None:
        return task.fixed_length
    if not config.curriculum:
        return config.train_length
    low = min(task.min_length, config.train_length)
    grown = min(1.0, (step + 1) / max(1.0, config.steps / 2))
    high = low + round(grown * (config.train_length - low))
    return int(rng.integers(max(low, high // 2), high + 1))


def rate_at(step: int, config: TrainConfig) -> float:
    """The learning rate's factor: a linear warm-up, then a cosine down to a tenth."""
    warm = max(1, round(config.warmup * config.steps))
    if step < warm:
        return (step + 1) / warm
    rest = (step - warm) / max(1, config.steps - warm)
    return 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * rest))


def place(model: nn.Module, config: TrainConfig) -> nn.Module:
    """`model` on its device and in its dtype.  Raises SpecError E0705 where there is no such device."""
    try:
        torch.zeros(1, device=config.device).item()  # the device "meta" holds no numbers
        return model.to(torch.device(config.device), DTYPES[config.dtype])
    except (RuntimeError, AssertionError) as error:
        reason = shorten(str(error).splitlines()[0], 90, placeholder=" ...")
        raise training_error(
            "E0705", f"cannot use the device '{config.device}': {reason}", help="--device cpu"
        ) from None
