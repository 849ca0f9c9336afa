#!/usr/bin/env python3
"""Reads the image of image.c from SPEC.md alone, with other cryptography, and compares every sector with the script's pattern.

usage: check_image.py IMAGE
Exit 0: the image is what SPEC.md says; 1: it is not; 77: python3-cryptography is missing."""
import hashlib
import hmac
import struct
import sys

try:
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
except ImportError:
    print("check_image: python3-cryptography is missing, nothing was checked")
    sys.exit(77)

UUID = bytes([0x46, 0x47, 1, 2, 3, 4, 0x45, 6, 0x87, 8, 9, 10, 11, 12, 13, 14])
DEK = bytes((0x11 + 7 * i) & 255 for i in range(32))
SECTORS = 10201
DATA, NODE, LOG, ROOT = 1, 2, 3, 4
SEAL, ZERO = 1, 2


def derive(label, gen):
    message = struct.pack(">I", 1) + label + b"\0" + UUID + struct.pack("<I", gen) + struct.pack(">I", 256)
    return hmac.new(DEK, message, hashlib.sha256).digest()


def xaes_key(master, salt):
    block = Cipher(algorithms.AES(master), modes.ECB()).encryptor().update
    l = int.from_bytes(block(bytes(16)), "big") << 1
    k1 = ((l & (1 << 128) - 1) ^ (0x87 if l >> 128 else 0)).to_bytes(16, "big")
    return b"".join(block(bytes(a ^ b for a, b in zip(bytes([0, i, 0x58, 0]) + salt, k1))) for i in (1, 2))


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def open_object(label, kind, level, gen, index, ctr, salt, tag, sealed, clear=b""):
    aad = b"FGV1" + struct.pack("<BBHII", kind, level, 0, gen, 0) + UUID + struct.pack("<QQ", index, ctr) + clear
    iv = struct.pack("<QI", ctr, 0)
    return AESGCM(xaes_key(derive(label, gen), salt)).decrypt(iv, sealed + tag, aad)


def check_crc(block):
    assert crc32c(block[:0x5C] + bytes(4) + block[0x60:]) == struct.unpack_from("<I", block, 0x5C)[0], "CRC-32C"


