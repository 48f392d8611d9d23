"""Which requests pass."""

from __future__ import annotations

import pytest

pytest.importorskip("fastapi")
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient

from launch.serve.guard import BODY, HEADERS, Guard

LOCAL = "http://127.0.0.1:8765"


def client(token: str = "", base: str = LOCAL) -> TestClient:
    return TestClient(Guard(PlainTextResponse("in"), token), base_url=base, follow_redirects=False)


@pytest.mark.parametrize("base", [LOCAL, "http://localhost", "http://[::1]:8765"])
def test_names_of_this_machine_pass_and_no_others(base):
    assert client(base=base).get("/").text == "in"
    for other in ("http://evil.example", "http://127.0.0.1.evil.example", "http://192.168.0.7:8765"):
        assert client(base=other).get("/").status_code == 403


@pytest.mark.parametrize(
    "headers",
    [{"origin": "http://evil.example"}, {"origin": "null"}, {"origin": "http://127.0.0.1:9"}, {"sec-fetch-site": "cross-site"}],
)
def test_a_page_of_another_origin_is_not_answered(headers):
    for token in ("", "secret"):
        answer = client(token).post("/api/jobs", headers={"authorization": "Bearer secret", **headers})
        assert answer.status_code == 403 and "another origin" in answer.json()["error"]
    assert client().post("/", headers={"origin": LOCAL, "sec-fetch-site": "same-origin"}).text == "in"


def test_a_token_is_needed_in_a_header_or_a_cookie_and_the_address_sets_the_cookie():
    guarded = client("secret", "http://example.org")
    for headers in ({}, {"authorization": "Bearer secre"}, {"authorization": "Bearer "}, {"cookie": "jukebox_token=other"}):
        assert guarded.get("/api/jobs", headers=headers).status_code == 401
    assert guarded.get("/?token=wrong").status_code == guarded.get("/api/jobs?token=secret").status_code == 401
    assert guarded.get("/api/jobs", headers={"authorization": "Bearer secret"}).text == "in"
    answer = guarded.get("/?token=secret")
    assert answer.status_code == 303 and answer.headers["location"] == "/"
    assert {"HttpOnly", "SameSite=Strict"} <= set(answer.headers["set-cookie"].split("; "))
    assert guarded.get("/api/jobs").text == "in"  # the cookie is sent now
    assert guarded.get("/?token=other").text == "in"  # no cookie for another word


def test_a_body_has_a_length_within_the_limit():
    assert client().post("/api/jobs", content=b"x" * BODY).text == "in"
    assert client().post("/api/jobs", content=b"x" * (BODY + 1)).status_code == 413
    assert client().post("/api/jobs", content=iter([b"x"])).status_code == 411  # in chunks
    assert client().post("/api/jobs", headers={"content-length": "-1"}).status_code == 411
    assert client().post("/api/uploads", content=iter([b"x"])).text == "in"


def test_every_answer_has_the_headers_that_protect_the_page():
    for answer in (client().get("/"), client("secret").get("/")):
        assert {name: answer.headers[name] for name in HEADERS} == HEADERS
        assert "'unsafe-inline'" not in answer.headers["content-security-policy"].partition("style-src")[0]
