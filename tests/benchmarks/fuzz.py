"""What reading a record does with damaged and hostile files.

python -m tests.benchmarks.fuzz [--files 100000] [--seed 0] [--out FILE.json]

Record files of every kind are mutated: bytes are changed, cut out, doubled or put in, the JSON
header is edited, its length lies, files are joined. Each is then loaded. It may be refused
with a CascadeError, or load, but only as a sound record of the samples of a file it was made from,
which is saved and read to the same bytes. Anything else, a file that takes longer than a second, or
memory that grows, is a defect, and the program exits with 1.
"""

from __future__ import annotations

import collections
import contextlib
import json
import math
import random
import resource
import sys
import tempfile
import time
import traceback
from pathlib import Path

import torch
from safetensors import safe_open

from lit_cascade.errors import CascadeError
from lit_cascade.records.record import Record
from tests.benchmarks.results import options_parser

_SLOW = 1.0
FORMAT = "lit-cascade-record/1"


def seeds(folder: Path) -> list[bytes]:
    """Records of every kind: logits or scores, ids of numbers or strings, one label or several."""
    logits = [[1.0, 2.0, -1.0], [0.5, 0.0, 0.25], [9.0, -9.0, 0.0]]
    kinds = {
        "plain": Record.from_arrays("plain", logits, [0, 1, 2], flops=10.0),
        "named": Record.from_arrays(
            "named", logits, [2, 1, 0], flops=[1.0, 2.0, 3.0], ids=["a", "bb", "ccc"],
            classes=["cat", "dog", "owl"], data={"name": "pets", "split": "test"},
        ),
        "several": Record.from_arrays("several", logits, [[0, -1], [1, 2], [2, -1]], flops=1.0),
        "unlabelled": Record.from_arrays("unlabelled", logits, flops=1.0),
        "api": Record.from_arrays(
            "api", score=[0.5, 0.25, 1.0], correct=[1, 0, 1], costs={"usd": 2}
        ),
    }  # fmt: skip
    found = []
    for name, record in kinds.items():
        path = folder / f"{name}.safetensors"
        record.save(path)
        found.append(path.read_bytes())
    return found


def _header(content: bytes) -> tuple[dict, bytes]:
    size = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + size]), content[8 + size :]


def _joined(header: dict, rest: bytes, size: int | None = None) -> bytes:
    head = json.dumps(header).encode()
    return (len(head) if size is None else size).to_bytes(8, "little", signed=False) + head + rest


_STRANGE = (
    None, 0, -1, 1, 2**31, 2**63 - 1, 2**64, 1e308, "", "x", "\x00", "\x1b[31m", "nan", "I64",
    "F16", "BOOL", [], [0], [0, 0], [-1, 5], [2**62, 2**62], {}, {"a": 1}, True, "[" * 2000,
    "9" * 400,
)  # fmt: skip
_SHAPES = (
    lambda shape: [1, *shape],
    lambda shape: [*shape, 1],
    lambda shape: shape[::-1],
    lambda shape: [math.prod(shape)],
)
"""Other shapes of as many numbers."""


def _strange_text(text: str, dice: random.Random) -> str:
    """Other JSON for a header that holds JSON in its strings, all of it or one member."""
    try:
        held = json.loads(text)
    except (ValueError, RecursionError):
        return text + "x"
    if dice.random() < 0.1:
        return "[" * 2000
    odd = dice.choice((*_STRANGE, math.nan, -math.inf, -0.5))
    if isinstance(held, dict) and held and dice.random() < 0.7:
        held[dice.choice(list(held))] = odd
    elif isinstance(held, list) and held and dice.random() < 0.7:
        held[dice.randrange(len(held))] = odd
    else:
        held = odd
    return json.dumps(held)


def _edited(content: bytes, dice: random.Random) -> bytes:
    header, rest = _header(content)
    for _ in range(dice.randint(1, 3)):
        key = dice.choice(list(header) or ["x"])
        entry = header.get(key)
        if isinstance(entry, dict) and entry and dice.random() < 0.8:
            part = dice.choice(list(entry))
            choice = dice.random()
            shape = entry.get("shape")
            if isinstance(shape, list) and dice.random() < 0.4:
                with contextlib.suppress(TypeError):  # one that is strange already
                    entry["shape"] = dice.choice(_SHAPES)(shape)
            elif isinstance(entry[part], str) and dice.random() < 0.5:
                entry[part] = _strange_text(entry[part], dice)
            elif choice < 0.2:
                del entry[part]
            elif choice < 0.4 and isinstance(entry[part], str) and entry[part]:
                text = list(entry[part])
                text[dice.randrange(len(text))] = chr(dice.choice((0, 34, 91, 57, 120, 0x20AC)))
                entry[part] = "".join(text)
            else:
                entry[part] = dice.choice(_STRANGE)
        elif dice.random() < 0.5:
            header.pop(key, None)
        else:
            header[key] = dice.choice(_STRANGE)
    size = dice.choice((None, None, None, 0, 7, 2**40, 2**63)) if dice.random() < 0.2 else None
    return _joined(header, rest, size)


