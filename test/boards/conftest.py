import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

BOARDS = ["qemu_x86_64", "qemu_aarch64"]
UEFI_BOARDS = ["generic_x86_64_uefi", "generic_aarch64_uefi"]


def pytest_addoption(parser):
    parser.addoption("--build", default="build/release", help="where the host's fallgate, keyscan and unwrap_dek are")
    parser.addoption("--cuts", type=int, default=2, help="power cuts per board")


@pytest.fixture
def build(request):
    return pathlib.Path(request.config.getoption("--build")).resolve()


@pytest.fixture
def cuts(request):
    return request.config.getoption("--cuts")
