"""The networks that make_model_files.py exports: of torchvision, timm and transformers, and some made to be difficult.
All have random weights; nothing is downloaded. A library that is not installed leaves its networks out."""

import math
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Dict, List, Tuple

import torch
from torch import nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples" / "python"))
import zoo  # noqa: E402  twins of this package's own networks


@dataclass
class Network:
    make: Callable[[], nn.Module]
    shape: Tuple[int, ...] = (2, 3, 64, 64)
    # Names that shall be among the taps; the rest of `count` is spread over the depth.
    taps: Tuple[str, ...] = ()
    count: int = 8
    variants: Tuple[str, ...] = ("script", "trace", "export")
    # Arguments of forward for an image.
    args: Callable[[torch.Tensor], tuple] = lambda x: (x,)
    # ImportOptions of each variant ("*": of those without their own).
    options: Dict[str, dict] = field(default_factory=dict)
    # Where the output is; None: by the rule of ImportOptions::output.
    output: Any = None
    # Whether images of any size and shape pass, so that a second, odd size is compared.
    odd: bool = True
    # Whether a batch of one image passes too.
    single: bool = True
    # Whether torch.export shall try sizes that vary: for windows of attention it thinks for minutes.
    dynamic: bool = True
    # Prefixes of parameters and buffers that a variant does not use in training.
    unused: Dict[str, Tuple[str, ...]] = field(default_factory=dict)
    # Exported while training with these modules in evaluation mode: batch norm that stays frozen.
    frozen: Tuple[str, ...] = ()


class Shared(nn.Module):
    """One module under two names, one called three times, and taps that the next operation overwrites."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.act = nn.ReLU(inplace=True)
        self.block = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8))
        self.again = self.block
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, x):
        x = self.act(self.stem(x))
        y = self.act(self.block(x))
        y = self.act(self.again(y))
        y = self.block(y)
        y += x
        y = self.norm(y)
        y.mul_(0.5).add_(0.1)
        z = self.head(y)
        z.sigmoid_()
        return z


class Branching(nn.Module):
    """Taps in branches and loops that an argument decides about."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.even = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6))
        self.uneven = nn.Conv2d(6, 6, 3, padding=1)
        self.never = nn.Conv2d(6, 6, 1)
        self.stages = nn.ModuleList(nn.Conv2d(6, 6, 3, padding=1) for _ in range(3))
        self.act = nn.LeakyReLU(0.1)
        self.head = nn.Conv2d(6, 2, 1)

    def forward(self, x, rounds: int = 3):
        y = self.act(self.stem(x))
        for i in range(rounds):
            if i % 2 == 0:
                y = y + self.act(self.even(y))
            else:
                y = y - self.act(self.uneven(y))
        if y.shape[1] > 100:
            y = self.never(y)
        for stage in self.stages:
            if rounds > 1:
                y = torch.tanh(stage(y))
        return self.head(y)


