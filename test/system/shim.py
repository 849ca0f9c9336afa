"""Orders to kill_shim.c: a laboratory whose processes all carry it. The words are those of struct shim_orders."""

import mmap
import os
import re
import struct

from conftest import ROOT, make_lab

ROLES = {"supervisor": 1, "prober": 2, "unwrapper": 3, "dataplane": 4, "creator": 5, "mgmt": 6}
POINTS = ("before sending", "after sending", "after receiving")
TYPES = re.findall(r"^\tMSG_(\w+),", (ROOT / "firmware/ipc/message.h").read_text().split("enum message_type {")[1].split("};")[0], re.M)
STATES = re.findall(r"^\tGATE_(\w+),", (ROOT / "firmware/revocation/revocation.h").read_text().split("enum gate_state {")[1].split("};")[0], re.M)
CLOCKS, SEEN = 8 * 4, 8 * 4 + 16
TABLE = 8 * 3 * 64


def shimmed_lab(**options):
    """Not started. lab.orders is what the shim obeys."""
    lab = make_lab(**options)
    shim = lab.bin / "kill_shim.so"
    path = lab.root / "orders"
    path.write_bytes(bytes(SEEN + 2 * TABLE * 4))
    os.chmod(path, 0o666)
    programs = lab.root / "programs"
    programs.mkdir()
    for entry in lab.bin.iterdir():
        (programs / entry.name).symlink_to(entry)

    def wrap(name, target, role, one_shot=None):
        (programs / name).unlink(missing_ok=True)
        choose = f'case "$*" in *one-shot*) r={ROLES[one_shot]} ;; *) r={ROLES[role]} ;; esac' if one_shot else f"r={ROLES[role]}"
        (programs / name).write_text(f"#!/bin/sh\n{choose}\n"
                                     f"export FALLGATE_SHIM_FILE={path} FALLGATE_SHIM_ROLE=$r LD_PRELOAD={shim}\nexec {target} \"$@\"\n")
        os.chmod(programs / name, 0o755)

    wrap("fallgate-hsm", lab.bin / "fallgate-hsm", "prober", "unwrapper")
    wrap("fallgate-mgmt", lab.bin / "fallgate-mgmt", "mgmt")
    wrap("fallgate-dataplane", lab.bin / "fallgate-dataplane", "creator")
    wrap("nbdkit", next(p for p in ("/usr/sbin/nbdkit", "/usr/bin/nbdkit") if os.path.exists(p)), "dataplane")
    lab.libexec = programs
    lab.agent_environment = {"FALLGATE_SHIM_FILE": str(path), "FALLGATE_SHIM_ROLE": str(ROLES["supervisor"]), "LD_PRELOAD": str(shim)}
    lab.orders = Orders(path)
    lab.extra_agent = f"nbdkit = {programs}/nbdkit\n"
    return lab


class Orders:
    def __init__(self, path):
        with open(path, "r+b") as file:
            self.map = mmap.mmap(file.fileno(), 0)

    def word(self, i):
        return struct.unpack_from("=I", self.map, 4 * i)[0]

    def put(self, i, value):
        struct.pack_into("=I", self.map, 4 * i, value)

    def arm(self, role, point, type_, state=None, nth=1):
        self.put(0, 0)
        for i, value in ((1, ROLES[role]), (2, POINTS.index(point)), (3, TYPES.index(type_)), (4, nth), (5, 0 if state is None else 1 + STATES.index(state)),
                         (6, 0)):
            self.put(i, value)
        self.put(0, 1)

    def disarm(self):
        self.put(0, 0)

    def fired(self):
        return self.word(6) if self.word(0) == 2 else 0

    def clocks(self, role, boot_ns=0, wall_ns=0):
        struct.pack_into("=qq", self.map, CLOCKS, boot_ns, wall_ns)
        self.put(7, ROLES[role])

    def _table(self, at):
        words = struct.unpack_from(f"={TABLE}I", self.map, at)
        return {(role, point, i): words[(number * 3 + p) * 64 + i] for role, number in ROLES.items() for p, point in enumerate(POINTS) for i in range(64)
                if words[(number * 3 + p) * 64 + i]}

    def seen(self):
        """(role, point, message): how often."""
        return {(r, p, TYPES[i]): n for (r, p, i), n in self._table(SEEN).items() if i < len(TYPES)}

    def states_told(self):
        return {(r, p, STATES[i]): n for (r, p, i), n in self._table(SEEN + TABLE * 4).items() if r == "supervisor" and i < len(STATES)}

    def forget(self):
        self.map[SEEN:] = bytes(len(self.map) - SEEN)

