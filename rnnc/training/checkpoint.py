"""Checkpoints: one safetensors file with the weights, the optimiser's state and the run's record so far.

A checkpoint is written beside its place and then moved over it: a killed run leaves the old one or the new one whole.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from rnnc.training.config import training_error


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """`step` steps are done; `curve` has rows (step, length, loss, accuracy); `seconds` of training so far."""

    step: int
    seconds: float
    curve: tuple[tuple[int, int, float, float], ...]


def write_atomically(path: Path, content: bytes) -> None:
    """The file is either as before or complete, also when the process is killed half-way."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.draft")
    try:
        with open(draft, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def save_checkpoint(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress, identity: dict[str, Any]
) -> None:
    """`identity` says which run this is: a resume must match it."""
    tensors = {f"model/{name}": value for name, value in model.state_dict().items()}
    for index, entries in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{index}/{key}": value for key, value in entries.items()}
    # clone: parameters that share memory cannot be stored as they are
    plain = {name: value.detach().cpu().clone().contiguous() for name, value in tensors.items()}
    about = {"identity": identity, "step": progress.step, "seconds": progress.seconds, "curve": progress.curve}
    write_atomically(path, save(plain, {"rnnc": json.dumps(about)}))


def load_checkpoint(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, identity: dict[str, Any]
) -> Progress:
    """Restores weights and optimiser in place.  Raises SpecError E0704 where the file is not of this run."""
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads(file.metadata()["rnnc"])
            tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        raise training_error("E0704", f"{path} is not a checkpoint of rnnc", help="leave out --resume") from None
    differing = [
        f"{key}: {about['identity'].get(key)!r} there, {value!r} here"
        for key, value in json.loads(json.dumps(identity)).items()
        if about["identity"].get(key) != value
    ]
    if differing:
        raise training_error(
            "E0704",
            f"{path} is of another run",
            help="give the same options, or another --out, or leave out --resume",
            notes=tuple(differing),
        )
    model.load_state_dict({k.removeprefix("model/"): v for k, v in tensors.items() if k.startswith("model/")})
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer/"):
            _, index, key = name.split("/")
            state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return Progress(step=about["step"], seconds=about["seconds"], curve=tuple(tuple(row) for row in about["curve"]))
