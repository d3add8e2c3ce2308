"""Send what Postman makes of the document to the production server: `python -m tests.postman`.

Postman's own converter, from npm, makes a collection with the settings that the README names. Each request of it must
succeed as it is, but for the token and for the ids and codes in its path, which a person fills in too; and but for
those where that can't be.
"""

import json
import re
import subprocess
import sys

import pytest
import requests

from tests.fuzz import OPERATIONS, backend, season  # noqa: F401  (fixtures)

CONVERTER = "openapi-to-postmanv2@6"
SETTINGS = "parametersResolution=Example,enableOptionalParameters=false"

REFUSED = {
    "PATCH /categories/:id": "name_taken",  # by the request before
    "POST /events/:id/waiting": "Not Found",  # for a ticket type of that event, which is sold out
    "POST /sign-up": "email_taken",
    "POST /webhooks/:provider": "The signature is not good",  # none but the provider's is
}


@pytest.fixture(scope="session")
def collection(season, tmp_path_factory):  # noqa: F811
    folder = tmp_path_factory.mktemp("postman")
    (folder / "openapi.json").write_text(requests.get(f"{season.api}/openapi.json", timeout=30).text)
    subprocess.run(["npm", "install", "--silent", CONVERTER], cwd=folder, check=True)
    convert = ["npx", "openapi2postmanv2", "-i", "v2", "-s", "openapi.json", "-o", "collection.json", "-O", SETTINGS]
    subprocess.run(convert, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return json.loads((folder / "collection.json").read_text())


def requests_in(folder):
    for item in folder["item"]:
        yield from [item["request"]] if "request" in item else requests_in(item)


def send(season, request):  # noqa: F811
    """Send a request of the collection as an admin, with something that is there in its path."""
    template = "/" + "/".join(re.sub(r"^:(\w+)$", r"{\1}", part) for part in request["url"]["path"])
    [operation] = [it for it in OPERATIONS.values() if it.path == template and it.method == request["method"].lower()]
    path = template.format(**season.there(operation, "admin"))
    headers = {header["key"]: header["value"] for header in request["header"] if not header.get("disabled")}
    if request["auth"] and request["auth"]["type"] == "bearer":
        headers |= season.authorization("admin", request["method"], path)
    query = {it["key"]: it["value"] for it in request["url"]["query"] if not it.get("disabled")}
    body = request["body"] and request["body"]["raw"]
    return requests.request(request["method"], season.api + path, params=query, headers=headers, data=body, timeout=30)


def call_of(request):
    return f"{request['method']} /{'/'.join(request['url']['path'])}"


def test_every_request_of_the_collection_succeeds(season, collection):  # noqa: F811
    sent = list(requests_in(collection))
    assert len(sent) == len(OPERATIONS)
    answers = [(it, send(season, it)) for it in sent]
    refused = {call_of(it): answer.json() for it, answer in answers if not answer.ok}
    assert {call: body.get("reason", body["message"]) for call, body in refused.items()} == REFUSED


if __name__ == "__main__":
    sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", __file__]))
