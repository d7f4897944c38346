"""Prints the summary at the end of ``gpu.sh``: results of its checks and the main figures. Reads only logs."""

import json
import re
import sys
from pathlib import Path
from typing import Any

TOLERANCE = {"float16": 1.5e-3, "bfloat16": 1.5e-2}


def find_worst(report: dict[str, Any]) -> tuple[str, bool]:
    """Return the error that is largest in proportion to its tolerance, and whether all errors are below; NaN is not."""
    shares = [
        (error / TOLERANCE[dtype], f"{case}, {dtype}, {name}: {error:.1e}")
        for case, by_dtype in report["errors"].items()
        for dtype, errors in by_dtype.items()
        for name, error in errors.items()
    ]
    bad = [text for share, text in shares if not share < 1]
    return (bad[0], False) if bad else (max(shares)[1], True)


def parse_rows(text: str) -> list[list[str]]:
    """Return the cells of the Markdown tables in a log, without header lines."""
    lines = [line for line in text.splitlines() if line.startswith("| ") and not re.match(r"\| -", line)]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[1:]]


def main(logs: Path) -> int:
    fine = True
    print("\n| check | result |\n| --- | --- |")
    for size in ("small", "large"):
        text = _read(logs / f"kernels-{size}.txt")
        error, passed = find_worst(json.loads(text)) if text else ("did not run", False)
        fine &= passed
        print(f"| kernels against float64, {size} | {'fine' if passed else 'WRONG'}: {error} |")
    text = _read(logs / "kernels-planted.txt")
    missed = (
        [bug for bug, errors in json.loads(text).items() if all(e < 1e-2 for e in errors.values())]
        if text
        else ["did not run"]
    )
    fine &= not missed
    print(f"| planted bugs | {'all found' if not missed else 'MISSED: ' + ', '.join(missed)} |")
    by_size: dict[tuple[str, ...], dict[str, list[str]]] = {}
    for row in parse_rows(_read(logs / "primitive.txt")):
        by_size.setdefault(tuple(row[:5]), {})[row[5]] = row
    head = "D, T, E, r, dtype", "Triton over compiled fold (default from 1.15)", "of 2 passes", "of 4 passes"
    print(f"\n| {' | '.join(head)} |\n| --- | --- | --- | --- |")
    for size, forms in by_size.items():
        if {"fold, compiled", "ours, Triton"} <= forms.keys():
            triton, fold = forms["ours, Triton"], forms["fold, compiled"]
            print(f"| {', '.join(size)} | {float(fold[7]) / float(triton[7]):.2f} | {triton[9]} | {triton[10]} |")
    for name in ("crops", "nf4", "layer", "layer-nf4", "step", "plan"):
        for row in parse_rows(_read(logs / f"{name}.txt")):
            print(f"| {name}: {' | '.join(row)} |")
    return 0 if fine else 1


def _read(file: Path) -> str:
    return file.read_text(encoding="utf-8") if file.is_file() else ""


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1])))
