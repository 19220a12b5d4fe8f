"""The reference pages against the program: what stands between their markers is made of it.

`FASTK_BLESS=1` writes it anew.
"""

import json
import os
import re
from pathlib import Path

import support

ROOT = Path(__file__).parents[2]
START, END = "<!-- made by tests/python/test_reference.py -->\n", "<!-- end -->\n"


def compare(page, made):
    path = ROOT / "docs" / page
    text = path.read_text(encoding="utf-8")
    before, rest = text.split(START)
    now, after = rest.split(END)
    if os.environ.get("FASTK_BLESS"):
        path.write_text(before + START + made + END + after, encoding="utf-8")
        return
    assert now == made, f"docs/{page} is stale: run this test with FASTK_BLESS=1"


def flat(text):
    """A text as one cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")


def kind(schema):
    """The type of a parameter in few words."""
    if "$ref" in schema:
        return schema["$ref"].rsplit("/", 1)[-1]
    if "enum" in schema:
        return ", ".join(f"`{word}`" for word in schema["enum"])
    if "oneOf" in schema:
        return " or ".join(kind(one) for one in schema["oneOf"] if one.get("type") != "null")
    if schema.get("type") == "array":
        return f"{kind(schema['items'])}, repeatable"
    named = schema.get("type", "any")
    named = [one for one in named if one != "null"][0] if isinstance(named, list) else named
    return named + (f" from {schema['minimum']}" if schema.get("minimum") else "")


def words(document, schema):
    """The words a parameter can be, where a reference leads to some."""
    if "$ref" in schema:
        target = document["components"]["schemas"][schema["$ref"].rsplit("/", 1)[-1]]
        if "enum" in target or "oneOf" in target and all("enum" in one for one in target["oneOf"]):
            every = target.get("enum") or [word for one in target["oneOf"] for word in one["enum"]]
            return ", ".join(f"`{word}`" for word in every)
    return kind(schema)


def test_the_page_about_rest_has_every_operation_parameter_and_code():
    document = json.loads((ROOT / "openapi" / "fastk.v1.json").read_text(encoding="utf-8"))
    out = []
    for path, item in document["paths"].items():
        for method, operation in item.items():
            out.append(f"\n### `{method.upper()} {path}`\n\n")
            about = flat(operation.get("description", ""))
            out.append(f"{operation['summary']} (`{operation['operationId']}`).{' ' + about if about else ''}\n\n")
            parameters = [one for one in operation.get("parameters", []) if one["in"] != "path"]
            if parameters:
                out.append("| parameter | in | type | what |\n|---|---|---|---|\n")
            for one in parameters:
                needed = " (required)" if one["required"] else ""
                about = flat(one.get("description", ""))
                out.append(f"| `{one['name']}`{needed} | {one['in']} | {words(document, one['schema'])} | {about} |\n")
            if parameters:
                out.append("\n")
            body = operation.get("requestBody")
            if body:
                out.append(f"Body: {', '.join(f'`{one}`' for one in body['content'])}.\n")
            codes = []
            for status, response in operation["responses"].items():
                found = re.findall(r"`([a-z_]+)`:", response["description"]) if status[0] in "45" else []
                codes.append(f"{status} {', '.join(f'`{code}`' for code in found)}".strip() if found else status)
            out.append(f"Answers: {'; '.join(codes)}.\n")
    assert len(out) > 100
    compare("rest.md", "".join(out) + "\n")


def helps(words=()):
    """Each verb with its help, depth first."""
    environment = os.environ | {"COLUMNS": "100"}
    text = support.run(*words, "--help", env=environment).stdout
    yield words, "\n".join(line.rstrip() for line in text.splitlines()) + "\n"
    listed = re.search(r"^Commands:\n(.*?)(?:\n\n|\Z)", text, re.MULTILINE | re.DOTALL)
    for verb in re.findall(r"^  ([a-z][a-z-]*)", listed[1], re.MULTILINE) if listed else []:
        if verb != "help":
            yield from helps((*words, verb))


def test_the_page_about_the_command_line_has_every_verb_and_flag():
    made = "".join(f"\n### `{' '.join(('fastk', *verb))}`\n\n```text\n{text}```\n" for verb, text in helps())
    assert made.count("###") > 20
    compare("cli.md", made + "\n")


def test_the_page_about_the_configuration_has_every_key():
    out, section, about = [], "", []
    for line in (ROOT / "config" / "fastk.toml").read_text(encoding="utf-8").splitlines():
        if found := re.fullmatch(r"\[(.+)\]", line):
            section, about = found[1], []
            out.append(f"\n### `[{section}]`\n\n| key | environment | default | what |\n|---|---|---|---|\n")
        elif line.startswith("#"):
            about.append(line.lstrip("# "))
        elif found := re.fullmatch(r"(\w+) = (.+)", line):
            variable = f"FASTK__{section}__{found[1]}".upper().replace(".", "__")
            out.append(f"| `{found[1]}` | `{variable}` | `{found[2]}` | {flat(' '.join(about))} |\n")
            about = []
        else:
            about = []
    assert len(out) > 20
    compare("configuration.md", "".join(out) + "\n")
