"""What the operator of the data service decides; the job decides the rest."""

from dataclasses import dataclass


@dataclass(frozen=True)
class DataConfig:
    """Bounds of one instance."""

    drafts_ahead: int = 256
    """Prompts that are made before the window admits them, so that an opening window is filled at once."""
    drafts_at_once: int = 16
    """Prompts that are made in one go of the worker thread."""
    publish_at_once: int = 64
    """Prompts that are published together; the ordinal is stored after each such lot."""
    rows_kept: int = 65536
    """Rows kept ready, without their images (some 2 KB each); a row group past that is read again."""
