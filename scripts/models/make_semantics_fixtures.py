"""Makes test/fixtures/semantics: networks that a reader of files may run with another meaning than PyTorch's.

    python scripts/models/make_semantics_fixtures.py [folder [names of networks...]]

Needs torch 2.13 and safetensors. NAME.pt is scripted, NAME-traced.pt traced, NAME.pt2 exported and NAME-strict.pt2 exported
with strict=True, all in evaluation mode unless the name says otherwise. NAME.safetensors has x, and of eager PyTorch
    {eval,train}.{final,tap.LAYER,grad.PARAMETER,buffer.BUFFER}
as make_script_fixtures.py says; in its metadata names, from each name of a layer to its first, and state, the keys of the
state dict.
"""

import json
import os
import sys
import warnings
from typing import List

import torch
import torch.nn as nn
import torch.nn.functional as F
from make_exported_fixtures import slim
from make_script_fixtures import expected, norm, save_script
from safetensors.torch import save_file

warnings.simplefilter("ignore")


class Block(nn.Module):
    """As nnU-Net's: layers that are also the parts of a Sequential, which is the one that runs."""

    def __init__(self, channels, out, stride):
        super().__init__()
        self.conv = nn.Conv2d(channels, out, 3, stride, padding=1)
        self.norm = nn.InstanceNorm2d(out, affine=True)
        self.nonlin = nn.LeakyReLU(inplace=True)
        self.all_modules = nn.Sequential(self.conv, self.norm, self.nonlin)

    def forward(self, x):
        return self.all_modules(x)


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.stages = nn.Sequential(Block(1, 2, 1), nn.Sequential(Block(2, 3, 2), Block(3, 3, 1)))

    def forward(self, x) -> List[torch.Tensor]:
        maps: List[torch.Tensor] = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


class Decoder(nn.Module):
    """Holds the encoder too, as nnU-Net's does."""

    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder
        self.up = nn.ConvTranspose2d(3, 2, 2, 2)
        self.stage = Block(4, 2, 1)
        self.last = nn.Conv2d(2, 2, 1)

    def forward(self, maps: List[torch.Tensor]):
        return self.last(self.stage(torch.cat([self.up(maps[1]), maps[0]], 1)))


class Aliased(nn.Module):
    """A U-Net whose layers have up to four names each."""

    def __init__(self):
        super().__init__()
        self.encoder = Encoder()
        self.decoder = Decoder(self.encoder)

    def forward(self, x):
        return self.decoder(self.encoder(x))


class Twice(nn.Module):
    """A layer that runs under two names, two layers with one weight, and what never runs."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 3, padding=1)
        self.bn = norm(2)
        self.both = nn.Sequential(self.conv, self.bn)
        self.stem = nn.Conv2d(1, 2, 1)
        self.last = nn.Conv2d(2, 2, 1, bias=False)
        self.again = nn.Conv2d(2, 2, 3, padding=1)
        self.again.bias = self.stem.bias
        self.idle = nn.Conv2d(2, 2, 1)
        self.idle_too = self.idle

    def forward(self, x):
        return self.again(self.last(self.both(torch.tanh(self.conv(self.stem(x))))))


class Composed(nn.Module):
    """Compositions of operators behind an operation in place: they make new memory, whatever their schemas leave open."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.weight = nn.Parameter(torch.randn(4, 4) / 2)
        self.lstm = nn.LSTM(4, 2, bidirectional=True, batch_first=True)
        self.gru = nn.GRU(4, 4, batch_first=True)
        self.bilinear = nn.Bilinear(4, 4, 4)
        self.last = nn.Conv2d(4, 2, 1)

    def forward(self, x):
        y = torch.relu_(self.conv(x))
        y = torch.einsum("bchw,cd->bdhw", y, self.weight)
        y = torch.tensordot(y, self.weight, dims=([1], [0]))
        t = y.flatten(1, 2)
        t = self.gru(self.lstm(t)[0])[0]
        t = self.bilinear(t, t).add_(1)
        return self.last(t.transpose(1, 2).reshape(x.shape[0], 4, x.shape[2], x.shape[3]))


class Counting(nn.Module):
    """A state of its own, as a buffer and as an attribute, in both modes."""

    count: int

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3, padding=1)
        self.bn = norm(2)
        self.register_buffer("seen", torch.zeros(2))
        self.count = 0

    def forward(self, x):
        y = self.bn(self.conv(x))
        self.seen.add_(y.detach().mean((0, 2, 3)))
        self.count += 1
        return y + self.seen[:, None, None] * self.count


