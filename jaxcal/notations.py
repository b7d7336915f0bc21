"""Aberration coefficients in other notations: CEOS, JEOL, Nion and polar, as input and output.

Nothing in jaxcal computes in these.  Everything is read into Krivanek's Cartesian names in nm and
written from them, so one table per notation is enough.

    notation  bare numbers  a value in a mapping or in JSON
    krivanek  nm            "C10": -3.1, "C12a": 2.0, "C12b": -1.5
    polar     nm            "C10": -3.1, "C12": {"magnitude_nm": 2.5, "azimuth_deg": -18.4}
    ceos      m             "C1": -3.1e-9, "A1": [2.0e-9, -1.5e-9]  (real, imaginary)
    jeol      nm            "O2": -3.1, "A2": {"magnitude_nm": 2.5, "azimuth_deg": -18.4}
    nion      m             "C10": -3.1e-9, "C12.a": 2.0e-9, "C12.b": -1.5e-9

A term of order n and symmetry m is one complex number, C = C_a + i C_b = |C| exp(i m phi), where
the azimuth phi is the direction in the frame, from x towards y, in which this term of W is largest.
It repeats after 360/m degrees.  With the wave-aberration function of Uhlemann and Haider,
B2 = C/3, S3 = C/4, B4 and D4 = C/5, S5 and R5 = C/6 and the others without a factor.

Two things differ between CEOS programs and reports, and both are switches here:

* `flip_imaginary`: in the published function, chi = Re(A1 conj(w)^2 / 2 + B2 w^2 conj(w) + ...),
  A1, A2, A3 ... stand with powers of conj(w), but B2, S3, B4, D4, S5 and R5 with powers of w, so
  that their imaginary part (and azimuth) has the opposite sign.  The default takes all with the
  same sign, as in chi = Re(A1 conj(w)^2 / 2 + B2 w conj(w)^2 + ...).
* `angles`: a printed angle is by default the azimuth phi; "argument" takes it as m phi, the
  argument of the complex number.  For B2 and B4 (m = 1) the two are the same.

A trap: A2 is threefold in CEOS and twofold in JEOL, R5 is C54 in CEOS and C43 in JEOL, and A3, A4
and A5 move likewise; no program can see that from the numbers.

Sources: S. Uhlemann, M. Haider, Ultramicroscopy 72 (1998) 109-119; H. Sawada et al.,
Ultramicroscopy 108 (2008) 1467-1475; O. L. Krivanek et al., Ultramicroscopy 78 (1999) 1-11.
"""

import cmath
import json
import math
import re
from collections.abc import Mapping
from typing import NamedTuple

from jaxcal.aberrations import POLAR_NAMES


class _Notation(NamedTuple):
    title: str
    unit: str
    unit_nm: float
    terms: dict  # own name -> (Krivanek's polar name, factor): Krivanek = factor * own
    style: str  # how a two-part value is written: "parts", "complex" or "polar"
    joint: str = ""  # between a name and its part a or b


_KRIVANEK = {name: (name, 1) for name in POLAR_NAMES}
_CEOS_NAMES = "C1 A1 B2 A2 C3 S3 A3 B4 D4 A4 C5 S5 R5 A5".split()
_CEOS_FACTORS = (1, 1, 3, 1, 1, 4, 1, 5, 5, 1, 1, 6, 6, 1)
_CEOS = dict(zip(_CEOS_NAMES, zip(POLAR_NAMES, _CEOS_FACTORS, strict=True), strict=True))
_CEOS_FLIPPED = tuple(name for name, (_, factor) in _CEOS.items() if factor > 1)
_JEOL_NAMES = "O2 A2 P3 A3 O4 Q4 A4 P5 R5 A5 O6 Q6 S6 A6".split()
_JEOL = {own: (name, 1) for own, name in zip(_JEOL_NAMES, POLAR_NAMES, strict=True)}

_TABLE = {
    "krivanek": _Notation("Krivanek", "nm", 1.0, _KRIVANEK, "parts"),
    "polar": _Notation("polar", "nm", 1.0, _KRIVANEK, "polar"),
    "ceos": _Notation("CEOS", "m", 1e9, _CEOS, "complex"),
    "jeol": _Notation("JEOL", "nm", 1.0, _JEOL, "polar"),
    "nion": _Notation("Nion", "m", 1e9, _KRIVANEK, "parts", "."),
}
NOTATIONS = tuple(_TABLE)
"""Names of the notations: krivanek, polar, ceos, jeol, nion."""

_LENGTHS_NM = {
    "pm": 1e-3, "nm": 1.0, "um": 1e3, "µm": 1e3, "μm": 1e3, "mm": 1e6, "m": 1e9,
    "Å": 0.1, "\u212b": 0.1, "Ang": 0.1,
}  # fmt: skip
_ANGLES_DEG = {"": 1.0, "deg": 1.0, "degree": 1.0, "degrees": 1.0, "°": 1.0,
               "rad": 180 / math.pi}  # fmt: skip

