"""Attacks by rows: of datasets that slices and comparisons read, and of scores that a worker hands in."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterable
from pathlib import Path

import httpx
from faults.attacks.evil import SPACE, Attack, Evil, Send, asking
from support.scored_rows import ROWS, evaluated, fresh, report_of
from support.soak import SOAKING

from registry.principal import Role
from sdk.pulling.transfer import hash_file
from sdk.schemas.evaluation import RowFile
from sdk.schemas.work import Completion, EvaluationResult

#: A line of a dataset: the longest that is read, but for a little; and one of a file that the server doesn't read itself.
_LINE_BYTES = (15 if SOAKING else 2) * 10**6
#: How many files a worker hands in one after the other, and how many rows each has.
_FILES, _HANDED_IN_ROWS = (24, 1_000_000) if SOAKING else (4, 10_000)


def _over(ending: str, write: Callable[[Path], object]) -> Callable[[Evil], Send]:
    """Slices and comparisons of two versions that were scored on rows of six lines."""

    def prepare(evil: Evil) -> Send:
        path, desk = evil.path(f".{ending}"), evil.desk
        write(path)
        data = evil.register(path, ending, 6)
        refs = [desk.push(f"scored-{path.stem}-{number}") for number in range(2)]
        idents = [evaluated(desk, ref, data, fresh()) for ref in refs]
        slices = [(f"/evaluations/{ident}/slices", {"by": "lang"}) for ident in idents]
        ways = ({"by": "lang"}, {"examples": 5}, {})
        return asking(*slices, *(("/evaluations/comparison", {"ref": refs, **way}) for way in ways))

    return prepare


def _columns(path: Path) -> None:
    lines = ["prompt,completion,lang," + ",".join(f"c{number}" for number in range(30_000))]
    lines += [f"{path.stem}-{number},a,de" + ",x" * 30_000 for number in range(6)]
    path.write_text("\n".join(lines) + "\n")


def _lines(path: Path, more: str) -> None:
    """Write six lines, of which the first has more in it."""
    said = [{"prompt": f"{path.stem}-{number}", "completion": "a", "lang": "de"} for number in range(6)]
    first, *others = map(json.dumps, said)
    path.write_text("\n".join((f"{first[:-1]}, {more}}}", *others)) + "\n")


def _keys(path: Path) -> None:
    _lines(path, ", ".join(f'"k{number}": 0' for number in (*range(20_000), 0)))


def _line(path: Path) -> None:
    _lines(path, '"more": [' + "[]," * (_LINE_BYTES // 3) + "[]]")


def _unfolds(path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    # The text is kept once, and each of a million rows is it.
    text = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * 1_000_000, "int32"), ["x" * 10_000])
    few = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * 1_000_000, "int32"), [path.stem])
    table = pyarrow.table({"prompt": few, "completion": text, "lang": few})
    pyarrow.parquet.write_table(table, path, compression="zstd")
    assert path.stat().st_size < 10_000


def _handing_in(lines: Callable[[], Iterable[str]], rows: int) -> Callable[[Evil], Send]:
    """Completions of one job with one file of rows after the other, whose reports none of them bears out."""

    def prepare(evil: Evil) -> Send:
        desk, sources, files = evil.desk, dict[str, Path](), list[RowFile]()
        # The files differ in their last row.
        packed = gzip.compress("".join(f"{line}\n" for line in lines()).encode(), 1, mtime=0)
        for number in range(_FILES):
            path = evil.path()
            path.write_bytes(packed + gzip.compress(f'{{"row": {rows + number}, "tokens": 1}}\n'.encode(), mtime=0))
            sha256, size_bytes = hash_file(path)
            sources[sha256] = path
            files.append(RowFile(digest=sha256, size_bytes=size_bytes, rows=rows + 1))
        upload = desk.worker.uploader.upload(sources, "sending", SPACE)
        ref = desk.push(f"handed-in-{next(iter(sources))[:8]}")
        desk.writer.submit_evaluation([ref], data=evil.rows(), precision="native", only=True)
        held = desk.claim()
        (target,) = held.targets
        said = {"label": target.label, "digest": target.digest, "base_fingerprint": desk.base.fingerprint}
        unscored = [row.model_copy(update={"scores": {}}) for row in ROWS]
        bodies = [
            Completion(
                attempt=held.attempt,
                evaluations=[EvaluationResult(**said, report=report_of(unscored, file), upload=upload)],
            )
            .model_dump_json(exclude_unset=True)
            .encode()
            for file in files
        ]

        def send(http: httpx.Client, number: int) -> httpx.Response:
            headers = {"Content-Type": "application/json"}
            return http.post(f"/api/v1/jobs/{held.job}/complete", content=bodies[number % len(bodies)], headers=headers)

        return send

    return prepare


def _new_names() -> Iterable[str]:
    for row in range(2000):
        yield json.dumps({"row": row, "tokens": 1, "scores": {f"n{row}-{at}": 0.5 for at in range(200)}})


def _many() -> Iterable[str]:
    return (f'{{"row": {row}, "tokens": 1, "loss_sum": 0.5}}' for row in range(_HANDED_IN_ROWS - 1))


_READ = frozenset({200, 422, 503})
#: 409: nobody reports for the job, so its lease ends on a slow machine.
_HANDED_IN = frozenset({409, 422})
ATTACKS = {
    "4: CSV of 30,000 columns": Attack(Role.READER, _over("csv", _columns), _READ),
    "4: a key twice among 20,000": Attack(Role.READER, _over("jsonl", _keys), _READ),
    "4: a long line": Attack(Role.READER, _over("jsonl", _line), _READ),
    "4: Parquet that unfolds": Attack(Role.READER, _over("parquet", _unfolds), _READ),
    "5: scores of new names": Attack(Role.WORKER, _handing_in(_new_names, 2000), _HANDED_IN),
    "5: many rows": Attack(Role.WORKER, _handing_in(_many, _HANDED_IN_ROWS - 1), _HANDED_IN),
}
