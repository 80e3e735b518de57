import json
import pickle
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lit_cascade.core.calibration import fit_temperature
from lit_cascade.core.norms import fit_norm
from lit_cascade.core.scores import SCORES
from lit_cascade.errors import CascadeError, UsageError
from lit_cascade.records.folder import RecordedZoo, find_records
from lit_cascade.records.record import Record
from lit_cascade.utilities.files import bundled
from tests.oracles import softmax

LABELS = [0, 1, 2, 0, 1, 2, 0, 1]
N = len(LABELS)


def logits_of(name):
    generator = torch.Generator().manual_seed(sum(map(ord, name)))
    return torch.eye(3)[LABELS] + torch.randn(N, 3, generator=generator)


def saved(folder, name, *, file=None, split=None, **changes):
    """Write a record of a model; names make the logits."""
    parts = {"flops": 8.0, "data": {"name": "toy", "split": split}} | changes
    if "score" not in parts:
        parts = {"logits": logits_of(name), "labels": LABELS} | parts
    path = Path(folder) / f"{file or name}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    Record.from_arrays(name, **parts).save(path)
    return path


def test_folders_are_searched_recursively(tmp_path):
    paths = [saved(tmp_path / below, "a", split="x") for below in ("", "one", "one/two")]
    assert find_records([str(tmp_path)]) == {"x": sorted(paths)}
    assert find_records([str(tmp_path / "one")]) == {"x": sorted(paths[1:])}
    assert find_records([str(paths[1])]) == {"x": [paths[1]]}


def test_a_file_given_twice_is_listed_once(tmp_path):
    one, two = saved(tmp_path, "a"), saved(tmp_path, "b")
    found = find_records([str(two), str(tmp_path), str(one)])
    assert found == {"unnamed": [two, one]}


def test_records_are_sorted_by_split(tmp_path):
    for split in ("test", "calibration", None):
        for name in "ab":
            saved(tmp_path, name, file=f"{name}-{split}", split=split)
    found = find_records([str(tmp_path)])
    assert {split: [path.stem[0] for path in paths] for split, paths in found.items()} == {
        "calibration": ["a", "b"],
        "test": ["a", "b"],
        "unnamed": ["a", "b"],
    }


@pytest.mark.parametrize("data", [{}, {"split": None}, {"split": ""}])
def test_a_record_without_a_split_is_of_an_unnamed_one(tmp_path, data):
    saved(tmp_path, "a", data=data)
    assert list(find_records([str(tmp_path)])) == ["unnamed"]


def test_hidden_files_and_other_files_are_passed_over(tmp_path):
    path = saved(tmp_path, "a")
    saved(tmp_path, "b", file=".b")  # as a killed recording leaves it
    (tmp_path / ".c.safetensors.k3jd8_2x").write_text("half of a rec")
    (tmp_path / ".d.safetensors").write_text("")
    (tmp_path / "README.md").write_text("about")
    assert find_records([str(tmp_path)]) == {"unnamed": [path]}


def test_checkpoints_are_passed_over(tmp_path):
    path = saved(tmp_path, "a")
    checkpoint = bundled("checkpoints") / "digits/small.safetensors"
    (tmp_path / "small.safetensors").write_bytes(checkpoint.read_bytes())
    assert find_records([str(tmp_path)]) == {"unnamed": [path]}
    with pytest.raises(UsageError, match=r"no records in 'checkpoints/digits'; .*record.*import"):
        find_records(["checkpoints/digits"])


def test_bundled_folders_are_found_from_anywhere(tmp_path, monkeypatch):
    home = tmp_path / "package"
    path = saved(home / "checkpoints/zoo", "a")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    monkeypatch.setattr("lit_cascade.records.folder.bundled", lambda kind: home / kind)
    assert find_records(["checkpoints/zoo"]) == {"unnamed": [path]}
    mine = saved(Path("checkpoints/zoo"), "b")  # what is here comes first
    assert find_records(["checkpoints/zoo"]) == {"unnamed": [mine]}
    with pytest.raises(UsageError, match="no file or folder '/checkpoints/zoo'"):
        find_records(["/checkpoints/zoo"])


