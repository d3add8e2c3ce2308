"""The names of the schemas in the document, of which code generators make types."""

import json
from typing import Any

from routes.http.parsing import Schema
from routes.http.views import JSON

MODEL = "#/components/schemas/"
PROBLEM = "Problem"  # `Error` would shadow a global of JavaScript

# The bodies that the rule in `body_name` does not name well.
BODIES = {
    "placeOrder": "NewOrder",
    "payOrder": "NewPayment",
    "checkoutOrder": "NewCheckout",
    "refundOrder": "NewRefund",
    "refundEvent": "NewRefundOfAll",
    "appointStaff": "NewAppointment",
    "deleteMe": "CurrentPassword",
    "resetPassword": "NewPassword",
    "waitForTickets": "NewWaitingEntry",
    "sendScans": "NewScans",
    "offerTicket": "NewTransfer",
    "acceptTicket": "TransferAcceptance",
    "requestPasswordReset": "PasswordResetRequest",
    "verifyAddress": "Verification",
}
# What is answered, or an entry of the list that is, where it is no model as it stands.
ANSWERS = {
    "listEvents": "ListedEvent",
    "getAvailability": "Available",
    "copyEvent": "ListedEvent",
    "createEvent": "EventWithTicketTypes",
    "getEvent": "EventWithTicketTypes",
    "updateEvent": "EventWithTicketTypes",
    "listMyEvents": "AppointedEvent",
    "listAttendees": "Attendee",
    "syncDoor": "DoorList",
    "sendScans": "TakenScans",
    "listWaiting": "WaitingEntryWithUser",
    "getPromoCodeOffer": "PromoCodeOffer",
    "refundEvent": "RefundProgress",
    "getSales": "Sales",
    "checkHealth": "Health",
    "checkLiveness": "Health",
    "logIn": "LoggedIn",
    "updateMe": "UpdatedMe",
    "refreshTokens": "Tokens",
    "payOrder": "PaymentWithOrder",
    "refundPayment": "PaymentWithOrder",
    "listPayments": "PaymentWithOrder",
    "checkIn": "CheckedTicket",
    "undoCheckIn": "CheckedTicket",
}


def name_schemas(operation: JSON, schemas: JSON) -> None:
    """Move the schemas of a call's body and answers to `schemas`, and refer to them by their names."""
    id = operation["operationId"]
    for content in operation.get("requestBody", {}).get("content", {}).values():
        content["schema"] = kept(schemas, body_name(id), content["schema"])
    for status, response in operation["responses"].items():
        content = response.get("content", {}).get("application/json")
        if content:
            good = status < "300"
            named = name_answer if good else name_problems
            content["schema"] = named(id if good else f"{id}{status}", content["schema"], schemas)


def body_name(id: str) -> str:
    """What is sent: `NewEvent` to `createEvent`, `EventChanges` to `updateEvent`, `LogIn` to `logIn`."""
    if id.startswith("create"):
        return f"New{id.removeprefix('create')}"
    if id.startswith("update"):
        return f"{id.removeprefix('update')}Changes"
    return BODIES.get(id) or id[0].upper() + id[1:]


def name_answer(id: str, schema: Schema, schemas: JSON) -> Schema:
    if schema.get("type") == "array":
        return schema | {"items": name_answer(id, schema["items"], schemas)}
    if "properties" not in schema:
        return schema
    only_text = list(schema["properties"]) == ["message"]
    return kept(schemas, "Message" if only_text else ANSWERS.get(id) or f"{id[0].upper()}{id[1:]}Answer", schema)


def name_problems(id: str, schema: Schema, schemas: JSON) -> Schema:
    """One schema a reason, told apart by it, so that generators make a union of them."""
    ways = [name_problem(way, schemas) for way in schema.get("anyOf", [schema])]
    ways = [way for place, way in enumerate(ways) if way not in ways[:place]]
    if len(ways) == 1:
        return ways[0]
    reasons = {schemas[name_of(way)]["properties"]["reason"]["const"]: way["$ref"] for way in ways if is_refusal(way)}
    if len(reasons) < len(ways):
        return {"anyOf": ways}
    union = {"oneOf": ways, "discriminator": {"propertyName": "reason", "mapping": reasons}}
    return kept(schemas, f"{id[0].upper()}{id[1:]}{PROBLEM}", union)


def name_problem(schema: Schema, schemas: JSON) -> Schema:
    reason = schema.get("properties", {}).get("reason")
    if reason is None:
        return schema
    name = "".join(word.capitalize() for word in reason["const"].split("_")) + PROBLEM
    schemas[name] = either(schemas.get(name, schema), schema)
    return {"$ref": MODEL + name}


def is_refusal(schema: Schema) -> bool:
    return schema.get("$ref", MODEL + PROBLEM) != MODEL + PROBLEM


def name_of(reference: Schema) -> str:
    return str(reference["$ref"]).removeprefix(MODEL)


def either(one: Schema, other: Schema) -> Schema:
    """What both describe: a field that one of them lacks may be missing."""
    return one | {
        "properties": one["properties"] | other["properties"],
        "required": [name for name in one["required"] if name in other["required"]],
    }


def kept(schemas: JSON, name: str, schema: Schema) -> Schema:
    """A reference to the schema, which no other may share its name with."""
    known: Any = schemas.setdefault(name, schema)
    if json.dumps(known, sort_keys=True) != json.dumps(schema, sort_keys=True):
        raise ValueError(f"There are two schemas of the name {name}")
    return {"$ref": MODEL + name}