class OnImage(nn.Module):
    """Works in place on its image, in training by dropout too."""

    def __init__(self):
        super().__init__()
        self.relu = nn.ReLU(inplace=True)
        self.drop = nn.Dropout(0.5, inplace=True)
        self.conv = nn.Conv2d(1, 2, 3, padding=1)

    def forward(self, x):
        return self.conv(self.drop(self.relu(x)))


class DropsImage(nn.Module):
    """Works in place on its image in training alone."""

    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout(0.5, inplace=True)
        self.conv = nn.Conv2d(1, 2, 3, padding=1)

    def forward(self, x):
        return self.conv(self.drop(x))


class Branching(nn.Module):
    """What a layer returned is written to in training alone, or where the image is bright."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3, padding=1)
        self.drop = nn.Dropout2d(0.5, inplace=True)
        self.other = nn.Conv2d(2, 2, 1)
        self.last = nn.Conv2d(2, 2, 1)

    def forward(self, x):
        y = self.conv(x)
        z = self.other(self.drop(y))
        if bool(x.max() > 50):
            z.mul_(0.0)
        return self.last(z)


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3, padding=1)
        self.bn = norm(2)
        self.register_buffer("shift", torch.tensor(0.25))
        self.last = nn.Conv2d(2, 2, 1)

    def forward(self, x):
        return self.last(F.relu(self.bn(self.conv(x)) + self.shift))


class Complex(nn.Module):
    def __init__(self, parameter):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3, padding=1)
        gain = torch.ones(2, 1, 1, dtype=torch.complex64)
        if parameter:
            self.gain = nn.Parameter(gain)
        else:
            self.register_buffer("gain", gain)

    def forward(self, x):
        return (self.conv(x) * self.gain).real


class Batch(nn.Module):
    """Made for one number of images: by a view with the batch in it."""

    def __init__(self, images, mixes=False, trains=True):
        super().__init__()
        self.images, self.mixes = images, mixes
        self.conv = nn.Conv2d(1, 2, 3, padding=1)
        self.bn = norm(2) if trains else nn.Identity()
        self.last = nn.Conv2d(2, 2, 1)

    def forward(self, x):
        y = self.bn(self.conv(x)).view(self.images, 2, -1)
        if self.mixes:
            y = y - y.mean(0, keepdim=True)
        return self.last(y.view(self.images, 2, 4, 5))


class Cumulative(nn.Module):
    def __init__(self, momentum=None, batches=0):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3, padding=1)
        self.bn = nn.BatchNorm2d(2, momentum=momentum)
        self.bn.num_batches_tracked.fill_(batches)

    def forward(self, x):
        return self.bn(self.conv(x))


class Spectral(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.utils.parametrizations.spectral_norm(nn.Conv2d(1, 2, 3, padding=1))
        self.last = nn.Conv2d(2, 2, 1)

    def forward(self, x):
        return self.last(self.conv(x))


class Axes(nn.Module):
    """For an image of 8×8, layers whose output looks like a map of it: channels last, a volume, a weight of its own."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3, padding=1)
        self.norm = nn.LayerNorm(8)
        self.mix = nn.Linear(8, 8)
        self.volume = nn.Conv3d(1, 1, 3, padding=1)
        self.one = nn.utils.parametrizations.weight_norm(nn.Conv2d(8, 1, 3, padding=1))
        self.last = nn.Conv2d(1, 2, 1)

    def forward(self, x):
        y = self.mix(self.norm(self.conv(x).permute(0, 2, 3, 1))).permute(0, 3, 1, 2)
        return self.last(self.one(self.volume(y.unsqueeze(1)).squeeze(1)))


