"""What stays in memory: keys in the form of every kernel, found while they are there and gone after a lock; core files; a client's data in
the block server; and a posture that says of this machine what is so."""

import os
import pathlib
import re
import signal
import subprocess
import time

import nbd
import pytest

from conftest import make_lab, running_lab
from test_forensics import patterns, search

rootly = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to look into other processes")
KERNELS = ("portable", "aesni", "aesni_sse", "vaes256", "vaes512")


def usable_kernels(lab):
    key = f"payload {os.urandom(48).hex()}\nuuid {os.urandom(16).hex()}\ngen 1\n"
    derived = lab.run(lab.bin / "keyscan", "--derive", input=key).out
    return [k for k in KERNELS if f" {k} state[" in derived]


def connect(lab, name="demo"):
    handle = nbd.NBD()
    handle.connect_uri(lab.uri(name))
    return handle


def use(lab, name):
    handle = connect(lab, name)
    for i in range(4):
        handle.pwrite(os.urandom(1 << 20), i << 20)
    handle.flush()
    for i in range(4):
        handle.pread(1 << 20, i << 20)
    handle.shutdown()


# ---- keys ----

@rootly
def test_every_kernels_form_of_a_key_is_found_and_then_gone():
    """One volume a kernel, one agent: each data plane has its own key in its own kernel's form, and only that one."""
    lab = make_lab()
    try:
        kernels = usable_kernels(lab)
        assert "portable" in kernels
        lab.make_token()
        lab.make_kek()
        lab.write_config()
        names = {k: f"v{i}-{k}" for i, k in enumerate(kernels)}
        images = {k: lab.write_volume(names[k], "16M", more=f"kernel = {k}\n") for k in kernels}
        lab.start()
        lab.enroll_all()
        text = {}
        for k in kernels:
            lab.cli("create", names[k], role="operator")
            status = lab.wait_state("AVAILABLE", names[k])
            assert status["kernel"] == k
            use(lab, names[k])
            text[k] = patterns(lab, images[k])
        for k in kernels:
            found = search(lab, text[k], "--inject")
            assert found.code == 1, f"{k}: the search is blind\n{found}"
            hits = [line.split(None, 1) for line in found.out.splitlines() if re.match(r"[0-9]+ ", line)]
            assert {pid for pid, _ in hits} == {str(p) for p in lab.dataplanes(names[k])}, f"{k}: {found.out[:2000]}"
            labels = " ".join(label for _, label in hits)
            assert f"{k} state" in labels or "round key" in labels, labels[:2000]
        lab.run(lab.bin / "fallgate", "--run-dir", lab.root / "run", "revoke", "--local", "--all")
        for k in kernels:
            lab.wait_state("INACCESSIBLE", names[k])
        everything = "".join(text.values())
        after = search(lab, everything, "--inject")
        assert after.code == 0, f"after the revoke:\n{after.out[:3000]}{after.err[:1000]}"
    finally:
        lab.close()


def core_of(pid, path):
    """Everything of a process that can be read from outside, as a debugger would save it; the mappings that cannot."""
    unread = []
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", buffering=0) as mem, open(path, "wb") as core:
        for line in maps:
            where, rights, _, _, _, *name = line.split(None, 5)
            start, end = (int(x, 16) for x in where.split("-"))
            if rights[0] != "r" or (name and name[0].startswith("[v")):
                continue
            try:
                mem.seek(start)
                while start < end:
                    data = mem.read(min(1 << 20, end - start))
                    core.write(data)
                    start += len(data)
            except OSError:
                unread.append(line)
    return unread


