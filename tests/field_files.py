"""Small real files of formats that nothing here can write: DigitalMicrograph, Velox, MRC, TIA."""

import json
import struct

import h5py
import numpy as np

_DM_TYPES = {"int16": 1, "float32": 2, "complex64": 3, "int32": 7, "uint16": 10, "uint32": 11}
_DM_ELEMENT = {"int16": 2, "float32": 6, "complex64": 11, "int32": 3, "uint16": 4, "uint32": 5}
_SER_TYPES = {"uint8": 1, "uint16": 2, "uint32": 3, "int16": 5, "int32": 6, "float32": 7}


def dm(path, frames, scale=1.0, unit="", voltage=200e3, version=4):
    """A .dm3 or .dm4 of an image (H, W) or a stack (N, H, W): one image and its tags."""
    size = ">q" if version == 4 else ">i"

    def tag(kind, name, body):
        return struct.pack(">BH", kind, len(name)) + name.encode() + body

    def data(name, info, raw):
        head = (struct.pack(">q", 0) if version == 4 else b"") + b"%%%%"
        head += struct.pack(size, len(info)) + b"".join(struct.pack(size, part) for part in info)
        return tag(21, name, head + raw)

    def number(name, value, kind="<d", code=7):
        return data(name, [code], struct.pack(kind, value))

    def text(name, value):
        return data(name, [20, 4, len(value)], value.encode("utf-16-le"))

    def group(name, tags):
        head = struct.pack(">BB", 1, 0) + (struct.pack(">q", 0) if version == 4 else b"")
        return tag(20, name, head + struct.pack(size, len(tags)) + b"".join(tags))

    def axis(step, of):
        return [number("Origin", 0.0, "<f", 6), number("Scale", step, "<f", 6), text("Units", of)]

    frames = np.ascontiguousarray(frames)
    steps = [(scale, unit), (scale, unit), (1.0, "")][: frames.ndim]
    image = [
        group("ImageData", [
            group("Calibrations", [
                group("Brightness", axis(1.0, "")),
                group("Dimension", [group("", axis(*step)) for step in steps]),
            ]),
            data("Data", [20, _DM_ELEMENT[frames.dtype.name], frames.size], frames.tobytes()),
            number("DataType", _DM_TYPES[frames.dtype.name], "<I", 5),
            group("Dimensions", [number("", side, "<I", 5) for side in frames.shape[::-1]]),
        ]),
        group("ImageTags", [group("Microscope Info", [number("Voltage", voltage)])]),
        text("Name", "Ronchigram"),
    ]  # fmt: skip
    root = [group("ImageList", [group("", image)])]
    body = struct.pack(">BB", 1, 0) + struct.pack(size, len(root)) + b"".join(root)
    path.write_bytes(struct.pack(">i", version) + struct.pack(size, len(body))
                     + struct.pack(">i", 1) + body + bytes(8))  # fmt: skip


def velox(path, stacks, pixel=0.0, unit="1/m", convergence="0.0214"):
    """A Velox .emd with one image group for each stack (N, H, W)."""
    metadata = {
        "BinaryResult": {"PixelSize": {"width": str(pixel), "height": str(pixel)},
                         "PixelUnitX": unit, "PixelUnitY": unit, "Offset": {"x": "0", "y": "0"},
                         "DetectorIndex": "0"},
        "Optics": {"AccelerationVoltage": "200000", "BeamConvergence": convergence},
        "Acquisition": {"AcquisitionStartDatetime": {"DateTime": "1556370000"}},
        "Scan": {"FrameTime": "1"},
        "Detectors": {"Detector-0": {"DetectorName": "BM-Ceta", "ExposureTime": "0.5"}},
    }  # fmt: skip
    with h5py.File(path, "w") as file:
        version = json.dumps({"format": "Velox", "version": "1.13"})
        file.create_dataset("Version", data=[version], dtype=h5py.string_dtype())
        for number, stack in enumerate(stacks):
            group = file.create_group(f"Data/Image/{number:032x}")
            group["Data"] = np.moveaxis(stack, 0, -1)
            told = np.frombuffer(json.dumps(metadata).encode(), np.uint8)
            group["Metadata"] = np.pad(told, (0, 100))[:, np.newaxis].repeat(len(stack), 1)


def mrc(path, frames, cell=0.0):
    """An .mrc of a stack (N, H, W), int16, uint16 or float32."""
    count, height, width = frames.shape
    mode = {"int16": 1, "float32": 2, "uint16": 6}[frames.dtype.name]
    head = struct.pack("<10i", width, height, count, mode, 0, 0, 0, width, height, count)
    head += struct.pack("<3f", cell * width, cell * height, 0.0)
    path.write_bytes(head.ljust(1024, b"\0") + frames.tobytes())


def ser(path, frames):
    """A TIA .ser of a stack (N, H, W); its rows run upward."""
    count, height, width = frames.shape
    unit = b"Number"
    head = struct.pack("<HHHIIII", 0x4949, 0x0197, 0x0210, 0x4122, 0x4152, count, count)
    dimension = struct.pack("<IddII", count, 0.0, 1.0, 0, len(unit)) + unit + struct.pack("<I", 0)
    start = len(head) + 8 + len(dimension)
    element = 50 + frames[0].nbytes
    offsets = [start + 8 * count + k * (element + 8) for k in range(count)]
    body = b"".join(
        struct.pack("<ddIddIHII", 0.0, 1e-9, 0, 0.0, 1e-9, 0, _SER_TYPES[frames.dtype.name],
                    width, height)
        + frame[::-1].tobytes() + struct.pack("<HHI", 0x4152, 0, 0)
        for frame in frames
    )  # fmt: skip
    tags = [offset + element for offset in offsets]
    path.write_bytes(head + struct.pack("<II", start, 1) + dimension
                     + np.array(offsets + tags, "<u4").tobytes() + body)  # fmt: skip
