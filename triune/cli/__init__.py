"""The `triune` command."""

import typer

from triune.cli import data, env, folders, jobs, reward
from triune.cli.folders.export import export
from triune.cli.folders.replay import replay
from triune.cli.folders.trace import trace
from triune.cli.system.demo import demo
from triune.cli.system.doctor import doctor
from triune.cli.system.health import health
from triune.cli.system.serve import serve
from triune.cli.system.up import up

app = typer.Typer(
    name="triune",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Reinforcement-learning post-training of vision-language models, as five services on a message bus.",
)
app.add_typer(jobs.app, name="job")
app.add_typer(data.app, name="data")
app.add_typer(reward.app, name="reward")
app.add_typer(env.app, name="env")
app.add_typer(folders.app, name="runs")
for command in (demo, up, trace, export, replay, doctor, health, serve):
    app.command()(command)


def main() -> None:
    """Entry point of the console script."""
    app()
