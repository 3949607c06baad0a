"""`python -m triune`: the command without its console script."""

from triune.cli import main

main()
