"""`triune job …`: submit, watch and steer jobs over REST."""

import typer

from triune.cli.jobs import compare, listing, logs, steer, submit, watch

app = typer.Typer(no_args_is_help=True, help="Submit, watch and steer jobs.")
app.command()(submit.submit)
app.command("list")(listing.list_jobs)
app.command()(listing.show)
app.command()(watch.watch)
app.command("pause")(steer.pause)
app.command("stop")(steer.stop)
app.command("checkpoint")(steer.checkpoint)
app.command()(steer.resume)
app.command()(steer.delete)
app.command("import")(steer.import_run)
app.command("set")(steer.change)
app.command()(compare.diff)
app.command()(compare.clone)
app.command()(logs.logs)
