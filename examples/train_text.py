"""Train the character model `char_lm.rnn` on a text file, then let it write: `train_text.py [FILE] [STEPS]`."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

import rnnc
from rnnc.training.tasks.data import read_text


def main(file: str | None = None, steps: int = 150) -> None:
    here = Path(__file__).parent
    task = read_text(Path(file) if file else here.parent / "README.md")
    CharLM = rnnc.compile(rnnc.load(here / "char_lm.rnn"))
    torch.manual_seed(0)
    model = CharLM(vocab=task.vocab)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)

    for step in range(steps):
        batch = task.batch(np.random.default_rng(step), 16, 64)
        logits, _ = model(torch.from_numpy(batch.inputs))  # [16, 64, vocab]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), torch.from_numpy(batch.targets).flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % max(1, steps // 5) == 0 or step == steps - 1:
            print(f"step {step}: {loss.item() / np.log(2):.2f} bits a character")

    print(write(model, task.alphabet, task.codes[:20].tolist(), 60))


@torch.no_grad()
def write(model: torch.nn.Module, alphabet: str, prompt: list[int], count: int) -> str:
    """`prompt` and `count` more characters, each the most likely one, from the streaming form of the model."""
    logits, state = model(torch.tensor([prompt]))
    text, last = list(prompt), logits[:, -1]
    for _ in range(count):
        token = last.argmax(-1)
        text.append(int(token))
        last, state = model.step(token, state=state)
    return "".join(alphabet[c] for c in text)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 and sys.argv[1] else None, int(sys.argv[2]) if len(sys.argv) > 2 else 150)
