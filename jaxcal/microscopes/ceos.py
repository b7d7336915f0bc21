"""The knobs of a CEOS corrector, over its JSON-RPC interface: netstrings on TCP.

A request is `{"jsonrpc": "2.0", "id": n, "method": ..., "params": {...}}`, sent as a netstring, its
length in bytes, a colon, the JSON and a comma. `correctAberration` takes the value that an
aberration is thought to have and the one it is to have; the corrector moves by the difference.
There is no undo and no way to ask where the knobs stand, so the sum of the moves is kept here.
"""

import json
import socket

import numpy as np

from jaxcal import notations
from jaxcal.microscopes.protocol import InstrumentError, Past, limits, settings

PORT = 7072
LARGEST = 1 << 22  # bytes of an answer; a tableau has some kB
SELECTS = ("coarse", "fine")
SMALLEST_NM = 1e-3  # step of a knob; what is less is none


class RefusedError(InstrumentError):
    """The corrector answered that it did not do it."""


class CeosCorrector:
    """A connection to a CEOS corrector.

    Args:
        host, port: where its RPC server listens.
        timeout_s: for which an answer is waited; a tableau takes minutes, a correction seconds.

    Raises:
        InstrumentError: nobody listens there.
    """

    def __init__(self, host: str, port: int = PORT, *, timeout_s: float = 60.0):
        self._place, self._number, self._rest = f"{host}:{port}", 0, b""
        try:
            self._socket = socket.create_connection((host, port), timeout=timeout_s)
        except OSError as error:
            raise InstrumentError(f"no corrector answers at {self._place} ({error}): check the "
                                 f"address, and that its RPC server is running") from error

    def close(self) -> None:
        """End the connection; the corrector stays as it is."""
        self._socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def call(self, method: str, **params):
        """The result of a method.

        Raises:
            RefusedError: it was refused; the corrector's own words are in the message.
            InstrumentError: no answer came that can be understood; then whether it was done is not
                known, and the connection is closed.
        """
        self._number += 1
        request = {"jsonrpc": "2.0", "id": self._number, "method": method, "params": params}
        try:
            self._socket.sendall(netstring(json.dumps(request, allow_nan=False).encode()))
            answer = self._answer()
        except (OSError, ValueError) as error:
            self.close()
            raise InstrumentError(
                f"the corrector at {self._place} gave no answer to {method} that can be "
                f"understood ({error}): whether it was done is not known, look at the corrector "
                f"and connect again") from error
        if "error" in answer:
            told = answer["error"]
            words = told.get("message", told) if isinstance(told, dict) else told
            raise RefusedError(f"the corrector at {self._place} refused {method}: {words}")
        return answer["result"]

    def _answer(self) -> dict:
        """The answer to the last request; those to earlier ones are dropped."""
        while True:
            try:
                answer = json.loads(self._payload())
            except UnicodeDecodeError:
                raise ValueError("an answer that is not text") from None
            if not isinstance(answer, dict):
                raise ValueError(f"an answer that is no object: {str(answer)[:60]}")
            if answer.get("id") == self._number or ("error" in answer and not answer.get("id")):
                if "error" not in answer and "result" not in answer:
                    raise ValueError(f"neither result nor error in {str(answer)[:60]}")
                return answer

    def _payload(self) -> bytes:
        """The next netstring's content."""
        head, colon, self._rest = self._until(lambda data: b":" in data or len(data) > 8
                                              ).partition(b":")
        if not (colon and head.isdigit() and int(head) <= LARGEST):
            raise ValueError(f"a broken netstring that begins with {head[:20]!r}")
        size = int(head)
        data = self._until(lambda data: len(data) > size)
        if data[size : size + 1] != b",":
            raise ValueError("a netstring whose length is wrong")
        self._rest = data[size + 1 :]
        return data[:size]

    def _until(self, enough) -> bytes:
        data = self._rest
        while not enough(data):
            more = self._socket.recv(65536)
            if not more:
                raise ValueError("the connection was closed")
            data += more
        return data


