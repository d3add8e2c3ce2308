"""The ids of operations, which code generators make function names of: a verb first, then what it is about."""

import re

# Resources named for what they hold: the id follows from the name and the method.
VERBS = {
    ("List", "get"): "list",
    ("List", "post"): "create",
    ("Detail", "get"): "get",
    ("Detail", "patch"): "update",
    ("Detail", "delete"): "delete",
}
# All others but those named for a verb, such as `OrderCancel`.
IDS = {
    ("UserSignup", "post"): "signUp",
    ("LoginResource", "post"): "logIn",
    ("RefreshResource", "post"): "refreshTokens",
    ("LogoutResource", "post"): "logOut",
    ("UserResource", "get"): "listUsers",
    ("MeResource", "get"): "getMe",
    ("MeResource", "patch"): "updateMe",
    ("MeResource", "delete"): "deleteMe",
    ("PasswordReset", "post"): "requestPasswordReset",
    ("PasswordResetConfirm", "post"): "resetPassword",
    ("VerificationRequest", "post"): "requestVerification",
    ("VerificationConfirm", "post"): "verifyAddress",
    ("EventWaiting", "post"): "waitForTickets",
    ("EventWaiting", "get"): "listWaiting",
    ("MyWaitingList", "get"): "listMyWaiting",
    ("WaitingDetail", "delete"): "stopWaiting",
    ("StaffList", "get"): "listStaff",
    ("StaffDetail", "put"): "appointStaff",
    ("StaffDetail", "delete"): "dismissStaff",
    ("AuditList", "get"): "listAudit",
    ("EventAvailability", "get"): "getAvailability",
    ("EventCopies", "post"): "copyEvent",
    ("EventCalendar", "get"): "getEventCalendar",
    ("PromoCodeOffer", "get"): "getPromoCodeOffer",
    ("OrderList", "post"): "placeOrder",
    ("OrderMail", "post"): "mailTickets",
    ("PaymentList", "post"): "payOrder",
    ("ProviderNotice", "post"): "takeNotice",
    ("TicketQR", "get"): "getTicketQR",
    ("TicketTransfer", "post"): "offerTicket",
    ("TicketTransfer", "delete"): "withdrawTicket",
    ("TransferAccept", "post"): "acceptTicket",
    ("DoorList", "get"): "syncDoor",
    ("ScanList", "post"): "sendScans",
    ("TicketCheckIn", "post"): "checkIn",
    ("TicketCheckIn", "delete"): "undoCheckIn",
    ("SalesReport", "get"): "getSales",
    ("PaymentReport", "get"): "listPayments",
    ("HealthResource", "get"): "checkHealth",
    ("HealthLive", "get"): "checkLiveness",
    ("OpenAPIResource", "get"): "getOpenAPI",
    ("Home", "get"): "openHome",
    ("DocsResource", "get"): "openDocs",
    ("DocsFile", "get"): "getDocsFile",
}


def operation_id(resource: str, method: str) -> str:
    """The id of a call, by the name of its resource: `listEvents` for `EventList` and `get`."""
    if (resource, method) in IDS:
        return IDS[resource, method]
    *_, last = re.findall("[A-Z][a-z]*", resource) or [resource]
    noun = resource.removesuffix(last)
    if (last, method) in VERBS:
        return VERBS[last, method] + (plural(noun) if (last, method) == ("List", "get") else noun)
    return last.lower() + noun if method == "post" else method + resource


def plural(noun: str) -> str:
    return f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
