"""What schemathesis is told by tests/fuzz.py: ids that are there, and to log in anew for what uses up tokens."""

import json
import os
import secrets

import requests
import schemathesis
from closing import close_answers

API = os.environ["FUZZ_API"]
LOGIN = json.loads(os.environ["FUZZ_LOGIN"])
IDS = json.loads(os.environ["FUZZ_IDS"])
EXAMPLE_PASSWORD = os.environ["FUZZ_EXAMPLE_PASSWORD"]


@schemathesis.hook
def before_load_schema(context, raw_schema):
    """Where the document has an id or a code, take one of those that are there."""
    for path, methods in raw_schema["paths"].items():
        for operation in methods.values():
            for parameter in operation["parameters"]:
                if parameter.get("name") in IDS.get(path, {}):
                    parameter["schema"] = {"enum": IDS[path][parameter["name"]]}
            body = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
            if body:
                give_ids(raw_schema["components"]["schemas"], body["schema"])
    # Each scan is answered by itself: whatever one is, the call is good.
    raw_schema["components"]["schemas"]["NewScans"]["properties"]["scans"]["items"] = {}
    close_answers(raw_schema)


def give_ids(schemas, schema):
    schema = schemas[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
    for name, inner in schema.get("properties", {}).items():
        if name in IDS:
            schema["properties"][name] = {"enum": IDS[name]}
        give_ids(schemas, inner.get("items", {}))


def post(path, body):
    answer = requests.post(f"{API}{path}", json=body, timeout=30)
    answer.raise_for_status()
    return answer.json()


def log_in_to_delete():
    """A log-in to an account of its own, whose password is the document's."""
    account = {"name": "Somebody", "email": f"{secrets.token_hex(8)}@example.com", "password": EXAMPLE_PASSWORD}
    post("/sign-up", account)
    return post("/login", account)


if LOGIN:

    @schemathesis.auth()
    class Token:
        def get(self, case, context):
            return post("/login", LOGIN)

        def set(self, case, login, context):
            if (case.method.upper(), case.path) == ("DELETE", "/me"):
                login = log_in_to_delete()
            elif case.path in ("/logout", "/refresh"):
                login = post("/login", LOGIN)
            kind = "refresh_token" if case.path == "/refresh" else "access_token"
            case.headers["Authorization"] = f"Bearer {login[kind]}"
