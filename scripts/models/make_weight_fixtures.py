"""Makes test/fixtures/weights: small weight files as torch.save writes them. Needs PyTorch.

    python3 scripts/models/make_weight_fixtures.py test/fixtures/weights
"""

import sys
from collections import OrderedDict
from pathlib import Path

import torch

folder = Path(sys.argv[1])
folder.mkdir(parents=True, exist_ok=True)


def state_dict():
    """What native/tests/weights_file_test.cpp expects: every type, views of one storage, an empty and a 0-d tensor."""
    shared = torch.arange(12, dtype=torch.float32)
    tensors = OrderedDict()
    tensors["float"] = torch.arange(6, dtype=torch.float32).reshape(2, 3) / 4
    tensors["transposed"] = shared.reshape(3, 4).t()
    tensors["part"] = shared[5:9]
    tensors["expanded"] = torch.tensor([7.0]).expand(2, 5)
    tensors["scalar"] = torch.tensor(2.5, dtype=torch.float64)
    tensors["empty"] = torch.empty(0, 4)
    for dtype in (torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8):
        tensors[str(dtype).removeprefix("torch.")] = torch.arange(3).to(dtype)
    tensors["bool"] = torch.tensor([True, False, True])
    tensors["parameter"] = torch.nn.Parameter(torch.tensor([1.0, -1.0]))
    return tensors


torch.save(state_dict(), folder / "zip.pth")
torch.save(state_dict(), folder / "legacy.pth", _use_new_zipfile_serialization=False)
for protocol in (3, 4, 5):
    torch.save(state_dict(), folder / f"protocol{protocol}.pth", pickle_protocol=protocol)
torch.save(state_dict(), folder / "legacy4.pth", pickle_protocol=4, _use_new_zipfile_serialization=False)
torch.save({"wide": torch.arange(3).to(torch.uint16)}, folder / "uint16.pth")
torch.save({"complex": torch.ones(2, dtype=torch.complex64)}, folder / "complex.pth")

net = torch.nn.Linear(2, 3)
torch.nn.init.constant_(net.weight, 0.5)
torch.nn.init.constant_(net.bias, 0.25)
optimizer = torch.optim.Adam(net.parameters())
net(torch.ones(1, 2)).sum().backward()
optimizer.step()
with torch.no_grad():
    net.weight.fill_(0.5)
    net.bias.fill_(0.25)
checkpoint = {
    "epoch": 3,
    "best": 0.75,
    "arch": "linear",
    "loss": torch.tensor(0.5),
    "device": torch.device("cpu"),
    "sizes": {torch.Size([1, 2]), (3, 4)},
    "dtype": torch.float32,
    "long": 2**70,
    "none": None,
    "flag": True,
    "data": b"bytes",
    "optimizer": optimizer.state_dict(),
    "state_dict": {f"module.{name}": tensor for name, tensor in net.state_dict().items()},
}
torch.save(checkpoint, folder / "checkpoint.pth")
torch.save({"model": net.state_dict(), "epoch": 1}, folder / "model.pth")
torch.save(net, folder / "module.pth")
torch.save(net, folder / "legacy_module.pth", _use_new_zipfile_serialization=False)
torch.save({"optimizer": optimizer.state_dict(), "epoch": 1}, folder / "none.pth")
torch.save(torch.ones(3), folder / "tensor.pth")
torch.jit.save(torch.jit.script(net), str(folder / "script.pt"))
