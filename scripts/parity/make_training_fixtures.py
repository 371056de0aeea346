"""Writes native/tests/training_fixtures.h: what PyTorch computes for losses, optimisers and schedules.

    python make_training_fixtures.py > native/tests/training_fixtures.h

Losses are computed in double precision from their definitions, pixel by pixel where PyTorch has none of its own."""

import json

import torch

torch.set_default_dtype(torch.float64)
IGNORE = 255


def rounded(tensor, digits=12):
    return [float(f"{value:.{digits}g}") for value in tensor.detach().flatten().tolist()]


def region(score, include_background):
    def loss(logits, target):
        p = logits.softmax(1)
        values = []
        for image in range(len(p)):
            kept = target[image] != IGNORE
            for c in range(0 if include_background else 1, p.shape[1]):
                truth = (target[image][kept] == c).double()
                values.append(1 - score(p[image, c][kept], truth) if kept.any() else 0 * p.sum())
        return sum(values) / len(values)

    return loss


def soft_dice(smooth=1e-5, include_background=False):
    return region(lambda p, y: (2 * (p * y).sum() + smooth) / (p.sum() + y.sum() + smooth), include_background)


def jaccard(smooth=1e-5, include_background=False):
    return region(lambda p, y: ((p * y).sum() + smooth) / ((p + y - p * y).sum() + smooth), include_background)


def tversky(alpha, beta, smooth=1e-5):
    return region(
        lambda p, y: ((p * y).sum() + smooth) / ((p * y + alpha * p * (1 - y) + beta * (1 - p) * y).sum() + smooth), False
    )


def cross_entropy(weight=None, label_smoothing=0.0):
    weight = None if weight is None else torch.tensor(weight)
    return lambda logits, target: torch.nn.functional.cross_entropy(
        logits, target, weight, ignore_index=IGNORE, label_smoothing=label_smoothing
    )


def focal(gamma, weight=(1.0, 1.0, 1.0)):
    def loss(logits, target):
        kept = target != IGNORE
        p = logits.softmax(1).gather(1, target.where(kept, 0)[:, None])[:, 0][kept]
        w = torch.tensor(weight)[target[kept]]
        return (-w * (1 - p) ** gamma * p.log()).mean()

    return loss


def lovasz_softmax(logits, target):
    """Per image, over the classes that it has: the sum over k of the k-th largest error times what it adds to the Jaccard loss
    of the k - 1 before it, counted pixel by pixel."""
    p, images = logits.softmax(1), []
    for image in range(len(p)):
        kept = target[image] != IGNORE
        values = []
        for c in range(p.shape[1]):
            truth = (target[image][kept] == c).double()
            if not truth.any():
                continue
            error = (truth - p[image, c][kept]).abs()
            value, wrong, before = 0, set(), 0.0
            inside = set(torch.nonzero(truth).flatten().tolist())
            for i in torch.argsort(error, descending=True, stable=True).tolist():
                wrong.add(i)
                now = len(wrong) / len(inside | wrong)  # 1 - Jaccard index where these pixels are wrong and no others
                value, before = value + error[i] * (now - before), now
            values.append(value)
        images.append(sum(values) / len(values) if values else 0 * p.sum())
    return sum(images) / len(images)


def boundary(first):
    """Distances by looking at every pair of pixels."""

    def loss(logits, target):
        p, images = logits.softmax(1), []
        for image in range(len(p)):
            kept = target[image] != IGNORE
            place = torch.nonzero(kept).double()
            total, distance = 0, torch.cdist(place, place) if len(place) else None
            for c in range(first, p.shape[1]):
                truth = target[image][kept] == c
                if truth.any() and not truth.all():
                    phi = torch.where(truth, 1 - distance[:, ~truth].amin(1), distance[:, truth].amin(1))
                    total = total + (phi * p[image, c][kept]).sum()
            images.append(total / max(1, int(kept.sum())) / (p.shape[1] - first) + 0 * p.sum())
        return sum(images) / len(images)

    return loss


def both(a, b):
    return lambda logits, target: a(logits, target) + b(logits, target)


