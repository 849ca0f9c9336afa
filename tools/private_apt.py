"""A private apt directory: packages and sources from the mirrors this machine's own apt uses, signed by the installed Debian keyring.

What must stay true: the system's apt and dpkg are not touched and nothing is installed; no address stands here: where packages come
from is the machine's own setting.
"""
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


class Failure(Exception):
    """One line for the person: what, where, what to do."""


def run(command, log, cwd=None):
    """Runs a command with its output in the log; on failure shows the log's end."""
    with open(log, "a", encoding="utf-8") as out:
        out.write("+ " + " ".join(shlex.quote(str(c)) for c in command) + "\n")
        out.flush()
        done = subprocess.run(command, cwd=cwd, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, check=False)
    if done.returncode != 0:
        sys.stderr.write("".join(open(log, encoding="utf-8", errors="replace").readlines()[-25:]))
        raise Failure(f"'{Path(str(command[0])).name}' failed with {done.returncode}; the whole output is in {log}")


def codename():
    for line in Path("/etc/os-release").read_text(encoding="utf-8").splitlines():
        if line.startswith("VERSION_CODENAME="):
            return line.split("=", 1)[1].strip().strip('"')
    return ""


def deb822_mirrors(text, suite):
    for stanza in re.split(r"\n\s*\n", re.sub(r"(?m)^#.*\n?", "", text)):
        fields = {}
        for line in re.sub(r"\n[ \t]+", " ", stanza).splitlines():
            key, _, value = line.partition(":")
            fields[key.strip().lower()] = value.split()
        if fields.get("enabled", ["yes"])[0].lower() in ("no", "false", "0"):
            continue
        if "deb" in fields.get("types", []) and suite in fields.get("suites", []) and "main" in fields.get("components", []):
            yield from fields.get("uris", [])


def one_line_mirrors(text, suite):
    for line in text.splitlines():
        match = re.match(r"\s*deb\s+(?:\[[^]]*\]\s*)?(\S+)\s+(\S+)\s+(.*)", line)
        if match and match[2] == suite and "main" in match[3].split("#")[0].split():
            yield match[1]


def mirrors(apt_dir=Path("/etc/apt"), suite=None):
    """The addresses from which this machine takes its own release of Debian, in the order of its apt sources."""
    suite = suite or codename()
    found = []
    files = [apt_dir / "sources.list", *sorted((apt_dir / "sources.list.d").glob("*"))]
    for path in files:
        if path.suffix not in (".list", ".sources") or not path.is_file():
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        parse = deb822_mirrors if path.suffix == ".sources" else one_line_mirrors
        found += [m for m in parse(text, suite) if m not in found]
    return found


class Apt:
    """Made at its first use: own sources, lists and cache. `kind` is deb or deb-src, `suites` go with every mirror."""

    def __init__(self, root, log, kind, suites, architecture=None):
        self.root, self.log, self.kind, self.suites, self.architecture = root, log, kind, suites, architecture
        self.options = None

    def open(self):
        if self.options is not None:
            return
        if not shutil.which("apt-get") or not KEYRING.exists():
            raise Failure("no apt-get or no Debian keyring on this machine")
        found = mirrors()
        if not found:
            raise Failure(f"no apt source of this machine names {codename() or 'its release'} main")
        for folder in ("lists/partial", "cache/archives/partial", "parts", "download"):
            (self.root / folder).mkdir(parents=True, exist_ok=True)
        (self.root / "parts/source.list").write_text(
            "".join(f"{self.kind} [signed-by={KEYRING}] {m} {s} main\n" for m in found for s in self.suites), encoding="utf-8")
        (self.root / "status").write_text("", encoding="ascii")  # nothing is installed; apt's lock is a file beside it
        settings = {"Dir::Etc::SourceList": "/dev/null", "Dir::Etc::SourceParts": self.root / "parts",
                    "Dir::Etc::Preferences": "/dev/null", "Dir::Etc::PreferencesParts": "/dev/null",
                    "Dir::State::Lists": self.root / "lists", "Dir::Cache": self.root / "cache", "Dir::State::status": self.root / "status",
                    "Dir::State::extended_states": self.root / "extended_states",
                    "APT::Sandbox::User": "root", "Acquire::Languages": "none", "Acquire::Retries": 3}
        if self.architecture:
            settings |= {"APT::Architecture": self.architecture, "APT::Architectures": self.architecture}
        self.options = [x for key, value in settings.items() for x in ("-o", f"{key}={value}")]
        try:
            run(["apt-get", *self.options, "update"], self.log)
        except Failure:
            self.options = None
            raise

    def source(self, *arguments):
        """apt-get source --download-only; returns the folder with what came."""
        self.open()
        run(["apt-get", *self.options, "source", "--download-only", *arguments], self.log, cwd=self.root / "download")
        return self.root / "download"

    def packages(self, names, suite=None):
        """Downloads packages with all they depend on (nothing recommended); returns the .deb files."""
        self.open()
        target = ["-t", suite] if suite else []
        run(["apt-get", *self.options, *target, "install", "--download-only", "--no-install-recommends", "-y", *names], self.log)
        return sorted((self.root / "cache/archives").glob("*.deb"))

    def alone(self, names):
        """Downloads packages without what they depend on; returns the folder with the .deb files."""
        self.open()
        run(["apt-get", *self.options, "download", *names], self.log, cwd=self.root / "download")
        return self.root / "download"
