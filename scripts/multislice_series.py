"""Calibration series of another simulator: multislice through films of real atoms.

    pip install '.[alternatives]'
    python scripts/multislice_series.py FOLDER [--series 8] [--seed 0]
    python -m benchmarks.reality --folder FOLDER --name multislice

The atoms' potentials are abTEM's (Lobato, infinite projection). Probe, multislice, incoherent sums
and camera are written here in NumPy and share no code with jaxcal's simulator. What jaxcal's own
simulated instruments do not have: films 2 to 8 nm thick of carbon, silicon or germanium, some with
heavy atoms; a source of finite size; aberrations to the fifth order; a disc off the middle, an
aperture and pixels off nominal, blur before or after the shot noise, gain errors, a dark level, hot
pixels.

Series k has the tier TIERS[k mod 4]: A, three knobs, 16 frames, all within +-120 nm of a state
within +-150 nm; B, as A with C21 and C23 of 300 nm and C30 of 3 um that are no knobs; C, seven
knobs, 20 frames; D, as A with gains off by 10 %, crosstalk of 3 %, a drift of 0.5 to 1 nm a frame
and three bad frames. The focal spread is summed over seven nodes, which damp fringes as they should
up to 2.9 rad of C10's phase at the edge; the larger spreads at 300 kV exceed that. `truth.json` has
all of it. C10 is that of the film's middle plane. A series that is there already is left alone; one
takes a minute or two.
"""

import argparse
import importlib.util
import json
import sys
import time
from pathlib import Path

import numpy as np
import scipy.fft
from scipy.spatial import cKDTree

import jaxcal
from jaxcal.files import write_text
from jaxcal.microscopes.simulated import FIRST_ORDER, SEVEN
from jaxcal.optics import wavelength_nm

TIERS = "ACDB"
CELL_NM, SLICE_NM = 24.0, 0.8
BAND = 1.6  # of the aperture, that the wave's sampling keeps after the cut at 2/3
MARGIN_NM = 7.0  # of a window beyond the ray that is bent most
PIXELS, RADIUS = 256, 108.0  # of the camera; of the disc, about
FOCAL_NODES, OUTER = 7, 0.1  # and their weight up to which one offset of the source has to do
OFFSETS = (1, 0), (-1, 0), (0, 1), (0, -1)  # by root 2: variance 1 along each axis
FILMS = {  # element, atoms per nm^3, least distance (nm)
    "C": ("C", 100.0, 0.142), "Si": ("Si", 48.0, 0.21), "Ge": ("Ge", 42.0, 0.22)}
RESIDUAL_NM = {"C32": 300.0, "C34": 300.0, "C41": 1500.0, "C43": 1500.0, "C45": 1500.0}
BAD = ("blank", "saturated", "shadow", "stale")


def film(random, energy_keV: float, step_nm: float):
    """Phases (S, N, N) in rad [slice, row, column] of a periodic film, its thickness in nm, and
    what it is made of."""
    import abtem
    from ase import Atoms

    name = str(random.choice(list(FILMS), p=(0.6, 0.2, 0.2)))
    element, density, least = FILMS[name]
    thickness = random.uniform(2.0, 8.0)
    count = int(density * CELL_NM**2 * thickness)
    places = random.uniform(0, 1, (count, 3)) * (CELL_NM, CELL_NM, thickness)
    for _ in range(60):  # atoms too near another are thrown anew
        pairs = cKDTree(places, boxsize=(CELL_NM, CELL_NM, 4 * thickness)).query_pairs(
            least, output_type="ndarray")
        again = np.unique(pairs[:, 1])
        if not again.size:
            break
        places[again] = random.uniform(0, 1, (again.size, 3)) * (CELL_NM, CELL_NM, thickness)
    elements = [element] * count
    heavy = int(random.choice((0, 0, 0.1)) * CELL_NM**2)  # single atoms of platinum on a face
    if heavy:
        places = np.concatenate([places, np.column_stack([
            random.uniform(0, CELL_NM, (heavy, 2)), np.full(heavy, thickness - 0.1)])])
        elements += ["Pt"] * heavy
    slices = max(1, round(thickness / SLICE_NM))
    atoms = Atoms(elements, 10 * places, cell=10 * np.array([CELL_NM, CELL_NM, thickness]),
                  pbc=True)
    side = round(CELL_NM / step_nm)
    potential = abtem.Potential(atoms, gpts=side, slice_thickness=10 * thickness / slices,
                                projection="infinite", parametrization="lobato", device="cpu")
    volts = np.stack([np.asarray(part.array) for part in potential.build(lazy=False)])
    sigma = abtem.core.energy.energy2sigma(1e3 * energy_keV)
    volts = volts.reshape(-1, side, side).transpose(0, 2, 1)  # abTEM's first axis is x
    made = {"film": name + ("+Pt" if heavy else ""), "thickness_nm": thickness, "atoms": count}
    return np.float32(sigma * volts), thickness, made


