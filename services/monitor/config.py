"""The monitor's own settings."""

import msgspec


class MonitorConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Times are in seconds."""

    batch_records: int = 512
    """Journal records, and events, in one transaction at most."""
    read_s: float = 0.25
    """How long a read of a journal waits for a record."""
    report_s: float = 5.0
    """At least so long between two writings of report.json; an evaluation is written at once."""
    draw_s: float = 60.0
    """At least so long between two writings of curves.png and metrics.parquet; both are written at the end."""
    feed_s: float = 5.0
    """How often a job's sinks (TensorBoard and the like) are given what is new."""
    feed_again_s: float = 60.0
    """A sink that failed is tried again after so long."""
    feed_last_s: float = 30.0
    """The end of a job waits for its sinks for so long at most."""
    feed_close_s: float = 3.0
    """A monitor that stops waits for the sinks to be closed for so long at most."""
    promote_s: float = 0.5
    """How often the queue of jobs is looked at."""
    sample_s: float = 2.0
    """How often queue depths and replicas are looked at."""
    rest_s: float = 30.0
    """A queue depth (and the like) that has not changed is noted again after so long."""
    silent_s: float = 5.0
    """A replica that was not heard of for so long is shown as silent."""
    forget_s: float = 300.0
    """A replica that was not heard of for so long is no longer shown."""
    kept_image_bytes: int = 64 * 1024 * 1024
    """Images of a job's newest samples stay in its run folder, up to so many bytes, when its blobs go."""
    body_bytes: int = 1024 * 1024
    """A larger request body is refused with 413."""
