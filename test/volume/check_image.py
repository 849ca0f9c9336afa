#!/usr/bin/env python3
"""Reads the image of image.c with fgv1.py and compares every sector with the script's pattern; what a volume closed in good order
must look like besides is checked byte by byte.

usage: check_image.py IMAGE
Exit 0: the image is what SPEC.md says; 1: it is not; 77: python3-cryptography is missing."""
import os
import struct
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
sys.dont_write_bytecode = True
import fgv1

UUID = bytes([0x46, 0x47, 1, 2, 3, 4, 0x45, 6, 0x87, 8, 9, 10, 11, 12, 13, 14])
DEK = bytes((0x11 + 7 * i) & 255 for i in range(32))
SECTORS = 10201


def check_header(v):
    assert v.header.raw == v.image[-65536:], "headers A and B differ"
    assert v.header.uuid == UUID and v.geometry.levels == 3 and v.geometry.sectors == SECTORS


def check_root(v):
    assert v.closed, "closed cleanly"
    assert v.root[0x68:0x88] == v.header.hash and v.root[0x88:0xA8] == v.header.hash
    assert struct.unpack_from("<QQ", v.root, 0xC8) == (2, 2), "two opens"
    assert v.settled == v.counter_next - 1, "closed: everything is settled"
    assert v.end == v.tail and not v.entries, "closed, the log is empty from the tail on"


def check_log(v):
    """Behind the tail lie the blocks of this short life, block 1 first. What each sector's newest version is."""
    last, counter, named = bytes(16), 0, {}
    assert 1 < v.tail < v.geometry.log_blocks
    for seq in range(1, v.tail):
        head, entries = v.log_block(seq)
        block = v.at(fgv1.MIB + 4096 * seq)
        assert head["prev"] == last and head["prefix"] < seq and block[0x70:0x7C] == bytes(12), "chain"
        assert entries[0][4] > counter and head["settled"] < entries[0][4]
        last, counter = head["tag"], entries[-1][4]
        for kind, level, index, tag, ctr in entries:
            assert kind in (fgv1.SEALED, fgv1.ZERO) and level <= v.geometry.levels
            if kind == fgv1.SEALED:
                named[level, index] = ctr, tag, head["salt"]
    assert last == v.root[0x30:0x40] and counter == v.counter_next - 1, "the root goes on where the log ends"
    return named


def check_nodes(v):
    for level in range(1, v.geometry.levels + 1):
        for index in range(v.geometry.count[level]):
            slot, _ = v.node(level, index)
            if slot.state != fgv1.SEALED:
                continue
            copies = [v.at(place) for place in v.geometry.places(level, index)]
            assert copies[0] == copies[-1], "second copy"
            assert fgv1.crc_good(copies[0], 0x5C) and copies[0][0x48:0x5C] == bytes(20)


def pattern(first, i):
    return bytes((first + i + (i * 4096 + k) * 3) & 255 for k in range(4096))


def expected():
    want = {i: pattern(1, i) for i in range(3)}
    want.update({98 + i: pattern(2, i) for i in range(300) if not 200 <= 98 + i < 300})
    want[SECTORS - 1] = pattern(3, 0)
    want[1] = pattern(4, 0)
    want[5] = bytes(100) + b"half" + bytes(3992)
    return want


def main():
    with open(sys.argv[1], "rb") as f:
        v = fgv1.Volume(f.read(), DEK)
    want = expected()
    check_header(v)
    check_root(v)
    named = check_log(v)
    check_nodes(v)
    for lba in range(SECTORS):
        assert v.sector(lba) == want.get(lba, bytes(4096)), "sector %d" % lba
        slot = v.slot(1, lba)
        if slot.state == fgv1.SEALED:
            assert named[0, lba] == (slot.counter, slot.tag, slot.salt), "the log named this version last"
    print("check_image: %d sectors agree" % SECTORS)


if __name__ == "__main__":
    try:
        main()
    except (AssertionError, fgv1.Refused, fgv1.Lost) as e:
        sys.exit("check_image: %s: %s" % (type(e).__name__, e))
