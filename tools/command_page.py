"""docs/commands.md: every command with its options, as `--help` shows them: `python -m tools.command_page`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from triune.cli import app

PAGE = Path(__file__).parents[1] / "docs" / "commands.md"
_INTRODUCTION = """# Commands

Written by `python -m tools.command_page`. `triune COMMAND --help` shows the same; `triune --install-completion` makes
the shell complete commands and options. Exit codes: 0 done, 1 failed, 2 bad input, each with one sentence on standard
error; 130 after Ctrl-C. With `--json`, standard output holds JSON alone.
"""


def page() -> str:
    """The page."""
    return _INTRODUCTION + "".join(_shown(path, command) for path, command in commands())


def commands() -> Iterator[tuple[str, Any]]:
    """Every command that does something, with the words it is called by."""
    yield from _below("triune", typer.main.get_command(app))


def _below(path: str, command: Any) -> Iterator[tuple[str, Any]]:
    found: dict[str, Any] = getattr(command, "commands", {})
    if not found:
        yield path, command
    for name in sorted(found):
        yield from _below(f"{path} {name}", found[name])


def _shown(path: str, command: Any) -> str:
    arguments = [one for one in command.params if one.param_type_name == "argument"]
    options = [one for one in command.params if one.param_type_name == "option"]
    words = " ".join(_placeholder(one) for one in arguments)
    lines = ["", f"## {path}", "", f"`{path} {words}`".replace(" `", "`"), "", _paragraphs(command.help or ""), ""]
    rows = [f"| `{_placeholder(one)}` | {_cell(one.help)} |" for one in arguments]
    rows += [
        f"| `{', '.join([*one.opts, *one.secondary_opts])}` | {_cell(one.help)}{_default(one)} |" for one in options
    ]
    if rows:
        lines += ["| word | meaning |", "|---|---|", *rows, ""]
    return "\n".join(lines)


def _placeholder(argument: Any) -> str:
    name = str(argument.metavar or argument.name).strip("[]{}.").upper()
    name = f"{name} …" if argument.nargs == -1 else name
    return name if argument.required else f"[{name}]"


def _paragraphs(text: str) -> str:
    return "\n".join(line.strip() for line in text.strip().splitlines())


def _cell(text: str | None) -> str:
    return " ".join((text or "").split()).replace("|", "\\|")


def _default(option: Any) -> str:
    plain = isinstance(option.default, str | int | float) and not isinstance(option.default, bool)
    return f" (default {option.default})" if plain and option.default != "" else ""


if __name__ == "__main__":
    PAGE.write_text(page())
