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
from collections.abc import Mapping

from jaxcal.notation_reports import (
    CEOS,
    CEOS_FLIPPED,
    LENGTHS_NM,
    TABLE,
    load_json,
    read_lines,
    read_mapping,
    symmetry_of,
)

NOTATIONS = tuple(TABLE)
"""Names of the notations: krivanek, polar, ceos, jeol, nion."""


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
        angles: "azimuth" where an angle in text is the direction phi, "argument" where it is
            m phi; for both sides.  `azimuth_deg` in a mapping or in JSON is always phi.
        form: "text" or "json" for a string, "mapping" for a dict; None for the form of `report`.

    Returns:
        The report in the target's names and units: a str (text lines in nm, um or mm, for Nion in
        m; JSON in the target's own unit) or a dict.  Only what was named is written, an unnamed
        half as zero where the target writes both halves of a coefficient together.

    Raises:
        ValueError: a notation, a name, a unit or a line is not understood; the message names the
            line or key and says what to write.

    Example:
        >>> convert("A1 3.2nm / 45deg", "ceos", "krivanek", form="json")
        '{"C12a": 0.0, "C12b": 3.2}'
    """
    source, target = _notation(source), _notation(target)
    if flip_imaginary and CEOS not in (source.terms, target.terms):
        raise ValueError(
            f"flip_imaginary concerns CEOS coefficients only, got {source.title} to "
            f"{target.title}: leave it out"
        )
    if angles not in ("azimuth", "argument"):
        raise ValueError(f'angles must be "azimuth" or "argument", got {angles!r}')
    if isinstance(report, Mapping):
        given, entries = "mapping", read_mapping(report, source, angles)
    elif str(report).lstrip().startswith("{"):
        given, entries = "json", read_mapping(load_json(report), source, angles)
    else:
        given, entries = "text", read_lines(report, source, angles)
    values = _collect(entries, source, flip_imaginary)
    form = given if form is None else form
    if form == "text":
        return _write_lines(values, target, flip_imaginary, angles)
    mapping = _write_mapping(values, target, flip_imaginary)
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


def _notation(name):
    try:
        return TABLE[str(name).lower()]
    except KeyError:
        raise ValueError(
            f"unknown notation {name!r}: choose one of {', '.join(NOTATIONS)}"
        ) from None


def _to_polar(value, symmetry, angles):
    angle = math.degrees(cmath.phase(value)) + 0.0
    return abs(value), angle / (1 if angles == "argument" else symmetry)


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
    flips = flip_imaginary and notation.terms is CEOS and own in CEOS_FLIPPED
    return value.conjugate() if flips else value


def _own_values(values, notation, flip_imaginary):
    for own, (name, factor) in notation.terms.items():
        if name in values:
            value, named = values[name]
            value = _flip(value / factor, own, notation, flip_imaginary)
            yield own, complex(value.real + 0.0, value.imag + 0.0), sorted(named)


def _write_mapping(values, notation, flip_imaginary):
    mapping = {}
    for own, value, named in _own_values(values, notation, flip_imaginary):
        symmetry = symmetry_of(notation, own)
        real, imaginary = value.real / notation.unit_nm, value.imag / notation.unit_nm
        if not symmetry:
            mapping[own] = real
        elif notation.style == "complex":
            mapping[own] = [real, imaginary]
        elif notation.style == "polar":
            size, angle = _to_polar(value, symmetry, "azimuth")
            mapping[own] = {"magnitude_nm": size, "azimuth_deg": angle}
        else:
            for part in named:
                mapping[own + notation.joint + part] = real if part == "a" else imaginary
    return mapping


def _write_lines(values, notation, flip_imaginary, angles):
    lines = []
    for own, value, named in _own_values(values, notation, flip_imaginary):
        symmetry = symmetry_of(notation, own)
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
    return f"{size_nm / LENGTHS_NM[unit]:.7g} {unit}"