WEIGHTS = [0.3, 1.0, 2.5]
LOSSES = [
    ({"name": "softDice"}, soft_dice()),
    ({"name": "softDice", "includeBackground": True, "smooth": 1.0}, soft_dice(1.0, True)),
    ({"name": "jaccard"}, jaccard()),
    ({"name": "jaccard", "includeBackground": True}, jaccard(include_background=True)),
    ({"name": "tversky", "alpha": 0.3, "beta": 0.7}, tversky(0.3, 0.7)),
    ({"name": "tversky"}, soft_dice(2e-5)),  # alpha = beta = ½: Dice, with the smoothing counted twice
    ({"name": "crossEntropy"}, cross_entropy()),
    ({"name": "crossEntropy", "classWeights": WEIGHTS}, cross_entropy(WEIGHTS)),
    ({"name": "crossEntropy", "labelSmoothing": 0.1}, cross_entropy(label_smoothing=0.1)),
    ({"name": "crossEntropy", "classWeights": WEIGHTS, "labelSmoothing": 0.2}, cross_entropy(WEIGHTS, 0.2)),
    ({"name": "diceCrossEntropy"}, both(soft_dice(), cross_entropy())),
    ({"name": "diceCrossEntropy", "classWeights": WEIGHTS}, both(soft_dice(), cross_entropy(WEIGHTS))),
    ({"name": "focal"}, focal(2)),
    ({"name": "focal", "gamma": 0.5, "classWeights": WEIGHTS}, focal(0.5, WEIGHTS)),
    ({"name": "focal", "gamma": 0}, cross_entropy()),
    ({"name": "lovaszSoftmax"}, lovasz_softmax),
    ({"name": "boundary"}, boundary(1)),
    ({"name": "boundary", "includeBackground": True}, boundary(0)),
]


def losses():
    """Logits of half the target's height and width: the losses interpolate."""
    torch.manual_seed(1)
    shape, size = (2, 3, 3, 4), (6, 8)
    logits = (2 * torch.randn(shape)).mul(1000).round().div(1000)
    target = torch.randint(0, 3, (shape[0], *size))
    target[0, :2, 3:] = IGNORE
    target[1, 5] = IGNORE
    cases = []
    for options, loss in LOSSES:
        z = logits.clone().requires_grad_()
        value = loss(torch.nn.functional.interpolate(z, size, mode="bilinear", align_corners=False), target)
        value.backward()
        cases.append({"options": options, "value": value.item(), "gradient": rounded(z.grad, 9)})
    return {
        "shape": shape,
        "size": size,
        "logits": rounded(logits),
        "target": target.flatten().tolist(),
        "cases": cases,
    }


