"""`python -m triune.demo.prepare FOLDER`: the demo's data set and model, for a deployment that a job is submitted to.

`FOLDER/data/{train,test}` and `FOLDER/model` are what `deploy/compose/demo.toml` names. What is there is kept.
"""

import contextlib
import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from triune.cli.errors import exit_codes
from triune.demo.dataset import make
from triune.demo.main import prepare
from triune.demo.warm_start import Recipe, Stage, warm_start

_SHORT = Stage(steps=4, learning_rate=1e-3, wrong_share=0.0, warmup_steps=0)

out = Console(stderr=True, highlight=False)


def main(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="where data and model are put")],
    quick: Annotated[
        bool, typer.Option("--quick", help="a small set and an untrained model, to try the pipes")
    ] = False,
) -> None:
    """Draw the data set and warm-start the model in FOLDER."""
    with exit_codes():
        data, model = _quick(folder) if quick else prepare(folder)
        _link(folder / "model", model)
        out.print(f"data in {data}, model in {folder / 'model'}")


def _quick(folder: Path) -> tuple[Path, Path]:
    data = folder / "data"
    make(data, train_per_task=24, held_out_per_task=4)
    return data, warm_start(folder, recipe=Recipe(clean=_SHORT, mixed=_SHORT))


def _link(link: Path, model: Path) -> None:
    """`link` names `model`, beside it; replaced whole."""
    new = link.with_name(".model-link")
    with contextlib.suppress(FileNotFoundError):
        new.unlink()
    new.symlink_to(os.path.relpath(model, link.parent))
    new.replace(link)


if __name__ == "__main__":
    typer.run(main)
