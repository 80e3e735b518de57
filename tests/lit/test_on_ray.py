"""The passes of the engine ray, without a cluster: the same rows as the Trainer's."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from lit_cascade import CascadeError, LitCascade, PolicyOptions, Stage
from lit_cascade.core.combination import COMBINATIONS
from lit_cascade.data import ImageData
from lit_cascade.lit import on_ray
from lit_cascade.models import Timm
from lit_cascade.options import RayOptions
from tests.lit.cascades import cascade, points, trainer
from tests.toys import Named

N = 61


def in_process(sizes=()):
    """An engine that runs the passes one after the other, here."""

    def engine(trainer, model, data, write):
        job = on_ray.job_of(trainer, model, data)
        starts = range(0, len(data.batches), data.window)
        windows = [data.batches[start : start + data.window] for start in starts]
        tables = [on_ray.rows_of(k, one, job.schema) for k, one in enumerate(windows)]
        blocks = tables
        for number in range(len(job.names)):
            run = on_ray.StagePass(job, number, "cpu")
            blocks = [run(block) for block in blocks]
            if number < len(sizes):  # as Ray bundles them
                rows = pa.concat_tables(blocks)
                blocks = [rows.slice(i, sizes[number]) for i in range(0, len(rows), sizes[number])]
        on_ray.write_windows(reversed(blocks), tables, job.names, write)

    return engine


def both(tmp_path, net, data, sizes=(40, 25), **options):
    """Rows of the Trainer's predictions, and of the passes'."""
    files = []
    for name, engine in (("lightning", None), ("ray", in_process(sizes))):
        trainer().answer(net, data, tmp_path / name, gather=3, engine=engine, **options)
        files.append(pq.read_table(tmp_path / name / "predictions.parquet"))
    one, other = files
    assert one.schema.equals(other.schema)
    return one, other


def check_equal(one, other):
    """Equal but for the last digits: later batches are others."""
    for name in one.column_names:
        left, right = one[name].to_pylist(), other[name].to_pylist()
        if name == "score" or name.startswith("probability"):
            assert [value is None for value in left] == [value is None for value in right]
            left, right = (torch.tensor([v or 0.0 for v in values]) for values in (left, right))
            torch.testing.assert_close(left, right, atol=1e-6, rtol=0)
        else:
            assert left == right, name


@pytest.mark.parametrize("stages", [2, 3])
@pytest.mark.parametrize(
    ("score", "combine"),
    [("agreement", "later"), ("agreement", "average"), *(("max_softmax", c) for c in COMBINATIONS)],
)
def test_rows_are_those_of_the_trainer(tmp_path, combine, stages, score):
    at = {"max_softmax": 0.5, "agreement": 1.2}[score]
    options = PolicyOptions(score=score, thresholds=[at] * (stages - 1), combine=combine)
    net = cascade(stages, options)
    one, other = both(tmp_path, net, points(N, Named), top=2)
    check_equal(one, other)
    assert len(set(one["stage"].to_pylist())) > 1 or score == "agreement"


def test_samples_that_cannot_be_read(tmp_path):
    """They have an error and no answer, and are never deferred; views differ by stage."""
    (tmp_path / "photos").mkdir()
    for i in range(9):
        image = Image.new("RGB", (40 + i, 50), (25 * i, 90, 200 - 20 * i))
        image.save(tmp_path / "photos" / f"{i}.png")
    (tmp_path / "photos" / "3a.png").write_bytes(b"no image")
    small, large = (
        Stage(lambda size=size: Timm("test_resnet.r160_in1k", pretrained=False, img_size=size))
        for size in (96, 128)
    )
    net = LitCascade({"small": small, "large": large}, float("inf"))
    data = ImageData("nowhere", classes="imagenet-1k", batch_size=4, num_workers=0)
    one, other = both(tmp_path, net, data.unlabelled([str(tmp_path / "photos")]), split="predict")
    check_equal(one, other)
    assert one["error"].to_pylist().count("not an image") == 1


def test_what_is_measured(tmp_path):
    """A later stage is measured on a batch, filled up where few samples are deferred to it."""
    net, data = cascade(3, PolicyOptions(thresholds=[0.5, 0.5])), points(N, Named)
    seen = []

    def engine(trainer, model, data, write):
        job = on_ray.job_of(trainer, model, data)

        def timed(number, table):
            done = on_ray.StagePass(job, number, "cpu")(table)
            seen.append((table.num_rows, done["deferred"].to_numpy()))
            return done, 10.0**number

        window = on_ray.rows_of(0, data.batches[: data.window], job.schema)
        seen.append(on_ray.measure(job, window, timed))
        in_process()(trainer, model, data, write)

    trainer().answer(net, data, tmp_path, gather=3, engine=engine)
    *stages, (seconds, reach) = seen
    assert [rows for rows, _ in stages] == [12, 4, 4]
    assert seconds == [1.0, 10.0, 100.0]
    first = stages[0][1]
    reached = min(4, first.sum())
    assert 0 < first.mean() < 1
    assert reach == pytest.approx((1.0, first.mean(), first.mean() * stages[1][1][:reached].mean()))


def test_a_missing_extra_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(on_ray, "find_spec", lambda name: None)
    net = cascade(2, PolicyOptions(thresholds=[0.5]))
    with pytest.raises(CascadeError, match=r"needs ray, .*: pip install 'lit-cascade\[ray\]'\.$"):
        trainer().answer(net, points(N), tmp_path, engine=on_ray.RayPools(RayOptions()))
