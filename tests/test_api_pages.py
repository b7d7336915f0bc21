"""The API pages: all that is public is on them, with its docstring."""

import re
import sys
from importlib import import_module
from pathlib import Path

import pytest

import jaxcal

sys.path.insert(0, str(Path(__file__).parent.parent / "scripts"))
import api_pages  # noqa: E402


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("api")
    api_pages.build(folder)
    return folder


def page(folder, module):
    return (folder / (module.replace(".", "/") + ".html")).read_text()


@pytest.mark.parametrize("name", jaxcal.__all__)
def test_a_public_name_is_there_with_its_docstring(pages, name):
    text = page(pages, "jaxcal")
    assert f'<section id="{name}">' in text
    section = text.split(f'<section id="{name}">')[1].split("<section")[0]
    assert len(re.sub("<[^>]*>", "", section.split('class="docstring"')[1])) > 30


def test_what_the_telescope_takes_of_the_package_is_on_the_pages():
    source = (Path(api_pages.__file__).parent / "telescope.py").read_text(encoding="utf-8")
    line, = re.findall(r"^.*\bjaxcal\b.*import .*$", source, re.M)
    names = line.removeprefix("from jaxcal import ").split(", ")
    assert {f"jaxcal.{name}" for name in names} <= set(api_pages.MODULES)


@pytest.mark.parametrize("module", api_pages.MODULES[1:])
def test_what_a_module_shows_is_documented(pages, module):
    """Classes and functions that are written in it, without those that begin with _."""
    loaded = import_module(module)
    text = page(pages, module)
    shown = [name for name, value in vars(loaded).items()
             if not name.startswith("_") and getattr(value, "__module__", "") == module
             and callable(value)]
    assert shown or module == "jaxcal.microscopes"
    for name in shown:
        assert f'<section id="{name}">' in text, name
        assert getattr(loaded, name).__doc__, name
