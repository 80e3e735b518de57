"""The bundled records of photographs: answers and confidences out of records of logits.

python -m tests.benchmarks.photograph_records RECORDS [--out FOLDER]

RECORDS is a folder with a record of each of seven models on the 1,000 images; how they are made
says checkpoints/imagenet_photographs/README.md.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from lit_cascade import Record
from lit_cascade.core import score_and_answer

ROOT = Path(__file__).parents[2]
BUNDLED = ROOT / "checkpoints/imagenet_photographs/flickr1000"
MODELS = (
    "mobilenet_v1_0.25_128", "mobilenet_v1_0.5_160", "mobilenet_v1_0.75_192",
    "mobilenet_v2_1.0_224", "tf_efficientnet_lite0.in1k", "tf_efficientnet_lite1.in1k",
    "tf_efficientnet_lite2.in1k",
)  # fmt: skip
"""The models, cheapest first: four of LiteRT with weights of 8 bits, three of timm."""


def without_logits(record: Record) -> Record:
    """What the model answers, and its largest class probability."""
    score, answer = score_and_answer(record.logits)
    made_by = {"framework": "LiteRT", "precision": "uint8"}
    if "timm" in record.model:
        made_by = {"timm": record.name, "weights": record.model["weights"]}
    return Record.from_arrays(
        record.name,
        prediction=answer,
        score=score,
        labels=record.labels,
        classes=record.classes,
        flops=float(record.cost()[0]),
        parameters=record.parameters,
        data={"name": record.data["name"], "split": record.data["split"]},
        model=made_by,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("records", type=Path)
    parser.add_argument("--out", type=Path, default=BUNDLED)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for name in MODELS:
        record = without_logits(Record.load(options.records / f"{name}.safetensors"))
        record.save(options.out / f"{name}.safetensors")
        print(record, flush=True)


if __name__ == "__main__":
    main()
