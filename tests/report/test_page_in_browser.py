"""The page in a headless Chromium: the slider, the clicks, the network, and scripts of names."""

import pytest

pytest.importorskip("altair", reason="needs the extra report")
pytest.importorskip("vl_convert", reason="needs the extra report")
sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")

from lit_cascade.report import html_report  # noqa: E402
from tests.report.pages import LARGE, browser_of, rows_of  # noqa: E402

KINDS = ["select", "validate", "search", "compare-scores", "check", "test", "benchmark"]


@pytest.fixture(scope="module")
def folder(results):
    html = html_report([results / name for name in KINDS])
    (results / "report.html").write_text(html, encoding="utf-8")
    return results


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = browser_of(playwright)
        if browser is None:
            pytest.skip("needs an installed Chromium")
        yield browser
        browser.close()


@pytest.fixture
def page(folder, browser):
    """The opened page; `told` has its requests, errors and dialogs."""
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    page.set_default_timeout(120_000)
    page.told = []
    page.on("request", lambda request: page.told.append(request.url))
    page.on("console", lambda message: page.told.append(message.text))
    page.on("pageerror", lambda error: page.told.append(str(error)))
    page.on("dialog", lambda dialog: (page.told.append("dialog"), dialog.dismiss()))
    page.goto((folder / "report.html").as_uri())
    page.wait_for_function(
        "[...document.querySelectorAll('.chart')].every((one) => one.dataset.ready)"
    )
    yield page
    page.close()


def tiles(page, part):
    pairs = page.eval_on_selector_all(
        f"#part-{part} .tiles > div",
        "all => all.map((one) => [...one.children].map((part) => part.textContent))",
    )
    return dict(pairs)


def move(page, part, at):
    page.eval_on_selector(
        f"#part-{part} input",
        "(one, at) => { one.value = at; one.dispatchEvent(new Event('input')); }", at,
    )  # fmt: skip


def ring(page, part):
    """Where the ring of the slider is drawn."""
    return page.eval_on_selector_all(
        f"#part-{part} .mark-symbol.role-mark path[stroke='var(--ink)']",
        "all => all.map((one) => one.getAttribute('transform'))",
    )


def test_no_request_leaves_the_page_and_nothing_goes_wrong(page, folder):
    assert page.told == [(folder / "report.html").as_uri()]


@pytest.mark.parametrize(
    ("part", "file"), [(0, "select/candidates.csv"), (1, "validate/curve.csv")]
)
def test_the_slider_moves_the_numbers_of_the_file(page, folder, part, file):
    rows = sorted(rows_of(folder / file), key=lambda row: float(row["threshold"]))
    start, places = tiles(page, part), []
    for at in (0, len(rows) // 3, len(rows) - 1):
        move(page, part, at)
        shown, row = tiles(page, part), rows[at]
        assert shown["accuracy"] == f"{100 * float(row['accuracy']):.2f} %"
        assert shown[f"deferred to {LARGE}"] == f"{100 * float(row['deferral_rate']):.1f} %"
        page.wait_for_timeout(50)
        places.append(tuple(ring(page, part)))
    assert len(set(places)) == 3
    assert all(len(one) == 1 for one in places)
    page.click(f"#part-{part} button")
    assert tiles(page, part) == start


def test_the_keyboard_moves_it_too(page):
    before = tiles(page, 0)["threshold"]
    page.focus("#part-0 input")
    page.keyboard.press("ArrowLeft")
    assert tiles(page, 0)["threshold"] != before


def test_a_click_on_the_front_shows_the_cascade(page):
    """Of a model alone that is on the front, too; and a row of the table does the same."""
    front, pre = "#part-2", "#part-2 .picked pre"
    first = page.inner_text(pre)
    assert "policy:" in first
    page.click(f"{front} .mark-symbol path[aria-label*='model: <img']")
    assert page.inner_text(pre) == "a single model"
    page.query_selector_all(f"{front} tr[data-config]")[-1].click()
    assert page.inner_text(pre) == first


def test_a_name_is_shown_where_one_points_and_runs_nothing(page, folder):
    page.hover("#part-2 .mark-symbol path[aria-label*='model: <img']")
    page.wait_for_selector("#vg-tooltip-element.visible")
    assert "<img src=x" in page.inner_text("#vg-tooltip-element")
    assert page.query_selector("img") is None
    assert page.told == [(folder / "report.html").as_uri()]


def test_a_script_that_gets_in_does_not_run(page):
    page.evaluate(
        "() => { const one = document.createElement('script'); one.textContent = 'window.ran = 1';"
        " document.body.append(one); }"
    )
    assert page.evaluate("window.ran") is None


@pytest.mark.parametrize("width", [390, 1200])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_and_a_screen_by_day_and_by_night(page, width, scheme):
    page.set_viewport_size({"width": width, "height": 800})
    page.emulate_media(color_scheme=scheme)
    page.wait_for_timeout(100)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    ink, paper = page.evaluate(
        "() => { const style = getComputedStyle(document.body);"
        " return [style.color, style.backgroundColor].map((c) => c.match(/\\d+/g).map(Number)); }"
    )
    assert (sum(ink) < sum(paper)) == (scheme == "light")
    name = "#part-0 .mark-text.role-mark text"  # of a model, in the chart
    fill = "one => getComputedStyle(one).fill.match(/\\d+/g).map(Number)"
    assert page.eval_on_selector(name, fill) == ink


def test_it_prints_in_ink_on_paper_without_controls(page):
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not page.is_visible("input")
    assert page.is_visible("#part-0 .tiles")
