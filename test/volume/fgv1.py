"""A reader of FGV1 volumes, written from SPEC.md alone, with other cryptography than the engine's. It opens an image with a DEK
and says what each sector is, after whatever cut, as a recovery would choose, without writing anything. Section numbers are
SPEC.md's. What must hold: nothing here is taken from the engine's sources; where SPEC.md leaves a choice open it is SPEC.md that
must be mended."""
import hashlib
import hmac
import struct
import sys

try:
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
except ImportError:
    print("python3-cryptography is missing, nothing was checked")
    sys.exit(77)

SECTOR = 4096
MIB = 1 << 20
DATA, NODE, LOG, ROOT = 1, 2, 3, 4
NOTHING, SEALED, ZERO, BAD = 0, 1, 2, 3  # kinds of log entries; 1 .. 3 are states of slots, too
LABELS = {DATA: b"FGV1 data", NODE: b"FGV1 node", LOG: b"FGV1 log", ROOT: b"FGV1 root"}


class Refused(Exception):
    """The volume may not be opened."""


class Lost(Exception):
    """The object is an error to whoever reads it."""


# --- sections 8 and 9: keys and sealing

def crc_table():
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        yield byte


CRC = list(crc_table())


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ CRC[(crc ^ byte) & 255]
    return crc ^ 0xFFFFFFFF


def crc_good(block, at):
    if not any(block):
        return False
    return crc32c(block[:at] + bytes(4) + block[at + 4:]) == struct.unpack_from("<I", block, at)[0]


class Keys:
    """The DEK of one generation."""

    def __init__(self, dek, uuid, gen):
        self.dek, self.uuid, self.gen, self.known = dek, uuid, gen, {}

    def derive(self, label):
        message = bytes([0, 0, 0, 1]) + label + b"\0" + self.uuid + struct.pack("<I", self.gen) + bytes([0, 0, 1, 0])
        return hmac.new(self.dek, message, hashlib.sha256).digest()

    def check_value(self):
        return hmac.new(self.derive(b"FGV1 kcv"), b"FGV1", hashlib.sha256).digest()[:16]

    def header_mac(self, header):
        return hmac.new(self.derive(b"FGV1 hdr"), header[:0xFC0] + bytes(64) + header[0x1000:], hashlib.sha256).digest()

    def xaes(self, kind, salt):
        block = Cipher(algorithms.AES(self.derive(LABELS[kind])), modes.ECB()).encryptor().update
        doubled = int.from_bytes(block(bytes(16)), "big") << 1
        k1 = ((doubled & (1 << 128) - 1) ^ (0x87 if doubled >> 128 else 0)).to_bytes(16, "big")
        return b"".join(block(bytes(a ^ b for a, b in zip(bytes([0, i, 0x58, 0]) + salt, k1))) for i in (1, 2))

    def open(self, kind, level, index, counter, salt, tag, sealed, clear=b""):
        """The plaintext, or InvalidTag."""
        if (kind, salt) not in self.known:
            self.known[kind, salt] = AESGCM(self.xaes(kind, salt))
        aad = b"FGV1" + struct.pack("<BBHII", kind, level, 0, self.gen, 0) + self.uuid
        aad += struct.pack("<QQ", index, counter) + clear
        return self.known[kind, salt].decrypt(struct.pack("<QI", counter, 0), sealed + tag, aad)


# --- section 4: slots

class Slot:
    def __init__(self, state, counter, tag=bytes(16), salt=bytes(12), gen_ix=0):
        self.state, self.counter, self.tag, self.salt, self.gen_ix = state, counter, tag, salt, gen_ix

    @staticmethod
    def decode(b):
        gen_ix, state, counter = struct.unpack_from("<HHQ", b, 28)
        return Slot(state, counter, bytes(b[:16]), bytes(b[16:28]), gen_ix)


# --- sections 2 and 3: regions and header

