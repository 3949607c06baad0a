"""The files that a job began with: it goes on with the same ones, or says that they have changed."""

from collections.abc import Iterable, Mapping, Sequence

from services.data.reading.sources import Segment
from shared.errors import BadData
from shared.jobs.record import DataFacts
from shared.runtime.logging import get_logger
from shared.samples.files import DataFile


def facts_of(files: Iterable[DataFile], groups: int) -> DataFacts:
    """What is put on record of `files`; one pass over the training files has `groups` prompts. Reads no row."""
    return DataFacts(files={str(file.place): file.fingerprint() for file in files}, groups=groups)


def files_of(*indexes: Mapping[str, Sequence[Segment]]) -> list[DataFile]:
    """The files whose rows stand in these indexes, each once."""
    return list({segment.file: None for index in indexes for segments in index.values() for segment in segments})


def same_files(job: str, found: Sequence[DataFile], known: DataFacts | None) -> list[DataFile]:
    """Of the files that were found, those that the job began with (`known`; None: all of them).

    One that came later is left out with a warning, so that the order stays what it was. Raises BadData when one is
    missing or has other rows.
    """
    if known is None:
        return list(found)
    there = {str(file.place): file for file in found}
    for path, fingerprint in known.files.items():
        if path not in there or there[path].fingerprint() != fingerprint:
            what = "has other rows" if path in there else "is not there any more"
            raise BadData(
                f"the data has changed since job {job} began: {path} {what}; expected it as it was, or "
                f"`triune job resume {job} --accept-changed-data`"
            )
    late = sorted(there.keys() - known.files.keys())
    if late:
        get_logger(job=job).warning("files that came after the job's beginning are left out", files=late)
    return [file for path, file in there.items() if path in known.files]
