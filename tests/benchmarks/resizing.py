"""Bytes of photographs resized by ONNX, against those of Pillow.

python -m tests.benchmarks.resizing [--images ../shared/data/imagenet_images/flickr1000.parquet]
    [--samples 200] [--out FILE]

ONNX's own operator Resize with antialiasing, and the program that `--embed_preprocessing` writes.
"""

from __future__ import annotations

import io
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import PIL
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from pyarrow.parquet import ParquetFile

from lit_cascade.export.programs import Input, trace, write_onnx
from lit_cascade.export.resizing import PillowResize
from lit_cascade.models import ImagePreprocessing
from tests.benchmarks.results import options_parser, write_results
from tests.benchmarks.sweep import machine

SIZE = 224
PHOTOGRAPHS = Path(__file__).parents[3] / "shared/data/imagenet_images/flickr1000.parquet"


def operator(mode):
    """A session of the operator Resize, to the size, rounded to bytes."""
    constants = {"sizes": np.array([1, 3, SIZE, SIZE]), "least": 0, "most": 255}
    nodes = [
        helper.make_node("Cast", ["x"], ["float"], to=TensorProto.FLOAT),
        helper.make_node(
            "Resize", ["float", "", "", "sizes"], ["resized"], mode=mode, antialias=1,
            cubic_coeff_a=-0.5,
        ),
        helper.make_node("Round", ["resized"], ["round"]),
        helper.make_node("Clip", ["round", "least", "most"], ["clipped"]),
        helper.make_node("Cast", ["clipped"], ["y"], to=TensorProto.UINT8),
    ]  # fmt: skip
    graph = helper.make_graph(
        nodes,
        "resize",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, [1, 3, None, None])],
        [helper.make_tensor_value_info("y", TensorProto.UINT8, [1, 3, SIZE, SIZE])],
        [
            numpy_helper.from_array(
                np.asarray(value, np.int64 if name == "sizes" else np.float32), name
            )
            for name, value in constants.items()
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    return onnxruntime.InferenceSession(model.SerializeToString())


def main() -> None:
    """Measure and print."""
    parser = options_parser(__doc__)
    parser.add_argument("--images", type=Path, default=PHOTOGRAPHS)
    parser.add_argument("--samples", type=int, default=200)
    options = parser.parse_args()
    rows = next(ParquetFile(options.images).iter_batches(options.samples)).to_pylist()
    images = [Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB") for row in rows]
    results = []
    for kind, mode in (("bicubic", "cubic"), ("bilinear", "linear")):
        steps = ImagePreprocessing((3, SIZE, SIZE), kind, 1.0, "center")
        inputs = [Input("image", "", torch.zeros(97, 131, 3, dtype=torch.uint8), ("h", "w"))]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "resize.onnx"
            program = trace(PillowResize(steps, kind).eval(), inputs, kind)
            write_onnx(program, inputs, ["y"], path, kind)
            own, resize = onnxruntime.InferenceSession(path), operator(mode)
        for name, run in (
            ("ONNX Resize", lambda x: resize.run(None, {"x": x.transpose(2, 0, 1)[None]})[0][0]),  # noqa: B023
            ("preprocess-0.onnx", lambda x: own.run(None, {"image": x})[0]),  # noqa: B023
        ):
            found = [run(np.ascontiguousarray(image)).astype(int) for image in images]
            gaps = [
                np.abs(one - steps(image).numpy()) for one, image in zip(found, images, strict=True)
            ]
            results.append(
                {
                    "by": name,
                    "interpolation": kind,
                    "images": len(images),
                    "share_of_bytes_different": round(float(np.mean([g > 0 for g in gaps])), 4),
                    "largest_difference": int(max(gap.max() for gap in gaps)),
                }
            )
            print(results[-1])
    about = machine() | {"onnxruntime": onnxruntime.__version__, "pillow": PIL.__version__}
    write_results(options.out, {"machine": about, "size": SIZE, "rows": results})


if __name__ == "__main__":
    main()
