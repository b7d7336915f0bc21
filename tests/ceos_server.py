"""A CEOS corrector on the loopback interface, well-behaved or not, for the tests."""

import json
import socket
import threading
import time


class Server:
    """Speaks JSON-RPC 2.0 in netstrings and keeps what the corrector would have, in metres.

    Attributes:
        state: {CEOS name: [x, y]} that `correctAberration` moves; requests: what was asked.
        faults: list of one fault for each of the next answers, None for a right one: "invalid",
            an error before anything is done, "refuse", one that the corrector gives itself,
            "half way", the same after half of the move, "words", an error that is text; "drop",
            "silent", "broken", "length", "not json", "binary", "list", "huge", "stale", "split",
            "null error", "drop after", "dripping": other answers, without an end.
        greeting: the fault of the first answer of each connection, to `getInfo`, which is not
            among the requests.
    """

    def __init__(self, delay_s: float = 0.0, greeting: str | None = None):
        self.state, self.requests, self.faults, self.delay_s = {}, [], [], delay_s
        self.greeting = greeting
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self):
        self._listener.close()

    def _serve(self):
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection):
        data, greeted = b"", False
        with connection:
            while True:
                while b":" not in data or len(data) <= (
                        data.index(b":") + 1 + int(data[: data.index(b":")])):
                    more = connection.recv(4096)
                    if not more:
                        return
                    data += more
                head, _, rest = data.partition(b":")
                request, data = json.loads(rest[: int(head)]), rest[int(head) + 1 :]
                if greeted:
                    self.requests.append(request)
                    fault = self.faults.pop(0) if self.faults else None
                else:
                    assert request["method"] == "getInfo"
                    greeted, fault = True, self.greeting
                time.sleep(self.delay_s)
                if fault == "drop":
                    return
                for piece in self._answers(request, fault):
                    connection.sendall(piece)
                while fault == "dripping":
                    time.sleep(0.05)
                    try:
                        connection.sendall(b'26:{"id": 0, "result": "old"},')
                    except OSError:
                        return
                if fault == "drop after":
                    return

    def _answers(self, request, fault):
        def packed(payload):
            return b"%d:%b," % (len(payload), payload)

        answer = {"jsonrpc": "2.0", "id": request["id"]}
        if fault in ("refuse", "half way"):
            answer["error"] = {"code": -32000, "message": "lens current out of range"}
            if fault == "half way":
                params = request["params"]
                self._do(request | {"params": params | {"value": [v / 2 for v in params["value"]]}})
        elif fault == "words":
            answer["error"] = "no"
        elif fault == "invalid":
            answer["error"] = {"code": -32602, "message": "A1 is not enabled"}
        else:
            answer["result"] = self._do(request)
            if fault == "null error":
                answer["error"] = None
        text = json.dumps(answer).encode()
        return {
            "silent": [], "dripping": [], "broken": [b"hello, who is there?"],
            "length": [b"%d:%b," % (len(text) - 3, text)], "not json": [packed(b"{oops")],
            "binary": [packed(b"\xff\xfe\x00")], "list": [packed(b"[1, 2]")],
            "huge": [b"99999999999:"],
            "stale": [packed(b'{"jsonrpc": "2.0", "id": 0, "result": "old"}'), packed(text)],
            "split": [packed(text)[:7], packed(text)[7:]],
        }.get(fault, [packed(text)])

    def _do(self, request):
        params = request["params"]
        if request["method"] == "getInfo":
            return {"type": "DCOR"}
        if request["method"] in ("measureC1A1", "acquireTableau"):
            names = ("C1", "A1", "B2") if request["method"] == "acquireTableau" else ("C1", "A1")
            return {"aberrations": {name: self.state.get(name, [0.0, 0.0]) for name in names}}
        if request["method"] == "correctAberration":
            value, target = params["value"], params.get("target", [0.0] * len(params["value"]))
            old = self.state.get(params["name"], [0.0] * len(value))
            self.state[params["name"]] = [o + t - v for o, t, v in
                                          zip(old, target, value, strict=True)]
        return None
