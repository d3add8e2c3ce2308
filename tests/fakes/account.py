"""What Stripe keeps of an account, what it does with it and what it refuses: the fake's half without a network."""

import json
import re
import secrets
import time
from dataclasses import dataclass
from threading import RLock
from typing import Any
from urllib.parse import parse_qsl

Json = dict[str, Any]
HALF_HOUR, DAY = 1800, 86_400
GOOD, DECLINED = "4242424242424242", "4000000000000002"
REFUND_PENDING, DISPUTED = "4000000000007726", "4000000000000259"
DELAYED = "delayed"  # no card: as a bank transfer, which is paid days later
KINDS = ("checkout.session", "payment_intent", "charge", "refund", "dispute", "event")


class Refusal(Exception):
    """An error as Stripe words it. One that is `kept` is answered again to the same key."""

    def __init__(self, status: int, message: str, *, kept: bool = False, **fields: str) -> None:
        super().__init__(message)
        self.status, self.kept = status, kept
        self.text = json.dumps({"error": {"message": message, "type": "invalid_request_error", **fields}})


@dataclass
class Kept:
    call: tuple[str, Json]
    at: int
    answer: tuple[int, str]


class Account:
    address = ""

    def __init__(self) -> None:
        self.lock = RLock()
        self.objects: dict[str, Json] = {}
        self.live: dict[str, bool] = {}  # the mode of each object
        self.asked: dict[str, Json] = {}  # what each page was made of: its lines are not in Stripe's answers
        self.keys: dict[tuple[bool, str], Kept] = {}
        self.calls: list[str] = []
        self.offset = 0.0
        self.refunds_pending = self.balance_low = False

    def now(self) -> int:
        return int(time.time() + self.offset)

    def notify(self, kind: str, subject: Json) -> Json:
        """Keep what happened, with its subject as it is now."""
        data = {"object": json.loads(json.dumps(subject))}
        return self.add("event", "evt_", self.live[subject["id"]], type=kind, data=data, api_version="2026-10-28")

    # What a buyer does, or who looks after the shop in Stripe's dashboard.

    def pay(self, session: str, card: str = GOOD, **really: Any) -> Json:
        """Press the page's button; `amount` and `currency` say what really comes, if not what was asked for."""
        with self.lock:
            page = self.find(session, "_live_" in session)
            if page["status"] != "open":
                raise Refusal(400, "This page is closed.")
            intent = self.objects.get(page["payment_intent"]) or self.new_intent(page)
            page["payment_intent"] = intent["id"]
            if card == DECLINED:
                intent["last_payment_error"] = {"code": "card_declined", "type": "card_error"}
                self.notify("payment_intent.payment_failed", intent)
                return page
            page |= {"status": "complete", "url": None}
            intent |= {"last_payment_error": None, "status": "processing", **really}
            if card != DELAYED:
                self.charge(page, intent)
            self.notify("checkout.session.completed", page)
            self.refunds_pending = self.refunds_pending or card == REFUND_PENDING
            if card == DISPUTED:
                self.dispute(intent["id"])
            return page

    def finish(self, session: str, paid: bool) -> None:
        """A delayed payment comes, or never will."""
        with self.lock:
            page = self.objects[session]
            intent = self.objects[page["payment_intent"]]
            if paid:
                self.charge(page, intent)
            else:
                intent["status"] = "requires_payment_method"
            self.notify(f"checkout.session.async_payment_{'succeeded' if paid else 'failed'}", page)

    def refund(self, payment_intent: str, amount: int | None = None) -> Json:
        with self.lock:
            given = {"payment_intent": payment_intent} | ({"amount": amount} if amount else {})
            return self.create_refund(given, self.live[payment_intent])

    def settle_refund(self, refund: str, status: str) -> None:
        with self.lock:
            it = self.objects[refund]
            it["status"] = status
            if status == "failed":
                it["failure_reason"] = "lost_or_stolen_card"
                charge = self.objects[it["charge"]]
                charge |= {"amount_refunded": charge["amount_refunded"] - it["amount"], "refunded": False}
                self.notify("refund.failed", it)
            self.notify("refund.updated", it)

    def dispute(self, payment_intent: str, status: str = "needs_response") -> Json:
        with self.lock:
            charge = self.objects[self.objects[payment_intent]["latest_charge"]]
            charge["disputed"] = True
            fields = {name: charge[name] for name in ("amount", "currency", "payment_intent")}
            fields |= {"charge": charge["id"], "status": status, "reason": "general", "metadata": {}}
            fields["is_charge_refundable"] = status.startswith("warning")
            made = self.add("dispute", "dp_", self.live[payment_intent], **fields)
            self.notify("charge.dispute.created", made)
            return made

    def close_dispute(self, dispute: str, status: str) -> None:
        with self.lock:
            self.objects[dispute] |= {"status": status, "is_charge_refundable": status != "lost"}
            self.notify("charge.dispute.closed", self.objects[dispute])

    # The API.

    def answer(self, method: str, path: str, given: Json, key: str, live: bool) -> tuple[int, str]:
        """The status and the body. A key stands for its first call's answer for a day."""
        with self.lock:
            self.calls.append(f"{method} {path}")
            kept = self.keys.get((live, key)) if key else None
            if kept and kept.at > self.now() - DAY:
                if kept.call == (path, given):
                    return kept.answer
                message = "Keys for idempotent requests can only be used with the same parameters."
                return 400, Refusal(400, message, type="idempotency_error").text
            try:
                self.expire_pages()
                answer, keep = (200, json.dumps(self.route(method, path, given, live))), True
            except Refusal as refusal:
                answer, keep = (refusal.status, refusal.text), refusal.kept
            if key and keep:
                self.keys[live, key] = Kept(call=(path, given), at=self.now(), answer=answer)
            return answer

    def route(self, method: str, path: str, given: Json, live: bool) -> Json:
        match method, path.removeprefix("/v1/").split("/"):
            case "POST", ["checkout", "sessions"]:
                return self.create_session(given, live)
            case "POST", ["checkout", "sessions", id, "expire"]:
                return self.expire(self.find(id, live))
            case "POST", ["refunds"]:
                return self.create_refund(given, live)
            case "GET", ["checkout", "sessions", id]:
                page = self.find(id, live)
                intent = self.objects.get(page["payment_intent"]) if given.get("expand") else None
                return page | ({"payment_intent": intent} if intent else {})
            case "GET", ["payment_intents" | "charges" | "refunds", id]:
                return self.find(id, live)
            case "GET", ["refunds" | "disputes" as kind]:
                made = [it for it in self.all(kind[:-1]) if it["payment_intent"] == given["payment_intent"]]
                return self.listed(path, made, given, live)
            case "GET", ["events"]:
                since = int(given["created"]["gte"])
                wanted = [it for it in self.all("event") if it["type"] in given["types"] and it["created"] >= since]
                return self.listed(path, wanted, given, live)
        raise Refusal(404, f"Unrecognized request URL ({method}: {path}).")

    def listed(self, path: str, found: list[Json], given: Json, live: bool) -> Json:
        """Newest first, and at most three, so that whoever reads must turn pages."""
        found = [it for it in reversed(found) if self.live[it["id"]] == live]
        ids = [it["id"] for it in found]
        start = ids.index(given["starting_after"]) + 1 if "starting_after" in given else 0
        return {"object": "list", "url": path, "data": found[start:][:3], "has_more": len(found) > start + 3}

    def all(self, kind: str) -> list[Json]:
        with self.lock:
            return [it for it in self.objects.values() if it["object"] == kind]

    def find(self, id: str, live: bool = False) -> Json:
        if self.live.get(id) != live:
            raise Refusal(404, f"No such object: '{id}'", code="resource_missing", param="id")
        return self.objects[id]

    def add(self, kind: str, prefix: str, live: bool, **fields: Any) -> Json:
        id = prefix + secrets.token_hex(12)
        mode = {} if kind == "refund" else {"livemode": live}
        self.objects[id] = {"id": id, "object": kind, "created": self.now(), **mode, **fields}
        self.live[id] = live
        return self.objects[id]

    def create_session(self, given: Json, live: bool) -> Json:
        prices = [it["price_data"] | {"quantity": it["quantity"]} for it in given["line_items"]]
        total, currency = sum(int(it["quantity"]) * int(it["unit_amount"]) for it in prices), prices[0]["currency"]
        expires_at, email = int(given["expires_at"]), given.get("customer_email")
        if not HALF_HOUR <= expires_at - self.now() <= DAY:
            raise Refusal(400, "`expires_at` must be 30 minutes to 24 hours from now.", param="expires_at")
        if currency in ("irr", "kpw", "mro"):
            raise Refusal(400, f"Invalid currency: {currency}.", param="line_items[0][price_data][currency]")
        if total < 50:
            raise Refusal(400, "The total must be at least 50 cents.", code="amount_too_small")
        if email and not re.fullmatch(r"[!-~]+@[!-~]+\.[!-~]+", email):
            raise Refusal(400, f"Invalid email address: {email}", code="email_invalid", param="customer_email")
        names = ("mode", "payment_method_types", "client_reference_id", "metadata", "success_url", "cancel_url")
        fields = {name: given[name] for name in names}
        fields |= {"amount_subtotal": total, "amount_total": total, "currency": currency, "customer_email": email}
        fields |= {"payment_intent": None, "payment_status": "unpaid", "status": "open", "expires_at": expires_at}
        fields |= {"adaptive_pricing": {"enabled": given["adaptive_pricing"]["enabled"] == "true"}, "customer": None}
        page = self.add("checkout.session", f"cs_{'live' if live else 'test'}_", live, **fields)
        page["url"] = f"{self.address}/pay/{page['id']}"
        self.asked[page["id"]] = given
        return page

    def new_intent(self, page: Json) -> Json:
        fields = {"amount": page["amount_total"], "amount_received": 0, "currency": page["currency"]}
        fields |= {"metadata": self.asked[page["id"]]["payment_intent_data"]["metadata"], "latest_charge": None}
        fields |= {"status": "requires_payment_method", "last_payment_error": None}
        return self.add("payment_intent", "pi_", page["livemode"], **fields)

    def charge(self, page: Json, intent: Json) -> None:
        fields = {name: intent[name] for name in ("amount", "currency", "metadata")}
        fields |= {"payment_intent": intent["id"], "amount_refunded": 0, "refunded": False, "disputed": False}
        charge = self.add("charge", "ch_", intent["livemode"], **fields, paid=True, captured=True, status="succeeded")
        intent |= {"status": "succeeded", "amount_received": intent["amount"], "latest_charge": charge["id"]}
        page["payment_status"] = "paid"
        self.notify("payment_intent.succeeded", intent)
        self.notify("charge.succeeded", charge)

    def expire(self, page: Json) -> Json:
        if page["status"] != "open":
            raise Refusal(400, 'Only Checkout Sessions with a status in ["open"] can be expired.', kept=True)
        page |= {"status": "expired", "url": None}
        self.notify("checkout.session.expired", page)
        return page

    def expire_pages(self) -> None:
        for page in self.all("checkout.session"):
            if page["status"] == "open" and page["expires_at"] <= self.now():
                self.expire(page)

    def create_refund(self, given: Json, live: bool) -> Json:
        charge = self.objects[self.find(given["payment_intent"], live)["latest_charge"]]
        left = charge["amount"] - charge["amount_refunded"]
        amount = int(given.get("amount", left))
        if any(it["charge"] == charge["id"] and not it["is_charge_refundable"] for it in self.all("dispute")):
            raise Refusal(400, "This charge has been charged back.", code="charge_disputed", kept=True)
        if charge["refunded"]:
            raise Refusal(400, "This charge has been refunded.", code="charge_already_refunded", kept=True)
        if amount > left:
            raise Refusal(400, "Refund amount is greater than unrefunded amount.", param="amount", kept=True)
        if self.balance_low:
            raise Refusal(400, "Insufficient funds in your balance.", code="balance_insufficient")
        charge |= {"amount_refunded": charge["amount_refunded"] + amount, "refunded": amount == left}
        fields = {"charge": charge["id"], "payment_intent": charge["payment_intent"], "currency": charge["currency"]}
        fields |= {"metadata": given.get("metadata", {}), "status": "pending" if self.refunds_pending else "succeeded"}
        made = self.add("refund", "re_", live, amount=amount, reason=None, **fields)
        for kind in ("refund.created", "refund.updated"):
            self.notify(kind, made)
        self.notify("charge.refunded", charge)
        return made


def nested(text: str) -> Any:
    """`a[b][0]=c` as `{"a": {"b": ["c"]}}`."""
    root: Json = {}
    for name, value in parse_qsl(text, keep_blank_values=True):
        first, *rest = name.replace("]", "").split("[")
        place, at = root, first
        for step in rest:
            place, at = place.setdefault(at, {}), step
        place[at] = value
    return with_lists(root)


def with_lists(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    if value and all(name.isdecimal() for name in value):
        return [with_lists(it) for it in value.values()]
    return {name: with_lists(it) for name, it in value.items()}
