"""Other notations: factors and traps by hand, round trips, text as people write it, bad input."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from jaxcal import aberrations, notations
from jaxcal.notations import convert, from_krivanek, to_krivanek

RNG = np.random.default_rng(11)
ALL = aberrations.dictionary(RNG.normal(size=25) * 10.0 ** RNG.uniform(0, 4, 25))
OTHERS = [name for name in notations.NOTATIONS if name != "krivanek"]


def assert_same(found, expected, **tolerance):
    assert list(found) == list(expected)
    assert_allclose(list(found.values()), list(expected.values()), **tolerance)


# Round trips of all 25 coefficients


@pytest.mark.parametrize("flip_imaginary", [False, True])
@pytest.mark.parametrize("target", OTHERS)
def test_round_trip_through_mapping_and_json(target, flip_imaginary):
    flip = {"flip_imaginary": flip_imaginary} if target == "ceos" else {}
    mapping = from_krivanek(ALL, target, **flip)
    assert_same(to_krivanek(mapping, target, **flip), ALL, rtol=1e-12)
    assert_same(to_krivanek(json.dumps(mapping), target, **flip), ALL, rtol=1e-12)


@pytest.mark.parametrize("angles", ["azimuth", "argument"])
@pytest.mark.parametrize("target", notations.NOTATIONS)
def test_round_trip_through_text(target, angles):
    """Text carries seven digits of the magnitude and of the angle."""
    text = from_krivanek(ALL, target, form="text", angles=angles)
    back = aberrations.vector(to_krivanek(text, target, angles=angles))
    sizes = np.abs(aberrations.vector(ALL))
    partners = sizes + sizes[[aberrations.index(_partner(name)) for name in aberrations.NAMES]]
    assert np.all(np.abs(back - aberrations.vector(ALL)) <= 3e-6 * partners)


def _partner(name):
    return name.translate(str.maketrans("ab", "ba"))


@settings(deadline=None, max_examples=50)
@given(
    st.dictionaries(
        st.sampled_from(aberrations.NAMES), st.floats(1e-3, 1e6).map(lambda v: round(v, 6)),
        min_size=1,
    ),
    st.sampled_from(OTHERS), st.sampled_from(OTHERS),
)  # fmt: skip
def test_any_path_between_notations_is_the_same_surface(coefficients, first, second):
    there = from_krivanek(coefficients, first)
    onwards = convert(there, first, second)
    assert_allclose(
        aberrations.vector(to_krivanek(onwards, second)), aberrations.vector(coefficients),
        rtol=1e-9, atol=1e-9 * max(coefficients.values()),
    )  # fmt: skip


def test_what_was_not_named_is_not_written():
    assert to_krivanek("C10 3 nm\nC12b 2 nm", "krivanek") == {"C10": 3.0, "C12b": 2.0}
    assert from_krivanek({"C12b": 2.0}, "nion") == {"C12.b": 2e-9}
    assert from_krivanek({"C12b": 2.0}, "ceos") == {"A1": [0.0, 2e-9]}


# Factors, by hand


@pytest.mark.parametrize(
    ("own", "name", "factor"),
    [
        ("C1", "C10", 1), ("A1", "C12", 1), ("B2", "C21", 3), ("A2", "C23", 1), ("C3", "C30", 1),
        ("S3", "C32", 4), ("A3", "C34", 1), ("B4", "C41", 5), ("D4", "C43", 5), ("A4", "C45", 1),
        ("C5", "C50", 1), ("S5", "C52", 6), ("R5", "C54", 6), ("A5", "C56", 1),
    ],
)  # fmt: skip
def test_ceos_factors_and_flips(own, name, factor):
    round_ = name.endswith("0")
    report = {own: 2e-9 if round_ else [2e-9, 1e-9]}
    expected = {name: 2.0} if round_ else {name + "a": 2.0 * factor, name + "b": 1.0 * factor}
    assert_same(to_krivanek(report, "ceos"), expected, rtol=1e-14)
    if factor > 1:
        expected[name + "b"] *= -1
    assert_same(to_krivanek(report, "ceos", flip_imaginary=True), expected, rtol=1e-14)


@pytest.mark.parametrize(
    ("own", "name"),
    list(
        zip(
            "O2 A2 P3 A3 O4 Q4 A4 P5 R5 A5 O6 Q6 S6 A6".split(),
            aberrations.POLAR_NAMES,
            strict=True,
        )
    ),
)
def test_jeol_counts_wave_orders_without_factors(own, name):
    m = int(name[2])
    line = f"{own} 2 nm / {10 if m else 0} deg" if m else f"{own} 2 nm"
    angle = math.radians(10 * m)
    expected = (
        {name + "a": 2 * math.cos(angle), name + "b": 2 * math.sin(angle)} if m else {name: 2.0}
    )
    assert_same(to_krivanek(line, "jeol"), expected, rtol=1e-12)


def test_the_same_letters_mean_other_terms():
    line = "A2 3 nm / 0 deg"
    assert to_krivanek(line, "jeol") == {"C12a": 3.0, "C12b": 0.0}
    assert to_krivanek(line, "ceos") == {"C23a": 3.0, "C23b": 0.0}
    line = "R5 3 nm / 0 deg"
    assert to_krivanek(line, "jeol") == {"C43a": 3.0, "C43b": 0.0}
    assert to_krivanek(line, "ceos") == {"C54a": 18.0, "C54b": 0.0}
    assert convert("A2 3 nm / 20 deg", "jeol", "ceos") == "A1 = 3 nm / 20 deg"


def test_nion_counts_in_metres_without_factors():
    found = from_krivanek({"C10": 3.0, "C21a": 40.0, "C34b": -7.0}, "nion")
    assert_same(found, {"C10": 3e-9, "C21.a": 40e-9, "C34.b": -7e-9}, rtol=1e-14)
    assert_same(to_krivanek({"C12.x": 1e-9, "C12.y": 2e-9}, "nion"), {"C12a": 1.0, "C12b": 2.0})


@pytest.mark.parametrize("form", ["text", "mapping"])
def test_the_azimuth_is_where_the_wave_is_largest(form):
    report = from_krivanek(ALL, "polar", form="mapping")
    for name, value in report.items():
        if name.endswith("0"):
            continue
        one = (
            {name: value}
            if form == "mapping"
            else (f"{name} {value['magnitude_nm']!r} nm / {value['azimuth_deg']!r} deg")
        )
        coefficients = aberrations.vector(to_krivanek(one, "polar"))
        direction = math.radians(value["azimuth_deg"]) + np.array([0.0, 0.05, -0.05])
        surface = aberrations.wave_aberration(coefficients, np.cos(direction), np.sin(direction))
        assert_allclose(surface[0] * (int(name[1]) + 1), value["magnitude_nm"], rtol=1e-10)
        assert surface[0] > max(surface[1], surface[2])


def test_an_azimuth_repeats_after_360_degrees_over_m():
    first = to_krivanek("A2 22 nm / 50 deg", "ceos")
    assert_same(to_krivanek("A2 22 nm / -70 deg", "ceos"), first, rtol=1e-12)
    assert_same(to_krivanek("A2 22 nm / 150 deg", "ceos", angles="argument"), first, rtol=1e-12)


def test_the_argument_of_a_complex_number_is_m_times_the_azimuth():
    text = from_krivanek({"C23a": 0.0, "C23b": 5.0}, "ceos", form="text", angles="argument")
    assert text == "A2 = 5 nm / 90 deg"
    text = from_krivanek({"C23a": 0.0, "C23b": 5.0}, "ceos", form="text")
    assert text == "A2 = 5 nm / 30 deg"
    assert (
        "azimuth_deg" in (mapping := from_krivanek({"C23b": 5.0}, "jeol", angles="argument"))["A3"]
    )
    assert_allclose(mapping["A3"]["azimuth_deg"], 30.0)


# Text as people write it


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("A1 3.2nm / 45deg", {"C12a": 0.0, "C12b": 3.2}),
        ("A1: 3.2 nm/+45.0°", {"C12a": 0.0, "C12b": 3.2}),
        ("A1 = 3.2 nm @ 45", {"C12a": 0.0, "C12b": 3.2}),
        ("  - A1 | 3.2 nm | 45 deg |", {"C12a": 0.0, "C12b": 3.2}),
        ("A_1 = 3.2e0 nm, angle = 45 degrees", {"C12a": 0.0, "C12b": 3.2}),
        ("a1 3.2 nm 0.7853981633974483 rad", {"C12a": 0.0, "C12b": 3.2}),
        ("A1 3.2e-9 45", {"C12a": 0.0, "C12b": 3.2}),
        ("A1 32 Å / 45 deg", {"C12a": 0.0, "C12b": 3.2}),
        ("A1 3200 pm; 45 deg", {"C12a": 0.0, "C12b": 3.2}),
        ("A1: 3.2 nm ± 0.4 nm / 45 deg ± 3 deg", {"C12a": 0.0, "C12b": 3.2}),
        ("A1: 3.2 ± 0.4 nm / 0.7853981633974483 ± 0.1 rad", {"C12a": 0.0, "C12b": 3.2}),
        ("C3: -1.2 ± 0.1 um", {"C30": -1200.0}),
        ("C5 4.5 +/- 0.2 mm", {"C50": 4.5e6}),
        ("A1: 3.2nm / 45deg (95%: 1.2nm)", {"C12a": 0.0, "C12b": 3.2}),
        ("A1 (twofold astigmatism): 3.2nm / 45deg (95%: 1.2nm)", {"C12a": 0.0, "C12b": 3.2}),
        ("A1 (2-fold astig.) 3.2nm / 45deg", {"C12a": 0.0, "C12b": 3.2}),
        ("C1 (defocus): -3 nm", {"C10": -3.0}),
        ("A1.a 3.2 nm", {"C12a": 3.2}),
        ("C3: -1.2 um", {"C30": -1200.0}),
        ("C3: −1.2 µm", {"C30": -1200.0}),
        ("C3 = -1.2 μm  # after the last tableau", {"C30": -1200.0}),
        ("C5 4.5mm", {"C50": 4.5e6}),
        ("C1 -3 nm / 0 deg", {"C10": -3.0}),
        ("B2 = 35 nm, 120 deg", {"C21a": -52.5, "C21b": 105 * math.sqrt(3) / 2}),
    ],
)  # fmt: skip
def test_lines(line, expected):
    assert_same(to_krivanek(line, "ceos"), expected, rtol=1e-12, atol=1e-12)


def test_what_rounding_leaves_of_a_part_is_no_wrong_unit():
    assert_same(to_krivanek('{"C12.a": 1.2e-25, "C12.b": 2e-9}', "nion"),
                {"C12a": 0.0, "C12b": 2.0}, rtol=1e-12, atol=1e-12)
    with pytest.raises(ValueError, match="which cannot be: write the unit"):
        to_krivanek("C10 3e-9", "krivanek")


def test_a_whole_report():
    report = """
        # tableau of this morning
        C1   -2.5 nm
        A1:  3.2nm / 45deg

        B2 = 35 nm, 120 deg
        C3: -1.2 um
    """
    assert convert(report, "ceos", "krivanek") == (
        "C10 = -2.5 nm\nC12a = 0 nm\nC12b = 3.2 nm\n"
        "C21a = -52.5 nm\nC21b = 90.93267 nm\nC30 = -1200 nm"
    )
    assert convert(report, "ceos", "jeol").splitlines()[-1] == "O4 = -1200 nm"
    assert convert("C30 -12 um", "krivanek", "ceos") == "C3 = -12 um"
    assert json.loads(convert(report, "ceos", "nion", form="json"))["C10"] == -2.5e-9


def test_json_of_a_corrector_s_server():
    text = '{"aberrations": {"C1": [-3e-9], "A1": [1e-9, 2e-9], "B2": "35 nm / 120 deg"}}'
    expected = {"C10": -3.0, "C12a": 1.0, "C12b": 2.0, "C21a": -52.5, "C21b": 90.932667397}
    assert_same(to_krivanek(text, "ceos"), expected, rtol=1e-9)
    assert to_krivanek({"C1": [-3e-9, 0]}, "ceos") == {"C10": -3.0}
    assert convert('{"C12.a": 3e-9}', "nion", "krivanek") == '{"C12a": 3.0}'
    assert to_krivanek({"A1": 1e-9 + 2e-9j}, "ceos") == {"C12a": 1.0, "C12b": 2.0}


@pytest.mark.parametrize("report", ["A1 2.0e-9 -1.5e-9", "A1 2e-9, -1.5e-9", "A1 3 nm 1e-9"])
def test_two_parts_are_not_taken_for_a_size_and_an_angle(report):
    """A corrector's [real, imaginary] pasted without its brackets."""
    with pytest.raises(ValueError, match=r"is no angle in degrees, is it the other part\? Write "
                                         r"A1.a and A1.b, JSON such as .*, or 'deg'"):
        convert(report, "ceos", "krivanek")
    assert to_krivanek("A1 2e-9 0", "ceos") == {"C12a": 2.0, "C12b": 0.0}
    assert to_krivanek("A1 2e-9 1e-4 deg", "ceos")["C12a"] == pytest.approx(2.0)


