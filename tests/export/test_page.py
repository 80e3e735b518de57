"""The page in a browser: the same decisions as `Cascade`, and what it shows."""

import hashlib
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from lit_cascade import LitCascade, Policy, Stage, UsageError
from lit_cascade.export import RUNTIME_FILES, export_cascade
from lit_cascade.export.policy_file import steps_of
from lit_cascade.live import Cascade
from lit_cascade.models import ImagePreprocessing, TextClassifier, Timm
from tests.browser import chromium, onnxruntime_web, served
from tests.cli.runs import done, within
from tests.images import some_images
from tests.texts import OWN, save_classifier
from tests.toys import Net, Points

ALL = """rows => opened.then(async cascade => {
  const found = [];
  for (const given of rows)
    found.push(await cascade.answer(facts => arraysOf(cascade, facts, given)));
  return found.map(one => [one.prediction, one.stage, one.score]);
})"""


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture
def opened(browser):
    """Opens the page of a folder; its requests and errors are kept."""
    contexts = []

    def opened(folder):
        context = browser.new_context(viewport={"width": 375, "height": 667})
        server = served(folder)
        contexts.append((context, server))
        address, page = server.__enter__(), context.new_page()
        page.seen = SimpleNamespace(requests=[], errors=[])
        page.on("request", lambda one: page.seen.requests.append(one.url))
        page.on("pageerror", lambda one: page.seen.errors.append(str(one)))
        page.goto(address)
        page.address = address
        return page

    yield opened
    for context, server in contexts:
        context.close()
        server.__exit__(None, None, None)


def web(stages, policy, inputs, folder, **more):
    export_cascade(
        stages, policy, inputs, folder, to="web", onnxruntime_web=onnxruntime_web(), **more
    )
    return folder


def answers_in(page, rows):
    return list(zip(*page.evaluate(ALL, rows), strict=True))


def check_same(found, expected):
    assert found[0] == tuple(expected.prediction.tolist())
    assert found[1] == tuple(expected.stage.tolist())
    torch.testing.assert_close(torch.tensor(found[2]), expected.score, rtol=0, atol=5e-6)
    assert bool((expected.stage > 0).any())


@pytest.fixture(scope="module")
def digits_page(digits, tmp_path_factory):
    stages, policy, images, _ = digits
    return web(stages, policy, images, tmp_path_factory.mktemp("page") / "digits")


def test_all_digits_are_decided_as_by_the_cascade(digits, digits_page, opened):
    _, _, images, answers = digits
    page = opened(digits_page)
    rows = [{"input": one.flatten().tolist()} for one in images]
    check_same(answers_in(page, rows), answers)
    assert page.seen.errors == []
    assert {one.removeprefix(page.address) for one in page.seen.requests} == {
        "/", "/cascade.js", "/policy.json", "/stage-0.onnx", "/stage-1.onnx",
        *(f"/{name}" for name in RUNTIME_FILES),
    }  # fmt: skip


def test_the_page_shows_answer_stages_scores_and_cost(digits, digits_page, opened):
    _, _, images, answers = digits
    page = opened(digits_page)
    easy, hard = int((answers.stage == 0).nonzero()[0]), int((answers.stage == 1).nonzero()[0])
    button = page.get_by_role("button", name="Answer")
    page.get_by_label("input: 1 x 8 x 8 numbers").fill(str(images[easy].tolist()))
    button.click()
    page.wait_for_selector("#result:not([hidden])")
    assert page.inner_text("#answer") == str(int(answers.prediction[easy]))
    assert page.inner_text("#by") == "Answered by small"
    assert "threshold 0.92" in page.inner_text("#stages")
    assert (
        page.inner_text("#cost") == "Cost: 18.9 k FLOPs, 96.4 times less than large alone (1.83 M)."
    )
    assert not any("stage-1" in url for url in page.seen.requests), "fetched before it is needed"
    page.fill("textarea", " ".join(map(str, images[hard].flatten().tolist())))
    button.click()
    page.get_by_text("Answered by large").wait_for()
    assert page.locator("#stages li").count() == 2
    said = page.inner_text("#stages")
    assert "deferred" in said
    assert f"score {float(answers.score[hard]):.5g}"[:9] in said
    assert page.inner_text("#cost").startswith("Cost: 1.85 M FLOPs, 1.0 % more than large alone")
    assert "So far: 2 inputs, 1 deferred, 51.0 %" in page.inner_text("#sofar")
    # what does not fit is said, and the last answer is not left standing
    for text, message in (("1 2 3", "input: expected 64 numbers, got 3."), ("a", "a is not a")):
        page.fill("textarea", text)
        button.click()
        page.get_by_text(message).wait_for()
        assert page.locator("#result").is_hidden()
    assert page.seen.errors == []


