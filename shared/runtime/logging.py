"""One JSON line an event on standard error: constant text, facts as fields."""

import logging
import sys
from typing import Any

import structlog


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
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(service=service, replica=replica)


def get_logger(**facts: Any) -> Any:
    """A logger whose lines carry `facts`: `log.info("weights published", version=7)`."""
    return structlog.get_logger(**facts)