_NUMBER = r"[+\-−]?(?:\d+\.?\d*|\.\d+)(?:[eE][+\-−]?\d+)?"
_WORD = r"[^\W\d_]+|°|Å"
_UNCERTAIN = re.compile(
    rf"(?:±|\+/-|\+-)\s*{_NUMBER}\s*(?:{_WORD})?|\([^)]*(?:±|\+/-|%|err|conf)[^)]*\)"
)
_LINE = re.compile(r"[-*•]?\s*(?P<name>[^\W\d_]_?\d+(?:[._]?[abxyABXY])?)\b\s*[:=]?\s*(?P<rest>.*)")
_VALUE = re.compile(
    rf"(?P<size>{_NUMBER})\s*(?P<unit>{_WORD})?"
    rf"(?:(?P<gap>\s*[/,;@|∠]\s*|\s+)(?:(?:phi|angle|azimuth)\s*=?\s*)?"
    rf"(?P<angle>{_NUMBER})\s*(?P<angle_unit>{_WORD})?)?\s*[|;,]?\s*"
)
_PARTS = {"a": "a", "x": "a", "b": "b", "y": "b"}


def convert(report, source, target, *, flip_imaginary=False, angles="azimuth", form=None):
    """Rewrite a report of aberrations from one notation into another.

    Args:
        report: text, either JSON or lines such as `A1 3.2nm / 45deg`, `C3: -1.2 um`,
            `C12.a = 3e-9`; or a mapping in the shape of the table above.  Units in text go with
            the number; a bare number counts in the notation's own unit.  A bare angle is in
            degrees.  `#` starts a comment; uncertainties (`± 0.3 nm`, `(95%: 1 nm)`) are skipped.
        source, target: two of `NOTATIONS`.
        flip_imaginary: the CEOS side counts the imaginary parts of B2, S3, B4, D4, S5 and R5 with
            the opposite sign.
        angles: "azimuth" where a printed angle is the direction phi, "argument" where it is m phi;
            for both sides.
        form: "text" or "json" for a string, "mapping" for a dict; None for the form of `report`.

    Returns:
        The report in the target's names and units: a str (text lines in nm, um or mm, for Nion in
        m; JSON in the target's own unit) or a dict.  Only what was named is written.

    Raises:
        ValueError: a notation, a name, a unit or a line is not understood; the message names the
            line or key and says what to write.

    Example:
        >>> convert("A1 3.2nm / 45deg", "ceos", "krivanek", form="json")
        '{"C12a": 0.0, "C12b": 3.2}'
    """
    source, target = _notation(source), _notation(target)
    if flip_imaginary and _CEOS not in (source.terms, target.terms):
        raise ValueError(
            f"flip_imaginary concerns CEOS coefficients only, got {source.title} to "
            f"{target.title}: leave it out"
        )
    if angles not in ("azimuth", "argument"):
        raise ValueError(f'angles must be "azimuth" or "argument", got {angles!r}')
    if isinstance(report, Mapping):
        given, entries = "mapping", _read_mapping(report, source, angles)
    elif str(report).lstrip().startswith("{"):
        given, entries = "json", _read_mapping(_load(report), source, angles)
    else:
        given, entries = "text", _read_lines(report, source, angles)
    values = _collect(entries, source, flip_imaginary)
    form = given if form is None else form
    if form == "text":
        return _write_lines(values, target, flip_imaginary, angles)
    mapping = _write_mapping(values, target, flip_imaginary, angles)
    if form == "mapping":
        return mapping
    if form == "json":
        return json.dumps(mapping)
    raise ValueError(f'form must be "text", "json", "mapping" or None, got {form!r}')


def to_krivanek(report, source, *, flip_imaginary=False, angles="azimuth"):
    """Krivanek's Cartesian coefficients, {name: nm}, of a report; see `convert` for the arguments.

    Example:
        >>> to_krivanek("C1 -3nm", "ceos")
        {'C10': -3.0}
    """
    return convert(
        report, source, "krivanek",
        flip_imaginary=flip_imaginary, angles=angles, form="mapping",
    )  # fmt: skip


def from_krivanek(coefficients, target, *, flip_imaginary=False, angles="azimuth", form="mapping"):
    """A report in another notation of Krivanek's Cartesian coefficients, {name: nm}.

    Example:
        >>> from_krivanek({"C21a": 30.0, "C21b": 60.0}, "jeol", form="text")
        'P3 = 67.08204 nm / 63.43495 deg'
    """
    return convert(
        coefficients, "krivanek", target,
        flip_imaginary=flip_imaginary, angles=angles, form=form,
    )  # fmt: skip


