"""The knobs of a CEOS corrector, over its JSON-RPC interface: netstrings on TCP.

A request is `{"jsonrpc": "2.0", "id": n, "method": ..., "params": {...}}`, sent as a netstring, its
length in bytes, a colon, the JSON and a comma. `correctAberration` takes the value that an
aberration is thought to have and the one it is to have; the corrector moves by the difference.
There is no undo and no way to ask where the knobs stand, so the sum of the moves is kept here.
"""

import json
import select
import socket
import time

import numpy as np

from jaxcal import notations
from jaxcal.microscopes.protocol import InstrumentError, Past, limits, settings

PORT = 7072
TABLEAU_S = 600.0
LARGEST = 1 << 22  # bytes of an answer; a tableau has some kB
SELECTS = ("coarse", "fine")
SMALLEST_NM = 1e-3  # step of a knob; what is less is none
NOT_BEGUN = frozenset({-32700, -32600, -32601, -32602})
"""JSON-RPC's codes of errors by which a request was not even begun: not parsed, no valid request,
no such method, wrong parameters.  Any other error may come of a move that began."""


class NotDoneError(InstrumentError):
    """What was asked for was certainly not done: it was not begun, or could not be asked for."""


class CeosCorrector:
    """A connection to a CEOS corrector.

    Args:
        host, port: where its RPC server listens.
        timeout_s: for which a whole answer is waited; a correction takes seconds.
        flip_imaginary: of the aberrations that it measures, see `jaxcal.convert`.
        not_begun: codes of errors after which nothing has moved for certain; those of a corrector's
            own that are known to mean "refused" can be added to `NOT_BEGUN`.

    Attributes:
        info: what the corrector says of itself, `getInfo`; None where it has no such method.

    Raises:
        InstrumentError: nobody listens there, or what listens does not answer as a corrector does.
    """

    def __init__(self, host: str, port: int = PORT, *, timeout_s: float = 60.0,
                 flip_imaginary: bool = False, not_begun=NOT_BEGUN):
        self._address, self._timeout, self._flip = (host, port), timeout_s, flip_imaginary
        self._not_begun = frozenset(not_begun)
        self._place, self._number, self._rest, self._deadline = f"{host}:{port}", 0, b"", 0.0
        self._socket, self._closed, self.info = None, False, None
        self._connect()

    def _connect(self):
        try:
            self._socket = socket.create_connection(self._address, timeout=self._timeout)
        except OSError as error:
            raise NotDoneError(f"no corrector answers at {self._place} ({error}): check the "
                               f"address, and that its RPC server is running") from error
        self._rest = b""
        try:  # what it is, so that another service is known for one before anything is to move
            self.info = self._exchange("getInfo", {}, self._timeout).get("result")
        except InstrumentError as error:
            raise NotDoneError(f"what listens at {self._place} does not answer as a corrector "
                               f"does: check the address ({error.__cause__})") from error

    def close(self) -> None:
        """End the connection; the corrector stays as it is."""
        self._closed = True
        self._hang_up()

    def _left(self) -> bool:
        """Whether the other side has closed the connection since: nothing is asked of it then."""
        if not select.select([self._socket], [], [], 0)[0]:
            return False
        try:
            return not self._socket.recv(1, socket.MSG_PEEK)
        except OSError:
            return True

    def _hang_up(self):
        if self._socket is not None:
            self._socket.close()
        self._socket = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def call(self, method: str, **params):
        """The result of a method.

        Raises:
            NotDoneError: it was not begun, the corrector's own words are in the message; or nobody
                listens any more.
            InstrumentError: the corrector answered with another error, or nothing that can be
                understood, after which the next call connects anew; then whether it was done is
                not known.
        """
        return self._ask(method, params, self._timeout)

    def _ask(self, method, params, seconds):
        """The result of a method; an error where the corrector answers with one."""
        if self._closed:
            raise NotDoneError(f"the connection to {self._place} was closed: make another")
        if self._socket is None or self._left():
            self._hang_up()
            self._connect()
        answer = self._exchange(method, params, seconds)
        if (told := answer.get("error")) is None:
            return answer["result"]
        words, code = told, None
        if isinstance(told, dict):
            words, code = told.get("message", told), told.get("code")
        if isinstance(code, int) and code in self._not_begun:
            raise NotDoneError(f"the corrector at {self._place} refused {method}: {words}")
        raise InstrumentError(f"the corrector at {self._place} answered {method} with an error: "
                              f"{words}; whether some of it was done is not known")

    def _exchange(self, method, params, seconds) -> dict:
        """The answer to a request over the connection, with a result or an error."""
        self._number += 1
        request = {"jsonrpc": "2.0", "id": self._number, "method": method, "params": params}
        try:
            self._deadline = time.monotonic() + seconds
            self._socket.settimeout(seconds)
            self._socket.sendall(netstring(json.dumps(request, allow_nan=False).encode()))
            return self._answer()
        except (OSError, ValueError, RecursionError) as error:
            self._hang_up()
            raise InstrumentError(
                f"the corrector at {self._place} gave no answer to {method} that can be "
                f"understood ({error}): whether it was done is not known, look at the corrector"
            ) from error

    def measure_c1a1(self) -> dict[str, float]:
        """C10 and C12, {name: nm}, as the corrector measures them itself.

        Raises:
            InstrumentError: as of `call`, or what it answered names no aberrations.
        """
        return self._measured("measureC1A1", {}, self._timeout)

    def acquire_tableau(self, kind: str = "Fast", angle_mrad: float = 18.0, *,
                        timeout_s: float = TABLEAU_S) -> dict[str, float]:
        """What a tableau tells, {name: nm} in Krivanek's names.

        Args:
            kind: the corrector's name of the tableau; angle_mrad: outer tilt.
            timeout_s: for which it is waited; a tableau takes minutes.

        Raises:
            InstrumentError: as of `measure_c1a1`.
        """
        return self._measured("acquireTableau", {"tabType": kind, "angle": angle_mrad}, timeout_s)

    def _measured(self, method, params, seconds):
        answer = self._ask(method, params, seconds)
        try:
            return notations.to_krivanek(answer, "ceos", flip_imaginary=self._flip)
        except (TypeError, ValueError) as error:
            raise InstrumentError(f"{method} should answer with aberrations in CEOS's names: "
                                  f"{error}") from error

    def _answer(self) -> dict:
        """The answer to the last request; those to earlier ones are dropped."""
        while True:
            try:
                answer = json.loads(self._payload())
            except UnicodeDecodeError:
                raise ValueError("an answer that is not text") from None
            if not isinstance(answer, dict):
                raise ValueError(f"an answer that is no object: {str(answer)[:60]}")
            failed = answer.get("error") is not None  # some servers send a null beside a result
            if answer.get("id") == self._number or (failed and not answer.get("id")):
                if not failed and "result" not in answer:
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
            left = self._deadline - time.monotonic()
            if left <= 0:  # also where something comes all the time
                raise ValueError("no whole answer in time")
            self._socket.settimeout(left)
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
        corrector: `CeosCorrector`, or what has its ``call`` and raises alike.
        acquire: function without arguments that takes one Ronchigram, (H, W) counts, exposed after
            it is called; the corrector has no camera.
        optics: nominal `jaxcal.Optics`.
        knob_names: Krivanek names, of those the corrector has knobs for (C10 to C34).
        limits_nm: {knob: nm}, what each may be turned to at most, counted from the start; a
            setting beyond is refused before anything moves.
        select: "coarse" or "fine", which of the corrector's elements for B2 and the like move.
        flip_imaginary: of the aberrations that are corrected, see `jaxcal.convert`; the corrector
            that measures them takes it too.

    Attributes:
        knobs_nm: (P,) what the knobs were turned by, nm, also where a call failed half way: what
            was done counts, what was not begun does not; what failed or was not answered is not
            known, and from then on `set` turns the other knobs only, and says so.
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
        self._unknown = {}  # the corrector's name of what may or may not have moved -> why
        self._own = {}  # the corrector's name -> places of its knobs
        for place, knob in enumerate(self.knob_names):
            (name,) = self._in_metres({knob: 1.0})
            self._own.setdefault(name, []).append(place)

    def set(self, knobs_nm) -> None:
        """Turn the knobs to (P,) nm, counted from the start, one aberration after the other.

        Raises:
            ValueError: not one finite setting for each knob, or one beyond its limit; nothing
                has moved then.
            InstrumentError: the corrector refused, failed or did not answer, now or before; the
                other knobs were turned all the same.
        """
        wanted = settings(knobs_nm, self.knob_names, self.limits_nm)
        refused = []
        for name, places in self._own.items():
            step = wanted[places] - self.knobs_nm[places]
            step[np.abs(step) < SMALLEST_NM] = 0.0  # what rounding leaves of no step
            if name in self._unknown or not np.any(step):
                continue
            names = [self.knob_names[place] for place in places]
            (value,) = self._in_metres(dict(zip(names, -step, strict=True))).values()
            value = np.atleast_1d(value)  # what is thought to be there is minus what is wanted
            try:
                self.corrector.call("correctAberration", name=name, value=value.tolist(),
                                    target=[0.0] * len(value), select=self._select)
            except NotDoneError as error:
                refused.append(str(error))
                continue
            except InstrumentError as error:
                self._unknown[name] = str(error)
                continue
            self.knobs_nm[places] += step
        if self._unknown:
            raise InstrumentError(
                f"where {', '.join(self._unknown)} of the corrector stands is not known: "
                f"{'; '.join([*self._unknown.values(), *refused])}, make the adapter anew")
        if refused:
            raise InstrumentError("; ".join(refused))

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