@rootly
@pytest.mark.parametrize("memory", ["memfd_secret", "locked-memfd"])
def test_a_core_file_of_a_serving_data_plane(memory):
    """With memfd_secret not even root's debugger gets a key; in the fallback it does (which shows that the search would find one); and
    neither leaves a core file by itself, though a program waits for one."""
    lab = make_lab(environment={"FALLGATE_SECRET_MEMORY": "memfd"} if memory == "locked-memfd" else None)
    pattern = pathlib.Path("/proc/sys/kernel/core_pattern")
    was = pattern.read_text()
    try:
        lab.make_token()
        lab.make_kek()
        lab.write_config()
        image = lab.write_volume("demo", "16M")
        lab.start()
        lab.enroll_all()
        lab.cli("create", "demo", role="operator")
        status = lab.wait_state("AVAILABLE")
        if status["memory"] != memory:
            pytest.skip(f"this kernel has no memfd_secret: keys are in {status['memory']}")
        use(lab, "demo")
        text = patterns(lab, image)
        pid = lab.dataplanes()[0]
        unread = core_of(pid, lab.root / "core")
        found = lab.run(lab.bin / "keyscan", "--file", lab.root / "core", check=False, input=text, timeout=300)
        if memory == "memfd_secret":
            assert found.code == 0, f"a key outside secret memory:\n{found.out[:2000]}"
            assert any("secretmem" in line for line in unread), "the secret memory was read, or not there"
        else:
            assert found.code == 1, f"the search of files is blind\n{found}"
        # A program that takes cores is given them whatever RLIMIT_CORE says: only that the process cannot be dumped stands between.
        cores = lab.root / "cores"
        cores.mkdir()
        taker = lab.root / "taker"
        taker.write_text(f"#!/bin/sh\ncat > {cores}/core.$1\n")
        os.chmod(taker, 0o755)
        try:
            pattern.write_text(f"|{taker} %p\n")
        except OSError:
            pytest.skip("kernel.core_pattern cannot be set here")
        crash = subprocess.Popen(["/bin/sh", "-c", "kill -SEGV $$"], cwd="/")
        assert crash.wait() == -signal.SIGSEGV
        made, end = cores / f"core.{crash.pid}", time.monotonic() + 3
        while not made.exists() and time.monotonic() < end:
            time.sleep(0.05)
        made = made.exists()
        for p in lab.processes():
            try:
                os.kill(p, signal.SIGSEGV)
            except ProcessLookupError:
                pass  # a prover that was on its way out
        time.sleep(0.7)
        left = [c.name for c in cores.iterdir() if c.name != f"core.{crash.pid}"]
        assert not left, f"core files of the agent's processes: {left}"
        if not made:
            pytest.skip("this kernel writes no core files for anybody: nothing is shown by there being none")
    finally:
        try:
            pattern.write_text(was)
        except OSError:
            pass
        lab.close()


# ---- plaintext ----

@rootly
def test_no_data_of_a_client_is_left_in_the_agent_after_a_lock():
    """The marker is found in this very process, so the search is not blind; requests are of all sizes and over several connections."""
    lab = running_lab(volumes=(("demo", "16M"),))
    try:
        marker = os.urandom(64)
        text = f"{marker.hex()} marker\n"
        handles = [connect(lab) for _ in range(3)]
        for n, handle in enumerate(handles):
            for size in (4096, 512, 65536, 1 << 20):
                handle.pwrite(marker * (size // 64), (n + 1) << 20)
                handle.pread(size, (n + 1) << 20)
            handle.pwrite(marker * 9, (9 << 20) + 100)  # less than a sector
            handle.pread(100, (9 << 20) + 200)
        handles[0].flush()
        lab.run(lab.bin / "fallgate", "--run-dir", lab.root / "run", "revoke", "--local", "--all")
        lab.wait_state("INACCESSIBLE")
        lab.wait_for(lambda: lab.dataplanes(), 10, "the data plane that refuses")
        mine = lab.run(lab.bin / "keyscan", "--no-registers", os.getpid(), check=False, input=text)
        assert mine.code == 1, "the search is blind: the marker is in this process"
        after = search(lab, text, "--inject")
        assert after.code == 0, f"{after.out[:2000]}{after.err[:1000]}"
        assert marker not in (lab.root / "volumes/demo.img").read_bytes()
    finally:
        lab.close()


# ---- posture ----

def findings(lab):
    posture = lab.cli("posture", role="auditor", js=True).json()
    return {f["what"]: f["good"] for f in posture["findings"]}


def one(found, words):
    matches = {what: good for what, good in found.items() if words in what}
    assert len(matches) == 1, (words, found)
    return next(iter(matches.values()))


def test_the_posture_says_what_is_so():
    lab = running_lab(volumes=(("demo", "16M"),))
    try:
        found = findings(lab)
        in_secret = lab.status()["memory"] == "memfd_secret"
        assert one(found, "memfd_secret") == in_secret
        swaps = pathlib.Path("/proc/swaps").read_text().splitlines()[1:]
        assert one(found, "swap") == (not swaps)
        assert any("zram among it" in what for what in found) == any("/zram" in s for s in swaps)
        assert one(found, "core files of clients") == (pathlib.Path("/proc/sys/kernel/core_pattern").read_text().strip() in ("", "|/bin/false"))
        assert one(found, "the agent's processes leave no core files")
        yama = pathlib.Path("/proc/sys/kernel/yama/ptrace_scope")
        assert one(found, "trace") == (yama.exists() and yama.read_text()[0] in "123")
        assert one(found, "freed memory") == ("init_on_free=1" in pathlib.Path("/proc/cmdline").read_text())
        assert not one(found, "software token")
        weak = sum(not good for good in found.values())
        assert f"posture: {weak} weak" in lab.cli("status", role="auditor").out
        lab.cli("revoke", "demo")
    finally:
        lab.close()