def mutated(contents: list[bytes], dice: random.Random) -> bytes:
    """One file that no program of good will would write."""
    content = bytearray(dice.choice(contents))
    kind = dice.random()
    if kind < 0.45:
        return _edited(bytes(content), dice)
    for _ in range(dice.choice((1, 1, 2, 8))):
        at = dice.randrange(len(content) + 1)
        span = dice.choice((1, 2, 8, 64))
        what = dice.random()
        if what < 0.5 and content:
            content[at % len(content)] = dice.randrange(256)
        elif what < 0.65:
            del content[at : at + span]
        elif what < 0.8:
            content[at:at] = dice.randbytes(span)
        elif what < 0.9:
            content[at:at] = content[at : at + span]
        else:
            content = content[: max(at, 1)]
    if kind > 0.95:
        content += dice.choice(contents)
    return bytes(content)


def _samples(record: Record) -> tuple:
    """Ids, labels and classes, to be compared as they are: not by the fingerprint under test."""
    labels = None if record.labels is None else record.labels.tolist()
    return record.ids.tolist(), labels, record.classes


def check_sound(record: Record) -> None:
    """Check by itself, one value at a time, what every record promises.

    Raises:
        AssertionError: a promise is broken.
    """
    n, classes = len(record.ids), len(record.classes)
    ids = record.ids.tolist()
    assert n == len(set(ids)) > 0, "ids"
    assert {type(one) for one in ids} in ({int}, {str}), "ids"
    assert len(set(record.classes)) == classes, "classes"
    if record.logits is None:
        assert record.score is not None, "neither logits nor scores"
        assert record.correct is not None, "neither logits nor correctness"
    else:
        assert record.logits.shape == (n, classes), "logits"
        assert all(math.isfinite(one) for one in record.logits.flatten().tolist()), "logits"
    if record.labels is not None:
        assert record.labels.dtype == torch.int64, "labels"
        assert len(record.labels) == n, "labels"
        assert all(-1 <= one < classes for one in record.labels.flatten().tolist()), "labels"
    assert record.costs, "no cost"
    for unit in record.costs:
        cost = record.cost(unit).tolist()
        assert len(cost) == n, unit
        assert all(isinstance(one, float) and 0 <= one < math.inf for one in cost), unit
    for column, kind in ((record.score, float), (record.correct, bool)):
        if column is not None:
            assert [type(one) for one in column.tolist()] == [kind] * n, "scores"
            assert all(one < math.inf for one in column.tolist()), "scores"
    assert type(record.parameters) is int, "parameters"
    assert 0 <= record.parameters < 2**63, "parameters"
    assert all(one.strip() and "\x1b" not in one for one in (record.name, *record.classes)), "names"
    for part in (record.data, record.model, record.info):
        assert isinstance(part, dict), "descriptions"


def run(files: int, seed: int, folder: Path) -> dict:
    """Load so many mutated files.

    Returns:
        How many loaded, were refused, and were defects, with the first of these.
    """
    contents, dice = seeds(folder), random.Random(seed)  # noqa: S311 - no secrets here
    path, again = folder / "mutated.safetensors", folder / "again.safetensors"
    known = [_samples(Record.load(place)) for place in folder.glob("*.safetensors")]
    told: collections.Counter[str] = collections.Counter()
    defects: list[str] = []
    slowest = 0.0
    for number in range(files):
        path.write_bytes(mutated(contents, dice))
        record, start = None, time.perf_counter()
        try:
            record = Record.load(path)
            told["loaded"] += 1
        except CascadeError:
            told["refused"] += 1
        except BaseException:  # noqa: BLE001 - whatever else comes is what is looked for
            told["defects"] += 1
            defects.append(f"file {number}: {traceback.format_exc()}")
        took = time.perf_counter() - start
        try:
            if record is not None:
                with safe_open(path, framework="pt") as file:
                    assert file.metadata()["format"] == FORMAT, "not of this format"
                check_sound(record)
                assert _samples(record) in known, "samples of none of the files"
                record.save(again)
                assert Record.load(again).to_bytes() == again.read_bytes(), "not what was saved"
        except Exception:  # noqa: BLE001 - a record that should not have been read
            told["defects"] += 1
            defects.append(f"file {number}: {traceback.format_exc()}")
        slowest = max(slowest, took)
        if took > _SLOW:
            told["defects"] += 1
            defects.append(f"file {number}: took {took:.1f} s")
        if number == files // 10:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    return {
        "files": files,
        "seed": seed,
        **{name: told[name] for name in ("loaded", "refused", "defects")},
        "slowest_ms": round(1000 * slowest, 1),
        "memory_grown_mb": round(grown, 1),
        "first_defect": defects[0] if defects else None,
    }


def main() -> None:
    """Run and print."""
    parser = options_parser(__doc__)
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = run(args.files, args.seed, Path(folder))
    text = json.dumps(found, indent=2)
    print(text)
    if args.out:
        Path(args.out).write_text(text + "\n")
    sys.exit(int(found["defects"] > 0 or found["memory_grown_mb"] > 50))


if __name__ == "__main__":
    main()