OPTIMISERS = [
    ({"name": "adam"}, torch.optim.Adam, {}),
    ({"name": "adam", "weightDecay": 0.1, "betas": [0.8, 0.95], "eps": 1e-4}, torch.optim.Adam, {"weight_decay": 0.1, "betas": (0.8, 0.95), "eps": 1e-4}),
    ({"name": "adamw"}, torch.optim.AdamW, {}),
    ({"name": "adamw", "weightDecay": 0.2}, torch.optim.AdamW, {"weight_decay": 0.2}),
    ({"name": "sgd"}, torch.optim.SGD, {}),
    ({"name": "sgd", "momentum": 0.9, "weightDecay": 0.01}, torch.optim.SGD, {"momentum": 0.9, "weight_decay": 0.01}),
    ({"name": "sgd", "momentum": 0.9, "nesterov": True}, torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
]


def optimisers():
    """Five steps, at a rate that changes; the gradient of step s is fixed. `after`: the parameter after every step;
    `afterCycled`: the same where the momentum (Adam's first beta) changes with the rate, as one-cycle sets it."""
    torch.manual_seed(2)
    start = torch.randn(6).float().double()
    gradients = torch.randn(5, 6).float().double()
    rates = [0.1, 0.1, 0.05, 0.02, 0.02]
    momenta = [0.95, 0.9, 0.85, 0.9, 0.95]
    cases = []
    for options, kind, settings in OPTIMISERS:
        case = {"options": options}
        for name in ["afterCycled", "after"]:
            parameter = start.clone().requires_grad_()
            optimiser = kind([parameter], lr=1.0, foreach=False, **settings)
            group, case[name] = optimiser.param_groups[0], []
            for rate, momentum, gradient in zip(rates, momenta, gradients):
                group["lr"] = rate
                if name == "afterCycled":
                    group.update({"betas": (momentum, group["betas"][1])} if "betas" in group else {"momentum": momentum})
                parameter.grad = gradient.clone()
                optimiser.step()
                case[name].append(rounded(parameter, 10))
        cases.append(case)
    norm = torch.nn.utils.clip_grad_norm_([parameter], 0.5)
    return {
        "start": rounded(start),
        "gradients": [rounded(g) for g in gradients],
        "rates": rates,
        "momenta": momenta,
        "cases": cases,
        "clip": {"norm": norm.item(), "clipped": rounded(parameter.grad)},
    }


def schedules():
    """`factors`: those of every step; of plateau, after every epoch with the given monitored values."""

    def run(make, steps):
        optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        schedule, factors = make(optimiser), []
        for _ in range(steps):
            factors.append(optimiser.param_groups[0]["lr"])
            optimiser.step()
            schedule.step()
        return factors

    module = torch.optim.lr_scheduler
    monitored = [1.0, 0.9, 0.91, 0.9, 0.89995, 0.92, 0.8, 0.8, 0.8, 0.8, 0.81, 0.8, 0.8, 0.8, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5]

    def plateau(**settings):
        optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        schedule, factors = module.ReduceLROnPlateau(optimiser, eps=0, **settings), []
        for value in monitored:
            schedule.step(value)
            factors.append(optimiser.param_groups[0]["lr"])
        return factors

    def momenta(steps, **settings):
        """The momentum at every step: Adam's first beta, and SGD's."""
        both = []
        for kind, named in [(torch.optim.AdamW, {}), (torch.optim.SGD, {"momentum": 0.9})]:
            optimiser = kind([torch.zeros(1, requires_grad=True)], lr=1.0, **named)
            schedule, values = module.OneCycleLR(optimiser, 1.0, steps, **settings), []
            for _ in range(steps):
                group = optimiser.param_groups[0]
                values.append(group["betas"][0] if "betas" in group else group["momentum"])
                optimiser.step()
                schedule.step()
            both.append(values)
        assert both[0] == both[1]
        return both[0]

    return {
        "monitored": monitored,
        "plateau": [
            {"options": {"name": "plateau", "patience": 2}, "factors": plateau(patience=2)},
            {
                "options": {"name": "plateau", "factor": 0.5, "patience": 1, "cooldown": 2, "minFactor": 0.2, "threshold": 0.01},
                "factors": plateau(factor=0.5, patience=1, cooldown=2, min_lr=0.2, threshold=0.01),
            },
            {"options": {"name": "plateau", "patience": 0, "factor": 0.3}, "factors": plateau(patience=0, factor=0.3)},
        ],
        "steps": [
            {"options": {"name": "cosine"}, "factors": run(lambda o: module.CosineAnnealingLR(o, 17), 17)},
            {"options": {"name": "cosine", "minFactor": 0.1}, "factors": run(lambda o: module.CosineAnnealingLR(o, 12, 0.1), 12)},
            {
                "options": {"name": "onecycle"},
                "factors": run(lambda o: module.OneCycleLR(o, 1.0, 20), 20),
                "momenta": momenta(20),
            },
            {
                "options": {"name": "onecycle", "pctStart": 0.5, "divFactor": 10, "finalDivFactor": 100},
                "factors": run(lambda o: module.OneCycleLR(o, 1.0, 13, pct_start=0.5, div_factor=10, final_div_factor=100), 13),
                "momenta": momenta(13, pct_start=0.5),
            },
            {
                "options": {"name": "onecycle", "pctStart": 0.1, "baseMomentum": 0.5, "maxMomentum": 0.9},
                "factors": run(lambda o: module.OneCycleLR(o, 1.0, 30, pct_start=0.1), 30),
                "momenta": momenta(30, pct_start=0.1, base_momentum=0.5, max_momentum=0.9),
            },
            {"options": {"name": "constant"}, "factors": [1.0, 1.0, 1.0]},
        ],
    }


def section(name, content):
    # Below the 65 536 characters that every compiler takes in one string.
    return f'inline constexpr const char* {name} = R"json({json.dumps(content)})json";\n'


print("#pragma once")
print("// Written by scripts/parity/make_training_fixtures.py with PyTorch " + torch.__version__.split("+")[0] + ".")
print("// clang-format off")
print("namespace le::test {")
print(section("kLossFixtures", losses()) + section("kOptimizerFixtures", optimisers()) + section("kScheduleFixtures", schedules()), end="")
print("}  // namespace le::test")
