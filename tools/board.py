"""Boards as data: reads boards/NAME/board.ini for tools/image and tools/qemu. A line that no tool knows is an error."""
import configparser
from pathlib import Path

SOURCE = Path(__file__).resolve().parent.parent
BOARDS = SOURCE / "boards"

# Section: key: the value when the board does not say; None: it must.
KNOWN = {
    "board": {"title": None, "arch": None},
    "kernel": {"package": None, "suite": "", "modules": "", "command_line": ""},
    "packages": {"release": "", "dev": ""},
    "image": {"kind": "direct"},
    "qemu": {"program": "", "machine": "", "cpu": "max", "memory": "256", "console": "ttyS0", "firmware": "", "variables": "",
             "secure_machine": "", "secure_firmware": "", "secure_arguments": "", "arguments": "", "tpm": ""},
}
ARCHES = ("x86_64", "aarch64")
KINDS = ("direct", "uefi")


class BoardError(Exception):
    """One line for the person: what, where, what to do."""


class Board:
    def __init__(self, name):
        self.name = name
        self.folder = BOARDS / name
        file = self.folder / "board.ini"
        if name not in names():
            raise BoardError(f"there is no board '{name}' with an image. Boards: {', '.join(names())}")
        parser = configparser.ConfigParser(interpolation=None)
        try:
            parser.read(file, encoding="utf-8")
        except configparser.Error as error:
            raise BoardError(f"{file}: {' '.join(str(error).split())}") from None
        for section in parser.sections():
            if section not in KNOWN:
                raise BoardError(f"{file}: no section [{section}] is known; known: {', '.join(KNOWN)}")
            for key in parser[section]:
                if key not in KNOWN[section]:
                    raise BoardError(f"{file}: [{section}] has no '{key}'; known: {', '.join(KNOWN[section])}")
        self.values = {}
        for section, keys in KNOWN.items():
            for key, default in keys.items():
                value = parser.get(section, key, fallback=default)
                if value is None:
                    raise BoardError(f"{file}: [{section}] needs '{key}'")
                self.values[section, key] = value
        if self["board", "arch"] not in ARCHES or self["image", "kind"] not in KINDS:
            raise BoardError(f"{file}: arch is one of {', '.join(ARCHES)}, kind one of {', '.join(KINDS)}")

    def __getitem__(self, key):
        return self.values[key]

    @property
    def arch(self):
        return self["board", "arch"]


def names():
    return sorted(p.parent.name for p in BOARDS.glob("*/board.ini"))