def waves(state_nm: dict, wavelength: float, x, y):
    """W in wavelengths of a state {name: nm} at angles x, y in rad: the sum of
    C_nm Re or Im of w^p conj(w)^q / (n + 1), p + q = n + 1, p - q = m, w = x + i y."""
    w, total = x + 1j * y, 0.0
    for name, nm in state_nm.items():
        order, symmetry = int(name[1]), int(name[2])
        p, q = (order + 1 + symmetry) // 2, (order + 1 - symmetry) // 2
        power = w**p * np.conj(w) ** q
        total = total + nm / (order + 1) * (power.imag if name.endswith("b") else power.real)
    return total / wavelength


def ronchigram(phases, thickness, state, optics, spread_nm, source_nm, random):
    """Intensity (M, M) of one place of the film, on angles of step wavelength/(2 n step), with the
    angles (M,), rad; 1 in the disc without a film."""
    wavelength = wavelength_nm(optics["energy_keV"])
    aperture, step = 1e-3 * optics["semi_angle_mrad"], CELL_NM / phases.shape[-1]
    line = np.linspace(-aperture, aperture, 201)
    shape = waves(state, wavelength, line[None, :], line[:, None]) * wavelength
    slope = np.hypot(*np.gradient(shape, line[1] - line[0]))
    bent = slope[np.hypot(line[None, :], line[:, None]) < aperture].max()
    size = scipy.fft.next_fast_len(int(np.ceil((2 * bent + MARGIN_NM) / step)))
    corner = random.integers(0, phases.shape[-1], 2)
    rows, columns = ((first + np.arange(size)) % phases.shape[-1] for first in corner)
    piece = np.exp(1j * phases[:, rows[:, None], columns]).astype(np.complex64)
    k = np.fft.fftfreq(size, step)
    kx, ky = k[None, :], k[:, None]
    x, y = wavelength * kx, wavelength * ky
    inside = np.clip(0.5 + (aperture - np.hypot(x, y)) / (wavelength / (size * step)), 0, 1)
    kept = np.maximum(np.abs(kx), np.abs(ky)) < np.abs(k).max() * 2 / 3
    depth = thickness / len(phases)
    onward = np.complex64(kept * np.exp(-1j * np.pi * wavelength * depth * (kx**2 + ky**2)))
    # C10 counts at the film's middle, the wave meets the middle of the first slice first
    entry = state | {"C10": state.get("C10", 0.0) - 0.5 * (thickness - depth)}
    plate, lit = inside.astype(complex), np.nonzero(inside)
    x, y = (np.broadcast_to(angle, inside.shape)[lit] for angle in (x, y))
    plate[lit] *= np.exp(-2j * np.pi * waves(entry, wavelength, x, y))
    centre = np.exp(-2j * np.pi * (kx + ky) * (size // 2) * step)
    nodes, weights = np.polynomial.hermite_e.hermegauss(FOCAL_NODES)
    reach = int(1.35 * aperture / wavelength * 2 * size * step)
    seen = np.arange(-reach, reach + 1)
    total = np.zeros((seen.size, seen.size))
    for number, (node, weight) in enumerate(zip(nodes, weights / weights.sum(), strict=True)):
        offsets = OFFSETS if weight > OUTER else OFFSETS[number % len(OFFSETS) :][:1]
        focus = np.exp(-1j * np.pi * wavelength * spread_nm * node * (kx**2 + ky**2))
        for dx, dy in offsets:
            shift = np.exp(-2j * np.pi * np.sqrt(2) * source_nm * (kx * dx + ky * dy))
            wave = scipy.fft.ifft2((plate * focus * shift * centre).astype(np.complex64),
                                   workers=-1)
            for transmission in piece:
                wave = scipy.fft.ifft2(
                    scipy.fft.fft2(wave * transmission, workers=-1) * onward, workers=-1)
            padded = np.zeros((2 * size, 2 * size), np.complex64)
            padded[:size, :size] = wave
            far = scipy.fft.fft2(padded, workers=-1)[np.ix_(seen, seen)]
            total += weight / len(offsets) * np.abs(far) ** 2
    return total, seen * wavelength / (2 * size * step)


def camera(intensity, angle, optics, faults, random):
    """Counts (PIXELS, PIXELS) uint16."""
    step, overlap = angle[1] - angle[0], []  # of the columns, of the rows
    for pixel, middle in zip(faults["pixel_mrad"], faults["centre_col_row"], strict=True):
        edges = 1e-3 * pixel * (np.arange(PIXELS + 1) - 0.5 - middle)
        low = angle - 0.5 * step
        shared = np.minimum(edges[1:, None], low + step) - np.maximum(edges[:-1, None], low)
        overlap.append(np.clip(shared, 0, None) / np.diff(edges)[:, None])
    electrons = overlap[1] @ intensity @ overlap[0].T
    within = np.hypot(*np.meshgrid(angle, angle)) < 0.9e-3 * optics["semi_angle_mrad"]
    electrons *= faults["dose"] / intensity[within].mean()
    f = np.fft.fftfreq(PIXELS)
    mtf = np.exp(-2 * (np.pi * faults["blur_pixels"]) ** 2 * (f[:, None] ** 2 + f[None, :] ** 2))

    def blurred(image):
        return np.fft.ifft2(np.fft.fft2(image) * mtf).real

    if faults["direct"]:
        counts = random.poisson(np.clip(blurred(electrons), 0, None)).astype(float)
    else:
        counts = blurred(random.poisson(np.clip(electrons, 0, None)).astype(float))
    counts = counts * faults["counts_per_electron"] * faults["gain"] + faults["offset"]
    counts += faults["readout"] * random.standard_normal(counts.shape)
    for row, column, height in faults["hot"]:
        counts[row, column] += height
    return np.clip(np.rint(counts), 0, 65535).astype(np.uint16)


def instrument(random, tier: str):
    """True optics, nominal `jaxcal.Optics`, camera's faults, state {name: nm} of what is no knob,
    and the knobs' names."""
    energy = float(random.choice((200.0, 200.0, 300.0)))
    nominal = float(np.round(random.uniform(20.0, 25.0), 1))
    true = {"energy_keV": energy, "semi_angle_mrad": nominal * random.uniform(0.98, 1.02)}
    pixel = float(np.round(nominal / RADIUS, 4))
    off = pixel * random.uniform(0.99, 1.01)
    uneven = random.choice((0.0, 1.0)) * random.uniform(-0.003, 0.003)
    dose = float(np.exp(random.uniform(np.log(30), np.log(500))))
    gain = float(np.exp(random.uniform(np.log(5), np.log(25))))
    hot = [(int(r), int(c), float(random.uniform(5e3, 4e4))) for r, c in random.integers(
        0, PIXELS, (int(random.choice((0, 5, 13))), 2))]
    faults = {
        "pixel_mrad": (off * (1 + uneven), off * (1 - uneven)),
        "centre_col_row": (127.5 + random.uniform(-3, 3), 127.5 + random.uniform(-3, 3)),
        "dose": dose, "direct": bool(random.integers(2)),
        "blur_pixels": random.uniform(0.4, 1.0), "counts_per_electron": gain,
        "gain": 1 + random.uniform(0.01, 0.02) * random.standard_normal((PIXELS, PIXELS)),
        "offset": random.uniform(50, 350), "readout": random.uniform(3, 8), "hot": hot}
    fixed = {}
    for name, sd in RESIDUAL_NM.items():
        for half in "ab":
            fixed[name + half] = sd * random.standard_normal()
    fixed["C30"] = 3000.0 if tier == "B" else random.choice((-1, 1)) * random.uniform(300, 3000)
    fixed["C50"] = random.choice((-1, 1)) * np.exp(random.uniform(np.log(1e4), np.log(5e5)))
    knobs = SEVEN if tier == "C" else FIRST_ORDER
    if tier != "C":
        for name in ("C21a", "C21b", "C23a", "C23b"):
            fixed[name] = (300.0 if tier == "B" else 12.0) * random.standard_normal()
    return true, jaxcal.Optics(energy, nominal, pixel), faults, fixed, knobs


def series(seed: int, tier: str, told=None):
    """A `jaxcal.Series` and its truth, an entry of truth.json."""
    random = np.random.default_rng([seed, 31])
    true, optics, faults, fixed, names = instrument(random, tier)
    count, frames = len(names), 20 if tier == "C" else 16
    first = np.arange(count) < 3
    x0 = np.where(first, random.uniform(-150, 150, count),
                  np.clip(400 * random.standard_normal(count), -1000, 1000))
    knobs = np.where(first, 120.0, 500.0) * random.uniform(-1, 1, (frames, count))
    knobs[0] = 0.0
    gain, drift, bad = np.eye(count), np.zeros((frames, count)), {}
    if tier == "D":
        gain = np.diag(random.uniform(0.9, 1.1, count)) + 0.03 * random.standard_normal(
            (count, count)) * (1 - np.eye(count))
        way = random.standard_normal(count)
        drift = np.arange(frames)[:, None] * random.uniform(0.5, 1) * way / np.linalg.norm(way)
        chosen = random.choice(np.arange(1, frames), 3, replace=False)
        bad = dict(zip((int(n) for n in chosen), random.choice(BAD, 3), strict=True))
    states = x0 + knobs @ gain.T + drift
    step = wavelength_nm(true["energy_keV"]) / (3 * BAND * 1e-3 * true["semi_angle_mrad"])
    phases, thickness, made = film(random, true["energy_keV"], step)
    spread, source = random.uniform(2.0, 6.0), random.uniform(0.015, 0.035)
    shots = []
    for number in range(frames):
        if bad.get(number) == "stale":
            shots.append(shots[-1])
            continue
        state = fixed | dict(zip(names, states[number].tolist(), strict=True))
        intensity, angle = ronchigram(phases, thickness, state, true, spread, source, random)
        if bad.get(number) == "blank":
            intensity = np.full_like(intensity, 1e-6)
        if bad.get(number) == "shadow":
            intensity = intensity * (angle[None, :] < random.uniform(-0.2, 0.2) * 0.02)
        dose = {"blank": 1e-3, "saturated": 40.0}.get(bad.get(number), 1.0) * faults["dose"]
        shots.append(camera(intensity, angle, true, faults | {"dose": dose}, random))
        if told:
            told(number + 1, frames)
    truth = {
        "tier": tier, "knob_names": list(names), "seed": seed,
        "x0_nm": fixed | dict(zip(names, x0.tolist(), strict=True)), "G": gain.tolist(),
        "drift_nm": drift.tolist(), "bad_frames": {str(n): str(kind) for n, kind in bad.items()},
        "true_optics": true, "focal_spread_nm": spread, "source_nm": source, "specimen": made,
        "camera": {name: value for name, value in faults.items() if name != "gain"}}
    return jaxcal.Series(np.stack(shots), knobs, names, optics), truth


def main(arguments=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--series", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0, help="of the first")
    options = parser.parse_args(arguments)
    if not importlib.util.find_spec("abtem"):
        parser.error("the atoms' potentials are abTEM's, which is not installed: "
                     "pip install '.[alternatives]'")
    options.folder.mkdir(parents=True, exist_ok=True)
    index = options.folder / "truth.json"
    truth = json.loads(index.read_text()) if index.is_file() else {}
    for seed in range(options.seed, options.seed + options.series):
        name = f"m{seed:02d}.h5"
        if name in truth:
            continue
        begin = time.perf_counter()
        made, truth[name] = series(seed, TIERS[seed % len(TIERS)], lambda done, of: print(
            f"{done}/{of}", end="\r", file=sys.stderr, flush=True))
        jaxcal.write_series(options.folder / name, made)
        write_text(index, json.dumps(truth, indent=1) + "\n")
        print(f"{name}: tier {truth[name]['tier']}, {truth[name]['specimen']['film']}, "
              f"{time.perf_counter() - begin:.0f} s", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
