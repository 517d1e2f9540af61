"""An exported model in a new environment that has neither PyTorch nor what comes with it. Installing needs a package index."""

import json
import subprocess
import sys
from pathlib import Path

from conditional_detr.data.digits import make_digits
from conditional_detr.exporting.export import export
from conditional_detr.inference.detector import Detector
from conditional_detr.inference.predict import predict

ROOT = Path(__file__).parents[2]
NAME, LIMIT_MB = "conditional-detr-tiny-digits", 700


def test_a_lean_installation_is_small_and_finds_the_same(tmp_path, capsys):
    lean = tmp_path / "lean"
    python = lean / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(lean)], check=True)
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--disable-pip-version-check"]
    wanted = ["--requirement", str(ROOT / "requirements-lean.txt"), "--constraint", str(ROOT / "constraints.txt")]
    subprocess.run([*pip, *wanted], check=True)
    subprocess.run([*pip, "--no-deps", str(ROOT)], check=True)
    size_mb = sum(file.stat().st_size for file in lean.rglob("*") if file.is_file() and not file.is_symlink()) / 1e6
    with capsys.disabled():
        print(f"\nA lean installation takes {size_mb:.0f} MB (limit {LIMIT_MB})")
    assert size_mb <= LIMIT_MB

    make_digits(tmp_path / "data", train=1, valid=4, seed=7)
    images = sorted(map(str, (tmp_path / "data" / "valid").glob("*.png")))
    export(NAME, tmp_path / "export", format="openvino", precision="fp32")
    expected = predict(Detector(NAME, device="cpu"), images, tmp_path / "with", conf=0.3).rows
    command = [str(python), "-I", "-m", "conditional_detr", "predict", tmp_path / "export", *images, "--conf", "0.3"]
    done = subprocess.run([*map(str, command), "--output", str(tmp_path / "without")], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads((tmp_path / "without" / "predictions.json").read_text())
    assert [row["category_name"] for row in found] == [row["category_name"] for row in expected]
    for ours, theirs in zip(found, expected, strict=True):
        assert max(abs(a - b) for a, b in zip(ours["bbox"], theirs["bbox"], strict=True)) < 0.1
    code = f"import conditional_detr as c; print(type(c.Detector({str(tmp_path / 'export')!r})({images[0]!r})[0]).__name__)"
    done = subprocess.run([str(python), "-I", "-W", "error", "-c", code], capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == ("Detections", "")