class _Entry(NamedTuple):
    """One reading: own name, part ("a", "b" or None for a whole term), value in nm, its place."""

    name: str
    part: str | None
    value: complex
    place: str


def _notation(name):
    try:
        return _TABLE[str(name).lower()]
    except KeyError:
        raise ValueError(
            f"unknown notation {name!r}: choose one of {', '.join(NOTATIONS)}"
        ) from None


def _symmetry(notation, name):
    return int(notation.terms[name][0][2])


def _name(text, notation, place):
    """Own name and part of what a report calls a coefficient."""
    plain = text.replace("_", "").replace(".", "")
    part = None
    if plain[-1:].lower() in _PARTS and plain[-2:-1].isdigit():
        plain, part = plain[:-1], _PARTS[plain[-1].lower()]
    plain = plain.upper()
    if plain not in notation.terms:
        others = [key for key, other in _TABLE.items() if plain in other.terms]
        remedy = (
            f"; {plain} is a name in {', '.join(others)}: is that the source?" if others else ""
        )
        raise ValueError(
            f"{place}: {text!r} is no aberration in {notation.title} notation, whose names are "
            f"{', '.join(notation.terms)}{remedy}"
        )
    if part and not _symmetry(notation, plain):
        raise ValueError(f"{place}: {plain} is round and has no part {part}: write {plain} alone")
    return plain, part


def _value(text, name, part, notation, angles, place):
    """Complex value in nm of `3.2nm / 45deg`, `-1.2 um` or `3e-9`."""
    match = _VALUE.fullmatch(_UNCERTAIN.sub(" ", text).strip())
    if not match or re.search(r"\d,\d+\s*[^\W\d_]*m\b", text):
        comma = " (with a decimal point, not a comma)" if re.search(r"\d,\d", text) else ""
        raise ValueError(
            f"{place}: cannot read {text.strip()!r} as a value: write a length{comma}, and an "
            f"angle where the term has one, such as '{name} 3.2 nm / 45 deg'; start a remark with #"
        )
    number, unit = _number(match["size"]), match["unit"]
    if unit is None:
        size = _plausible(number, name, notation, place)
    elif unit in _LENGTHS_NM:
        size = number * _LENGTHS_NM[unit]
    else:
        raise ValueError(f"{place}: unknown unit of length {unit!r}: use pm, nm, um, mm, m or Å")
    symmetry = _symmetry(notation, name)
    if match["angle"] is None:
        if symmetry and part is None:
            raise ValueError(
                f"{place}: {name} has a direction, give its angle ('{name} 3.2 nm / 45 deg') or "
                f"its two parts ({name}.a and {name}.b)"
            )
        return complex(size)
    angle, angle_unit = _number(match["angle"]), match["angle_unit"] or ""
    if angle_unit not in _ANGLES_DEG:
        raise ValueError(f"{place}: unknown unit of angle {angle_unit!r}: use deg or rad")
    if part or (not symmetry and angle):
        kind = f"part {part} of {name}" if part else f"{name}, which is round,"
        raise ValueError(f"{place}: {kind} has no angle: write the length alone")
    return _from_polar(size, angle * _ANGLES_DEG[angle_unit], symmetry, angles)


def _number(text):
    return float(text.replace("−", "-"))


def _plausible(number, name, notation, place):
    """nm of a number without a unit, unless it is absurd in the notation's own unit."""
    size = number * notation.unit_nm
    order = int(notation.terms[name][0][1])
    largest = 1e7 if order <= 3 else 1e10  # 10 mm; 10 m for the fourth and fifth orders
    if abs(size) > largest or 0 < abs(size) < 1e-5:
        raise ValueError(
            f"{place}: {name} = {number:g} has no unit and {notation.title} counts in "
            f"{notation.unit}, which cannot be: write the unit, such as '{name} {number:g} "
            f"{'nm' if notation.unit == 'm' else 'm'}'"
        )
    return size


def _from_polar(size, angle_deg, symmetry, angles):
    turns = angle_deg / 360 * (1 if angles == "argument" else symmetry)
    # Quarter turns exactly, so that 45 degrees of a twofold term leave no 1e-16 behind.
    quarters, rest = divmod(turns * 4, 1)
    return size * cmath.rect(1, rest * math.pi / 2) * (1, 1j, -1, -1j)[int(quarters) % 4]


def _to_polar(value, symmetry, angles):
    angle = math.degrees(cmath.phase(value)) + 0.0
    return abs(value), angle / (1 if angles == "argument" else symmetry)