class Looping(nn.Module):
    """What only a script keeps: the number of turns depends on the image, and a branch returns early."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.down = nn.Conv2d(6, 6, 3, 2, 1)
        self.act = nn.ReLU()
        self.head = nn.Conv2d(6, 2, 1)

    def forward(self, x):
        y = self.act(self.stem(x))
        size = [y.shape[2], y.shape[3]]
        while y.shape[2] > 16:
            y = self.act(self.down(y))
        if x.shape[1] != 3:
            return y
        return F.interpolate(self.head(y), size, mode="bilinear", align_corners=False)


class PartlyFrozen(nn.Module):
    """A trained encoder whose batch norm is to stay as it is, below a decoder that trains."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()
        )
        self.decoder = nn.Sequential(nn.Conv2d(16, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, x):
        return F.interpolate(self.head(self.decoder(self.encoder(x))), size=x.shape[2:], mode="bilinear", align_corners=False)


class TwoInputs(nn.Module):
    """The image is the second argument; the first is a tensor, the third a number."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(1, 8)
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.body = nn.Sequential(nn.BatchNorm2d(8), nn.SiLU(), nn.Conv2d(8, 8, 3, padding=1), nn.SiLU())
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, time: torch.Tensor, image: torch.Tensor, strength: float = 0.5):
        y = self.stem(image) + self.embed(time.view(-1, 1)).view(-1, 8, 1, 1)
        return self.head(y + strength * self.body(y))


class Nested(nn.Module):
    """A tuple of a tensor and a list; of a submodule too, which then cannot be tapped itself."""

    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, 2, 1)

        def forward(self, x) -> Tuple[torch.Tensor, torch.Tensor]:
            return self.left(x), self.right(x)

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.PReLU(4))
        self.pair = Nested.Pair()
        self.deep = nn.Conv2d(4, 3, 1)
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, x) -> Tuple[torch.Tensor, List[torch.Tensor]]:
        left, right = self.pair(self.stem(x))
        return right, [self.deep(right), self.head(left)]


class Dictionary(nn.Module):
    """A dict without "out", and with a second tensor."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1, groups=1), nn.GroupNorm(4, 8), nn.GELU())
        self.edges, self.mask = nn.Conv2d(8, 1, 1), nn.Conv2d(8, 2, 1)

    def forward(self, x) -> Dict[str, torch.Tensor]:
        y = self.features(x)
        return {"edges": self.edges(y), "mask": self.mask(y)}


class Unet3d(nn.Module):
    """As nnU-Net builds them: instance norm, leaky ReLU, strided and transposed convolutions."""

    def __init__(self, widths=(8, 16, 32)):
        super().__init__()
        self.encoder = nn.ModuleList(self.block(i, o, 1 if n == 0 else 2) for n, (i, o) in enumerate(zip((1, *widths), widths)))
        self.up = nn.ModuleList(nn.ConvTranspose3d(o, i, 2, 2) for i, o in zip(widths[-2::-1], widths[:0:-1]))
        self.decoder = nn.ModuleList(self.block(2 * i, i, 1) for i in widths[-2::-1])
        self.head = nn.Conv3d(widths[0], 2, 1)

    @staticmethod
    def block(i, o, stride):
        layers = []
        for channels, step in ((i, stride), (o, 1)):
            layers += [nn.Conv3d(channels, o, 3, step, 1), nn.InstanceNorm3d(o, affine=True), nn.LeakyReLU(0.01, inplace=True)]
        return nn.Sequential(*layers)

    def forward(self, x):
        maps: List[torch.Tensor] = []
        for level in self.encoder:
            x = level(x)
            maps.append(x)
        for i, (up, level) in enumerate(zip(self.up, self.decoder)):
            x = level(torch.cat([up(x), maps[len(maps) - 2 - i]], 1))
        return self.head(x)


class TimmUnet(nn.Module):
    """A U-Net over a timm encoder that gives its features as a list."""

    def __init__(self, encoder):
        super().__init__()
        import timm

        self.encoder = timm.create_model(encoder, features_only=True, pretrained=False, scriptable=True)
        channels = self.encoder.feature_info.channels()
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(low + high, low, 3, padding=1, bias=False), nn.BatchNorm2d(low), nn.ReLU(inplace=True))
            for low, high in zip(channels[-2::-1], channels[:0:-1])
        )
        self.head = nn.Conv2d(channels[0], 2, 1)

    def forward(self, x):
        features = self.encoder(x)
        y = features[-1]
        for i, block in enumerate(self.blocks):
            skip = features[len(features) - 2 - i]
            y = block(torch.cat([F.interpolate(y, size=skip.shape[2:], mode="nearest"), skip], 1))
        return F.interpolate(self.head(y), size=x.shape[2:], mode="bilinear", align_corners=False)


def import_torchvision():
    """torchvision's models are plain PyTorch. Where its compiled operators do not match the installed torch, declaring
    them is enough to import it."""
    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        sys.modules.pop("torchvision", None)
        import_torchvision.library = torch.library.Library("torchvision", "DEF")
        names = ("roi_align", "roi_pool", "ps_roi_align", "ps_roi_pool", "deform_conv2d")
        for name in ("nms", "qnms", *names, *(f"_{name}_backward" for name in names)):
            import_torchvision.library.define(f"{name}(Tensor x) -> Tensor")
        import torchvision
    return torchvision


