"""Grey pictures as PNG files, written from the format's own three chunks."""

import struct
import zlib

import numpy as np

_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def grey(image, percentiles=(0.5, 99.8)):
    """An image as the bytes of an 8-bit grey PNG.

    Args:
        image: (H, W) numbers, any unit; what is not finite becomes black.
        percentiles: the lower one becomes black, the upper one white.

    Raises:
        ValueError: not an image of two dimensions with a pixel in it.

    Reference:
        W3C, Portable Network Graphics (PNG) Specification, ISO/IEC 15948.
    """
    image = np.asarray(image, float)
    if image.ndim != 2 or image.size == 0:
        raise ValueError(f"image should have shape (H, W), got {image.shape}: give one frame")
    finite = np.isfinite(image)
    low, high = np.percentile(image[finite], percentiles) if finite.any() else (0.0, 0.0)
    scale = 255 / (high - low) if high > low else 0.0
    levels = np.clip(np.where(finite, image - low, 0) * scale, 0, 255).round().astype(np.uint8)
    height, width = levels.shape
    lines = np.pad(levels, ((0, 0), (1, 0)))  # before each line the number of its filter, none
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = (b"IHDR", header), (b"IDAT", zlib.compress(lines.tobytes(), 6)), (b"IEND", b"")
    return _SIGNATURE + b"".join(_chunk(kind, data) for kind, data in chunks)


def _chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
