"""Tables of the other notations, and the reading of reports written in them.

A report becomes readings, one for each value named in it, in nm and still under its own names;
`jaxcal.notations` makes Krivanek's coefficients of them.
"""

import cmath
import json
import math
import re
from collections.abc import Mapping
from typing import NamedTuple

from jaxcal.aberrations import POLAR_NAMES


class Notation(NamedTuple):
    """One notation: how it calls the 14 aberrations, and in which unit and shape it gives them."""

    title: str
    unit: str
    unit_nm: float
    terms: dict  # own name -> (Krivanek's polar name, factor): Krivanek = factor * own
    style: str  # how a two-part value is written: "parts", "complex" or "polar"
    joint: str = ""  # between a name and its part a or b


_KRIVANEK = {name: (name, 1) for name in POLAR_NAMES}
_CEOS_NAMES = "C1 A1 B2 A2 C3 S3 A3 B4 D4 A4 C5 S5 R5 A5".split()
_CEOS_FACTORS = (1, 1, 3, 1, 1, 4, 1, 5, 5, 1, 1, 6, 6, 1)
CEOS = dict(zip(_CEOS_NAMES, zip(POLAR_NAMES, _CEOS_FACTORS, strict=True), strict=True))
CEOS_FLIPPED = tuple(name for name, (_, factor) in CEOS.items() if factor > 1)
_JEOL_NAMES = "O2 A2 P3 A3 O4 Q4 A4 P5 R5 A5 O6 Q6 S6 A6".split()
_JEOL = {own: (name, 1) for own, name in zip(_JEOL_NAMES, POLAR_NAMES, strict=True)}

TABLE = {
    "krivanek": Notation("Krivanek", "nm", 1.0, _KRIVANEK, "parts"),
    "polar": Notation("polar", "nm", 1.0, _KRIVANEK, "polar"),
    "ceos": Notation("CEOS", "m", 1e9, CEOS, "complex"),
    "jeol": Notation("JEOL", "nm", 1.0, _JEOL, "polar"),
    "nion": Notation("Nion", "m", 1e9, _KRIVANEK, "parts", "."),
}
LENGTHS_NM = {
    "pm": 1e-3, "nm": 1.0, "um": 1e3, "µm": 1e3, "μm": 1e3, "mm": 1e6, "m": 1e9,
    "Å": 0.1, "\u212b": 0.1, "Ang": 0.1,
}  # fmt: skip
DUST_NM = 1e-10  # what rounding leaves of a part that is zero
_ANGLES_DEG = {"": 1.0, "deg": 1.0, "degree": 1.0, "degrees": 1.0, "°": 1.0,
               "rad": 180 / math.pi}  # fmt: skip

# bounded, so that no text takes long to be found none
_NUMBER = r"[+\-−]?(?:\d{1,30}\.?\d{0,30}|\.\d{1,30})(?:[eE][+\-−]?\d{1,5})?"
LONGEST = 400  # characters of a line
SMALLEST_BARE_DEG = 1e-3  # of an angle without a unit; less is a length in metres
_WORD = r"[^\W\d_]+|°|Å"
_UNCERTAIN = re.compile(
    rf"(?:(?P<value>{_NUMBER})\s*(?P<unit>{_WORD})?\s*)?(?:±|\+/-|\+-)\s*{_NUMBER}"
    rf"\s*(?P<after>{_WORD})?|\([^)]*(?:±|\+/-|%|err|conf)[^)]*\)"
)
_LINE = re.compile(
    r"[-*•]?\s*(?P<name>[^\W\d_]_?\d+(?:[._]?[abxyABXY])?)\b(?!\.)\s*"
    r"(?:\((?=[^()]*[^\W\d_]{3})[^()]*\)\s*)?"  # what it is called, in words
    r"[:=|]?\s*(?P<rest>.*)"
)
_VALUE = re.compile(
    rf"(?P<size>{_NUMBER})\s*(?P<unit>{_WORD})?"
    rf"(?:(?P<gap>\s*[/,;@|∠]\s*|\s+)(?:(?:phi|angle|azimuth)\s*=?\s*)?"
    rf"(?P<angle>{_NUMBER})\s*(?P<angle_unit>{_WORD})?)?\s*[|;,]?\s*"
)
_PARTS = {"a": "a", "x": "a", "b": "b", "y": "b"}


class Entry(NamedTuple):
    """One reading: own name, part ("a", "b" or None for a whole term), value in nm, its place."""

    name: str
    part: str | None
    value: complex
    place: str


