"""Hold the document against what others make of it: `python -m tests.generators`, which needs `npm` and Java.

Spectral and Redocly find nothing in it but what has a reason here, and what openapi-typescript and OpenAPI Generator
make of it compiles.
"""

import json
import re
import subprocess
import sys

import pytest

from tests.test_openapi import DOCUMENT

NPM = ("openapi-typescript@7.9.1", "typescript@5.9.3", "@stoplight/spectral-cli@6.15.0", "@redocly/cli@2.0.0")
GENERATOR = "openapi-generator-cli==7.26.0"  # PyPI's package has the program whole
TSC = (
    "npx",
    "tsc",
    "--strict",
    "--noEmit",
    "--target",
    "es2022",
    "--module",
    "es2022",
    "--moduleResolution",
    "bundler",
)

# The warnings that stay: the rule, where it warns, and why that is right as it is.
REASONS = {
    ("oas3-operation-security-defined", "#/paths/.*/security/.*"): (
        "In OpenAPI 3.1 any scheme may name the roles that are needed; Spectral's rule is that of 3.0, for OAuth alone"
    ),
    ("info-contact", "#/info"): "Who runs the application is to be asked, and the code does not know them",
    ("info-license", "#/info"): "It has none",
    ("operation-4xx-response", "#/paths/~1health(~1live)?/get/responses"): "Whoever asks for its health is answered",
}

# A refusal is told apart by its reason, so each has the facts of its own.
UNION = """
import type { operations } from "./api";
type Refused = operations["placeOrder"]["responses"][409]["content"]["application/json"];
export const left = (it: Refused): number => (it.reason === "sold_out" ? it.available : 0);
"""


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("generators")
    (made / "openapi.json").write_text(json.dumps(DOCUMENT))
    (made / ".spectral.yaml").write_text('extends: ["spectral:oas"]\n')
    run(made, "npm", "install", "--silent", "--no-audit", "--no-fund", *NPM)
    return made


def run(folder, *command):
    done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout


@pytest.fixture(scope="session")
def findings(folder):
    """What the linters find: pairs of a rule and the place, by JSON pointer."""
    spectral = report(folder, "spectral", "lint", "--format=json", "--quiet")
    redocly = report(folder, "redocly", "lint", "--extends=recommended", "--format=json")["problems"]
    return [(it["code"], pointer(it["path"])) for it in spectral] + [
        (it["ruleId"], it["location"][0]["pointer"]) for it in redocly
    ]


def report(folder, *command):
    """What the linter writes as JSON, whatever it thinks of the document."""
    done = subprocess.run(["npx", *command, "openapi.json"], cwd=folder, capture_output=True, text=True)
    assert done.stdout, done.stderr
    return json.loads(done.stdout)


def pointer(path):
    return "/".join(["#", *(str(part).replace("~", "~0").replace("/", "~1") for part in path)])


def reasons(rule, place):
    return [key for key in REASONS if key[0] == rule and re.fullmatch(key[1], place)]


def test_whatever_linters_find_has_a_reason(findings):
    assert [it for it in findings if not reasons(*it)] == []


def test_every_reason_is_needed(findings):
    assert {key for it in findings for key in reasons(*it)} == set(REASONS)


def test_openapi_typescript_compiles(folder):
    run(folder, "npx", "openapi-typescript", "openapi.json", "-o", "api.ts")
    (folder / "union.ts").write_text(UNION)
    run(folder, *TSC, "api.ts", "union.ts")


def test_typescript_fetch_compiles(folder):
    run(folder, sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", "generator", GENERATOR)
    jar = str(next((folder / "generator").rglob("openapi-generator.jar")))
    run(folder, "java", "-jar", jar, "generate", "-g", "typescript-fetch", "-i", "openapi.json", "-o", "client")
    run(folder, *TSC, "--lib", "es2022,dom", "client/index.ts")


if __name__ == "__main__":
    sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", __file__]))