class Image:
    def __init__(self, path):
        with open(path, "rb") as f:
            self.bytes = f.read()
        self.header()
        self.root()
        self.log()

    def at(self, offset, size=4096):
        return self.bytes[offset:offset + size]

    def header(self):
        h = self.at(0, 65536)
        assert h == self.bytes[-65536:], "headers A and B differ"
        assert h[:8] == b"FGVOL\r\n\x1a" and h[0x10:0x20] == UUID
        self.hash = hashlib.sha256(h[:0xFE0] + bytes(32) + h[0x1000:]).digest()
        assert self.hash == h[0xFE0:0x1000], "SHA-256 of the header"
        mac = hmac.new(derive(b"FGV1 hdr", 1), h[:0xFC0] + bytes(64) + h[0x1000:], hashlib.sha256).digest()
        assert mac == h[0xFC0:0xFE0], "MAC of the header"
        kcv = hmac.new(derive(b"FGV1 kcv", 1), b"FGV1", hashlib.sha256).digest()[:16]
        assert kcv == h[0x218:0x228], "key-check value"
        self.levels = h[0x4C]
        sectors, self.data, self.log_at, self.log_blocks, *self.rings = struct.unpack_from("<6Q", h, 0x50)
        assert sectors == SECTORS and self.levels == 3
        self.nodes = [struct.unpack_from("<8Q", h, at) for at in (0x90, 0xD0)]

    def root(self):
        best = (0, None)
        for ring in self.rings:
            for i in range(4):
                block = self.at(ring + 4096 * i)
                if block[0x1C:0x20] == b"FGR1":
                    check_crc(block)
                    best = max(best, (struct.unpack_from("<Q", block, 0x20)[0], block))
        seq, block = best
        assert block[0x28:0x38] == UUID
        gen = struct.unpack_from("<I", block, 0x38)[0]
        plain = open_object(b"FGV1 root", ROOT, 0, gen, 0, seq, block[0x10:0x1C], block[:16], block[0x60:], block[0x10:0x5C])
        assert plain[0] == 1, "closed cleanly"
        assert plain[0x68:0x88] == self.hash and plain[0x88:0xA8] == self.hash
        assert struct.unpack_from("<QQ", plain, 0xC8) == (2, 2), "two opens"
        self.top = plain[0x40:0x68]
        self.ctr_next, settled, self.tail = struct.unpack_from("<QQQ", plain, 0x18)
        assert settled == self.ctr_next - 1, "closed: everything is settled"
        self.prev_tag = plain[0x30:0x40]

    def log(self):
        """Closed, the log is empty from the tail on; behind it lie the blocks of this short life, block 1 first."""
        last, ctr, self.named = bytes(16), 0, {}
        assert 1 < self.tail < self.log_blocks
        for seq in range(1, self.tail):
            block = self.at(self.log_at + 4096 * (seq % self.log_blocks))
            assert crc32c(block[:0x7C] + bytes(4) + block[0x80:]) == struct.unpack_from("<I", block, 0x7C)[0], "CRC-32C"
            assert block[0x1C:0x20] == b"FGL1" and block[0x38:0x48] == UUID and block[0x70:0x7C] == bytes(12)
            assert struct.unpack_from("<Q", block, 0x20)[0] == seq and block[0x28:0x38] == last, "chain"
            gen_ix, n, gen, base, settled, prefix, root = struct.unpack_from("<HHIQQQQ", block, 0x48)
            assert (gen_ix, gen) == (0, 1) and n <= 165 and base > ctr and settled < base and prefix < seq and root >= 1
            last, ctr = block[:16], base + n - 1
            plain = open_object(b"FGV1 log", LOG, 0, gen, 0, seq, block[0x10:0x1C], last, block[0x80:], block[0x10:0x7C])
            assert plain[24 * n:] == bytes(len(plain) - 24 * n)
            for i in range(n):
                word = struct.unpack_from("<Q", plain, 24 * i)[0]
                kind, level, index = word >> 60, word >> 56 & 15, word & (1 << 56) - 1
                assert kind in (SEAL, ZERO) and level <= self.levels
                if kind == SEAL:
                    self.named[level, index] = base + i, plain[24 * i + 8:24 * i + 24], block[0x10:0x1C]
        assert last == self.prev_tag and ctr == self.ctr_next - 1, "the root goes on where the log ends"

    def node(self, level, index, slot):
        tag, salt, (gen_ix, state, ctr) = slot[:16], slot[16:28], struct.unpack_from("<HHQ", slot, 28)
        assert gen_ix == 0 and ctr < self.ctr_next
        if state == 2:
            return [slot] * 100
        assert state == 1
        block = self.at(self.nodes[0][level - 1] + 4096 * index)
        if level >= 2:
            assert block == self.at(self.nodes[1][level - 1] + 4096 * index), "second copy"
        check_crc(block)
        expect = salt + b"FGN1" + struct.pack("<QQBBHI", ctr, index, level, 1, 0, 1) + UUID
        assert block[0x10:0x48] == expect and block[0x48:0x5C] == bytes(20) and block[:16] == tag
        plain = open_object(b"FGV1 node", NODE, level, 1, index, ctr, salt, tag, block[0x60:], block[0x10:0x5C])
        return [plain[40 * i:40 * i + 40] for i in range(100)]

    def sectors(self):
        for i, leaves in enumerate(self.node(3, 0, self.top)[:2]):
            for j, leaf in enumerate(self.node(2, i, leaves)):
                index = 100 * i + j
                if 100 * index >= SECTORS:
                    break
                yield from enumerate(self.node(1, index, leaf), 100 * index)

    def sector(self, lba, slot):
        _, state, ctr = struct.unpack_from("<HHQ", slot, 28)
        if state == 2:
            return bytes(4096)
        assert state == 1 and ctr < self.ctr_next
        assert self.named[0, lba] == (ctr, slot[:16], slot[16:28]), "the log named this version last"
        return open_object(b"FGV1 data", DATA, 0, 1, lba, ctr, slot[16:28], slot[:16], self.at(self.data + 4096 * lba))


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
    image, want = Image(sys.argv[1]), expected()
    for lba, slot in image.sectors():
        if lba < SECTORS:
            assert image.sector(lba, slot) == want.get(lba, bytes(4096)), "sector %d" % lba
    print("check_image: %d sectors agree" % SECTORS)


if __name__ == "__main__":
    try:
        main()
    except (AssertionError, InvalidTag) as e:
        sys.exit("check_image: %s: %s" % (type(e).__name__, e))
