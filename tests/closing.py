"""For tests that would see a field which the document does not name: answers in it are open for new ones."""


def close(node):
    """Let the objects in a part of the document have no other fields than it names, unless it says what they are."""
    if isinstance(node, dict) and isinstance(node.get("properties"), dict):
        node.setdefault("additionalProperties", False)
    for part in node.values() if isinstance(node, dict) else node if isinstance(node, list) else []:
        close(part)


def close_answers(document):
    schemas = document["components"]["schemas"]
    sent = {name for operation in operations(document) for name in names(operation.get("requestBody", {}), schemas)}
    close([schema for name, schema in schemas.items() if name not in sent])
    close([operation["responses"] for operation in operations(document)])


def operations(document):
    return [operation for methods in document["paths"].values() for operation in methods.values()]


def names(node, schemas):
    """The named schemas that a part of the document refers to, themselves or by others."""
    if isinstance(node, dict) and "$ref" in node:
        name = node["$ref"].rpartition("/")[2]
        yield name
        yield from names(schemas.get(name, {}), schemas)
    for part in node.values() if isinstance(node, dict) else node if isinstance(node, list) else []:
        yield from names(part, schemas)
