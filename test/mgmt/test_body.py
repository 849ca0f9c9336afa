"""The codec against python3-cbor2, an implementation nobody here wrote: what both call good comes back the same, what cbor2 makes in
forms that are not strict is refused."""

import random

import cbor2
import pytest

from bench import BUILD, Lines


@pytest.fixture(scope="module")
def tool():
    t = Lines([BUILD / "test-bin/body_tool"])
    yield t
    t.close()


def judge(tool, data):
    tool.tell(data.hex())
    return tool.next()


def value(r, depth=0):
    kind = r.randrange(9 if depth < 4 else 7)
    if kind == 0:
        return r.choice([0, 1, 23, 24, 255, 256, 65535, 65536, 2**32 - 1, 2**32, 2**64 - 1, r.getrandbits(r.randrange(1, 65))])
    if kind == 1:
        return -1 - r.getrandbits(r.randrange(1, 65))
    if kind == 2:
        return r.randbytes(r.randrange(40))
    if kind in (3, 4):
        return "".join(chr(r.choice([65, 0x7F, 0x80, 0xFC, 0x7FF, 0x800, 0xD7FF, 0xE000, 0xFFFF, 0x10000, 0x10FFFF])) for _ in range(r.randrange(30)))
    if kind == 5:
        return r.random() < 0.5
    if kind == 6:
        return None
    if kind == 7:
        return [value(r, depth + 1) for _ in range(r.choice([0, 1, 3, 5, 24]) if depth > 1 else r.randrange(5))]
    return {f"k{i}": value(r, depth + 1) for i in range(r.choice([0, 1, 3, 5, 24]) if depth > 1 else r.randrange(5))}


def test_values_come_back(tool):
    r = random.Random(1)
    for _ in range(2000):
        data = cbor2.dumps(value(r))
        said = judge(tool, data)
        assert said == "good " + data.hex(), (said[:80], data.hex()[:200])


def test_other_types_are_refused(tool):
    for other in (1.5, float("nan"), cbor2.undefined, cbor2.CBORTag(1, 0), {1: 2}, {b"a": 1}, {("a",): 1}, [[[[[[1]]]]]], cbor2.CBORSimpleValue(99)):
        assert judge(tool, cbor2.dumps(other)).startswith("bad "), other


def strict(data):
    """What cbor2 reads, whole, from a form that it would itself write, of types that bodies may have, is what the codec takes."""

    def allowed(v, depth=0):
        if depth >= 6:
            return False
        if isinstance(v, dict):
            return all(isinstance(k, str) and allowed(k, depth + 1) and allowed(x, depth + 1) for k, x in v.items())
        if isinstance(v, list):
            return all(allowed(x, depth + 1) for x in v)
        if isinstance(v, int) and not isinstance(v, bool):
            return -(2**64) <= v < 2**64
        return v is None or isinstance(v, (bool, str, bytes))

    try:
        v = cbor2.loads(data)
        return allowed(v) and cbor2.dumps(v) == data
    except (cbor2.CBORError, ValueError, TypeError, RecursionError, OverflowError, MemoryError):
        return False


def test_mutations_are_judged_alike(tool):
    r = random.Random(2)
    good = bad = 0
    for _ in range(6000):
        data = bytearray(cbor2.dumps(value(r, 2))[:60])
        for _ in range(r.randrange(3)):
            where = r.randrange(len(data) + 1)
            what = r.randrange(3)
            if what == 0 and where < len(data):
                data[where] = r.getrandbits(8)
            elif what == 1:
                data.insert(where, r.choice([0x18, 0x19, 0x1B, 0x5F, 0x7F, 0x9F, 0xBF, 0xFF, 0x61, 0xA1, 0xC1, r.getrandbits(8)]))
            elif where < len(data):
                del data[where]
        data = bytes(data)
        said = judge(tool, data).startswith("good ")
        # Heads that ask cbor2 for gigabytes are not worth asking it.
        if not said and any(b in (0x5A, 0x5B, 0x7A, 0x7B, 0x9A, 0x9B, 0xBA, 0xBB) for b in data):
            bad += 1
            continue
        assert said == strict(data), (data.hex(), said)
        good += said
        bad += not said
    assert good > 500 and bad > 500
