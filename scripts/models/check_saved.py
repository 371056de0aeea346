"""Runs in Python what the networks saved, and compares with what they gave before they were read:

    LAYER_ENSEMBLES_MODEL_FILES=FOLDER LAYER_ENSEMBLES_SAVED=SAVED build/core_tests "imported parity"
    python check_saved.py FOLDER SAVED"""

import json
import sys
import warnings
from pathlib import Path

import torch
from safetensors import safe_open

from make_model_files import call_with, pick, reason
from networks import all_networks


def main(folder, saved):
    torch.set_num_threads(2)
    warnings.simplefilter("ignore")
    networks, _ = all_networks()
    failed = 0
    for path in sorted(folder.glob("*.safetensors")):
        network = networks[path.stem]
        with safe_open(path, framework="pt") as file:
            cases = json.loads(file.metadata()["cases"])
            x, expected = file.get_tensor("input"), file.get_tensor("eval/output")
        for case in cases:
            candidate = saved / f"saved-{case['file']}"
            if not candidate.exists():
                continue
            try:
                if case["format"] == "export":
                    module = torch.export.load(candidate).module()
                else:
                    module = torch.jit.load(candidate).eval()
                if case["variant"] == "export-train":
                    continue  # a recording of training: loading it is all that can be checked
                with torch.no_grad():
                    output = pick(call_with(module, case["variant"], network.args(x)), network.output)
                error = ((output - expected).abs().max() / expected.abs().max()).item()
                verdict = "same" if error <= 1e-5 else f"FAILED: differs by {error:.1e}"
            except Exception as problem:
                verdict = f"FAILED: {reason(problem)}"
            failed += verdict != "same"
            print(f"{candidate.name}: {verdict}", flush=True)
    if failed:
        sys.exit(f"{failed} failed")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python check_saved.py FOLDER SAVED")
    main(Path(sys.argv[1]), Path(sys.argv[2]))