def symmetry_of(notation, name):
    """m of an aberration by its own name; 0 where it is round and one number says it all."""
    return int(notation.terms[name][0][2])


def _name(text, notation, place):
    """Own name and part of what a report calls a coefficient."""
    plain = text.replace("_", "").replace(".", "")
    part = None
    if plain[-1:].lower() in _PARTS and plain[-2:-1].isdigit():
        plain, part = plain[:-1], _PARTS[plain[-1].lower()]
    plain = plain.upper()
    if plain not in notation.terms:
        others = [key for key, other in TABLE.items() if plain in other.terms]
        remedy = (
            f"; {plain} is a name in {', '.join(others)}: is that the source?" if others else ""
        )
        raise ValueError(
            f"{place}: {text!r} is no aberration in {notation.title} notation, whose names are "
            f"{', '.join(notation.terms)}{remedy}"
        )
    if part and not symmetry_of(notation, plain):
        raise ValueError(f"{place}: {plain} is round and has no part {part}: write {plain} alone")
    return plain, part


def _value(text, name, part, notation, angles, place):
    """Complex value in nm of `3.2nm / 45deg`, `-1.2 um` or `3e-9`."""
    match = _VALUE.fullmatch(_UNCERTAIN.sub(_certain, text).strip())
    if not match or re.search(r"\d,\d+\s*[^\W\d_]*m\b", text):
        comma = " (with a decimal point, not a comma)" if re.search(r"\d,\d", text) else ""
        raise ValueError(
            f"{place}: cannot read {text.strip()!r} as a value: write a length{comma}, and an "
            f"angle where the term has one, such as '{name} 3.2 nm / 45 deg'; start a remark with #"
        )
    number, unit = _number(match["size"]), match["unit"]
    if not math.isfinite(number):
        raise ValueError(f"{place}: {match['size']} is too large a number: is its exponent right?")
    if unit is None:
        size = _plausible(number, name, notation, place)
    elif unit in LENGTHS_NM:
        size = _possible(number * LENGTHS_NM[unit], name, notation, place)
    else:
        raise ValueError(f"{place}: unknown unit of length {unit!r}: use pm, nm, um, mm, m or Å")
    symmetry = symmetry_of(notation, name)
    if match["angle"] is None:
        if symmetry and part is None:
            raise ValueError(
                f"{place}: {name} has a direction, give its angle ('{name} 3.2 nm / 45 deg') or "
                f"its two parts ({name}.a and {name}.b)"
            )
        return complex(size)
    angle, angle_unit = _number(match["angle"]), match["angle_unit"] or ""
    if not abs(angle) < 1e6:
        raise ValueError(f"{place}: {match['angle']} is no angle: is its exponent right?")
    if angle_unit not in _ANGLES_DEG:
        raise ValueError(f"{place}: unknown unit of angle {angle_unit!r}: use deg or rad")
    if part or (not symmetry and angle):
        kind = f"part {part} of {name}" if part else f"{name}, which is round,"
        raise ValueError(f"{place}: {kind} has no angle: write the length alone")
    if not match["angle_unit"] and 0 < abs(angle) < SMALLEST_BARE_DEG:
        raise ValueError(
            f"{place}: {match['angle']} is no angle in degrees, is it the other part? Write "
            f"{name}.a and {name}.b, JSON such as {{\"{name}\": [real, imaginary]}}, or 'deg' "
            f"behind the angle")
    return _from_polar(size, angle * _ANGLES_DEG[angle_unit], symmetry, angles)


def _certain(match):
    """A value without its uncertainty; a unit that stands behind both is its own."""
    if match["value"] is None:
        return " "
    return f"{match['value']} {match['unit'] or match['after'] or ''} "


def _number(text):
    return float(text.replace("−", "-"))


def _plausible(number, name, notation, place):
    """nm of a number without a unit, unless it is absurd in the notation's own unit."""
    size = number * notation.unit_nm
    if abs(size) > _largest(name, notation) or DUST_NM < abs(size) < 1e-5:
        raise ValueError(
            f"{place}: {name} = {number:g} has no unit and {notation.title} counts in "
            f"{notation.unit}, which cannot be: write the unit, such as '{name} {number:g} "
            f"{'nm' if notation.unit == 'm' else 'm'}'"
        )
    return size


