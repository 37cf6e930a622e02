"""How long a cold process takes: `import rnnc`, and `rnnc check` on specs of the standard library, beside bare Python.

python -m benchmarks.cold_start
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict

from benchmarks.measure import Runner, interleaved, machine, parser

SPECS = ("gated_deltanet", "lstm", "mamba2", "s5")


def process(*arguments: str) -> Runner:
    """One fresh process of this Python, from its start to its end."""

    def run() -> object:
        return subprocess.run([sys.executable, *arguments], check=True, capture_output=True)

    return run


def main() -> None:
    options = parser(__doc__ or "", "cold_start").parse_args()
    before = machine()
    runners = {"python": process("-c", "pass"), "import rnnc": process("-c", "import rnnc")}
    runners |= {f"rnnc check {spec}": process("-m", "rnnc", "check", spec) for spec in SPECS}
    timings = interleaved(runners, baseline="python", rounds=options.rounds)
    for name, timing in timings.items():
        print(f"{name:28s} {timing.median_ms:8.1f} ms  [{timing.quartiles_ms[0]:.1f}, {timing.quartiles_ms[1]:.1f}]")
    cases = {name: asdict(timing) for name, timing in timings.items()}
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps({"machine": before, "cases": cases}, indent=1) + "\n")
    print(f"written to {options.output}")


if __name__ == "__main__":
    main()
