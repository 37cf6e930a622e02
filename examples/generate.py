"""Train a small character model for some seconds, then let it write as a stream: one character in, the next one out.

The model reads the prompt in pieces of any length, as text arrives, and carries its state from piece to piece; from
there on each character is one `step`.  `--backend cpu` runs both by C kernels.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

import rnnc
from rnnc.training.tasks.base import TaskError
from rnnc.training.tasks.data import Text, read_text

HERE = Path(__file__).parent


def options() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--file", type=Path, default=HERE.parent / "README.md", help="text to learn from (the README)")
    p.add_argument("--backend", choices=("auto", "torch", "cpu"), default="auto", help="what runs the model (auto)")
    p.add_argument("--seconds", type=float, default=20, help="how long to train (20)")
    p.add_argument("--length", type=int, default=400, help="characters to write (400)")
    p.add_argument("--temperature", type=float, default=0.7, help="0 takes the likeliest character (0.7)")
    p.add_argument("--prompt", default="", help="what the text begins with (the file's first line)")
    p.add_argument("--seed", type=int, default=0, help="of weights, batches and characters (0)")
    return p.parse_args()


def train(model: torch.nn.Module, task: Text, seconds: float, seed: int) -> float:
    """Steps of AdamW until the time is over; the last loss in bits a character."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    bits, start, step = float("nan"), time.monotonic(), 0
    columns = (TextColumn("training"), BarColumn(), TextColumn("{task.fields[bits]:.2f} bits a character"))
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bar:
        shown = bar.add_task("", total=seconds, bits=bits)
        while (passed := time.monotonic() - start) < seconds or step == 0:
            batch = task.batch(np.random.default_rng([seed, step]), 16, 64)
            logits, _ = model(torch.from_numpy(batch.inputs))  # [16, 64, vocab]
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), torch.from_numpy(batch.targets).flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            bits, step = loss.item() / np.log(2), step + 1
            bar.update(shown, completed=min(passed, seconds), bits=bits)
        bar.update(shown, completed=seconds)
    return bits


@torch.no_grad()
def stream(model: torch.nn.Module, prompt: list[int], count: int, temperature: float, piece: int = 16) -> Iterator[int]:
    """`count` characters after the prompt, each as soon as it is known."""
    state, logits = None, None
    for at in range(0, len(prompt), piece):  # as if the prompt arrived in pieces
        read, state = model(torch.tensor([prompt[at : at + piece]]), state=state)
        logits = read[:, -1]
    assert logits is not None
    for _ in range(count):
        if temperature > 0:
            token = torch.multinomial(torch.softmax(logits / temperature, -1), 1)[:, 0]
        else:
            token = logits.argmax(-1)
        yield int(token)
        logits, state = model.step(token, state=state)


def main() -> None:
    given = options()
    try:
        task = read_text(given.file)
    except TaskError as problem:
        raise SystemExit(str(problem)) from None
    first = "".join(task.alphabet[c] for c in task.codes[:80]).partition("\n")[0]
    prompt = given.prompt or first or task.alphabet[0]
    unknown = sorted(set(prompt) - set(task.alphabet))
    if unknown:
        raise SystemExit(f"the text has no {', '.join(map(repr, unknown))}, so the prompt cannot be read")
    torch.manual_seed(given.seed)
    model = rnnc.compile(rnnc.load(HERE / "char_lm.rnn"), backend=given.backend)(vocab=task.vocab)
    train(model, task, given.seconds, given.seed)

    sys.stdout.write(prompt)
    start = time.perf_counter()
    for code in stream(model, [task.alphabet.index(c) for c in prompt], given.length, given.temperature):
        sys.stdout.write(task.alphabet[code])
        sys.stdout.flush()
    rate = given.length / (time.perf_counter() - start)
    print(f"\n\n{rate:.0f} characters a second", file=sys.stderr)


if __name__ == "__main__":
    main()