def test_the_home_folder_may_be_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_records(["~/z"] if saved(tmp_path / "z", "a") else []) == {
        "unnamed": [tmp_path / "z/a.safetensors"]
    }


class Bomb:
    def __reduce__(self):
        return (Path.touch, (Path("exploded"),))


def header_of(size):
    return struct.pack("<Q", size)


BROKEN = {
    "empty": b"",
    "pickle": pickle.dumps(Bomb()),
    "petabyte header": header_of(10**15) + b"{}",
    "no JSON": header_of(8) + b"{{{{{{{{",
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_a_file_that_cannot_be_read_is_refused(tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    saved(tmp_path, "a")
    (tmp_path / "b.safetensors").write_bytes(content)
    with pytest.raises(CascadeError, match=r"'.*b\.safetensors' cannot be read as a record") as e:
        find_records([str(tmp_path)])
    assert e.value.exit_code == 1
    assert not Path("exploded").exists()


def test_a_truncated_record_is_refused(tmp_path):
    content = saved(tmp_path, "a").read_bytes()
    (tmp_path / "b.safetensors").write_bytes(content[:-1])
    with pytest.raises(CascadeError, match=r"b\.safetensors' cannot be read as a record"):
        find_records([str(tmp_path)])


def test_a_file_of_another_format_is_refused(tmp_path):
    saved(tmp_path, "a")
    save_file({"weight": torch.ones(2)}, tmp_path / "model.safetensors")
    with pytest.raises(
        CascadeError, match=r"model\.safetensors' is not a record.*format None.*Give"
    ):
        find_records([str(tmp_path)])
    save_file({"weight": torch.ones(2)}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CascadeError, match="format 'pt'"):
        find_records([str(tmp_path)])


@pytest.mark.parametrize("data", ["[1", "[]", "7", "null", "[" * 10_000])
def test_a_damaged_description_is_reported_when_the_record_is_read(tmp_path, data):
    path = saved(tmp_path, "a")
    content = path.read_bytes()
    size = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + size])
    header["__metadata__"]["data"] = data
    text = json.dumps(header).encode()
    path.write_bytes(header_of(len(text)) + text + content[8 + size :])
    assert find_records([str(tmp_path)]) == {"unnamed": [path]}
    with pytest.raises(CascadeError, match=r"a\.safetensors|record 'a': data must be"):
        RecordedZoo([path, path])


@pytest.mark.parametrize("place", ["nowhere", "a.safetensors/below"])
def test_a_missing_place_is_refused(tmp_path, monkeypatch, place):
    monkeypatch.chdir(tmp_path)
    saved(tmp_path, "a")
    with pytest.raises(UsageError, match=f"--records: there is no file or folder '{place}'"):
        find_records([str(tmp_path), place])


def test_folders_without_records(tmp_path):
    for name in ("x", "y"):
        (tmp_path / name).mkdir()
    with pytest.raises(UsageError, match=r"no records in '.*x', '.*y'"):
        find_records([str(tmp_path / "x"), str(tmp_path / "y")])


def zoo_of(tmp_path, *names, unit="flops", **changes):
    return RecordedZoo([saved(tmp_path, name, **changes) for name in names], unit)


