"""Hold the document against what others make of it: `python -m tests.generators`, which needs `npm` and Java.

Spectral and Redocly find no error in it, and what openapi-typescript and OpenAPI Generator make of it compiles.
"""

import json
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


def test_spectral_finds_no_error(folder):
    run(folder, "npx", "spectral", "lint", "openapi.json", "--fail-severity", "error")


def test_redocly_finds_no_error(folder):
    run(folder, "npx", "redocly", "lint", "--extends", "recommended", "openapi.json")


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
