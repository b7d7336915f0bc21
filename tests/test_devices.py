"""The same numbers on one device, on eight, and on two processes of four."""

import json
import os
import re
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose

import jaxcal
from jaxcal import devices

TESTS = Path(__file__).parent
QUICKLY = "--xla_backend_optimization_level=0"  # to compile: most of the time of a session
LIMIT_S = 240  # processes that wait for each other may do so for ever


def start(count, *arguments):
    """A session on so many devices; what it prints goes to a file, a full pipe would hold it up."""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(TESTS.parent), os.environ.get("PYTHONPATH", "")]),
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={count} {QUICKLY}"}
    told = tempfile.TemporaryFile("w+")
    process = subprocess.Popen([sys.executable, TESTS / "device_session.py", *map(str, arguments)],
                               env=environment, stdout=told, stderr=subprocess.STDOUT)
    return process, told


def told(sessions):
    """What the sessions printed last; all are killed when one takes too long or fails."""
    try:
        made = []
        for process, file in sessions:
            status = process.wait(timeout=LIMIT_S)
            file.seek(0)
            text = file.read()
            assert status == 0, text[-3000:]
            made.append(json.loads(text.splitlines()[-1]))
        return made
    finally:
        for process, file in sessions:
            process.kill()
            process.wait()
            file.close()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def alone():
    return told([start(1)])[0]


def same(one, other):
    """Sums over devices are taken in another order; nothing else differs."""
    assert set(one) == set(other)
    for name in set(one) - {"devices", "used", "share"}:
        for a, b in zip(jax.tree.leaves(one[name]), jax.tree.leaves(other[name]), strict=True):
            assert_allclose(a, b, rtol=2e-4, atol=2e-4, err_msg=name)


@pytest.mark.slow
@pytest.mark.timeout(2 * LIMIT_S)
def test_eight_devices(alone):
    many = told([start(8)])[0]
    assert (alone["devices"], many["devices"]) == (1, 8)
    assert (alone["used"], many["used"]) == (1, 8)
    same(alone, many)


@pytest.mark.slow
@pytest.mark.timeout(2 * LIMIT_S)
def test_two_processes(alone):
    port = free_port()
    first, second = told([start(4, port, number, 2) for number in range(2)])
    assert first["devices"] == second["devices"] == 8
    assert first["used"] == second["used"] == 4  # its own
    same(first, second)
    same(alone, first)
    assert first["share"] == [0, 2, 4, 6] and second["share"] == [1, 3, 5]


def test_the_code_of_the_page_runs(monkeypatch):
    """With a training and series that cost nothing."""
    page = (TESTS.parent / "docs" / "scale.md").read_text(encoding="utf-8")
    done = []
    monkeypatch.setattr("jaxcal.training.train", lambda config, folder: done.append(
        (folder, devices.AXIS in jax.sharding.get_abstract_mesh().axis_names)))
    monkeypatch.setitem(vars(jaxcal), "read_series", str.upper)
    monkeypatch.setitem(vars(jaxcal), "estimate", lambda series: f"estimate of {series}")
    names = {"all_series": ["a.h5", "b.h5"],
             "simulate_one": lambda key: jax.random.normal(key, (3,))}
    for name in ("mesh", "fleet", "threads"):
        exec(re.search(rf"<!-- {name} -->\n```python\n(.*?)```", page, re.S)[1], names)
    assert done == [("build/model", True)]
    assert names["answers"] == {"a.h5": "estimate of A.H5", "b.h5": "estimate of B.H5"}
    keys = jax.random.split(jax.random.key(0), 64)
    np.testing.assert_array_equal(names["spectra"], jax.vmap(names["simulate_one"])(keys))


def test_without_a_mesh_everything_stays_as_it_is():
    assert devices.count() == 1
    rows = np.arange(5.0)
    assert devices.in_parts(lambda x: x, rows) is rows
    assert devices.share("abc") == ["a", "b", "c"]
    assert list(devices.each(lambda x: 2 * x, range(3))) == [0, 2, 4]


def test_as_many_threads_as_this_process_may_have(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {3, 5, 6}, raising=False)
    assert devices.cores() == 3
    monkeypatch.delattr("os.sched_getaffinity")
    assert devices.cores() == os.cpu_count()


def test_threads_keep_the_device_of_the_caller():
    seen = devices.side_by_side(lambda _: jax.config.jax_default_device, range(3))
    assert seen == [None] * 3
    chosen = jax.devices()[0]
    with jax.default_device(chosen):
        seen = devices.side_by_side(lambda _: jax.config.jax_default_device, range(3))
    assert seen == [chosen] * 3


def test_what_runs_aside_is_waited_for_and_keeps_the_device():
    chosen = jax.devices()[0]
    with jax.default_device(chosen):
        result = devices.aside(lambda: jax.config.jax_default_device)
    assert result() == chosen
    with pytest.raises(ValueError, match="invalid literal"):
        devices.aside(lambda: int("no number"))()
