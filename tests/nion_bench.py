"""Nion Swift's controller and camera, played, for the tests."""

from types import SimpleNamespace

import standins


class Stem:
    """Controls in metres; ``stuck``: those that do not move."""

    def __init__(self, halves=("a", "b")):
        self.values = {"C10": 5e-7, **{f"{name}.{half}": 1e-8 for name in ("C12", "C21", "C23")
                                       for half in halves}}
        self.stuck, self.asked = set(), []

    def TryGetVal(self, name):
        return name in self.values, self.values.get(name)

    def SetValAndConfirm(self, name, value, tolerance_factor, timeout_ms):
        self.asked.append((name, tolerance_factor, timeout_ms))
        if name in self.stuck or name not in self.values:
            return False
        self.values[name] = value
        return True


class Camera:
    """Remembers the order of what it is asked for."""

    def __init__(self, frame=None, is_playing=False):
        self.frame = standins.frames(1)[0] if frame is None else frame
        self.is_playing, self.asked = is_playing, []

    def start_playing(self, sync_timeout):
        self.asked.append("start")

    def stop_playing(self, sync_timeout):
        self.asked.append("stop")

    def grab_next_to_start(self, timeout):
        self.asked.append(("grab", timeout))
        if isinstance(self.frame, Exception):
            raise self.frame
        return [SimpleNamespace(data=self.frame)]