def netstring(payload: bytes) -> bytes:
    """LENGTH:PAYLOAD,"""
    return b"%d:%b," % (len(payload), payload)


class CeosMicroscope:
    """A microscope whose knobs are a CEOS corrector's and whose frames come from elsewhere.

    Args:
        corrector: `CeosCorrector`, or what has its ``call`` and raises `RefusedError` alike.
        acquire: function without arguments that takes one Ronchigram, (H, W) counts, exposed after
            it is called; the corrector has no camera.
        optics: nominal `jaxcal.Optics`.
        knob_names: Krivanek names, of those the corrector has knobs for (C10 to C34).
        limits_nm: {knob: nm}, what each may be turned to at most, counted from the start; a
            setting beyond is refused before anything moves.
        select: "coarse" or "fine", which of the corrector's elements for B2 and the like move.
        flip_imaginary: see `jaxcal.convert`.

    Attributes:
        knobs_nm: (P,) what the knobs were turned by, nm, also where a call failed half way: what
            was done counts, what was refused does not; what was not answered is not known.
        limits_nm: (P,) nm.

    Raises:
        ValueError: an unknown knob, select or limit.
    """

    name = "ceos"

    def __init__(self, corrector, acquire, optics, knob_names=("C10", "C12a", "C12b"), *,
                 limits_nm=None, select: str = "fine", flip_imaginary: bool = False):
        if select not in SELECTS:
            raise ValueError(f"select should be one of {', '.join(SELECTS)}, got {select!r}")
        self.corrector, self.acquire, self.optics = corrector, acquire, optics
        self.knob_names, self.knobs_nm = tuple(knob_names), np.zeros(len(knob_names))
        self._select, self._flip = select, flip_imaginary
        self.limits_nm = limits(limits_nm, self.knob_names)
        self._unknown = None  # the corrector's name of what may or may not have moved
        self._own = {}  # the corrector's name -> places of its knobs
        for place, knob in enumerate(self.knob_names):
            (name,) = self._in_metres({knob: 1.0})
            self._own.setdefault(name, []).append(place)

    def set(self, knobs_nm) -> None:
        """Turn the knobs to (P,) nm, counted from the start, one aberration after the other.

        Raises:
            ValueError: not one finite setting for each knob, or one beyond its limit; nothing
                has moved then.
            InstrumentError: the corrector refused or did not answer; where it did not, every
                later call is refused, too: where the knobs stand is not known.
        """
        wanted = settings(knobs_nm, self.knob_names, self.limits_nm)
        if self._unknown:
            raise InstrumentError(f"whether {self._unknown} moved is not known, its correction was "
                                  f"not answered: look at the corrector, and begin a new run")
        for name, places in self._own.items():
            step = wanted[places] - self.knobs_nm[places]
            step[np.abs(step) < SMALLEST_NM] = 0.0  # what rounding leaves of no step
            if not np.any(step):
                continue
            names = [self.knob_names[place] for place in places]
            (value,) = self._in_metres(dict(zip(names, -step, strict=True))).values()
            value = np.atleast_1d(value)  # what is thought to be there is minus what is wanted
            self._unknown = name
            try:
                self.corrector.call("correctAberration", name=name, value=value.tolist(),
                                    target=[0.0] * len(value), select=self._select)
            except RefusedError:
                self._unknown = None
                raise
            self._unknown = None
            self.knobs_nm[places] += step

    def resume(self, past: Past) -> None:
        """Count the knobs from where they stood when an interrupted run began.

        Raises:
            InstrumentError: it ended while they moved; the corrector cannot say where they are.
        """
        if past.knobs_nm is None:
            raise InstrumentError("the run was interrupted while the corrector moved, and where it "
                                  "stands cannot be asked: begin a new run")
        self.knobs_nm = np.array(past.knobs_nm, float)

    def _in_metres(self, coefficients_nm) -> dict:
        return notations.from_krivanek(coefficients_nm, "ceos", flip_imaginary=self._flip)
