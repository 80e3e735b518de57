import itertools

import pytest
import torch

from lit_cascade.analysis.protocol import DecisionRule, SearchProtocol, protocol_of
from lit_cascade.core.calibration import fit_temperature
from lit_cascade.core.norms import fit_norm
from lit_cascade.core.scores import max_logit_pnorm, score_and_answer
from lit_cascade.errors import CascadeError, UsageError
from lit_cascade.records.folder import RecordedZoo
from lit_cascade.records.record import Record

N = 24


def write(folder, split, *, models="abc", first=0, n=N, seed=0, source="here", **changes):
    """Records of models on a split, ids from `first` on."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(3, (n,), generator=generator)
    folder.mkdir(exist_ok=True, parents=True)
    for k, name in enumerate(models):
        logits = (k + 1) * torch.eye(3)[labels] + torch.randn(n, 3, generator=generator)
        parts = {"flops": 10.0**k, "ids": list(range(first, first + n))} | changes
        Record.from_arrays(
            name, logits, labels, data={"name": "toy", "split": split, "source": source}, **parts
        ).save(folder / f"{name}-{split}.safetensors")


SAME = "the same samples"


def splits_of(protocol):
    reported = protocol.reported_on
    return protocol.chosen_on.data["split"], reported.data["split"] if reported else SAME


# which split is which


@pytest.mark.parametrize(
    ("there", "split", "choose_on", "chosen", "reported"),
    [
        (["test"], None, None, "test", SAME),
        (["test"], "test", None, "test", SAME),
        (["test"], None, "test", "test", SAME),
        (["calibration"], None, None, "calibration", SAME),
        (["calibration", "test"], None, None, "calibration", "test"),
        (["calibration", "test"], "test", None, "calibration", "test"),
        (["calibration", "test"], "test", "test", "test", SAME),
        (["calibration", "test"], "calibration", None, "calibration", SAME),
        (["calibration", "test"], None, "test", "test", "calibration"),
        (["test", "calibration"], None, "test", "test", "calibration"),
        (["calibration", "another"], None, "another", "another", "calibration"),
        (["calibration", "test"], None, "calibration", "calibration", "test"),
        (["calibration", "test", "validation"], "test", None, "calibration", "test"),
        (["calibration", "test", "validation"], None, "validation", "validation", "test"),
        (["calibration", "test", "validation"], "test", "validation", "validation", "test"),
        (["test", "validation"], "test", None, "test", SAME),
        (["test", "validation"], None, "validation", "validation", "test"),
        ([None], None, None, None, SAME),
        ([None, "calibration"], None, None, "calibration", None),
    ],
)
def test_which_split_is_chosen_on_and_which_reported_on(
    tmp_path, there, split, choose_on, chosen, reported
):
    for number, name in enumerate(there):
        write(tmp_path / str(number), name, first=100 * number)
    found = protocol_of([str(tmp_path)], split=split, choose_on=choose_on)
    assert splits_of(found) == (chosen, reported)


def test_a_choice_must_be_there_and_unmistakable(tmp_path):
    for number, name in enumerate(("calibration", "test", "validation")):
        write(tmp_path, name, first=100 * number)
    for argument in ("split", "choose_on"):
        with pytest.raises(
            UsageError, match=f"^{argument}: 'tset' is unknown.*Did you mean 'test'"
        ):
            protocol_of([str(tmp_path)], **{argument: "tset"})
    with pytest.raises(UsageError, match="split: the records are of the splits calibration, t"):
        protocol_of([str(tmp_path)])
    with pytest.raises(UsageError, match="choose one to report on"):
        protocol_of([str(tmp_path)], choose_on="calibration")


# two splits


def test_samples_in_both_splits_are_refused_unless_allowed(tmp_path):
    write(tmp_path, "calibration", first=0)
    write(tmp_path, "test", first=N - 2)
    with pytest.raises(CascadeError) as error:
        protocol_of([str(tmp_path)])
    assert str(error.value) == (
        f"2 samples are in both splits, 'calibration' and 'test' (first id {N - 2}), but reported "
        "samples must differ from those of the choice. Use other splits, or add --allow_overlap."
    )
    found = protocol_of([str(tmp_path)], allow_overlap=True)
    assert splits_of(found) == ("calibration", "test")


def test_names_of_samples_in_both_splits_are_refused_too(tmp_path):
    write(tmp_path, "calibration", ids=[f"x{i}" for i in range(N)])
    write(tmp_path, "test", ids=[f"y{i}" for i in range(N - 1)] + ["x7"])
    with pytest.raises(CascadeError, match=r"1 sample is in both splits.*first id 'x7'"):
        protocol_of([str(tmp_path)])


@pytest.mark.parametrize("sources", [("one", "other"), (None, None), ("one", None)])
def test_ids_of_other_sources_are_other_samples(tmp_path, sources):
    write(tmp_path, "calibration", source=sources[0])
    write(tmp_path, "test", source=sources[1])
    assert splits_of(protocol_of([str(tmp_path)])) == ("calibration", "test")


def test_models_missing_in_one_split_are_named(tmp_path):
    write(tmp_path, "calibration", models="abcd")
    write(tmp_path, "test", models="abc", first=100)
    with pytest.raises(CascadeError, match="d was not recorded on both splits"):
        protocol_of([str(tmp_path)])


@pytest.mark.parametrize("classes", [["0", "2", "1"], ["a", "b", "c"]])
def test_splits_of_different_classes_are_refused(tmp_path, classes):
    write(tmp_path, "calibration")
    write(tmp_path, "test", first=100, classes=classes)
    with pytest.raises(CascadeError, match="'calibration' and 'test' have different classes"):
        protocol_of([str(tmp_path)])


def test_the_order_of_the_choice_holds_on_both(tmp_path):
    """What costs more on the samples of the report still comes first if it cost less before."""
    write(tmp_path, "calibration")
    for k, name in enumerate("abc"):
        write(tmp_path, "test", models=name, first=100, flops=10.0 - k)
    found = protocol_of([str(tmp_path)])
    chosen, reported = found.zoos(DecisionRule())
    assert chosen.names == reported.names == ("a", "b", "c")
    assert reported.mean_cost.tolist() == [10, 9, 8]
    assert list(found.trials(DecisionRule(), (chosen, reported))) == [(chosen, reported)]
    assert found.holds_out


def test_temperatures_of_the_choice_are_used_on_both(tmp_path):
    write(tmp_path, "calibration", seed=1)
    write(tmp_path, "test", first=100, seed=2)
    found = protocol_of([str(tmp_path)])
    assert found.fits(DecisionRule()) == {"temperatures": (), "norms": ()}
    zoos = found.zoos(DecisionRule(calibrate=True))
    for k, name in enumerate("abc"):
        one = Record.load(tmp_path / f"{name}-calibration.safetensors")
        temperature = fit_temperature(one.logits, one.labels).temperature
        for zoo, split in zip(zoos, ("calibration", "test"), strict=True):
            logits = Record.load(tmp_path / f"{name}-{split}.safetensors").logits
            assert zoo.scores[k].equal(score_and_answer(logits, "max_softmax", temperature)[0])


def test_norms_of_the_choice_are_used_on_both_and_of_a_part_on_its_others(tmp_path):
    write(tmp_path, "calibration", seed=1)
    write(tmp_path, "test", first=100, seed=2)
    rule, ends = DecisionRule("max_logit_pnorm"), []
    found = protocol_of([str(tmp_path)])
    zoos = found.zoos(rule, lambda *numbers: ends.append(numbers))
    assert ends == [(k, 9) for k in range(1, 10)]
    records = {
        (name, split): Record.load(tmp_path / f"{name}-{split}.safetensors")
        for name in "abc"
        for split in ("calibration", "test")
    }
    for k, name in enumerate("abc"):
        one = records[name, "calibration"]
        norm = fit_norm(one.logits, one.labels).norm
        assert found.fits(rule)["norms"][k] == norm
        for zoo, split in zip(zoos, ("calibration", "test"), strict=True):
            expected, _ = score_and_answer(records[name, split].logits, max_logit_pnorm(norm))
            assert zoo.scores[k].equal(expected)
    alone = protocol_of([str(tmp_path)], split="test", choose_on="test", repeats=8)
    generator = torch.Generator().manual_seed(0)
    for parts in alone.trials(rule):
        order = torch.randperm(N, generator=generator)
        rows = order[N // 2 :].sort().values, order[: N // 2].sort().values
        for k, name in enumerate("abc"):
            logits, labels = records[name, "test"].logits, records[name, "test"].labels
            norm = fit_norm(logits[rows[0]], labels[rows[0]]).norm
            expected, _ = score_and_answer(logits, max_logit_pnorm(norm))
            for part, some in zip(parts, rows, strict=True):
                assert part.scores[k].equal(expected[some])


# one split


def single(folder, **options):
    return protocol_of([str(folder)], **options)


@pytest.mark.parametrize(
    ("holdout", "reported"), [(0.5, 12), (0.25, 6), (0.001, 1), (0.999, 23), (0.4, 10)]
)
def test_a_share_of_the_samples_is_held_out(tmp_path, holdout, reported):
    write(tmp_path, "test", flops=[float(i) for i in range(N)])  # the cost says which sample it is
    found = single(tmp_path, holdout=holdout, repeats=3, seed=4)
    assert found.holds_out
    drawn = []
    for chosen_on, reported_on in found.trials(DecisionRule()):
        one, other = chosen_on.costs[0].tolist(), reported_on.costs[0].tolist()
        assert (len(one), len(other)) == (N - reported, reported)
        assert sorted(one + other) == list(range(N))
        assert one == sorted(one)
        assert other == sorted(other)
        drawn.append(tuple(other))
    assert len(drawn) == 3
    if reported > 1:
        assert len(set(drawn)) == 3
    again = [r.costs[0].tolist() for _, r in found.trials(DecisionRule())]
    assert again == [list(rows) for rows in drawn]
    others = single(tmp_path, holdout=holdout, repeats=3, seed=5).trials(DecisionRule())
    assert [tuple(r.costs[0].tolist()) for _, r in others] != drawn


def test_nothing_is_held_out_if_so_asked(tmp_path):
    write(tmp_path, "test")
    found = single(tmp_path, holdout=0)
    zoos = found.zoos(DecisionRule())
    assert zoos[0] is zoos[1]
    assert list(found.trials(DecisionRule(), zoos)) == [zoos]
    assert not found.holds_out
    assert found.reported_on is None


@pytest.mark.parametrize("combine", ["later", "average"])
def test_in_each_trial_temperatures_are_fitted_on_the_samples_of_the_choice(tmp_path, combine):
    costs = [float(i) for i in range(N)]
    write(tmp_path, "test", flops=costs)
    rule = DecisionRule(calibrate=True, combine=combine)
    records = [Record.load(tmp_path / f"{name}-test.safetensors") for name in "abc"]
    for chosen_on, reported_on in single(tmp_path, repeats=2).trials(rule):
        rows, others = chosen_on.costs[0].long(), reported_on.costs[0].long()
        for k, record in enumerate(records):
            fit = fit_temperature(record.logits[rows], record.labels[rows]).temperature
            for zoo, some in ((chosen_on, rows), (reported_on, others)):
                scores, answers = score_and_answer(record.logits[some], "max_softmax", fit)
                assert zoo.scores[k].equal(scores)
                assert zoo.correct[k].equal(answers == record.labels[some])
                if combine == "average":
                    best = zoo.probabilities(k).max(dim=1).values
                    assert best.tolist() == pytest.approx(scores.tolist())


def test_what_is_held_out_does_not_touch_the_choice(tmp_path):
    """The samples of the report are replaced by others: the choice sees the very same zoo."""
    write(tmp_path / "one", "test")
    rule = DecisionRule(calibrate=True)
    generator = torch.Generator().manual_seed(0)
    held_out = torch.randperm(N, generator=generator)[: N // 2]
    (tmp_path / "two").mkdir()
    for name in "abc":
        record = Record.load(tmp_path / f"one/{name}-test.safetensors")
        logits, labels = record.logits.clone(), record.labels.clone()
        logits[held_out], labels[held_out] = torch.randn(N // 2, 3) * 30, 2 - labels[held_out]
        Record.from_arrays(name, logits, labels, flops=record.cost(), data=record.data).save(
            tmp_path / f"two/{name}-test.safetensors"
        )
    one, two = (next(single(tmp_path / side).trials(rule)) for side in ("one", "two"))
    assert one[0].scores.equal(two[0].scores)
    assert one[0].correct.equal(two[0].correct)
    assert not one[1].correct.equal(two[1].correct)


def test_a_protocol_of_one_split_may_be_made_by_hand(tmp_path):
    write(tmp_path, "test")
    zoo = RecordedZoo(sorted(tmp_path.glob("*.safetensors")))
    found = SearchProtocol(zoo, None, holdout=0.5, repeats=2, seed=0)
    same = single(tmp_path, repeats=2).trials(DecisionRule())
    for (a, b), (c, d) in zip(found.trials(DecisionRule()), same, strict=True):
        assert a.scores.equal(c.scores)
        assert b.scores.equal(d.scores)
    for first, second in itertools.pairwise(b.scores for _, b in found.trials(DecisionRule())):
        assert not first.equal(second)
