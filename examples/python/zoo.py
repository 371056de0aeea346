"""The zoo's networks in plain PyTorch, written from the papers with the state-dict names of torchvision's ResNet and
segmentation_models_pytorch's Unet. They are the reference that the C++ networks are compared with. torch.jit.script takes
them too."""

from typing import List, Optional

import torch
from torch import nn
from torch.nn import functional as F


class BasicBlock(nn.Module):
    expansion = 1

    def __init__(self, inplanes, planes, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inplanes, planes, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.downsample = make_downsample(inplanes, planes, stride)

    def forward(self, x):
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        y += x if self.downsample is None else self.downsample(x)
        return self.relu(y)


class Bottleneck(nn.Module):
    expansion = 4

    def __init__(self, inplanes, planes, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inplanes, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, planes * 4, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(planes * 4)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = make_downsample(inplanes, planes * 4, stride)

    def forward(self, x):
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        y += x if self.downsample is None else self.downsample(x)
        return self.relu(y)


def make_downsample(inplanes, planes, stride):
    if inplanes == planes and stride == 1:
        return None
    return nn.Sequential(nn.Conv2d(inplanes, planes, 1, stride, bias=False), nn.BatchNorm2d(planes))


DEPTHS = {"resnet18": (BasicBlock, (2, 2, 2, 2)), "resnet34": (BasicBlock, (3, 4, 6, 3)), "resnet50": (Bottleneck, (3, 4, 6, 3))}


class ResNet(nn.Module):
    """classes = None leaves out the pooling and `fc`, as an encoder."""

    def __init__(self, name, in_channels=3, classes=1000):
        super().__init__()
        block, depths = DEPTHS[name]
        self.conv1 = nn.Conv2d(in_channels, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        inplanes, self.channels = 64, [64]
        for i, depth in enumerate(depths):
            planes, blocks = 64 << i, []
            for j in range(depth):
                blocks.append(block(inplanes, planes, 2 if i > 0 and j == 0 else 1))
                inplanes = planes * block.expansion
            setattr(self, f"layer{i + 1}", nn.Sequential(*blocks))
            self.channels.append(inplanes)
        if classes is not None:
            self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
            self.fc = nn.Linear(inplanes, classes)

    def features(self, x):
        first = self.relu(self.bn1(self.conv1(x)))
        second = self.layer1(self.maxpool(first))
        third = self.layer2(second)
        fourth = self.layer3(third)
        return [first, second, third, fourth, self.layer4(fourth)]

    def forward(self, x):
        maps = self.features(x)
        if hasattr(self, "fc"):
            return self.fc(torch.flatten(self.avgpool(maps[-1]), 1))
        else:
            return maps


class Conv2dReLU(nn.Sequential):
    def __init__(self, in_channels, out_channels):
        super().__init__(nn.Conv2d(in_channels, out_channels, 3, 1, 1, bias=False), nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True))


class SCSEModule(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.cSE = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, channels // 16, 1), nn.ReLU(inplace=True), nn.Conv2d(channels // 16, channels, 1), nn.Sigmoid()
        )
        self.sSE = nn.Sequential(nn.Conv2d(channels, 1, 1), nn.Sigmoid())

    def forward(self, x):
        return x * self.cSE(x) + x * self.sSE(x)


class Attention(nn.Module):
    def __init__(self, name, channels):
        super().__init__()
        self.attention = SCSEModule(channels) if name == "scse" else nn.Identity()

    def forward(self, x):
        return self.attention(x)


class UnetDecoderBlock(nn.Module):
    def __init__(self, in_channels, skip_channels, out_channels, attention):
        super().__init__()
        self.conv1 = Conv2dReLU(in_channels + skip_channels, out_channels)
        self.attention1 = Attention(attention, in_channels + skip_channels)
        self.conv2 = Conv2dReLU(out_channels, out_channels)
        self.attention2 = Attention(attention, out_channels)

    def forward(self, x, skip: Optional[torch.Tensor], size: List[int]):
        x = F.interpolate(x, size=size, mode="nearest")
        if skip is not None:
            x = self.attention1(torch.cat([x, skip], 1))
        return self.attention2(self.conv2(self.conv1(x)))


class UnetDecoder(nn.Module):
    def __init__(self, encoder_channels, decoder_channels, attention):
        super().__init__()
        self.center = nn.Identity()
        ins = [encoder_channels[-1], *decoder_channels[:-1]]
        skips = [*encoder_channels[-2::-1], 0]
        self.blocks = nn.ModuleList(UnetDecoderBlock(i, s, o, attention) for i, s, o in zip(ins, skips, decoder_channels))

    def forward(self, maps: List[torch.Tensor], size: List[int]):
        x = self.center(maps[-1])
        for i, block in enumerate(self.blocks):
            skip: Optional[torch.Tensor] = None
            if i + 1 < len(maps):
                skip = maps[len(maps) - 2 - i]
            x = block(x, skip, size if skip is None else skip.shape[2:])
        return x


class Activation(nn.Module):
    def __init__(self):
        super().__init__()
        self.activation = nn.Identity()

    def forward(self, x):
        return self.activation(x)


class SegmentationHead(nn.Sequential):
    def __init__(self, in_channels, classes):
        super().__init__(nn.Conv2d(in_channels, classes, 3, padding=1), nn.Identity(), Activation())


class Unet(nn.Module):
    def __init__(self, encoder="resnet18", in_channels=3, classes=1, decoder_channels=(256, 128, 64, 32, 16), attention=None):
        super().__init__()
        self.encoder = ResNetEncoder(encoder, in_channels)
        self.decoder = UnetDecoder(self.encoder.channels, list(decoder_channels), attention)
        self.segmentation_head = SegmentationHead(decoder_channels[-1], classes)

    def forward(self, x):
        return self.segmentation_head(self.decoder(self.encoder(x), x.shape[2:]))


class ResNetEncoder(ResNet):
    def __init__(self, name, in_channels):
        super().__init__(name, in_channels, None)


class PlainUnet(nn.Module):
    def __init__(self, in_channels=1, classes=2, width=16, depth=4):
        super().__init__()
        widths = [width << level for level in range(depth)]
        self.encoder = nn.ModuleList(double_conv(i, o) for i, o in zip([in_channels, *widths], widths))
        self.pool = nn.MaxPool2d(2, ceil_mode=True)
        self.decoder = nn.ModuleList(double_conv(widths[i + 1] + widths[i], widths[i]) for i in reversed(range(depth - 1)))
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, x):
        maps: List[torch.Tensor] = []
        for level in self.encoder:
            x = level(self.pool(x) if len(maps) > 0 else x)
            maps.append(x)
        maps.pop()
        for level in self.decoder:
            skip = maps.pop()
            x = level(torch.cat([F.interpolate(x, size=skip.shape[2:], mode="nearest"), skip], 1))
        return self.head(x)


def double_conv(in_channels, out_channels):
    layers = []
    for channels in (in_channels, out_channels):
        layers += [nn.Conv2d(channels, out_channels, 3, padding=1, bias=False), nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


def make(config):
    """The network that make_backbone() makes from the same configuration, with other initial weights."""
    options = {k: v for k, v in config.items() if k not in ("kind", "seed")}
    names = {"inChannels": "in_channels", "decoderChannels": "decoder_channels"}
    options = {names.get(k, k): v for k, v in options.items()}
    if config["kind"] == "unet":
        return Unet(**options)
    if config["kind"] == "plain-unet":
        return PlainUnet(**options)
    return ResNet(config["kind"], **options)
