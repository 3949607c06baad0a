"""One JSON line an event on standard error: constant text, facts as fields."""

import contextlib
import logging
import sys
from typing import Any, TextIO, cast

import structlog


class LossyText:
    """`text`, but nothing is raised where it takes nothing more: no service dies for a log that lies on a full disk.

    What it has begun of a line it goes on with once there is room; lines in between are lost.
    """

    def __init__(self, text: TextIO) -> None:
        self._text = text

    def write(self, line: str) -> None:
        with contextlib.suppress(OSError):
            self._text.write(line)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._text.flush()


def set_up_logging(service: str, replica: str, level: int = logging.INFO) -> None:
    """Call once, first thing in a process."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(file=cast(TextIO, LossyText(sys.stderr))),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(service=service, replica=replica)


def get_logger(**facts: Any) -> Any:
    """A logger whose lines carry `facts`: `log.info("weights published", version=7)`."""
    return structlog.get_logger(**facts)
