"""Faults of oneDNN's convolutions in libtorch, each by a few lines of PyTorch: what docs/kernels.md reports upstream.

    python3 scripts/kernel_faults.py

Each runs in a process of its own, because some end it or never end. Wrong is what differs from the same in float64 by
more than rounding. ONEDNN_MAX_CPU_ISA=AVX512_CORE, AVX512_CORE_BF16, AVX512_CORE_AMX, … chooses the kernels.
"""

import subprocess
import sys

import torch
import torch.nn.functional as F

LAST2, LAST3 = torch.channels_last, torch.channels_last_3d

# name: (input, weight, arguments, type, memory format, of what: "output", "input" or "weight" gradient)
FAULTS = {
    "depth below the kernel, bfloat16, channels_last": ((2, 64, 2, 8, 8), (64, 64, 3, 3, 3), dict(padding=1), torch.bfloat16, LAST3, "weight"),
    "depth below the kernel, bfloat16": ((2, 64, 2, 8, 8), (64, 64, 3, 3, 3), dict(padding=1), torch.bfloat16, None, "weight"),
    "height below the kernel, bfloat16, output": ((2, 16, 2, 2), (16, 16, 3, 3), dict(padding=1), torch.bfloat16, LAST2, "output"),
    "stride onto one place, bfloat16": ((2, 16, 2, 2), (16, 16, 3, 3), dict(padding=1, stride=2), torch.bfloat16, LAST2, "weight"),
    "dilated groups, bfloat16": ((2, 16, 9, 9), (16, 1, 3, 3), dict(padding=2, dilation=2, groups=16), torch.bfloat16, LAST2, "weight"),
    "padding around a kernel of 1, strided": ((2, 16, 9, 9), (16, 16, 1, 1), dict(padding=1, stride=2), torch.float32, LAST2, "weight"),
    "strided 1×1 of few channels": ((4, 8, 32, 32), (16, 8, 1, 1), dict(stride=2), torch.float32, LAST2, "weight"),
    "strided stem over five slices": ((2, 1, 5, 7, 7), (1, 1, 7, 7, 7), dict(padding=3, stride=2), torch.float32, None, "weight"),
    "strided stem over few slices": ((2, 1, 7, 9, 9), (1, 1, 7, 7, 7), dict(padding=3, stride=2), torch.float32, None, "weight"),
}


def check(name):
    size, kernel, arguments, dtype, layout, what = FAULTS[name]
    worst = 0.0
    for seed in range(20):  # what is read of memory that nobody wrote differs from time to time
        torch.manual_seed(seed)
        x, w = torch.randn(size), torch.randn(kernel) / 10
        g = torch.randn_like(F.conv2d(x, w, **arguments) if x.dim() == 4 else F.conv3d(x, w, **arguments))
        junk = [torch.full((n,), 1e4) for n in (1 << 12, 1 << 16, 1 << 20)]  # what memory held before
        del junk
        results = []
        for kind, form in ((dtype, layout), (torch.float64, None)):
            a, b = (t.detach().clone().to(dtype).to(kind) for t in (x, w))
            if form is not None:
                a, b = a.contiguous(memory_format=form), b.contiguous(memory_format=form)
            a.requires_grad_(), b.requires_grad_()
            out = (F.conv2d if a.dim() == 4 else F.conv3d)(a, b, **arguments)
            grad = g.to(dtype).to(kind)
            if form is not None:
                grad = grad.contiguous(memory_format=form)
            out.backward(grad)
            results.append({"output": out, "input": a.grad, "weight": b.grad}[what].double())
        actual, right = results
        error = ((actual - right).abs().max() / right.square().mean().sqrt()).item()
        worst = max(worst, error if error == error else float("inf"))
    print(f"largest error {worst:.3g} standard deviations")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        check(sys.argv[1])
    else:
        print(torch.__version__, torch.backends.cpu.get_cpu_capability())
        for name in FAULTS:
            try:
                run = subprocess.run([sys.executable, __file__, name], capture_output=True, text=True, timeout=20)
                said = run.stdout.strip() if run.returncode == 0 else f"the process ended ({run.returncode})"
            except subprocess.TimeoutExpired:
                said = "never ends"
            print(f"{name}: {said}")
