"""How long a board takes from power-on to AVAILABLE, for tools/footprint --boot. The development image boots with a state made before,
N times; beside it, in the same run, the same kernel and initramfs whose first program only says that it runs. What must stay true:
times come from one clock each (the host's for power-on to a line on the console, the guest's for the agent), the processor time of
QEMU stands beside them because the host does other things too, and nothing here is an assertion."""
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path

from board import Board, BoardError

SOURCE = Path(__file__).resolve().parent.parent
GOALS = {"power-on to AVAILABLE": 10.0, "agent's start to AVAILABLE": 1.5}
ROLE = "auditor"
PATIENCE = 180
READY = "first program runs"
# In the guest's shell: when the agent was started, and what its processes have resident.
LOOK = ("for p in $(pidof fallgated fallgate-hsm fallgate-mgmt nbdkit fallgate-dataplane); do "
        "echo took $(cut -d' ' -f2,22 /proc/$p/stat) $(grep VmRSS /proc/$p/status); done; echo that is all")


class BootError(Exception):
    """One line for the person: what, where, what to do."""


def script(name):
    """A tool that is a program, as a module."""
    loader = SourceFileLoader(name, str(SOURCE / "tools" / name))
    module = module_from_spec(spec_from_loader(name, loader))
    loader.exec_module(module)
    return module


class Boot:
    """One start of a machine: what the console said and when."""

    def __init__(self, command, folder):
        self.console = folder / "console"
        self.process = None
        self.log = open(self.console, "wb")
        self.began = time.monotonic()
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=self.log, stderr=subprocess.STDOUT, cwd=folder)

    def text(self):
        return self.console.read_text(encoding="utf-8", errors="replace")

    def wait_for(self, pattern):
        """(match, seconds since power-on, processor seconds of QEMU)."""
        while True:
            match = re.search(pattern, self.text())
            now = time.monotonic() - self.began
            if match:
                return match, now, self.processor()
            if self.process.poll() is not None or now > PATIENCE:
                tail = " / ".join(self.text().splitlines()[-4:])
                raise BootError(f"the console never said '{pattern}'; its end: {tail}")
            time.sleep(0.02)

    def processor(self):
        fields = Path(f"/proc/{self.process.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def type(self, line):
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    def off(self):
        self.type("poweroff")
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            raise BootError("the machine does not power off") from None

    def close(self):
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.log.close()


def bare_initramfs(image, to):
    """The image's own, and behind it one file more: a first program that says so and waits."""
    tree = script("image").Tree()
    tree.file("first", f"#!/bin/sh\necho {READY} >/dev/console\nexec sleep 1000\n".encode(), 0o755)
    packed = (image / "initramfs.zst").read_bytes()
    to.write_bytes(packed + b"\0" * (-len(packed) % 4) + tree.cpio())


def seconds_of(boot, credentials, client):
    """The agent's own part, by the guest's wall clock: its first line of code to the volume's AVAILABLE."""
    def ask(*what):
        done = subprocess.run([client, "--credentials", credentials, "--json", "status", *what], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise BootError(f"the agent in the guest does not answer: {done.stderr.strip()}")
        return json.loads(done.stdout)

    boot.type(LOOK)
    boot.wait_for(r"that is all\r?\n.*#")
    resident = sum(int(kib) for kib in re.findall(r"took .*VmRSS:\s*(\d+) kB", boot.text()))
    return (ask("data")["since_ns"] - ask()["started_ns"]) / 1e9, resident / 1024


def one_boot(machine, folder, client):
    boot = Boot(machine.command(serial="stdio"), folder)
    try:
        _, total, processor = boot.wait_for(r"-> AVAILABLE")
        key = boot.wait_for(rf"credentials {ROLE} ([0-9a-f]{{64}})")[0][1]
        credentials = folder / "credentials"
        credentials.touch(0o600)
        credentials.write_text(f"[agent]\naddress = 127.0.0.1:{machine.coap}\nidentity = {ROLE}\nkey = {key}\n", encoding="utf-8")
        agent, resident = seconds_of(boot, credentials, client)
        boot.off()
        return {"total": total, "processor": processor, "agent": agent, "resident": resident}
    finally:
        boot.close()


def bare_boot(machine, folder):
    """The same command line but for the initramfs and its first program."""
    command = machine.command(serial="stdio")
    image = Path(command[command.index("-initrd") + 1])
    bare_initramfs(image.parent, folder / "bare.img")
    command[command.index("-initrd") + 1] = str(folder / "bare.img")
    command[command.index("-append") + 1] += " rdinit=/first"
    boot = Boot(command, folder)
    try:
        _, total, processor = boot.wait_for(READY)
        return {"total": total, "processor": processor}
    finally:
        boot.close()


def prepared(board, folder, kvm, client):
    """The machine, its token made and its volume created: what a first boot does is no start of an appliance."""
    machine = script("qemu").Machine(board, "dev", folder, kvm=kvm)
    first = one_boot(machine, folder, client)
    print(f"boot_time: {board.name}: first boot, with token and volume to make: {first['total']:.1f} s", flush=True)
    return machine


def table(board, boots, bare):
    def best(kind, of=boots):
        return min(b[kind] for b in of)

    def line(what, of, kind, unit="s"):
        values = sorted(b[kind] for b in of)
        return {"what": what, "best": values[0], "median": values[len(values) // 2], "goal": GOALS.get(what), "unit": unit}

    return {"board": board.name, "n": len(boots),
            "rows": [line("power-on to the first program", bare, "total"), line("power-on to AVAILABLE", boots, "total"),
                     line("of it processor time of QEMU", boots, "processor"), line("agent's start to AVAILABLE", boots, "agent"),
                     line("resident in the guest, the agent's processes", boots, "resident", "MiB")],
            "to_bare": best("total") / best("total", bare), "to_bare_processor": best("processor") / best("processor", bare)}


def show(result, accelerator):
    print(f"{result['board']}, {accelerator}, {result['n']} boots{'':12} best   median")
    for r in result["rows"]:
        goal = f"   goal {r['goal']:g}" if r["goal"] else ""
        print(f"  {r['what']:44} {r['best']:6.2f}   {r['median']:6.2f} {r['unit']}{goal}")
    print(f"  power-on to AVAILABLE as a multiple of the bare boot: {result['to_bare']:.2f} (processor time {result['to_bare_processor']:.2f})")


def run(name, count, kvm, build, json_file):
    client = (build / "bin/fallgate").resolve()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # a machine does not outlive its measurement
    try:
        board = Board(name)
        if board["image", "kind"] != "direct" or not board["qemu", "program"]:
            raise BootError(f"board {name} does not boot a kernel directly under QEMU: qemu_x86_64 and qemu_aarch64 do")
        if not client.exists():
            raise BootError(f"no {client}: cmake --preset release && cmake --build --preset release")
        image = SOURCE / "build/image" / f"{name}-dev"
        if not (image / "initramfs.zst").exists():
            raise BootError(f"no image in {image}: tools/image {name} --flavour dev")
        with tempfile.TemporaryDirectory(prefix="fallgate-boot-") as place:
            folder = Path(place)
            machine = prepared(board, folder, kvm, client)
            boots, bare = [], []
            for _ in range(count):
                bare.append(bare_boot(machine, folder))
                boots.append(one_boot(machine, folder, client))
            result = table(board, boots, bare)
    except (BootError, BoardError) as failure:
        print(f"footprint: {failure}", file=sys.stderr)
        return 3
    show(result, "KVM" if kvm else "TCG")
    if json_file:
        json_file.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0