def test_a_digit_can_be_drawn(digits_page, opened):
    page = opened(digits_page)
    box = page.locator(".pad").bounding_box()
    for step, to in enumerate((0.1, 0.5, 0.9)):
        page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + box["height"] * to)
        if step == 0:
            page.mouse.down()
    page.mouse.up()
    page.wait_for_selector("#result:not([hidden])")
    values = [float(one) for one in page.input_value("textarea").split()]
    assert len(values) == 64
    assert 12 < max(values) <= 16
    assert min(values) == 0
    page.get_by_role("button", name="Clear").click()
    assert page.input_value("textarea") == ""


def test_names_are_text_and_the_page_fits_a_phone(digits, opened, tmp_path):
    stages, _, images, _ = digits
    hostile = '<img src=x onerror="window.ran=1">' * 9
    named = {f"{hostile}{k}": one.network for k, one in enumerate(stages.values())}
    classes = [f"{hostile}{k}" for k in range(10)]
    page = opened(web(named, 0.9, images[:9], tmp_path / "page", classes=classes))
    page.fill("textarea", str(images[0].tolist()))
    page.get_by_role("button", name="Answer").click()
    page.wait_for_selector("#result:not([hidden])")
    assert page.inner_text("#answer").startswith('<img src=x onerror="window.ran=1">')
    assert page.evaluate("window.ran") is None
    assert page.evaluate("document.documentElement.scrollWidth") <= 375


@pytest.mark.parametrize(
    "policy",
    [
        Policy((1.2, 1.1), score="agreement"),
        Policy((0.45, 0.6), combine="average", temperatures=(0.5, 0.5, 2.0)),
        Policy((0.6, 0.4), score="margin", floors=(0.05, 0.1)),
        Policy((0.38, float("inf"))),
    ],
    ids=lambda policy: f"{policy.score}-{policy.combine}",
)
def test_every_rule_decides_as_the_cascade(policy, opened, tmp_path):
    points = Points(200).x
    nets = {name: Net(8, seed).eval() for seed, name in enumerate("abc")}
    with torch.inference_mode():
        expected = Cascade(nets, policy)(points)
    page = opened(web(nets, policy, points, tmp_path / "page"))
    check_same(answers_in(page, [{"input": one.tolist()} for one in points]), expected)
    assert len(set(expected.stage.tolist())) > 1


STEPS = [
    ImagePreprocessing((3, 96, 96), interpolation, crop, "center")
    for interpolation, crop in (
        ("bicubic", 0.875), ("bilinear", 0.95), ("lanczos", 1.0), ("box", 0.9), ("hamming", 0.8),
    )
] + [
    ImagePreprocessing((3, 64, 96), "bicubic", 0.9, "center"),
    ImagePreprocessing((1, 96, 96), "bicubic", 0.9, "squash"),
    ImagePreprocessing((3, 64, 96), "bilinear", 0.9, "border", (0.1, 0.5, 0.9)),
    ImagePreprocessing((3, 201, 201), "bicubic", 0.95, "center"),
]  # fmt: skip


def test_images_are_resized_and_cropped_to_the_bit(digits_page, opened):
    page = opened(digits_page)
    random = np.random.default_rng(3)
    noise = Image.fromarray(random.integers(0, 256, (131, 77, 3), dtype=np.uint8))
    images = [*(one.reduce(2) for one in some_images(2)), noise, noise.resize((96, 106))]
    given = [
        {"width": one.width, "height": one.height, "data": np.asarray(one).flatten().tolist()}
        for one in images
    ]
    found = page.evaluate(
        """([images, all]) => all.map(steps => images.map(image => Array.from(
          prepared({...image, data: Uint8ClampedArray.from(image.data)}, steps))))""",
        [given, [steps_of(one, "") for one in STEPS]],
    )
    for steps, arrays in zip(STEPS, found, strict=True):
        for image, array in zip(images, arrays, strict=True):
            assert array == steps(image).flatten().tolist(), steps


