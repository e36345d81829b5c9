"""Measurements, what follows from them, and their JSON."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from bench.cases import Case
from bench.floor import Rates
from bench.timing import Timing


@dataclass(frozen=True)
class Result:
    """One measured case."""

    case: Case
    ours: Timing
    theirs: Timing  # torch.nn.LSTM
    difference: float  # largest relative difference of any output or gradient between ours and another side
    float16: Timing | None = None  # theirs in float16
    onnxruntime: Timing | None = None
    floor: float | None = None  # seconds

    @property
    def ratio(self) -> float:
        """theirs / ours, of the minima: the figure that other programs on the machine disturb least."""
        return self.theirs.minimum / self.ours.minimum

    @property
    def onnxruntime_ratio(self) -> float | None:
        return self.onnxruntime and self.onnxruntime.minimum / self.ours.minimum

    @property
    def over_floor(self) -> float | None:
        """ours / floor."""
        return self.floor and self.ours.minimum / self.floor


@dataclass(frozen=True)
class Report:
    environment: dict[str, Any]
    settings: dict[str, Any]
    results: list[Result]
    left_out: list[str]  # names of cases that would not have fitted the time limit
    failed: list[str] = dataclasses.field(default_factory=list)  # names of cases, and what went wrong
    rates: Rates | None = None  # what the floors were computed from

    def has(self, name: str) -> bool:
        """Whether any result has this optional field."""
        return any(getattr(result, name) is not None for result in self.results)

    def by_table(self) -> dict[tuple[str, str], list[Result]]:
        """Results by (group, mode), in the order in which they were measured."""
        tables: dict[tuple[str, str], list[Result]] = {}
        for result in self.results:
            tables.setdefault((result.case.group, result.case.mode), []).append(result)
        return tables

    def summary(self) -> list[dict[str, str]]:
        """By title: for each peer one row for each group and mode, and one for everything."""
        rows = []
        for peer, ratio in (("torch", "ratio"), ("ORT", "onnxruntime_ratio")):
            for (group, mode), results in [*self.by_table().items(), (("all", ""), self.results)]:
                measured = [result for result in results if getattr(result, ratio) is not None]
                if measured:
                    rows.append(self._summary_row(peer, ratio, group, mode, measured))
        return rows

    def _summary_row(self, peer: str, ratio: str, group: str, mode: str, results: list[Result]) -> dict[str, str]:
        ratios = [getattr(result, ratio) for result in results]
        worst = results[ratios.index(min(ratios))].case
        row = {"peer": peer, "group": group, "mode": mode, "cases": str(len(results))}
        row |= {"geometric mean": f"{geometric_mean(ratios):.2f}", "worst": f"{min(ratios):.2f}"}
        row["worst case"] = f"{worst.dtype} {worst.shape}" if mode else worst.name
        if self.has("floor"):
            floors = [result.over_floor for result in results if result.over_floor is not None]
            row["ours/floor"] = f"{geometric_mean(floors):.2f}" if floors else ""
        return row


def geometric_mean(values: Iterable[float]) -> float:
    """The right mean of ratios: 2x faster here and 2x slower there make 1."""
    logarithms = [math.log(value) for value in values]
    return math.exp(math.fsum(logarithms) / len(logarithms))


def headline(environment: dict[str, Any]) -> str:
    commit = (environment["commit"] or "no commit")[:12] + (" + changes" if environment["dirty"] else "")
    where = f"{environment['device']}; torch {environment['torch']}, "
    if environment.get("driver"):
        where += f"cuDNN {environment['cudnn']}, driver {environment['driver']}"
    else:
        where += f"onnxruntime {environment['onnxruntime']}, " if environment.get("onnxruntime") else ""
        where += environment["cpu_capability"]
    load = f"load {environment['load']:.1f} on {environment['cores']} cores at the start"
    return f"{where}; {load}; {commit}, csrc {environment['csrc'][:12]}; {environment['date']}"


def to_json(report: Report) -> str:
    """Everything that was measured, and per case what follows from it (name, flops, ratios), which reading ignores."""
    derived = ("ratio", "onnxruntime_ratio", "over_floor")
    results = [
        {**dataclasses.asdict(r), "name": r.case.name, "flops": r.case.flops, **{n: getattr(r, n) for n in derived}}
        for r in report.results
    ]
    return json.dumps({**dataclasses.asdict(report), "results": results, "summary": report.summary()}, indent=1) + "\n"


def from_json(text: str) -> Report:
    """Results from before a field was added read as results without it."""
    data = json.loads(text)

    def timing(values: dict[str, Any] | None) -> Timing | None:
        return None if values is None else Timing(**values)

    def result(r: dict[str, Any]) -> Result:
        sides = [timing(r["ours"]), timing(r["theirs"]), r["difference"]]
        return Result(Case(**r["case"]), *sides, timing(r.get("float16")), timing(r.get("onnxruntime")), r.get("floor"))

    rates = data.get("rates")
    if rates:
        rates = Rates(rates["flops"], {int(size): value for size, value in rates["reading"].items()})
    results = [result(r) for r in data["results"]]
    return Report(data["environment"], data["settings"], results, data["left_out"], data.get("failed", []), rates)
