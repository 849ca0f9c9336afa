"""The walls between the processes, as the kernel tells them: users, privileges, filters, descriptors, mappings. A descriptor or a
right that is not in the table below is a hole, whoever made it."""

import os
import pathlib
import re
import shutil
import time

import pytest

from conftest import running_lab
from lab import UIDS

SOCKET, PIPE, ANY_EVENT = r"socket:\[\d+\]", r"pipe:\[\d+\]", r"anon_inode:\[(eventpoll|timerfd|signalfd|eventfd|pidfd)\]"

# What each process may hold, by the target of the link in /proc/PID/fd; {root} is the laboratory. "at": what stands at a number.
ALLOWED = {
    "supervisor": {"at": {0: "/dev/null"}, "any": [SOCKET, ANY_EVENT, "{root}/agent.log", "/dev/hwrng", "{root}/state", "{root}/state/ledger",
                                                 "{root}/run"]},
    "mgmt": {"at": {0: "/dev/null", 1: "/dev/null", 2: "{root}/agent.log", 3: SOCKET}, "any": [ANY_EVENT, SOCKET], "sockets": 2},
    "hsm": {"at": {0: "/dev/null", 1: "/dev/null", 2: "{root}/agent.log", 3: SOCKET}, "any": ["{root}/pins/pin"], "sockets": 1},
    "dataplane": {"at": {0: "/dev/null", 1: "/dev/null", 2: "{root}/agent.log", 3: SOCKET, 4: SOCKET},
                  "any": [PIPE, ANY_EVENT, "{root}/volumes/{name}.img"], "sockets": 2},
}
ENVIRONMENT = {
    "mgmt": {"PATH", "LD_BIND_NOW"},
    "hsm": {"PATH", "LD_BIND_NOW", "SOFTHSM2_CONF"},
    "dataplane": {"PATH", "LD_BIND_NOW", "LISTEN_FDS", "LISTEN_PID", "GLIBC_TUNABLES"},
}
DUMPABLE_NO = "a process that may be dumped or traced belongs to its user in /proc; one that may not belongs to root"


@pytest.fixture(scope="module")
def house():
    lab = running_lab(volumes=(("demo", "64M"), ("other", "16M")), more="listen_mode = 0660\n")
    try:
        yield lab
    finally:
        lab.close()


def kind_of(line):
    for word, kind in (("fallgate-nbd.so", "dataplane"), ("fallgate-hsm", "hsm"), ("fallgate-mgmt", "mgmt"), ("fallgated", "supervisor")):
        if word in line:
            return kind
    raise AssertionError(f"a process that nobody knows: {line}")


def people(lab):
    """(kind, pid, command line) of every process; a prober may be on its way in or out, so until all four kinds are there. (Between two
    programs a process has no command line.)"""
    def look():
        found = [(kind_of(line), pid, line) for pid, line in lab.processes().items() if line]
        return found if {kind for kind, _, _ in found} == set(ALLOWED) else None
    return lab.wait_for(look, 10, "all four kinds of process")


def status(pid):
    text = pathlib.Path(f"/proc/{pid}/status").read_text()
    return dict((key, value.strip()) for key, value in (line.split(":", 1) for line in text.splitlines()))


def descriptors(pid):
    out = {}
    for entry in os.listdir(f"/proc/{pid}/fd"):
        try:
            out[int(entry)] = os.readlink(f"/proc/{pid}/fd/{entry}")
        except FileNotFoundError:
            pass
    return out


def each(lab, look):
    """look(kind, pid, line) for every process; one that ended meanwhile (a prober's time was over) is passed over, and one that has not
    entered its walls yet, or has its module's files open, is looked at again."""
    seen = set()
    for kind, pid, line in people(lab):
        for again in (True, True, False):
            try:
                look(kind, pid, line)
                seen.add(kind)
            except (FileNotFoundError, ProcessLookupError):
                pass
            except AssertionError:
                if not again:
                    raise
                time.sleep(0.7)
                if lab.processes().get(pid) == line:
                    continue
            break
    return seen


def test_every_descriptor_is_known(house):
    def look(kind, pid, line):
        allowed, root = ALLOWED[kind], str(house.root)
        name = re.search(r"name=(\w+)", line)

        def pattern(text):
            fill = text.replace("{root}", re.escape(root)).replace("{name}", name.group(1) if name else "")
            return re.compile(fill + r"\Z")
        held = descriptors(pid)
        for number, target in held.items():
            if number in allowed["at"]:
                assert pattern(allowed["at"][number]).match(target), (kind, number, target)
            else:
                assert any(pattern(p).match(target) for p in allowed["any"]) or (kind == "supervisor" and number < 3), (kind, number, target)
        sockets = sum(1 for target in held.values() if target.startswith("socket:"))
        assert sockets <= allowed.get("sockets", 99), (kind, held)
    if os.geteuid() != 0:
        pytest.skip("descriptors of undumpable processes are root's to see")
    assert "dataplane" in each(house, look)