def test_an_image_pair_answers_files_as_the_cascade(opened, tmp_path):
    torch.manual_seed(0)
    networks = {  # sizes, crops and normalisations differ
        "small": Timm("mobilenetv3_small_050.lamb_in1k", pretrained=False, img_size=64),
        "large": Timm("resnet10t.c3_in1k", pretrained=False, img_size=96),
    }
    cascade = LitCascade({n: Stage(lambda one=one: one) for n, one in networks.items()}, 0.5)
    cascade.eval()
    images = some_images(6)
    batch = cascade.collate(images)
    with torch.inference_mode():
        cascade.policy = 1.0
        scores = cascade.networks()["small"].network(batch[networks["small"].preprocessing.key])
        ordered = scores.softmax(1).amax(1).sort().values
        cascade.policy = float(ordered[2:4].double().mean())
        expected = cascade(batch)
    stages, classes = cascade.networks(), cascade.class_names
    page = opened(web(stages, cascade.policy, batch, tmp_path / "page", classes=classes))
    policy = json.loads((tmp_path / "page/policy.json").read_text())
    for number, image in enumerate(images):
        image.save(tmp_path / f"{number}.png")
        page.set_input_files("input[type=file]", tmp_path / f"{number}.png")
        page.get_by_text(f"{number}.png").wait_for()
        page.get_by_text(f"So far: {number + 1} input").wait_for()
        answer = policy["readable"][int(expected.prediction[number])]
        assert page.inner_text("#answer") == answer
        assert page.inner_text("#by") == f"Answered by {('small', 'large')[expected.stage[number]]}"
    assert len(set(expected.stage.tolist())) == 2
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    (tmp_path / "text.png").write_text("no image")
    page.set_input_files("input[type=file]", tmp_path / "text.png")
    page.get_by_text("text.png: this is no image that the browser reads.").wait_for()
    assert page.seen.errors == []


def test_texts_take_the_ids_of_their_tokenizers(opened, tmp_path):
    stages = {}
    for kind, seed in (("bert", 1), ("roberta", 2)):
        folder = save_classifier(kind, tmp_path / kind, OWN, seed=seed)
        stages[kind] = Stage(lambda folder=folder: TextClassifier(str(folder)))
    cascade = LitCascade(stages, 0.0).eval()
    batch = cascade.collate(list(OWN))
    with torch.inference_mode():  # the vocabulary of a tokenizer is not always in the same order
        low, high = cascade(batch).score.sort().values[4:6].tolist()
        cascade.policy = Policy((low + high) / 2)
        expected = cascade(batch)
    folder = web(cascade.networks(), cascade.policy, batch, tmp_path / "page", raw=list(OWN))
    page = opened(folder)
    own = [one.preprocessing.tokenizer for one in cascade.networks().values()]
    rows = [
        {f"tokenizer-{k}.json": one(text)["input_ids"] for k, one in enumerate(own)} for text in OWN
    ]
    check_same(answers_in(page, rows), expected)
    assert "There is no tokenizer in this page" in page.inner_text("#notes")
    for k in range(2):
        page.get_by_label(f"Token ids by tokenizer-{k}.json").fill(
            " ".join(map(str, rows[0][f"tokenizer-{k}.json"]))
        )
    page.get_by_role("button", name="Answer").click()
    page.wait_for_selector("#result:not([hidden])")
    assert page.inner_text("#answer") == cascade.class_names[int(expected.prediction[0])]


def test_without_onnxruntime_web_the_page_says_how_to_get_it(digits, opened, tmp_path):
    stages, policy, images, _ = digits
    folder = tmp_path / "page"
    export_cascade(stages, policy, images[:9], folder, to="web")
    page = opened(folder)
    page.get_by_text("npm pack onnxruntime-web").wait_for()
    assert "npm pack onnxruntime-web" in (folder / "README.md").read_text()
    page = page.context.new_page()
    page.goto((folder / "index.html").as_uri())
    page.get_by_text("python -m http.server serves it").wait_for()


def test_the_command_writes_the_page_and_its_hashes(tmp_path):
    dist = tmp_path / "dist"
    words = ("export", "--config", "digits_pair.yaml", "--to", "web", "--out", "page")
    refused = within(*words, "--onnxruntime_web", "dist", cwd=tmp_path)
    assert refused.returncode == 2
    assert "--onnxruntime_web: 'dist' does not hold ort.wasm.min.mjs" in refused.stderr
    dist.mkdir()
    for name in RUNTIME_FILES:
        (dist / name).write_text(name)
    done(within(*words, "--verify", "9", "--onnxruntime_web", "dist", cwd=tmp_path))
    hashes = json.loads((tmp_path / "page/policy.json").read_text())["sha256"]
    for name in (*RUNTIME_FILES, "index.html", "cascade.js"):
        content = (tmp_path / "page" / name).read_bytes()
        assert hashes[name] == hashlib.sha256(content).hexdigest()
    with pytest.raises(UsageError, match="to: 'wasm' is unknown"):
        export_cascade({"a": Net(), "b": Net()}, 0.5, Points(9).x, tmp_path / "x", to="wasm")
