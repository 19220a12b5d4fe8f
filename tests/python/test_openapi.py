"""Validation of the OpenAPI document."""

import json
import re
from pathlib import Path

from openapi_spec_validator import OpenAPIV31SpecValidator

COMMITTED = Path(__file__).parents[2] / "openapi" / "fastk.v1.json"


def operations(document):
    for path, item in document["paths"].items():
        for method, operation in item.items():
            if method in {"get", "post", "put", "patch", "delete"}:
                yield path, method, operation


def test_the_served_document_is_valid_openapi_3_1_and_the_committed_one(server):
    document = server.json("GET", "/openapi.json")
    assert document["openapi"].startswith("3.1")
    refs = set(re.findall(r'"\$ref": "#/components/schemas/(\w+)"', json.dumps(document)))
    assert refs <= set(document["components"]["schemas"])
    errors = [f"{list(error.absolute_path)}: {error.message}" for error in OpenAPIV31SpecValidator(document).iter_errors()]
    assert errors == []
    assert document == json.loads(COMMITTED.read_text(encoding="utf-8"))


def test_operations_have_stable_names_and_documented_errors(server):
    document = server.json("GET", "/openapi.json")
    names = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(names) == len(set(names)) > 10
    assert all(re.fullmatch(r"[a-z][a-zA-Z0-9]*", name) for name in names), names
    for path, method, operation in operations(document):
        assert any(code.startswith("2") for code in operation["responses"]), (method, path)


def test_the_documentation_page_needs_no_network(server):
    page = server.read("/docs/").decode()
    assert "swagger" in page.lower()
    assert not re.search(r"""(?:src|href)=["']https?://""", page)
