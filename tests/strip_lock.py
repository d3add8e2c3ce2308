"""Take the package index out of Pipfile.lock, which is nobody's business: `pipenv lock` writes it in each time."""

import json
from pathlib import Path

LOCK = Path(__file__).parent.parent / "Pipfile.lock"


def strip(lock):
    lock["_meta"]["sources"] = []
    for section in ("default", "develop"):
        for package in lock[section].values():
            package.pop("index", None)
    return lock


if __name__ == "__main__":
    LOCK.write_text(json.dumps(strip(json.loads(LOCK.read_text())), indent=4) + "\n")
