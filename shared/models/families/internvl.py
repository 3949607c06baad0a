"""InternVL 3 and 3.5 in transformers' own format: an image is cut into square tiles, a thumbnail after them."""

from typing import ClassVar

from PIL import Image

from shared.models.family import Boxes, Family, Parts, PreparedImage, processed


class InternVL(Family):
    model_types = ("internvl",)
    image_marks = ("<img>", "</img>", "<IMG_CONTEXT>", "<video>")
    turn_marks = ("<|im_start|>",)
    boxes: ClassVar[Boxes | None] = "relative"

    def prepare(self, image: Image.Image, parts: Parts, *, alone: bool) -> PreparedImage:
        # The image processor's own default is one tile; the official processor asks for all.
        made = processed(parts, [image], crop_to_patches=True)
        tiles = made["pixel_values"]
        tokens = len(tiles) * int(parts.config.image_seq_length)
        side = tiles.shape[-1] // parts.patch_size
        grid = (1, side, side) if len(tiles) == 1 else (1, *_tiling(image, len(tiles) - 1, side))
        return PreparedImage({"pixel_values": tiles}, f"<img>{parts.image_token * tokens}</img>", tokens, grid)


def _tiling(image: Image.Image, tiles: int, side: int) -> tuple[int, int]:
    """Patches down and across of `tiles` tiles laid out as the processor does: nearest to the image's shape."""
    shapes = [(rows, tiles // rows) for rows in range(1, tiles + 1) if tiles % rows == 0]
    rows, columns = min(shapes, key=lambda shape: abs(shape[1] / shape[0] - image.width / image.height))
    return rows * side, columns * side


FAMILIES = (InternVL(),)