def torchvision_networks():
    models = import_torchvision().models
    plain = {"weights": None}
    seg = {"weights": None, "weights_backbone": None}

    def convnext():  # of half the tiny one's width
        block = models.convnext.CNBlockConfig
        return models.convnext.ConvNeXt([block(48, 96, 2), block(96, 192, 2), block(192, 384, 4), block(384, None, 2)])

    def swin():
        return models.swin_transformer.SwinTransformer([4, 4], 48, [2, 2, 4, 2], [3, 6, 12, 24], [7, 7])

    return {
        "resnet18": Network(
            lambda: models.resnet18(**plain),
            taps=("relu", "layer1.0.relu", "layer1.0.bn2", "layer2.0.downsample", "layer4.1.bn2"),
            variants=("script", "trace", "export", "export-train", "export-core"),
        ),
        "resnet50": Network(lambda: models.resnet50(**plain), variants=("script", "export")),
        "mobilenet_v3_small": Network(lambda: models.mobilenet_v3_small(**plain), taps=("features.1.block.1", "features.4.block.2.scale_activation")),
        "efficientnet_b0": Network(lambda: models.efficientnet_b0(**plain, stochastic_depth_prob=0.0)),
        "regnet_y_400mf": Network(lambda: models.regnet_y_400mf(**plain)),
        "densenet121": Network(lambda: models.densenet121(**plain), taps=("features.denseblock1.denselayer2.norm1", "features.denseblock2", "features.norm5")),
        "convnext": Network(convnext),
        "swin": Network(swin, taps=("features.1.1.attn", "features.2"), odd=False, dynamic=False),
        "googlenet": Network(
            lambda: models.googlenet(**plain, init_weights=False),
            taps=("inception3a.branch2", "inception4a"),
            # Traced and exported in evaluation, where the auxiliary classifiers do not run.
            unused={"trace": ("aux1.", "aux2."), "export": ("aux1.", "aux2.")},
        ),
        "fcn_resnet50": Network(lambda: models.segmentation.fcn_resnet50(**seg, num_classes=3, aux_loss=True), taps=("backbone.layer4", "classifier")),
        "deeplabv3_resnet50": Network(
            lambda: models.segmentation.deeplabv3_resnet50(**seg, num_classes=3),
            taps=("backbone.layer3", "classifier.0.convs.4", "classifier.0"),
            variants=("script", "export"),
        ),
        "lraspp_mobilenet_v3_large": Network(
            lambda: models.segmentation.lraspp_mobilenet_v3_large(**seg, num_classes=3), taps=("backbone.4", "classifier.cbr", "classifier")
        ),
        "mc3_18": Network(
            lambda: models.video.mc3_18(**plain), shape=(2, 3, 4, 48, 48), taps=("stem", "layer1.0", "layer2.0.downsample", "layer4.1.relu"), odd=False
        ),
    }


def timm_networks():
    import timm

    def make(name, **options):
        return lambda: timm.create_model(name, pretrained=False, scriptable=True, **options)

    return {
        "timm_resnet26t": Network(make("resnet26t"), taps=("layer2.0", "layer4.1.act3")),
        "timm_efficientnet_lite0": Network(make("efficientnet_lite0"), taps=("blocks.2.0.bn2",)),
        "timm_vit_tiny": Network(make("vit_tiny_patch16_224", img_size=64), taps=("patch_embed.proj", "blocks.2", "blocks.11", "norm"), count=4, odd=False),
        "timm_convnext_atto": Network(make("convnext_atto"), taps=("stages.0", "stages.2.blocks.3.conv_dw")),
        "timm_mobilenetv4": Network(make("mobilenetv4_conv_small"), taps=("blocks.1", "blocks.3.0")),
        "timm_hrnet_w18_small": Network(make("hrnet_w18_small"), odd=False, taps=("stage2.0.fuse_layers.0.1", "stage4.0.branches.2")),
        "timm_unet_resnet18": Network(lambda: TimmUnet("resnet18"), taps=("blocks.0", "encoder.layer2.1.act2", "blocks.3.2")),
        "timm_unet_mobilenetv3": Network(lambda: TimmUnet("mobilenetv3_small_050"), taps=("blocks.0", "blocks.3.2")),
    }


def transformers_networks():
    from transformers import ConvNextConfig, SegformerConfig, SegformerForSemanticSegmentation, UperNetConfig, UperNetForSemanticSegmentation

    def segformer():
        return SegformerForSemanticSegmentation(
            SegformerConfig(
                depths=[2, 2, 2, 2],
                hidden_sizes=[16, 32, 48, 64],
                decoder_hidden_size=32,
                num_labels=3,
                hidden_dropout_prob=0,
                attention_probs_dropout_prob=0,
                classifier_dropout_prob=0,
                drop_path_rate=0,
            )
        )

    def upernet():
        backbone = ConvNextConfig(depths=[1, 1, 2, 1], hidden_sizes=[16, 32, 48, 64], out_features=["stage1", "stage2", "stage3", "stage4"], drop_path_rate=0)
        return UperNetForSemanticSegmentation(
            UperNetConfig(backbone_config=backbone, hidden_size=32, num_labels=3, use_auxiliary_head=False, auxiliary_in_channels=48)
        )

    # A dataclass comes out of both; a trace makes a dict of it.
    return {
        "segformer": Network(segformer, taps=("decode_head.batch_norm", "decode_head.classifier")),
        "upernet_convnext": Network(upernet, taps=("decode_head.fpn_bottleneck",)),
    }


