"""What a policy was fitted on, told by the names that samples have."""

from dataclasses import replace

import pytest
import torch

from lit_cascade import Policy, calibrate, check, compare_scores, curve, replay, search, select
from lit_cascade.analysis import check_overlap, fitted_on
from lit_cascade.analysis.evidence import ids_from_text
from lit_cascade.errors import CascadeError
from lit_cascade.records import Record


@pytest.mark.parametrize(
    ("ids", "first"),
    [([f"val/{k}.jpg" for k in range(9)], "'val/3.jpg'"), (list(range(40, 49)), "id 43")],
)
def test_an_overlap_names_the_file_of_its_first_sample(ids, first):
    data = {"source": "here", "split": "test"}
    record = Record.from_arrays("a", torch.rand(9, 2), flops=1, ids=ids, data=data)
    evidence = {"thresholds": fitted_on([record], torch.arange(3, 9))}
    message = f"6 of these 9 samples are among those that the thresholds .*; first {first}\\)"
    with pytest.raises(CascadeError, match=message):
        check_overlap(evidence, record.samples, data, allowed=False)


STAGES = ("small", "large")


def pair(rows, source=None, seed=0, names=STAGES):
    """Records of some of 2,000 samples, with ids that only count them, as of imported arrays."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (2000,), generator=generator)
    hints = torch.nn.functional.one_hot(labels, 3)
    logits = [(2.0 + k) * hints + torch.randn(2000, 3, generator=generator) for k in range(2)]
    data = {} if source is None else {"source": source}
    return [
        Record.from_arrays(name, some[rows], labels[rows], flops=10.0**k, data=data)
        for k, (name, some) in enumerate(zip(names, logits, strict=True))
    ]


FITTED, EVERYTHING, OTHERS = range(1000, 2000), range(2000), range(1000)


def without_content(policy):
    parts = {
        part: {key: one for key, one in fitted.items() if key != "content"}
        for part, fitted in policy.evidence.items()
    }
    return replace(policy, evidence=parts)


@pytest.mark.parametrize("sources", [(None, None), ("a", None), (None, "b"), ("a", "b")])
def test_fitted_samples_are_left_out_whatever_their_source_is_called(sources):
    fitted = calibrate(pair(FITTED, sources[0]), share=0.9, learn_score=True).policy
    chosen = select(pair(EVERYTHING, sources[1]), max_accuracy_drop=0.05, policy=fitted)
    assert (chosen.left_out, chosen.n) == (900, 1100)
    assert chosen.caveats == ()
    (note,) = chosen.notes
    assert note == (
        "Note: 900 of the 2,000 samples are left out: the temperatures and the heads were fitted "
        "on them."
    )
    assert "caveats" not in chosen.policy.evidence["promise"]
    rows = [1000 + row for row in ids_from_text(fitted.evidence["heads"]["ids"])]
    with pytest.raises(CascadeError, match="fitted on all of these 900 samples"):
        select(pair(rows, sources[1]), max_accuracy_drop=0.05, policy=fitted)
    apart = select(pair(OTHERS, sources[1]), max_accuracy_drop=0.05, policy=fitted)
    assert (apart.left_out, apart.n, apart.notes, apart.caveats) == (0, 1000, (), ())


def test_reports_refuse_fitted_samples_of_unknown_source():
    policy = select(pair(FITTED), max_accuracy_drop=0.05).policy
    message = "1,000 of these 2,000 samples are among those .*first id 1000, told by their logits"
    for verb in (curve, replay):
        with pytest.raises(CascadeError, match=message):
            verb(pair(EVERYTHING), policy)
        assert verb(pair(OTHERS), policy) is not None
    with pytest.raises(CascadeError, match=message):
        check(policy, pair(EVERYTHING))
    assert check(policy, pair(OTHERS)).notes == ()
    with pytest.raises(CascadeError, match="1,000 of these 2,000 samples are among"):
        compare_scores(pair(EVERYTHING), fit_on=pair(FITTED))
    (note,) = compare_scores(pair(OTHERS), fit_on=pair(FITTED)).notes
    assert note.startswith("max_logit_pnorm: ")


def test_what_cannot_be_compared_is_part_of_the_promise(tmp_path):
    old = without_content(calibrate(pair(FITTED), learn_score=True).policy)
    chosen = select(pair(EVERYTHING), max_accuracy_drop=0.05, policy=old)
    assert (chosen.left_out, chosen.n) == (0, 2000)
    (caveat,) = chosen.caveats
    assert caveat.startswith(
        "The guarantee holds only if none of these samples is among the 1,000 samples that the "
        "temperatures and the heads were fitted on. This cannot be checked: a source is unknown"
    )
    assert caveat.rstrip(".") in repr(chosen)
    chosen.policy.save(tmp_path / "policy.yaml")
    promise = Policy.load(tmp_path / "policy.yaml").evidence["promise"]
    assert promise["caveats"] == list(chosen.caveats)
    # sources that are known and differ are other data
    named = without_content(calibrate(pair(FITTED, "a"), learn_score=True).policy)
    assert select(pair(OTHERS, "b"), max_accuracy_drop=0.05, policy=named).caveats == ()
    # no guarantee, nothing to doubt
    plain = select(pair(EVERYTHING), max_accuracy_drop=0.05, policy=old, confidence=None)
    assert plain.caveats == ()
    # logits that are the same for all samples identify none
    dull = [replace(one, logits=torch.zeros(2000, 3)) for one in pair(EVERYTHING)]
    policy = Policy(
        stages=2, temperatures=(2.0, 1.0), names=STAGES,
        evidence={"temperatures": fitted_on([one.rows(FITTED) for one in dull])},
    )  # fmt: skip
    (caveat, *_) = select(dull, deferral_rate=1.0, policy=policy).caveats or [""]
    assert caveat.endswith("do not tell samples apart.")


@pytest.mark.parametrize(
    ("numbers", "parts"),
    [
        ({"temperatures": (1.5, 1.0)}, ["temperatures"]),
        ({"floors": (0.2,)}, ["floors"]),
        ({}, []),
    ],
)
def test_numbers_typed_by_hand_are_part_of_the_promise(numbers, parts):
    typed = Policy(stages=2, **numbers)
    chosen = select(pair(EVERYTHING), max_accuracy_drop=0.05, policy=typed)
    assert list(chosen.caveats) == [caveat_of(part) for part in parts]


def caveat_of(part):
    return (
        f"The guarantee holds only if the {part} were set without these samples: the policy does "
        "not say how."
    )


def test_numbers_typed_over_fitted_ones_are_told_apart():
    fitted = calibrate(pair(FITTED), share=0.5, learn_score=True).policy
    assert select(pair(OTHERS), max_accuracy_drop=0.05, policy=fitted).caveats == ()
    typed = replace(fitted, temperatures=(1.7, 1.0))
    chosen = select(pair(OTHERS), max_accuracy_drop=0.05, policy=typed)
    assert chosen.caveats == (caveat_of("temperatures"),)
    bare = replace(fitted, temperatures=(), evidence={})
    chosen = select(pair(OTHERS), max_accuracy_drop=0.05, policy=bare)
    assert chosen.caveats == (caveat_of("heads"),)


def test_a_promise_that_is_forced_says_that_it_does_not_hold():
    fitted = calibrate(pair(FITTED), learn_score=True).policy
    chosen = select(pair(FITTED), max_accuracy_drop=0.05, policy=fitted, allow_overlap=True)
    (caveat,) = chosen.caveats
    assert caveat == (
        "The guarantee does not hold: 1,000 of these 1,000 samples are among those that the "
        "temperatures and the heads were fitted on."
    )


def test_samples_that_a_search_chose_the_stages_on_are_left_out():
    found = searched(pair(FITTED))
    with pytest.raises(CascadeError, match="stages were chosen on all of these 1,000 samples"):
        select(pair(FITTED), max_accuracy_drop=0.05, policy=found)
    chosen = select(pair(EVERYTHING), max_accuracy_drop=0.05, policy=found)
    assert (chosen.left_out, chosen.n) == (1000, 1000)
    assert chosen.notes[0].endswith("are left out: the stages were chosen on them.")
    # neither another selection nor a calibration forgets it
    for later in (
        chosen.policy,
        calibrate(pair(OTHERS), policy=found, share=0.5).policy,
    ):
        with pytest.raises(CascadeError, match="stages were chosen on all of these 1,000 samples"):
            select(pair(FITTED), max_accuracy_drop=0.05, policy=later)


def searched(records):
    result = search(records)
    row = next(k for k, one in enumerate(result.cascades.points) if len(one.stages) > 1)
    return result.policy(row)


def test_a_second_selection_on_the_same_samples_says_so():
    first = select(pair(EVERYTHING), max_accuracy_drop=0.05)
    again = select(pair(EVERYTHING), max_accuracy_drop=0.04, policy=first.policy)
    (caveat,) = again.caveats
    assert caveat == (
        "An earlier selection used 2,000 of these samples: each guarantee holds by itself, the "
        "best of several may not."
    )
    assert (again.n, again.left_out) == (2000, 0)
    before = select(pair(OTHERS), max_accuracy_drop=0.05).policy
    assert select(pair(FITTED), max_accuracy_drop=0.05, policy=before).caveats == ()
