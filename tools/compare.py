"""Two builds of an image: whether they are the same, and if not, what differs, from the manifests down to the bytes.

What must stay true: "the same" is said of the files that are there, not of what a manifest claims; the inner parts are explained before
what wraps them, because a disk differs wherever its initramfs does.
"""
import json
import os
import shutil
import subprocess
from pathlib import Path

from private_apt import Failure

INNERMOST_FIRST = ("vmlinuz", "initramfs.zst", "fallgate.efi", "disk.img")
HOLDS = {"fallgate.efi": ("vmlinuz", "initramfs.zst"), "disk.img": ("vmlinuz", "initramfs.zst", "fallgate.efi")}
MINUTES = 10
SHOWN = 40
ROWS = 10000


def manifest_of(folder):
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        if not all(isinstance(manifest[key], kind) for key, kind in (("outputs", dict), ("files", dict), ("packages", list))):
            raise ValueError
        return manifest
    except OSError as error:
        raise Failure(f"{folder}/manifest.json: {error.strerror}: it is tools/image that makes it") from None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise Failure(f"{folder}/manifest.json is damaged") from None


def show(line):
    """A line of somebody else's build, without what would steer a terminal."""
    print("".join(c if c.isprintable() else "?" for c in line))


def text_of(value):
    if isinstance(value, dict):
        return " ".join(f"{k} {str(v)[:16]}" for k, v in sorted(value.items(), reverse=True))
    return json.dumps(value)


def tables(mine, theirs, what):
    """Lines for two tables of names."""
    for name in sorted(set(mine) | set(theirs)):
        if name not in theirs:
            yield f"{what} {name}: only here"
        elif name not in mine:
            yield f"{what} {name}: only there"
        elif mine[name] != theirs[name]:
            yield f"{what} {name}: {text_of(mine[name])} here, {text_of(theirs[name])} there"


def packages(lines):
    return {name: version for name, _, version in (str(line).partition(" ") for line in lines)}


def differences(mine, theirs):
    single = [{k: v for k, v in m.items() if k not in ("outputs", "files", "packages")} for m in (mine, theirs)]
    yield from tables(*single, "fact")
    yield from tables(packages(mine["packages"]), packages(theirs["packages"]), "package")
    yield from tables(mine["files"], theirs["files"], "file")
    yield from tables(mine["outputs"], theirs["outputs"], "output")


def same_bytes(mine, theirs):
    return subprocess.run(["cmp", "-s", mine, theirs], check=False).returncode == 0


def explain(mine, theirs, report):
    """diffoscope's words on two files, in the report and in short on the terminal."""
    if not shutil.which("diffoscope"):
        raise Failure("diffoscope is not installed: tools/install-packages boards")
    command = ["timeout", f"{MINUTES}m", "diffoscope", "--no-progress", "--no-default-limits", "--max-diff-block-lines", "200",
               "--exclude-directory-metadata", "yes", "--text", report, mine, theirs]
    done = subprocess.run([str(c) for c in command], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1):
        why = "took too long" if done.returncode == 124 else (done.stderr.strip().splitlines() or [f"ended with {done.returncode}"])[-1]
        raise Failure(f"diffoscope on {mine.name}: {why}")
    lines = report.read_text(encoding="utf-8", errors="replace").splitlines() if report.exists() else []
    for line in lines[:SHOWN]:
        show(f"  {line[:200]}")
    if len(lines) > SHOWN:
        print(f"  ... {len(lines) - SHOWN} lines more in {report}")


def partitions(disk):
    """(first byte, name) of each partition, the last first."""
    done = subprocess.run(["sfdisk", "-J", str(disk)], capture_output=True, text=True, check=False,
                          env=dict(os.environ, PATH=os.environ.get("PATH", "") + ":/usr/sbin:/sbin"))
    table = json.loads(done.stdout)["partitiontable"]["partitions"] if done.returncode == 0 else []
    return sorted(((int(p["start"]) * 512, str(p.get("name", p["node"]))) for p in table), reverse=True)


def rows(mine, theirs):
    """(offset, bytes, bytes) of the 16-byte rows in which two files differ."""
    with open(mine, "rb") as a, open(theirs, "rb") as b:
        at = 0
        while True:
            x, y = a.read(1 << 20), b.read(1 << 20)
            if not x and not y:
                return
            if x != y:
                for row in range(0, max(len(x), len(y)), 16):
                    if x[row:row + 16] != y[row:row + 16]:
                        yield at + row, x[row:row + 16], y[row:row + 16]
            at += 1 << 20


def explain_disk(mine, theirs, report):
    """Where two disks differ: partition, offset in it, the bytes. As a whole they are too large for diffoscope's time."""
    where = partitions(mine)
    with open(report, "w", encoding="utf-8") as file:
        for count, (at, x, y) in enumerate(rows(mine, theirs)):
            start, name = next(((s, n) for s, n in where if at >= s), (0, "before the partitions"))
            line = f"{name} +{at - start:#x}: {x.hex(' ')} here, {y.hex(' ')} there"
            file.write(line + "\n")
            if count < SHOWN:
                show(f"  {line}")
            if count >= ROWS:
                file.write("and so on\n")
                break


def compare(mine, theirs):
    """Says what differs between two folders of tools/image; whether nothing does."""
    mine, theirs = Path(mine), Path(theirs)
    manifests = manifest_of(mine), manifest_of(theirs)
    told = list(differences(*manifests))
    for line in told:
        show(line)
    names = [n for n in INNERMOST_FIRST if (mine / n).is_file() and (theirs / n).is_file()]
    if not names:
        raise Failure(f"{theirs} has no output that {mine} has")
    different = [n for n in names if not same_bytes(mine / n, theirs / n)]
    if different and not any(line.startswith("output") for line in told):
        print(f"output {different[0]}: the manifests agree, the files do not: one was changed after it was built")
    for name in different:
        if not any(inner in different for inner in HOLDS.get(name, ())):
            print(f"explaining {name} ({MINUTES} minutes at most)", flush=True)
            (explain_disk if name == "disk.img" else explain)(mine / name, theirs / name, mine / f"compare-{name}.txt")
    if not told and not different:
        print(f"the same bytes: {', '.join(names)}")
    return not told and not different
