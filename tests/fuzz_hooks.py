"""What schemathesis is told by tests/fuzz.py: ids that are there, and to log in anew before it logs out."""

import json
import os

import requests
import schemathesis

API = os.environ["FUZZ_API"]
LOGIN = json.loads(os.environ["FUZZ_LOGIN"])
IDS = json.loads(os.environ["FUZZ_IDS"])


@schemathesis.hook
def before_load_schema(context, raw_schema):
    """Where the document has an id or a code, take one of those that are there."""
    for path, methods in raw_schema["paths"].items():
        for operation in methods.values():
            for parameter in operation["parameters"]:
                if parameter["name"] in IDS.get(path, {}):
                    parameter["schema"] = {"enum": IDS[path][parameter["name"]]}
            body = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
            give_ids(body.get("schema", {}))


def give_ids(schema):
    for name, inner in schema.get("properties", {}).items():
        if name in IDS:
            schema["properties"][name] = {"enum": IDS[name]}
        give_ids(inner.get("items", {}))


def log_in():
    return requests.post(f"{API}/login", json=LOGIN, timeout=30).json()


if LOGIN:

    @schemathesis.auth()
    class Token:
        def get(self, case, context):
            return log_in()

        def set(self, case, login, context):
            login = log_in() if case.path == "/logout" else login
            kind = "refresh_token" if case.path == "/refresh" else "access_token"
            case.headers["Authorization"] = f"Bearer {login[kind]}"