class Attention(nn.Module):
    """Dropout without a mode of its own, and a recurrent layer's between its two."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.lstm = nn.LSTM(4, 4, 2, dropout=0.5, batch_first=True)
        self.last = nn.Conv2d(4, 2, 1)

    def forward(self, x):
        y = self.conv(x)
        t = self.lstm(y.flatten(2).transpose(1, 2))[0].unsqueeze(1)
        t = F.scaled_dot_product_attention(t, t, t, dropout_p=0.5 if self.training else 0.0).squeeze(1)
        return self.last(t.transpose(1, 2).reshape(y.shape))


class Recurrent(nn.Module):
    """Dropout between two recurrent layers: of a file in evaluation mode, training must switch it on."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.lstm = nn.LSTM(4, 4, 2, dropout=0.5, batch_first=True)
        self.last = nn.Conv2d(4, 2, 1)

    def forward(self, x):
        y = self.conv(x)
        return self.last(self.lstm(y.flatten(2).transpose(1, 2))[0].transpose(1, 2).reshape(y.shape))


class Addressed(nn.Module):
    """Reads memory by strides: right for contiguous tensors alone."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3, padding=1)
        self.bn = norm(2)
        self.last = nn.Conv2d(2, 2, 1)

    def forward(self, x):
        y = self.bn(self.conv(x))
        return self.last(y.as_strided((2, 2, 4, 5), (40, 20, 5, 1)) + y.as_strided((2, 2, 4, 5), (20, 5, 10, 1)))


class NoHalf(nn.Module):
    """Complex numbers, of which there are none of bfloat16."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3, padding=1)
        self.last = nn.Conv2d(2, 2, 1)

    def forward(self, x):
        y = self.conv(x)
        return self.last(torch.complex(y, y + 1).abs())


class TrainingAlone(nn.Module):
    """Stochastic depth, noise or a mean of its own, below an `if self.training`."""

    def __init__(self, what, normed):
        super().__init__()
        self.what: str = what
        self.conv = nn.Conv2d(1, 2, 3, padding=1)
        self.bn = norm(2) if normed else nn.Identity()
        self.register_buffer("mean", torch.zeros(2))
        self.last = nn.Conv2d(2, 2, 1)

    def forward(self, x):
        y = self.bn(self.conv(x))
        if self.training:
            if self.what == "depth":
                y = y + y * y.new_empty((y.shape[0], 1, 1, 1)).bernoulli_(0.5) * 2
            elif self.what == "noise":
                y = y + torch.randn_like(y)
            else:
                self.mean.mul_(0.9).add_(y.detach().mean((0, 2, 3)), alpha=0.1)
        return self.last(y - self.mean[:, None, None])


