import json

import torch
from safetensors.torch import load, save

from lit_cascade.utilities.tensors import safetensors_pieces


def test_safetensors_are_those_of_the_library():
    dtypes = (torch.int64, torch.float64, torch.float32, torch.int32, torch.bfloat16)
    dtypes += (torch.float16, torch.int16, torch.int8, torch.uint8, torch.bool)
    tensors = {f"t{k}": torch.randn(5, 3).to(dtype) for k, dtype in enumerate(dtypes)}
    tensors |= {"b": tensors["t2"].T, "empty": torch.zeros(0, 3), "one": torch.tensor(2.0)}
    header = {"b": "1", "a": "ü"}
    mine = b"".join(safetensors_pieces(tensors, header))
    theirs = save({name: tensor.contiguous() for name, tensor in tensors.items()}, header)
    ends = [8 + int.from_bytes(content[:8], "little") for content in (mine, theirs)]
    assert json.loads(mine[8 : ends[0]]) == json.loads(theirs[8 : ends[1]])
    assert mine[ends[0] :] == theirs[ends[1] :]
    for name, tensor in load(mine).items():
        assert torch.equal(tensor, tensors[name])
