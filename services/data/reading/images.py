"""Images that a row names by path or URI: read beside its file, under the operator's roots, at most so many bytes.

One that stands in the row itself, as a data URL, is read from there.
"""

from services.data.reading.sample import LoadImage
from shared.errors import BadData, BadSample
from shared.samples.images import LIMIT_BYTES, read_data_url
from shared.samples.places import Place, Roots, parse_place, reading


def beside(file: Place, roots: Roots) -> LoadImage:
    """Loads the images of the rows of `file`: a relative path begins in its folder."""
    folder = file.folder

    def load(path: str) -> bytes:
        inside = read_data_url(path)
        if inside is not None:
            return inside
        try:
            place = parse_place(path, base=folder)
            if not roots.allow(place):
                raise BadSample(f"{path} lies outside the data roots {roots}")
            with reading(place), place.open() as source:
                data: bytes = source.read(LIMIT_BYTES + 1)
        except BadData as error:
            raise BadSample(f"{path}: {error}") from error
        return data

    return load
