"""The knobs of a CEOS corrector: units, names, increments, and answers that are none."""

import socket
import time

import ceos_server
import numpy as np
import pytest
import standins
from numpy.testing import assert_allclose

from jaxcal import Microscope
from jaxcal.microscopes.ceos import (
    NOT_BEGUN,
    PORT,
    CeosCorrector,
    CeosMicroscope,
    NotDoneError,
    netstring,
)
from jaxcal.microscopes.guarded import GuardedMicroscope
from jaxcal.microscopes.protocol import InstrumentError
from jaxcal.microscopes.simulated import SEVEN

CALL = dict(name="A1", value=[1e-9, 0.0], target=[0.0, 0.0], select="fine")


@pytest.fixture
def server():
    made = ceos_server.Server()
    yield made
    made.close()


@pytest.fixture
def corrector(server):
    with CeosCorrector("127.0.0.1", server.port, timeout_s=0.5) as made:
        yield made


def microscope(corrector, names=SEVEN, **options):
    return CeosMicroscope(corrector, lambda: standins.frames(1)[0], standins.optics(), names,
                          **options)


def test_it_is_a_microscope(corrector):
    bench = microscope(corrector)
    assert isinstance(bench, Microscope) and bench.acquire().ndim == 2


def test_settings_arrive_as_increments_in_metres_and_ceos_names(server, corrector):
    """C21 = 3 B2 and C23 = A2: what the corrector has ends at the setting, whatever the way."""
    bench = microscope(corrector)
    first = np.array([100.0, -20.0, 30.0, 600.0, -300.0, 500.0, 700.0])
    second = np.array([80.0, -20.0, 30.0, 0.0, -300.0, -100.0, 700.0])
    for knobs in (first, second):
        bench.set(knobs)
        assert_allclose(server.state["C1"], [knobs[0] * 1e-9])
        assert_allclose(server.state["A1"], knobs[1:3] * 1e-9)
        assert_allclose(server.state["B2"], knobs[3:5] * 1e-9 / 3, atol=1e-20)
        assert_allclose(server.state["A2"], knobs[5:7] * 1e-9)
        assert_allclose(bench.knobs_nm, knobs)
    asked = [request["params"]["name"] for request in server.requests]
    assert asked == ["C1", "A1", "B2", "A2", "C1", "B2", "A2"]  # A1 stood where it should
    assert all(request["params"]["select"] == "fine" for request in server.requests)


def test_what_rounding_leaves_is_no_step(server, corrector):
    bench = microscope(corrector, ("C10", "C12a", "C12b"))
    bench.set([0.3, 0.0, 0.0])
    bench.set([0.1 + 0.2, 40.0, 1e-9])
    assert [request["params"]["name"] for request in server.requests] == ["C1", "A1"]
    assert_allclose(server.state["A1"], [40e-9, 0.0])
    assert_allclose(bench.knobs_nm, [0.3, 40.0, 0.0], atol=1e-12)


def test_one_half_of_a_pair_moves_alone(server, corrector):
    bench = microscope(corrector, ("C12b",))
    bench.set([5.0])
    assert_allclose(server.state["A1"], [0.0, 5e-9], atol=1e-20)


def test_the_other_sign_of_the_imaginary_part(server, corrector):
    bench = microscope(corrector, ("C21b", "C23b"), flip_imaginary=True)
    bench.set([30.0, 30.0])
    assert_allclose(server.state["B2"], [0.0, -1e-8], atol=1e-20)
    assert_allclose(server.state["A2"], [0.0, 3e-8], atol=1e-20)


def test_what_was_corrected_is_measured_with_the_same_sign(server):
    with CeosCorrector("127.0.0.1", server.port, flip_imaginary=True) as corrector:
        bench = microscope(corrector, ("C10", "C12a", "C12b", "C21a", "C21b"), flip_imaginary=True)
        bench.set([10.0, 20.0, -30.0, 60.0, 30.0])
        found = corrector.acquire_tableau()
    assert found == pytest.approx(dict(zip(bench.knob_names, bench.knobs_nm, strict=True)))


def test_limits_are_kept_and_nothing_moves(server, corrector):
    bench = microscope(corrector, limits_nm={"C10": 200.0})
    with pytest.raises(ValueError, match=r"C10 was asked to -201.0 nm, its limit is 200 nm"):
        bench.set([-201.0, 50.0, 0, 0, 0, 0, 0])
    with pytest.raises(ValueError, match="one finite setting"):
        bench.set([np.nan] * 7)
    assert not server.requests and not np.any(bench.knobs_nm)