class NoWayBack(nn.Module):
    """A transformer whose fast path, for inference alone, is what a trace without gradients records."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True)
        self.last = nn.Conv2d(4, 2, 1)

    def forward(self, x):
        y = self.conv(x)
        return self.last(self.layer(y.flatten(2).transpose(1, 2)).transpose(1, 2).reshape(y.shape))


def main(folder, wanted=()):
    os.makedirs(folder, exist_ok=True)
    x = torch.randn(2, 1, 4, 5, generator=torch.Generator().manual_seed(5))

    def made(model, mode="eval"):
        for parameter in model.parameters():
            torch.manual_seed(parameter.numel())
            if parameter.dim() > 1 and not parameter.is_complex():
                with torch.no_grad():
                    parameter.copy_(torch.randn(parameter.shape) * 0.5)
        return model.train(mode == "train")

    def path(name):
        return os.path.join(folder, name)

    def only_wanted(write):
        def maybe(name, *args, **options):
            if not wanted or name.split("-")[0] in wanted:
                write(name, *args, **options)

        return maybe

    @only_wanted
    def script(name, model, image=x):
        save_script(torch.jit.script(model), path(name + ".pt"))

    @only_wanted
    def trace(name, model, image=x, batches=None):
        state = {key: value.clone() for key, value in model.state_dict().items()}
        if batches is not None:
            state["bn.num_batches_tracked"].fill_(batches)
        traced = torch.jit.trace(model, image.clone(), check_trace=False)
        traced.load_state_dict(state)
        save_script(traced, path(name + ".pt"))

    @only_wanted
    def export(name, model, image=x, fixed=False, free=False, strict=False):
        axes = [] if fixed else range(4) if free else [0]
        shapes = ({axis: torch.export.Dim.AUTO for axis in axes if axis != 1},)
        program = torch.export.export(model, (image.clone(),), dynamic_shapes=shapes, strict=strict)
        torch.export.save(program, path(name + ".pt2"))
        slim(path(name + ".pt2"))

    def export_strictly(name, model, image=x):
        export(name, model, image, strict=True)

    def export_freely(name, model, image=x):
        export(name, model, image, free=True)

    endings = {trace: "-traced", export_strictly: "-strict"}

    @only_wanted
    def values(name, model, image=x, modes=("eval", "train"), skip=()):
        attributes = {"count": model.count} if hasattr(model, "count") else {}
        tensors = {}
        for mode in modes:
            for key, value in attributes.items():
                setattr(model, key, value)
            tensors.update(expected(model, image, modes=(mode,), skip=skip)[0])
        for key, value in attributes.items():
            setattr(model, key, value)
        # Every name of a layer with its first one, which is the one that hooks are known by.
        first = {module: key for key, module in reversed(list(model.named_modules(remove_duplicate=False)))}
        names = {key: first[module] for key, module in model.named_modules(remove_duplicate=False) if key}
        facts = {"names": json.dumps(names), "state": json.dumps(list(model.state_dict()))}
        save_file(tensors, path(name + ".safetensors"), facts)

    def all_kinds(name, model, kinds=(script, trace, export), image=x, **more):
        values(name, model, image, **more)
        for kind in kinds:
            kind(name + endings.get(kind, ""), model, image)

    large = torch.randn(2, 1, 8, 6, generator=torch.Generator().manual_seed(5))
    all_kinds("aliased", made(Aliased()), (script, trace, export, export_strictly), image=large)
    all_kinds("twice", made(Twice()), (script, trace, export, export_strictly))
    all_kinds("composed", made(Composed()))
    all_kinds("counting", made(Counting()), (script,))
    all_kinds("on_image", made(OnImage()))
    all_kinds("drops_image", made(DropsImage()))
    all_kinds("branching", made(Branching()), (script,))
    for name, dtype in (("half", torch.half), ("bfloat16", torch.bfloat16), ("double", torch.double)):
        # The values are those of the narrower type; the result is that of float.
        model = made(Plain()).to(dtype)
        for kind in (trace, export):
            kind(name + endings.get(kind, ""), model, x.to(dtype))
        values(name, model.float(), modes=("eval",))
    script("complex", made(Complex(True)))
    export("complex", made(Complex(True)))
    script("complex_buffer", made(Complex(False)))
    export("complex_buffer", made(Complex(False)))
    for name, mixes in (("batch", False), ("batch_mixes", True)):
        model = made(Batch(2, mixes))
        values(name, model, modes=("eval",))
        trace(name + "-traced", model)
        export(name, model, fixed=True)
    all_kinds("cumulative", made(Cumulative()), (script, trace, export))
    trace("cumulative_training-traced", made(Cumulative(), "train"))
    # The fourth batch has weight 1/4, the tenth 1/10, which is the default momentum too.
    trace("cumulative_fourth-traced", made(Cumulative(None, 3), "train"), batches=4)
    trace("tenth-traced", made(Cumulative(0.1, 9), "train"), batches=10)
    values("tenth", made(Cumulative(0.1, 10)))
    square = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(5))
    weights = [f"one.parametrizations.weight{part}" for part in ("", ".0")]
    all_kinds("axes", made(Axes()), (trace, export_freely), image=square, skip=weights)
    all_kinds("spectral", made(Spectral()), (trace, export), modes=("eval",))
    trace("spectral_training-traced", made(Spectral(), "train"))
    export("spectral_training", made(Spectral(), "train"))
    model = made(Attention(), "train")
    trace("attention_training-traced", model)
    export("attention_training", model)
    values("attention_training", model.eval())
    all_kinds("recurrent", made(Recurrent()), (trace, export))
    for what in ("depth", "noise", "mean"):
        for normed in (False, True):
            model, name = made(TrainingAlone(what, normed), "train"), f"{what}_{'normed' if normed else 'bare'}_training"
            trace(name + "-traced", model)
            export(name, model)
    model = made(TrainingAlone("depth", True), "train")
    script("depth_training", model)
    values("depth_training", model, modes=("eval",))
    all_kinds("addressed", made(Addressed()))
    all_kinds("no_half", made(NoHalf()), modes=("eval",))
    with torch.no_grad():
        trace("no_way_back-traced", made(NoWayBack()))


if __name__ == "__main__":
    here = os.path.dirname(os.path.abspath(__file__))
    main(sys.argv[1] if len(sys.argv) > 1 else os.path.join(here, "../../test/fixtures/semantics"), sys.argv[2:])