class Geometry:
    def __init__(self, sectors, log_blocks, fanout, backing):
        self.sectors, self.log_blocks, self.fanout, self.backing = sectors, log_blocks, fanout, backing
        self.count = [sectors]
        while len(self.count) == 1 or self.count[-1] > 1:
            self.count.append(-(-self.count[-1] // fanout))
        self.levels = len(self.count) - 1
        at = MIB + SECTOR * log_blocks
        self.nodes = [[0] * 9, [0] * 9]
        for level in list(range(2, self.levels + 1)) + [1]:
            self.nodes[0][level] = at
            at += SECTOR * self.count[level]
        self.data = -(-at // MIB) * MIB
        at = -(-(self.data + SECTOR * sectors) // MIB) * MIB
        for level in range(2, self.levels + 1):
            self.nodes[1][level] = at
            at += SECTOR * self.count[level]
        self.rings = (0x10000, backing - 81920)
        self.headers = (0, backing - 65536)
        self.fits = at <= self.rings[1] and backing % SECTOR == 0 and self.levels <= 8

    def places(self, level, index):
        if level == 0:
            return [self.data + SECTOR * index]
        return [self.nodes[copy][level] + SECTOR * index for copy in range(2 if level >= 2 else 1)]


class Header:
    """One copy of the header; ValueError says why it is not usable."""

    def __init__(self, raw, device_size):
        def need(condition, what):
            if not condition:
                raise ValueError(what)

        need(len(raw) == 65536 and raw[:8] == b"FGVOL\r\n\x1a", "magic")
        need(struct.unpack_from("<H", raw, 8)[0] == 1, "major")
        self.raw = raw
        self.hash = hashlib.sha256(raw[:0xFE0] + bytes(32) + raw[0x1000:]).digest()
        need(self.hash == raw[0xFE0:0x1000], "hash")
        self.uuid = raw[0x10:0x20]
        self.seq, _, read_only, incompatible = struct.unpack_from("<4Q", raw, 0x20)
        need(read_only == 0 and incompatible == 0, "features")
        need(struct.unpack_from("<I", raw, 12)[0] == 65536 and struct.unpack_from("<II", raw, 0x40) == (1, 12), "constants")
        fanout, slot, levels, two, one, atomic = struct.unpack_from("<HHBBBB", raw, 0x48)
        sectors, data, log_at, log_blocks, *rest = struct.unpack_from("<8Q", raw, 0x50)
        backing = struct.unpack_from("<Q", raw, 0x110)[0]
        need((slot, two, one, atomic) == (40, 2, 1, 12) and 4 <= fanout <= 100 and sectors > 0 and log_blocks >= 8, "constants")
        self.geometry = g = Geometry(sectors, log_blocks, fanout, backing)
        need(g.fits and backing <= device_size, "size")
        need((levels, data, log_at, tuple(rest[:2]), tuple(rest[2:])) == (g.levels, g.data, MIB, g.rings, g.headers), "offsets")
        for copy, at in ((0, 0x90), (1, 0xD0)):
            need(list(struct.unpack_from("<8Q", raw, at)) == g.nodes[copy][1:], "node offsets")
        self.generations = [struct.unpack_from("<IB3xQQ16s", raw, 0x200 + 64 * i) for i in range(4)]
        need([g[1] for g in self.generations].count(1) == 1, "one active generation")
        self.active = [g[1] for g in self.generations].index(1)
        for i in range(1, 9):
            block = raw[SECTOR * i:SECTOR * (i + 1)]
            if any(block):
                need(hashlib.sha256(block[:0xFE0]).digest() == block[0xFE0:], "KEK slot")


# --- the volume

class Volume:
    """An image (bytes) and the DEK of its active generation. Refused says why it may not be opened."""

    def __init__(self, image, dek):
        self.image = image
        headers = self.usable_headers()
        if not headers:
            raise Refused("no usable header")
        why = ""
        for header in headers:
            try:
                self.start(header, dek)
                break
            except Refused as e:
                why = str(e)
        else:
            raise Refused(why)
        self.read_log()
        self.nodes = {}

    def at(self, offset, size=SECTOR):
        return self.image[offset:offset + size]

    def usable_headers(self):
        found = []
        try:
            found.append(Header(self.at(0, 65536), len(self.image)))
            second = found[0].geometry.headers[1]
        except ValueError:
            second = len(self.image) - 65536
        try:
            found.append(Header(self.at(second, 65536), len(self.image)))
        except ValueError:
            pass
        return sorted(found, key=lambda h: -h.seq)

    def start(self, header, dek):
        number, _, _, _, check_value = header.generations[header.active]
        self.header, self.geometry = header, header.geometry
        self.keys = {header.active: Keys(dek, header.uuid, number)}
        keys = self.keys[header.active]
        if keys.check_value() != check_value:
            raise Refused("another key")
        if keys.header_mac(header.raw) != header.raw[0xFC0:0xFE0]:
            raise Refused("MAC of the header")
        self.read_root(keys)
        if header.hash not in (self.root[0x68:0x88], self.root[0x88:0xA8]):
            raise Refused("the root does not name this header")

    # --- section 6

    def read_root(self, keys):
        best = (0, b"")
        for ring in self.geometry.rings:
            for i in range(4):
                block = self.at(ring + SECTOR * i)
                seq, uuid, gen = struct.unpack_from("<Q16sI", block, 0x20)
                if block[0x1C:0x20] != b"FGR1" or uuid != keys.uuid or gen != keys.gen or seq % 4 != i or seq <= best[0]:
                    continue
                try:
                    if crc_good(block, 0x5C):
                        best = seq, keys.open(ROOT, 0, 0, seq, block[0x10:0x1C], block[:16], block[0x60:], block[0x10:0x5C])
                except InvalidTag:
                    pass
        self.root_seq, self.root = best
        if self.root_seq == 0:
            raise Refused("no root record")
        self.closed = self.root[0] == 1
        self.counter_next, self.settled, self.tail = struct.unpack_from("<QQQ", self.root, 0x18)
        self.top = Slot.decode(self.root[0x40:0x68])

    # --- section 7

    def log_block(self, seq):
        """(head, entries) of the block in this one's place, or None."""
        g = self.geometry
        block = self.at(MIB + SECTOR * (seq % g.log_blocks))
        own, prev, uuid, gen_ix, n, gen, base, settled, prefix, _ = struct.unpack_from("<Q16s16sHHIQQQQ", block, 0x20)
        if block[0x1C:0x20] != b"FGL1" or own != seq or uuid != self.header.uuid or n > 165 or not crc_good(block, 0x7C):
            return None
        keys = self.keys.get(gen_ix)
        if keys is None or keys.gen != gen:
            return None
        try:
            plain = keys.open(LOG, 0, 0, seq, block[0x10:0x1C], block[:16], block[0x80:], block[0x10:0x7C])
        except InvalidTag:
            return None
        entries = []
        for i in range(n):
            word, tag = struct.unpack_from("<Q16s", plain, 24 * i)
            entries.append((word >> 60, word >> 56 & 15, word & (1 << 56) - 1, tag, base + i))
        return dict(tag=block[:16], prev=prev, salt=block[0x10:0x1C], gen_ix=gen_ix, settled=settled, prefix=prefix), entries

    def read_log(self):
        g = self.geometry
        last, seq = self.root[0x30:0x40], self.tail
        self.entries = {}
        while seq < self.tail + g.log_blocks:
            found = self.log_block(seq)
            if found is None or found[0]["prev"] != last:
                break
            head, entries = found
            self.settled = max(self.settled, head["settled"])
            for entry in entries:
                self.take(head, *entry)
            last, seq = head["tag"], seq + 1
        self.end = seq
        for later in range(self.end + 1, self.tail + g.log_blocks):
            found = self.log_block(later)
            if found is not None and found[0]["prefix"] >= self.end:
                raise Refused("log block %d is damaged" % self.end)

    def take(self, head, kind, level, index, tag, counter):
        if kind == NOTHING:
            return
        if kind not in (SEALED, ZERO, BAD) or level > self.geometry.levels:
            raise Refused("a log entry of no kind")
        count = struct.unpack_from("<Q", tag)[0] if kind == ZERO else 1
        if count == 0 or index + count > self.geometry.count[level]:
            raise Refused("a log entry past the end")
        slot = Slot(kind, counter, tag, head["salt"], head["gen_ix"]) if kind == SEALED else Slot(kind, counter)
        for i in range(index, index + count):
            self.entries.setdefault((level, i), []).append(slot)

    def content(self, level, index, slot):
        """What opens as this version in the object's place: bytes, or None."""
        keys = self.keys.get(slot.gen_ix)
        for place in self.geometry.places(level, index):
            block = self.at(place)
            try:
                if level == 0:
                    return keys and keys.open(DATA, 0, index, slot.counter, slot.salt, slot.tag, block)
                clear = slot.salt + b"FGN1" + struct.pack("<QQBBHI", slot.counter, index, level, 1, slot.gen_ix, keys.gen)
                if block[:16] == slot.tag and block[0x10:0x48] == clear + self.header.uuid and crc_good(block, 0x5C):
                    return keys.open(NODE, level, index, slot.counter, slot.salt, slot.tag, block[0x60:], block[0x10:0x5C])
            except InvalidTag:
                pass
        return None

    def choose(self, level, index, slot):
        """Which version is right: (slot, content). slot: what the parent says."""
        candidates = [slot] + [s for s in self.entries.get((level, index), []) if s.counter > slot.counter]
        for i in range(len(candidates) - 1, 0, -1):
            if candidates[i].state == ZERO or candidates[i].counter <= self.settled:
                candidates = candidates[i:]
                break
        for candidate in reversed(candidates):
            if candidate.state in (ZERO, BAD):
                return candidate, None
            content = self.content(level, index, candidate) if candidate.state == SEALED else None
            if content is not None:
                return candidate, content
        raise Lost("level %d, object %d: nothing opens" % (level, index))

    def node(self, level, index):
        """The slots of a node; ZERO stands for itself. Lost if there is none."""
        if (level, index) not in self.nodes:
            try:
                parent = self.top if level == self.geometry.levels else self.slot(level + 1, index)
                self.nodes[level, index] = self.choose(level, index, parent)
            except Lost as e:
                self.nodes[level, index] = e
        found = self.nodes[level, index]
        if isinstance(found, Lost):
            raise found
        return found

    def slot(self, parent_level, index):
        """What the node above says of object `index` below it."""
        slot, content = self.node(parent_level, index // self.geometry.fanout)
        if slot.state == ZERO:
            return Slot(ZERO, slot.counter)
        if slot.state == BAD:
            raise Lost("a node is BAD")
        return Slot.decode(content[40 * (index % self.geometry.fanout):][:40])

    def sector(self, lba):
        """The 4096 bytes; Lost if reading it is an error."""
        slot, content = self.choose(0, lba, self.slot(1, lba))
        if slot.state == BAD:
            raise Lost("sector %d is BAD" % lba)
        return bytes(SECTOR) if slot.state == ZERO else content
