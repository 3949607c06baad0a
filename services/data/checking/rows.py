"""The rows of one group looked at: one problem a bad row, and what the good ones hold."""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b

from services.data.checking.duplicates import difference_hash
from services.data.checking.facts import Facts, Tally
from services.data.reading.images import beside
from services.data.reading.sample import LoadImage, Sample, identify, read_row
from shared.errors import BadData, BadSample, Unavailable
from shared.messages import RewardSpec
from shared.samples.files import DataFile, Problem, read_group
from shared.samples.images import skim_image
from shared.samples.places import ANYWHERE, Roots
from shared.samples.verifiers import SELF_JUDGED

Weigh = Callable[[Sample], int]
"""Prompt tokens of a sample, images included; raises BadSample for one that the model's own code refuses."""


@dataclass(frozen=True)
class Depth:
    """How closely rows are looked at. `verifiers`: the names that a row may ask for; None: those installed here."""

    decode: bool = True
    roots: Roots = ANYWHERE
    verifiers: frozenset[str] | None = None


@dataclass
class GroupReport:
    """What was found in one group; it crosses processes, so images are hashes here.

    `images`: row, digest of the bytes (16), and the difference hash of what is seen (None unless decoded).
    """

    looked_at: int = 0
    problems: list[Problem] = field(default_factory=list)
    tallies: dict[str, Tally] = field(default_factory=dict)
    images: list[tuple[int, bytes, int | None]] = field(default_factory=list)
    truths: list[tuple[int, RewardSpec]] = field(default_factory=list)
    """Row and truth of what its verifier must still judge: nothing here runs one."""


def check_group(
    file: DataFile, group: int, depth: Depth, *, only: Collection[int] | None = None, weigh: Weigh | None = None
) -> GroupReport:
    """Looks at the rows of one group (`only` these, by their place in the group); never raises for what it finds."""
    report, start, seen = GroupReport(), file.first_row(group), 0
    load = beside(file.place, depth.roots)
    try:
        for place, row in enumerate(read_group(file, group)):
            seen = place + 1
            if only is None or place in only:
                _check_row(row, file, start + place, load, depth, weigh, report)
    except (BadData, Unavailable) as error:
        reason = str(error).removeprefix(f"{file.place}: ")
        lost = file.groups[group] - seen
        report.problems.append(Problem(str(file.place), None, f"{reason} ({lost} rows lost)"))
    return report


def check_file(file: DataFile, depth: Depth = Depth()) -> Iterator[Problem]:
    """The problems of one file, group by group, in this process."""
    for group in range(len(file.groups)):
        yield from check_group(file, group, depth).problems


def _check_row(
    row: dict[str, object],
    file: DataFile,
    number: int,
    load: LoadImage,
    depth: Depth,
    weigh: Weigh | None,
    report: GroupReport,
) -> None:
    report.looked_at += 1
    place = f"{file.place.name}#{number}"
    source = identify(row, place).source
    tally = report.tallies.setdefault(source, Tally())
    try:
        sample = read_row(row, place, load, depth.verifiers)
        pictures = [skim_image(image.data) for image in sample.images] if depth.decode else []
        tokens = weigh(sample) if weigh is not None else None
    except BadSample as error:
        tally.bad += 1
        report.problems.append(Problem(str(file.place), number, str(error)))
        return
    tally.add(Facts.of(sample, tokens))
    if sample.verifier in SELF_JUDGED:
        spec = RewardSpec(verifier=sample.verifier, answer="", ground_truth=sample.ground_truth, params=sample.params)
        report.truths.append((number, spec))
    for index, image in enumerate(sample.images):
        seen = difference_hash(pictures[index]) if depth.decode else None
        report.images.append((number, blake2b(image.data, digest_size=16).digest(), seen))