@pytest.mark.parametrize("options, words", [
    ({"select": "medium"}, "coarse, fine"), ({"limits_nm": {"C30": 5.0}}, "positive limit"),
    ({"limits_nm": {"C10": -5.0}}, "positive limit"), ({"names": ("C11",)}, "C11"),
])
def test_options_that_are_wrong_are_named(corrector, options, words):
    with pytest.raises(ValueError, match=words):
        microscope(corrector, **options)


def test_what_was_not_begun_is_told_in_the_correctors_words_and_the_sum_is_kept(server, corrector):
    """C1 was done, A1 not begun: the sum says so, and the next setting makes up for it."""
    bench = microscope(corrector, ("C10", "C12a", "C12b"))
    server.faults = [None, "invalid"]
    with pytest.raises(InstrumentError,
                       match="refused correctAberration: A1 is not enabled$"):
        bench.set([10.0, 20.0, 30.0])
    assert_allclose(bench.knobs_nm, [10.0, 0.0, 0.0])
    bench.set([10.0, 20.0, 30.0])
    assert_allclose(bench.knobs_nm, [10.0, 20.0, 30.0])
    assert_allclose(server.state["C1"], [1e-8])
    assert_allclose(server.state["A1"], [2e-8, 3e-8])


@pytest.mark.parametrize("fault, words", [("refuse", "lens current out of range"),
                                          ("half way", "lens current out of range"),
                                          ("words", "with an error: no;")])
def test_after_an_error_of_the_correctors_own_it_is_not_known_what_moved(
        server, corrector, fault, words):
    """The message is kept, A1 is not turned again, and is said to stand nobody knows where."""
    bench = microscope(corrector, ("C10", "C12a", "C12b"))
    server.faults = [None, fault]
    for setting in ([10.0, 20.0, 30.0], [0.0, 0.0, 0.0]):
        with pytest.raises(InstrumentError, match="where A1 of the corrector stands is not known: "
                                                  f".*{words}"):
            bench.set(setting)
    assert_allclose(server.state["C1"], [0.0], atol=1e-20)
    assert [request["params"]["name"] for request in server.requests] == ["C1", "A1", "C1"]


def test_codes_that_are_known_to_mean_refused_can_be_named(server):
    with CeosCorrector("127.0.0.1", server.port, not_begun=NOT_BEGUN | {-32000}) as corrector:
        bench = microscope(corrector, ("C10", "C12a", "C12b"))
        server.faults = ["refuse"]
        with pytest.raises(InstrumentError, match="lens current out of range$"):
            bench.set([10.0, 0.0, 0.0])
        bench.set([10.0, 0.0, 0.0])
    assert_allclose(server.state["C1"], [1e-8])


def test_what_the_corrector_is_is_asked_before_anything_moves(corrector):
    assert corrector.info == {"type": "DCOR"} and PORT == 7072


@pytest.mark.parametrize("fault", ["invalid", "refuse"])
def test_a_corrector_that_cannot_say_what_it_is_will_do(fault):
    server = ceos_server.Server(greeting=fault)
    with CeosCorrector("127.0.0.1", server.port) as corrector:
        assert corrector.info is None and corrector.measure_c1a1()["C10"] == 0.0
    server.close()


@pytest.mark.parametrize("fault", ["drop", "silent", "broken", "not json", "list", "huge"])
def test_another_service_is_known_for_one_before_anything_is_asked_to_move(fault):
    server = ceos_server.Server(greeting=fault)
    with pytest.raises(InstrumentError, match="does not answer as a corrector does: check the add"):
        CeosCorrector("127.0.0.1", server.port, timeout_s=0.3)
    server.close()


@pytest.mark.parametrize("fault", ["drop", "silent", "broken", "length", "not json", "binary",
                                   "list", "huge"])
def test_an_answer_that_is_none(server, corrector, fault):
    """One error that says what is not known; the next call has a connection of its own."""
    server.faults = [fault]
    with pytest.raises(InstrumentError, match="whether it was done is not known"):
        corrector.call("correctAberration", **CALL)
    assert corrector.call("getInfo") == {"type": "DCOR"}
    corrector.close()
    with pytest.raises(NotDoneError, match="the connection to .* was closed"):
        corrector.call("getInfo")


