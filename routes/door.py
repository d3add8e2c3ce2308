"""The door without a network: a list to take along, and what was scanned there."""

from typing import Any
from urllib.parse import urlencode

from flask_jwt_extended import current_user
from flask_restful import Resource

from models import Scan, db
from routes.docs import examples
from routes.docs.answers import answers
from routes.http.access import hide_drafts, roles
from routes.http.paging import page, paged
from routes.http.parsing import (
    Choice,
    Digits,
    EachOf,
    Field,
    Flag,
    Parameter,
    ShownCode,
    Text,
    Time,
    parser,
    reads,
    takes,
)
from routes.http.request import request
from routes.http.views import JSON, Args, Page
from routes.selling.catalogue import event_status
from routes.selling.door import MOST_LISTED, door_list, scan_json, scan_list, take_scan

what_is_new = parser(
    Parameter("since", Digits(0, 2**53 - 1)),
    Parameter("names", Choice("true")),
    Parameter("limit", Digits(1, MOST_LISTED)),
    Parameter("after", Digits(0, 2**31 - 1)),
    Parameter("version", Digits(0, 2**53 - 1)),
)
some_scans = parser(
    Field("device", Text(100), required=True),
    Field(
        "scans",
        EachOf(
            500,
            Field("code", ShownCode(200), required=True),
            Field("nonce", Text(100), required=True),
            Field("at", Time(), nullable=True),
            Field("accepted", Flag(), required=True),
        ),
        required=True,
    ),
)
SCANNED = {"code": examples.CODE, "nonce": "17", "at": examples.STARTS, "accepted": True}


class DoorList(Resource):
    @roles("staff", "admin", "door", "manager")
    @answers(200, examples.DOOR)
    @reads(what_is_new)
    def get(self, args: Args, id: int) -> JSON:
        """Get what a scanner needs without a network: the hash, type and status of each ticket.

        A `hash` is the base64 of the first 12 bytes of the code's SHA-256. With `since`, a `version` from before, only
        what has changed; `gone` are codes that let nobody in any more. While there is a `next`, the list goes on there.
        With `names=true` each ticket has its holder's name as well.
        """
        hide_drafts(id, event_status(id))
        names, since = "names" in args, args.get("since")
        part = {"after": args.get("after", 0), "limit": args.get("limit", MOST_LISTED)}
        listed = door_list(id, since=since, names=names, **part)
        last, version = listed.pop("last"), args.get("version", listed["version"])
        rest = {**request.args, "after": last, "version": version}
        going_on = None if last is None else f"{request.root_path}{request.path}?{urlencode(rest)}"
        return {**listed, "version": version, "next": going_on}


class ScanList(Resource):
    @roles("staff", "admin", "door", "manager")
    @answers(200, examples.TAKEN_SCANS, sends={"device": "Door 1", "scans": [SCANNED]})
    @takes(some_scans)
    def post(self, args: Args, id: int) -> JSON:
        """Send what a device has scanned without a network: each scan is answered by itself, and once.

        A device gives each scan a `nonce`, says whether it let somebody in (`accepted`), and may send it again. Who was
        let in and should not have been is a `conflict`.
        """
        hide_drafts(id, event_status(id))
        return {"results": [self.take(id, args["device"], scan) for scan in args["scans"]]}

    def take(self, id: int, device: str, scan: Args) -> dict[str, Any]:
        if "wrong" in scan:
            return scan_json(Scan(nonce=scan["nonce"], outcome="unknown", conflict=False), error=scan["wrong"])
        result = take_scan(id, device, scan, by=current_user.id)
        db.session.commit()
        return result

    @roles("admin", "manager")
    @answers(200, [examples.SCAN])
    @paged(Parameter("conflict", Choice("true", "false")))
    def get(self, args: Args, id: int) -> Page:
        """List what was scanned at an event, the last first; with `conflict`, who got in and should not have."""
        hide_drafts(id, event_status(id))
        wanted = args.pop("conflict", None)
        scans = scan_list(None if wanted is None else wanted == "true")
        return page(scans, (Scan.id,), {"event_id": id}, descending=True, **args)
