"""What the tests of the boards share: their options, and for each file and board a machine that serves a volume."""

import os
import pathlib
import sys

import nbd
import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

from hsm import OutsideHsm, enrol_beforehand  # noqa: E402
from machine import Guest, MIB  # noqa: E402

BOARDS = ["qemu_x86_64", "qemu_aarch64"]
UEFI_BOARDS = ["generic_x86_64_uefi", "generic_aarch64_uefi"]
GUEST_TPM_BOARDS = ["qemu_x86_64", "generic_x86_64_uefi"]


def pytest_addoption(parser):
    parser.addoption("--build", default="build/release", help="where the host's fallgate, keyscan and unwrap_dek are")
    parser.addoption("--cuts", type=int, default=20, help="power cuts per board")
    parser.addoption("--dumps", type=int, default=20, help="dumps of the whole RAM per board and kind of event")
    parser.addoption("--kvm", action="store_true", help="the host's processor for boards of its kind: faster, not what is shipped")


@pytest.fixture(scope="session")
def build(request):
    return pathlib.Path(request.config.getoption("--build")).resolve()


@pytest.fixture
def cuts(request):
    return request.config.getoption("--cuts")


class Served:
    """A release image that serves a volume whose KEK is on an HSM outside the board; what was written to it, and its keys' patterns."""

    def __init__(self, board, folder, build, **more):
        self.hsm = OutsideHsm(folder / "hsm", build)
        try:
            records, keys = enrol_beforehand(folder / "factory", build)
            self.guest = Guest(board, folder / "vm", build, flavour="release", hsm=self.hsm, agent_state=records, **more)
            self.guest.boot()
            self.guest.enrolled(keys)
            self.guest.wait_answer()
            self.guest.cli("create", "data", role="operator")
            self.status = self.guest.wait_state("AVAILABLE")
            self.content = os.urandom(4 * MIB)
            disk = self.connect()
            disk.pwrite(self.content, MIB)
            disk.flush()
            self.patterns = self.guest.key_patterns()
        except BaseException:
            self.close()
            raise

    def connect(self):
        handle = nbd.NBD()
        handle.connect_uri(self.guest.uri)
        return handle

    def serves(self):
        """Everything that was written is there."""
        return self.connect().pread(len(self.content), MIB) == self.content

    def refuses(self):
        try:
            self.connect().pread(4096, MIB)
        except nbd.Error:
            return True
        return False

    def keys(self):
        return self.guest.keys_in_ram(self.patterns)

    def close(self):
        if hasattr(self, "guest"):
            self.guest.close()
        self.hsm.close()


@pytest.fixture(scope="module", params=BOARDS)
def served(request, tmp_path_factory, build):
    world = Served(request.param, tmp_path_factory.mktemp(request.param), build, kvm=request.config.getoption("--kvm"))
    yield world
    world.close()


@pytest.fixture
def dumps(request):
    return request.config.getoption("--dumps")


@pytest.fixture
def kvm(request):
    return request.config.getoption("--kvm")