def own_networks():
    unet = {"kind": "unet", "encoder": "resnet18", "inChannels": 3, "classes": 2}
    plain = {"kind": "plain-unet", "inChannels": 1, "classes": 2, "width": 8, "depth": 3}
    every = ("script", "trace", "export", "export-preserved")
    return {
        "unet_resnet18": Network(
            lambda: zoo.make(unet),
            taps=("encoder.relu", "encoder.layer1.0.relu", "encoder.layer3", "decoder.blocks.1.conv2.1", "decoder.blocks.4.conv2.2"),
        ),
        "unet_scse": Network(
            lambda: zoo.make({**unet, "attention": "scse", "decoderChannels": [64, 32, 32, 16, 16]}), taps=("decoder.blocks.1.attention1.attention",)
        ),
        "plain_unet": Network(lambda: zoo.make(plain), shape=(2, 1, 64, 64), variants=every + ("export-train",)),
        "shared": Network(Shared, taps=("act", "block", "norm", "head", "stem"), variants=every),
        "branching": Network(
            Branching,
            taps=("even.0", "even", "uneven", "act", "stages.1"),
            args=lambda x: (x, 3),
            options={"*": {"inputs": {"rounds": 3}}, "trace": {}},
        ),
        "looping": Network(Looping, taps=("down", "act"), variants=("script",)),
        "partly_frozen": Network(PartlyFrozen, taps=("encoder.1", "decoder.1"), frozen=("encoder",), variants=("script", "trace", "export-train")),
        "two_inputs": Network(
            TwoInputs,
            shape=(2, 1, 64, 64),
            args=lambda x: (torch.tensor([0.25, 0.75]), x, 0.5),
            options={
                "*": {"image": "image", "inputs": {"time": [0.25, 0.75], "strength": 0.5}, "inChannels": 1},
                # The number is a constant of the traced graph; the tensor is given by its index.
                "trace": {"image": "1", "inputs": {"0": [0.25, 0.75]}},
            },
            single=False,
        ),
        "nested": Network(Nested, shape=(2, 1, 64, 64), taps=("pair.left", "stem"), output=[1, 1], options={"*": {"output": [1, 1]}}),
        "dictionary": Network(Dictionary, shape=(2, 1, 64, 64), output=["mask"], options={"*": {"output": ["mask"]}}),
        "unet3d": Network(Unet3d, shape=(2, 1, 16, 24, 32), taps=("encoder.1.1", "up.0", "decoder.0"), odd=False),
    }


def all_networks():
    """Networks by name, and the libraries that are missing."""
    networks, missing = {}, {}
    for library, make in (("own", own_networks), ("torchvision", torchvision_networks), ("timm", timm_networks), ("transformers", transformers_networks)):
        try:
            networks |= make()
        except ImportError as error:
            missing[library] = str(error)
    return networks, missing


def randomise(model, seed):
    """Statistics and scales that are not the identity, and no randomness in training: dropout and stochastic depth get
    probability 0."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(getattr(module, "running_mean", None), torch.Tensor):
                module.running_mean.copy_(torch.randn(module.running_mean.shape, generator=generator) * 0.1)
                module.running_var.copy_(torch.rand(module.running_var.shape, generator=generator) + 0.5)
            norm = isinstance(module, (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)) or "Norm" in type(module).__name__
            if norm and isinstance(getattr(module, "weight", None), torch.Tensor):
                module.weight.copy_(torch.rand(module.weight.shape, generator=generator) + 0.5)
                if isinstance(getattr(module, "bias", None), torch.Tensor):
                    module.bias.copy_(torch.randn(module.bias.shape, generator=generator) * 0.1)
            for name in ("layer_scale", "gamma", "layer_scale_parameter"):  # 1e-6 at first, which hides the block
                if isinstance(module._parameters.get(name), nn.Parameter):
                    module._parameters[name].copy_(torch.rand(module._parameters[name].shape, generator=generator) * 0.5 + 0.2)
            if isinstance(module, nn.modules.dropout._DropoutNd):
                module.p = 0.0
            if type(module).__name__ == "StochasticDepth":
                module.p = 0.0
            if type(module).__name__ == "DropPath" or "DropPath" in type(module).__name__:
                module.drop_prob = 0.0
    return model


def cotangent(tensor):
    """What the backward pass starts from; native/tests/fixture.h computes the same."""
    return torch.cos(torch.arange(tensor.numel(), dtype=torch.float32)).view(tensor.shape) / math.sqrt(tensor.numel())
