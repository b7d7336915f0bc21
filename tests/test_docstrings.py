"""The examples in the docstrings, which the API pages show: they run and give what they say."""

import doctest
import pkgutil
from importlib import import_module

import pytest

import jaxcal

MODULES = sorted(module.name for module in pkgutil.walk_packages(jaxcal.__path__, "jaxcal.")
                 if not module.name.endswith("__main__"))


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_give_what_they_say(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = import_module(name)
    failed, tried = doctest.testmod(module, optionflags=doctest.ELLIPSIS)
    assert failed == 0
    shown = (module.__doc__ or "").count(">>> ")
    assert tried >= shown
