"""Answers are as `/openapi.json` says, whatever is asked."""

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import given
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

from conditional_detr.serving import answers
from conditional_detr.serving.app import Service, create_app
from conditional_detr.serving.limits import Access, Limits
from fuzzing import fuzzed
from servers import png

GETS, POSTS = ("/health/live", "/health/ready", "/metrics", "/model"), ("/predict", "/explain")
PATHS = {**dict.fromkeys(GETS, "GET"), **dict.fromkeys(POSTS, "POST")}
NOT_CHECKED = [positive_data_acceptance]  # a schema cannot say that a file is an image


@pytest.fixture(scope="module")
def schema(detector) -> Iterator[Any]:
    """The description of a server in this process."""
    service = Service(detector, "cells", Limits(upload_bytes=200_000, pixels=100_000, images=3))
    yield schemathesis.openapi.from_asgi("/openapi.json", create_app(service, Access(), lambda line: None))
    assert "cdetr_errors_total 0.0" in service.metrics.text().decode()
    service.close()


def test_all_paths_are_tested(schema):
    assert {each.path: each.method.upper() for each in (found.ok() for found in schema.get_all_operations())} == PATHS


@pytest.mark.parametrize("path", PATHS)
def test_valid_requests_are_answered_as_described(schema, path: str):
    @fuzzed(0.3 if path in POSTS else 0.02)
    @given(case=schema[path][PATHS[path]].as_strategy())
    def test(case: Any) -> None:
        case.call_and_validate(excluded_checks=NOT_CHECKED)

    test()


@pytest.mark.parametrize("path", POSTS)
def test_other_requests_are_refused_as_described(schema, path: str):
    @fuzzed(0.3)
    @given(case=schema[path]["POST"].as_strategy(generation_mode=GenerationMode.NEGATIVE))
    def test(case: Any) -> None:
        case.call_and_validate()

    test()


@pytest.mark.parametrize("path", POSTS)
def test_results_are_as_described(schema, path: str):
    @fuzzed(0.1)
    @given(case=schema[path]["POST"].as_strategy(body={"images": [png()]}))
    def test(case: Any) -> None:
        assert case.call_and_validate().status_code == 200

    test()


def test_every_answer_has_an_example_that_fits(schema):
    components = schema.raw_schema["components"]["schemas"]
    for path, methods in schema.raw_schema["paths"].items():
        for status, answer in methods[PATHS[path].lower()]["responses"].items():
            ((kind, content),) = answer["content"].items()
            if "$ref" not in content["schema"]:
                assert (path, kind, type(content["example"])) == ("/metrics", "text/plain", str)
                continue
            name = content["schema"]["$ref"].rpartition("/")[2]
            getattr(answers, name).model_validate(content.get("example") or components[name]["example"], extra="forbid")
            assert status == "200" or content["example"], (path, status)
