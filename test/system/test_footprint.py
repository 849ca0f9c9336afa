"""What the agent takes, against its limits: tools/footprint is the judge here as on a developer's machine. Its judgement is tried too."""

import json
import subprocess

import pytest

from conftest import BUILD, ROOT


def footprint(*arguments):
    return subprocess.run([str(ROOT / "tools/footprint"), "--build", str(BUILD), *map(str, arguments)], capture_output=True, text=True,
                          timeout=300)


@pytest.mark.parametrize("what", ["text", "memory"])
def test_the_agent_is_within_its_limits(what, tmp_path, capsys):
    done = footprint("--only", what, "--json", tmp_path / "rows")
    with capsys.disabled():
        print("\n" + done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads((tmp_path / "rows").read_text())
    sums = {r["what"]: r for r in rows if r["of"] == "agent"}
    assert set(sums) == ({"text"} if what == "text" else {"resident", "own"})
    for kind, judged in sums.items():
        parts = [r["bytes"] for r in rows if r["what"] == kind and r["of"] != "agent" and "not in the sum" not in r["note"]]
        assert judged["bytes"] == sum(parts) > 0 and judged["limit"]
        assert len(parts) >= (5 if kind == "text" else 4), rows
    if what == "memory":
        resident, own = sums["resident"]["bytes"], sums["own"]["bytes"]
        # the preset's 24 MiB of nodes and held ciphertext, at least: less means that nothing was in use
        assert resident > own + (24 << 20), "the volume's memory was not in use: the measurement says nothing"


def test_what_is_over_is_said_and_is_an_error():
    done = footprint("--only", "text", "--limit", "text=0.5")
    assert done.returncode == 1 and "OVER" in done.stdout, done
    for wrong in ("text", "text=", "text=-1", "texts=1", "text=much"):
        done = footprint("--only", "text", "--limit", wrong)
        assert done.returncode == 2 and "own=12" in done.stderr, (wrong, done)


def test_a_build_that_is_not_there_is_one_line(tmp_path):
    for what in ("text", "memory"):
        done = subprocess.run([str(ROOT / "tools/footprint"), "--build", str(tmp_path), "--only", what], capture_output=True, text=True)
        assert done.returncode == 3 and done.stderr.startswith("footprint: ") and done.stderr.count("\n") == 1, done