@pytest.mark.parametrize("fault", ["drop", "broken"])
def test_what_was_not_answered_is_not_counted_and_not_forgotten(server, corrector, fault):
    """A1 may have moved: sent home, the others go there, and where A1 stands is said to be open."""
    bench = microscope(corrector, ("C10", "C12a", "C12b", "C23a"))
    server.faults = [None, fault, None]
    for setting in ([10.0, 20.0, 30.0, 40.0], np.zeros(4)):
        with pytest.raises(InstrumentError, match="where A1 of the corrector stands is not known"):
            bench.set(setting)
        assert_allclose(bench.knobs_nm, [setting[0], 0.0, 0.0, setting[3]], atol=1e-9)
    assert_allclose(server.state["C1"], [0.0], atol=1e-20)
    guarded = GuardedMicroscope(bench)
    with pytest.raises(InstrumentError):
        guarded.set(np.zeros(4))
    assert guarded.standing_nm is None


def test_what_the_corrector_measures_is_in_krivaneks_names(server, corrector):
    bench = microscope(corrector, ("C10", "C12a", "C12b", "C21a"))
    bench.set([10.0, 20.0, 30.0, 60.0])
    first = {"C10": 10.0, "C12a": 20.0, "C12b": 30.0}
    assert corrector.measure_c1a1() == pytest.approx(first)
    assert corrector.acquire_tableau("Standard", 24.0) == pytest.approx(
        first | {"C21a": 60.0, "C21b": 0.0})
    assert server.requests[-1]["params"] == {"tabType": "Standard", "angle": 24.0}
    corrector._ask = lambda method, params, seconds: ["of no use"]
    with pytest.raises(InstrumentError, match="measureC1A1 should answer with aberrations"):
        corrector.measure_c1a1()


def test_a_connection_that_was_closed_meanwhile_is_made_anew(server, corrector):
    """Nothing was asked of it, so that nothing is in doubt."""
    server.faults = ["drop after"]
    bench = microscope(corrector, ("C10", "C12a", "C12b"))
    bench.set([10.0, 0.0, 0.0])
    time.sleep(0.1)
    bench.set([10.0, 20.0, 30.0])
    assert_allclose(bench.knobs_nm, [10.0, 20.0, 30.0])
    assert_allclose(server.state["A1"], [2e-8, 3e-8])


def test_what_listens_after_a_connection_has_ended_is_asked_what_it_is(server, corrector):
    """Nothing was asked to move by then, so that nothing is in doubt."""
    bench = microscope(corrector, ("C10",))
    server.faults, server.greeting = ["drop after"], "not json"
    bench.set([10.0])
    time.sleep(0.1)
    with pytest.raises(InstrumentError, match="does not answer as a corrector does"):
        bench.set([20.0])
    server.greeting = None
    bench.set([20.0])
    assert_allclose(server.state["C1"], [2e-8])


def test_a_null_error_beside_a_result_is_none(server, corrector):
    server.faults = ["null error"]
    assert corrector.call("getInfo") == {"type": "DCOR"}


@pytest.mark.parametrize("fault", ["stale", "split"])
def test_an_answer_that_comes_in_pieces_or_after_an_old_one(server, corrector, fault):
    server.faults = [fault]
    assert corrector.call("getInfo") == {"type": "DCOR"}
    assert corrector.call("getInfo") == {"type": "DCOR"}


def test_an_answer_that_takes_its_time(server, corrector):
    server.delay_s = 0.2
    assert corrector.call("getInfo") == {"type": "DCOR"}


def test_other_answers_without_an_end_are_no_answer(server, corrector):
    server.faults = ["dripping"]
    began = time.monotonic()
    with pytest.raises(InstrumentError, match="no whole answer in time|timed out"):
        corrector.call("getInfo")
    assert time.monotonic() - began < 5.0  # 0.5 are allowed


def test_a_tableau_may_take_longer(server, corrector):
    server.delay_s = 0.8  # more than an answer may take otherwise
    assert corrector.acquire_tableau() is not None
    with pytest.raises(InstrumentError, match="gave no answer to measureC1A1"):
        corrector.measure_c1a1()


def test_nobody_listens():
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    with pytest.raises(InstrumentError, match="no corrector answers at 127.0.0.1:"):
        CeosCorrector("127.0.0.1", port, timeout_s=0.5)


def test_netstrings_count_bytes():
    assert netstring("{\"µ\": 1}".encode()) == b"9:{\"\xc2\xb5\": 1},"
