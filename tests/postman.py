"""Send what Postman makes of the document to the production server: `python -m tests.postman`.

Postman's own converter, from npm, makes a collection with the settings that the README names. Each request of it must
succeed as it is, but for the token and for the ids and codes in its path, which a person fills in too. Where it has a
name or address that the request before took, that is the answer.
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
        login = season.log_in("admin")
        kind = "refresh_token" if path == "/refresh" else "access_token"
        headers["Authorization"] = f"Bearer {login[kind]}"
    query = {it["key"]: it["value"] for it in request["url"]["query"] if not it.get("disabled")}
    body = request["body"] and request["body"]["raw"]
    return requests.request(request["method"], season.api + path, params=query, headers=headers, data=body, timeout=30)


def test_every_request_of_the_collection_succeeds(season, collection):  # noqa: F811
    sent = list(requests_in(collection))
    assert len(sent) == len(OPERATIONS)
    refused = [(answer.request.method, answer.url, answer.text) for it in sent if not (answer := send(season, it)).ok]
    taken = [("PATCH", "name_taken"), ("POST", "email_taken")]
    assert [(method, json.loads(text).get("reason")) for method, url, text in refused] == taken, refused


if __name__ == "__main__":
    sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", __file__]))
