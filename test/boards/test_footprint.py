"""The release images of all boards against their limit; the judge is tools/footprint. They are built before (tools/check --boards)."""

import json
import pathlib
import subprocess

SOURCE = pathlib.Path(__file__).resolve().parents[2]


def test_each_boards_release_image_is_within_its_limit(tmp_path):
    done = subprocess.run([SOURCE / "tools/footprint", "--only", "images", "--json", tmp_path / "rows"], capture_output=True, text=True)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = {r["of"]: r for r in json.loads((tmp_path / "rows").read_text())}
    boards = {p.parent.name for p in (SOURCE / "boards").glob("*/board.ini")}
    assert {f"{board}-release" for board in boards} <= set(rows), "an image is missing: tools/image BOARD for each of them"
    assert all(rows[f"{board}-release"]["limit"] for board in boards)
