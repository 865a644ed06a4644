"""Pillow (8 - 13): images of every mode, with their palette and what is known of the file they came from.

An image is made by Pillow from its mode, its size and its pixels; the pixels must be as many as mode and size ask for,
before any memory is asked for. An image of a file (``PngImageFile``) keeps its class, and no file.
"""

from __future__ import annotations

import importlib
import re
from typing import TYPE_CHECKING, Any, Tuple

from vineyard_client.exceptions import UnsafeType

from ..ops import FILL, MAKE
from ..parts import checked, damaged, refused
from ..policy import qualified

if TYPE_CHECKING:
    from ..reader import Reader
    from ..table import Table
    from ..writer import Writer

Image: Any = None  # set by install(): this module is loaded for values of Pillow only

_PLUGIN = re.compile(r"PIL\.\w+ImagePlugin\Z")
_CLASS = re.compile(r"\w+ImageFile\Z")
# Mode -> bits of a pixel.
_BITS = {
    **{"1": 1, "L": 8, "P": 8, "LA": 16, "PA": 16, "La": 16, "I;16": 16, "I;16L": 16, "I;16B": 16, "I;16N": 16},
    **{"BGR;15": 16, "BGR;16": 16, "BGR;24": 24, "RGB": 24, "YCbCr": 24, "LAB": 24, "HSV": 24},
    **{"RGBA": 32, "RGBX": 32, "RGBa": 32, "CMYK": 32, "I": 32, "F": 32},
}
# What images of files have besides.
_OWN = ("filename", "quantization", "layers", "layer")


def _reduce(writer: Writer, image: Any) -> Tuple[Any, ...]:
    cls = type(image)
    if cls is not Image.Image and not (_PLUGIN.match(cls.__module__) and _CLASS.match(cls.__qualname__)):
        raise UnsafeType(
            f"A {qualified(cls)} cannot be stored: this release does not know that class of Pillow.",
            "Store an image, or the numbers behind it.",
            qualified(cls),
        )
    image.load()
    palette = None
    if image.mode in ("P", "PA", "L", "LA") and image.palette is not None:
        mode = image.im.getpalettemode() if image.mode in ("P", "PA") else image.palette.mode
        palette = (mode, bytes(image.im.getpalette(mode, mode))) if image.mode in ("P", "PA") else None
    own = {name: vars(image)[name] for name in _OWN if name in vars(image)}
    head = "PIL.image", cls.__module__, cls.__qualname__, image.mode, image.size, palette, image.tobytes()
    return MAKE, head, ("PIL.image", (dict(image.info), own)), None, None, FILL


def _make(reader: Reader, module: Any, name: Any, mode: Any, size: Any, palette: Any, pixels: Any) -> Any:
    if (module, name) == ("PIL.Image", "Image"):
        cls: Any = Image.Image
    elif _PLUGIN.match(checked(module, str)) and _CLASS.match(checked(name, str)):
        cls = getattr(importlib.import_module(module), name, None)
    else:
        raise refused(f"{module}.{name} is no image", f"{module}.{name}")
    if not isinstance(cls, type) or not issubclass(cls, Image.Image) or qualified(cls) != f"{module}.{name}":
        raise refused(f"{module}.{name} is no image", f"{module}.{name}")
    width, height = checked(size, tuple)
    bits = _BITS.get(mode)
    if bits is None or type(width) is not int or type(height) is not int or width < 0 or height < 0:
        raise damaged(f"an image has mode {mode!r} and size {size!r}")
    if len(checked(pixels, bytes)) != (width * bits + 7) // 8 * height:
        raise damaged("the pixels of an image are not as many as its size says")
    plain = Image.frombytes(mode, size, pixels) if width and height else Image.new(mode, size)
    if palette is not None:
        kind, colours = checked(palette, tuple)
        if kind not in ("RGB", "RGBA") or len(checked(colours, bytes)) % len(kind) or len(colours) > 256 * len(kind):
            raise damaged("the palette of an image is none")
        plain.putpalette(colours, kind)
    if cls is Image.Image:
        return plain
    image = Image.Image.__new__(cls)
    vars(image).update(vars(plain))
    image.tile = []
    return image


def _fill(reader: Reader, image: Any, content: Any) -> None:
    info, own = content
    vars(image)["info"] = checked(info, dict)
    if not set(checked(own, dict)) <= set(_OWN):
        raise damaged("an image has attributes that no image has")
    vars(image).update(own)


def install(table: Table) -> None:
    """Declare images."""
    global Image
    Image = importlib.import_module("PIL.Image")
    table.bases[Image.Image] = _reduce
    table.makers["PIL.image"] = _make
    table.filler("PIL.image", _fill, "PIL.image", holds=True)
