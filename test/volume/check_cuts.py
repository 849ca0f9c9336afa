#!/usr/bin/env python3
"""Reads the images that `powercut --images` left with fgv1.py and compares each sector with what the engine read.

usage: check_cuts.py DIRECTORY [--planted]
Images that a cut left, what the engine's recovery made of them, and both again for copies that were damaged: every sector must
agree, also in being an error, and every refusal.
--planted: as a proof of the check, one engine's answer is altered first; then the exit code must be 1.
Exit 0: all agree; 1: they do not; 2: nothing to compare; 77: python3-cryptography is missing."""
import collections
import hashlib
import json
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
sys.dont_write_bytecode = True
import fgv1


def read_sectors(path, dek):
    """What check_cuts compares: a digest or "error" for each sector, or "refused"; and the volume."""
    with open(path, "rb") as f:
        image = f.read()
    try:
        volume = fgv1.Volume(image, dek)
    except fgv1.Refused as e:
        return "refused", str(e)
    found = []
    for lba in range(volume.geometry.sectors):
        try:
            found.append(hashlib.sha256(volume.sector(lba)).hexdigest())
        except fgv1.Lost:
            found.append("error")
    return found, volume


def differences(engine, reader):
    if engine == reader:
        return []
    if "refused" in (engine, reader):
        return ["engine: %.9s, reader: %.9s" % (engine, reader)]
    return ["sector %d: engine %.8s, reader %.8s" % (i, a, b) for i, (a, b) in enumerate(zip(engine, reader)) if a != b]


def plant(lines):
    """One answer of the engine's is another one."""
    line = lines[len(lines) // 2]
    if isinstance(line["sectors"], str):
        line["sectors"] = ["error"]
    else:
        line["sectors"][-1] = "0" * 64


def main():
    directory = sys.argv[1]
    with open(os.path.join(directory, "index.jsonl")) as f:
        lines = [json.loads(line) for line in f]
    if "--planted" in sys.argv[2:]:
        plant(lines)
    seen = collections.Counter()
    bad = 0
    for line in lines:
        found, volume = read_sectors(os.path.join(directory, line["image"]), bytes.fromhex(line["dek"]))
        wrong = differences(line["sectors"], found)
        seen[line["kind"]] += 1
        if isinstance(found, str):
            seen["refused"] += 1
        else:
            seen["sectors"] += len(found)
            seen["errors"] += found.count("error")
            seen["replayed"] += bool(volume.entries)
        if wrong:
            bad += 1
            print("DISAGREE %s (%s, point %s): %s" % (line["image"], line["kind"], line["point"], "; ".join(wrong[:3])))
    print("check_cuts: %d images, %s; %d disagree" % (len(lines), ", ".join("%s %d" % i for i in sorted(seen.items())), bad))
    return 1 if bad else 0 if lines else 2


if __name__ == "__main__":
    sys.exit(main())
