"""Exports networks to TorchScript (scripted and traced) and torch.export, and writes what PyTorch computes for each, for
native/tests/imported_parity_test.cpp:

    python make_model_files.py FOLDER [NAME_PART...]

For each network one NAME.safetensors, with what Python's own forward hooks saw, and one model file per format. Its keys:
"input", "eval/output", "eval/tap/<module>"; the same below "odd/" for an image of 97×130; of one training pass
"train/output", "train/tap/<module>", "grad/<parameter>" and "buffer/<name>" after it. The gradients are those of the sum
of output · cotangent and of each tap · cotangent, with cotangent = cos(0, 1, 2, …) / √(number of elements). Of a large
parameter's gradient only the first rows are kept. Dropout and stochastic depth have probability 0.

Metadata "cases" is a JSON list, one entry per model file: {"file", "format": "script" | "trace" | "export", "variant",
"options": ImportOptions (native/core/backbones/imported.h), "trainable", "odd", "single" (takes a batch of one), "unused": prefixes of parameters and
buffers that this file's graph does not use in training}. "refused" tells, by variant, why there is no file."""

import copy
import gc
import json
import logging
import re
import sys
import time
import warnings
from pathlib import Path

import torch
from safetensors.torch import save_file

from networks import all_networks, cotangent, randomise

LARGE = 65_536  # numbers of a gradient that are kept


def pick(output, path=None):
    """The tensor that ImportOptions::output names; without a path by its rule."""
    if path:
        for key in path:
            output = output[key]
        return output
    if torch.is_tensor(output):
        return output
    if isinstance(output, dict):
        return output["out"] if "out" in output else pick(next(iter(output.values())))
    return pick(output[0])


class Hooks:
    """Keeps what modules returned, copied before a later operation can overwrite it."""

    def __init__(self, model, names=None):
        self.values, self.handles = {}, []
        for name, module in model.named_modules():
            if name and (names is None or name in names):
                self.handles.append(module.register_forward_hook(self.keep(name)))

    def keep(self, name):
        def hook(_module, _args, output):
            self.values.pop(name, None)  # the last call decides, also about the order
            if torch.is_tensor(output):
                self.values[name] = output.clone()

        return hook

    def __enter__(self):
        return self.values

    def __exit__(self, *_):
        for handle in self.handles:
            handle.remove()


# What passes its input on in evaluation leaves no trace in a recorded network: its call is nowhere in the file.
PASSING = ("Identity", "Dropout", "DropPath", "StochasticDepth")


def choose_taps(model, network, args, rank):
    """The required ones, then modules spread over the order of execution that return an image-like tensor."""
    with torch.no_grad(), Hooks(model) as values:
        model(*args)
    modules = dict(model.named_modules())
    passing = {name for name in values if type(modules[name]).__name__.startswith(PASSING)}
    ran = [name for name, value in values.items() if value.dim() == rank and name not in passing]
    missing = [name for name in network.taps if name not in values]
    if missing:
        raise ValueError(f"these taps did not run: {missing}")
    wanted = max(0, network.count - len(network.taps))
    spread = [ran[round(i * (len(ran) - 1) / max(1, wanted - 1))] for i in range(wanted)]
    chosen = set(network.taps) | set(spread)
    return [name for name in values if name in chosen]


def set_mode(model, network, training):
    model.train(training)
    for name in network.frozen:
        model.get_submodule(name).eval()