def _possible(size, name, notation, place):
    """The nm of a value with a unit, unless they are absurd: a letter of the unit may be lost."""
    if abs(size) > _largest(name, notation):
        raise ValueError(f"{place}: {name} of {size / 1e6:g} mm cannot be: are number and unit "
                         f"right?")
    return size


def _largest(name, notation):
    """nm that an aberration may have: 10 mm, 1 m in the fourth and fifth orders."""
    return 1e7 if int(notation.terms[name][0][1]) <= 3 else 1e9


def _from_polar(size, angle_deg, symmetry, angles):
    turns = angle_deg / 360 * (1 if angles == "argument" else symmetry)
    # Quarter turns exactly, so that 45 degrees of a twofold term leave no 1e-16 behind.
    quarters, rest = divmod(turns * 4, 1)
    return size * cmath.rect(1, rest * math.pi / 2) * (1, 1j, -1, -1j)[int(quarters) % 4]


def read_lines(text, notation, angles):
    for count, line in enumerate(str(text).splitlines(), start=1):
        content = line.partition("#")[0].strip()
        if not content:
            continue
        place = f"line {count} ({content[:60]!r})"
        if len(content) > LONGEST:
            raise ValueError(f"{place}: a line of {len(content)} characters is no value: give one "
                             f"value a line")
        match = _LINE.fullmatch(content)
        if not match:
            raise ValueError(
                f"{place}: expected a name and a value, such as "
                f"'{next(iter(notation.terms))} -3.1 nm': start a remark with #"
            )
        name, part = _name(match["name"], notation, place)
        value = _value(match["rest"], name, part, notation, angles, place)
        yield Entry(name, part, value, place)


def load_json(text):
    def once(pairs):
        found = {}
        for key, value in pairs:
            if key in found:
                raise ValueError(f"key {key!r} occurs twice in the JSON: keep one of them")
            found[key] = value
        return found

    try:
        return json.loads(text, object_pairs_hook=once)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"line {error.lineno}, column {error.colno}: the report starts like JSON but is not "
            f"({error.msg}): mend it there, or write plain lines such as 'C10 -3.1 nm'"
        ) from None
    except RecursionError:
        raise ValueError("the report is JSON of too many brackets within each other: give "
                         "names and values") from None


def read_mapping(mapping, notation, angles):
    if isinstance(mapping.get("aberrations"), Mapping):  # as CEOS servers wrap a tableau
        beside = [key for key in mapping if _LINE.fullmatch(f"{key} 0")]
        if beside:
            raise ValueError(f"key {beside[0]!r} stands beside 'aberrations': put all coefficients "
                             f"into one")
        mapping = mapping["aberrations"]
    for key, value in mapping.items():
        place = f"key {key!r}"
        name, part = _name(str(key), notation, place)
        yield Entry(name, part, _item(value, name, part, notation, angles, place), place)


def _item(value, name, part, notation, angles, place):
    """Complex value in nm of one value of a mapping."""
    two = symmetry_of(notation, name) and part is None
    if isinstance(value, str):
        return _value(value, name, part, notation, angles, place)
    if isinstance(value, Mapping) and two and set(value) == {"magnitude_nm", "azimuth_deg"}:
        size, angle = (_real(value[k], place) for k in ("magnitude_nm", "azimuth_deg"))
        _possible(size, name, notation, place)
        return _from_polar(size, angle, symmetry_of(notation, name), "azimuth")
    if isinstance(value, complex) and two:
        value = [value.real, value.imag]
    if isinstance(value, list | tuple):
        # Correctors write round terms as pairs too.
        round_pair = not two and part is None and len(value) == 2 and value[1] == 0
        if notation.style == "complex" and (round_pair or len(value) == (2 if two else 1)):
            parts = [_plausible(_real(v, place), name, notation, place) for v in value]
            return complex(*parts)
    elif not two:
        return complex(_plausible(_real(value, place), name, notation, place))
    shapes = {
        "complex": f'"{name}": [real, imaginary] in {notation.unit}',
        "polar": f'"{name}": {{"magnitude_nm": ..., "azimuth_deg": ...}}',
        "parts": f'"{name}{notation.joint}a": ..., "{name}{notation.joint}b": ...',
    }
    shape = shapes[notation.style] if two else f'"{name}": one number in {notation.unit}'
    raise ValueError(f"{place}: cannot read {value!r} in {notation.title} notation: write {shape}")


def _real(value, place):
    try:
        number = math.nan if isinstance(value, bool | str) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{place}: expected a finite number, got {value!r}")
    return number