def test_every_process_has_its_user_and_nothing_else(house):
    def look(kind, pid, _):
        s = status(pid)
        assert s["NoNewPrivs"] == "1" and s["Seccomp"] == "2", (kind, s["NoNewPrivs"], s["Seccomp"])
        if house.as_root and kind != "supervisor":
            assert set(s["Uid"].split()) == set(s["Gid"].split()) == {str(UIDS[kind])} and s["Groups"] == "", (kind, s["Uid"], s["Groups"])
        if kind != "supervisor":
            assert all(int(s[c], 16) == 0 for c in ("CapEff", "CapPrm", "CapInh", "CapAmb")), (kind, s)
        limits = pathlib.Path(f"/proc/{pid}/limits").read_text()
        assert re.search(r"Max core file size\s+0\s+0\s", limits), (kind, limits)
        owner = os.stat(f"/proc/{pid}/mem").st_uid
        assert owner == 0 or not house.as_root, (kind, owner, DUMPABLE_NO)
    assert each(house, look) >= {"dataplane", "mgmt"}


def test_nothing_secret_and_nothing_foreign_in_arguments_and_environment(house):
    secrets = [(house.root / "pins/pin").read_text().strip()]
    for path in house.credentials.values():
        secrets.append(re.search(r"key\s*=\s*([0-9a-f]{64})", path.read_text()).group(1))

    def look(kind, pid, line):
        environment = pathlib.Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace")
        names = {entry.split("=", 1)[0] for entry in environment.split("\0") if entry}
        assert kind == "supervisor" or names == ENVIRONMENT[kind], (kind, names)
        for secret in secrets:
            assert secret not in line and secret not in environment, kind
    if os.geteuid() != 0:
        pytest.skip("the environment of undumpable processes is root's to see")
    each(house, look)
    assert not any(secret in house.log() for secret in secrets)


def test_only_dataplanes_map_secret_memory(house):
    def look(kind, pid, _):
        maps = pathlib.Path(f"/proc/{pid}/maps").read_text()
        secret = "secretmem" in maps or "memfd:" in maps
        assert secret == (kind == "dataplane"), (kind, [line for line in maps.splitlines() if "mem" in line])
    if os.geteuid() != 0:
        pytest.skip("the mappings of undumpable processes are root's to see")
    assert "dataplane" in each(house, look)


def test_files_with_keys_are_their_owners(house):
    for path in [house.root / "state", *(house.root / "state").rglob("*"), *house.credentials.values(), house.root / "run/console.sock"]:
        assert path.stat().st_mode & 0o077 == 0, path


def test_the_export_has_its_owner_and_mode(house):
    for name in ("demo", "other"):
        place = (house.root / f"run/{name}.sock").stat()
        assert place.st_mode & 0o777 == 0o660, oct(place.st_mode)
        assert not house.as_root or (place.st_uid, place.st_gid) == (UIDS["dataplane"], UIDS["dataplane"])


@pytest.mark.parametrize("verb", [("revoke", "--local", "demo"), ("enroll", "--role", "officer", "mallory")])
def test_a_stranger_has_no_console(house, verb):
    if not house.as_root:
        pytest.skip("another user is needed")
    stranger = house.run(house.bin / "fallgate", "--run-dir", house.root / "run", *verb, check=False, user="mgmt")
    assert stranger.code != 0, stranger
    assert house.state() == "AVAILABLE"


def test_a_second_agent_is_refused_and_harms_nothing(house):
    """Neither on the same state directory nor on the same run directory; the first one keeps its console, its gates and what says which
    block devices are whose."""
    mark = house.root / "run/devices/ublkb1048575"
    mark.parent.mkdir()
    mark.write_text("FALLGATE_VOLUME=demo\n")
    again = house.run(house.bin / "fallgated", "--config", house.root / "fallgate.conf", "--libexec", house.bin, check=False, timeout=20)
    assert again.code == 7 and "another agent" in again.err, again
    text = (house.root / "fallgate.conf").read_text().replace(f":{house.port}", f":{house.port + 1}")
    for changed, kept in (("run", "state"), ("state", "run")):
        there = house.root / f"second-{changed}"
        (there / "volumes.d").mkdir(parents=True)
        (there / "fallgate.conf").write_text(text.replace(f"{house.root}/{changed}\n", f"{there}/{changed}\n"))
        second = house.run(house.bin / "fallgated", "--config", there / "fallgate.conf", "--libexec", house.bin, check=False, timeout=20)
        assert second.code == 7 and "another agent" in second.err and f"/{kept}" in second.err, second
    assert mark.exists()
    shutil.rmtree(mark.parent)
    console = house.run(house.bin / "fallgate", "--run-dir", house.root / "run", "enroll", "--role", "auditor", "second",
                        "--out", house.root / "second.credentials")
    assert console.code == 0
    assert house.state() == "AVAILABLE"


def test_no_process_is_left_when_the_supervisor_dies():
    lab = running_lab(volumes=(("demo", "16M"),))
    try:
        lab.kill()
        lab.wait_for(lambda: not lab.processes(), 10, "the end of every process")
    finally:
        lab.close()