def test_models_are_in_order_of_mean_cost_and_then_of_name(tmp_path):
    costs = {"d": 1.0, "b": 5.0, "a": 5.0, "e": [0.0] * (N - 1) + [32.0], "c": 9.0}
    found = RecordedZoo([saved(tmp_path, name, flops=cost) for name, cost in costs.items()])
    assert found.names == ("d", "e", "a", "b", "c")
    assert [model.costs["flops"] for model in found.models] == [1, 4, 5, 5, 9]
    assert (len(found), found.n) == (5, N)
    assert found.zoo().names == found.names
    found.reorder(["c", "a", "b", "e", "d"])
    assert found.zoo().mean_cost.tolist() == [9, 5, 5, 4, 1]
    with pytest.raises(CascadeError, match="records: c, f was not recorded on both splits"):
        found.reorder(["f", "a", "b", "e", "d"])


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("temperatures", [None, (2.0, 0.5, 1.0)])
def test_a_zoo_holds_scores_and_correctness_of_the_logits(tmp_path, score, temperatures):
    paths = [saved(tmp_path, name, flops=k + 1.0) for k, name in enumerate("abc")]
    zoo = RecordedZoo(paths).zoo(score, temperatures=temperatures)
    assert zoo.costs.tolist() == [[1], [2], [3]]
    assert zoo.probabilities is None
    for k, name in enumerate("abc"):
        for i, row in enumerate(logits_of(name).tolist()):
            p = sorted(softmax(row, (temperatures or (1, 1, 1))[k]))[::-1]
            expected = {
                "max_softmax": p[0],
                "margin": p[0] - p[1],
                "negative_entropy": sum(q * torch.tensor(q).log().item() for q in p),
            }[score]
            assert zoo.scores[k, i].item() == pytest.approx(expected, abs=1e-6)
            assert bool(zoo.correct[k, i]) == (row.index(max(row)) == LABELS[i])


def test_costs_that_vary_stay_per_sample(tmp_path):
    other = [float(i) for i in range(N)]
    paths = [saved(tmp_path, "a", flops=2.0), saved(tmp_path, "b", flops=other)]
    assert RecordedZoo(paths).zoo().costs.tolist() == [[2.0] * N, other]


def test_an_average_reads_probabilities_at_their_temperatures(tmp_path):
    found = zoo_of(tmp_path, "a", "b")
    zoo = found.zoo(combine="average", temperatures=(2.0, 0.5))
    assert zoo.labels.tolist() == LABELS
    for k, (name, temperature) in enumerate((("a", 2.0), ("b", 0.5))):
        for mine, row in zip(zoo.probabilities(k).tolist(), logits_of(name).tolist(), strict=True):
            assert mine == pytest.approx(softmax(row, temperature), abs=1e-6)


def test_probabilities_are_kept_at_hand_as_far_as_memory_goes(tmp_path, monkeypatch):
    read = []
    load = Record.load
    monkeypatch.setattr(Record, "load", lambda path: read.append(path) or load(path))
    monkeypatch.setattr("lit_cascade.records.folder._MEMORY", 3 * 4 * N * 3)
    zoo = zoo_of(tmp_path, *"abcd").zoo(combine="average")
    read.clear()
    for model in (0, 1, 2, 0, 1, 2):
        zoo.probabilities(model)
    assert len(read) == 3
    zoo.probabilities(3)
    zoo.probabilities(0)
    assert len(read) == 5


def test_temperatures_are_fitted_to_the_rows_given(tmp_path):
    found = zoo_of(tmp_path, "a", "b")
    rows = torch.tensor([0, 2, 3, 5, 7])
    labels = torch.tensor(LABELS)
    for some in (None, rows):
        chosen = slice(None) if some is None else some
        expected = tuple(
            fit_temperature(logits_of(name)[chosen], labels[chosen]).temperature for name in "ab"
        )
        assert found.temperatures(some) == expected
        assert found.norms(some) == tuple(
            fit_norm(logits_of(name)[chosen], labels[chosen]).norm for name in "ab"
        )
    assert found.temperatures() != found.temperatures(rows)


def api(folder, name, **changes):
    scores = logits_of(name)[:, 0]
    correct = [int(label == 0) for label in LABELS]
    return saved(folder, name, **({"score": scores, "correct": correct} | changes))


