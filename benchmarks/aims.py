"""What was asked of the speed, and what came of it: a table from the entries of the benchmarks.

Each aim is a ratio of two medians, or seconds, of one or two entries; a row whose libraries or
entries are not there is left out.
"""

from collections.abc import Iterator
from typing import NamedTuple

from benchmarks import provenance

SMALL, LARGE = {"size": 256, "batch": 1}, {"size": 512, "batch": 1}
MANY = {"size": 256, "batch": 64}
E_STEP = {"jaxcal": "the package", "candidates last": "candidates last"}
FACTORS = {8: (20, 300), 16: (8, 100), 32: (3, 30)}  # over tinygp and the NumPy loop, by frames
LAPACK, ROOF, ROW = 5, 0.2, 4


class Aim(NamedTuple):
    """What is asked: at least so much, or at most; and what came of it, in ``unit``."""

    what: str
    asked: float
    reached: float
    at_most: bool = False
    unit: str = ""

    @property
    def kept(self) -> bool:
        return self.reached <= self.asked if self.at_most else self.reached >= self.asked


def entry(entries, benchmark: str, case: dict):
    """The entry of a benchmark whose case holds all of this; None where there is none."""
    for one in entries:
        if one["benchmark"] == benchmark and case.items() <= one["case"].items():
            return one
    return None


def faster(one, others, own: str = "jaxcal") -> float | None:
    """How many times as fast an entry's form is as the fastest of others that are there."""
    there = [one["seconds"][name] for name in others if name in one["seconds"]] if one else []
    return min(there) / one["seconds"][own] if there and own in one["seconds"] else None


def simulation(entries) -> Iterator[tuple]:
    """Of simulated spectra, gradients and training."""
    rivals = ("scipy", "scipy in threads", "torch", "torch in threads")
    for name, case in (("many spectra", MANY), ("one, 256²", SMALL), ("one, 512²", LARGE)):
        one = entry(entries, "simulate", case)
        yield f"{name}: as the NumPy reference", 5, faster(one, ("numpy",))
        yield f"{name}: as the best of SciPy and PyTorch", 1.5, faster(one, rivals)
        yield f"{name}: as abTEM", 10, faster(one, ("abtem",))
    yield "a gradient: as PyTorch", 1.5, faster(entry(entries, "gradient", {}), ("torch",))
    step = faster(entry(entries, "train", {}), ("torch",))
    yield "a training step: as PyTorch, at least", 1, step
    yield "a training step: as PyTorch, hoped for", 1.5, step


def transforms(entries) -> Iterator[tuple]:
    """Time over that of the bare transforms, at the best rate of any library and batch."""
    for name, case in (("many spectra", MANY), ("one, 256²", SMALL), ("one, 512²", LARGE)):
        one = entry(entries, "simulate", case)
        alike = [other["per_second"]["ffts alone"] for other in entries
                 if other["benchmark"] == "simulate"
                 and one and other["case"]["size"] == one["case"]["size"]]
        reached = max(alike) / one["per_second"]["jaxcal"] if alike else None
        yield f"{name}: time over that of its transforms, by any", 2.5, reached, True


def e_step(entries) -> Iterator[tuple]:
    """Of the Gaussian process of an E-step, as the package has it and as it can be had."""
    for own, form in E_STEP.items():
        for frames, (tinygp, loop) in FACTORS.items():
            one = entry(entries, "e_step", {"frames": frames})
            what = f"E-step of {frames} frames, {form}"
            yield f"{what}: as tinygp", tinygp, faster(one, ("tinygp_vmap",), own)
            yield f"{what}: as the NumPy loop", loop, faster(one, ("numpy_loop",), own)
            batches = faster(one, ("numpy_batch", "torch"), own)
            yield f"{what}: as LAPACK in batches", LAPACK, batches
            if one and frames < 32:  # of which it is asked
                told = one if own == "jaxcal" else one["others"].get(own, {})
                yield f"{what}: of the FLOP rate", ROOF, told.get("flops_fraction"), False, "share"
    one = entry(entries, "one_frame_more", {})
    yield "a frame after 16, candidates last: as a fresh factor", ROW, faster(
        one, ("candidates last",), "one row")


def starts(entries) -> Iterator[tuple]:
    """What a user waits for."""
    one = entry(entries, "import", {})
    yield "import jaxcal", 1, one and one["seconds"]["jaxcal"], True, "s"
    for knobs in (3, 7):
        one = entry(entries, "jaxcal estimate", {"knobs": knobs})
        yield (f"first `jaxcal estimate` of 16 frames, {knobs} knobs", 15,
               one and one["seconds"]["jaxcal"], True, "s")


def aims(entries) -> list[Aim]:
    """All that can be said by these entries."""
    rows = [row for part in (simulation, transforms, e_step, starts) for row in part(entries)]
    return [Aim(*row) for row in rows if row[2] is not None]


def markdown(entries) -> str:
    """Table for the documentation."""
    def figure(value, unit):
        return f"{100 * value:.0f} %" if unit == "share" else f"{value:.3g} {unit}".strip()

    made = aims(entries)
    rows = [(aim.what, ("at most " if aim.at_most else "") + figure(aim.asked, aim.unit),
             figure(aim.reached, aim.unit), "yes" if aim.kept else "**no**") for aim in made]
    return "\n\n".join([
        provenance.markdown(("how many times as fast", "asked", "reached", "kept"), rows),
        f"{sum(aim.kept for aim in made)} of {len(made)} kept."])