def test_a_number_that_runs_into_the_name_is_none():
    """Of `C10 = 1.25e-08 m`, what is left when ` = 1` is lost."""
    with pytest.raises(ValueError, match="expected a name and a value"):
        convert("C10.25e-08 m", "nion", "krivanek")


def test_the_examples_in_the_docstrings():
    assert convert("A1 3.2nm / 45deg", "ceos", "krivanek", form="json") == (
        '{"C12a": 0.0, "C12b": 3.2}'
    )
    assert from_krivanek({"C21a": 30.0, "C21b": 60.0}, "jeol", form="text") == (
        "P3 = 67.08204 nm / 63.43495 deg"
    )


# Bad input


@pytest.mark.parametrize(
    ("report", "source", "message"),
    [
        ("C1 3nm\nA1 3.2nm", "ceos", r"line 2 \('A1 3.2nm'\): A1 has a direction.*A1.a and A1.b"),
        ("A1 3.2 45", "ceos", r"A1 = 3.2 has no unit and CEOS counts in m.*'A1 3.2 nm'"),
        ("C10 3e-9", "krivanek", r"C10 = 3e-09 has no unit and Krivanek counts in nm"),
        ("A1 3,2nm / 45deg", "ceos", "with a decimal point, not a comma"),
        ("A1 3.2nm / 45deg", "jeol", "no aberration in JEOL.*A1 is a name in ceos"),
        ("C12.c 3 nm", "nion", "line 1"),
        ("C13 3 nm", "krivanek", "whose names are C10, C12"),
        ("A2 3nm/4deg\n\nA2 3nm/3deg", "jeol", r"line 3 .*A2 was given before, in line 1"),
        ("A1 3 nm / 4 deg\nA1.b 3 nm", "ceos", "A1 was given before"),
        ("Tableau of today", "jeol", r"line 1 .*expected a name and a value.*start a remark"),
        ("C1 3.2nm / 45deg", "ceos", "C1, which is round, has no angle"),
        ("C1.a 3.2nm", "ceos", "C1 is round and has no part a"),
        ("A1.a 3.2nm / 45deg", "ceos", "part a of A1 has no angle"),
        ("C1 3.2 inch", "ceos", "unknown unit of length 'inch': use pm, nm"),
        ("A1 3.2 nm / 4 gon", "ceos", "unknown unit of angle 'gon': use deg or rad"),
        ("C1 1e999 nm", "ceos", "1e999 is too large a number"),
        ("C1 three nm", "ceos", "cannot read 'three nm'"),
        ("", "ceos", "names no aberration"),
        ("# only a remark", "ceos", "names no aberration"),
        ("{'C10': 3}", "polar", "line 1, column 2: .*starts like JSON but is not"),
        ('{"C10": 1, "C10": 2}', "krivanek", "key 'C10' occurs twice"),
        ({"A1": 3e-9}, "ceos", r'"A1": \[real, imaginary\] in m'),
        ({"C1": [3e-9, 1e-9]}, "ceos", '"C1": one number in m'),
        ("A1 (3 nm, 4 nm)", "ceos", r"cannot read '\(3 nm, 4 nm\)' as a value"),
        ({"C12": [3.0, 1]}, "polar", '"C12": {"magnitude_nm": ..., "azimuth_deg": ...}'),
        ({"C12": 3.0}, "krivanek", '"C12a": ..., "C12b": ...'),
        ({"C10": [1, 2]}, "nion", '"C10": one number in m'),
        ({"C10": float("nan")}, "krivanek", "key 'C10': expected a finite number, got nan"),
        ({"C10": True}, "krivanek", "expected a finite number, got True"),
        ({"C10": None}, "krivanek", "expected a finite number, got None"),
        ({"C12.a": 3.0}, "nion", "C12 = 3 has no unit and Nion counts in m"),
        ({"C10": 1.0, "C1_0": 2.0}, "krivanek", "C10 was given before"),
        ("C3 1.2 m", "ceos", "C3 of 1200 mm cannot be: are number and unit right"),
        ({"C12": {"magnitude_nm": 1e9, "azimuth_deg": 0}}, "polar", "C12 of 1000 mm cannot be"),
        ("A1 3 nm / 1e400 deg", "ceos", "1e400 is no angle"),
        ("C1 " + "1" * 100_000 + " ± nm", "ceos", "a line of 100008 characters"),
        ("C1 " + "1" * 390 + " ± x", "ceos", "cannot read"),
        ('{"C10": 1' + "0" * 400 + "}", "krivanek", "expected a finite number"),
        ('{"a": ' * 100_000, "krivanek", "brackets within each other|starts like JSON"),
        ({"aberrations": {"C10": 1.0}, "C12a": 5.0}, "krivanek", "'C12a' stands beside"),
    ],
)
def test_bad_reports_are_told_where_and_what_to_do(report, source, message):
    with pytest.raises(ValueError, match=message):
        to_krivanek(report, source)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("C10 1 nm", "zeiss", "nion"), {}, "unknown notation 'zeiss': choose one of krivanek"),
        (("C10 1 nm", "polar", "nion"), {"flip_imaginary": True}, "concerns CEOS .* leave it out"),
        (("C10 1 nm", "polar", "nion"), {"angles": "grad"}, 'angles must be "azimuth" or'),
        (("C10 1 nm", "polar", "nion"), {"form": "yaml"}, 'form must be "text", "json"'),
    ],
)
def test_bad_options(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        convert(*arguments, **options)
