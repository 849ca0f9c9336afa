"""Fixtures: a laboratory with a token, a KEK and a running agent. FALLGATE_BUILD names the build directory to test."""

import os
import pathlib
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

from lab import Lab  # noqa: E402

BUILD = pathlib.Path(os.environ.get("FALLGATE_BUILD", ROOT / "build" / "release"))


def make_lab(**options):
    return Lab(BUILD, **options)


def running_lab(volumes=(("demo", "64M"),), create=True, kek="", agent="", more="", **options):
    lab = make_lab(**options)
    try:
        lab.make_token()
        lab.make_kek()
        lab.write_config(kek=kek, agent=agent)
        for name, size in volumes:
            lab.write_volume(name, size, more=more)
        lab.start()
        lab.enroll_all()
        for name, _ in volumes if create else ():
            lab.cli("create", name, role="operator")
            lab.serve(name)
    except BaseException:
        lab.close()
        raise
    return lab


@pytest.fixture
def lab():
    """A token, a KEK, a configuration; nothing started."""
    lab = make_lab()
    try:
        lab.make_token()
        lab.make_kek()
        lab.write_config()
        yield lab
    finally:
        lab.close()


@pytest.fixture
def agent():
    """A running agent with one AVAILABLE volume, demo, of 64 MiB."""
    lab = running_lab()
    try:
        yield lab
    finally:
        lab.close()


@pytest.fixture(scope="module")
def shared():
    """The same, for all tests of a file that leave it as they found it."""
    lab = running_lab()
    try:
        yield lab
    finally:
        lab.close()
