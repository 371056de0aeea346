"""The zoo's networks in plain PyTorch, written from the papers with the state-dict names of torchvision's ResNet and
segmentation_models_pytorch's Unet, DeepLabV3Plus and FPN. They are the reference that the C++ networks are compared with.
torch.jit.script takes Unet and PlainUnet too."""

import re
from typing import List, Optional

import torch
from torch import nn
from torch.nn import functional as F


class BasicBlock(nn.Module):
    expansion = 1

    def __init__(self, inplanes, planes, stride, dilation):
        super().__init__()
        self.conv1 = nn.Conv2d(inplanes, planes, 3, stride, dilation, dilation, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, dilation, dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.downsample = make_downsample(inplanes, planes, stride)

    def forward(self, x):
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        y += x if self.downsample is None else self.downsample(x)
        return self.relu(y)


class Bottleneck(nn.Module):
    expansion = 4

    def __init__(self, inplanes, planes, stride, dilation):
        super().__init__()
        self.conv1 = nn.Conv2d(inplanes, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride, dilation, dilation, bias=False)
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


DEPTHS = {
    "resnet18": (BasicBlock, (2, 2, 2, 2)),
    "resnet34": (BasicBlock, (3, 4, 6, 3)),
    "resnet50": (Bottleneck, (3, 4, 6, 3)),
    "resnet101": (Bottleneck, (3, 4, 23, 3)),
}


class ResNet(nn.Module):
    """classes = None leaves out the pooling and `fc`, as an encoder. output_stride 16 or 8: dilation instead of stride."""

    def __init__(self, name, in_channels=3, classes=1000, output_stride=32):
        super().__init__()
        block, depths = DEPTHS[name]
        self.conv1 = nn.Conv2d(in_channels, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        inplanes, self.channels = 64, [64]
        for i, depth in enumerate(depths):
            planes, blocks = 64 << i, []
            stride = 2 if 0 < i and 4 << i <= output_stride else 1
            dilation = max(1, (4 << i) // output_stride)
            for j in range(depth):
                blocks.append(block(inplanes, planes, stride if j == 0 else 1, dilation))
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


class UpsamplingBilinear2d(nn.Module):
    def forward(self, x, size):
        return F.interpolate(x, size=size, mode="bilinear", align_corners=True)


class SegmentationHead(nn.Sequential):
    def __init__(self, in_channels, classes):
        super().__init__(nn.Conv2d(in_channels, classes, 3, padding=1), nn.Identity(), Activation())


class UpsamplingHead(nn.Sequential):
    """The segmentation head of decoders that end below the image's size."""

    def __init__(self, in_channels, classes):
        super().__init__(nn.Conv2d(in_channels, classes, 1), UpsamplingBilinear2d(), Activation())

    def forward(self, x, size):
        return self[2](self[1](self[0](x), size))


class Unet(nn.Module):
    def __init__(self, encoder="resnet18", in_channels=3, classes=1, decoder_channels=(256, 128, 64, 32, 16), attention=None):
        super().__init__()
        self.encoder = ResNetEncoder(encoder, in_channels)
        self.decoder = UnetDecoder(self.encoder.channels, list(decoder_channels), attention)
        self.segmentation_head = SegmentationHead(decoder_channels[-1], classes)

    def forward(self, x):
        return self.segmentation_head(self.decoder(self.encoder(x), x.shape[2:]))


class ResNetEncoder(ResNet):
    def __init__(self, name, in_channels, output_stride=32):
        super().__init__(name, in_channels, None, output_stride)


class SeparableConv2d(nn.Sequential):
    def __init__(self, i, o, dilation=1):
        super().__init__(nn.Conv2d(i, i, 3, 1, dilation, dilation, groups=i, bias=False), nn.Conv2d(i, o, 1, bias=False))


def norm_relu(conv, channels):
    return conv, nn.BatchNorm2d(channels), nn.ReLU(inplace=True)


class ASPPPooling(nn.Sequential):
    def __init__(self, i, o):
        super().__init__(nn.AdaptiveAvgPool2d(1), *norm_relu(nn.Conv2d(i, o, 1, bias=False), o))

    def forward(self, x):
        return F.interpolate(super().forward(x), size=x.shape[2:], mode="bilinear", align_corners=False)


class ASPP(nn.Module):
    def __init__(self, i, o, rates, dropout):
        super().__init__()
        atrous = [nn.Sequential(*norm_relu(SeparableConv2d(i, o, rate), o)) for rate in rates]
        self.convs = nn.ModuleList([nn.Sequential(*norm_relu(nn.Conv2d(i, o, 1, bias=False), o)), *atrous, ASPPPooling(i, o)])
        self.project = nn.Sequential(*norm_relu(nn.Conv2d(5 * o, o, 1, bias=False), o), nn.Dropout(dropout))

    def forward(self, x):
        return self.project(torch.cat([conv(x) for conv in self.convs], 1))


class DeepLabV3PlusDecoder(nn.Module):
    def __init__(self, encoder_channels, o, rates, dropout):
        super().__init__()
        self.aspp = nn.Sequential(ASPP(encoder_channels[-1], o, rates, dropout), *norm_relu(SeparableConv2d(o, o), o))
        self.up = UpsamplingBilinear2d()
        self.block1 = nn.Sequential(*norm_relu(nn.Conv2d(encoder_channels[1], 48, 1, bias=False), 48))
        self.block2 = nn.Sequential(*norm_relu(SeparableConv2d(48 + o, o), o))

    def forward(self, maps):
        pyramid = self.up(self.aspp(maps[-1]), maps[1].shape[2:])
        return self.block2(torch.cat([pyramid, self.block1(maps[1])], 1))


class DeepLabV3Plus(nn.Module):
    def __init__(self, encoder="resnet18", in_channels=3, classes=1, decoder_channels=256, output_stride=16, atrous_rates=(12, 24, 36), dropout=0.5):
        super().__init__()
        self.encoder = ResNetEncoder(encoder, in_channels, output_stride)
        self.decoder = DeepLabV3PlusDecoder(self.encoder.channels, decoder_channels, atrous_rates, dropout)
        self.segmentation_head = UpsamplingHead(decoder_channels, classes)

    def forward(self, x):
        return self.segmentation_head(self.decoder(self.encoder(x)), x.shape[2:])


class FPNBlock(nn.Module):
    def __init__(self, pyramid, skip):
        super().__init__()
        self.skip_conv = nn.Conv2d(skip, pyramid, 1)

    def forward(self, x, skip):
        return F.interpolate(x, size=skip.shape[2:], mode="nearest") + self.skip_conv(skip)


class Conv3x3GNReLU(nn.Module):
    def __init__(self, i, o, doubles):
        super().__init__()
        self.doubles = doubles
        self.block = nn.Sequential(nn.Conv2d(i, o, 3, padding=1, bias=False), nn.GroupNorm(32, o), nn.ReLU(inplace=True))

    def forward(self, x, size):
        x = self.block(x)
        return F.interpolate(x, size=size, mode="bilinear", align_corners=True) if self.doubles else x


class SegmentationSteps(nn.Sequential):
    def forward(self, x, sizes):
        for step, size in zip(self, sizes):
            x = step(x, size)
        return x


class SegmentationBlock(nn.Module):
    def __init__(self, i, o, doublings):
        super().__init__()
        self.block = SegmentationSteps(*(Conv3x3GNReLU(o if n else i, o, doublings > 0) for n in range(max(1, doublings))))

    def forward(self, x, sizes):
        return self.block(x, sizes)


class MergeBlock(nn.Module):
    def forward(self, maps):
        return sum(maps[1:], maps[0])


class FPNDecoder(nn.Module):
    def __init__(self, channels, pyramid, segmentation, dropout):
        super().__init__()
        self.p5 = nn.Conv2d(channels[4], pyramid, 1)
        self.p4 = FPNBlock(pyramid, channels[3])
        self.p3 = FPNBlock(pyramid, channels[2])
        self.p2 = FPNBlock(pyramid, channels[1])
        self.seg_blocks = nn.ModuleList(SegmentationBlock(pyramid, segmentation, n) for n in (3, 2, 1, 0))
        self.merge = MergeBlock()
        self.dropout = nn.Dropout2d(dropout)

    def forward(self, maps):
        p5 = self.p5(maps[4])
        p4 = self.p4(p5, maps[3])
        p3 = self.p3(p4, maps[2])
        p2 = self.p2(p3, maps[1])
        levels = [p5, p4, p3, p2]
        sizes = [level.shape[2:] for level in levels]
        own = [block(level, sizes[n + 1 :] or sizes[-1:]) for n, (block, level) in enumerate(zip(self.seg_blocks, levels))]
        return self.dropout(self.merge(own))


class FPN(nn.Module):
    def __init__(self, encoder="resnet18", in_channels=3, classes=1, pyramid_channels=256, segmentation_channels=128, dropout=0.2):
        super().__init__()
        self.encoder = ResNetEncoder(encoder, in_channels)
        self.decoder = FPNDecoder(self.encoder.channels, pyramid_channels, segmentation_channels, dropout)
        self.segmentation_head = UpsamplingHead(segmentation_channels, classes)

    def forward(self, x):
        return self.segmentation_head(self.decoder(self.encoder(x)), x.shape[2:])


class PlainUnet(nn.Module):
    conv, pooling, norms, upsampling = nn.Conv2d, nn.MaxPool2d, {"batch": nn.BatchNorm2d}, "nearest"

    def __init__(self, in_channels=1, classes=2, width=16, depth=4, norm="batch"):
        super().__init__()
        widths = [width << level for level in range(depth)]
        self.norm = self.norms[norm]
        self.encoder = nn.ModuleList(self.double_conv(i, o) for i, o in zip([in_channels, *widths], widths))
        self.pool = self.pooling(2, ceil_mode=True)
        self.decoder = nn.ModuleList(self.double_conv(widths[i + 1] + widths[i], widths[i]) for i in reversed(range(depth - 1)))
        self.head = self.conv(width, classes, 1)

    def double_conv(self, in_channels, out_channels):
        layers = []
        for channels in (in_channels, out_channels):
            layers += [self.conv(channels, out_channels, 3, padding=1, bias=False), self.norm(out_channels), nn.ReLU(inplace=True)]
        return nn.Sequential(*layers)

    def forward(self, x):
        maps: List[torch.Tensor] = []
        for level in self.encoder:
            x = level(self.pool(x) if len(maps) > 0 else x)
            maps.append(x)
        maps.pop()
        for level in self.decoder:
            skip = maps.pop()
            align = {} if self.upsampling == "nearest" else {"align_corners": False}
            x = level(torch.cat([F.interpolate(x, size=skip.shape[2:], mode=self.upsampling, **align), skip], 1))
        return self.head(x)


class UNet3d(PlainUnet):
    conv, pooling = nn.Conv3d, nn.MaxPool3d
    norms = {"batch": nn.BatchNorm3d, "instance": lambda channels: nn.InstanceNorm3d(channels, affine=True)}

    def __init__(self, upsampling="nearest", **options):
        super().__init__(**options)
        self.upsampling = upsampling


class ConvBlock(nn.Module):
    def __init__(self, axes, in_channels, out_channels, kernel, stride, dropout):
        super().__init__()
        conv, norm, drop = ((nn.Conv2d, nn.InstanceNorm2d, nn.Dropout2d), (nn.Conv3d, nn.InstanceNorm3d, nn.Dropout2d))[axes - 2]
        self.conv = conv(in_channels, out_channels, kernel, stride, [(side - 1) // 2 for side in kernel])
        if dropout > 0:
            self.dropout = drop(dropout)
        self.norm = norm(out_channels, affine=True)
        self.nonlin = nn.LeakyReLU(inplace=True)

    def forward(self, x):
        x = self.conv(x)
        return self.nonlin(self.norm(self.dropout(x) if hasattr(self, "dropout") else x))


class StackedBlocks(nn.Module):
    def __init__(self, axes, in_channels, out_channels, kernel, stride, count, dropout):
        super().__init__()
        blocks = [
            ConvBlock(axes, out_channels if i else in_channels, out_channels, kernel, [1] * axes if i else stride, dropout)
            for i in range(count)
        ]
        self.convs = nn.Sequential(*blocks)

    def forward(self, x):
        return self.convs(x)


class DynEncoder(nn.Module):
    def __init__(self, stages):
        super().__init__()
        self.stages = nn.ModuleList(stages)

    def forward(self, x):
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


class DynDecoder(nn.Module):
    """Of its outputs, one a stage, the last one alone runs: the others are for deep supervision."""

    def __init__(self, stages, transpconvs, seg_layers):
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.transpconvs = nn.ModuleList(transpconvs)
        self.seg_layers = nn.ModuleList(seg_layers)

    def forward(self, maps):
        x = maps.pop()
        for transposed, stage in zip(self.transpconvs, self.stages):
            skip = maps.pop()
            x = transposed(x)[(..., *(slice(side) for side in skip.shape[2:]))]
            x = stage(torch.cat([x, skip], 1))
        return self.seg_layers[-1](x)


class DynUnet(nn.Module):
    """nnU-Net's PlainConvUNet, with one name for each weight: all_modules and decoder.encoder are left out."""

    axes = 3

    def __init__(self, in_channels=1, classes=2, width=32, widest=320, depth=None, convolutions=2, strides=None, kernels=None, dropout=0):
        super().__init__()
        axes = self.axes
        depth = depth or len(strides or kernels or range(5))
        strides = strides or [[1] * axes] + [[2] * axes] * (depth - 1)
        kernels = kernels or [[3] * axes] * depth
        widths = [min(width << stage, widest) for stage in range(depth)]
        conv, transposed = ((nn.Conv2d, nn.ConvTranspose2d), (nn.Conv3d, nn.ConvTranspose3d))[axes - 2]
        up = list(reversed(range(depth - 1)))
        self.encoder = DynEncoder(
            nn.Sequential(StackedBlocks(axes, i, o, kernel, stride, convolutions, dropout))
            for i, o, kernel, stride in zip([in_channels, *widths], widths, kernels, strides)
        )
        self.decoder = DynDecoder(
            [StackedBlocks(axes, 2 * widths[s], widths[s], kernels[s], [1] * axes, convolutions, dropout) for s in up],
            [transposed(widths[s + 1], widths[s], strides[s + 1], strides[s + 1]) for s in up],
            [conv(widths[s], classes, 1) for s in up],
        )

    def forward(self, x):
        return self.decoder(self.encoder(x))


class DynUnet2d(DynUnet):
    axes = 2


def make(config):
    """The network that make_backbone() makes from the same configuration, with other initial weights."""
    options = {k: v for k, v in config.items() if k not in ("kind", "seed")}
    options = {re.sub("[A-Z]", lambda capital: f"_{capital[0].lower()}", k): v for k, v in options.items()}
    kinds = {"unet": Unet, "deeplabv3plus": DeepLabV3Plus, "fpn": FPN, "plain-unet": PlainUnet, "unet3d": UNet3d, "dynunet": DynUnet, "dynunet2d": DynUnet2d}
    if config["kind"] in kinds:
        return kinds[config["kind"]](**options)
    return ResNet(config["kind"], **options)
