"""DeepSpeed over many CPU ranks against one device after five steps: largest and mean difference of the weights.

Prints one JSON line a job: `python bench/ranks.py [--ranks N …] [--jobs NAME …]`; a job is `<kind>-<stage>-<dtype>`
(`tests/learner/ranks_world.py` has the kinds). The rate is 1e-3; means say more than the largest difference, since
AdamW makes a step of that size of rounding noise where the true gradient is 0.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file

from services.learner.engines.torch import TorchEngine
from services.learner.intake.ingest import GroupIngest
from tests.learner.conftest import make_model
from tests.learner.ranks_world import ALL, spec_of, steps, weights
from tests.learner.test_ranks import differences, torchrun

JOBS = [
    *(f"{kind}-{stage}-float32" for kind in ("frozen", "lora", "kl", "loraKl", "offload") for stage in (1, 2, 3)),
    "trained-2-float32",
    "trained-3-float32",
    "offloadAll-3-float32",
]


def alone(model: Path, name: str) -> dict[str, torch.Tensor]:
    """The weights of one device."""
    spec = spec_of(str(model), name, engine="torch", zero_stage=2, offload_parameters=False)
    engine = TorchEngine(GroupIngest(spec).pixels)
    engine.open(spec, None)
    steps(engine, spec, range(1, ALL + 1))
    return weights(engine)


def main() -> int:
    """A line a job and number of ranks; the exit code is that of the first torchrun that failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ranks", type=int, nargs="*", default=[2, 4])
    parser.add_argument("--jobs", nargs="*", default=JOBS)
    wanted = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as made:
        (Path(made) / "model").mkdir()
        model = make_model(Path(made) / "model")
        expected = {name: alone(model, name) for name in wanted.jobs}
        for ranks in wanted.ranks:
            out = Path(made) / str(ranks)
            out.mkdir()
            run = torchrun(ranks, model, out, *wanted.jobs)
            if run.returncode:
                sys.stderr.write(run.stderr[-3000:])
                return run.returncode
            for name in wanted.jobs:
                largest, mean = differences(load_file(out / f"{name}.safetensors"), expected[name])
                line = {"bench": "ranks", "ranks": ranks, "job": name, "largest": largest, "mean": mean}
                sys.stdout.write(json.dumps(line) + "\n")
                sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