def _read_lines(text, notation, angles):
    for count, line in enumerate(str(text).splitlines(), start=1):
        content = line.partition("#")[0].strip()
        if not content:
            continue
        place = f"line {count} ({content!r})"
        match = _LINE.fullmatch(content)
        if not match:
            raise ValueError(
                f"{place}: expected a name and a value, such as "
                f"'{next(iter(notation.terms))} -3.1 nm': start a remark with #"
            )
        name, part = _name(match["name"], notation, place)
        value = _value(match["rest"], name, part, notation, angles, place)
        yield _Entry(name, part, value, place)


def _load(text):
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


def _read_mapping(mapping, notation, angles):
    if isinstance(mapping.get("aberrations"), Mapping):  # as CEOS servers wrap a tableau
        mapping = mapping["aberrations"]
    for key, value in mapping.items():
        place = f"key {key!r}"
        name, part = _name(str(key), notation, place)
        yield _Entry(name, part, _item(value, name, part, notation, angles, place), place)


def _item(value, name, part, notation, angles, place):
    """Complex value in nm of one value of a mapping."""
    two = _symmetry(notation, name) and part is None
    if isinstance(value, str):
        return _value(value, name, part, notation, angles, place)
    if isinstance(value, Mapping) and two and set(value) == {"magnitude_nm", "azimuth_deg"}:
        size, angle = (_real(value[k], place) for k in ("magnitude_nm", "azimuth_deg"))
        return _from_polar(size, angle, _symmetry(notation, name), angles)
    if isinstance(value, complex) and two:
        value = [value.real, value.imag]
    if isinstance(value, list | tuple):
        if notation.style == "complex" and len(value) == (2 if two else 1):
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
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{place}: expected a finite number, got {value!r}")
    return number


def _collect(entries, notation, flip_imaginary):
    """{Krivanek's polar name: (complex nm, parts named)}, in the order of POLAR_NAMES."""
    seen, found = {}, {}
    for entry in entries:
        parts = {entry.part} if entry.part else {"a", "b"}
        for part in parts:
            if first := seen.get((entry.name, part)):
                raise ValueError(
                    f"{entry.place}: {entry.name} was given before, in {first}: keep one of them"
                )
            seen[entry.name, part] = entry.place
        value = entry.value * (1j if entry.part == "b" else 1)
        total, named = found.get(entry.name, (0j, set()))
        found[entry.name] = (total + value, named | parts)
    if not found:
        raise ValueError(
            f"the report names no aberration: give lines such as "
            f"'{next(iter(notation.terms))} -3.1 nm'"
        )
    values = {}
    for own, (name, factor) in notation.terms.items():
        if own in found:
            value, named = found[own]
            values[name] = (factor * _flip(value, own, notation, flip_imaginary), named)
    return values


def _flip(value, own, notation, flip_imaginary):
    flips = flip_imaginary and notation.terms is _CEOS and own in _CEOS_FLIPPED
    return value.conjugate() if flips else value


def _own_values(values, notation, flip_imaginary):
    for own, (name, factor) in notation.terms.items():
        if name in values:
            value, named = values[name]
            value = _flip(value / factor, own, notation, flip_imaginary)
            yield own, complex(value.real + 0.0, value.imag + 0.0), sorted(named)


def _write_mapping(values, notation, flip_imaginary, angles):
    mapping = {}
    for own, value, named in _own_values(values, notation, flip_imaginary):
        symmetry = _symmetry(notation, own)
        real, imaginary = value.real / notation.unit_nm, value.imag / notation.unit_nm
        if not symmetry:
            mapping[own] = real
        elif notation.style == "complex":
            mapping[own] = [real, imaginary]
        elif notation.style == "polar":
            size, angle = _to_polar(value, symmetry, angles)
            mapping[own] = {"magnitude_nm": size, "azimuth_deg": angle}
        else:
            for part in named:
                mapping[own + notation.joint + part] = real if part == "a" else imaginary
    return mapping


def _write_lines(values, notation, flip_imaginary, angles):
    lines = []
    for own, value, named in _own_values(values, notation, flip_imaginary):
        symmetry = _symmetry(notation, own)
        if not symmetry:
            lines.append(f"{own} = {_length(value.real, notation)}")
        elif notation.style == "parts":
            for part in named:
                size = value.real if part == "a" else value.imag
                lines.append(f"{own}{notation.joint}{part} = {_length(size, notation)}")
        else:
            size, angle = _to_polar(value, symmetry, angles)
            lines.append(f"{own} = {_length(size, notation)} / {angle:.7g} deg")
    return "\n".join(lines)


def _length(size_nm, notation):
    """A length as people write it: Nion's in m, the others in nm, um or mm."""
    if notation.joint:
        unit = "m"
    else:
        unit = "nm" if abs(size_nm) < 1e4 else "um" if abs(size_nm) < 1e7 else "mm"
    return f"{size_nm / _LENGTHS_NM[unit]:.7g} {unit}"
