"""Run the cascade in this folder with numpy and onnxruntime alone; texts also need tokenizers.

`python run_cascade.py inputs.npz` (arrays by name, samples along axis 0) or `texts.txt` (one a
line) prints an answer per sample as JSON. In Python: `Cascade()(inputs)`, `Cascade().raw(texts)`.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np


def open_stage(path: Path, outputs: Any) -> Any:
    """Open the program of a stage: a function from arrays by name to arrays by name."""
    if path.suffix == ".pt2":  # of --to torch
        import torch

        if path.name.endswith(".aot.pt2"):
            run: Any = torch._inductor.aoti_load_package(str(path))
        else:
            run = torch.export.load(str(path)).module()
        return lambda feeds: {
            name: tensor.numpy(force=True)
            for name, tensor in zip(
                outputs, run(*map(torch.from_numpy, feeds.values())), strict=True
            )
        }
    import onnxruntime

    slow = ["SkipLayerNormFusion"]  # a tenth of a transformer's time on CPUs
    session = onnxruntime.InferenceSession(str(path), disabled_optimizers=slow)
    return lambda feeds: dict(zip(outputs, session.run(outputs, feeds), strict=True))


class Cascade:
    """The cascade in a folder."""

    def __init__(self, folder: Path = Path(__file__).parent) -> None:
        self.folder = folder
        self.policy = json.loads((folder / "policy.json").read_text("utf-8"))
        if self.policy["format"] != "lit-cascade/1":
            raise ValueError(f"policy.json: the format {self.policy['format']!r} is unknown")
        self.stages = [open_stage(folder / x["file"], x["outputs"]) for x in self.policy["stages"]]

    def __call__(self, inputs: Any) -> Any:
        """Prediction, stage and score of each sample, from arrays by name."""
        n = len(next(iter(inputs.values())))
        prediction, stage, score = np.zeros(n, int), np.zeros(n, int), np.zeros(n, np.float32)
        said, total, rows = np.full((len(self.stages), n), -1), np.zeros(()), np.arange(n)
        for k, facts in enumerate(self.policy["stages"]):
            found = self.stages[k]({x["name"]: inputs[x["name"]][rows] for x in facts["inputs"]})
            s, said[k, rows] = found["score"], found["prediction"]
            if self.policy["score"] == "agreement":  # 1 more where an earlier stage says the same
                s = s + (said[:k, rows] == said[k, rows]).any(axis=0).astype(np.float32)
            prediction[rows], stage[rows], score[rows] = said[k, rows], k, s
            if self.policy["combine"] == "average":
                total = total + found["probabilities"]
                prediction[rows] = total.argmax(axis=1)
            if k + 1 == len(self.stages):
                break
            answers = (s >= np.float32(facts["threshold"])) | (s < np.float32(facts["floor"]))
            rows, total = rows[~answers], total[~answers] if total.ndim else total
            if not len(rows):
                break
        return prediction, stage, score

    def raw(self, samples: Any) -> Any:
        """Prediction, stage and score of texts, of pairs of them, or of images: see `arrays`."""
        return self(self.arrays(samples))

    def arrays(self, samples: Any) -> Any:
        """Arrays by name of texts, or of images (height, width, channels) of bytes."""
        arrays = {}
        for facts in self.policy["stages"]:
            how, inputs = facts["preprocessing"], facts["inputs"]
            if how["kind"] == "text":
                from tokenizers import Tokenizer

                # an empty second text is none, as in transformers
                texts = [one if isinstance(one, str) or one[1] else one[0] for one in samples]
                found = Tokenizer.from_file(str(self.folder / how["tokenizer"])).encode_batch(texts)
                for x in inputs:
                    arrays[x["name"]] = np.array([getattr(y, x["tokens"]) for y in found], np.int64)
            elif (name := inputs[0]["name"]) not in arrays:  # of --embed_preprocessing
                resize = open_stage(self.folder / how["file"], [name])
                arrays[name] = np.stack([resize({"image": one})[name] for one in samples])
        return arrays


if __name__ == "__main__":
    cascade, path = Cascade(), Path(sys.argv[1])
    if path.suffix == ".npz":
        answers = cascade(dict(np.load(path, allow_pickle=False)))
    else:
        answers = cascade.raw(path.read_text("utf-8").splitlines())
    names, classes = [one["name"] for one in cascade.policy["stages"]], cascade.policy["classes"]
    for p, k, s in zip(*(column.tolist() for column in answers), strict=True):
        name = classes[p] if classes else p
        print(json.dumps({"prediction": p, "class": name, "stage": names[k], "score": s}))
