"""Claim: the L1 fit selects what liblinear selects on the whole matrix, at least 3 times faster, in less memory.

    python benchmarks/bench_fit.py [--features DIR] [--c 0.2 0.3 0.5 1.0] [--repetitions 5]

Ours reads half-precision features from a memory map; liblinear is given the same values as a float64 matrix that is
already in memory, so its conversion is not counted. Runs are interleaved, ratios are taken within a repetition. Both
clocks are shown: CPU seconds (all threads) hold on a busy machine, wall-clock seconds are what a user waits on an idle
one. Peak memory (Linux only) is that of a process that does one fit and nothing else, less what its imports take.

DIR holds answer.npy [rows, neurons], float16 or float32, and labels.npy [rows]: 1 = hallucinated, 0 = faithful, other
values are left out. Without it CETT-like features are made: lognormal, heavy-tailed, correlated within a layer, every
layer's row of norm 1, and labels that follow a factor which many neurons share.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from offline.features.row_view import stack_views
from offline.fitting.l1 import certify, fit_l1

ROWS, LAYERS, NEURONS = 1600, 30, 1536
TIGHT, DEFAULT = 1e-8, 1e-4
METHODS = ("ours", f"liblinear tol {TIGHT:g}", f"liblinear tol {DEFAULT:g}")


def make_features(folder: Path, seed: int = 0) -> None:
    random = np.random.default_rng(seed)
    hidden = random.standard_normal(ROWS)
    labels = (hidden + random.standard_normal(ROWS) > 0).astype(np.int64)
    answer = np.lib.format.open_memmap(folder / "answer.npy", "w+", np.float16, (ROWS, LAYERS * NEURONS))
    shared = random.standard_normal((ROWS, 3))
    for layer in range(LAYERS):
        factors = random.standard_normal((ROWS, 8))
        factors[:, 0] += 0.5 * np.sin(np.pi * layer / LAYERS) * hidden
        factors[:, 1:4] += 0.5 * shared
        exponents = factors @ (0.25 * random.standard_normal((8, NEURONS))) + 0.8 * random.standard_normal(NEURONS)
        cett = np.exp(exponents + 0.35 * random.standard_t(5, (ROWS, NEURONS)))
        answer[:, layer * NEURONS : (layer + 1) * NEURONS] = cett / np.linalg.norm(cett, axis=1, keepdims=True)
    answer.flush()
    np.save(folder / "labels.npy", labels)


def load(folder: Path) -> tuple[NDArray[Any], NDArray[np.int64], NDArray[np.int64]]:
    """Feature map, the labelled rows in it, and their labels."""
    labels = np.load(folder / "labels.npy")
    rows = np.flatnonzero((labels == 0) | (labels == 1))
    return np.load(folder / "answer.npy", mmap_mode="r"), rows, labels[rows].astype(np.int64)


def fit_liblinear(matrix: NDArray[np.float64], labels: NDArray[np.int64], c: float, tolerance: float) -> Any:
    model = LogisticRegression(l1_ratio=1, solver="liblinear", C=c, tol=tolerance, max_iter=10_000, random_state=0)
    return model.fit(matrix, labels)


def compare(folder: Path, c: float, repetitions: int) -> None:
    answer, rows, labels = load(folder)
    matrix = np.asarray(answer[rows], dtype=np.float64)
    runs: list[Callable[[], Any]] = [
        lambda: fit_l1(stack_views([(answer, rows)]), labels, c),
        lambda: fit_liblinear(matrix, labels, c, TIGHT),
        lambda: fit_liblinear(matrix, labels, c, DEFAULT),
    ]
    results: list[Any] = [None] * len(runs)
    seconds = np.zeros((2, len(runs), repetitions))
    for repetition in range(repetitions):
        for step in range(len(runs)):
            method = (step + repetition) % len(runs)
            cpu, wall = time.process_time(), time.perf_counter()
            results[method] = runs[method]()
            seconds[:, method, repetition] = time.process_time() - cpu, time.perf_counter() - wall
    ours, *others = results
    view = stack_views([(answer, rows)])
    supports, breaches = [ours.columns], [certify(view, labels, c, ours.columns, ours.weights, ours.intercept).breach]
    for model in others:
        columns = np.flatnonzero(model.coef_[0])
        supports.append(columns)
        breaches.append(certify(view, labels, c, columns, model.coef_[0, columns], float(model.intercept_[0])).breach)
    for number, method in enumerate(METHODS):
        cpu, wall = seconds[0, number], seconds[1, number]
        line = f"{c:<6g} {method:<20} {supports[number].size:>8} {breaches[number]:>9.0e} {spread(cpu)} {spread(wall)}"
        if number:
            same = "yes" if np.array_equal(supports[number], supports[0]) else "no"
            line += f" {spread(cpu / seconds[0, 0])} {spread(wall / seconds[1, 0])} {same:>7}"
        print(line, flush=True)


def spread(values: NDArray[np.float64]) -> str:
    low, median, high = np.quantile(values, [0.25, 0.5, 0.75])
    return f"{f'{median:.2f} ({low:.2f}-{high:.2f})':>21}"


def measure(folder: Path, c: float, method: str) -> None:
    """Peak memory above the imports, in a process of its own."""
    before = memory_mib("VmRSS")
    answer, rows, labels = load(folder)
    if method == METHODS[0]:
        fit_l1(stack_views([(answer, rows)]), labels, c)
    else:
        matrix = np.empty((rows.size, answer.shape[1]))
        for i, row in enumerate(rows):
            matrix[i] = answer[row]
        fit_liblinear(matrix, labels, c, DEFAULT)
    print(memory_mib("VmHWM") - before)


def memory_mib(field: str) -> float:
    # Not getrusage: its peak is inherited from the process that started this one.
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", type=Path)
    parser.add_argument("--c", type=float, nargs="+", default=[0.2, 0.3, 0.5, 1.0])
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--measure", choices=METHODS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        measure(args.features, args.c[0], args.measure)
        return
    with tempfile.TemporaryDirectory() as made:
        folder = args.features or Path(made)
        if not args.features:
            make_features(folder)
        answer, rows, labels = load(folder)
        print(f"{rows.size} rows x {answer.shape[1]} columns {answer.dtype}, {labels.mean():.0%} hallucinated")
        print(f"median (quartiles) of {args.repetitions} interleaved repetitions; ratio = liblinear / ours\n")
        heads = ("CPU seconds", "wall seconds", "CPU ratio", "wall ratio")
        columns = " ".join(f"{head:>21}" for head in heads)
        print(f"{'C':<6} {'method':<20} {'selected':>8} {'breach':>9} {columns} {'same':>7}")
        for c in args.c:
            compare(folder, c, args.repetitions)
        print()
        for method in METHODS[:2]:
            command = [sys.executable, __file__, "--features", str(folder), "--c", str(args.c[-1]), "--measure", method]
            peak = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)  # noqa: S603
            print(f"peak memory, C={args.c[-1]:g}, {method.split(' tol')[0]}: {peak:,.0f} MiB", flush=True)
        mapped = answer.dtype.itemsize * answer.size / 2**20
        print(f"(ours includes up to {mapped:,.0f} MiB of mapped feature file, which the kernel may drop at any time)")


if __name__ == "__main__":
    main()
