#!/usr/bin/env python3
"""Copies the package to the folder `faults` of the target directory and plants the faults of `table.toml` in the copy.

Prints the folder. Only files that changed are written, so that cargo rebuilds no more than necessary. A change whose
text does not occur exactly once in its file is an error.
"""

import os
import re
import sys
import tomllib
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
COPY = Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target") / "faults"
VERSION = re.compile(r'(^name = "fastk"\nversion = "[^"]+)(")', re.MULTILINE)
SWITCH = re.compile(r'(?<!\w)planted\("(\w+)"\)')


def faulty_sources():
    """The sources with all faults planted, by path, and what is wrong with the table."""
    table = tomllib.loads((HERE / "table.toml").read_text())
    sources = {path.relative_to(ROOT): path.read_bytes() for path in (ROOT / "src").rglob("*") if path.is_file()}
    errors, planted = [], set()
    for change in table["change"]:
        file, old, new = Path(change["file"]), change["from"], change["to"]
        names = SWITCH.findall(new)
        planted.update(names)
        if not names:
            errors.append(f"a change of {file} plants no fault: {new!r}")
        count = sources.get(file, b"").count(old.encode())
        if count != 1:
            errors.append(f"{', '.join(names)}: found {count} times in {file}, expected once: {old!r}")
            continue
        new = SWITCH.sub(r'crate::planted::planted("\1")', new)
        sources[file] = sources[file].replace(old.encode(), new.encode())
    errors += [f"{name} is listed, and no change plants it" for name in table["faults"].keys() - planted]
    errors += [f"{name} is planted, and not listed" for name in planted - table["faults"].keys()]
    return sources, errors


def write(path, content):
    if not path.is_file() or path.read_bytes() != content:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def main():
    sources, errors = faulty_sources()
    if errors:
        sys.exit("\n".join(f"tests/faults/table.toml: {error}" for error in sorted(errors)))
    sources[Path("src/lib.rs")] += b"\npub mod planted;\n"
    sources[Path("src/planted.rs")] = (HERE / "planted.rs").read_bytes()
    # A version of its own: cargo names artifacts by name and version, and must not take those of the package itself.
    for name in ["Cargo.toml", "Cargo.lock"]:
        text, count = VERSION.subn(r"\1+faults\2", (ROOT / name).read_text(), count=1)
        if not count:
            sys.exit(f"tests/faults/copy.py: no version of the package in {name}")
        sources[Path(name)] = text.encode()
    for path, content in sources.items():
        write(COPY / path, content)
    for path in (COPY / "src").rglob("*"):
        if path.is_file() and path.relative_to(COPY) not in sources:
            path.unlink()
    for path in ROOT.iterdir():
        link = COPY / path.name
        if path.name in ["src", "target", ".git", "Cargo.toml", "Cargo.lock"]:
            continue
        if link.is_symlink() and link.readlink() != path:
            link.unlink()
        if not link.is_symlink():
            link.symlink_to(path)
    print(COPY)


main()
