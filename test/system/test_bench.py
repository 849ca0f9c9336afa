"""tools/bench gate stays what its readers take it for: every cause it names can be measured, and the rows have their shape."""

import json
import os
import subprocess

from conftest import BUILD, ROOT

KEYS = {"cause", "load", "n", "bound_ms", "median_ms", "p99_ms", "p999_ms", "max_ms"}


def run(*options):
    return subprocess.run([str(ROOT / "test/bench/gate"), *map(str, options)], env={**os.environ, "FALLGATE_BUILD": str(BUILD)}, capture_output=True,
                          text=True, timeout=200)


def test_a_row_for_each_cause_and_load(tmp_path):
    causes = ["command", "tamper", "supervisor-lost", "disabled", "rights-removed", "date-passed", "deleted", "replaced", "pin-changed", "module-broken",
              "unreachable"]
    done = run("--n", 1, "--load", "full", "--cause", ",".join(causes), "--json", tmp_path / "gate.json")
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "gate.json").read_text())
    assert {r["cause"] for r in rows} == set(causes) and all(r["load"] == "full" for r in rows)
    for r in rows:
        assert KEYS <= set(r) and r["n"] == 1 and r["p99_ms"] is None and r["p999_ms"] is None
        assert 0 < r["detected_median_ms"] <= r["cut_median_ms"] <= r["median_ms"] == r["max_ms"], r
        assert r["max_ms"] < r["bound_ms"] + 5000, "not even near its bound"
        assert r["over_bound"] == (r["max_ms"] > r["bound_ms"])


def test_what_makes_no_sense_is_refused():
    assert run("--cause", "weather").returncode == 2
    assert run("--n", 0).returncode == 2
