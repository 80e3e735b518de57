"""Results of every command that a page shows, with names that are markup."""

import csv
import json
import shutil
from html.parser import HTMLParser

import torch

from lit_cascade.records import Record
from tests.cli.runs import done, within

SMALL = '<img src=x onerror="alert(1)">'
LARGE = '"]}</script><script>alert(2)</script>'
DATA = "<b>data</b>&{{ 7 * 7 }}"
N = 600


def records_in(folder, split, seed, n=N):
    """Records of two models with these names; files of the folder."""
    torch.manual_seed(seed)
    labels = torch.randint(0, 3, (n,))
    paths = []
    for name, skill, flops in ((SMALL, 1.5, 100.0), (LARGE, 4, 1000.0)):
        logits = torch.randn(n, 3) + skill * torch.nn.functional.one_hot(labels, 3)
        paths.append(folder / f"{split}-{len(paths)}.safetensors")
        Record.from_arrays(
            name, logits, labels, flops=flops, classes=["<script>", "</script>", "&amp;"],
            data={"name": DATA, "split": split, "source": f"made/{split}"},
            costs={"usd": flops / 1e6},
        ).save(paths[-1])  # fmt: skip
    return paths


def results_in(folder):
    """Run commands in a folder, each into one of the same name."""
    chosen, new = records_in(folder, "calibration", 0), records_in(folder, "test", 1)
    digits = ("--config", "digits_pair.yaml")
    few = ("--samples", "32", "--repeats", "1", "--singles", "2")
    for words in (
        ("select", "--records", *chosen, "--max_accuracy_drop", "0.03"),
        ("check", "--records", *new, "--policy", "select/policy.yaml"),
        ("validate", "--records", *new, "--cost", "usd", "--calls_per_month", "2e6"),
        ("search", "--records", *chosen, *new, "--repeats", "2"),
        ("compare-scores", "--records", *new),
        ("test", *digits),
        ("benchmark", *digits, *few),
    ):
        done(within(*words, "--out", words[0], cwd=folder))
    return folder


class Page(HTMLParser):
    """What a browser would read of a page.

    Attributes:
        tags: names of all elements that begin.
        text: all text outside of scripts and styles.
        scripts: contents of scripts, by whether they are data.
    """

    def __init__(self, html):
        super().__init__()
        self.tags, self.text, self.attributes, self._in = [], "", [], ""
        self.scripts = {True: [], False: []}
        self.feed(html)
        self.text = " ".join(self.text.split())
        self.data = json.loads(self.scripts[True][0])

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        self._in = tag
        if tag == "script":
            self.scripts[("type", "application/json") in attrs].append("")

    def handle_endtag(self, tag):
        self._in = ""

    def handle_data(self, data):
        if self._in == "script":
            kind = self.scripts[True] if not self.scripts[False] else self.scripts[False]
            kind[-1] += data
        elif self._in != "style":
            self.text += data


def rows_of(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def browser_of(playwright):
    """An installed Chromium, or None."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")
    if path is None:
        return None
    return playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
