"""The Markdown table of docs/models.md, from what the C++ test measured:

    python make_model_files.py FOLDER
    LAYER_ENSEMBLES_MODEL_FILES=FOLDER build/core_tests "imported parity" > measured.txt
    python table.py FOLDER measured.txt"""

import json
import re
import sys
from pathlib import Path

from safetensors import safe_open

FORMATS = ("script", "trace", "export")
HEADINGS = {"script": "TorchScript, scripted", "trace": "TorchScript, traced", "export": "torch.export"}
FORWARD, FOLDED, BACKWARD = ("eval", "taps", "odd", "single", "channels_last", "train"), ("folded",), ("grad", "buffer")


def read_measured(path):
    """{(network, variant): {kind: error} or the message of a failure}"""
    measured = {}
    for line in path.read_text().splitlines():
        found = re.match(r"imported (\S+) (\S+) ?(.*)", line)
        if not found:
            continue
        name, variant, rest = found.groups()
        failed = re.search(r"failed: (.*)", rest)
        fields = dict(re.findall(r"(\w+)=(\S+)", rest.split(" failed:")[0]))
        measured[name, variant] = failed.group(1) if failed else fields
    return measured


def worst(fields, kinds):
    errors = [float(fields[kind]) for kind in kinds if kind in fields]
    return short(max(errors)) if errors else "–"


def short(error):
    if error == 0:
        return "0"
    mantissa, exponent = f"{error:.0e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def main(folder, measured_path):
    measured = read_measured(measured_path)
    rows, notes = [], []

    def note(text):
        if text not in notes:
            notes.append(text)
        return f"[{notes.index(text) + 1}]"

    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
        name = path.stem
        cases, refused = json.loads(metadata["cases"]), json.loads(metadata["refused"])
        cells = {format: [] for format in FORMATS}
        for case in cases:
            variant = case["variant"]
            what = variant.partition("-")[2]
            fields = measured.get((name, variant), "not measured")
            if isinstance(fields, str):
                text = f"not read {note(fields)}"
            else:
                text = " / ".join(worst(fields, kinds) for kinds in (FORWARD, FOLDED, BACKWARD))
                tapped, of = fields["tapped"].split("/")
                if tapped != of:
                    text += f", {tapped} of {of} taps"
            if case.get("static"):
                text += f" {note('Fixed to the example’s size: ' + case['static'])}"
            cells[case["format"]].append(f"{what}: {text}" if what else text)
        for variant, why in refused.items():
            what = variant.partition("-")[2]
            text = f"not exportable {note(why)}"
            cells[variant.partition("-")[0]].append(f"{what}: {text}" if what else text)
        rows.append([f"`{name}`", *("<br>".join(cells[format]) for format in FORMATS)])

    print("| network | " + " | ".join(HEADINGS[format] for format in FORMATS) + " |")
    print("|---" * (1 + len(FORMATS)) + "|")
    for row in rows:
        print("| " + " | ".join(row) + " |")
    print()
    for i, text in enumerate(notes):
        print(f"[{i + 1}] {text}  ")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python table.py FOLDER MEASURED")
    main(Path(sys.argv[1]), Path(sys.argv[2]))
