"""The service unit leaves the agent what it needs: the whole way, from a volume's creation to a revoke and back, with the capabilities
and the other bounds that fallgated.service has. (That systemd itself takes the unit is test/tools/test_packaging.py's.)"""

import os
import re
import shutil
import subprocess

import nbd
import pytest

from conftest import BUILD, make_lab

UNIT = BUILD / "generated/fallgated.service"


def bounding_set(pid):
    return bin(int(re.search(r"CapBnd:\s*([0-9a-f]+)", open(f"/proc/{pid}/status").read())[1], 16)).count("1")


def bounded(lab, capabilities):
    """lab.bin becomes a folder in which fallgated is started with these capabilities, and with the unit's rlimits and umask."""
    folder = lab.root / "bounded"
    folder.mkdir()
    for path in lab.bin.iterdir():
        (folder / path.name).symlink_to(path)
    script = folder / "fallgated"
    script.unlink()
    words = ",".join(["-all", *("+" + c.removeprefix("CAP_").lower() for c in capabilities)])
    script.write_text("#!/bin/sh\n# KillMode=process and the rest are systemd's; privileges can be had without it\nulimit -c 0\n"
                      f'exec setpriv --no-new-privs --bounding-set {words} --inh-caps=-all -- "{BUILD}/bin/fallgated" "$@"\n')
    script.chmod(0o755)
    lab.bin = folder
    return lab


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("setpriv"), reason="needs root and setpriv: capabilities are to be taken away")
def test_the_agent_serves_locks_and_comes_back_with_the_units_capabilities():
    capabilities = re.search(r"(?m)^CapabilityBoundingSet=(.*)$", UNIT.read_text())[1].split()
    lab = bounded(make_lab(), capabilities)
    try:
        lab.make_token()
        lab.make_kek()
        lab.write_config()
        lab.write_volume("demo", "64M", more="on_lock = hold\n")
        lab.start()
        lab.enroll_all()
        lab.cli("create", "demo", role="operator")
        lab.wait_state("AVAILABLE")
        assert bounding_set(lab.agent.pid) <= len(capabilities) < bounding_set("self"), "the agent runs with more than the unit leaves it"
        handle = nbd.NBD()
        handle.connect_uri(lab.uri())
        content = os.urandom(1 << 20)
        handle.pwrite(content, 0)
        handle.flush()
        lab.cli("revoke", "demo", role="officer")
        lab.wait_state("INACCESSIBLE")
        lab.cli("restore", "demo", role="officer")
        lab.wait_state("AVAILABLE")
        assert handle.pread(len(content), 0) == content
        handle.shutdown()
        assert lab.stop() == 0
    finally:
        lab.close()


def test_nobody_is_killed_with_the_supervisor():
    """What wipes, drains or takes devices away after its end is left to it: of KillMode's words only this one does not kill the rest."""
    assert re.findall(r"(?m)^(?:KillMode|SendSIGKILL)=.*$", UNIT.read_text()) == ["KillMode=process"]


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("setpriv"), reason="needs root and setpriv")
def test_without_them_it_says_what_is_missing():
    """The check above is not blind: an agent that may not become its other users does not start."""
    lab = bounded(make_lab(), [])
    try:
        lab.make_token()
        lab.make_kek()
        lab.write_config()
        lab.write_volume("demo", "64M")
        lab.start(wait=False)
        try:
            lab.agent.wait(8)
        except subprocess.TimeoutExpired:
            pass
        log = lab.log()
        assert "listening" not in log and re.search(r"fallgate\S*\[\d+\]: .+", log), log
    finally:
        lab.close()