def test_records_of_scores_are_searched_as_they_are(tmp_path):
    found = RecordedZoo([api(tmp_path, "a"), api(tmp_path, "b", flops=9.0)])
    zoo = found.zoo("negative_entropy")
    for k, name in enumerate("ab"):
        assert zoo.scores[k].tolist() == logits_of(name)[:, 0].tolist()
        assert zoo.correct[k].tolist() == [label == 0 for label in LABELS]
    assert found.zoo("margin", "most_confident").scores.equal(zoo.scores)


def test_scores_and_logits_go_together_where_labels_are_known(tmp_path):
    found = RecordedZoo([saved(tmp_path, "a"), api(tmp_path, "b", labels=LABELS)])
    assert found.zoo().scores[1].tolist() == logits_of("b")[:, 0].tolist()


@pytest.mark.parametrize("labels", [None, LABELS])
def test_what_needs_logits_is_refused_for_scores(tmp_path, labels):
    known = {} if labels is None else {"labels": labels}
    found = RecordedZoo([api(tmp_path, "a", **known), api(tmp_path, "b", **known)])
    with pytest.raises(CascadeError, match=r"'a' holds scores and no logits.*a temperature needs"):
        found.temperatures()
    with pytest.raises(CascadeError, match=r"'a' holds scores .*the score max_logit_pnorm needs"):
        found.norms()
    with pytest.raises(CascadeError, match=r"'a' holds scores .*the score max_logit_pnorm needs"):
        found.zoo("max_logit_pnorm", norms=(2.0, "max_softmax"))
    with pytest.raises(CascadeError, match=r"'b' holds scores and no logits.*a temperature needs"):
        found.zoo(temperatures=(1.0, 2.0))
    with pytest.raises(CascadeError, match=r"'a' holds scores and no logits|needs the probab"):
        found.zoo(combine="average").probabilities(0)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"labels": [*LABELS[:-1], 2]}, "differ in labels, first at position 7: 1 against 2"),
        ({"ids": [*range(N - 1), 99]}, "differ in ids, first at position 7: 7 against 99"),
        ({"ids": list("abcdefgh")}, "differ in ids, first at position 0: 0 against 'a'"),
        ({"classes": ["0", "2", "1"]}, "differ in class order, first at position 1: '1' against"),
        ({"logits": torch.ones(N, 4)}, "differ in class order, 3 against 4"),
        ({"logits": torch.ones(4, 3), "labels": LABELS[:4]}, "differ in ids, 8 against 4"),
    ],
)
def test_records_of_other_samples_are_refused_with_both_paths(tmp_path, changes, says):
    paths = [saved(tmp_path, "a"), saved(tmp_path, "b"), saved(tmp_path, "c", **changes)]
    with pytest.raises(CascadeError) as error:
        RecordedZoo(paths)
    assert str(error.value).startswith(f"records {str(paths[0])!r} and {str(paths[2])!r} differ")
    assert says in str(error.value)


def test_a_missing_unit_names_the_file_and_what_there_is(tmp_path):
    paths = [saved(tmp_path, "a", costs={"usd": 1.0}), saved(tmp_path, "b")]
    with pytest.raises(CascadeError) as error:
        RecordedZoo(paths, "usd")
    assert str(error.value) == (
        f"record 'b' has no cost 'usd'; it has flops. ({str(paths[1])!r}; choose another with "
        "--cost, or give that of all with --cost usd=FILE.csv)"
    )
    paths[1] = saved(tmp_path, "b", costs={"usd": 0.5})
    assert RecordedZoo(paths, "usd").names == ("b", "a")


def test_a_zoo_needs_two_different_models(tmp_path):
    one, two = saved(tmp_path, "a"), saved(tmp_path, "a", file="again")
    with pytest.raises(UsageError) as error:
        RecordedZoo([one, two])
    assert "'a' is there twice" in str(error.value)
    assert repr(str(one)) in str(error.value)
    assert repr(str(two)) in str(error.value)
    with pytest.raises(UsageError, match=r"at least 2 models, got only '.*a\.safetensors'"):
        RecordedZoo([one])
    with pytest.raises(UsageError, match="at least 2 models, got none"):
        RecordedZoo([])