def expectations(model, network, x):
    args = network.args(x)
    taps = choose_taps(model.eval(), network, args, x.dim())
    tensors = {"input": x}
    with torch.no_grad(), Hooks(model, taps) as values:
        tensors["eval/output"] = pick(model(*args), network.output)
    tensors |= {f"eval/tap/{name}": value for name, value in values.items()}
    if network.odd:
        odd = torch.randn(*x.shape[:-2], 97, 130)
        with torch.no_grad(), Hooks(model, taps) as values:
            tensors["odd/output"] = pick(model(*network.args(odd)), network.output)
        tensors |= {"odd/input": odd, **{f"odd/tap/{name}": value for name, value in values.items()}}

    twin = copy.deepcopy(model)
    set_mode(twin, network, True)
    with Hooks(twin, taps) as values:
        output = pick(twin(*args), network.output)
    loss = (output * cotangent(output)).sum()
    for value in values.values():
        loss = loss + (value * cotangent(value)).sum()
    loss.backward()
    tensors |= {"train/output": output, **{f"train/tap/{name}": value for name, value in values.items()}}
    for name, parameter in twin.named_parameters():
        if parameter.grad is not None:
            rows = max(1, LARGE * len(parameter) // parameter.numel()) if parameter.dim() else 1
            tensors[f"grad/{name}"] = parameter.grad[:rows] if parameter.dim() else parameter.grad
    tensors |= {f"buffer/{name}": buffer for name, buffer in twin.named_buffers()}
    return taps, {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}


def export(model, args, **options):
    return torch.export.export(model, args, strict=False, **options)


def dynamic_shapes(args, x):
    auto = torch.export.Dim.AUTO
    # Spatial axes and batch of the image; the batch of every other tensor.
    return tuple({axis: auto for axis in range(arg.dim()) if axis != 1 or arg is not x} if torch.is_tensor(arg) else None for arg in args)


def make_file(variant, model, network, args, x, taps, path):
    """Writes one model file; gives what calls it in Python, and facts for the case."""
    training = variant == "export-train" or bool(network.frozen)
    set_mode(model, network, training)
    facts = {}
    if variant == "script":
        module = torch.jit.script(model)
        module.save(path)
    elif variant == "trace":
        tensors = tuple(arg for arg in args if torch.is_tensor(arg))
        state = copy.deepcopy(model.state_dict())
        if len(tensors) == len(args):
            module = torch.jit.trace(model, tensors, strict=False, check_trace=False)
        else:
            module = torch.jit.trace(model, args[: len(tensors)], strict=False, check_trace=False)
        if training:  # tracing ran the network, and its buffers moved
            module.load_state_dict(state)
            model.load_state_dict(state)
        module.save(path)
    else:
        preserved = {}
        if variant == "export-preserved":
            preserved = {"preserve_module_call_signature": tuple(taps)}
        try:
            if not network.dynamic:
                raise ValueError("sizes that vary were not tried")
            program = export(model, args, dynamic_shapes=dynamic_shapes(args, x), **preserved)
            dynamic = True
        except Exception as error:
            facts["static"] = reason(error)
            program = export(model, args, **preserved)
            dynamic = False
        if variant == "export-core":
            program = program.run_decompositions()
        facts["dynamic"] = dynamic
        torch.export.save(program, path)
        module = program.module()
    return module, training, facts


def call_with(module, variant, args):
    """A traced module takes tensors alone."""
    return module(*(arg for arg in args if torch.is_tensor(arg) or variant != "trace"))


def check_file(module, variant, network, tensors, training):
    """Whether the file itself, run by Python, gives the same for both sizes: then a difference is the reader's."""
    found = {}
    for size in ("eval", "single", "odd"):
        if (size == "odd" and not network.odd) or (size == "single" and not network.single) or training:
            continue
        x = {"eval": tensors["input"], "single": tensors["input"][:1], "odd": tensors.get("odd/input")}[size]
        try:
            with torch.no_grad():
                output = pick(call_with(module, variant, network.args(x)), network.output)
            expected = tensors["odd/output"] if size == "odd" else tensors["eval/output"][: len(x)]
            found[size] = output.shape == expected.shape and (output - expected).abs().max().item() <= 1e-5 * expected.abs().max().item()
        except Exception as error:
            found[size] = reason(error)
    return found


def reason(error):
    text = str(error).strip()
    if "Could not guard on data-dependent" in text:
        return "data-dependent control flow"
    lines = [re.sub(r"\s+", " ", line).strip() for line in text.splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:240]


def make_network(folder, name, network, seed):
    """Writes the expectations and model files of one network."""
    model = randomise(network.make(), seed)
    x = torch.randn(network.shape)
    taps, tensors = expectations(model, network, x)
    cases, refused = [], {}
    for variant in network.variants:
        kind = variant.split("-")[0]
        path = folder / f"{name}.{variant}.{'pt2' if kind == 'export' else 'pt'}"
        candidate = copy.deepcopy(model)
        args = network.args(x)
        try:
            module, training, facts = make_file(variant, candidate, network, args, x, taps, str(path))
        except Exception as error:
            refused[variant] = reason(error)
            path.unlink(missing_ok=True)
            continue
        found = check_file(module, variant, network, tensors, training)
        if found.get("eval", True) is not True:
            refused[variant] = f"what was exported gives another result in Python: {found['eval']}"
            path.unlink()
            continue
        cases.append(
            {
                **{"file": path.name, "format": kind, "variant": variant, "taps": taps},
                "options": network.options.get(variant, network.options.get("*", {})),
                "trainable": variant != "export-core",
                # An export in training mode has the same dynamic axes as one in evaluation.
                "odd": network.odd and found.get("odd", facts.get("dynamic", False)) is True,
                "single": network.single and found.get("single", facts.get("dynamic", False)) is True,
                "unused": list(network.unused.get(variant, ())),
                **facts,
            }
        )
    metadata = {"cases": json.dumps(cases), "refused": json.dumps(refused), "torch": torch.__version__}
    save_file(tensors, folder / f"{name}.safetensors", metadata)
    return cases, refused, taps


def main(folder, filters):
    torch.set_num_threads(2)
    warnings.simplefilter("ignore")
    logging.disable(logging.ERROR)
    folder.mkdir(parents=True, exist_ok=True)
    networks, missing = all_networks()
    for library, why in missing.items():
        print(f"{library}: left out ({why})")
    began, made, failed = time.time(), 0, []
    for seed, (name, network) in enumerate(networks.items()):
        if filters and not any(part in name for part in filters):
            continue
        start = time.time()
        torch.manual_seed(seed)
        try:
            cases, refused, taps = make_network(folder, name, network, seed)
        except Exception as error:
            failed.append(name)
            print(f"{name}: FAILED: {reason(error)}", flush=True)
            continue
        made += len(cases)
        names = [case["variant"] + (" (static)" if case.get("static") else "") for case in cases]
        print(f"{name}: {', '.join(names)}; {len(taps)} taps, {time.time() - start:.1f} s", flush=True)
        for variant, why in refused.items():
            print(f"    {variant}: {why}", flush=True)
        gc.collect()
    size = sum(path.stat().st_size for path in folder.iterdir()) / 1e9
    print(f"{made} model files, {size:.2f} GB in {folder}, {time.time() - began:.0f} s")
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python make_model_files.py FOLDER [NAME_PART...]")
    main(Path(sys.argv[1]), sys.argv[2:])
